"""TransformerDeepLift: what speaks for and against an output, exactly, from one backward pass.

B batch, C classes, L layers, N tokens, D embedding size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, cast

import torch
from captum._utils.common import _format_output, _is_tuple, _run_forward
from captum._utils.typing import TargetType, TensorOrTupleOfTensorsGeneric
from captum.attr import Attribution, GradientAttribution
from torch import Tensor, nn

from captum_globenc.attr.depths import Depths
from captum_globenc.attr.logged import logged
from captum_globenc.attr.padded import MaskWatch
from captum_globenc.attr.proof import Proof, check_sum
from captum_globenc.attr.selected import selected
from captum_globenc.attr.sources import Baselines, formatted_baselines, formatted_inputs, on_inputs
from captum_globenc.differences import Comparison, RandomNumbers, compare
from captum_globenc.differences.call import replaced
from captum_globenc.differences.trace import Source
from captum_globenc.recording.fused import seen_into
from captum_globenc.recording.training import warn_of_dropout

__all__ = ["TransformerDeepLift"]


class TransformerDeepLift(Attribution):
    """Exact differences: contributions that add up to f(x) - f(baseline), whatever the network.

    DeepLIFT's multipliers (Shrikumar et al. 2017, sections 3.1 and 3.2: summation to delta, chain rule)
    with an exact rule for every operation of a transformer: attention and its softmax, normalisation,
    gates, activations. The function runs at the inputs and at the baseline, and one backward pass gives
    the contribution of every element of the inputs to the difference. Signed, for one output at a time.

    Takes what Captum's DeepLift, IntegratedGradients and LayerIntegratedGradients take, in their order,
    on any model made of operations that have a rule (see `captum_globenc.differences`); others are
    refused by name. In half precision, sums and products are computed in float32.

    Args:
        forward_func: the forward function, as for every Captum method. It runs several times, and has to
            do the same each time.
        model: the module that it runs, where it is none itself: needed for :meth:`attribute_layers`, and so
            that fused attention is replaced for the pass and active dropout is warned of.
        multiply_by_inputs: whether scores are contributions, multipliers times differences from the baseline;
            False returns the multipliers, as Captum's DeepLift does. Those of token ids have the size of
            embeddings, so they need embeddings as inputs.

    Raises:
        TypeError: `model` is no module.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from captum_globenc import EncoderForward
        >>> config = BertConfig(
        ...     vocab_size=30, hidden_size=8, num_attention_heads=2, num_hidden_layers=2,
        ...     intermediate_size=8,
        ... )
        >>> model = BertForSequenceClassification(config).eval()
        >>> forward, ids = EncoderForward(model), torch.tensor([[2, 5, 7, 3]])
        >>> scores, delta = TransformerDeepLift(forward).attribute(
        ...     ids, baselines=torch.tensor([[2, 4, 4, 3]]), target=1, return_convergence_delta=True
        ... )
        >>> scores.shape, bool(delta.abs() < 1e-5)
        (torch.Size([1, 4]), True)
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        model: nn.Module | None = None,
        *,
        multiply_by_inputs: bool = True,
    ) -> None:
        super().__init__(forward_func)
        if model is None and isinstance(forward_func, nn.Module):
            model = forward_func
        if model is not None and not isinstance(model, nn.Module):
            raise TypeError(f"model is a {type(model).__name__}, not a module")
        self.model = model
        self._multiply_by_inputs = multiply_by_inputs
        self._proof = Proof()

    @logged
    def attribute(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        baselines: Baselines = None,
        target: TargetType = None,
        additional_forward_args: object | None = None,
        return_convergence_delta: bool = False,
        *,
        n_steps: int = 1,
    ) -> Any:
        """Share the difference of an output between inputs and baseline out among the inputs.

        Args:
            inputs: token ids, looked up in embeddings by the model, or numbers of any kind: embeddings,
                pixels, samples, mel features; or a tuple of several.
            baselines: what the inputs are compared with, of their shape, with a first dimension of 1, or one
                number; or a tuple of such. Numbers default to 0, ids need one (`EncoderForward.masked`).
            target: the output that is explained, as for every Captum method.
            additional_forward_args: further arguments of `forward_func`, after `inputs`, the same in both
                runs: the attention mask, where ids hold padding. Padding that no mask covers is warned of.
            return_convergence_delta: whether to return as well how far the sum is off.
            n_steps: into how many segments the straight line from the baseline to the inputs is cut. Each is
                exact, so their sum is; many segments are Integrated Gradients.

        Returns:
            Contributions in the shape of `inputs`, ids `(B, N)` -> `(B, N)`, adding up to the output's
            difference; and, where that is asked for, the sum less the difference, `(B,)`.

        Raises:
            TypeError: inputs are no tensors, or the output is none.
            ValueError: ids have no baseline, baselines do not fit, `n_steps` is below 1, an operation has
                no rule, or decides otherwise at the baseline, or the output is not finite.
            RuntimeError: contributions do not add up, or the watched model's output is not its own.
            AssertionError, IndexError: `target` has the wrong length or is out of range, as Captum
                raises it.

        Example:
            >>> forward = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.LayerNorm(4), nn.Linear(4, 2))
            >>> scores = TransformerDeepLift(forward).attribute(torch.randn(2, 3), target=0)
            >>> scores.shape
            torch.Size([2, 3])
        """
        if n_steps < 1:
            raise ValueError(f"n_steps is {n_steps}, and there is no less than one segment")
        tensors = formatted_inputs(inputs)
        bases = formatted_baselines(baselines, tensors)
        numbers = RandomNumbers(tensors)
        run = self._compared(tensors, bases, additional_forward_args)
        results = [
            self._scored(segment, run.comparison.sources, tensors, partial(selected, target=target))
            for segment in self._segments(run, tensors, additional_forward_args, n_steps, numbers)
        ]
        totals = [torch.stack(parts).sum(0) for parts in zip(*(scores for scores, _ in results), strict=True)]
        if not self._multiply_by_inputs:
            totals = [total / n_steps for total in totals]
        delta = torch.stack([delta for _, delta in results]).sum(0)
        answer = _format_output(_is_tuple(inputs), tuple(totals))
        return (answer, delta) if return_convergence_delta else answer

    def attribute_classes(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        baselines: Baselines = None,
        additional_forward_args: object | None = None,
    ) -> Any:
        """Share the differences of all classes out, from one run and a backward pass for each.

        Args:
            inputs: as for :meth:`attribute`.
            baselines: as for :meth:`attribute`.
            additional_forward_args: as for :meth:`attribute`.

        Returns:
            Contributions `(B, C, ...)`, `...` the shape of one example: ids `(B, N)` -> `(B, C, N)`.

        Raises:
            Exception: as :meth:`attribute` does; ValueError where the output is not `(B, C)`.
        """
        tensors = formatted_inputs(inputs)
        bases = formatted_baselines(baselines, tensors)
        run = self._compared(tensors, bases, additional_forward_args)
        shape = run.comparison.output.shape
        if len(shape) != 2:
            raise ValueError(f"the output is {tuple(shape)}, not (B, C): it has no classes")
        classes = [
            self._scored(run, run.comparison.sources, tensors, partial(selected, target=number))[0]
            for number in range(shape[1])
        ]
        return _format_output(
            _is_tuple(inputs), tuple(torch.stack(of, 1) for of in zip(*classes, strict=True))
        )

    def attribute_layers(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        baselines: Baselines = None,
        target: TargetType = None,
        additional_forward_args: object | None = None,
    ) -> Tensor:
        """Share the difference out among the tokens at every depth; each depth adds up to the same.

        Args:
            inputs: as for :meth:`attribute`.
            baselines: as for :meth:`attribute`.
            target: as for :meth:`attribute`.
            additional_forward_args: as for :meth:`attribute`.

        Returns:
            `(B, L + 1, N)`: of what enters layer 1 to L, and of what leaves the last.

        Raises:
            Exception: as :meth:`attribute` does; ValueError where no layers are found in the model, or
                tokens are not the same at all depths.
        """
        tensors = formatted_inputs(inputs)
        bases = formatted_baselines(baselines, tensors)
        if not self._multiply_by_inputs:
            raise ValueError("attribute_layers returns contributions: take multiply_by_inputs=True")
        depths = Depths(self.model)
        run = self._compared(tensors, bases, additional_forward_args, depths)
        choose = partial(selected, target=target)
        one, base = (choose(output) for output in (run.comparison.output, run.comparison.base))
        multipliers = run.comparison.multipliers(one, depths.streams)
        made = [
            (multiplier * (stream.value - other.value)).sum(-1)
            for multiplier, stream, other in zip(multipliers, depths.streams, depths.bases, strict=True)
        ]
        for contributions in made:
            check_sum((contributions,), one.detach(), base, run.comparison.trace.lowest, run.rounding(choose))
        return torch.stack(made, dim=1)

    def _scored(
        self,
        run: "_Run",
        sources: Sequence[Source],
        inputs: tuple[Tensor, ...],
        choose: Callable[[Tensor], Tensor],
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the scores of a run in the shapes of the inputs, and how far contributions are off.

        Args:
            run: the run.
            sources: those of the whole comparison, which know the positions of looked-up ids.
            inputs: the inputs.
            choose: from the function's output to the explained one, `(B,)`.
        """
        comparison = run.comparison
        output, base = choose(comparison.output), choose(comparison.base)
        multipliers: list[Tensor] = []
        if self._multiply_by_inputs:
            contributions = comparison.contributions(output)
        else:
            multipliers = comparison.multipliers(output, [it.leaf for it in comparison.sources])
            contributions = [
                one * it.difference for one, it in zip(multipliers, comparison.sources, strict=True)
            ]
        scores = on_inputs(contributions, sources, inputs)
        delta = check_sum(scores, output.detach(), base, comparison.trace.lowest, run.rounding(choose))
        return (scores if self._multiply_by_inputs else tuple(multipliers)), delta

    def _compared(
        self,
        inputs: tuple[Tensor, ...],
        baselines: tuple[Tensor, ...],
        arguments: object | None,
        depths: Depths | None = None,
    ) -> "_Run":
        """Compare the function at inputs and baselines, and check what has not been checked before."""
        if self.model is not None:
            warn_of_dropout(self.model)
        if not self._multiply_by_inputs and not all(it.is_floating_point() for it in inputs):
            raise ValueError(
                "multipliers of token ids have the size of embeddings: pass embeddings as inputs, or take "
                "multiply_by_inputs=True"
            )
        function = self._function(arguments)

        def watched(*tensors: Tensor) -> Any:
            with depths.watched() if depths else nullcontext():
                return function(*tensors)

        numbers = RandomNumbers(inputs)
        masks = MaskWatch(self.model, inputs)

        def plain(tensors: Sequence[Tensor]) -> Any:
            with numbers.again():
                return function(*(tensor.clone() for tensor in tensors))

        def measured() -> Comparison:
            with seen_into(self.model, self), numbers.again():
                return compare(function, inputs, baselines, measure_rounding=True)

        with seen_into(self.model, self):
            with masks.watched():
                compared = compare(watched, inputs, baselines)
            if not compared.sources:
                raise RuntimeError(
                    "forward_func never looked up an embedding by the ids: exact differences need to see "
                    "where ids become numbers. Pass embeddings as inputs."
                )
            self._proof.check(compared, partial(plain, inputs), self.model, partial(plain, baselines))
        masks.warn()
        return _Run(compared, measured)

    def _function(self, arguments: object | None) -> Callable[..., Any]:
        """Return the forward function of the inputs alone; it cannot write into the caller's arguments."""

        def function(*tensors: Tensor) -> Any:
            own = replaced(arguments, lambda it: it.detach().clone() if isinstance(it, Tensor) else it)
            return _run_forward(self.forward_func, tensors, None, own)

        return function

    def _segments(
        self,
        whole: "_Run",
        inputs: tuple[Tensor, ...],
        arguments: object | None,
        count: int,
        numbers: RandomNumbers,
    ) -> Iterator["_Run"]:
        """Yield the comparison of each segment of the straight line from the baseline to the inputs."""
        if count == 1:
            yield whole
            return
        ends = [(cast(Tensor, source.base), source.difference) for source in whole.comparison.sources]
        function = self._function(arguments)

        def segment(number: int, measure_rounding: bool = False) -> Comparison:
            values = [
                [base + (number + step) / count * difference for base, difference in ends] for step in (1, 0)
            ]
            with seen_into(self.model, self), numbers.again():
                return compare(
                    function,
                    inputs,
                    inputs,
                    values=(values[0], values[1]),
                    measure_rounding=measure_rounding,
                )

        for number in range(count):
            yield _Run(segment(number), partial(segment, number, True))

    def compute_convergence_delta(self, *args: Any, **kwargs: Any) -> Tensor:
        """Measure how far contributions are off the difference of two outputs, as Captum's methods do.

        Args:
            *args: contributions, baselines and inputs; then the target and additional_forward_args.
            **kwargs: the same, as `captum.attr.GradientAttribution.compute_convergence_delta` names them.

        Returns:
            `(B,)`, the sum less the difference.

        Raises:
            AssertionError: shapes do not match.
        """
        delta: Tensor = GradientAttribution(self.forward_func).compute_convergence_delta(*args, **kwargs)
        return delta

    def get_name(self) -> str:
        """Return "TransformerDeepLift"; Captum would split it."""
        return "TransformerDeepLift"

    def attribute_future(self) -> None:
        """Not available.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("attribute_future is not implemented for TransformerDeepLift")

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether scores are multipliers times differences from the baseline."""
        return self._multiply_by_inputs

    def has_convergence_delta(self) -> bool:
        """Return True: :meth:`attribute` can return how far its sum is off."""
        return True


@dataclass(frozen=True)
class _Run:
    """A comparison, and how to repeat it.

    Args:
        comparison: the comparison.
        repeat: compares the same once more, with rounding measured.
    """

    comparison: Comparison
    repeat: Callable[[], Comparison]

    def rounding(self, choose: Callable[[Tensor], Tensor]) -> Callable[[int], float]:
        """Return a function from the number of an example to how far rounding may move its sum.

        Args:
            choose: from the function's output to the explained one, `(B,)`.
        """
        repeated = cache(self.repeat)

        def rounding(example: int) -> float:
            run = repeated()
            return run.rounding(choose(run.output)[example])

        return rounding
