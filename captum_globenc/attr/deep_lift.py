"""TransformerDeepLift: exact contributions to an output's difference, from one backward pass.

B batch, C classes, L layers, N tokens, D embedding size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from typing import Any, Literal, NamedTuple, cast

import torch
from captum.attr import GradientAttribution
from torch import Tensor, nn

from captum_globenc.attr.arguments import Baselines, MaskWatch, formatted_baselines, formatted_inputs
from captum_globenc.attr.base import ModelAttribution, logged
from captum_globenc.attr.depths import Depths
from captum_globenc.attr.paths import Path, PathSum, SegmentRun, batched, repeated, restored, segments_at_once
from captum_globenc.attr.proof import OutputCheck, Scored, check_sum, run_plainly
from captum_globenc.attr.recomputing import Recompute, checked, recomputation
from captum_globenc.captum_api import (
    TargetType,
    TensorOrTupleOfTensorsGeneric,
    format_output,
    run_forward,
)
from captum_globenc.differences import RandomNumbers, compare_path
from captum_globenc.differences.call import copied
from captum_globenc.differences.run import Comparison
from captum_globenc.differences.trace import Route
from captum_globenc.encoders.search import submodules
from captum_globenc.errors import ReconstructionError
from captum_globenc.recording.attention import observable_attention
from captum_globenc.recording.dropout import warn_of_dropout

MASK_SCALE = (
    "This model scales its embeddings by the share of mask tokens among the ids (token_dropout), so masked "
    'ids do not work as a baseline: use padding ids, or explain() with baseline="zero", which only replaces '
    "the word embeddings."
)


class DecisionCounts(NamedTuple):
    """Decisions of the runs at the baseline, with `decisions="follow"`.

    Attributes:
        differing: decisions that would have differed from those at the inputs, such as indices of experts.
        total: all decisions.
    """

    differing: int = 0
    total: int = 0

    def plus(self, route: Route) -> "DecisionCounts":
        """Return the sum with the decisions of another run."""
        return DecisionCounts(self.differing + route.differing, self.total + route.total)


class TransformerDeepLift(ModelAttribution):
    """Exact differences: contributions that sum to f(x) - f(baseline), for any network.

    Computes DeepLIFT's multipliers (Shrikumar et al. 2017, sections 3.1 and 3.2: summation to delta, chain
    rule) with an exact rule for every operation of a transformer: attention and its softmax, normalization,
    gates, activations. The function runs at the inputs and at the baseline, and one backward pass gives
    the signed contribution of every element of the inputs to the difference of one output.

    The signature is that of Captum's `DeepLift`, `IntegratedGradients` and `LayerIntegratedGradients`. It
    accepts any model made of operations that have a rule (see `captum_globenc.differences`); for others, it
    raises an error that names the operation. In half precision, sums and products are computed in float32.

    Args:
        forward_func: the forward function, as in Captum. It runs several times, and must compute the same
            each time.
        model: the module that it runs, if it is not a module itself. Required for :meth:`attribute_layers`,
            to replace fused attention, and to warn about active dropout.
        multiply_by_inputs: whether scores are contributions, multipliers times differences from the baseline;
            False returns the multipliers, as Captum's DeepLift does. Multipliers of token ids have the size
            of embeddings, so pass embeddings as inputs.
        decisions: how the baseline passes decisions: a router of experts, a mask computed from values, a
            branch. "same" raises an error if a decision differs from that at the inputs; "follow" applies the
            decisions of the inputs to the baseline, which costs one more forward pass. Contributions then
            sum to f(x) - f_x(baseline), with f_x the model with the decisions of the inputs. The attribute
            `decisions_followed` counts, over all calls, the decisions at the baseline that would have been
            others (`differing`), and all of them (`total`).
        recompute: whether the backward pass runs each layer of the model again instead of keeping what its
            operations read, as gradient checkpointing does: the same contributions with the memory of one
            layer, for two more forward passes. "auto" does so if the layers would not fit in the free memory,
            estimated from the first layer.

    Raises:
        TypeError: `model` is not a module.
        ValueError: `decisions` or `recompute` is unknown, or `recompute` has no model.

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
        decisions: Literal["same", "follow"] = "same",
        recompute: Recompute = False,
    ) -> None:
        super().__init__(forward_func, model)
        if decisions not in ("same", "follow"):
            raise ValueError(f'decisions is {decisions!r}: choose "same" or "follow"')
        self._multiply_by_inputs = multiply_by_inputs
        self.decisions = decisions
        self.recompute = checked(recompute, self.model, self.get_name())
        self._output_check = OutputCheck()
        self.decisions_followed = DecisionCounts()

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
        """Distribute the difference of an output between inputs and baseline over the inputs.

        Args:
            inputs: token ids, or floating-point tensors of any kind: embeddings, pixels, samples, mel
                features; or a tuple of several tensors.
            baselines: tensors in the shape of the inputs or with a first dimension of 1, or numbers; or a
                tuple of these. The default for floating-point inputs is 0; ids need a baseline
                (`EncoderForward.masked`).
            target: the index of the explained output, as in Captum.
            additional_forward_args: further arguments of `forward_func`, after `inputs`, the same in both
                runs: the attention mask, if ids contain padding. Padding without a mask gives a warning.
            return_convergence_delta: whether to also return the sum minus the output's difference.
            n_steps: the number of segments of a straight path, or the number of parts that a restoring path
                splits the features into. Every segment is exact, and so is their sum.
            path: "straight" cuts the line from the baselines to the inputs into equal segments; with many
                segments, it is Integrated Gradients. "restore" starts from the baselines and restores random
                parts of the features, one part after the other, in a random order and in its reverse, so the
                model only sees real inputs. With as many parts as features, it is permutation sampling of
                Shapley values.
            n_paths: the number of random orders that are averaged, for `path="restore"`.
            feature_mask: for `path="restore"`, the feature of each element: a tensor of integers for each
                input, broadcastable to it. Elements with the same number, in all inputs, are restored
                together. By default each token of ids `(B, N)` and of embeddings `(B, N, D)` is a feature,
                and each element of any other tensor, such as pixels.
            seed: of the random parts. The same seed gives the same parts; torch's global generator is not
                used.

        Returns:
            Contributions in the shape of `inputs`, ids `(B, N)` -> `(B, N)`, that sum to the output's
            difference; with `return_convergence_delta`, also the sum minus the difference, `(B,)`.

        Raises:
            TypeError: the inputs or the output are not tensors.
            ValueError: ids have no baseline, baselines or the feature mask do not fit, `n_steps` is below 1,
                `path` is unknown, an operation has no rule, a decision differs at the baseline, or the
                output is not finite.
            RuntimeError: contributions do not sum to the difference, or recording changes the output.
            AssertionError, IndexError: `target` has the wrong length or is out of range.

        Example:
            >>> forward = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.LayerNorm(4), nn.Linear(4, 2))
            >>> scores = TransformerDeepLift(forward).attribute(torch.randn(2, 3), target=0)
            >>> scores.shape
            torch.Size([2, 3])
        """
        along = Path(n_steps, path, n_paths, feature_mask, seed)
        total = PathSum()
        for run in self._runs(inputs, baselines, additional_forward_args, along):
            total.add(run, *self._scored(run, target))
            del run  # and its graph, before the next segment runs
        answer = format_output(inputs, total.scores)
        return (answer, total.delta) if return_convergence_delta else answer

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
        """Distribute the differences of all classes, from one run and one backward pass per class.

        Args:
            inputs: token ids `(B, N)`, embeddings `(B, N, D)`, pixels or sound; or a tuple of several.
            baselines: tensors in the shape of the inputs, or numbers; required for ids, else 0 by default.
            additional_forward_args: further arguments of `forward_func`, such as the attention mask.
            n_steps: the number of segments of a straight path, or of parts of a restoring path.
            path: "straight" for the line between both, "restore" for a path through real inputs.
            n_paths: the number of random orders of a restoring path.
            feature_mask: the feature of each element, integers; a feature is restored as a whole.
            seed: the seed of the random orders.

        Returns:
            Contributions `(B, C, ...)`, `...` the shape of one example: ids `(B, N)` -> `(B, C, N)`.

        Raises:
            Exception: raised by :meth:`attribute`; ValueError if the output is not `(B, C)`.
        """
        along = Path(n_steps, path, n_paths, feature_mask, seed)
        totals: list[PathSum] = []
        for run in self._runs(inputs, baselines, additional_forward_args, along):
            shape = run.comparison.output.shape
            if len(shape) != 2:
                raise ValueError(f"the output is {tuple(shape)}, not (B, C): it has no classes")
            totals = totals or [PathSum() for _ in range(shape[1])]
            for number, total in enumerate(totals):
                total.add(run, *self._scored(run, number))
            del run
        classes = zip(*(total.scores for total in totals), strict=True)
        return format_output(inputs, tuple(torch.stack(of, 1) for of in classes))

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
        """Distribute the difference over the tokens at every depth; each depth has the same sum.

        Args:
            inputs: token ids `(B, N)`, embeddings `(B, N, D)`, pixels or sound; or a tuple of several.
            baselines: tensors in the shape of the inputs, or numbers; required for ids, else 0 by default.
            target: the index of the explained output, as in Captum.
            additional_forward_args: further arguments of `forward_func`, such as the attention mask.
            n_steps: the number of segments of a straight path, or of parts of a restoring path.
            path: "straight" for the line between both, "restore" for a path through real inputs.
            n_paths: the number of random orders of a restoring path.
            feature_mask: the feature of each element, integers; a feature is restored as a whole.
            seed: the seed of the random orders.

        Returns:
            `(B, L + 1, N)`: contributions of the inputs of layer 1 to L, and of the last layer's output.

        Raises:
            Exception: raised by :meth:`attribute`; ValueError if the model has no layers, or they do not work
                on one sequence of tokens.
        """
        if not self._multiply_by_inputs:
            raise ValueError("attribute_layers returns contributions: pass multiply_by_inputs=True")
        along = Path(n_steps, path, n_paths, feature_mask, seed)
        totals: list[PathSum] = []
        for run in self._runs(inputs, baselines, additional_forward_args, along, layers=True):
            firsts = run.of_layers(run.comparison, run.depths, target)
            finer = cache(partial(self._finer_layers, run, target))  # once for all layers
            totals = totals or [PathSum() for _ in firsts]
            for number, (total, first) in enumerate(zip(totals, firsts, strict=True)):
                total.add(run, *self._checked(first, partial(_item, finer, number)))
            del run
        return torch.stack([total.scores[0] for total in totals], dim=1)

    def _finer_layers(self, run: SegmentRun, target: TargetType) -> list[Scored]:
        depths = Depths(self.model)
        found = run.finer(depths)
        return run.of_layers(*((run.comparison, run.depths) if found is None else (found, depths)), target)

    def _scored(self, run: SegmentRun, target: TargetType) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return a segment's scores in the shapes of the inputs, and the error of the contributions' sum."""
        scores, delta = self._checked(
            run.of_inputs(run.comparison, target),
            lambda: run.of_inputs(run.finer() or run.comparison, target),
        )
        return (scores if self._multiply_by_inputs else run.multipliers(target)), delta

    def _checked(self, first: Scored, finer: Callable[[], Scored]) -> tuple[tuple[Tensor, ...], Tensor]:
        """Check a sum; for some models, the error names the baselines that work."""
        try:
            return check_sum(first, finer)
        except ReconstructionError as error:
            if self.model is not None and scales_by_masks(self.model):
                raise ReconstructionError(f"{error} {MASK_SCALE}") from None
            raise

    def _runs(
        self,
        given: Any,
        given_baselines: Baselines,
        arguments: object | None,
        path: Path,
        layers: bool = False,
    ) -> Iterator[SegmentRun]:
        """Run the function once at every point of a path, the points of several orders in a batch."""
        inputs = formatted_inputs(given)
        baselines = formatted_baselines(given_baselines, inputs)
        if self.model is not None:
            warn_of_dropout(self.model)
        if not self._multiply_by_inputs:
            _check_multipliers(inputs, path)
        numbers = RandomNumbers(inputs)
        masks = MaskWatch(self.model, inputs)
        if path.kind == "restore":
            orders = list(restored(inputs, baselines, path))
            at_once = segments_at_once(inputs, self.model, arguments)
            for number, some in enumerate(batched(iter(orders), at_once)):
                points = [
                    tuple(map(torch.cat, zip(*point, strict=True))) for point in zip(*some, strict=True)
                ]
                of_orders = repeated(arguments, len(inputs[0]), len(some))
                for run in self._steps(points, of_orders, numbers, masks, None, layers, again=number > 0):
                    yield replace(run, orders=len(some), weight=1 / len(orders))
        elif path.n_steps == 1:
            yield from self._steps([baselines, inputs], arguments, numbers, masks, layers=layers)
        else:
            (whole,) = self._steps([baselines, inputs], arguments, numbers, masks)
            sources, count = whole.comparison.sources, path.n_steps
            values = [
                [cast(Tensor, it.base) + step / count * it.difference for it in sources]
                for step in range(count + 1)
            ]
            points = [inputs] * len(values)
            for run in self._steps(points, arguments, numbers, None, values, layers, again=True):
                yield replace(run, sources=sources, length=1 / count)

    def _steps(
        self,
        points: Sequence[tuple[Tensor, ...]],
        arguments: object | None,
        numbers: RandomNumbers,
        masks: MaskWatch | None,
        values: Sequence[Sequence[Tensor]] | None = None,
        layers: bool = False,
        again: bool = False,
    ) -> Iterator[SegmentRun]:
        """Compare each point with the previous one, and check operations that were not checked before.

        Args:
            points: the inputs of the function, from the first to the last.
            arguments: further arguments of the forward function.
            numbers: random numbers, the same in all runs.
            masks: records whether a mask covers padding; None if that is known.
            values: the embeddings at each point, which replace the ids' embeddings; these points are not
                checked against a run without recording.
            layers: whether to record hidden states at every depth.
            again: whether the random numbers were drawn before.
        """

        def function(*tensors: Tensor) -> Any:
            # Copied, because a model may write to its arguments.
            return run_forward(self.forward_func, tensors, copied(arguments))

        def steps(depths: Depths | None = None, **options: Any) -> Iterator[Comparison]:
            def recorded(*tensors: Tensor) -> Any:
                with depths.recorded() if depths else nullcontext():
                    return function(*tensors)

            recomputed = recomputation(self.model, self.recompute, self)
            if recomputed is not None:
                options["mode"] = recomputed.mode
            return compare_path(recorded, points, values=values, decisions=self.decisions, **options)

        def repeat(number: int, depths: Depths | None = None, **options: Any) -> Comparison:
            with observable_attention(self.model, self), numbers.again():
                return next(islice(steps(depths, **options), number, None))

        def plain(tensors: Sequence[Tensor]) -> Any:
            with observable_attention(self.model, self):
                return run_plainly(function, tensors, numbers)

        depths = Depths(self.model) if layers else None
        found = steps(depths)
        for number in range(len(points) - 1):
            with (
                observable_attention(self.model, self),
                masks.recorded() if masks else nullcontext(),
                numbers.again() if again else nullcontext(),
            ):
                comparison = next(found)
            if not comparison.sources:
                raise RuntimeError(
                    "forward_func never looked up an embedding by the ids, so their contributions are "
                    "unknown. Pass embeddings as inputs."
                )
            if comparison.trace.route is not None:
                self.decisions_followed = self.decisions_followed.plus(comparison.trace.route)
            if values is None:
                # With decisions="follow", the baseline's output is not the model's own.
                base = partial(plain, points[number]) if self.decisions == "same" else None
                self._output_check.check(
                    comparison,
                    partial(plain, points[number + 1]),
                    self,
                    [self.decisions, self.recompute],
                    base,
                )
            yield SegmentRun(comparison, partial(repeat, number), points[number + 1], depths)
            del comparison
        if masks:
            masks.warn()

    def compute_convergence_delta(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the sum of contributions minus the difference of two outputs, as Captum's methods do.

        Args:
            *args: contributions, baselines and inputs; then the target and additional_forward_args.
            **kwargs: the same, as `captum.attr.GradientAttribution.compute_convergence_delta` names them.

        Returns:
            `(B,)`, the sum minus the difference.

        Raises:
            AssertionError: shapes do not match.
        """
        delta: Tensor = GradientAttribution(self.forward_func).compute_convergence_delta(*args, **kwargs)
        return delta

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether scores are multipliers times differences from the baseline."""
        return self._multiply_by_inputs

    def has_convergence_delta(self) -> bool:
        """Return True: :meth:`attribute` can return the error of its sum."""
        return True


def scales_by_masks(model: nn.Module) -> bool:
    """Return whether a model scales its embeddings by the share of mask tokens, as ESM-2 does."""
    configs = (getattr(module, "config", None) for module in submodules(model))
    return any(getattr(config, "token_dropout", False) for config in configs)


def _item(items: Callable[[], Sequence[Scored]], number: int) -> Scored:
    return items()[number]


def _check_multipliers(inputs: Sequence[Tensor], path: Path) -> None:
    """Check that multipliers can be returned instead of contributions."""
    if not all(it.is_floating_point() for it in inputs):
        raise ValueError(
            "multipliers of token ids have the size of embeddings: pass embeddings as inputs, or "
            "multiply_by_inputs=True"
        )
    if path.kind == "restore":
        raise ValueError('path="restore" returns contributions: pass multiply_by_inputs=True')
