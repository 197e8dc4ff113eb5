"""What sees every torch function of a pass, and takes note of those whose arguments depend on the input.

A forward function runs twice: at the input, with a graph for the backward pass, and at the baseline. The
k-th call that has a rule in the one run belongs to the k-th in the other, so nothing has to be known of
where the batch lies in a tensor. Linear functions are left to torch's own gradients.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from captum_globenc.differences.call import CONSTANT, LINEAR, Rule, leaves, no_view, replaced
from captum_globenc.differences.kinds import (
    ARRANGING,
    DECISIONS,
    IDENTITIES,
    LIKE,
    PLAIN,
    QUADRATIC_FUNCTIONS,
    SOURCES,
    WHOLE_NUMBERS,
)
from captum_globenc.differences.ledger import Entry, Index, Ledger, Node, Slot, Source
from captum_globenc.differences.names import changes_in_place, spelt
from captum_globenc.differences.refusal import NotComparableError
from captum_globenc.differences.table import EXACT, Row

__all__ = ["Watch"]

TAG, INDEX_TAG = "_captum_globenc_depends", "_captum_globenc_index"
HALF = (torch.float16, torch.bfloat16)


class Watch(TorchFunctionMode):
    """Sees one of the two runs.

    Args:
        ledger: what both share.
        at_input: which run it is; that at the input goes first.
        table: rows by function.
        values: what the sources are taken to be instead of what is looked up, in order.
        alone: whether there is no other run: rules then see twice the same.
    """

    def __init__(
        self,
        ledger: Ledger,
        at_input: bool,
        table: Mapping[Callable[..., Any], Row] = EXACT,
        values: Sequence[Tensor] | None = None,
        alone: bool = False,
    ) -> None:
        super().__init__()
        self._ledger = ledger
        self._at_input = at_input
        self._table = table
        self._values = values
        self._alone = alone
        self._entry = self._source = 0
        self._token = object()

    def source(self, value: Tensor, index: Index | None = None) -> Tensor:
        """Take a tensor of floats as a source, and return it as the model is to see it."""
        if self._values is not None:
            value = self._values[self._source]
        value = value.detach()
        value = value.float() if value.dtype in HALF else value
        if self._at_input:
            leaf = value.clone().requires_grad_()
            found = (index.number, index.places) if index else (None, None)
            self._ledger.sources.append(Source(leaf, None, *found))
            with torch.enable_grad():
                value = leaf.clone()
        elif self._source >= len(self._ledger.sources):
            raise self._differs("it looked up more of the inputs")
        else:
            self._ledger.sources[self._source].base = value
        self._source += 1
        return self._tagged(value)

    def index(self, ids: Tensor, number: int) -> Tensor:
        """Take token ids as what sources are looked up by, and return them as the model is to see them."""
        places = torch.arange(ids.numel(), device=ids.device).view_as(ids)
        return self._numbered(ids.detach().view_as(ids), number, places)

    def depends(self, value: Any) -> bool:
        """Whether a value depends on the input."""
        return getattr(value, TAG, None) is self._token

    def finished(self) -> None:
        """Check, at the end of the second run, that both did the same.

        Raises:
            NotComparableError: they did not.
        """
        if self._entry < len(self._ledger.entries):
            raise self._differs(f"it never called {spelt(self._ledger.entries[self._entry].function)}")

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function of torch, and take note of it."""
        kwargs = kwargs or {}
        index = None
        for leaf in leaves(args[:1] if func in LIKE else (args, kwargs)):
            if isinstance(leaf, Tensor):
                if self.depends(leaf):
                    return self._call(func, args, kwargs)
                index = self._index_of(leaf) or index
        output = func(*args, **kwargs)
        return output if index is None else self._follow(index, func, args, kwargs, output)

    def _follow(self, index: Index, func: Any, args: Any, kwargs: Any, output: Any) -> Any:
        """See what becomes of token ids: more of them, or numbers that are looked up by them."""
        if func in SOURCES:
            return self.source(output, index)
        made = [leaf for leaf in leaves(output) if isinstance(leaf, Tensor) and not leaf.is_floating_point()]
        places: list[Any] = [None] * len(made)
        if made and (func in ARRANGING or func in WHOLE_NUMBERS) and not changes_in_place(func):
            args, kwargs = replaced((args, kwargs), self._place_of)
            if all(leaf is not LOST for leaf in leaves((args, kwargs))):
                places = [leaf for leaf in leaves(func(*args, **kwargs)) if isinstance(leaf, Tensor)]
        for leaf, where in zip(made, places, strict=True):
            self._numbered(leaf, index.number, where)
        return output

    def _place_of(self, leaf: Any) -> Any:
        index = self._index_of(leaf)
        if index is None:
            return leaf
        return LOST if index.places is None else index.places

    def _index_of(self, leaf: Any) -> Index | None:
        found = getattr(leaf, INDEX_TAG, None)
        return found if found is not None and found.token is self._token else None

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function of which some argument depends on the input."""
        if func in PLAIN:
            return func(*args, **kwargs)
        if func in DECISIONS:
            return self._decide(func, args, kwargs)
        row = self._table.get(func)
        if row is None or kwargs.get("out") is not None:
            raise NotComparableError(
                f"{spelt(func)} has no rule for exact differences. Add one, "
                "captum_globenc.differences.register_rule(function, rule), or use another method."
            )
        self._ledger.functions.add(func)
        if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
                return self._by(row, func, args, kwargs)
        return self._by(row, func, args, kwargs)

    def _by(self, row: Row, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function by its row."""
        args, kwargs = replaced((args, kwargs), self._prepared)
        in_place = changes_in_place(func)
        if row.composition is not None:
            with self:
                output = row.composition(self.depends, *args, **kwargs)
            if output is not NotImplemented:
                return self._written(args[0], output) if in_place else output
        rule = row.rule
        if rule == CONSTANT:
            return func(*args, **kwargs)
        if rule is None:
            raise NotComparableError(f"{spelt(func)} has no rule for exact differences with these arguments.")
        alone = func in QUADRATIC_FUNCTIONS and sum(map(self.depends, leaves((args, kwargs)))) == 1
        if rule == LINEAR or alone:
            return self._linear(func, args, kwargs, in_place)
        if kwargs.get("inplace"):
            kwargs = {**kwargs, "inplace": False}
        if not in_place:
            return self._ruled(cast(Rule, rule), func, args, kwargs)
        target = args[0]
        copied = self._tagged(target.clone()) if self.depends(target) else target.clone()
        return self._written(target, self._ruled(cast(Rule, rule), func, (copied, *args[1:]), kwargs))

    def _prepared(self, leaf: Any) -> Any:
        """Return an argument without gradients of what does not depend on the input, and no half floats."""
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
                output = args[0].to(output.device).view_as(args[0])
        if self._at_input and isinstance(output, Tensor) and not output.requires_grad:
            raise NotComparableError(
                f"{spelt(func)} has no gradient with these arguments, as where activations are quantised. "
                "Take the model before it was quantised, or quantise its weights alone."
            )
        if in_place:
            self._changed(args[0])
        return self._noted(output)

    def _written(self, target: Tensor, output: Tensor) -> Tensor:
        """Write into a tensor in place, with what it depends on."""
        with torch.set_grad_enabled(self._at_input):
            target.copy_(output)
        return self._changed(target)

    def _changed(self, target: Tensor) -> Tensor:
        if target._base is not None:
            self._tagged(target._base)
        return self._tagged(target)

    def _ruled(self, rule: Rule, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function whose rule needs both runs."""
        dependents = [leaf for leaf in leaves((args, kwargs)) if self.depends(leaf)]
        marked_args, marked_kwargs = replaced((args, kwargs), self._slot)
        with torch.no_grad():
            given = (args[0].clone(), *args[1:]) if changes_in_place(func) else args
            output = replaced(func(*given, **kwargs), no_view)
        outputs = tuple(
            leaf for leaf in leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()
        )
        if not self._at_input:
            entry = self._next(func)
            shapes = [slot.value.shape for slot in entry.slots]
            if shapes != [tensor.shape for tensor in dependents]:
                raise self._differs(f"{spelt(func)} was called with other shapes")
            entry.close(dependents, outputs)
            return self._noted(output)
        entry = Entry(func, rule, marked_args, marked_kwargs, tuple(it.detach() for it in outputs))
        if self._alone:
            entry.close(dependents, outputs)
        else:
            self._ledger.entries.append(entry)
        with torch.enable_grad():
            joined: Any = Node.apply(entry, outputs, *dependents)  # type: ignore[no-untyped-call]
        new = joined if len(outputs) > 1 else (joined,)
        of = {id(old): it for old, it in zip(outputs, new, strict=True)}
        return self._noted(replaced(output, lambda leaf: of.get(id(leaf), leaf)))

    def _slot(self, leaf: Any) -> Any:
        return Slot(leaf.detach(), leaf._version) if self.depends(leaf) else leaf

    def _decide(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function that decides what the model does, which has to be the same in both runs."""
        args, kwargs = replaced(
            (args, kwargs), lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf
        )
        output = func(*args, **kwargs)
        found = output.detach().clone() if isinstance(output, Tensor) else output
        if self._at_input:
            self._ledger.entries += [] if self._alone else [Entry(func, outputs=found)]
            return output
        other = self._next(func).outputs
        same = torch.equal(found, cast(Tensor, other)) if isinstance(found, Tensor) else found == other
        if not same:
            raise NotComparableError(
                f"{spelt(func)} decides what the model does, and came out otherwise at the baseline than at "
                "the input: their difference cannot be shared out among the inputs. Choose a closer baseline."
            )
        return output

    def _next(self, func: Any) -> Entry:
        if self._entry >= len(self._ledger.entries):
            raise self._differs(f"it called {spelt(func)} once more")
        entry = self._ledger.entries[self._entry]
        self._entry += 1
        if entry.function != func:
            raise self._differs(f"it called {spelt(func)} instead of {spelt(entry.function)}")
        return entry

    def _differs(self, what: str) -> NotComparableError:
        return NotComparableError(
            f"forward_func did something else at the baseline than at the input: {what}. Exact differences "
            "need the same operations in both runs."
        )

    def _noted(self, output: Any) -> Any:
        """Tag what depends on the input: all floats that came of it."""
        for leaf in leaves(output):
            if isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex()):
                self._tagged(leaf)
                if torch.finfo(leaf.dtype).eps > torch.finfo(self._ledger.lowest).eps:
                    self._ledger.lowest = leaf.dtype
        return output

    def _tagged(self, tensor: Tensor) -> Tensor:
        setattr(tensor, TAG, self._token)
        return tensor

    def _numbered(self, ids: Tensor, number: int, places: Tensor | None) -> Tensor:
        setattr(ids, INDEX_TAG, Index(self._token, number, places))
        return ids


LOST: Any = object()  # the places of ids that were reckoned with
