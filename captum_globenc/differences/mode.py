"""The mode that sees every torch function of a run, and applies rules where arguments depend on the input.

A function runs twice: at the baseline, where calls are recorded, and at the input, with a graph for the
backward pass. The k-th call that has a rule in the one run belongs to the k-th in the other, so the mode does
not need to know which dimension of a tensor is the batch. Linear functions are left to torch's gradients.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from captum_globenc.differences.call import (
    CONSTANT,
    LINEAR,
    Call,
    Pair,
    Rule,
    copied,
    differentiable,
    leaves,
    no_view,
    replaced,
)
from captum_globenc.differences.ids import Ids, Index
from captum_globenc.differences.op_sets import (
    CASTS,
    DECISIONS,
    FILLED,
    IDENTITIES,
    LIKE,
    PLAIN,
    QUADRATIC_FUNCTIONS,
    SOURCES,
    changes_in_place,
    functions,
    spelt,
)
from captum_globenc.differences.rules import EXACT, Row
from captum_globenc.differences.trace import (
    AppliedRule,
    RecordedCall,
    Route,
    Source,
    Trace,
    joined,
    own_function,
    unseen,
)
from captum_globenc.errors import UnsupportedOperationError

TAG = "_captum_globenc_depends"
TWIN = "_captum_globenc_twin"
WHOLE = "_captum_globenc_whole"
OTHERWISE = "_captum_globenc_otherwise"
PART = "_captum_globenc_part"
HALF = (torch.float16, torch.bfloat16)
OBSERVERS = functions("register_hook retain_grad register_post_accumulate_grad_hook")
"""What looks at gradients of tensors: there are none in a comparison, so these do nothing."""
ROUTING = functions("topk sort")
"""Functions that return elements of their argument with the indices of these."""
LINEAR_AUTOGRAD = ("bitsandbytes.",)
"""Modules whose autograd functions are linear: products with quantized weights."""


class DifferenceMode(TorchFunctionMode):
    """Sees one run of a function.

    Args:
        base: the trace of the run at the baseline, which this run is paired with; None for the first run.
        record: the trace that this run leaves for the next one, whose baseline it is; None for the last run.
        table: rows by function.
        values: what the sources are taken to be instead of what is looked up, in order.
        alone: whether there is no run at the baseline: rules then see the same value twice.
        precision: the lowest dtype that is computed in; tensors of a lower one are converted to it.
        route: decisions that are returned in place of this run's own; it collects them if it is empty.
    """

    def __init__(
        self,
        base: Trace | None,
        record: Trace | None = None,
        table: Mapping[Callable[..., Any], Row] = EXACT,
        values: Sequence[Tensor] | None = None,
        alone: bool = False,
        precision: torch.dtype = torch.float32,
        route: Route | None = None,
    ) -> None:
        super().__init__()
        self._trace = base or record or Trace()
        self._record = record
        self._at_input = base is not None
        self._route = route
        self._table = table
        self._values = None if values is None else iter(values)
        self._alone = alone
        self._precision = precision
        self._token = object()
        self._ids = Ids()
        self._views = False  # whether there may be views of what was written into

    def source(self, value: Tensor, index: Index | None = None) -> Tensor:
        """Take a tensor of floats as a source, and return a copy for the model, which may write into it."""
        value = (value if self._values is None else next(self._values, value)).detach()
        value = value.to(self._precision) if self._low(value.dtype) else value.clone()
        positions = None if index is None else index.places
        if self._record is not None:
            kept = value.detach()  # the model gets a copy, so nothing writes into it
            self._record.sources.append(Source(kept, kept, index is not None, positions))
        if not self._at_input:
            return self._tagged(value.clone())
        if self._alone:
            self._trace.sources.append(Source(None, value, index is not None, positions))
        source = self._trace.next_source()
        if source.positions is not None and positions is not None and not self._alone:
            source.positions = positions.agreed(source.positions)
        source.leaf = value.requires_grad_()
        with torch.enable_grad():
            return self._tagged(value.clone())

    def ids(self, ids: Tensor) -> Tensor:
        """Take token ids, by which sources are looked up, and return a copy for the model."""
        return self._ids.take(ids.clone())

    def depends(self, value: Any) -> bool:
        """Whether a value depends on the input."""
        if self._views and isinstance(value, Tensor) and getattr(value._base, TAG, None) is self._token:
            return True
        return getattr(value, TAG, None) is self._token

    def completed(self, output: Any) -> Any:
        """Return the output of the run, once all that it depends on was seen.

        Args:
            output: what the function returned.

        Raises:
            UnsupportedOperationError: it depends on the input in a way that was not seen.
        """
        if not self._at_input:
            return output
        for leaf in leaves(output):
            if isinstance(leaf, Tensor) and leaf.requires_grad and not self.depends(leaf):
                self._trace.check_unseen(leaf)
        if not self._alone:
            self._trace.check_finished()
        self._trace.protect_written()
        return replaced(output, self._seen_through)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a torch function, and follow what depends on the input."""
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                return self.__torch_function__(func, types, args, kwargs)
        index, kept_out = None, False
        for leaf in leaves(args[:1] if func in LIKE else (args, kwargs)):
            if isinstance(leaf, Tensor):
                if self.depends(leaf):
                    return self._call(func, args, kwargs)
                if hasattr(leaf, OTHERWISE) and func not in PLAIN:
                    raise _decided_otherwise(getattr(leaf, OTHERWISE))
                index = self._ids.index(leaf) or index
                kept_out = kept_out or leaf.is_inference()
        self._protect_from(func, args, kwargs)
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
        if func in OBSERVERS:
            return RemovableHandle(OrderedDict())
        if self._at_input and any(map(self._altered, leaves((args, kwargs)))):
            seen_through = partial(self._seen_through, in_place=changes_in_place(func))
            args, kwargs = replaced((args, kwargs), seen_through)
        if func in DECISIONS:
            return self._decide(func, args, kwargs)
        if self._route is not None and func in ROUTING:
            return self._routed(func, args, kwargs)
        row = self._table.get(func)
        if row is None or kwargs.get("out") is not None:
            raise UnsupportedOperationError(
                f"{spelt(func)} has no rule for exact differences. Add one, "
                "captum_globenc.differences.register_rule(function, rule), or use another method."
            )
        self._trace.operations.add((func, *map(_kind, args), *map(_kind, kwargs.items())))
        if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            self._trace.rounded.update(HALF)
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
            if rule == CONSTANT or not isinstance(target, Tensor) or self._low(target.dtype):
                raise UnsupportedOperationError(
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
            raise UnsupportedOperationError(
                f"{spelt(func)} has no rule for exact differences with these arguments."
            )
        alone = func in QUADRATIC_FUNCTIONS and sum(map(self.depends, leaves((args, kwargs)))) == 1
        if rule == LINEAR or alone:
            return self._linear(func, args, kwargs, in_place)
        if kwargs.get("inplace"):
            kwargs = {**kwargs, "inplace": False}
        if not in_place:
            return self._ruled(cast(Rule, rule), func, args, kwargs)
        assert isinstance(target, Tensor)
        with torch.set_grad_enabled(self._at_input):
            copied = self._tagged(target.clone()) if self.depends(target) else target.clone()
        return self._written(target, self._ruled(cast(Rule, rule), func, (copied, *args[1:]), kwargs))

    def _prepared(self, leaf: Any, cast_to: bool = False) -> Any:
        """Return an argument in the precision of the comparison; constants without a graph."""
        if isinstance(leaf, torch.dtype):
            return self._precision if self._low(leaf) and not cast_to else leaf
        if not isinstance(leaf, Tensor) or self.depends(leaf):
            return leaf
        if leaf.requires_grad:
            if self._at_input:
                self._trace.check_unseen(leaf)
            leaf = leaf.detach()
        leaf = differentiable(leaf)
        return leaf.to(self._precision) if self._low(leaf.dtype) else leaf

    def _low(self, dtype: torch.dtype) -> bool:
        return dtype.is_floating_point and dtype.itemsize < self._precision.itemsize

    def _linear(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], in_place: bool) -> Any:
        """Run a function that is linear in all that depends on the input."""
        if in_place:
            self._protect(args[0])
        with torch.set_grad_enabled(self._at_input):
            output = args[0].view_as(args[0]) if func in IDENTITIES else func(*args, **kwargs)
            if isinstance(output, Tensor) and self._low(output.dtype):
                if output.dtype.itemsize < 2:
                    raise UnsupportedOperationError(
                        f"{spelt(func)} rounds what depends on the input to {output.dtype}, and steps have "
                        "no exact difference. Explain the model in a precision of at least 16 bits."
                    )
                # Differences of rounded numbers are noise: the value stays as exact as it was.
                self._trace.rounded.add(output.dtype)
                output = args[0].to(output.device).view_as(args[0])
        made = [
            it
            for it in leaves(output)
            if isinstance(it, Tensor) and (it.is_floating_point() or it.is_complex())
        ]
        if not made and output is not None:
            return self._decide(func, args, kwargs)
        if self._at_input and made and not any(it.requires_grad for it in made):
            raise UnsupportedOperationError(
                f"{spelt(func)} has no gradient with these arguments, as where activations are quantized. "
                "Take the model before it was quantized, or quantize its weights alone."
            )
        if in_place:
            self._changed(args[0])
            return output
        if self._at_input and (self._trace.written or self._alone) and made and made[0]._is_view():
            self._note_parts(next(leaf for leaf in leaves((args, kwargs)) if self.depends(leaf)), made)
        return self._noted(output, whole=True)

    def _note_parts(self, viewed: Tensor, views: Sequence[Tensor]) -> None:
        """Note what the outputs of functions like split, and views of these, are parts of.

        Torch lets no such view be written into where it makes a graph, nor be read after a write.
        """
        known = getattr(viewed, PART, None)
        if known is None and len(views) == 1:
            return
        for view in views:
            setattr(view, PART, (viewed if known is None else known[0], view._version))

    def _writable(self, leaf: Tensor, in_place: bool) -> Tensor:
        """Return a part that is written into, or was, as a view that torch allows this for."""
        whole, version = getattr(leaf, PART, (None, None))
        if whole is None or not (in_place or leaf._version != version):
            return leaf
        with torch.enable_grad():
            whole = self._writable(whole, in_place)
            return self._tagged(whole.as_strided(leaf.shape, leaf.stride(), leaf.storage_offset()))

    def _written(self, target: Tensor, output: Tensor) -> Tensor:
        """Write into a tensor in place, and have it depend on the input."""
        self._protect(target)
        with torch.set_grad_enabled(self._at_input):
            target.copy_(output)
        return self._changed(target)

    def _changed(self, target: Tensor) -> Tensor:
        if target._base is not None:
            self._tagged(target._base)
        self._views = True
        return cast(Tensor, self._noted(target))

    def _ruled(self, rule: Rule, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function whose rule needs both runs."""
        dependents = [leaf for leaf in leaves((args, kwargs)) if self.depends(leaf)]
        if any(tensor.is_complex() for tensor in dependents):
            raise UnsupportedOperationError(
                f"{spelt(func)} has no rule for exact differences of complex numbers."
            )
        with torch.no_grad():
            given = (args[0].clone(), *args[1:]) if changes_in_place(func) else args
            output = replaced(func(*given, **kwargs), no_view)
        outputs = tuple(
            leaf for leaf in leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()
        )
        # Without their graph; the run at the baseline has none.
        values = tuple(it.detach() for it in outputs) if self._at_input else outputs
        indices = [it for it in leaves(output) if isinstance(it, Tensor) and not it.is_floating_point()]
        if indices and self._route is not None:
            followed = dict(zip(map(id, indices), self._route.decided(indices), strict=True))
            output = replaced(output, lambda leaf: followed.get(id(leaf), leaf))
        if self._record is not None:
            kept = [it.detach() for it in dependents] if self._at_input else dependents
            self._record.calls.append(RecordedCall(func, kept, list(values), indices))
        if not self._at_input:
            return self._noted(output)
        if self._alone:
            other = RecordedCall(func, dependents, list(values))
        else:
            other = self._trace.recorded(func, dependents)
            if self._route is None:
                for own, its in zip(indices, other.indices, strict=True):
                    if not torch.equal(own, its):
                        setattr(own, OTHERWISE, func)
        pairs = map(Pair, dependents, other.arguments)
        args, kwargs = replaced((args, kwargs), lambda leaf: next(pairs) if self.depends(leaf) else leaf)
        call = Call(func, args, kwargs, tuple(map(Pair, values, other.outputs)))
        applied = AppliedRule.of(rule, call, self._trace)
        of = {id(old): new for old, new in zip(outputs, joined(applied, outputs, dependents), strict=True)}
        return self._noted(replaced(output, lambda leaf: of.get(id(leaf), leaf)))

    def _decide(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function that decides what the model does, which has to be the same in both runs."""
        args, kwargs = replaced(
            (args, kwargs), lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf
        )
        output = func(*args, **kwargs)
        if self._alone:
            return output
        if self._route is not None:
            return self._route.decided(output)
        found = list(leaves(output))
        if self._record is not None:
            self._record.calls.append(RecordedCall(func, [], copied(found)))
        if not self._at_input:
            return output
        other = self._trace.recorded(func).outputs
        if len(found) != len(other) or not all(map(_same, found, other)):
            raise _decided_otherwise(func)
        return output

    def _routed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Choose the elements that the route chooses: their indices are a decision, their values linear."""
        x, indices = args[0], self._decide(func, args, kwargs)[1]
        # topk(input, k, dim=-1), sort(input, dim=-1)
        further = args[2 if func.__name__ == "topk" else 1 :]
        dim = kwargs.get("dim", further[0] if further else -1)
        with self:
            values = x.gather(dim, indices)
        return getattr(torch.return_types, func.__name__)((values, indices))

    def _protect(self, target: Tensor) -> None:
        """Copy what either trace keeps of a tensor that is about to be written into."""
        self._trace.protect(target)
        if self._record is not None and self._record is not self._trace:
            self._record.protect(target)

    def _protect_from(self, func: Any, args: Any, kwargs: Any) -> None:
        """Do so for a call that may write into its arguments."""
        for leaf in leaves((args, kwargs)) if changes_in_place(func) else leaves(kwargs.get("out")):
            if isinstance(leaf, Tensor):
                self._protect(leaf)

    def _noted(self, output: Any, whole: bool = False) -> Any:
        """Tag all floats of an output, which depend on the input.

        Args:
            output: of a torch function.
            whole: whether torch made its graph, so that an autograd function in it is part of the call.
        """
        for leaf in leaves(output):
            if not isinstance(leaf, Tensor) or not (leaf.is_floating_point() or leaf.is_complex()):
                continue
            self._tagged(leaf)
            real = leaf.dtype.to_real()
            if torch.finfo(real).eps > torch.finfo(self._trace.lowest).eps:
                self._trace.lowest = real
            if not self._at_input:
                continue
            if whole and own_function(leaf.grad_fn):
                setattr(leaf, WHOLE, leaf.grad_fn)
            if not torch.is_grad_enabled():
                # An autograd function may be computing its output, whose graph it will replace.
                with torch.enable_grad():
                    twin = self._tagged(_Twin.apply(leaf))  # type: ignore[no-untyped-call]
                setattr(leaf, TWIN, (leaf.grad_fn, twin))
            self._trace.measure(leaf)
        return output

    def _altered(self, leaf: Any) -> bool:
        """Whether something other than torch functions may have changed the graph of a value."""
        if not isinstance(leaf, Tensor) or not leaf.requires_grad:
            return hasattr(leaf, TWIN)
        marks = leaf.__dict__
        return TWIN in marks or PART in marks or own_function(leaf.grad_fn) is not None

    def _seen_through(self, leaf: Any, in_place: bool = False) -> Any:
        """Return what an autograd function returned as a result of the torch functions that it called.

        So the function's own backward pass does not count, nor do hooks for full backward passes of modules,
        which are autograd functions.

        Args:
            leaf: an argument of a function, or part of the output.
            in_place: whether the function writes into its arguments.
        """
        if not isinstance(leaf, Tensor) or not self.depends(leaf):
            return leaf
        leaf = self._writable(leaf, in_place)
        node = leaf.grad_fn
        before, twin = getattr(leaf, TWIN, (None, None))
        if twin is not None and node is not before:
            vars(twin).update({name: value for name, value in vars(leaf).items() if name != TWIN})
            return twin
        function = own_function(node)
        known = function is None or function is _Twin or function.__module__.startswith(LINEAR_AUTOGRAD)
        if not known and getattr(leaf, WHOLE, None) is not node:
            raise unseen(function)
        return leaf

    def _tagged(self, tensor: Tensor) -> Tensor:
        setattr(tensor, TAG, self._token)
        return tensor


def _decided_otherwise(func: Any) -> UnsupportedOperationError:
    return UnsupportedOperationError(
        f"{spelt(func)} decides what the model does, and came out otherwise at the baseline than at the "
        "input: no input accounts for that. Choose a closer baseline, or have the baseline follow the "
        'decisions of the input, decisions="follow".'
    )


class _Twin(torch.autograd.Function):
    """The same memory with a graph of its own, which no other function changes."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        """Return a tensor that is no view of `value` and shares its memory."""
        twin = value.new_empty(0)
        twin.set_(value.untyped_storage(), value.storage_offset(), value.shape, value.stride())
        return twin

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return the gradient as it is."""
        return grad


def _kind(argument: Any) -> Any:
    """Return what a check of an operation depends on of an argument: the type of a tensor, a flag, a name."""
    if isinstance(argument, Tensor):
        return argument.dtype, argument.dim()
    if isinstance(argument, tuple) and len(argument) == 2 and isinstance(argument[0], str):
        return argument[0], _kind(argument[1])
    return argument if argument is None or isinstance(argument, bool | str) else type(argument)


def _same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)
