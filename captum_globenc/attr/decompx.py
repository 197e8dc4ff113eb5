"""DecompX: the contribution of each token to an output of a linearized encoder, from one backward pass.

B batch, C classes, N tokens, D embedding size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Cache

from captum_globenc.attr.arguments import MaskWatch, selected
from captum_globenc.attr.base import EncoderAttribution, logged
from captum_globenc.attr.proof import OutputCheck, run_plainly
from captum_globenc.attr.recomputing import Recompute, checked, is_empty, recomputation
from captum_globenc.attr.run import grid_on, single_tensor
from captum_globenc.captum_api import (
    TargetType,
    TensorOrTupleOfTensorsGeneric,
    format_output,
    run_forward,
)
from captum_globenc.decomposition.attention import QueryKeyAttention
from captum_globenc.differences import Comparison, RandomNumbers, freeze
from captum_globenc.differences.call import copied
from captum_globenc.differences.frozen import FrozenMode
from captum_globenc.differences.trace import Snapshot
from captum_globenc.encoders import find_encoder
from captum_globenc.encoders.search import Encoder
from captum_globenc.encoders.tokens import Grid, spread
from captum_globenc.recording.attention import observable_attention
from captum_globenc.recording.dropout import warn_of_dropout
from captum_globenc.recording.hooks import bound_arguments, in_this_thread, layer_input
from captum_globenc.recording.linear import linear_map

VALUES = ("value", "value_proj", "v_proj", "v_lin", "v")
"""Names of the linear map to the value vectors."""

FUSED_VALUES = ("Wqkv", "qkv_proj", "qkv")
"""Names of the linear map to queries, keys and values."""


class DecompX(EncoderAttribution):
    """Decomposition of an output over the tokens of the first layer (Modarressi et al., ACL 2023).

    Passes the vector of each token through all layers and the head, with attention weights and the standard
    deviations of norms held constant and activations replaced by their slope phi(u) / u (section 3). This is
    the paper's variant without biases, a linear network. So one backward pass gives the scores that the
    authors' code computes with a vector for every pair of tokens. As in their code, the value vectors of the
    first layer keep their biases. The variant that distributes all biases by absolute dot products needs
    these vectors and is not available, so scores do not sum to the output (`TransformerDeepLift`'s do).
    Products of two values that depend on the input, such as gates, do not occur in the paper; each factor
    gets half.

    Args:
        forward_func: the forward function, as in Captum; it runs the encoder once.
        model: the module that holds the encoder; required if `forward_func` is not a module.
        recompute: whether the backward pass runs each layer but the first again instead of keeping what its
            operations read: the same scores with the memory of two layers, for one more forward pass. "auto"
            does so if the layers would not fit in the free memory, estimated from the first layer.

    Raises:
        TypeError: `model` is not a module.
        ValueError: there is no model, it has no supported encoder, or `recompute` is unknown.

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

    def __init__(
        self,
        forward_func: Callable[..., Any],
        model: nn.Module | None = None,
        *,
        recompute: Recompute = False,
    ) -> None:
        super().__init__(forward_func, model)
        self.recompute = checked(recompute, self.model, self.get_name())
        self._output_check = OutputCheck()

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
            target: the index of the explained output, as in Captum.
            additional_forward_args: further arguments of `forward_func`, after `inputs`: the attention mask,
                if ids contain padding. Padding without a mask gives a warning.

        Returns:
            Signed scores in the shape of `inputs`; a token's score is distributed evenly over the elements
            it is computed from. Exactly 0 at padding.

        Raises:
            TypeError: token ids are floats, or the output is not a tensor.
            ValueError: an operation has no rule, the value vectors are not found, the inputs do not match the
                encoder's tokens, the output is a probability, which DecompX holds constant, or scores are
                not finite.
            RuntimeError: `forward_func` did not run the encoder exactly once, or its output changes while it
                is recorded.
            AssertionError, IndexError: `target` has the wrong length or is out of range.
        """
        (scores,), tensor, grid, real = self._scored(
            inputs, additional_forward_args, lambda output: [selected(output, target)]
        )
        scores = spread(scores, tensor.shape, grid, real)
        return cast(TensorOrTupleOfTensorsGeneric, format_output(inputs, (scores,)))

    def attribute_classes(
        self, inputs: TensorOrTupleOfTensorsGeneric, additional_forward_args: object | None = None
    ) -> Tensor:
        """Score every token for every class, from one run and one backward pass per class.

        Args:
            inputs: token ids `(B, N)`, embeddings `(B, N, D)`, or pixels `(B, C, H, W)`; or a tuple of one.
            additional_forward_args: further arguments of `forward_func`, such as the attention mask.

        Returns:
            `(B, C, N)`, N the tokens of the encoder.

        Raises:
            Exception: raised by :meth:`attribute`; ValueError if the output is not `(B, C)`.
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
            The scores, one tensor per output; the input tensor; the layout of tokens on it; and `(B, N)`,
            False at padding.
        """
        encoder = find_encoder(self.model)
        warn_of_dropout(encoder.stack)
        tensor = single_tensor(inputs, encoder)
        first = _FirstLayer(encoder)

        def function(*tensors: Tensor) -> Any:
            return run_forward(self.forward_func, tensors, copied(arguments))

        def recorded(*tensors: Tensor) -> Any:
            with first.recorded():
                output = function(*tensors)
            first.check()
            return output

        numbers = RandomNumbers([tensor])
        masks = MaskWatch(self.model, [tensor])
        recomputed = recomputation(self.model, self.recompute, self, keep_first=True)
        mode = FrozenMode if recomputed is None else recomputed.frozen_mode
        with observable_attention(self.model, self):
            with masks.recorded():
                run = freeze(recorded, [tensor.detach()], mode=mode)
            self._output_check.check(
                run, lambda: run_plainly(function, [tensor], numbers), self, [self.recompute]
            )
        masks.warn()
        grid = grid_on(tensor, encoder, first.real)
        scores = [first.scores(run, output) for output in choose(run.output)]
        if not bool(torch.stack(scores).isfinite().all()):
            raise ValueError(
                "scores are NaN or infinite: check the model's weights, inputs and hidden states"
            )
        return scores, tensor, grid, first.real

    @property
    def multiplies_by_inputs(self) -> bool:
        """True: scores are multipliers times the input of the first layer."""
        return True


def value_map(attention: nn.Module) -> tuple[nn.Module, bool]:
    """Return the linear map to the value vectors, and whether it also computes queries and keys.

    Args:
        attention: the attention module of a layer.

    Raises:
        ValueError: no module has a known name.
    """
    named = {name.rpartition(".")[2]: module for name, module in attention.named_modules()}
    known = [name for name in (*VALUES, *FUSED_VALUES) if name in named]
    if not known:
        raise ValueError(
            f"no linear map to the value vectors found in a {type(attention).__name__}: no module of it is "
            f"named {', '.join((*VALUES, *FUSED_VALUES))}"
        )
    return named[known[0]], known[0] in FUSED_VALUES


class _FirstLayer:
    """Record the first layer's input, and its value vectors, which keep their biases.

    Args:
        encoder: the encoder.

    Raises:
        ValueError: no linear map to the value vectors is found.
    """

    def __init__(self, encoder: Encoder) -> None:
        layer = encoder.layers[0]
        self._stack = encoder.stack
        self._layer = layer.module
        self._runs = 0
        self._values, self._fused = value_map(layer.attention)
        self._streams: list[Snapshot] = []
        self._masks: list[Any] = []
        self._values_seen: list[Snapshot] = []
        self._has_hooks = bool(self._values._forward_hooks)
        self._before_hooks: list[Snapshot] = []

    def check(self) -> None:
        """Check that the encoder ran once.

        Raises:
            RuntimeError: it never ran, or more than once.
        """
        if not self._streams or not self._values_seen:
            raise RuntimeError("forward_func never ran the encoder")
        if self._runs > 1:
            raise RuntimeError("forward_func ran the encoder more than once: split it, one part for each run")

    @property
    def stream(self) -> Snapshot:
        """The input of the layer, `(B, N, D)`."""
        return self._streams[0]

    @property
    def real(self) -> Tensor:
        """`(B, N)`, False at padding: tokens that the layer's attention mask hides from every token.

        The user's mask does not do for sound, where it has one entry per sample instead of per token.
        """
        stream, mask = self.stream.value, self._masks[0]
        if isinstance(mask, Tensor) and mask.dim() == 4:
            heads, mask = stream[:, None], mask if mask.is_floating_point() else mask.bool()
            visible = QueryKeyAttention(heads, heads, 1.0, mask).visible()
            if visible is not None:
                return visible
        return torch.ones(stream.shape[:2], dtype=torch.bool, device=stream.device)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record one run; only the first call of each module counts, because layers may be shared."""
        self._streams.clear()
        self._masks.clear()
        self._values_seen.clear()
        self._before_hooks.clear()
        self._runs = 0

        def count(*_: Any) -> None:
            self._runs += 1

        def enter(layer: nn.Module, args: Any, kwargs: Any) -> None:
            if not all(is_empty(it) for it in (*args, *kwargs.values()) if isinstance(it, Cache)):
                raise ValueError(
                    f"{type(layer).__name__} attends to keys of a cache or of prefix tuning, which belong to "
                    "no token, and cannot be scored."
                )
            self._streams.append(Snapshot.of(layer_input(args, kwargs)))
            self._masks.append(bound_arguments(layer, args, kwargs).arguments.get("attention_mask"))

        def leave(seen: list[Snapshot], _: nn.Module, args: Any, output: Any) -> None:
            seen.append(Snapshot.of(output))

        with ExitStack() as handles:
            if self._has_hooks:
                hook = in_this_thread(partial(leave, self._before_hooks))
                handles.enter_context(self._values.register_forward_hook(hook, prepend=True))
            for handle in (
                self._stack.register_forward_pre_hook(in_this_thread(count)),
                self._layer.register_forward_pre_hook(in_this_thread(enter), with_kwargs=True),
                self._values.register_forward_hook(in_this_thread(partial(leave, self._values_seen))),
            ):
                handles.enter_context(handle)
            yield

    def scores(self, run: Comparison, output: Tensor) -> Tensor:
        """Return the contribution of each token, `(B, N)`, to an output `(B,)`."""
        stream, value = self.stream, self._values_seen[0]
        if stream.edge is None:
            raise RuntimeError(
                "the first layer's input was not computed from the inputs by functions of torch: ids must be "
                "looked up by an embedding"
            )
        of_stream, of_values = run.multipliers(output, [stream, value])
        scores = (of_stream * stream.value).sum(-1)
        # Adapters such as IA3 change the bias of the map that they wrap.
        with torch.no_grad():
            _, bias = linear_map(self._values, stream.value.shape[-1], of_values.dtype)
        if bias is None:
            return scores
        if self._has_hooks and not torch.equal(self._before_hooks[0].value, value.value):
            raise ValueError(
                "A hook changes the value vectors of the first layer, so the share of their bias is unknown: "
                "remove the hook, or use TransformerDeepLift, which supports it."
            )
        bias = bias.detach()
        if self._fused:
            bias = torch.cat([torch.zeros_like(bias[: 2 * len(bias) // 3]), bias[2 * len(bias) // 3 :]])
        return scores + (of_values * bias).sum(-1)
