"""Activations that are written out: which value is a function of which other, element by element.

x (1 + erf(x / sqrt 2)) / 2 is an activation of slope phi(x) / x = (1 + erf(x / sqrt 2)) / 2, and no product
of two values of which each has half.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from captum_globenc.differences.call import LINEAR, leaves
from captum_globenc.differences.frozen import Rules
from captum_globenc.differences.mode import DifferenceMode
from captum_globenc.differences.names import functions
from captum_globenc.differences.scalars import SCALARS
from captum_globenc.differences.table import Row
from captum_globenc.differences.trace import Trace
from captum_globenc.errors import UnsupportedOperationError

__all__ = ["FrozenMode"]

ROOT = "_captum_globenc_root"
PRODUCTS = functions("mul multiply")
SCALED = PRODUCTS | functions("div divide true_divide truediv neg negative")
ELEMENTWISE = functions("add sub rsub subtract").union(SCALED, *(functions(names) for names, _ in SCALARS))


class _Root(NamedTuple):
    """What a value is a function of, and whether it is a multiple of that.

    Attributes:
        token: stands for what the value is a function of.
        scaled: whether it is a multiple of that.
        version: the tensor's, when this was known: a later write in place makes it another value.
    """

    token: object
    scaled: bool
    version: int


class FrozenMode(DifferenceMode):
    """Sees the one run of a frozen network.

    Args:
        trace: of the run.
        rules: the rules of the network.
    """

    def __init__(self, trace: Trace, rules: Rules) -> None:
        super().__init__(trace, None, rules.table, alone=True)
        self._slopes = rules.slopes
        self._roots = _Roots()

    def completed(self, output: Any) -> Any:
        """Return the output, once some of it depends on the input.

        Args:
            output: what the function returned.

        Raises:
            UnsupportedOperationError: none of it does, as far as frozen rules tell.
        """
        if not any(self.depends(leaf) for leaf in leaves(output)):
            super().completed(output)
            raise UnsupportedOperationError(
                "The output does not depend on the input in the frozen network, in which probabilities of a "
                "softmax are constants: explain logits. Ids have to be looked up by an embedding."
            )
        return super().completed(output)

    def _seen_through(self, leaf: Any, in_place: bool = False) -> Any:
        seen = super()._seen_through(leaf, in_place)
        if seen is not leaf:
            self._roots.share(leaf, seen)
        return seen

    def _by(self, row: Row, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        dependents = [leaf for leaf in leaves((args, kwargs)) if self.depends(leaf)]
        gate, given = self._roots.gate(func, dependents), args
        if gate is not None and self._slopes:
            given = tuple(leaf.detach() if leaf is gate else leaf for leaf in args)
        elif gate is not None:
            row = Row(LINEAR)
        root = self._roots.of_result(func, args, dependents)
        output = super()._by(row, func, given, kwargs)
        if root is not None and isinstance(output, Tensor):
            setattr(output, ROOT, root._replace(version=output._version))
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

    def share(self, tensor: Tensor, same: Tensor) -> None:
        """Take note that two tensors are the same value."""
        setattr(same, ROOT, self._of(tensor)._replace(version=same._version))

    def of_result(self, function: Any, args: Sequence[Any], dependents: Sequence[Tensor]) -> _Root | None:
        """Return the root of what a function is about to make of values; None for a new one."""
        roots = {self._of(tensor).token for tensor in dependents}
        known = {id(tensor) for tensor in dependents}
        others = [arg for arg in args if isinstance(arg, Tensor) and arg.dim() and id(arg) not in known]
        if len(roots) != 1 or others or function not in ELEMENTWISE:
            return None
        scaled = function in SCALED and len(dependents) == 1 and self._of(dependents[0]).scaled
        # A number divided by a value is no multiple of it.
        return _Root(roots.pop(), scaled and args[0] is dependents[0], 0)

    def _of(self, tensor: Tensor) -> _Root:
        root: _Root | None = getattr(tensor, ROOT, None)
        if root is None or root.version != tensor._version:
            root = _Root(object(), True, tensor._version)
            setattr(tensor, ROOT, root)
        return root
