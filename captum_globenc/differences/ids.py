"""Track token ids from the inputs to the embeddings that are looked up by them.

Every element of a tensor computed from ids has a position: the number of the input id that it comes from,
with the ids of all inputs numbered one input after the other. An element that depends on several ids gets a
new position, and a :class:`_Step` that distributes its score over them once both runs are known:

- counts are linear: each counted element gets its share in the change of the count;
- functions of several elements give each its average marginal effect (the Shapley value), which for sums
  and products is their gradient at the mean of both runs;
- selected elements (a gather, a write through indices) keep their position if both runs selected the same.

All other elements have the position `UNKNOWN`; if they contribute, the call is rejected.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from math import comb
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_globenc.differences.call import differentiable, leaves, replaced
from captum_globenc.differences.op_sets import (
    ARRANGING,
    COUNTING,
    ELEMENTWISE,
    LIKE,
    LOOKING_UP,
    changes_in_place,
    functions,
)

TAG = "_captum_globenc_index"
CONSTANT, UNKNOWN = -1, -2
"""Positions of elements that depend on no id, and of elements that depend on unknown ids."""
SHIFT = 1 << 40
"""Larger than any position; distinguishes elements that a function moved from those it filled."""
NUMBERS = functions("add sub rsub mul multiply")
"""Functions whose result is a number, to which each of several ids may contribute."""
COPYING, FILLING, STRIDED = functions("copy"), functions("fill zero"), functions("as_strided")
MASKED_SCATTER, SCATTER, INDEX_PUT = (functions(name) for name in ("masked_scatter", "scatter", "index_put"))
AMONG = functions("isin bucketize")
"""Functions that compare each element of the first argument with all of the second."""
DATA = ("input", "tensors", "self")
"""Names of the argument whose elements are moved."""


@dataclass(frozen=True, eq=False)
class _Step:
    """An operation of one run whose result depends on several ids per element.

    Attributes:
        function: the torch function.
        first: the position of the result's first element.
        made: the result.
        values: the arguments computed from ids, grouped by equal positions; empty for a selection.
        positions: the positions of each group.
        replay: computes the result for other values.
        linear: whether the result sums the values, which may then have any shape.
        choices: the indices of a selection.
    """

    function: Any
    first: int
    made: Tensor
    values: tuple[tuple[Tensor, ...], ...]
    positions: tuple[Tensor, ...]
    replay: Callable[..., Tensor] | None = None
    linear: bool = False
    choices: tuple[Tensor, ...] = ()

    def matches(self, other: "_Step") -> bool:
        """Whether the step of the other run is the same operation on arguments of the same shapes."""
        return self.function == other.function and _shapes(self) == _shapes(other)

    def shares(self, other: "_Step", scores: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Distribute the scores of the result over the arguments.

        Args:
            other: the step in the other run.
            scores: one for each element of the result; zero where both runs are equal.

        Yields:
            Positions and their scores; NaN where the shares are unknown.
        """
        scores = scores.view(self.made.shape)
        if self.replay is None:
            parts = [self._chosen(other, scores)]
        else:
            parts = self._counted(other, scores) if self.linear else self._valued(other, scores)
        for one, base, part in zip(self.positions, other.positions, parts, strict=True):
            yield _agreed(one, base).to(part.device), part

    def _chosen(self, other: "_Step", scores: Tensor) -> Tensor:
        for one, base in zip(self.choices, other.choices, strict=True):
            differs = (one != base).to(scores.device)
            differs = differs if differs.shape == scores.shape else differs.any()
            scores = scores.masked_fill(differs & (scores != 0), torch.nan)
        return scores

    def _counted(self, other: "_Step", scores: Tensor) -> list[Tensor]:
        """Distribute by the change of each value: scores / change, through the transposed linear function."""
        assert self.replay is not None
        ((value,),), ((base,),) = self.values, other.values
        change = value.double() - base.double()
        with torch.enable_grad():
            given = change.clone().requires_grad_()
            made = self.replay((given,))
        rate = _divided(scores.to(made.device), made.detach(), self.made, other.made)
        return [torch.autograd.grad(made, given, rate)[0] * change]

    def _valued(self, other: "_Step", scores: Tensor) -> list[Tensor]:
        """Distribute by the Shapley value of each argument."""
        count = len(self.values)
        everyone = range(count)
        outcomes = {
            chosen: self._replayed([(self if k in chosen else other).values[k] for k in everyone])
            for size in range(count + 1)
            for chosen in combinations(everyone, size)
        }
        parts = []
        for player in everyone:
            part = torch.zeros_like(outcomes[()])
            for chosen, outcome in outcomes.items():
                if player not in chosen:
                    joined = outcomes[tuple(sorted((*chosen, player)))]
                    part += (joined - outcome) / (count * comb(count - 1, len(chosen)))
            parts.append(part)
        change = torch.stack(parts).sum(0)
        rate = _divided(scores.to(change.device), change, self.made, other.made)
        if self.function not in NUMBERS and self.made.dtype is not torch.bool:
            # Ids are names, not numbers, so only one of them may have changed the result.
            several = torch.stack([part != 0 for part in parts]).sum(0) > 1
            rate = rate.masked_fill(several & (rate != 0), torch.nan)
        return [part * rate for part in parts]

    def _replayed(self, values: Sequence[tuple[Tensor, ...]]) -> Tensor:
        assert self.replay is not None
        return self.replay(*values).double().expand(self.made.shape)


