"""Token ids, followed from the inputs to where embeddings are looked up by them.

The place of an id is its number among those of all inputs, one input after the other. What is made of ids has
their places, one for each of its elements, or none that are known.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_globenc.differences.call import differentiable, leaves, replaced
from captum_globenc.differences.kinds import ARRANGING, ELEMENTWISE, LIKE
from captum_globenc.differences.names import changes_in_place, functions

__all__ = ["Ids", "Index"]

TAG = "_captum_globenc_index"
WRITING = functions("setitem copy")
DATA = ("input", "tensors", "self")
"""What functions call that which they put elsewhere."""


class Index(NamedTuple):
    """That a tensor is made of ids, and at which places these are; None where that is not known."""

    token: object
    places: Tensor | None


class Ids:
    """The ids of one run, and what is made of them."""

    def __init__(self) -> None:
        self._token = object()
        self._count = 0

    def take(self, ids: Tensor) -> Tensor:
        """Take ids of the inputs, and return them as the model is to see them."""
        places = torch.arange(self._count, self._count + ids.numel(), device=ids.device)
        self._count += ids.numel()
        return self._numbered(differentiable(ids.detach()).view_as(ids), places.view_as(ids))

    def index(self, leaf: Any) -> Index | None:
        """Return what is known of a tensor that is made of ids; None for others."""
        found: Index | None = getattr(leaf, TAG, None)
        return found if found is not None and found.token is self._token else None

    def follow(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], output: Any) -> None:
        """Take note of what a function made of arguments of which some are made of ids."""
        in_place = changes_in_place(function)
        made = [it for it in leaves(args[0] if in_place else output) if isinstance(it, Tensor)]
        places: Sequence[Tensor | None] = [None] * len(made)
        if function in WRITING:
            where, value = args[1:] if function is Tensor.__setitem__ else (..., [*args, *kwargs.values()][1])
            places = [self._written(args[0], where, value)]
        elif function in ELEMENTWISE:
            of = args[:1] if function in LIKE else (args, kwargs)
            places = [self._elementwise(of, it) for it in made]
        elif function in ARRANGING and not in_place:
            places = self._arranged(function, args, kwargs, made)
        for it, place in zip(made, places, strict=True):
            if not it.is_floating_point():
                self._numbered(it, place)
                if in_place and it._base is not None:
                    self._numbered(it._base, None)

    def _numbered(self, tensor: Tensor, places: Tensor | None) -> Tensor:
        setattr(tensor, TAG, Index(self._token, places))
        return tensor

    def _elementwise(self, arguments: Any, made: Tensor) -> Tensor | None:
        """Return the places that all arguments have, element by element."""
        found = [index.places for leaf in leaves(arguments) if (index := self.index(leaf))]
        known = [it.broadcast_to(made.shape) for it in found if it is not None and _fits(it, made)]
        alike = len(known) == len(found) and all(torch.equal(known[0], it) for it in known)
        return known[0].to(made.device) if alike else None

    def _written(self, target: Tensor, where: Any, value: Any) -> Tensor | None:
        """Return the places of a tensor into which something was written."""
        before, new = self.index(target), self.index(value)
        if any(index is not None and index.places is None for index in (before, new)):
            return None
        # Constants, which contribute nothing, have whatever place.
        places = torch.zeros(target.shape, dtype=torch.long, device=target.device)
        if before is not None and before.places is not None:
            places = before.places.clone()
        if new is not None and new.places is not None:
            places[where] = new.places
        return places

    def _arranged(
        self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], made: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        """Return the places of ids that were put elsewhere, or that other numbers were looked up by."""
        name = next((it for it in DATA if it in kwargs), "")
        data = args[0] if args else kwargs.get(name)
        known = [index for leaf in leaves(data) if (index := self.index(leaf))]
        if not known:  # a table, and ids among the indices
            by = [index.places for leaf in leaves((args, kwargs)) if (index := self.index(leaf))]
            return [by[0] if len(by) == 1 and _shape(by[0]) == it.shape else None for it in made]
        if any(index.places is None for index in known):
            return [None] * len(made)
        places = replaced(data, self._place)
        arranged = function(places, *args[1:], **kwargs) if args else function(**{**kwargs, name: places})
        last = max(self._count - 1, 0)  # what padding is filled with may be any number
        return [it.clamp(0, last) for it in leaves(arranged) if isinstance(it, Tensor)]

    def _place(self, leaf: Any) -> Any:
        index = self.index(leaf)
        if index is not None:
            return index.places
        return torch.zeros_like(leaf, dtype=torch.long) if isinstance(leaf, Tensor) else leaf


def _fits(places: Tensor, made: Tensor) -> bool:
    """Whether places can be broadcast to what was made."""
    sizes = made.shape[made.dim() - places.dim() :]
    return places.dim() <= made.dim() and all(
        one in (1, other) for one, other in zip(places.shape, sizes, strict=True)
    )


def _shape(places: Tensor | None) -> torch.Size | None:
    return None if places is None else places.shape
