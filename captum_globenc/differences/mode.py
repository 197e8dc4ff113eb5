"""What sees every torch function of a pass, and takes note of those whose arguments depend on the input.

A forward function runs twice: at the input, with a graph for the backward pass, and at the baseline. The
k-th call that has a rule in the one run belongs to the k-th in the other, so nothing has to be known of
where the batch lies in a tensor. Linear functions are left to torch's own gradients.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from captum_globenc.differences.call import CONSTANT, LINEAR, Rule, differentiable, leaves, no_view, replaced
from captum_globenc.differences.ids import Ids, Index
from captum_globenc.differences.kinds import (
    CASTS,
    DECISIONS,
    FILLED,
    IDENTITIES,
    LIKE,
    PLAIN,
    QUADRATIC_FUNCTIONS,
    SOURCES,
)
from captum_globenc.differences.ledger import Course, Entry, Ledger, Slot, Source, joined
from captum_globenc.differences.names import changes_in_place, spelt
from captum_globenc.differences.refusal import NotComparableError
from captum_globenc.differences.table import EXACT, Row

__all__ = ["Watch"]

TAG = "_captum_globenc_depends"
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
        self._values = None if values is None else iter(values)
        self._alone = alone
        self.course = Course(ledger)
        self._token = object()
        self._ids = Ids()
        self._views = False  # whether there may be views of what was written into

    def source(self, value: Tensor, index: Index | None = None) -> Tensor:
        """Take a tensor of floats as a source, and return it as the model is to see it."""
        value = (value if self._values is None else next(self._values, value)).detach()
        value = value.float() if value.dtype in HALF else value
        places = None if index is None else index.places
        if self._at_input:
            leaf = value.clone().requires_grad_()
            self._ledger.sources.append(Source(leaf, None, index is not None, places))
            with torch.enable_grad():
                value = leaf.clone()
        else:
            self.course.source(value, places)
        return self._tagged(value)

    def ids(self, ids: Tensor) -> Tensor:
        """Take token ids as what sources are looked up by, and return them as the model is to see them."""
        return self._ids.take(ids)

    def depends(self, value: Any) -> bool:
        """Whether a value depends on the input."""
        if self._views and isinstance(value, Tensor) and getattr(value._base, TAG, None) is self._token:
            return True
        return getattr(value, TAG, None) is self._token

    def completed(self, output: Any) -> None:
        """Check, at the end of a run, that what came out depends on the input in no way that was not seen.

        Args:
            output: what came out.

        Raises:
            NotComparableError: it does.
        """
        for leaf in leaves(output):
            if isinstance(leaf, Tensor) and leaf.requires_grad and not self.depends(leaf):
                self._ledger.check_unseen(leaf)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function of torch, and take note of it."""
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                return self.__torch_function__(func, types, args, kwargs)
        index, kept_out = None, False
        for leaf in leaves(args[:1] if func in LIKE else (args, kwargs)):
            if isinstance(leaf, Tensor):
                if self.depends(leaf):
                    return self._call(func, args, kwargs)
                index = self._ids.index(leaf) or index
                kept_out = kept_out or leaf.is_inference()
        if kept_out and not changes_in_place(func):
            args, kwargs = replaced((args, kwargs), differentiable)
        before = args if index is None else self._ids.before(func, args)
        output = func(*args, **kwargs)
        if index is None or (func in PLAIN and func not in FILLED):
            return output
        if func in SOURCES:
            return self.source(output, index)
        self._ids.follow(func, before, kwargs, output if before is args else args[0])
        return output

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function of which some argument depends on the input."""
        if func in PLAIN and not (func in FILLED and any(map(self.depends, leaves((args[1:], kwargs))))):
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
            self._ledger.autocast = True
            with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
                return self._by(row, func, args, kwargs)
        return self._by(row, func, args, kwargs)

    def _by(self, row: Row, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function by its row."""
        target = args[0] if args else None
        args, kwargs = replaced((args, kwargs), partial(self._prepared, cast_to=func in CASTS))
        in_place = changes_in_place(func) or bool(kwargs.get("inplace"))
        rule = row.rule
        if in_place:
            if rule == CONSTANT or not isinstance(target, Tensor) or target.dtype in HALF:
                raise NotComparableError(
                    f"{spelt(func)} writes what depends on the input into a tensor that cannot hold it as it "
                    "is, such as one of half precision: write into a new one of float32."
                )
            args = (target, *args[1:])
        if row.composition is not None:
            with self:
                output = row.composition(self.depends, *args, **kwargs)
            if output is not NotImplemented:
                return self._written(args[0], output) if in_place else output
        if rule == CONSTANT:
            with torch.no_grad():
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
        assert isinstance(target, Tensor)
        copied = self._tagged(target.clone()) if self.depends(target) else target.clone()
        return self._written(target, self._ruled(cast(Rule, rule), func, (copied, *args[1:]), kwargs))

    def _prepared(self, leaf: Any, cast_to: bool = False) -> Any:
        """Return an argument without gradients of what does not depend on the input, and no half floats."""
        if isinstance(leaf, torch.dtype):
            return torch.float32 if leaf in HALF and not cast_to else leaf
        if not isinstance(leaf, Tensor) or self.depends(leaf):
            return leaf
        if leaf.requires_grad:
            if self._at_input:
                self._ledger.check_unseen(leaf)
            leaf = leaf.detach()
        leaf = differentiable(leaf)
        return leaf.float() if leaf.dtype in HALF else leaf

    def _linear(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], in_place: bool) -> Any:
        if in_place and self._at_input:
            self._ledger.keep(args[0])
        with torch.set_grad_enabled(self._at_input):
            output = args[0].view_as(args[0]) if func in IDENTITIES else func(*args, **kwargs)
            if isinstance(output, Tensor) and output.dtype in HALF:
                # Differences of rounded numbers are noise: what was asked for stays as exact as it was.
                output = args[0].to(output.device).view_as(args[0])
        made = [
            it
            for it in leaves(output)
            if isinstance(it, Tensor) and (it.is_floating_point() or it.is_complex())
        ]
        if not made and output is not None:
            return self._decide(func, args, kwargs)
        if self._at_input and made and not any(it.requires_grad for it in made):
            raise NotComparableError(
                f"{spelt(func)} has no gradient with these arguments, as where activations are quantised. "
                "Take the model before it was quantised, or quantise its weights alone."
            )
        if in_place:
            self._changed(args[0])
        return self._noted(output)

    def _written(self, target: Tensor, output: Tensor) -> Tensor:
        """Write into a tensor in place, with what it depends on."""
        if self._at_input:
            self._ledger.keep(target)
        with torch.set_grad_enabled(self._at_input):
            target.copy_(output)
        return self._changed(target)

    def _changed(self, target: Tensor) -> Tensor:
        if target._base is not None:
            self._tagged(target._base)
        self._views = True
        return self._tagged(target)

    def _ruled(self, rule: Rule, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function whose rule needs both runs."""
        dependents = [leaf for leaf in leaves((args, kwargs)) if self.depends(leaf)]
        if any(tensor.is_complex() for tensor in dependents):
            raise NotComparableError(f"{spelt(func)} has no rule for exact differences of complex numbers.")
        marked_args, marked_kwargs = replaced((args, kwargs), self._slot)
        with torch.no_grad():
            given = (args[0].clone(), *args[1:]) if changes_in_place(func) else args
            output = replaced(func(*given, **kwargs), no_view)
        outputs = tuple(
            leaf for leaf in leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()
        )
        if not self._at_input:
            self.course.entry(func, dependents).close(dependents, outputs)
            return self._noted(output)
        entry = Entry(func, rule, marked_args, marked_kwargs, tuple(it.detach() for it in outputs))
        if self._alone:
            entry.close(dependents, outputs)
        else:
            self._ledger.entries.append(entry)
        of = {id(old): new for old, new in zip(outputs, joined(entry, outputs, dependents), strict=True)}
        return self._noted(replaced(output, lambda leaf: of.get(id(leaf), leaf)))

    def _slot(self, leaf: Any) -> Any:
        return Slot(leaf.detach(), leaf._version) if self.depends(leaf) else leaf

    def _decide(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function that decides what the model does, which has to be the same in both runs."""
        args, kwargs = replaced(
            (args, kwargs), lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf
        )
        output = func(*args, **kwargs)
        found = [it.detach().clone() if isinstance(it, Tensor) else it for it in leaves(output)]
        if self._at_input:
            self._ledger.entries += [] if self._alone else [Entry(func, outputs=found)]
            return output
        other = self.course.entry(func).outputs
        if len(found) != len(other) or not all(map(_same, found, other)):
            raise NotComparableError(
                f"{spelt(func)} decides what the model does, and came out otherwise at the baseline than at "
                "the input: their difference cannot be shared out among the inputs. Choose a closer baseline."
            )
        return output

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


def _same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)
