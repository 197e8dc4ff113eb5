"""Paths from the baselines to the inputs, cut into segments whose exact differences are summed.

A straight path visits points between the two, on which no model was trained. A restoring path visits real
inputs: each has some features of the input, and the baseline everywhere else.

B batch, F features that differ from the baseline, G segments in one batch, K parts, N tokens, D embedding
size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from captum_globenc.attr.arguments import selected
from captum_globenc.attr.depths import Depths
from captum_globenc.attr.proof import Scored
from captum_globenc.captum_api import TargetType, expand_target, format_inputs
from captum_globenc.differences import Comparison
from captum_globenc.differences.trace import Source
from captum_globenc.encoders.search import submodules
from captum_globenc.errors import UnsupportedOperationError
from captum_globenc.recording.dropout import has_active_dropout

Order = list[tuple[Tensor, ...]]
"""The points of a path, from the baselines to the inputs: one tensor for each input."""

PATHS = ("straight", "restore")
POSITIONS_AT_ONCE = 2048
"""Most tokens, pixels or samples of the segments that run in one batch; bounds the memory."""


@dataclass(frozen=True)
class Path:
    """A path from the baselines to the inputs.

    Args:
        n_steps: the number of segments of a straight path; the number of parts that a restoring path
            splits the features into.
        kind: "straight" or "restore".
        n_paths: the number of random orders; each is followed in both directions.
        feature_mask: the feature of each element, as in Captum's perturbation methods.
        seed: of the random parts.

    Raises:
        ValueError: an argument is out of range, or belongs to the other kind of path.
    """

    n_steps: int = 1
    kind: str = "straight"
    n_paths: int = 1
    feature_mask: Tensor | tuple[Tensor, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.n_steps < 1:
            raise ValueError(f"n_steps is {self.n_steps}; it must be at least 1")
        if self.kind not in PATHS:
            raise ValueError(f"path is {self.kind!r}: choose one of {', '.join(PATHS)}")
        if self.n_paths < 1:
            raise ValueError(f"n_paths is {self.n_paths}; it must be at least 1")
        if self.kind == "straight" and (self.n_paths > 1 or self.feature_mask is not None):
            raise ValueError('n_paths and feature_mask need path="restore"')


def restored(inputs: Sequence[Tensor], baselines: Sequence[Tensor], path: Path) -> Iterator[Order]:
    """Yield the points of each order in which random parts of the features are restored.

    Only features that differ from the baseline are split into parts. Every random order of the parts is
    followed by its reverse. The parts of an example depend only on the seed and on its number of differing
    features, not on padding or on other examples.

    Without a feature mask, each token of ids `(B, N)` and of embeddings `(B, N, D)` is a feature; in tensors
    of other shapes each element is one.

    Args:
        inputs: the inputs.
        baselines: the baselines, in the shape of the inputs.
        path: a path of the kind "restore".

    Yields:
        K + 1 points for each order, from the baselines to the inputs. There is one order if K is 1, else
        `2 * n_paths`; K is the smaller of `n_steps` and the largest F of the batch. If an example has
        fewer features than parts, some of its points are equal.

    Raises:
        ValueError: the feature mask does not fit, or the inputs have different batch sizes.

    Example:
        >>> x, x0 = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[0, 0, 0, 8]])
        >>> for points in restored([x], [x0], Path(2, "restore")):
        ...     print([ids.tolist() for (ids,) in points])
        [[[0, 0, 0, 8]], [[5, 0, 7, 8]], [[5, 6, 7, 8]]]
        [[[0, 0, 0, 8]], [[0, 6, 0, 8]], [[5, 6, 7, 8]]]
    """
    ranks, counts = _ranks(inputs, baselines, path.feature_mask)
    parts = max(1, min(path.n_steps, max(counts)))
    if parts == 1:
        yield [tuple(baselines), tuple(inputs)]
        return
    orders = [random_orders(count, path.n_paths, path.seed) for count in counts]
    for of_examples in zip(*orders, strict=True):
        part = _parts(ranks, of_examples, parts)
        for reverse in (False, True):
            yield [
                tuple(
                    torch.where(it >= parts - step if reverse else it < step, one, base)
                    for it, one, base in zip(part, inputs, baselines, strict=True)
                )
                for step in range(parts + 1)
            ]


def random_orders(count: int, n_paths: int, seed: int) -> list[Tensor]:
    """Return random orders of `count` features, without using torch's global generator."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(count, generator=generator) for _ in range(n_paths)]


def _parts(ranks: Sequence[Tensor], orders: Sequence[Tensor], parts: int) -> list[Tensor]:
    """Return the part with which each element is restored, one tensor per input, in its shape."""
    made = [torch.empty_like(rank) for rank in ranks]
    for example, order in enumerate(orders):
        of_rank = order.new_zeros(max(1, len(order)))
        of_rank[order] = torch.arange(len(order)) * parts // max(1, len(order))
        for part, rank in zip(made, ranks, strict=True):
            part[example] = of_rank.to(rank.device)[rank[example]]
    return made


