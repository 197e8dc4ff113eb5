"""How Captum wraps every `attribute`: NoiseTunnel calls what is within, `attribute.__wrapped__`."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from captum.log import log_usage

__all__ = ["logged"]

Method = TypeVar("Method", bound=Callable[..., Any])


def logged(method: Method) -> Method:
    """Wrap a method as Captum does, and keep its type."""
    return cast(Method, log_usage()(method))
