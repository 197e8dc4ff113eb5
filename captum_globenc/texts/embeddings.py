"""Replace the word embeddings of a model that reads ids.

Shapes: B texts, N tokens, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from threading import get_ident
from typing import Any, cast

import torch
from torch import Tensor, nn

from captum_globenc.forward import Wrapper
from captum_globenc.recording.passed import reference

__all__ = ["OnEmbeddings", "knows_padding"]

TABLE_ROWS_AT_ONCE = 4096
"""Word embeddings that are averaged at once, which bounds the memory."""


def knows_padding(model: nn.Module) -> bool:
    """Return whether the config of a model names a padding token; other models take one text at a time."""
    return getattr(getattr(model, "config", None), "pad_token_id", None) is not None


class OnEmbeddings(Wrapper):
    """A forward function of word embeddings `(B, N, D)`, for a model that reads ids.

    Some models need the ids: decoders find the last token by them, some encoders the position ids. They
    compute something else from `inputs_embeds`. Here the model reads the ids, and a hook replaces the output
    of its embedding layer. Embeddings may have any precision, such as interpolated ones.

    Args:
        forward_func: a forward function of ids `(B, N)` and further arguments.
        model: the model that it runs.

    Raises:
        ValueError: the model has no word embeddings.

    Example:
        >>> from captum_globenc.forward import EncoderForward
        >>> from captum_globenc.texts.default import load_default
        >>> model, tokenizer = load_default()
        >>> forward, ids = EncoderForward(model), tokenizer("Dull.", return_tensors="pt")["input_ids"]
        >>> over = OnEmbeddings(forward, model)
        >>> torch.allclose(over(over.embed(ids), ids), forward(ids))
        True
    """

    def __init__(self, forward_func: Callable[..., Tensor], model: nn.Module) -> None:
        super().__init__()
        self.forward_func = forward_func
        # In a tuple, so that the model is not registered as a submodule twice.
        self._model = (model,)
        try:
            layer = cast("Any", model).get_input_embeddings()
        except (AttributeError, NotImplementedError):
            layer = None
        if not isinstance(layer, nn.Module):
            raise ValueError(f"no word embeddings are found in {type(model).__name__}")
        # With shared embeddings, the model may call another module with the same weights.
        weight = getattr(layer, "weight", None)
        others = [it for it in model.modules() if isinstance(it, nn.Embedding) and it.weight is weight]
        self._layers = list(dict.fromkeys([layer, *others]))

    @property
    def settings(self) -> Any:
        """The layers whose output is replaced."""
        return list(map(reference, self._layers))

    @property
    def model(self) -> nn.Module:
        """The model that `forward_func` runs."""
        return self._model[0]

    def embed(self, ids: Tensor) -> Tensor:
        """Return the word embeddings `(B, N, D)` of ids `(B, N)`, without a gradient."""
        with torch.no_grad():
            return cast("Tensor", self._layers[0](ids))

    @cached_property
    def mean(self) -> Tensor:
        """The mean embedding `(D,)` of the vocabulary, a baseline for models without a mask token.

        Raises:
            ValueError: the model has no embedding matrix.
        """
        weight = getattr(self._layers[0], "weight", None)
        if not isinstance(weight, Tensor) or weight.dim() != 2:
            raise ValueError(
                f"{type(self.model).__name__} has no table of word embeddings to average: choose another "
                "baseline than mean"
            )
        # The layer itself is called: it may be offloaded, and Gemma's scales the embeddings.
        ids = torch.arange(len(weight), device="cpu" if weight.is_meta else weight.device)
        sums = []
        for some in torch.split(ids, TABLE_ROWS_AT_ONCE):
            rows = self.embed(some)
            sums.append(rows.sum(0, dtype=torch.promote_types(rows.dtype, torch.float32)))
        return torch.stack(sums).sum(0) / len(weight)

    def forward(self, embeddings: Tensor, ids: Tensor, *arguments: Any) -> Tensor:
        """Run the forward function.

        Args:
            embeddings: `(B, N, D)`, which replace the word embeddings of the ids.
            ids: `(B, N)`, which the model reads.
            arguments: the further arguments of the forward function.

        Raises:
            ValueError: the model does not look the ids up exactly once, or looks up other ids as well.
        """
        thread, looked_up = get_ident(), 0

        def replace(
            layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
        ) -> Tensor | None:
            nonlocal looked_up
            if get_ident() != thread:  # a pass of the same model in another thread
                return None
            (found,) = (*args, *kwargs.values())
            length = ids.shape[1]
            # Models with windowed attention may add padding; XLNet transposes ids to (N, B).
            in_rows = found.dim() == 2 and torch.equal(found[:, :length], ids)
            in_columns = not in_rows and torch.equal(found, ids.T)
            if not (in_rows or in_columns) and any(
                isinstance(it, Tensor) and it.dtype == found.dtype and torch.equal(it, found)
                for it in arguments
            ):
                return None  # GPT-2's token type ids use the same embeddings
            padding = getattr(layer, "padding_idx", None)
            if not (in_rows or in_columns) and padding is not None and bool((found == padding).all()):
                return None  # LED looks its padding up by itself
            looked_up += 1
            if in_rows:
                return torch.cat([embeddings.to(output.dtype), output[:, length:]], dim=1)
            if in_columns:
                return embeddings.to(output.dtype).transpose(0, 1)
            raise ValueError(
                "the model embeds other ids than the text's, like a decoder that reads the text again, so "
                "its word embeddings cannot be replaced: use transformer-deep-lift with baseline mask or pad"
            )

        handles = [layer.register_forward_hook(replace, with_kwargs=True) for layer in self._layers]
        try:
            output = self.forward_func(ids, *arguments)
        finally:
            for handle in handles:
                handle.remove()
        if looked_up != 1:
            raise ValueError(
                f"the model embedded the ids of the text {looked_up} times, not once, so its word embeddings "
                "cannot be replaced"
            )
        return output