def _divided(scores: Tensor, change: Tensor, made: Tensor, base: Tensor) -> Tensor:
    """Return scores / change; NaN where the replayed change differs from the change between the runs."""
    real = made.double() - base.double()
    sound = (change - real).abs() <= 1e-6 * real.abs()
    rate = torch.where(sound & (real != 0), scores.double() / change, torch.nan)
    return torch.where(scores == 0, 0, rate)


def _shapes(step: _Step) -> list[torch.Size]:
    return [it.shape for it in leaves((step.made, step.values, step.positions, step.choices))]


def _agreed(one: Tensor, base: Tensor) -> Tensor:
    """Return the positions that are the same in both runs, `UNKNOWN` elsewhere."""
    if one.shape != base.shape:
        return _unknown(one.shape, one.device)
    return one.masked_fill(one != base.to(one.device), UNKNOWN)


def _unknown(shape: torch.Size, device: torch.device) -> Tensor:
    return torch.full((), UNKNOWN, device=device).expand(shape)


@dataclass(frozen=True, eq=False)
class Positions:
    """The position of each element of an index, in one run or in both.

    Attributes:
        values: positions, in the index's shape.
        ids: the ids of the run.
        others: the ids of the other run, once both are known.
    """

    values: Tensor
    ids: "Ids"
    others: "Ids | None" = None

    def agreed(self, other: "Positions") -> "Positions":
        """Return the positions that both runs agree on."""
        return Positions(_agreed(self.values, other.values), self.ids, other.ids)

    def credit(self, scores: Tensor) -> Tensor | None:
        """Assign the scores of looked-up embeddings to the ids.

        Args:
            scores: one for each element of the index; 0 where both runs are equal.

        Returns:
            One for each id of all inputs; None if an element with a score comes from unknown ids.
        """
        count, steps, others = self.ids.count, self.ids.steps, self.others.steps if self.others else []
        last = steps[-1] if steps else None
        pool = scores.new_zeros(count if last is None else last.first + last.made.numel())
        sound = _scattered(pool, self.values.to(scores.device), scores)
        matched = len(steps) == len(others) and all(map(_Step.matches, steps, others))
        if not matched and bool(pool[count:].any()):
            return None
        for one, other in zip(reversed(steps), reversed(others), strict=False):
            made = pool[one.first : one.first + one.made.numel()]
            if sound and bool(made.any()):
                for positions, part in one.shares(other, made):
                    sound = sound and not bool(part.isnan().any())
                    sound = sound and _scattered(pool, positions, part.to(pool))
        return pool[:count] if sound else None