def _ranks(
    inputs: Sequence[Tensor], baselines: Sequence[Tensor], feature_mask: Tensor | tuple[Tensor, ...] | None
) -> tuple[list[Tensor], list[int]]:
    """Number each example's features that differ from the baseline, in the order of their group numbers.

    Returns:
        The number of each element's feature, one tensor per input, in its shape; arbitrary for features that
        do not differ. And F of each example.
    """
    if len({len(tensor) for tensor in inputs}) > 1:
        raise ValueError(
            'path="restore" needs inputs of one batch size; their first dimensions are '
            f"{', '.join(str(len(tensor)) for tensor in inputs)}"
        )
    groups = _groups(inputs, feature_mask)
    changed = [one != other for one, other in zip(inputs, baselines, strict=True)]
    ranks, counts = [torch.zeros_like(group) for group in groups], []
    for example in range(len(inputs[0])):
        differing = [group[example][it[example]].cpu() for group, it in zip(groups, changed, strict=True)]
        found = torch.unique(torch.cat(differing))
        counts.append(len(found))
        if len(found):
            for rank, group in zip(ranks, groups, strict=True):
                numbers = torch.searchsorted(found.to(group.device), group[example].contiguous())
                rank[example] = numbers.clamp(max=len(found) - 1)
    return ranks, counts


def _groups(inputs: Sequence[Tensor], feature_mask: Tensor | tuple[Tensor, ...] | None) -> list[Tensor]:
    """Return the feature of each element, one tensor per input, in its shape."""
    if feature_mask is None:
        made, count = [], 0
        for tensor in inputs:
            per_token = tensor.is_floating_point() and tensor.dim() == 3
            shape = tensor.shape[1:2] if per_token else tensor.shape[1:]
            numbers = torch.arange(count, count + shape.numel(), device=tensor.device).view(shape)
            count += shape.numel()
            made.append((numbers[:, None] if per_token else numbers).expand(tensor.shape))
        return made
    masks = format_inputs(feature_mask)
    if len(masks) != len(inputs):
        raise ValueError(f"there are {len(masks)} feature masks for {len(inputs)} inputs")
    for mask, tensor in zip(masks, inputs, strict=True):
        if not isinstance(mask, Tensor) or mask.is_floating_point() or mask.dtype is torch.bool:
            raise ValueError("a feature mask must be a tensor of integers, the feature of each element")
        fits = mask.dim() <= tensor.dim() and all(
            size in (1, wanted)
            for size, wanted in zip(reversed(mask.shape), reversed(tensor.shape), strict=False)
        )
        if not fits:
            raise ValueError(
                f"feature mask {tuple(mask.shape)} does not broadcast to inputs {tuple(tensor.shape)}"
            )
    return [mask.long().to(it.device).expand(it.shape) for mask, it in zip(masks, inputs, strict=True)]


