"""Record the hidden states at every depth of a model, in both runs of a comparison.

B batch, L layers, N tokens, D embedding size.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from captum_globenc.differences.trace import Snapshot
from captum_globenc.encoders import find_encoder
from captum_globenc.errors import NoLayersError, UnsupportedModelError
from captum_globenc.recording.hooks import in_this_thread, layer_input, layer_output


class Depths:
    """The input of each layer, and the output of the last.

    Args:
        model: the model; None if it is unknown.

    Raises:
        ValueError: there is no model.
        NoLayersError: it has no layers.
    """

    def __init__(self, model: nn.Module | None) -> None:
        if model is None:
            raise ValueError(
                "forward_func is not a module, so its layers cannot be found: pass the module that holds "
                "them, TransformerDeepLift(forward_func, model)."
            )
        self._layers = _layers(model)
        self._runs: list[list[Snapshot]] = []

    @property
    def streams(self) -> list[Snapshot]:
        """`(B, N, D)` at each of L + 1 depths, at the inputs.

        Raises:
            NoLayersError: the layers do not all work on one sequence of tokens.
        """
        found = self._runs[-1]
        shapes = {stream.value.shape[:2] for stream in found}
        if len(found) < 2 or len(shapes) != 1 or found[0].value.dim() != 3:
            name = type(self._layers[0]).__name__
            raise NoLayersError(f"the layers ({name}) do not pass on one tensor (batch, tokens, size)")
        return found

    @property
    def bases(self) -> list[Snapshot]:
        """`(B, N, D)` at each of L + 1 depths, at the baseline."""
        return self._runs[-2]

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record one run; the previous run is kept, without its graph."""
        seen: list[Snapshot] = []
        last: list[Snapshot] = []
        self._runs = [*([it._replace(edge=None) for it in run] for run in self._runs[-1:]), seen]

        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            seen.append(Snapshot.of(layer_input(args, kwargs)))

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            last[:] = [Snapshot.of(layer_output(output))]

        with ExitStack() as handles:
            for layer in self._layers:
                handles.enter_context(
                    layer.register_forward_pre_hook(in_this_thread(enter), with_kwargs=True)
                )
                handles.enter_context(layer.register_forward_hook(in_this_thread(leave)))
            yield
        seen.extend(last)


def _layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers of the encoder, or the modules of the longest ModuleList of one class."""
    return list(dict.fromkeys(_encoder_layers(model))) or max(_rows(model), key=len)


def stacks(model: nn.Module) -> list[nn.Module]:
    """Return the layers of all stacks of a model, the encoder first; shared layers once for each call.

    Raises:
        NoLayersError: the model has no layers.
    """
    found = _encoder_layers(model)
    inside = {part for layer in found for part in layer.modules()}
    for row in _rows(model) if not found else _rows(model, required=False):
        new = [layer for layer in row if not inside.intersection(layer.modules())]
        found += new
        inside.update(part for layer in new for part in layer.modules())
    return found


def _encoder_layers(model: nn.Module) -> list[nn.Module]:
    try:
        return [layer.module for layer in find_encoder(model).layers]
    except UnsupportedModelError:
        return []


def _rows(model: nn.Module, required: bool = True) -> list[list[nn.Module]]:
    """Return the modules of each ModuleList of one class, outer lists first."""
    rows = [
        list(row)
        for row in model.modules()
        if isinstance(row, nn.ModuleList) and len(row) and len({type(it) for it in row}) == 1
    ]
    if required and not rows:
        raise NoLayersError(
            "the model has no layers: neither a supported encoder nor a ModuleList of one class"
        )
    return rows
