"""TransformerDeepLift: what speaks for and against an output, exactly, from one backward pass.

B batch, C classes, L layers, N tokens, D embedding size.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, cast

import torch
from captum._utils.common import _format_output, _is_tuple, _run_forward
from captum._utils.typing import TargetType, TensorOrTupleOfTensorsGeneric
from captum.attr import Attribution, GradientAttribution
from torch import Tensor, nn

from captum_globenc.attr.depths import Depths
from captum_globenc.attr.logged import logged
from captum_globenc.attr.padded import MaskWatch
from captum_globenc.attr.paths import (
    Path,
    PathSum,
    Segment,
    SegmentRun,
    batched,
    repeated,
    restored,
    segments_at_once,
)
from captum_globenc.attr.proof import Proof
from captum_globenc.attr.sources import Baselines, formatted_baselines, formatted_inputs
from captum_globenc.differences import Comparison, RandomNumbers, compare
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
            that fused attention is replaced for the pass and active dropout is told of.

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

    def __init__(self, forward_func: Callable[..., Any], model: nn.Module | None = None) -> None:
        super().__init__(forward_func)
        if model is None and isinstance(forward_func, nn.Module):
            model = forward_func
        if model is not None and not isinstance(model, nn.Module):
            raise TypeError(f"model is a {type(model).__name__}, not a module")
        self.model = model
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
        path: str = "straight",
        n_paths: int = 1,
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        seed: int = 0,
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
            n_steps: the number of segments of a straight path, or of parts that a restoring path splits the
                features into. Every segment is exact, and so is their sum.
            path: "straight" cuts the line from the baselines to the inputs into equal segments; with many,
                it is Integrated Gradients. "restore" starts from the baselines and puts random parts of the
                features back, one part after the other, in a random order and in its reverse. All that the
                model sees are real inputs. With as many parts as features this is permutation sampling of
                Shapley values.
            n_paths: the number of random orders that are averaged, for `path="restore"`.
            feature_mask: for `path="restore"`, which elements are restored together: a tensor of integers for
                each input, of its shape or broadcastable to it. Elements with the same number are one
                feature, in all inputs of a tuple. Left out: a token of ids `(B, N)` or of embeddings
                `(B, N, D)`, and each element of any other tensor, such as pixels.
            seed: of the random parts. The same seed gives the same parts; torch's global generator is not
                used.

        Returns:
            Contributions in the shape of `inputs`, ids `(B, N)` -> `(B, N)`, adding up to the output's
            difference; and, where that is asked for, the sum less the difference, `(B,)`.

        Raises:
            TypeError: inputs are no tensors, or the output is none.
            ValueError: ids have no baseline, baselines do not fit, `n_steps` is below 1, `path` is not
                known, the feature mask does not fit, an operation has no rule, or decides otherwise at the
                baseline, or the output is not finite.
            RuntimeError: contributions do not add up, or the watched model's output is not its own.
            AssertionError, IndexError: `target` has the wrong length or is out of range, as Captum
                raises it.

        Example:
            >>> forward = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.LayerNorm(4), nn.Linear(4, 2))
            >>> scores = TransformerDeepLift(forward).attribute(torch.randn(2, 3), target=0)
            >>> scores.shape
            torch.Size([2, 3])
        """
        along = Path(n_steps, path, n_paths, feature_mask, seed)
        tensors = formatted_inputs(inputs)
        bases = formatted_baselines(baselines, tensors)
        total = PathSum()
        for run in self._runs(tensors, bases, additional_forward_args, along):
            total.add(run, run.contributions(target), target)
            del run  # and its graph, before the next segments run
        made, delta = total.checked()
        answer = _format_output(_is_tuple(inputs), made)
        return (answer, delta) if return_convergence_delta else answer

    def attribute_classes(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        baselines: Baselines = None,
        additional_forward_args: object | None = None,
        *,
        n_steps: int = 1,
        path: str = "straight",
        n_paths: int = 1,
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        seed: int = 0,
    ) -> Any:
        """Share the differences of all classes out, from one run and a backward pass for each.

        Args:
            inputs: as for :meth:`attribute`.
            baselines: as for :meth:`attribute`.
            additional_forward_args: as for :meth:`attribute`.
            n_steps: as for :meth:`attribute`.
            path: as for :meth:`attribute`.
            n_paths: as for :meth:`attribute`.
            feature_mask: as for :meth:`attribute`.
            seed: as for :meth:`attribute`.

        Returns:
            Contributions `(B, C, ...)`, `...` the shape of one example: ids `(B, N)` -> `(B, C, N)`.

        Raises:
            Exception: as :meth:`attribute` does; ValueError where the output is not `(B, C)`.
        """
        along = Path(n_steps, path, n_paths, feature_mask, seed)
        tensors = formatted_inputs(inputs)
        bases = formatted_baselines(baselines, tensors)
        totals: list[PathSum] = []
        for run in self._runs(tensors, bases, additional_forward_args, along):
            shape = run.compared.output.shape
            if len(shape) != 2:
                raise ValueError(f"the output is {tuple(shape)}, not (B, C): it has no classes")
            totals = totals or [PathSum() for _ in range(shape[1])]
            for number, total in enumerate(totals):
                total.add(run, run.contributions(number), number)
            del run
        classes = [total.checked()[0] for total in totals]
        return _format_output(
            _is_tuple(inputs), tuple(torch.stack(of, 1) for of in zip(*classes, strict=True))
        )

    def attribute_layers(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        baselines: Baselines = None,
        target: TargetType = None,
        additional_forward_args: object | None = None,
        *,
        n_steps: int = 1,
        path: str = "straight",
        n_paths: int = 1,
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Share the difference out among the tokens at every depth; each depth adds up to the same.

        Args:
            inputs: as for :meth:`attribute`.
            baselines: as for :meth:`attribute`.
            target: as for :meth:`attribute`.
            additional_forward_args: as for :meth:`attribute`.
            n_steps: as for :meth:`attribute`.
            path: as for :meth:`attribute`.
            n_paths: as for :meth:`attribute`.
            feature_mask: as for :meth:`attribute`.
            seed: as for :meth:`attribute`.

        Returns:
            `(B, L + 1, N)`: of what enters layer 1 to L, and of what leaves the last.

        Raises:
            Exception: as :meth:`attribute` does; ValueError where no layers are found in the model, or
                tokens are not the same at all depths.
        """
        along = Path(n_steps, path, n_paths, feature_mask, seed)
        tensors = formatted_inputs(inputs)
        bases = formatted_baselines(baselines, tensors)
        totals: list[PathSum] = []
        for run in self._runs(tensors, bases, additional_forward_args, along, layers=True):
            depths = run.layer_contributions(target)
            totals = totals or [PathSum() for _ in depths]
            for total, made in zip(totals, depths, strict=True):
                total.add(run, (made,), target)
            del run
        return torch.stack([total.checked()[0][0] for total in totals], dim=1)

    def _runs(
        self,
        inputs: tuple[Tensor, ...],
        baselines: tuple[Tensor, ...],
        arguments: object | None,
        path: Path,
        layers: bool = False,
    ) -> Iterator[SegmentRun]:
        """Run the function at both ends of every segment of a path, several segments in a batch."""
        numbers = RandomNumbers(inputs)
        if path.kind == "restore":
            at_once = segments_at_once(inputs, self.model, arguments)
            for place, segments in enumerate(batched(restored(inputs, baselines, path), at_once)):
                ends, begins = (
                    tuple(torch.cat(it) for it in zip(*side, strict=True))
                    for side in ([it.inputs for it in segments], [it.baselines for it in segments])
                )
                depths = Depths(self.model) if layers else None
                repeats = repeated(arguments, len(inputs[0]), len(segments))
                with numbers.again() if place else nullcontext():
                    compared = self._compared(ends, begins, repeats, depths, inputs)
                yield SegmentRun(compared, ends, segments, depths)
                del compared
            return
        depths = Depths(self.model) if layers else None
        whole = self._compared(inputs, baselines, arguments, depths)
        if path.n_steps == 1:
            yield SegmentRun(whole, inputs, [Segment(inputs, baselines)], depths)
            return
        last = path.n_steps - 1
        for place in range(path.n_steps):
            depths = Depths(self.model) if layers else None
            segment = Segment(inputs, baselines, place == 0, place == last)
            part = self._between(whole, inputs, arguments, place, path.n_steps, numbers, depths)
            yield SegmentRun(part, inputs, [segment], depths, whole)
            del part

    def _compared(
        self,
        inputs: tuple[Tensor, ...],
        baselines: tuple[Tensor, ...],
        arguments: object | None,
        depths: Depths | None = None,
        given: tuple[Tensor, ...] | None = None,
    ) -> Comparison:
        """Compare the function at inputs and baselines, and check what has not been checked before.

        Args:
            inputs: where it ends.
            baselines: where it begins.
            arguments: further arguments of the forward function.
            depths: sees the hidden states at every depth of both runs.
            given: the caller's inputs, whose padding is looked at; left out, `inputs`.
        """
        if self.model is not None:
            warn_of_dropout(self.model)

        def function(*tensors: Tensor) -> Any:
            with depths.watched() if depths else nullcontext():
                return _run_forward(self.forward_func, tensors, None, arguments)

        numbers = RandomNumbers(inputs)
        masks = MaskWatch(self.model, inputs if given is None else given)
        with seen_into(self.model, self):
            with masks.watched():
                compared = compare(function, inputs, baselines)
            if not compared.sources:
                raise RuntimeError(
                    "forward_func never looked up an embedding by the ids: exact differences need to see "
                    "where ids become numbers. Pass embeddings as inputs."
                )

            def plain() -> Any:
                with numbers.again():
                    return _run_forward(self.forward_func, inputs, None, arguments)

            self._proof.check(compared, plain, self.model)
        masks.warn()
        return compared

    def _between(
        self,
        whole: Comparison,
        inputs: tuple[Tensor, ...],
        arguments: object | None,
        place: int,
        count: int,
        numbers: RandomNumbers,
        depths: Depths | None,
    ) -> Comparison:
        """Compare the ends of one of `count` segments of the straight line, the first of place 0."""
        ends = [(source.leaf.detach(), cast(Tensor, source.base)) for source in whole.sources]

        def function(*tensors: Tensor) -> Any:
            with depths.watched() if depths else nullcontext():
                return _run_forward(self.forward_func, tensors, None, arguments)

        values = tuple(
            [base + (place + step) / count * (value - base) for value, base in ends] for step in (1, 0)
        )
        with seen_into(self.model, self), numbers.again():
            return compare(function, inputs, inputs, values=cast(Any, values))

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
        """True: contributions are multipliers times differences from the baseline."""
        return True

    def has_convergence_delta(self) -> bool:
        """Return True: :meth:`attribute` can return how far its sum is off."""
        return True