def assign_to_inputs(
    contributions: Sequence[Tensor], sources: Sequence[Source], inputs: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Assign the contributions of sources to the inputs that they came from.

    Args:
        contributions: one for each source, in its shape; `(..., D)` for embeddings that were looked up.
        sources: the sources, as both runs recorded them.
        inputs: the inputs.

    Returns:
        One tensor per input, in its shape.

    Raises:
        ValueError: the ids of embeddings that contribute are unknown.
    """
    floats = iter([part for it, part in zip(sources, contributions, strict=True) if not it.looked_up])
    sizes = [0 if it.is_floating_point() else it.numel() for it in inputs]
    dtype = next((it.dtype for it in contributions), None)
    of_ids: Tensor | None = None
    for source, contribution in zip(sources, contributions, strict=True):
        if not source.looked_up or not contribution.any():
            continue
        assert source.positions is not None
        credited = source.positions.credit(contribution.sum(-1))
        if credited is None:
            raise ValueError(
                f"embeddings {tuple(contribution.shape)} were looked up by numbers computed from ids, and it "
                "is unknown which id they belong to. Pass embeddings as inputs."
            )
        of_ids = credited if of_ids is None else of_ids.to(credited.device) + credited
    if of_ids is None:
        of_ids = torch.zeros(sum(sizes), dtype=dtype, device=inputs[0].device)
    return tuple(
        next(floats) if tensor.is_floating_point() else part.view(tensor.shape)
        for tensor, part in zip(inputs, torch.split(of_ids, sizes), strict=True)
    )


def segments_at_once(inputs: Sequence[Tensor], model: nn.Module | None, arguments: Any) -> int:
    """Return the number of segments to run in one pass.

    It is 1 if a larger batch may change the result: dropout draws new numbers for each row, a decoder without
    a padding token takes one text, an unknown function may hold tensors of this batch size, and arguments
    such as dictionaries are not repeated.

    Args:
        inputs: the inputs of one segment.
        model: the model that runs; None if it is unknown.
        arguments: further arguments of the forward function.
    """
    given = arguments if isinstance(arguments, tuple) else (arguments,)
    if not all(it is None or isinstance(it, Tensor | int | float | str) for it in given):
        return 1
    if model is None or any(map(has_active_dropout, submodules(model))):
        return 1
    configs = (getattr(module, "config", None) for module in submodules(model))
    if len(inputs[0]) == 1 and any(getattr(config, "pad_token_id", 0) is None for config in configs):
        return 1
    positions = sum(
        it[..., 0].numel() if it.is_floating_point() and it.dim() == 3 else it.numel() for it in inputs
    )
    return max(1, POSITIONS_AT_ONCE // max(1, positions))


def batched(orders: Iterator[Order], at_once: int) -> Iterator[list[Order]]:
    """Yield lists of up to `at_once` orders."""
    while found := list(islice(orders, at_once)):
        yield found


def repeated(arguments: Any, batch: int, times: int) -> Any:
    """Repeat those tensors of `additional_forward_args` that have a row per example, for several segments.

    Args:
        arguments: one argument, or a tuple of them.
        batch: B.
        times: G.
    """
    if isinstance(arguments, tuple):
        return tuple(repeated(argument, batch, times) for argument in arguments)
    if isinstance(arguments, Tensor) and arguments.dim() and len(arguments) == batch:
        return torch.cat([arguments] * times)
    return arguments


@dataclass(frozen=True)
class SegmentRun:
    """One segment of one or several orders, which ran in one batch of G * B rows, order by order.

    Attributes:
        comparison: the runs at both ends.
        again: repeats the comparison; called with a recorder of hidden states, and options of `compare_path`.
        inputs: the end of the segment, `(G * B, ...)`.
        depths: the hidden states at every depth, if they are recorded.
        sources: the sources of the whole path, if its points lie between embeddings, as on a straight path
            of ids.
        orders: G.
        weight: the weight of each order in the average.
        length: the share of a straight path that the segment covers.
    """

    comparison: Comparison
    again: Callable[..., Comparison]
    inputs: tuple[Tensor, ...]
    depths: Depths | None = None
    sources: Sequence[Source] | None = None
    orders: int = 1
    weight: float = 1.0
    length: float = 1.0

    def finer(self, depths: Depths | None = None) -> Comparison | None:
        """Compare in float64; return None if the model or the device does not support it."""
        try:
            return self.again(depths, precision=torch.float64)
        except (UnsupportedOperationError, TypeError, RuntimeError):
            return None

    def of_inputs(self, comparison: Comparison, target: TargetType) -> Scored:
        """Return the contributions to the target, one tensor per input, in its shape."""
        output, base = self._selected(comparison, target)
        contributions = comparison.contributions(output)
        made = assign_to_inputs(contributions, self.sources or comparison.sources, self.inputs)
        return self._scored(made, output, base, comparison, target)

    def of_layers(self, comparison: Comparison, depths: Depths | None, target: TargetType) -> list[Scored]:
        """Return the contributions at every depth, `(G * B, N)` each."""
        assert depths is not None
        output, base = self._selected(comparison, target)
        streams, bases = depths.streams, depths.bases
        return [
            self._scored(((one * (stream.value - other.value)).sum(-1),), output, base, comparison, target)
            for one, stream, other in zip(
                comparison.multipliers(output, streams), streams, bases, strict=True
            )
        ]

    def multipliers(self, target: TargetType) -> tuple[Tensor, ...]:
        """Return the multipliers of floating-point inputs, times the length of the segment."""
        output, _ = self._selected(self.comparison, target)
        leaves = [source.leaf for source in self.comparison.sources]
        return tuple(one * self.length for one in self.comparison.multipliers(output, leaves))

    def _selected(self, comparison: Comparison, target: TargetType) -> tuple[Tensor, Tensor]:
        """Return the target's output at both ends, `(G * B,)`."""
        target = expand_target(target, self.orders) if self.orders > 1 else target
        return selected(comparison.output, target), selected(comparison.base, target)

    def _scored(
        self,
        contributions: tuple[Tensor, ...],
        output: Tensor,
        base: Tensor,
        comparison: Comparison,
        target: TargetType,
    ) -> Scored:
        precision = comparison.trace.lowest
        measured = cache(partial(self.again, precision=precision, measure_rounding=True))  # for all examples

        def rounding(example: int) -> float:
            run = measured()
            return run.rounding(self._selected(run, target)[0][example])

        return Scored(contributions, output.detach(), base, precision, rounding)


class PathSum:
    """Scores of one output, summed along paths and averaged over orders.

    Attributes:
        scores: the sum so far, one tensor for each input, in its shape.
        delta: `(B,)`, the sum of the scores minus the output's difference.
    """

    scores: tuple[Tensor, ...] = ()
    delta: Tensor

    def add(self, run: SegmentRun, scores: Sequence[Tensor], delta: Tensor) -> None:
        """Add a segment.

        Args:
            run: the segment.
            scores: its scores, `(G * B, ...)` each.
            delta: `(G * B,)`, their sum minus the output's difference.
        """
        made = [*scores, delta]
        if run.weight != 1:
            made = [part.reshape(run.orders, -1, *part.shape[1:]).sum(0) * run.weight for part in made]
        if self.scores:
            made = [one + other for one, other in zip((*self.scores, self.delta), made, strict=True)]
        *parts, self.delta = made
        self.scores = tuple(parts)
