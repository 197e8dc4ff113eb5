"""Recompute layers in the backward pass, as gradient checkpointing does, to keep less memory.

A layer of the model's stack is one call, whose rule is the comparison itself. Both runs keep the layer's
arguments that depend on the input, and its outputs. The backward pass runs the layer again at both points,
returns the multipliers of its arguments, and drops its records. The contributions are the same.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from copy import copy
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Self

import torch
from torch import Tensor

from captum_globenc.differences.call import Backward, Call, Pair
from captum_globenc.differences.frozen import FrozenMode, Rules
from captum_globenc.differences.ids import Index
from captum_globenc.differences.mode import TAG, DifferenceMode
from captum_globenc.differences.run import Comparison, RandomNumbers, compare_path, freeze
from captum_globenc.differences.trace import AppliedRule, Route, SavedTensor, Source, Trace
from captum_globenc.errors import UnsupportedOperationError

CONTAINERS = (tuple, list, dict)
"""Types of the arguments and outputs of layers that are searched for tensors."""

SLACK = 1e3
"""Accepted difference between the two runs of a layer at one point, in roundings of its largest output:
some kernels of GPUs add in another order each time."""

KEPT_RUNS = 2
"""Memory that both runs keep of a layer, as a multiple of the memory of the run at the baseline."""

RunLayer = Callable[[str, Callable[..., Any], Any, Any], Any]
"""Runs a layer, given its name, its forward function, and the arguments and keyword arguments of the call."""


@dataclass
class Recomputation:
    """Which layers are recomputed, and how they are found.

    Attributes:
        intercepted: returns a context in which layers are run by a :data:`RunLayer` instead of their own
            forward function.
        count: the number of layers.
        fits: whether a number of bytes fits on a device; the first layer is then measured, and all are
            recomputed only if they would not fit. None recomputes always.
        chosen: whether layers are recomputed; None if that is not known yet.
    """

    intercepted: Callable[[RunLayer], AbstractContextManager[Any]]
    count: int
    fits: Callable[[int, torch.device], bool] | None = None
    chosen: bool | None = None

    def mode(self, *args: Any, **kwargs: Any) -> DifferenceMode:
        """Return a mode of :func:`compare_path` that recomputes layers."""
        return _LayeredMode(*args, **kwargs).of(_Run(), self)

    def frozen_mode(self, *args: Any) -> FrozenMode:
        """Return a mode of :func:`freeze` that recomputes layers."""
        return _LayeredFrozenMode(*args).of(_Run(), self)


class _Run:
    """Identifies a run, and all runs of its layers."""


@dataclass(frozen=True, eq=False)
class _Token:
    """Identifies the tensors that depend on the input in one part of a run: a layer, or all else.

    Attributes:
        run: the run.
    """

    run: _Run


@dataclass(frozen=True)
class _Slot:
    """The place of a tensor in the arguments or outputs of a layer."""

    number: int


@dataclass(frozen=True)
class _Layer:
    """A layer, as the function of a call with a rule; layers of both runs are paired by name."""

    name: str

    def __str__(self) -> str:
        return self.name

    def __call__(self, *dependents: Tensor, call: "_LayerCall") -> tuple[Tensor, ...]:
        """Return the outputs of the layer, which has run already."""
        made, call.made = call.made, ()
        return made


Compare = Callable[[Callable[..., Any], Sequence[Tensor], Sequence[Tensor], Any], Comparison]
"""Compares a function at its inputs and baselines, in modes that the last argument prepares."""


@dataclass(eq=False)
class _LayerCall:
    """A call of a layer in a run.

    Attributes:
        name: the name of the layer.
        forward: its forward function.
        given: its arguments and keyword arguments, with slots for arguments that depend on the input.
        trace: the trace of the run.
        run: the run.
        compare: runs the layer again at both points.
        route: the decisions that the run follows; None if it makes its own.
        numbers: the state of the random generators before the layer ran.
        made: its outputs that depend on the input, until they are taken.
        places: which leaves of its output these are, without integers.
    """

    name: str
    forward: Callable[..., Any]
    given: Any
    trace: Trace
    run: _Run
    compare: Compare
    route: Route | None
    numbers: RandomNumbers
    made: tuple[Tensor, ...] = ()
    places: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._start = 0 if self.route is None else self.route.met
        self._autocast = [
            (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
            for device in ("cpu", "cuda")
        ]

    def filled(self, tensors: Sequence[Tensor]) -> Any:
        """Return the arguments, with tensors for their slots."""

        def fill(leaf: Any) -> Any:
            if isinstance(leaf, _Slot):
                return tensors[leaf.number]
            return leaf.restore() if isinstance(leaf, SavedTensor) else leaf

        return _replaced(self.given, fill)

    def backward(self, call: Call) -> Backward:
        """Return the backward pass of the call; the rule of layers."""
        # Copied if the model overwrites them. Inference tensors have no version.
        self.given = _replaced(
            self.given,
            lambda leaf: (
                self.trace.save(leaf) if isinstance(leaf, Tensor) and not leaf.is_inference() else leaf
            ),
        )
        expected = [(self.trace.save(it.value), self.trace.save(it.base)) for it in call.outputs]
        pairs = call.pairs
        return lambda *grads: self._multipliers(pairs, expected, grads)

    def _multipliers(
        self,
        pairs: Sequence[Pair],
        expected: Sequence[tuple[SavedTensor, SavedTensor]],
        grads: Sequence[Tensor | None],
    ) -> list[tuple[Pair, Tensor]]:
        """Run the layer again at both points, and return the multipliers of its arguments."""

        def function(*tensors: Tensor) -> tuple[Any, ...]:
            args, kwargs = self.filled(tensors)
            found = list(_leaves(self.forward(*args, **kwargs)))
            if len(found) <= max(self.places):
                raise self._differs()
            return tuple(found[place] for place in self.places)

        def again(mode: _Layered) -> Any:
            start = None if self.route is None else Route(self.route.decisions, self._start)
            return mode.of(self.run).inside(self.name, self.trace.protect, start)

        with ExitStack() as stack:
            stack.enter_context(self.numbers.again())
            for device, dtype, enabled in self._autocast:
                stack.enter_context(torch.autocast(device, dtype, enabled))
            comparison = self.compare(function, [it.value for it in pairs], [it.base for it in pairs], again)
        for found, base, (value, at_baseline) in zip(
            comparison.output, comparison.base or comparison.output, expected, strict=True
        ):
            if not (_close(found, value.restore()) and _close(base, at_baseline.restore())):
                raise self._differs()
        made = comparison.pull(
            [
                torch.zeros_like(at) if it is None else it
                for it, at in zip(grads, comparison.output, strict=True)
            ]
        )
        self.trace.rounding.extend(comparison.trace.rounding)
        return [(pair, it) for pair, it in zip(pairs, made, strict=True) if it is not None]

    def _differs(self) -> UnsupportedOperationError:
        return _unsupported(
            f"{self.name} computes other values when it runs again: it depends on something that changes"
        )


class _Layered(DifferenceMode):
    """A mode in which layers are recomputed; the mode of a layer itself, if :meth:`inside` was called."""

    _layers: Recomputation | None = None
    _layer = ""
    _protect_outside: Callable[[Tensor], None] | None = None
    _suspended = False
    _entered = 0
    _reached = 0

    def of(self, run: _Run, layers: Recomputation | None = None) -> Self:
        """Return the mode as a part of a run."""
        self._token: _Token = _Token(run)
        self._layers, self._contexts = layers, ExitStack()
        return self

    def inside(self, name: str, protect: Callable[[Tensor], None], route: Route | None) -> Self:
        """Return the mode as that of a layer.

        Args:
            name: of the layer.
            protect: protects values that the run keeps outside of the layer.
            route: the decisions to follow.
        """
        self._layer, self._protect_outside, self._route = name, protect, route
        return self

    def __enter__(self) -> Self:
        """Enter the mode, and intercept layers; rules of the mode may enter it again."""
        super().__enter__()  # type: ignore[no-untyped-call]
        self._entered += 1
        if self._entered == 1 and self._layers is not None:
            self._contexts.enter_context(self._layers.intercepted(self._call_layer))
        return self

    def __exit__(self, *error: Any) -> None:
        """Leave the mode."""
        self._entered -= 1
        if not self._entered:
            self._contexts.close()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a torch function; one that a layer calls is left to the mode of the layer."""
        if self._suspended:
            return func(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)

    def depends(self, value: Any) -> bool:
        """Whether a value depends on the input.

        Raises:
            UnsupportedOperationError: it does, but was neither passed to the layer nor returned by it.
        """
        if super().depends(value):
            return True
        for it in (value, value._base) if self._views and isinstance(value, Tensor) else (value,):
            token = getattr(it, TAG, None)
            if isinstance(token, _Token) and token.run is self._token.run and token is not self._token:
                raise _unsupported(
                    f"{self._layer or 'The model'} reads a value that depends on the input but is not passed "
                    "on as a tensor, such as a cache of keys and values or an attribute of a module"
                )
        return False

    def source(self, value: Tensor, index: Index | None = None) -> Tensor:
        """Register a source; a layer has no other than its arguments."""
        if not self._layer:
            return super().source(value, index)
        if index is not None:
            raise _unsupported(f"{self._layer} looks up embeddings by ids")
        return self._argument(value.detach())

    def _argument(self, value: Tensor) -> Tensor:
        """Register an argument of a layer, which does not write to it, as a source."""
        if self._record is not None:
            self._record.sources.append(Source(value, value))
        if self._alone:
            self._trace.sources.append(Source(None, value))
        if not self._at_input:
            return self._tagged(value)
        self._trace.once = True
        source = self._trace.next_source()
        source.leaf = value.requires_grad_()
        with torch.enable_grad():
            return self._tagged(value.view_as(value))

    def _protect(self, target: Tensor) -> None:
        super()._protect(target)
        if self._protect_outside is not None:
            self._protect_outside(target)

    def _call_layer(self, name: str, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run a layer, as one call with a rule if it is recomputed."""
        if self._suspended:
            return forward(*args, **kwargs)
        layers, keeps = self._layers, self._at_input or self._record is not None
        assert layers is not None
        first, self._reached = not self._reached, self._reached + 1
        if layers.fits is None or (layers.chosen and not first and keeps):
            # Leaving inference mode turns gradients on, but an autograd function has them off.
            graph = torch.is_grad_enabled() or torch.is_inference_mode_enabled()
            with torch.inference_mode(False), torch.set_grad_enabled(graph):
                self._suspended = True
                try:
                    return self._recomputed(name, forward, args, kwargs)
                finally:
                    self._suspended = False
        if not (first and keeps and layers.chosen is None):
            return forward(*args, **kwargs)
        before = self._kept_count()
        output = forward(*args, **kwargs)
        kept = {it.untyped_storage().data_ptr(): it for it in self._kept_since(before)}
        size = sum(it.untyped_storage().nbytes() for it in kept.values())
        device = next(iter(kept.values())).device if kept else torch.device("cpu")
        layers.chosen = not layers.fits(KEPT_RUNS * size * (layers.count - 1), device)
        return output

    def _recomputed(self, name: str, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run a layer without keeping what its operations read."""
        dependents = [leaf for leaf in _leaves((args, kwargs)) if self.depends(leaf)]
        if not dependents:
            self._suspended = False
            return forward(*args, **kwargs)
        slots = iter(range(len(dependents)))
        given = _replaced((args, kwargs), lambda it: _Slot(next(slots)) if self.depends(it) else it)
        if self._at_input and any(map(self._may_be_altered, dependents)):
            dependents = [self._unwrapped(it) for it in dependents]
        call = _LayerCall(
            name, forward, given, self._trace, self._token.run, self._comparing(), self._route,
            RandomNumbers(dependents),
        )  # fmt: skip
        mode = copy(self).of(self._token.run).inside(name, self._protect, self._route)
        mode._trace, mode._record, mode._values = Trace(), None, None
        mode._at_input = mode._suspended = mode._views = False
        mode._entered = 0
        passed = [mode._tagged(it.detach()) for it in dependents]
        versions = [it._version for it in passed]
        args, kwargs = call.filled(passed)
        with torch.enable_grad(), mode:
            output = forward(*args, **kwargs)
        if [it._version for it in passed] != versions:
            raise _unsupported(f"{name} writes to its arguments in place")
        self._trace.operations |= mode._trace.operations
        self._trace.rounded |= mode._trace.rounded
        self._trace.lowest = max(self._trace.lowest, mode._trace.lowest, key=lambda it: torch.finfo(it).eps)
        self._views = self._views or mode._views
        known = {id(leaf) for leaf in _leaves((args, kwargs))}
        made: dict[int, Tensor] = {}

        def take(place_and_leaf: tuple[int, Any]) -> Any:
            place, leaf = place_and_leaf
            if not isinstance(leaf, Tensor):
                return leaf
            if id(leaf) in made:
                return _Slot(list(made).index(id(leaf)))
            if mode.depends(leaf):
                if leaf.is_complex():
                    raise _unsupported(f"{name} returns complex numbers")
                call.places.append(place)
            elif leaf.is_floating_point() or id(leaf) in known or self._alone or self._route is not None:
                return leaf
            # Integers may be decisions, which must be the same in both runs.
            made[id(leaf)] = leaf.clone() if id(leaf) in known else leaf
            return _Slot(len(made) - 1)

        places = iter(range(sum(1 for _ in _leaves(output))))
        tree = _replaced(output, lambda leaf: take((next(places), leaf)))
        if not call.places:
            return output
        call.made = tuple(made.values())
        outputs = self._apply_rule(_rule, _Layer(name), tuple(dependents), {"call": call})
        return _replaced(tree, lambda leaf: outputs[leaf.number] if isinstance(leaf, _Slot) else leaf)

    def _comparing(self) -> Compare:
        raise NotImplementedError

    def _kept_count(self) -> int:
        return len(self._record.calls) if self._record is not None else len(self._trace._kept)

    def _kept_since(self, before: int) -> Iterator[Tensor]:
        """Return the tensors that the run keeps of the operations since a number of them."""
        if self._record is not None:
            for call in islice(self._record.calls, before, None):
                yield from (*call.arguments, *(it for it in call.outputs if isinstance(it, Tensor)))
        else:
            for reference in self._trace._kept[before:]:
                applied = reference()
                if isinstance(applied, AppliedRule):
                    yield from (pair.value for pair in applied.pairs)


class _LayeredMode(_Layered):
    """The mode of one run of a comparison."""

    def _comparing(self) -> Compare:
        table, precision, measured = self._table, self._precision, self._trace.measured

        def compare(function: Any, values: Any, bases: Any, prepare: Any) -> Comparison:
            (comparison,) = compare_path(
                function,
                [bases, values],
                table=table,
                precision=precision,
                measure_rounding=measured,
                mode=lambda *args, **kwargs: prepare(_LayeredMode(*args, **kwargs)),
            )
            return comparison

        return compare


class _LayeredFrozenMode(FrozenMode, _Layered):
    """The mode of the one run of a frozen network."""

    def _comparing(self) -> Compare:
        rules = Rules(self._table, self._slopes)

        def compare(function: Any, values: Any, bases: Any, prepare: Any) -> Comparison:
            return freeze(function, values, rules, mode=lambda *args: prepare(_LayeredFrozenMode(*args)))

        return compare


def _rule(call: Call) -> Backward:
    made: Backward = call.kwargs["call"].backward(call)
    return made


def _close(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal except for a few roundings."""
    if torch.equal(one, other):
        return True
    finite = one.isfinite() & other.isfinite()
    same = finite | (one == other) | (one.isnan() & other.isnan())
    one, other = (torch.where(finite, it, 0) for it in (one, other))
    bound = SLACK * torch.finfo(one.dtype).eps * other.abs().max()
    return bool(same.all() & ((one - other).abs() <= bound).all())


def _unsupported(reason: str) -> UnsupportedOperationError:
    return UnsupportedOperationError(f"{reason}. Such a layer cannot be recomputed: pass recompute=False.")


def _leaves(tree: Any) -> Iterator[Any]:
    """Iterate over the leaves of nested containers; objects of other types are leaves."""
    if type(tree) not in CONTAINERS:
        yield tree
        return
    for item in tree.values() if type(tree) is dict else tree:
        yield from _leaves(item)


def _replaced(tree: Any, change: Callable[[Any], Any]) -> Any:
    """Return nested containers with each leaf replaced by `change(leaf)`."""
    if type(tree) not in CONTAINERS:
        return change(tree)
    if type(tree) is dict:
        return {key: _replaced(item, change) for key, item in tree.items()}
    return type(tree)(_replaced(item, change) for item in tree)
