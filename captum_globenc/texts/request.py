"""The request to attribution methods: the texts, the explained outputs, and the baseline.

Shapes: R rows (texts or windows of texts), A explained outputs, N tokens, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from captum_globenc.attr.decompx import DecompX
from captum_globenc.attr.deep_lift import TransformerDeepLift, scales_by_masks
from captum_globenc.attr.globenc import GlobEnc
from captum_globenc.forward import EncoderForward, special_tokens
from captum_globenc.texts.embeddings import OnEmbeddings, knows_padding

__all__ = ["BASELINES", "AttributionRequest", "Explainer", "in_parts", "resolve_baseline", "run_batch"]

BASELINES = ("mask", "mean", "pad", "zero")
"""Names of baselines, which replace all tokens of a text except special tokens.

"mask" is the mask token, or the mean word embedding if there is none; "mean" the mean word embedding; "pad"
the padding token; "zero" a word embedding of zeros.
"""

NO_WORD = -1
"""The id in baselines for an embedding that belongs to no token: the mean word embedding or zeros."""

EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
"""Fields of configs of transformers with the number of experts."""

TOKENS_AT_ONCE = 1024
"""Tokens per backward pass, which bounds the memory."""


@dataclass(frozen=True)
class Explainer:
    """A model to explain, independent of texts, with the Captum objects of the methods, each created once.

    Attributes:
        model: The model.
        tokenizer: The model's tokenizer.
        forward: The model as a forward function of ids.
        outputs: A forward function of ids, the other arguments of `forward`, and `selected` of a request,
            which returns the explained outputs `(A,)`.
        baseline: A name of `BASELINES`; see `resolve_baseline`.
        mixing: GlobEnc's mixing matrix.
        seed: The seed of methods with random numbers.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    forward: EncoderForward
    outputs: nn.Module
    baseline: str = "mask"
    mixing: str = "N-Enc"
    seed: int = 0

    @cached_property
    def over_embeddings(self) -> OnEmbeddings:
        """The outputs, as a forward function of word embeddings `(A, N, D)` and the ids."""
        return OnEmbeddings(self.outputs, self.model)

    @cached_property
    def used_baseline(self) -> str:
        """The name of the baseline that is used; see `resolve_baseline`."""
        return resolve_baseline(self.baseline, self.model, self.tokenizer)

    @property
    def by_ids(self) -> bool:
        """Whether methods replace ids; otherwise they replace word embeddings, and the model reads the ids.

        Padding ids inside a text would end it early for models that find the last token by its id.
        """
        used = self.used_baseline
        return used == "mask" or (used == "pad" and _reads_again(self.model))

    @property
    def blank(self) -> int:
        """The id that replaces tokens in baselines: the mask or padding token, or `NO_WORD`.

        Raises:
            ValueError: The tokenizer has no padding token.
        """
        used = self.used_baseline
        if used in ("mean", "zero"):
            return NO_WORD
        found = self.tokenizer.mask_token_id if used == "mask" else self.tokenizer.pad_token_id
        if found is None:
            raise ValueError(f"the tokenizer has no padding token: choose another baseline, {_others('pad')}")
        return int(found)

    def embed(self, ids: Tensor) -> Tensor:
        """Return the word embeddings `(A, N, D)` of ids `(A, N)`, which may include `NO_WORD`."""
        over = self.over_embeddings
        if self.used_baseline not in ("mean", "zero"):
            return over.embed(ids)
        none = ids == NO_WORD
        found = over.embed(ids.masked_fill(none, 0))
        vector = over.mean.to(found) if self.used_baseline == "mean" else found.new_zeros(())
        return torch.where(none[..., None], vector, found)

    @cached_property
    def blanked(self) -> nn.Module:
        """The outputs, for methods that replace ids by `blank`.

        The further arguments are `AttributionRequest.beside`.
        """
        return self.outputs if self.by_ids else _Blanked(self)

    def globenc(self, mixing: str | None = None, aggregation: str = "rollout") -> GlobEnc:
        """Return GlobEnc with a mixing matrix, by default `mixing`; cached, because it checks the model."""
        key = (mixing or self.mixing, aggregation)
        if key not in self._globencs:
            self._globencs[key] = GlobEnc(self.forward, mixing=key[0], aggregation=aggregation)
        return self._globencs[key]

    @cached_property
    def _globencs(self) -> dict[tuple[str, str], GlobEnc]:
        return {}

    @cached_property
    def exact_differences(self) -> TransformerDeepLift:
        """Exact differences; cached, because they check each operation once.

        For mixtures of experts, the baseline follows the router decisions of the text.
        """
        return TransformerDeepLift(
            self.outputs if self.by_ids else self.over_embeddings,
            decisions="follow" if has_experts(self.model) else "same",
        )

    @cached_property
    def decompx(self) -> DecompX:
        """DecompX of the outputs."""
        return DecompX(self.outputs)


