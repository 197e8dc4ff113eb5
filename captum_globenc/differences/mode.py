"""The mode that intercepts the torch functions of a run, and applies rules where the input matters.

A function runs twice: at the baseline, where calls are recorded, and at the input, with a graph for the
backward pass. The k-th call with a rule in one run is paired with the k-th in the other, so the mode does not
need to know the batch dimension of tensors. Linear functions are left to torch's gradients.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from captum_globenc.differences import steps
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
    ARRANGING,
    CASTS,
    DECISIONS,
    FILLED,
    IDENTITIES,
    LIKE,
    PLAIN,
    QUADRATIC_FUNCTIONS,
    SOURCES,
    changes_in_place,
    display_name,
    functions,
)
from captum_globenc.differences.rules import EXACT, Row
from captum_globenc.differences.steps import COMPARISONS, choose, chosen, step
from captum_globenc.differences.trace import (
    AppliedRule,
    RecordedCall,
    Route,
    Source,
    Trace,
    connected,
    not_intercepted,
    own_function,
)
from captum_globenc.errors import UnsupportedOperationError

# Attributes that the mode sets on tensors: its token, if they depend on the input; an alias with the graph
# before an autograd function replaced it; the autograd node that belongs to the call; the function whose
# decision differs; the truth values of a comparison as numbers; the tensor that they are a part of.
TAG = "_captum_globenc_depends"
TWIN = "_captum_globenc_twin"
WHOLE = "_captum_globenc_whole"
DIFFERS = "_captum_globenc_differs"
STEP = "_captum_globenc_step"
PART = "_captum_globenc_part"
HALF = (torch.float16, torch.bfloat16)
OBSERVERS = functions("register_hook retain_grad register_post_accumulate_grad_hook") | {
    Tensor.requires_grad.__set__  # type: ignore[attr-defined]
}
"""Functions that only concern gradients, such as their hooks; a comparison has none, so these do nothing."""
ROUTING = functions("topk sort")
"""Functions that return elements of their argument, and their indices."""
BIASED = functions("linear conv1d conv2d conv3d")
"""Functions that add a bias, their third argument."""
LINEAR_AUTOGRAD = ("bitsandbytes.",)
"""Modules whose autograd functions are linear: products with quantized weights."""


class DifferenceMode(TorchFunctionMode):
    """Intercept one run of a function.

    Args:
        base: the trace of the run at the baseline, with which this run is paired; None for the first run.
        record: the trace that this run records, if it is the baseline of the next run; None for the last run.
        table: rows by function.
        values: replacements of the sources, in order.
        alone: whether there is no run at the baseline; rules then get the same value for both runs.
        precision: the lowest dtype to compute in; tensors of a lower one are converted.
        route: decisions that replace this run's own; collects them if it is empty.
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
        self._views = False  # whether views of tensors that were written to may exist

    def source(self, value: Tensor, index: Index | None = None) -> Tensor:
        """Register a floating-point tensor as a source, and return a copy for the model."""
        fresh = index is not None and self._values is None  # no one else holds an embedding just looked up
        value = (value if self._values is None else next(self._values, value)).detach()
        if self._low(value.dtype):
            value = value.to(self._precision)
        elif not fresh:
            value = value.clone()
        self._note_precision(value)
        positions = None if index is None else index.positions
        if self._record is not None:
            kept = value.detach()  # never modified, because the model gets a copy
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
        """Register token ids, by which sources are looked up, and return a copy for the model."""
        return self._ids.take(ids.clone())

    def depends(self, value: Any) -> bool:
        """Whether a value depends on the input."""
        if self._views and isinstance(value, Tensor) and getattr(value._base, TAG, None) is self._token:
            return True
        return getattr(value, TAG, None) is self._token

    def completed(self, output: Any) -> Any:
        """Return the output of the run, after checking that all its operations were intercepted.

        Args:
            output: the function's output.

        Raises:
            UnsupportedOperationError: it depends on the input in another way.
        """
        if not self._at_input:
            return output
        for leaf in leaves(output):
            if isinstance(leaf, Tensor) and leaf.requires_grad and not self.depends(leaf):
                self._trace.check_independent(leaf)
        if not self._alone:
            self._trace.check_finished()
        self._trace.protect_written()
        return replaced(output, self._unwrapped)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a torch function, and track which results depend on the input."""
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                return self.__torch_function__(func, types, args, kwargs)
        index, has_inference_tensors = None, False
        for leaf in leaves(args[:1] if func in LIKE else (args, kwargs)):
            if isinstance(leaf, Tensor):
                if self.depends(leaf) or self._step(leaf) is not None:
                    return self._call(func, args, kwargs)
                if hasattr(leaf, DIFFERS) and func not in PLAIN:
                    raise _decision_differs(getattr(leaf, DIFFERS))
                index = self._ids.index(leaf) or index
                has_inference_tensors = has_inference_tensors or leaf.is_inference()
        self._protect_from(func, args, kwargs)
        if has_inference_tensors and not changes_in_place(func):
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
        """Run a function with an argument that depends on the input."""
        if func in PLAIN and not (func in FILLED and any(map(self.depends, leaves((args[1:], kwargs))))):
            return func(*args, **kwargs)
        if func in OBSERVERS:
            return RemovableHandle(OrderedDict())
        given = leaves((args, kwargs))
        if any(self._step(leaf) is not None for leaf in given):
            output = self._by_steps(func, args, kwargs)
            if output is not NotImplemented:
                return output
        for leaf in given:
            if hasattr(leaf, DIFFERS):
                raise _decision_differs(getattr(leaf, DIFFERS))
        if not any(map(self.depends, given)):
            return func(*args, **kwargs)
        if self._at_input and any(map(self._may_be_altered, given)):
            unwrap = partial(self._unwrapped, in_place=changes_in_place(func))
            args, kwargs = replaced((args, kwargs), unwrap)
        if func in COMPARISONS and len(args) == 2 and self._route is None and not self._alone:
            mask, truth = self._apply_rule(step, COMPARISONS[func], args, kwargs)
            setattr(mask, STEP, truth)
            return mask
        if func in DECISIONS:
            return self._decide(func, args, kwargs)
        if self._route is not None and func in ROUTING:
            return self._routed(func, args, kwargs)
        row = self._table.get(func)
        if row is None or kwargs.get("out") is not None:
            raise UnsupportedOperationError(
                f"{display_name(func)} has no rule for exact differences. Add one, "
                "captum_globenc.differences.register_rule(function, rule), or use another method."
            )
        self._trace.operations.add((func, *map(_kind, args), *map(_kind, kwargs.items())))
        if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            self._trace.rounded.update(HALF)
            with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
                return self._apply_row(row, func, args, kwargs)
        return self._apply_row(row, func, args, kwargs)

    def _apply_row(self, row: Row, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function with its rule or decomposition."""
        target = args[0] if args else None
        rule = row.rule
        by_torch = isinstance(rule, str) or func in QUADRATIC_FUNCTIONS
        # The gradient of an added bias costs and keeps nothing. With a subclass of tensors it may be the only
        # gradient of the result, which `_linear` rejects.
        plain = func in BIASED and all(type(it) in (Tensor, torch.nn.Parameter) for it in args[:3])
        bias = args[2] if plain and len(args) > 2 else None
        prepare = partial(
            self._prepared, cast_to=func in CASTS, detach=by_torch and self._at_input, bias=bias
        )
        args, kwargs = replaced((args, kwargs), prepare)
        in_place = changes_in_place(func) or bool(kwargs.get("inplace"))
        if in_place:
            if rule == CONSTANT or not isinstance(target, Tensor) or self._low(target.dtype):
                raise UnsupportedOperationError(
                    f"{display_name(func)} writes a value that depends on the input to a tensor of half "
                    "precision, or to one that is constant: write to a new float32 tensor."
                )
            args = (target, *args[1:])
        if row.decomposition is not None:
            with self:
                output = row.decomposition(self.depends, *args, **kwargs)
            if output is not NotImplemented:
                return self._write(args[0], output) if in_place else output
        if rule == CONSTANT:
            with torch.no_grad():
                return func(*args, **kwargs)
        if rule is None:
            raise UnsupportedOperationError(
                f"{display_name(func)} has no rule for exact differences with these arguments."
            )
        alone = func in QUADRATIC_FUNCTIONS and sum(map(self.depends, leaves((args, kwargs)))) == 1
        if rule == LINEAR or alone:
            return self._linear(func, args, kwargs, in_place)
        if kwargs.get("inplace"):
            kwargs = {**kwargs, "inplace": False}
        if not in_place:
            return self._apply_rule(cast(Rule, rule), func, args, kwargs)
        assert isinstance(target, Tensor)
        with torch.set_grad_enabled(self._at_input):
            copied = self._tagged(target.clone()) if self.depends(target) else target.clone()
        return self._write(target, self._apply_rule(cast(Rule, rule), func, (copied, *args[1:]), kwargs))

    def _prepared(self, leaf: Any, cast_to: bool, detach: bool, bias: Any) -> Any:
        """Return an argument in the precision of the comparison, and constants without a graph.

        Args:
            leaf: the argument.
            cast_to: whether a dtype is the dtype of the result.
            detach: whether torch's gradient of the function is used, which must not reach constants.
            bias: a constant that it may reach.
        """
        if isinstance(leaf, torch.dtype):
            return self._precision if self._low(leaf) and not cast_to else leaf
        if not isinstance(leaf, Tensor) or self.depends(leaf):
            return leaf
        if self._at_input and leaf.requires_grad and leaf.grad_fn is not None:
            self._trace.check_independent(leaf)
        if detach and leaf.requires_grad and leaf is not bias:
            leaf = leaf.detach()
        leaf = differentiable(leaf)
        return leaf.to(self._precision) if self._low(leaf.dtype) else leaf

    def _low(self, dtype: torch.dtype) -> bool:
        return dtype.is_floating_point and dtype.itemsize < self._precision.itemsize

    def _linear(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], in_place: bool) -> Any:
        """Run a function that is linear in all arguments that depend on the input."""
        if in_place:
            self._protect(args[0])
        with torch.set_grad_enabled(self._at_input):
            output = args[0].view_as(args[0]) if func in IDENTITIES else func(*args, **kwargs)
            if isinstance(output, Tensor) and self._low(output.dtype):
                if output.dtype.itemsize < 2:
                    raise UnsupportedOperationError(
                        f"{display_name(func)} rounds a value that depends on the input to {output.dtype}, "
                        "which has no exact difference. Use the model in a precision of at least 16 bits."
                    )
                # Differences of rounded numbers are noise, so the value is not rounded.
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
                f"{display_name(func)} has no gradient with these arguments, for example because activations "
                "are quantized. Use the model before quantization, or quantize only its weights."
            )
        if in_place:
            self._mark_changed(args[0])
            return output
        if self._at_input and (self._trace.written or self._alone) and made and made[0]._is_view():
            self._note_parts(next(leaf for leaf in leaves((args, kwargs)) if self.depends(leaf)), made)
        return self._tag_output(output, whole=True)

    def _note_parts(self, viewed: Tensor, views: Sequence[Tensor]) -> None:
        """Record of which tensor the outputs of functions like split, and views of them, are parts.

        Torch does not allow writing to such views while it records a graph, nor reading them after a write.
        """
        known = getattr(viewed, PART, None)
        if known is None and len(views) == 1:
            return
        for view in views:
            setattr(view, PART, (viewed if known is None else known[0], view._version))

    def _writable(self, leaf: Tensor, in_place: bool) -> Tensor:
        """Return a part that is or was written to as a view for which torch allows this."""
        whole, version = getattr(leaf, PART, (None, None))
        if whole is None or not (in_place or leaf._version != version):
            return leaf
        with torch.enable_grad():
            whole = self._writable(whole, in_place)
            return self._tagged(whole.as_strided(leaf.shape, leaf.stride(), leaf.storage_offset()))

    def _write(self, target: Tensor, output: Tensor) -> Tensor:
        """Write to a tensor in place, and mark it as depending on the input."""
        self._protect(target)
        with torch.set_grad_enabled(self._at_input):
            target.copy_(output)
        return self._mark_changed(target)

    def _mark_changed(self, target: Tensor) -> Tensor:
        if target._base is not None:
            self._tagged(target._base)
        self._views = True
        return cast(Tensor, self._tag_output(target))

    def _apply_rule(self, rule: Rule, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function whose rule needs the values of both runs."""
        dependents = [leaf for leaf in leaves((args, kwargs)) if self.depends(leaf)]
        if any(tensor.is_complex() for tensor in dependents):
            raise UnsupportedOperationError(
                f"{display_name(func)} has no rule for exact differences of complex numbers."
            )
        with torch.no_grad():
            given = (args[0].clone(), *args[1:]) if changes_in_place(func) else args
            run = getattr(rule, "run", None)
            output, kept = (func(*given, **kwargs), None) if run is None else run(*given, **kwargs)
            output = replaced(output, no_view)
        outputs = tuple(
            leaf for leaf in leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()
        )
        # Detached; the run at the baseline has no graph.
        values = kept
        if values is None:
            values = tuple(it.detach() for it in outputs) if self._at_input else outputs
        indices = [it for it in leaves(output) if isinstance(it, Tensor) and not it.is_floating_point()]
        if indices and self._route is not None:
            followed = dict(zip(map(id, indices), self._route.decided(indices), strict=True))
            output = replaced(output, lambda leaf: followed.get(id(leaf), leaf))
        if self._record is not None:
            kept = [it.detach() for it in dependents] if self._at_input else dependents
            self._record.calls.append(RecordedCall(func, kept, list(values), copied(indices)))
        if not self._at_input:
            return self._tag_output(output)
        if self._alone:
            other = RecordedCall(func, dependents, list(values))
        else:
            other = self._trace.recorded(func, dependents)
            if self._route is None:
                for own, its in zip(indices, other.indices, strict=True):
                    if not torch.equal(own, its):
                        setattr(own, DIFFERS, func)
        pairs = map(Pair, dependents, other.arguments)
        args, kwargs = replaced((args, kwargs), lambda leaf: next(pairs) if self.depends(leaf) else leaf)
        call = Call(func, args, kwargs, tuple(map(Pair, values, other.outputs)))
        applied = AppliedRule.of(rule, call, self._trace)
        of = {id(old): new for old, new in zip(outputs, connected(applied, outputs, dependents), strict=True)}
        return self._tag_output(replaced(output, lambda leaf: of.get(id(leaf), leaf)))

    def _step(self, leaf: Any) -> Tensor | None:
        """Return the truth values of a comparison as numbers; None for anything else."""
        truth = getattr(leaf, STEP, None)
        return truth if self.depends(truth) else None

    def _by_steps(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function of truth values; NotImplemented if they have to be the same in both runs."""
        if changes_in_place(func):
            for leaf in args[:1]:  # truth values that are written to are a decision from then on
                vars(leaf).pop(STEP, None)
            return NotImplemented
        given = replaced(args, lambda leaf: leaf if (truth := self._step(leaf)) is None else truth)
        stepped = [one is not other for one, other in zip(args, given, strict=True)]
        if func in steps.PRODUCTS:
            return self.__torch_function__(func, (), given, kwargs)
        if func in steps.WHERE and stepped == [True, False, False]:
            return self._apply_rule(choose, chosen, given, {})
        if func in steps.FILL and stepped == [False, True, False]:
            return self._apply_rule(choose, chosen, (given[1], given[2], given[0]), {})
        if not stepped or not (stepped[0] or func in steps.AND | steps.OR):
            return NotImplemented
        mask = func(*args, **kwargs)
        if not isinstance(mask, Tensor):
            return NotImplemented
        with self:
            if func in steps.CASTS:
                truth = given[0]
                if mask.is_floating_point():
                    return truth.to(mask.dtype)
            elif func in steps.NOT:
                truth = 1 - given[0]
            elif func in steps.AND:
                truth = given[0] * given[1]
            elif func in steps.OR:
                truth = given[0] + given[1] - given[0] * given[1]
            elif func in ARRANGING:
                truth = func(*given, **kwargs)
            else:
                return NotImplemented
        setattr(mask, STEP, truth)
        for leaf in args:
            if hasattr(leaf, DIFFERS):
                setattr(mask, DIFFERS, getattr(leaf, DIFFERS))
        return mask

    def _decide(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function whose result is a decision, which must be the same in both runs."""
        args, kwargs = replaced(
            (args, kwargs), lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf
        )
        output = func(*args, **kwargs)
        if self._alone:
            return output
        if self._route is not None:
            return self._route.decided(output)
        found = leaves(output)
        if self._record is not None:
            self._record.calls.append(RecordedCall(func, [], copied(found)))
        if not self._at_input:
            return output
        other = self._trace.recorded(func).outputs
        if len(found) != len(other) or not all(map(_same, found, other)):
            raise _decision_differs(func)
        return output

    def _routed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Select elements by the route's indices, which are a decision; the values are then linear."""
        x, indices = args[0], self._decide(func, args, kwargs)[1]
        # topk(input, k, dim=-1), sort(input, dim=-1)
        further = args[2 if func.__name__ == "topk" else 1 :]
        dim = kwargs.get("dim", further[0] if further else -1)
        with self:
            values = x.gather(dim, indices)
        return getattr(torch.return_types, func.__name__)((values, indices))

    def _protect(self, target: Tensor) -> None:
        """Copy the values that either trace keeps of a tensor that is about to be overwritten."""
        self._trace.protect(target)
        if self._record is not None and self._record is not self._trace:
            self._record.protect(target)

    def _protect_from(self, func: Any, args: Any, kwargs: Any) -> None:
        """Protect the tensors that a call may overwrite."""
        for leaf in leaves((args, kwargs)) if changes_in_place(func) else leaves(kwargs.get("out")):
            if isinstance(leaf, Tensor):
                self._protect(leaf)

    def _note_precision(self, tensor: Tensor) -> None:
        """Record the dtype of a tensor if its precision is the lowest so far."""
        real = tensor.dtype.to_real()
        if real != self._trace.lowest and torch.finfo(real).eps > torch.finfo(self._trace.lowest).eps:
            self._trace.lowest = real

    def _tag_output(self, output: Any, whole: bool = False) -> Any:
        """Tag all floating-point tensors of an output as depending on the input.

        Args:
            output: the output of a torch function.
            whole: whether torch made its graph, so that an autograd function in it belongs to the call.
        """
        for leaf in leaves(output):
            if not isinstance(leaf, Tensor) or not (leaf.is_floating_point() or leaf.is_complex()):
                continue
            self._tagged(leaf)
            self._note_precision(leaf)
            if not self._at_input:
                continue
            if whole and own_function(leaf.grad_fn):
                setattr(leaf, WHOLE, leaf.grad_fn)
            if not torch.is_grad_enabled():
                # This may be inside an autograd function, which will replace the graph of its output.
                with torch.enable_grad():
                    twin = self._tagged(_Twin.apply(leaf))  # type: ignore[no-untyped-call]
                setattr(leaf, TWIN, (leaf.grad_fn, twin))
            self._trace.measure(leaf)
        return output

    def _may_be_altered(self, leaf: Any) -> bool:
        """Whether something other than a torch function may have changed the graph of a value."""
        if not isinstance(leaf, Tensor) or not leaf.requires_grad:
            return hasattr(leaf, TWIN)
        marks = leaf.__dict__
        return TWIN in marks or PART in marks or own_function(leaf.grad_fn) is not None

    def _unwrapped(self, leaf: Any, in_place: bool = False) -> Any:
        """Return the result of an autograd function as the result of the torch functions that it called.

        Its own backward pass is not used. Full backward hooks of modules are autograd functions, too.

        Args:
            leaf: an argument of a function, or part of the output.
            in_place: whether the function writes to its arguments.
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
            raise not_intercepted(function)
        return leaf

    def _tagged(self, tensor: Tensor) -> Tensor:
        setattr(tensor, TAG, self._token)
        return tensor


def _decision_differs(func: Any) -> UnsupportedOperationError:
    return UnsupportedOperationError(
        f"{display_name(func)} decides what the model computes, and decides otherwise at the baseline than "
        "at the input, which no contribution explains. Choose a closer baseline, or apply the decisions of "
        'the input to the baseline, decisions="follow".'
    )


class _Twin(torch.autograd.Function):
    """An alias of a tensor with a graph of its own, which no other function changes."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        """Return a tensor that shares memory with `value`, but is not a view of it."""
        twin = value.new_empty(0)
        twin.set_(value.untyped_storage(), value.storage_offset(), value.shape, value.stride())
        return twin

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return the gradient unchanged."""
        return grad


def _kind(argument: Any) -> Any:
    """Return the part of an argument on which checks of an operation depend: dtypes, flags, names."""
    if isinstance(argument, Tensor):
        return argument.dtype, argument.dim()
    if isinstance(argument, tuple) and len(argument) == 2 and isinstance(argument[0], str):
        return argument[0], _kind(argument[1])
    return argument if argument is None or isinstance(argument, bool | str) else type(argument)


def _same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)
