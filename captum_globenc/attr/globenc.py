"""GlobEnc: which tokens an encoder used, as a Captum method.

B batch, L layers, N tokens, D embedding size.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from captum_globenc.attr.base import EncoderAttribution, logged
from captum_globenc.attr.position import Position, explained
from captum_globenc.attr.run import Run, finite, finite_scores, run
from captum_globenc.captum_api import TargetType, TensorOrTupleOfTensorsGeneric, format_output
from captum_globenc.decomposition.aggregation import AGGREGATIONS, gather
from captum_globenc.decomposition.mixing import MIXINGS, matrix_of
from captum_globenc.encoders.tokens import spread


class GlobEnc(EncoderAttribution):
    """Global token attribution from the whole encoder (Modarressi et al., NAACL 2022).

    Decomposes each encoder layer (attention, value vectors, both residual connections and both layer
    normalizations) into the vectors that tokens pass to each other, takes their norms (the paper's N-Enc,
    section 3.2), and rolls the matrices out over all layers (section 3.4). The score of a token is its share
    in the representation of the explained token, by default the token that the model's head reads.

    Scores are not negative and sum to 1. They show how much of a token is in the representation, not which
    class it supports: `target` only selects the explained token, for outputs per token. The method needs
    neither a baseline nor gradients, and costs little more than one forward pass.

    Args:
        forward_func: the forward function, as in Captum: a module or any callable that runs the model's
            encoder once.
        model: the module that holds the encoder: the encoder itself, a model with a head or any wrapper.
            Required if `forward_func` is not a module.
        mixing: the token-to-token matrix of a layer: "W", "W-FixedRes", "W-Res", "N", "N-FixedRes", "N-Res",
            "N-ResLN" or "N-Enc", the paper's names (section 3.3).
        aggregation: "rollout", or "max-flow" (section 3 of Abnar and Zuidema 2020; see docs/evaluation.md).

    Raises:
        TypeError: `model` is not a module.
        ValueError: `mixing` or `aggregation` is unknown; there is no model; or it has no supported encoder,
            several encoders, or one that hooks do not reach.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from captum_globenc import EncoderForward
        >>> config = BertConfig(
        ...     vocab_size=30, hidden_size=8, num_attention_heads=2, num_hidden_layers=2,
        ...     intermediate_size=8,
        ... )
        >>> model = BertForSequenceClassification(config).eval()
        >>> globenc = GlobEnc(EncoderForward(model))
        >>> scores = globenc.attribute(torch.tensor([[2, 5, 7, 3]]), target=1)
        >>> scores.shape, round(scores.sum().item(), 4)
        (torch.Size([1, 4]), 1.0)
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        model: nn.Module | None = None,
        *,
        mixing: str = "N-Enc",
        aggregation: str = "rollout",
    ) -> None:
        super().__init__(forward_func, model)
        _check_choice("mixing", mixing, MIXINGS)
        _check_choice("aggregation", aggregation, AGGREGATIONS)
        self.mixing = mixing
        self.aggregation = aggregation

    @logged
    @torch.no_grad()
    def attribute(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        target: TargetType = None,
        additional_forward_args: object | None = None,
        *,
        position: Position | None = None,
        normalize: bool = True,
    ) -> TensorOrTupleOfTensorsGeneric:
        """Score every token of the inputs.

        Args:
            inputs: token ids `(B, N)`; ids `(B, S, N)` of S texts per example that run through the encoder
                separately, as in multiple choice; embeddings `(B, N, D)`; pixels `(B, C, H, W)`, samples
                `(B, T)` or mel features of a vision or audio encoder; or a tuple of one of these.
            target: the index of the explained output, as in Captum. For outputs per token, `(B, N, C)`,
                `(position, class)` selects the explained token; otherwise scores do not depend on it.
            additional_forward_args: further arguments of `forward_func`, after `inputs`: the attention mask,
                if ids contain padding. Padding without a mask gives a warning.
            position: the explained token: an index, or a LongTensor `(B,)`; or the average of several tokens:
                a slice, a list of indices for each text, weights `(B, N)`, or "mean" for all real tokens. By
                default the position in `target`, else the token that the model's head reads. Required for a
                bare encoder inside a function or module of your own.
            normalize: whether each example's scores sum to 1. If False, they have the scale of the
                original implementation, which grows with every layer.

        Returns:
            Scores in the shape of `inputs`, float32, or float64 for a float64 model; exactly 0 at padding.
            The score of a token is distributed evenly over the elements it is computed from: an embedding
            (`.sum(-1)` restores the score), a patch of pixels, a window of samples. Class, distillation and
            register tokens have no pixels or samples, so scores of pixels and samples sum to 1 minus the
            share of these tokens, which :meth:`attribute_layers` returns.

        Raises:
            TypeError: token ids are floats, or the output is not a tensor and `target` is given.
            ValueError: `position` is out of range, on padding, of the wrong length, or required and missing;
                the inputs do not match the encoder's tokens; or a layer is NaN or infinite.
            RuntimeError: `forward_func` did not run the encoder exactly once; the decomposition of a layer
                does not sum to the attention's output; or tokens are mixed outside of the attention, for
                example by a hook or a convolution.
            OverflowError: `normalize` is False and the scale exceeds the dtype.
            AssertionError, IndexError: `target` has the wrong length or is out of range.

        Example:
            >>> from transformers import ElectraConfig, ElectraModel
            >>> config = ElectraConfig(
            ...     vocab_size=30, hidden_size=8, embedding_size=4, num_attention_heads=2,
            ...     num_hidden_layers=2, intermediate_size=8,
            ... )
            >>> globenc = GlobEnc(ElectraModel(config).eval())
            >>> globenc.attribute(torch.tensor([[2, 5, 7, 3]]), position="mean").shape
            torch.Size([1, 4])
        """
        ran = self._run(inputs, additional_forward_args)
        start, failure = explained(ran, target, position)
        gathered = finite_scores(gather(ran.mixtures, start, self.aggregation, normalize), ran, failure)
        rows = gathered[:, 0].to(ran.inputs.device)
        if len(ran.leading) > 1:
            scores = _by_text(rows, ran)
        else:
            scores = spread(rows, ran.inputs.shape, ran.grid, ran.real.to(rows.device))
        return cast(TensorOrTupleOfTensorsGeneric, format_output(inputs, (scores,)))

    @torch.no_grad()
    def attribute_layers(
        self,
        inputs: Tensor | tuple[Tensor],
        target: TargetType = None,
        additional_forward_args: object | None = None,
        *,
        position: Position | None = None,
        normalize: bool = True,
    ) -> Tensor:
        """Score every token after each layer, as in the paper's figures of layers and tokens.

        Args:
            inputs: token ids, embeddings, pixels, samples or mel features; see :meth:`attribute`.
            target: the index of the explained output, as in Captum.
            additional_forward_args: further arguments of `forward_func`, such as the attention mask.
            position: the explained token or tokens; see :meth:`attribute`.
            normalize: whether the scores of each example and layer sum to 1.

        Returns:
            `(B, L, N)`, or `(B, S, L, N)` for ids `(B, S, N)`: the scores of tokens for `position` after
            layer 1 to L.

        Raises:
            Exception: raised by :meth:`attribute`.
        """
        ran = self._run(inputs, additional_forward_args)
        start, failure = explained(ran, target, position)
        rows = gather(ran.mixtures, start, self.aggregation, normalize, every_depth=True)
        return _by_text(finite_scores(rows, ran, failure), ran)

    @torch.no_grad()
    def mixing_matrices(
        self,
        inputs: Tensor | tuple[Tensor],
        additional_forward_args: object | None = None,
    ) -> Tensor:
        """Return the token-to-token matrix of every layer.

        Args:
            inputs: token ids, embeddings, pixels, samples or mel features; see :meth:`attribute`.
            additional_forward_args: further arguments of `forward_func`, such as the attention mask.

        Returns:
            `(B, L, N, N)`, [receiver, source]: the values of `mixing`, not normalized; exactly 0 in the rows
            and columns of padding.

        Raises:
            Exception: raised by :meth:`attribute`.
        """
        ran = self._run(inputs, additional_forward_args)
        matrices = torch.stack([matrix_of(it) for it in ran.mixtures], dim=1)
        return _by_text(finite(matrices, ran.mixtures), ran)

    @torch.no_grad()
    def rollout_matrices(
        self,
        inputs: Tensor | tuple[Tensor],
        additional_forward_args: object | None = None,
        *,
        normalize: bool = True,
    ) -> Tensor:
        """Return the scores of all tokens for every token, from one pass.

        Args:
            inputs: token ids, embeddings, pixels, samples or mel features; see :meth:`attribute`.
            additional_forward_args: further arguments of `forward_func`, such as the attention mask.
            normalize: whether each row sums to 1.

        Returns:
            `(B, N, N)`, [receiver, source]: row i holds the scores of :meth:`attribute` with `position=i`;
            exactly 0 in the rows and columns of padding.

        Raises:
            Exception: raised by :meth:`attribute`.
        """
        ran = self._run(inputs, additional_forward_args)
        start = torch.diag_embed(ran.real.to(ran.mixtures[0].dtype))
        rows = gather(ran.mixtures, start, self.aggregation, normalize)
        return _by_text(finite(rows, ran.mixtures), ran)

    def _run(self, inputs: Tensor | tuple[Tensor, ...], additional_forward_args: object | None) -> Run:
        return run(self.forward_func, self.model, inputs, additional_forward_args, self.mixing)


def _check_choice(what: str, choice: str, choices: dict[str, Any]) -> None:
    if choice not in choices:
        raise ValueError(f"{what} {choice!r} is unknown; choose from {', '.join(choices)}.")


def _by_text(values: Tensor, ran: Run) -> Tensor:
    """Reshape values `(B, ...)` to the leading dimensions of the inputs, on their device."""
    return values.reshape(*ran.leading, *values.shape[1:]).to(ran.inputs.device)