@dataclass(frozen=True)
class AttributionRequest:
    """One batch for all methods: the texts and the explained outputs.

    Attributes:
        of: The model and its methods.
        batch: R tokenized texts, with `special_tokens_mask`.
        rows: `(A,)`, the row of each explained output.
        selected: Tensors `(A, ...)` that select the explained outputs.
        position: The tokens that GlobEnc explains: indices `(A,)`, weights `(A, N)`, "mean", or None for the
            tokens that the model's head pools.
        together: Whether all rows run in one pass, because the batch is small already.
    """

    of: Explainer
    batch: Mapping[str, Tensor]
    rows: Tensor
    selected: tuple[Tensor, ...] = ()
    position: Tensor | Literal["mean"] | None = None
    together: bool = False

    @cached_property
    def each(self) -> Mapping[str, Tensor]:
        """The batch with one text per explained output, A texts."""
        return {name: values[self.rows] for name, values in self.batch.items()}

    @property
    def inputs(self) -> Tensor:
        """The ids `(A, N)`."""
        return self.of.forward.arguments(self.each)[0]

    @property
    def extra(self) -> tuple[Any, ...]:
        """The other arguments of `Explainer.outputs`."""
        return (*self.of.forward.arguments(self.each)[1], *self.selected)

    @property
    def beside(self) -> tuple[Any, ...]:
        """The arguments of `Explainer.blanked` after the ids."""
        return self.extra if self.of.by_ids else (self.inputs, *self.extra)

    @cached_property
    def special(self) -> Tensor:
        """`(A, N)`, True at special tokens and padding."""
        return special_tokens(self.each, self.of.tokenizer)

    @property
    def kept(self) -> Tensor:
        """`(A, N)`, True at tokens that baselines keep: `special`, and mask tokens of the text."""
        mask = self.of.tokenizer.mask_token_id
        return self.special if mask is None else self.special | (self.inputs == mask)

    @property
    def baselines(self) -> Tensor:
        """The baselines as ids `(A, N)`, which may include `NO_WORD`.

        Raises:
            ValueError: The tokenizer has no padding token.
        """
        return self.inputs.masked_fill(~self.kept, self.of.blank)

    def run(self, method: Callable[..., Tensor], *tensors: Tensor | None) -> Tensor:
        """Run a method, in one pass or in parts; see `in_parts`."""
        return method(*tensors) if self.together else in_parts(method, self.of.model, *tensors)

    def singles(self) -> Iterator[AttributionRequest]:
        """Yield a request for each explained output, with its padding."""
        for number in range(len(self.rows)):
            one = slice(number, number + 1)
            position = self.position[one] if isinstance(self.position, Tensor) else self.position
            yield replace(
                self, rows=self.rows[one], selected=tuple(it[one] for it in self.selected), position=position
            )


class _Blanked(nn.Module):
    """The outputs as a function of ids to embed, which may include `NO_WORD`, and of ids to read."""

    def __init__(self, of: Explainer) -> None:
        super().__init__()
        self.of, self.over = of, of.over_embeddings

    def forward(self, blanked: Tensor, ids: Tensor, *arguments: Any) -> Tensor:
        """Run the model."""
        return cast("Tensor", self.over(self.of.embed(blanked), ids, *arguments))


def in_parts(run: Callable[..., Tensor], model: nn.Module, *tensors: Tensor | None) -> Tensor:
    """Run a function on a few rows at a time, because a backward pass keeps the activations of all rows.

    Args:
        run: A function from tensors to a tensor, all `(A, ...)`.
        model: The model that it runs. Models without a padding token take one row at a time.
        tensors: The arguments: the first `(A, N, ...)`, others `(A, ...)` or None.
    """
    first = cast("Tensor", tensors[0])
    pads = knows_padding(model)
    rows = max(1, TOKENS_AT_ONCE // first.shape[1]) if pads else 1
    parts = [slice(start, start + rows) for start in range(0, len(first), rows)]
    return torch.cat([run(*(it if it is None else it[part] for it in tensors)) for part in parts])


def run_batch(
    forward: EncoderForward, model: nn.Module, batch: Mapping[str, Tensor], *, together: bool = False
) -> Tensor:
    """Return the outputs `(R, ...)` of a tokenized batch, without a gradient.

    Args:
        forward: The forward function.
        model: The model that it runs.
        batch: R tokenized texts.
        together: Whether all rows run in one pass; by default they run in parts, see `in_parts`.

    Raises:
        ValueError: An output is NaN or infinite.
    """
    inputs, extra = forward.arguments(batch)
    with torch.no_grad():
        outputs = forward(inputs, *extra) if together else in_parts(forward, model, inputs, *extra)
    if not bool(outputs.isfinite().all()):
        raise ValueError("the model's output is NaN or infinite")
    return cast("Tensor", outputs)


def resolve_baseline(baseline: str, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the name of the baseline that is used: another one for models that cannot use "mask".

    - Without a mask token it is "mean". Zero is a singular point of norms without a bias, and the embedding
      of padding is often zero; docs/differences.md has measurements.
    - For classifiers whose decoder reads the text again it is "pad", because they take ids only.
    - For ESM-2 (`token_dropout`) it is "zero". The model replaces embeddings of mask tokens by zeros and
      scales all others by the share of mask tokens among the ids. That scale belongs to no token, so only
      the embeddings are replaced, and the scale of the text is kept.
    """
    if baseline != "mask":
        return baseline
    if scales_by_masks(model):
        return "zero"
    if tokenizer.mask_token_id is not None:
        return "mask"
    return "pad" if _reads_again(model) and tokenizer.pad_token_id is not None else "mean"


def _reads_again(model: Any) -> bool:
    """Return whether the decoder of an encoder-decoder reads the text again, as in classifiers."""
    config, can_generate = getattr(model, "config", None), getattr(model, "can_generate", None)
    if not getattr(config, "is_encoder_decoder", False) or can_generate is None or can_generate():
        return False
    return any(name.rpartition(".")[2] == "decoder" for name, _ in model.named_modules())


def has_experts(model: nn.Module) -> bool:
    """Return whether the config of a model of transformers has a mixture of experts.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> config = LlamaConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> has_experts(LlamaForCausalLM(config))
        False
    """
    config = getattr(model, "config", None)
    config = getattr(config, "text_config", None) or config
    counts = (getattr(config, name, None) for name in EXPERTS)
    return any(isinstance(count, int) and count > 1 for count in counts)


def _others(baseline: str) -> str:
    *names, last = [name for name in BASELINES if name != baseline]
    return f"{', '.join(names)} or {last}"
