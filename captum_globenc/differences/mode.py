"""What sees every torch function of a pass, and takes note of those whose arguments depend on the input.

A forward function runs twice: at the input, with a graph for the backward pass, and at the baseline. The
k-th call that has a rule in the one run belongs to the k-th in the other, so nothing has to be known of
where the batch lies in a tensor. Linear functions are left to torch's own gradients.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from captum_globenc.differences.call import LINEAR, Backward, Call, Pair, Rule, leaves, replaced
from captum_globenc.differences.kinds import DECISIONS, IDENTITIES, PLAIN, QUADRATIC_FUNCTIONS, SOURCES
from captum_globenc.differences.names import changes_in_place, spelt
from captum_globenc.differences.table import EXACT, Row

__all__ = ["Ledger", "Source", "Watch"]

TAG, INDEX_TAG = "_captum_globenc_depends", "_captum_globenc_index"
HALF = (torch.float16, torch.bfloat16)


@dataclass
class Source:
    """Numbers that the input becomes: itself, or what was looked up of it.

    Attributes:
        leaf: at the input, a leaf of the graph.
        base: at the baseline, once that has run.
        number: of the ids that it was looked up by, None for inputs that are floats themselves.
    """

    leaf: Tensor
    base: Tensor | None = None
    number: int | None = None


@dataclass
class _Entry:
    """A call in the run at the input, until the run at the baseline has come by."""

    function: Callable[..., Any]
    row: Rule | None = None  # None for a decision
    args: Any = ()
    kwargs: Any = None
    outputs: Any = None
    versions: list[int] = field(default_factory=list)
    backward: Backward | None = None
    pairs: list[Pair] = field(default_factory=list)


@dataclass
class Ledger:
    """What both runs share.

    Attributes:
        entries: calls that have a rule, in order.
        sources: in order.
        functions: every function that was met with a value that depends on the input.
        lowest: the dtype of the lowest precision that was computed in.
    """

    entries: list[_Entry] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    functions: set[Callable[..., Any]] = field(default_factory=set)
    lowest: torch.dtype = torch.float64


class _Node(torch.autograd.Function):
    """A call in the graph; its backward pass is known once the baseline has run."""

    @staticmethod
    def forward(ctx: Any, entry: _Entry, outputs: tuple[Tensor, ...], *dependents: Tensor) -> Any:
        ctx.entry = entry
        return outputs if len(outputs) > 1 else outputs[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        entry = ctx.entry
        made: dict[int, Tensor] = {}
        for pair, multiplier in entry.backward(*grads):
            made[id(pair)] = made[id(pair)] + multiplier if id(pair) in made else multiplier
        return None, None, *(made.get(id(pair)) for pair in entry.pairs)


class Watch(TorchFunctionMode):
    """Sees one of the two runs.

    Args:
        ledger: what both share.
        at_input: which run it is; that at the input goes first.
        table: rows by function.
        values: what the sources are taken to be instead of what is looked up, in order.
    """

    def __init__(
        self,
        ledger: Ledger,
        at_input: bool,
        table: dict[Callable[..., Any], Row] = EXACT,
        values: Sequence[Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.ledger = ledger
        self._at_input = at_input
        self._table = table
        self._values = values
        self._entry = self._source = 0
        self._token = object()

    def source(self, value: Tensor, number: int | None = None) -> Tensor:
        """Take a tensor of floats as a source, and return it as the model is to see it."""
        if self._values is not None:
            value = self._values[self._source]
        value = value.detach()
        value = value.float() if value.dtype in HALF else value
        if self._at_input:
            leaf = value.clone().requires_grad_()
            self.ledger.sources.append(Source(leaf, number=number))
            with torch.enable_grad():
                value = leaf.clone()
        else:
            if self._source >= len(self.ledger.sources):
                raise self._differs("it looked up more of the inputs")
            self.ledger.sources[self._source].base = value
        self._source += 1
        return self._tagged(value)

    def index(self, ids: Tensor, number: int) -> Tensor:
        """Take token ids as what sources are looked up by, and return them as the model is to see them."""
        return self._numbered(ids.detach().view_as(ids), number)

    def depends(self, value: Any) -> bool:
        """Whether a value depends on the input."""
        return getattr(value, TAG, None) is self._token

    def finished(self) -> None:
        """Check that both runs did the same.

        Raises:
            ValueError: they did not.
        """
        if not self._at_input and self._entry < len(self.ledger.entries):
            raise self._differs(f"it never called {spelt(self.ledger.entries[self._entry].function)}")

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function of torch, and take note of it."""
        kwargs = kwargs or {}
        number = None
        for leaf in leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                if self.depends(leaf):
                    return self._call(func, args, kwargs)
                token, of = getattr(leaf, INDEX_TAG, (None, None))
                number = of if token is self._token else number
        output = func(*args, **kwargs)
        if number is None:
            return output
        if func in SOURCES:
            return self.source(output, number)
        for leaf in leaves(output):
            if isinstance(leaf, Tensor) and not leaf.is_floating_point():
                self._numbered(leaf, number)
        return output

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function of which some argument depends on the input."""
        if func in PLAIN:
            return func(*args, **kwargs)
        if func in DECISIONS:
            return self._decide(func, args, kwargs)
        row = self._table.get(func)
        if row is None or kwargs.get("out") is not None:
            raise ValueError(
                f"{spelt(func)} has no rule for exact differences. Add one, "
                "captum_globenc.differences.register_rule(function, rule), or use another method."
            )
        self.ledger.functions.add(func)
        if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
                return self._by(row, func, args, kwargs)
        return self._by(row, func, args, kwargs)

    def _by(self, row: Row, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args, kwargs = replaced((args, kwargs), self._prepared)
        in_place = changes_in_place(func)
        if row.composition is not None:
            with self:
                output = row.composition(self.depends, *args, **kwargs)
            if output is not NotImplemented:
                return self._written(args[0], output) if in_place else output
        dependents = [leaf for leaf in leaves((args, kwargs)) if self.depends(leaf)]
        rule = row.rule
        if rule is None:
            raise ValueError(f"{spelt(func)} has no rule for these arguments")
        if rule == LINEAR or (len(dependents) == 1 and func in QUADRATIC_FUNCTIONS):
            return self._linear(func, args, kwargs, in_place)
        if kwargs.get("inplace"):
            kwargs = {**kwargs, "inplace": False}
        if in_place:
            target = args[0]
            copied = self._tagged(target.clone()) if self.depends(target) else target.clone()
            output = self._ruled(cast(Rule, rule), func, (copied, *args[1:]), kwargs)
            return self._written(target, output)
        return self._ruled(cast(Rule, rule), func, args, kwargs)

    def _prepared(self, leaf: Any) -> Any:
        """Return an argument without the gradients of what does not depend on the input, and no half floats."""
        if not isinstance(leaf, Tensor) or self.depends(leaf):
            return leaf
        if leaf.requires_grad:
            leaf = leaf.detach()
        return leaf.float() if leaf.dtype in HALF else leaf

    def _linear(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], in_place: bool) -> Any:
        with torch.set_grad_enabled(self._at_input):
            output = args[0].view_as(args[0]) if func in IDENTITIES else func(*args, **kwargs)
            if isinstance(output, Tensor) and output.dtype in HALF:
                # Differences of rounded numbers are noise: what was asked for stays as exact as it was.
                (whole,) = (leaf for leaf in leaves((args, kwargs)) if self.depends(leaf))
                output = whole.to(output.device).view_as(whole)
        if in_place or func is Tensor.__setitem__:
            self._tagged(args[0])
            if args[0]._base is not None:
                self._tagged(args[0]._base)
        return self._noted(output)

    def _written(self, target: Tensor, output: Tensor) -> Tensor:
        """Write into a tensor in place, with what it depends on."""
        with torch.set_grad_enabled(self._at_input):
            target.copy_(output)
        if target._base is not None:
            self._tagged(target._base)
        return self._tagged(target)

    def _ruled(self, rule: Rule, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with torch.no_grad():
            plain_args, plain_kwargs = replaced((args, kwargs), self._plain)
            output = func(*plain_args, **plain_kwargs)
        outputs = tuple(
            leaf for leaf in leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()
        )
        dependents = [leaf for leaf in leaves((args, kwargs)) if self.depends(leaf)]
        if not self._at_input:
            self._close(func, dependents, outputs)
            return self._noted(output)
        marked = replaced((args, kwargs), lambda leaf: _Slot(leaf.detach()) if self.depends(leaf) else leaf)
        entry = _Entry(
            func,
            rule,
            *marked,
            tuple(it.detach() for it in outputs),
            [tensor._version for tensor in dependents],
        )
        self.ledger.entries.append(entry)
        with torch.enable_grad():
            joined = _Node.apply(entry, outputs, *dependents)
        of = {
            id(old): new for old, new in zip(outputs, joined if len(outputs) > 1 else [joined], strict=True)
        }
        return self._noted(replaced(output, lambda leaf: of.get(id(leaf), leaf)))

    def _plain(self, leaf: Any) -> Any:
        return leaf.detach() if isinstance(leaf, Tensor) and leaf.requires_grad else leaf

    def _close(self, func: Any, dependents: list[Tensor], outputs: tuple[Tensor, ...]) -> None:
        """Let the rule see both runs of a call, and keep nothing but what it needs."""
        entry = self._next(func)
        slots = [leaf for leaf in leaves((entry.args, entry.kwargs)) if isinstance(leaf, _Slot)]
        shapes = [(slot.value.shape, tensor.shape) for slot, tensor in zip(slots, dependents, strict=False)]
        if entry.row is None or len(slots) != len(dependents) or any(one != other for one, other in shapes):
            raise self._differs(f"{spelt(func)} was called with other shapes")
        if any(slot.value._version != version for slot, version in zip(slots, entry.versions, strict=True)):
            raise ValueError(
                f"what {spelt(func)} was given was changed in place later: exact differences need it as it was"
            )
        entry.pairs = [Pair(slot.value, tensor) for slot, tensor in zip(slots, dependents, strict=True)]
        of = {id(slot): pair for slot, pair in zip(slots, entry.pairs, strict=True)}
        args, kwargs = replaced((entry.args, entry.kwargs), lambda leaf: of.get(id(leaf), leaf))
        paired = tuple(Pair(*both) for both in zip(entry.outputs, outputs, strict=True))
        with torch.no_grad():
            try:
                entry.backward = entry.row(Call(func, args, kwargs, paired))
            except ValueError as error:
                raise ValueError(f"{spelt(func)} has no rule for exact differences here: {error}") from None
        entry.args = entry.kwargs = entry.outputs = None

    def _decide(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = func(*args, **kwargs)
        found = output.detach().clone() if isinstance(output, Tensor) else output
        if self._at_input:
            self.ledger.entries.append(_Entry(func, outputs=found))
            return output
        other = self._next(func).outputs
        if isinstance(found, Tensor):
            same = isinstance(other, Tensor) and found.shape == other.shape and bool((found == other).all())
        else:
            same = found == other
        if not same:
            raise ValueError(
                f"{spelt(func)} decides what the model does, and came out otherwise at the baseline than at the "
                "input: their difference cannot be shared out among the inputs. Choose a baseline that is closer."
            )
        return output

    def _next(self, func: Any) -> _Entry:
        if self._entry >= len(self.ledger.entries):
            raise self._differs(f"it called {spelt(func)} once more")
        entry = self.ledger.entries[self._entry]
        self._entry += 1
        if entry.function != func:
            raise self._differs(f"it called {spelt(func)} instead of {spelt(entry.function)}")
        return entry

    def _differs(self, what: str) -> ValueError:
        return ValueError(
            f"forward_func did something else at the baseline than at the input: {what}. Exact differences need "
            "the same operations in both runs."
        )

    def _noted(self, output: Any) -> Any:
        """Tag what depends on the input: all floats that came of it."""
        for leaf in leaves(output):
            if isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex()):
                self._tagged(leaf)
                if torch.finfo(leaf.dtype).eps > torch.finfo(self.ledger.lowest).eps:
                    self.ledger.lowest = leaf.dtype
        return output

    def _tagged(self, tensor: Tensor) -> Tensor:
        setattr(tensor, TAG, self._token)
        return tensor

    def _numbered(self, ids: Tensor, number: int) -> Tensor:
        setattr(ids, INDEX_TAG, (self._token, number))
        return ids


@dataclass(frozen=True, eq=False)
class _Slot:
    """The place of an argument that depends on the input, with its value at the input."""

    value: Tensor