def _scattered(pool: Tensor, positions: Tensor, scores: Tensor) -> bool:
    """Add scores to a pool at their positions; return whether all nonzero scores have known positions."""
    positions, scores = positions.flatten(), scores.flatten()
    nonzero = scores != 0
    positions, scores = positions[nonzero], scores[nonzero]
    if bool((positions < 0).any()):
        return False
    pool.scatter_add_(0, positions, scores)
    return True


class Index(NamedTuple):
    """The mark of a tensor computed from ids.

    Attributes:
        token: identifies the run.
        positions: the position of each element.
        version: version of the tensor when it was marked; after a later write, positions are unknown.
    """

    token: object
    positions: Positions
    version: int


class Ids:
    """The ids of one run, and the tensors computed from them.

    Attributes:
        count: number of ids in all inputs.
        steps: the operations whose elements depend on several ids, in order.
    """

    def __init__(self) -> None:
        self._token = object()
        self.count = self._next = 0
        self.steps: list[_Step] = []
        self._under: Tensor | None = None  # positions of the base of a view that is about to be overwritten

    def take(self, ids: Tensor) -> Tensor:
        """Register ids of the inputs, and return a marked copy for the model."""
        positions = torch.arange(self.count, self.count + ids.numel(), device=ids.device)
        self.count = self._next = self.count + ids.numel()
        own = self._mark(differentiable(ids.detach()), positions.view_as(ids))
        return self._mark(own.view_as(ids), positions.view_as(ids))

    def index(self, leaf: Any) -> Index | None:
        """Return the mark of a tensor computed from ids; None for other tensors."""
        found = self._raw(leaf)
        if found is not None and found.version == _version(leaf):
            return found
        base: Any = getattr(leaf, "_base", None)
        under = self._raw(base)
        if found is None and under is None:
            return None
        # The memory of the tensor was modified through another tensor.
        sound = under is not None and under.version == _version(base) and _plain(base)
        positions = _viewed(under.positions.values, leaf) if under is not None and sound else None
        self._mark(leaf, _unknown(leaf.shape, leaf.device) if positions is None else positions)
        return self._raw(leaf)

    def _raw(self, leaf: Any) -> Index | None:
        found: Index | None = getattr(leaf, TAG, None)
        return found if found is not None and found.token is self._token else None

    def before(self, function: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the arguments of a function, copied if it overwrites the first of them."""
        if not args or not changes_in_place(function) or not isinstance(args[0], Tensor):
            return args
        index, base = self.index(args[0]), args[0]._base
        self._under = None
        if base is not None and _plain(base) and (self.index(base) is not None or index is None):
            self._under = self._of(base).clone(memory_format=torch.contiguous_format)
        copied: tuple[Any, ...] = replaced(args, self._copied)
        return copied

    def _copied(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        copied, index = leaf.detach().clone(), self.index(leaf)
        return copied if index is None else self._mark(copied, index.positions.values)

    def follow(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], output: Any) -> None:
        """Mark the output of a function with arguments computed from ids.

        Args:
            function: the torch function.
            args: its arguments, as returned by :meth:`before`.
            kwargs: keyword arguments.
            output: its output; the tensor that it wrote to, if it works in place.
        """
        made = [it for it in leaves(output) if isinstance(it, Tensor)]
        for it, positions in zip(made, self._positions(function, args, kwargs, made), strict=True):
            positions = _unknown(it.shape, it.device) if positions is None else positions.to(it.device)
            self._mark(it, positions)
            if changes_in_place(function) and it._base is not None:
                if self._under is None:
                    self._under = _unknown(it._base.shape, it.device)
                else:
                    _viewed(self._under, it).copy_(positions)
                self._mark(it._base, self._under)

    def _mark(self, tensor: Tensor, positions: Tensor) -> Tensor:
        setattr(tensor, TAG, Index(self._token, Positions(positions, self), _version(tensor)))
        return tensor

    def _positions(
        self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], made: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        """Return the positions of each output tensor; None if they are unknown."""
        if function is Tensor.__setitem__:
            return [self._written(args[0], args[1], args[2], made[0])]
        if function in INDEX_PUT and len(args) == 3 and not kwargs:
            return [self._written(args[0], tuple(args[1]), args[2], made[0])]
        if function in COPYING:
            return [self._written(args[0], ..., [*args, *kwargs.values()][1], made[0])]
        if function in FILLING:
            return [self._written(args[0], ..., [*args[1:], *kwargs.values(), 0][0], made[0])]
        if function in MASKED_SCATTER and len(args) == 3:
            moved = self._of(args[0]).masked_scatter(args[1], self._of(args[2]))
            return [self._chosen(function, moved, args[1:2], made[0])]
        if function in SCATTER and len(args) == 4 and not kwargs:
            new = self._of(args[3]) if isinstance(args[3], Tensor) else CONSTANT
            return [
                self._chosen(function, self._of(args[0]).scatter(args[1], args[2], new), args[2:3], made[0])
            ]
        if function in AMONG and args:
            return [self._chosen(function, self._of(args[0]), (args[1:], kwargs), made[0])]
        if function in COUNTING and len(made) == 1:
            return [self._counted(function, args, kwargs, made[0])]
        if function in ELEMENTWISE and len(made) == 1:
            return [self._elementwise(function, args[:1] if function in LIKE else args, kwargs, made[0])]
        if function in ARRANGING and not changes_in_place(function):
            return self._arranged(function, args, kwargs, made)
        return [None] * len(made)

    def _of(self, tensor: Tensor) -> Tensor:
        index = self.index(tensor)
        if index is None:
            return torch.full((), CONSTANT, device=tensor.device).expand(tensor.shape)
        return index.positions.values

    def _step(
        self,
        function: Any,
        made: Tensor,
        groups: Mapping[Tensor, Sequence[Tensor]],
        replayed: tuple[Any, Any] | None = None,
        linear: bool = False,
        choices: Sequence[Tensor] = (),
    ) -> Tensor:
        """Record a step, and return the new positions of its result.

        Args:
            function: the torch function.
            made: its result.
            groups: the arguments computed from ids, by their positions; empty for a selection.
            replayed: positional and keyword arguments for calling the function again.
            linear: whether it sums.
            choices: the indices of a selection.
        """
        replay = None
        if replayed is not None:
            replay = partial(
                _replay, function, *replayed, [[id(it) for it in group] for group in groups.values()]
            )
        values = tuple(tuple(it.detach().clone() for it in group) for group in groups.values() if group)
        chosen = tuple(it.detach().clone() for it in choices)
        step = _Step(
            function, self._next, made.detach().clone(), values, tuple(groups), replay, linear, chosen
        )
        self.steps.append(step)
        self._next += made.numel()
        return torch.arange(step.first, self._next, device=made.device).view(made.shape)

    def _marked(self, tree: Any) -> list[Tensor]:
        return [leaf for leaf in leaves(tree) if self.index(leaf) is not None]

    def _counted(
        self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], made: Tensor
    ) -> Tensor | None:
        """Return new positions for sums of elements."""
        marked = self._marked((args, kwargs))
        if len(marked) != 1 or changes_in_place(function):
            return None
        further = {name: it for name, it in kwargs.items() if name != "dtype"}
        groups = {self._of(marked[0]): marked}
        return self._step(function, made, groups, (args, further), linear=True)

    def _elementwise(
        self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], made: Tensor
    ) -> Tensor | None:
        """Return the positions of the result of an elementwise function.

        An element whose arguments all have one position, or none, keeps it; others get new positions.
        """
        groups: dict[Tensor, list[Tensor]] = {}
        known = torch.full((), CONSTANT, device=made.device)
        for leaf in self._marked((args, kwargs)):
            if not _fits(leaf, made):
                return None
            positions = self._of(leaf).broadcast_to(made.shape).to(made.device)
            alike = next((it for it in groups if torch.equal(it, positions)), positions)
            groups.setdefault(alike, []).append(leaf)
            known = torch.where(known == CONSTANT, positions, known)
        if all(bool(((it == known) | (it == CONSTANT)).all()) for it in groups):
            return known
        return self._step(function, made, groups, (args, kwargs))

    def _chosen(self, function: Any, moved: Tensor, choices: Any, made: Tensor) -> Tensor | None:
        """Return the positions of elements that were moved by indices, which may be computed from ids."""
        if moved.shape != made.shape:
            return None
        marked = self._marked(choices)
        return self._step(function, made, {moved: ()}, choices=marked) if marked else moved

    def _written(self, target: Tensor, where: Any, value: Any, made: Tensor) -> Tensor | None:
        """Return the positions of a tensor to which a value was written."""
        mask = where[0] if isinstance(where, tuple) and len(where) == 1 else where
        single = not isinstance(value, Tensor) or value.numel() == 1
        if single and self._marked(mask) and isinstance(mask, Tensor) and mask.dtype is torch.bool:
            further = (1,) * (made.dim() - mask.dim())
            spread = self._mark(
                mask.reshape(*mask.shape, *further), self._of(mask).reshape(*mask.shape, *further)
            )
            return self._elementwise(torch.where, (spread, value, target), {}, made)
        moved = self._of(target).clone(memory_format=torch.contiguous_format)
        moved[where] = self._of(value) if isinstance(value, Tensor) else CONSTANT
        return self._chosen(Tensor.__setitem__, moved, where, made)

    def _arranged(
        self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], made: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        """Return the positions of elements that were moved, or looked up in a table."""
        if function is torch.broadcast_tensors:
            return [self._of(arg).broadcast_to(it.shape) for arg, it in zip(args, made, strict=True)]
        name = next((it for it in DATA if it in kwargs), "")
        data: Any = args[0] if args else kwargs.get(name)
        rest = args[1:]
        others = {key: it for key, it in kwargs.items() if args or key != name}
        choices = [] if function in LIKE else self._marked((rest, others))
        if not self._marked(data):
            by_table = function in LOOKING_UP and all(it.dtype is not torch.bool for it in choices)
            shapes = [leaf.shape for leaf in leaves((rest, others)) if isinstance(leaf, Tensor)]
            if not by_table or torch.broadcast_shapes(*shapes) != made[0].shape:  # type: ignore[no-untyped-call]
                return [None] * len(made)
            return [self._elementwise(function, args, kwargs, made[0])]
        if function in STRIDED and not _plain(data):
            return [None] * len(made)

        def arranged(shift: int) -> list[Tensor]:
            moved = replaced(data, lambda it: self._of(it) + shift if isinstance(it, Tensor) else it)
            found = function(moved, *rest, **kwargs) if args else function(**{**kwargs, name: moved})
            return [it for it in leaves(found) if isinstance(it, Tensor)]

        return [
            self._chosen(function, torch.where(far - near == SHIFT, near, CONSTANT), choices, it)
            for near, far, it in zip(arranged(0), arranged(SHIFT), made, strict=True)
        ]


def _replay(function: Any, args: Any, kwargs: Any, names: Any, *groups: tuple[Tensor, ...]) -> Any:
    """Call a function again, with other values for some arguments."""
    new = {
        name: value
        for those, group in zip(names, groups, strict=True)
        for name, value in zip(those, group, strict=True)
    }
    args, kwargs = replaced(
        (tuple(args), dict(kwargs)), lambda leaf: new[id(leaf)].clone() if id(leaf) in new else leaf
    )
    return function(*args, **kwargs)


def _fits(leaf: Tensor, made: Tensor) -> bool:
    """Whether a tensor can be broadcast to the result."""
    sizes = made.shape[made.dim() - leaf.dim() :]
    return leaf.dim() <= made.dim() and all(
        one in (1, other) for one, other in zip(leaf.shape, sizes, strict=True)
    )


def _plain(tensor: Tensor) -> bool:
    """Whether a tensor is contiguous from the start of its storage."""
    return tensor.is_contiguous() and tensor.storage_offset() == 0


def _viewed(positions: Tensor, view: Tensor) -> Tensor:
    """Return the part of a base's positions for a view of the base."""
    return positions.contiguous().as_strided(view.shape, view.stride(), view.storage_offset())


def _version(tensor: Tensor) -> int:
    """Return the version of a tensor; 0 in inference mode, which has none."""
    return 0 if tensor.is_inference() else tensor._version
