"""Activations that are written out: which value is a function of which other, element by element.

x (1 + erf(x / sqrt 2)) / 2 is an activation of slope phi(x) / x = (1 + erf(x / sqrt 2)) / 2, and no product
of two values of which each has half.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from captum_globenc.differences.call import LINEAR, leaves
from captum_globenc.differences.frozen import Rules
from captum_globenc.differences.ledger import Ledger, Node, unseen
from captum_globenc.differences.mode import Watch
from captum_globenc.differences.names import functions
from captum_globenc.differences.refusal import NotComparableError
from captum_globenc.differences.scalars import SCALARS
from captum_globenc.differences.table import Row

__all__ = ["FrozenWatch"]

ROOT = "_captum_globenc_root"
KNOWN = ("bitsandbytes.", "torch.nn.modules._functions")
"""Where autograd functions are linear: products with quantised weights, what calls hooks of modules."""
PRODUCTS = functions("mul multiply")
SCALED = PRODUCTS | functions("div divide true_divide truediv neg negative")
ELEMENTWISE = functions("add sub rsub subtract").union(SCALED, *(functions(names) for names, _ in SCALARS))


class _Root(NamedTuple):
    """What a value is a function of, and whether it is a multiple of that."""

    token: object
    scaled: bool


class FrozenWatch(Watch):
    """Sees the one run of a frozen network.

    Args:
        ledger: of the run.
        rules: what it goes by.
    """

    def __init__(self, ledger: Ledger, rules: Rules) -> None:
        super().__init__(ledger, True, rules.table, alone=True)
        self._slopes = rules.slopes
        self._roots = _Roots()
        self._parts: list[Any] = []

    def completed(self, output: Any) -> None:
        """Check as well that something that came out depends on the input, and by functions of torch alone.

        There is no sum here that would tell.

        Args:
            output: what came out.

        Raises:
            NotComparableError: it does not.
        """
        super().completed(output)
        made = [leaf for leaf in leaves(output) if self.depends(leaf)]
        if not made:
            raise NotComparableError(
                "what comes out does not depend on the input as far as is counted here: probabilities of "
                "a softmax are held as they are, so explain logits; and ids have to be looked up by an "
                "embedding."
            )
        self._check_own(made)

    def _check_own(self, tensors: Sequence[Tensor]) -> None:
        """Check that tensors come of functions of torch, of which autograd functions may be parts."""
        for tensor in tensors:
            function = getattr(tensor.grad_fn, "_forward_cls", Node)
            known = function is Node or function.__module__.startswith(KNOWN)
            if not known and not any(node is tensor.grad_fn for node in self._parts):
                raise unseen(function.__name__)

    def _by(self, row: Row, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        dependents = [leaf for leaf in leaves((args, kwargs)) if self.depends(leaf)]
        self._check_own(dependents)
        gate, given = self._roots.gate(func, dependents), args
        if gate is not None and self._slopes:
            given = tuple(leaf.detach() if leaf is gate else leaf for leaf in args)
        elif gate is not None:
            row = Row(LINEAR)
        output = super()._by(row, func, given, kwargs)
        self._parts += [it.grad_fn for it in leaves(output) if isinstance(it, Tensor)]
        self._roots.note(func, args, dependents, output)
        return output


class _Roots:
    """Follows values of one run to what they are functions of, element by element."""

    def gate(self, function: Any, dependents: Sequence[Tensor]) -> Tensor | None:
        """Return the factor of a product that is the slope of the other, if it is that."""
        if function not in PRODUCTS or len(dependents) != 2:
            return None
        one, other = dependents
        if one is other or self._of(one).token is not self._of(other).token:
            return None
        return other if self._of(one).scaled else one if self._of(other).scaled else None

    def note(self, function: Any, args: Sequence[Any], dependents: Sequence[Tensor], output: Any) -> None:
        """Take note of what a function made of values."""
        roots = {self._of(tensor).token for tensor in dependents}
        known = {id(tensor) for tensor in dependents}
        others = [arg for arg in args if isinstance(arg, Tensor) and arg.dim() and id(arg) not in known]
        if len(roots) != 1 or others or function not in ELEMENTWISE or not isinstance(output, Tensor):
            return
        scaled = function in SCALED and len(dependents) == 1 and self._of(dependents[0]).scaled
        # A number divided by a value is no multiple of it.
        scaled = scaled and args[0] is dependents[0]
        setattr(output, ROOT, _Root(roots.pop(), scaled))

    def _of(self, tensor: Tensor) -> _Root:
        root: _Root | None = getattr(tensor, ROOT, None)
        if root is None:
            root = _Root(object(), True)
            setattr(tensor, ROOT, root)
        return root
