"""Base classes of the methods: what Captum requires, and the checks of the constructor's arguments."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from captum.attr import Attribution
from captum.log import log_usage
from torch import nn

from captum_globenc.encoders import find_encoder
from captum_globenc.encoders.search import submodules

Method = TypeVar("Method", bound=Callable[..., Any])


def logged(method: Method) -> Method:
    """Wrap an `attribute` method as Captum does; NoiseTunnel calls its `__wrapped__`."""
    return cast(Method, log_usage()(method))


class ModelAttribution(Attribution):
    """Base class of the methods.

    A subclass defines `attribute`, wrapped by :func:`logged`, and overrides `multiplies_by_inputs` and
    `has_convergence_delta` if they are not False, as Captum's own classes do.

    Args:
        forward_func: a module, or a function that runs one, which takes the inputs first.
        model: the module that `forward_func` runs. Defaults to `forward_func` if that is a module.

    Raises:
        TypeError: `model` is not a module.
        ValueError: `forward_func` or `model` holds an `nn.DataParallel` over several devices.
    """

    def __init__(self, forward_func: Callable[..., Any], model: nn.Module | None = None) -> None:
        super().__init__(forward_func)
        _reject_replicas(forward_func, model)
        if model is None and isinstance(forward_func, nn.Module):
            model = forward_func
        if model is not None and not isinstance(model, nn.Module):
            raise TypeError(
                f"model is a {type(model).__name__}, not a module: pass the model that forward_func calls, "
                f"{self.get_name()}(forward_func, model)."
            )
        self.model = model

    @classmethod
    def get_name(cls) -> str:
        """Return the class name as it is written; Captum would insert spaces."""
        return cls.__name__

    def attribute_future(self) -> None:
        """Not available.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(f"attribute_future is not implemented for {self.get_name()}")

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether scores are multipliers times inputs, or times differences from the baseline."""
        return False

    def has_convergence_delta(self) -> bool:
        """Return whether `attribute` can return the sum of the scores minus the output's difference."""
        return False


class EncoderAttribution(ModelAttribution):
    """Base class of the methods that need the model's encoder.

    Args:
        forward_func: a module, or a function that runs one, which takes the inputs first.
        model: the module that holds the encoder; required if `forward_func` is not a module.

    Raises:
        TypeError: `model` is not a module.
        ValueError: there is no model; or as :class:`ModelAttribution` raises.
        UnsupportedModelError: the model has no supported encoder.
    """

    model: nn.Module

    def __init__(self, forward_func: Callable[..., Any], model: nn.Module | None = None) -> None:
        super().__init__(forward_func, model)
        if self.model is None:
            raise ValueError(
                "forward_func is not a module, so the encoder cannot be found in it: pass the module that "
                f"holds it, {self.get_name()}(forward_func, model)."
            )
        find_encoder(self.model)


def _reject_replicas(*parts: object) -> None:
    """Reject `nn.DataParallel` over more than one device.

    It runs copies of its module in other threads, which cannot be recorded. Over at most one device, it calls
    the module itself.

    Args:
        parts: forward functions and models; only modules are searched.

    Raises:
        ValueError: one of them holds such a module.
    """
    for part in parts:
        for module in submodules(part) if isinstance(part, nn.Module) else ():
            if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
                raise ValueError(
                    f"nn.DataParallel runs replicas of {type(module.module).__name__} in threads on "
                    f"{len(module.device_ids)} devices, which cannot be recorded: pass the module that it "
                    "wraps, model.module, in the forward function too"
                )
