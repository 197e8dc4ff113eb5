"""DecompX: what reaches an output from each token through a frozen encoder, from one backward pass.

B batch, C classes, N tokens, D embedding size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from captum_globenc.attr.base import EncoderAttribution
from captum_globenc.attr.logged import logged
from captum_globenc.attr.padded import MaskWatch
from captum_globenc.attr.proof import Proof, run_plainly
from captum_globenc.attr.run import grid_on, single_tensor
from captum_globenc.attr.selected import selected
from captum_globenc.captum_api import (
    TargetType,
    TensorOrTupleOfTensorsGeneric,
    format_output,
    run_forward,
)
from captum_globenc.decomposition.attention import QueryKeyAttention
from captum_globenc.differences import Comparison, RandomNumbers, freeze
from captum_globenc.differences.call import copied
from captum_globenc.differences.trace import Snapshot
from captum_globenc.encoders import find_encoder
from captum_globenc.encoders.search import Encoder
from captum_globenc.encoders.tokens import Grid, spread
from captum_globenc.recording.attention import observable_attention
from captum_globenc.recording.dropout import warn_of_dropout
from captum_globenc.recording.hooks import bound_arguments, in_this_thread

__all__ = ["DecompX", "value_map"]

VALUES = ("value", "value_proj", "v_proj", "v_lin", "v")
"""What the families call the linear map to the value vectors, and, of all three at once:"""
FUSED = ("Wqkv", "qkv_proj", "qkv")


class DecompX(EncoderAttribution):
    """Decomposition of an output over the tokens of the first layer (Modarressi et al., ACL 2023).

    The vector of each token is passed through all layers and the head: attention and the deviations of
    norms as they were, activations by their slope phi(u) / u (section 3). The paper's variant without
    biases: that network is linear, so one backward pass gives what its authors' code computes with a vector
    for every pair of tokens, but for one thing that is done as there: value vectors of the first layer
    keep their biases. Sharing out all biases by absolute dot products needs the vectors, and is left
    out: so scores do not add up to the output (`TransformerDeepLift`'s do). A product of two values that
    depend on the input, such as a gate, which the paper does not have, gives half to each.

    Args:
        forward_func: the forward function, as for every Captum method; it runs the encoder once.
        model: the module that holds the encoder; not needed where `forward_func` is a module.

    Raises:
        TypeError: `model` is no module.
        ValueError: no model is given, or the encoder is not found or supported.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from captum_globenc import EncoderForward
        >>> config = BertConfig(
        ...     vocab_size=30, hidden_size=8, num_attention_heads=2, num_hidden_layers=2,
        ...     intermediate_size=8,
        ... )
        >>> model = BertForSequenceClassification(config).eval()
        >>> DecompX(EncoderForward(model)).attribute(torch.tensor([[2, 5, 7, 3]]), target=1).shape
        torch.Size([1, 4])
    """

    def __init__(self, forward_func: Callable[..., Any], model: nn.Module | None = None) -> None:
        super().__init__(forward_func, model)
        self._proof = Proof()

    @logged
    def attribute(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        target: TargetType = None,
        additional_forward_args: object | None = None,
    ) -> TensorOrTupleOfTensorsGeneric:
        """Score every token for an output.

        Args:
            inputs: token ids `(B, N)`, embeddings `(B, N, D)`, or pixels `(B, C, H, W)`; or a tuple of one.
            target: the output that is explained, as for every Captum method.
            additional_forward_args: further arguments of `forward_func`, after `inputs`: the attention mask,
                where ids hold padding. Padding that no mask covers is warned of.

        Returns:
            Signed scores in the shape of `inputs`; a token's is spread evenly over what feeds it. Exactly 0
            at padding.

        Raises:
            TypeError: token ids given as floats, or the output is no tensor.
            ValueError: an operation has no rule, the biases of the values are not found, the inputs do not
                match the encoder's tokens, the output is a probability, which is held as it is, or scores are
                not finite.
            RuntimeError: `forward_func` never ran the encoder, or ran it more than once, or its output under
                watch is not its own.
            AssertionError, IndexError: `target` has the wrong length or is out of range, as Captum
                raises it.
        """
        (scores,), tensor, grid, real = self._scored(
            inputs, additional_forward_args, lambda output: [selected(output, target)]
        )
        laid = spread(scores, tensor.shape, grid, real)
        return cast(TensorOrTupleOfTensorsGeneric, format_output(inputs, (laid,)))

    def attribute_classes(
        self, inputs: TensorOrTupleOfTensorsGeneric, additional_forward_args: object | None = None
    ) -> Tensor:
        """Score every token for every class, from one run and a backward pass for each.

        Args:
            inputs: as for :meth:`attribute`.
            additional_forward_args: as for :meth:`attribute`.

        Returns:
            `(B, C, N)`, N the tokens of the encoder.

        Raises:
            Exception: as :meth:`attribute` does; ValueError where the output is not `(B, C)`.
        """

        def classes(output: Tensor) -> list[Tensor]:
            if output.dim() != 2:
                raise ValueError(f"the output is {tuple(output.shape)}, not (B, C): it has no classes")
            return [selected(output, number) for number in range(output.shape[1])]

        scores, *_ = self._scored(inputs, additional_forward_args, classes)
        return torch.stack(list(scores), dim=1)

    def _scored(
        self, inputs: Any, arguments: object | None, choose: Callable[[Tensor], Sequence[Tensor]]
    ) -> tuple[Sequence[Tensor], Tensor, Grid | None, Tensor]:
        """Score the tokens `(B, N)` for each chosen output.

        Returns:
            The scores, one tensor per output; the input tensor; the grid of the tokens on it; and which
            tokens are real, `(B, N)`, False at padding.
        """
        encoder = find_encoder(self.model)
        warn_of_dropout(encoder.stack)
        tensor = single_tensor(inputs, encoder)
        first = _First(encoder)

        def function(*tensors: Tensor) -> Any:
            return run_forward(self.forward_func, tensors, copied(arguments))

        def watched(*tensors: Tensor) -> Any:
            with first.watched():
                output = function(*tensors)
            first.check()
            return output

        numbers = RandomNumbers([tensor])
        masks = MaskWatch(self.model, [tensor])
        with observable_attention(self.model, self):
            with masks.watched():
                run = freeze(watched, [tensor.detach()])
            self._proof.check(run, lambda: run_plainly(function, [tensor], numbers), self.model)
        masks.warn()
        grid = grid_on(tensor, encoder, first.real)
        scores = [first.scores(run, output) for output in choose(run.output)]
        if not bool(torch.stack(scores).isfinite().all()):
            raise ValueError(
                "scores are NaN or infinite: look at the model's weights, inputs and hidden states"
            )
        return scores, tensor, grid, first.real

    @property
    def multiplies_by_inputs(self) -> bool:
        """True: scores are multipliers times what enters the first layer."""
        return True


def value_map(attention: nn.Module) -> tuple[nn.Module, bool]:
    """Return what makes the value vectors, and whether it makes queries, keys and values at once.

    Args:
        attention: of a layer.

    Raises:
        ValueError: it is not known.
    """
    named = {name.rpartition(".")[2]: module for name, module in attention.named_modules()}
    known = [name for name in (*VALUES, *FUSED) if name in named]
    if not known:
        raise ValueError(f"it is not known what makes the value vectors of a {type(attention).__name__}")
    return named[known[0]], known[0] in FUSED


class _First:
    """The first layer's input, and its value vectors with the biases that they keep.

    Args:
        encoder: the encoder.

    Raises:
        ValueError: it is not known what makes the value vectors.
    """

    def __init__(self, encoder: Encoder) -> None:
        layer = encoder.layers[0]
        self._stack = encoder.stack
        self._layer = layer.module
        self._runs = 0
        self._values, self._fused = value_map(layer.attention)
        self._streams: list[Snapshot] = []
        self._masks: list[Any] = []
        self._made: list[Snapshot] = []

    def check(self) -> None:
        """Check that the encoder ran once.

        Raises:
            RuntimeError: it never ran, or more than once.
        """
        if not self._streams or not self._made:
            raise RuntimeError("forward_func never ran the encoder")
        if self._runs > 1:
            raise RuntimeError("forward_func ran the encoder more than once: split it, one part for each run")

    @property
    def stream(self) -> Snapshot:
        """`(B, N, D)`, what the layer reads first."""
        return self._streams[0]

    @property
    def real(self) -> Tensor:
        """`(B, N)`, False at padding: tokens that the layer's attention mask hides from every token.

        The mask of a sound counts samples; only the layer's own mask counts its tokens.
        """
        stream, mask = self.stream.value, self._masks[0]
        if isinstance(mask, Tensor) and mask.dim() == 4:
            heads, mask = stream[:, None], mask if mask.is_floating_point() else mask.bool()
            visible = QueryKeyAttention(heads, heads, 1.0, mask).visible()
            if visible is not None:
                return visible
        return torch.ones(stream.shape[:2], dtype=torch.bool, device=stream.device)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """See one run, of which the first call of each module counts: layers may be shared."""
        self._streams.clear()
        self._masks.clear()
        self._made.clear()
        self._runs = 0

        def count(*_: Any) -> None:
            self._runs += 1

        def enter(layer: nn.Module, args: Any, kwargs: Any) -> None:
            self._streams.append(Snapshot.of(args[0] if args else kwargs["hidden_states"]))
            self._masks.append(bound_arguments(layer, args, kwargs).arguments.get("attention_mask"))

        def leave(_: nn.Module, args: Any, output: Any) -> None:
            self._made.append(Snapshot.of(output))

        with ExitStack() as handles:
            for handle in (
                self._stack.register_forward_pre_hook(in_this_thread(count)),
                self._layer.register_forward_pre_hook(in_this_thread(enter), with_kwargs=True),
                self._values.register_forward_hook(in_this_thread(leave)),
            ):
                handles.enter_context(handle)
            yield

    def scores(self, run: Comparison, output: Tensor) -> Tensor:
        """Return what reaches an output `(B,)` from each token, `(B, N)`."""
        stream, made = self.stream, self._made[0]
        if stream.edge is None:
            raise RuntimeError(
                "the first layer reads something that was not seen to come from the inputs: ids have to be "
                "looked up by an embedding, by functions of torch"
            )
        of_stream, of_values = run.multipliers(output, [stream, made])
        scores = (of_stream * stream.value).sum(-1)
        bias = getattr(self._values, "bias", None)
        if bias is None:
            return scores
        bias = bias.detach().to(of_values.dtype)
        if self._fused:
            bias = torch.cat([torch.zeros_like(bias[: 2 * len(bias) // 3]), bias[2 * len(bias) // 3 :]])
        return scores + (of_values * bias).sum(-1)
