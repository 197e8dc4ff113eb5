"""GlobEnc: which tokens an encoder really used, answered as every Captum method answers.

B batch, L layers, N tokens, D embedding size.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from captum_globenc.attr.base import EncoderAttribution
from captum_globenc.attr.logged import logged
from captum_globenc.attr.position import Position, explained
from captum_globenc.attr.run import Run, finite, finite_scores, run
from captum_globenc.captum_api import TargetType, TensorOrTupleOfTensorsGeneric, format_output
from captum_globenc.decomposition.aggregation import AGGREGATIONS, gather
from captum_globenc.decomposition.mixing import MIXINGS
from captum_globenc.encoders.tokens import spread


class GlobEnc(EncoderAttribution):
    """Global token attribution from the whole encoder (Modarressi et al., NAACL 2022).

    Each encoder layer is decomposed, attention, value vectors, both residual connections and both
    layer normalisations, into what every token passes to every other (the paper's N-Enc, section
    3.2), and that is rolled out over all layers (section 3.4). The score of a token is its share in
    the representation of the token that is explained, the one that the model's head reads.

    Scores are not negative and sum to 1. They tell how much of a token is in the representation, not
    for or against which class it speaks: GlobEnc is not class-specific, `target` chooses what is
    explained only where the output is per token. It is exact, needs no baseline and no gradient, and
    costs one forward pass and a fraction.

    Args:
        forward_func: the forward function, as for every Captum method: a module or any callable that
            runs the model's encoder once.
        model: the module that holds the encoder, the encoder itself, a model with a head or any
            wrapper; not needed where `forward_func` is a module.
        mixing: which norms to take: "W", "W-FixedRes", "W-Res", "N", "N-FixedRes", "N-Res",
            "N-ResLN" or "N-Enc", the paper's names (section 3.3).
        aggregation: how to aggregate over layers: "rollout", or "max-flow" (section 3 of Abnar and Zuidema
            2020), for which see docs/evaluation.md.

    Raises:
        TypeError: `model` is no module.
        ValueError: `mixing` or `aggregation` is not known; no model is given; or the encoder is not
            found, not supported, ambiguous, or out of the reach of hooks.

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
            inputs: token ids `(B, N)` (or `(B, S, N)`, where each of S texts goes through the encoder by
                itself, as those of multiple choice do), embeddings `(B, N, D)`, or what a vision or
                audio encoder reads: pixels `(B, C, H, W)`, samples `(B, T)`, mel features; or a tuple
                of one of these.
            target: which output is explained, as for every Captum method. It is checked, and chooses
                the position where the output is per token, `(B, N, C)` with `(position, class)`;
                otherwise the scores do not depend on it.
            additional_forward_args: further arguments of `forward_func`, after `inputs`: the attention mask,
                where ids hold padding. Padding that no mask covers is warned of.
            position: the token whose representation is explained: an index, or a LongTensor `(B,)` of
                them; or the average of several: a slice, a list of indices for each text, weights
                `(B, N)`, or "mean" for all real tokens. Left out: what `target` says, else what the
                model's head reads; of a bare encoder inside a function or module of your own that
                cannot be known, and has to be said.
            normalize: whether each example's scores sum to 1. Otherwise they have the scale of the
                original implementation, which grows with every layer.

        Returns:
            Scores in the shape of `inputs`, float32, or float64 for a float64 model; exactly 0 at
            padding. The score of a token is spread evenly over what feeds it: an embedding, where
            `.sum(-1)` gives it back, a patch of pixels, a stretch of sound. Class, distillation and
            register tokens have no pixels or samples, so those sum to 1 less the share of these
            tokens, which :meth:`attribute_layers` tells.

        Raises:
            TypeError: token ids given as floats, or an output object where `target` needs a tensor.
            ValueError: `position` is out of range, on padding, of the wrong length, or needed and
                not given; the inputs do not match the encoder's tokens; NaN or infinity in a layer.
            RuntimeError: `forward_func` never ran the encoder, or ran it more than once; the recorded
                attention of a layer does not add up to what it wrote; or tokens are mixed elsewhere than in
                the attention, as by a hook or a convolution.
            OverflowError: `normalize` is False and the scale exceeds the dtype.
            AssertionError, IndexError: `target` has the wrong length or is out of range, as Captum
                raises it.

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
        start = explained(ran, target, position)
        gathered = finite_scores(gather(ran.mixtures, start, self.aggregation, normalize), ran)
        rows = gathered[:, 0].to(ran.inputs.device)
        if len(ran.leading) > 1:
            scores = _laid_out(rows, ran)
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
        """Score every token after each layer: the paper's picture of layers x tokens.

        Args:
            inputs: as for :meth:`attribute`.
            target: as for :meth:`attribute`.
            additional_forward_args: as for :meth:`attribute`.
            position: as for :meth:`attribute`.
            normalize: as for :meth:`attribute`, for each layer.

        Returns:
            `(B, L, N)`, or `(B, S, L, N)` for ids `(B, S, N)`: what `position` has gathered from each
            token after layer 1 to L.

        Raises:
            Exception: as :meth:`attribute` does.
        """
        ran = self._run(inputs, additional_forward_args)
        start = explained(ran, target, position)
        rows = gather(ran.mixtures, start, self.aggregation, normalize, every_depth=True)
        return _laid_out(finite_scores(rows, ran), ran)

    @torch.no_grad()
    def mixing_matrices(
        self,
        inputs: Tensor | tuple[Tensor],
        additional_forward_args: object | None = None,
    ) -> Tensor:
        """Return what every layer passes from every token to every other.

        Args:
            inputs: as for :meth:`attribute`.
            additional_forward_args: as for :meth:`attribute`.

        Returns:
            `(B, L, N, N)`, [receiver, source]: raw norms of the chosen mixing, exactly 0 in the rows
            and columns of padding.

        Raises:
            Exception: as :meth:`attribute` does, as far as it applies.
        """
        ran = self._run(inputs, additional_forward_args)
        matrices = torch.stack([mixture.matrix() for mixture in ran.mixtures], dim=1)
        return _laid_out(finite(matrices, ran.mixtures), ran)

    @torch.no_grad()
    def rollout_matrices(
        self,
        inputs: Tensor | tuple[Tensor],
        additional_forward_args: object | None = None,
        *,
        normalize: bool = True,
    ) -> Tensor:
        """Return what every token has gathered from every other over all layers, from one pass.

        Args:
            inputs: as for :meth:`attribute`.
            additional_forward_args: as for :meth:`attribute`.
            normalize: as for :meth:`attribute`, for each row.

        Returns:
            `(B, N, N)`, [receiver, source]: row i is what :meth:`attribute` gives with `position=i`;
            exactly 0 in the rows and columns of padding.

        Raises:
            Exception: as :meth:`attribute` does, as far as it applies.
        """
        ran = self._run(inputs, additional_forward_args)
        start = torch.diag_embed(ran.real.to(ran.mixtures[0].dtype))
        rows = gather(ran.mixtures, start, self.aggregation, normalize)
        return _laid_out(finite(rows, ran.mixtures), ran)

    def _run(self, inputs: Tensor | tuple[Tensor, ...], additional_forward_args: object | None) -> Run:
        return run(self.forward_func, self.model, inputs, additional_forward_args, self.mixing)


def _check_choice(what: str, choice: str, choices: dict[str, Any]) -> None:
    if choice not in choices:
        raise ValueError(f"{what} {choice!r} is not known; choose from {', '.join(choices)}.")


def _laid_out(values: Tensor, ran: Run) -> Tensor:
    """Lay values of each text `(B, ...)` out as the inputs number the texts, on their device."""
    return values.reshape(*ran.leading, *values.shape[1:]).to(ran.inputs.device)
