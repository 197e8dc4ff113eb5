"""Modules as linear maps: projections, norms with known statistics, and the check of those norms.

B batch, N tokens, D hidden size, E input size of a projection.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from captum_globenc.decomposition.record import Normalization
from captum_globenc.decomposition.workspace import at_least_float32, full_precision
from captum_globenc.encoders.search import submodules
from captum_globenc.errors import RecordingError
from captum_globenc.recording.checks import TOLERANCE, Failure


def linear_map(module: nn.Module, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Return the matrix and the bias of an affine module.

    The weight of a plain `torch.nn.Linear` is read. Any other module, such as a quantized projection or
    one with an adapter, is run on zero and the unit vectors, which gives its bias and its columns.

    Args:
        module: maps `(..., E)` to `(..., D)`.
        size: E.
        dtype: of the returned tensors.

    Returns:
        The matrix `(D, E)` and the bias `(D,)` or None.

    Example:
        >>> matrix, bias = linear_map(nn.Linear(3, 2), size=3, dtype=torch.float64)
        >>> matrix.shape, bias.shape
        (torch.Size([2, 3]), torch.Size([2]))
    """
    with loaded(module):
        return _linear_map(module, size, dtype)


def _linear_map(module: nn.Module, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    reject_meta([module])
    weight: Any = getattr(module, "weight", None)
    if type(module) is nn.Linear and _is_plain(weight):
        bias = None if module.bias is None else module.bias.to(dtype)
        return weight.to(dtype), bias
    like = next(iter([*module.parameters(), *module.buffers()]), torch.empty(0))
    units_dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
    units = torch.eye(size, dtype=units_dtype, device=like.device)
    # Call forward, not the module, so that the user's hooks do not see the unit vectors.
    outputs = module.forward(torch.cat([torch.zeros_like(units[:1]), units])).to(dtype)
    return (outputs[1:] - outputs[0]).T, outputs[0]


def reject_meta(modules: Iterable[nn.Module]) -> None:
    """Reject modules whose weights are not loaded, and not offloaded such that :func:`loaded` loads them.

    Raises:
        ValueError: a parameter is on the meta device.
    """
    for module in modules:
        for part in submodules(module):
            if any(it is not None and it.is_meta for it in part._parameters.values()) and not _hooks(part):
                raise ValueError(
                    f"The weights of a {type(module).__name__} are on the meta device: not loaded yet, or "
                    "offloaded together with a larger module. Load them, or offload each module by "
                    "itself, as accelerate does by default."
                )


@contextmanager
def loaded(module: nn.Module) -> Iterator[None]:
    """Load the offloaded weights of a module, as accelerate does before the module runs."""
    with ExitStack() as contexts:
        for part in submodules(module):
            for hook in _hooks(part):
                hook.pre_forward(part)
                contexts.callback(hook.post_forward, part, None)
        yield


def _hooks(module: nn.Module) -> list[Any]:
    """Return the hooks of accelerate that load the offloaded weights of a module."""
    hook: Any = getattr(module, "_hf_hook", None)
    return [it for it in getattr(hook, "hooks", (hook,)) if getattr(it, "offload", False)]


def _is_plain(weight: Any) -> bool:
    """Whether a weight is an ordinary floating-point tensor, not a packed or quantized one."""
    return type(weight) in (Tensor, nn.Parameter) and weight.is_floating_point()


def is_quantized(module: nn.Module) -> bool:
    """Whether part of a module is quantized, so that it may round its input."""
    for part in submodules(module):
        weight = getattr(part, "weight", None)
        if "quant" in type(part).__module__ or (isinstance(weight, Tensor) and not _is_plain(weight)):
            return True
    return False


def linearized_norm(norm: nn.Module, inputs: Tensor, centred: bool) -> tuple[Normalization, ...]:
    """Return the linear map that a norm computed for given inputs.

    Args:
        norm: a LayerNorm or RMSNorm of any library, or an Identity.
        inputs: `(B, N, D)`.
        centred: whether the norm subtracts the mean.

    Returns:
        One normalization; none for an Identity.

    Raises:
        ValueError: the module has no eps.
    """
    found = norm_parameters(norm)
    return () if found is None else (normalization(*found, inputs, centred),)


def norm_parameters(norm: nn.Module) -> tuple[Tensor | None, float | None] | None:
    """Return the gain and the eps of a norm, each None if it has none; None for an Identity.

    Raises:
        ValueError: the module is no norm.
    """
    if isinstance(norm, nn.Identity):
        return None
    with loaded(norm):
        gain: Any = getattr(norm, "weight", None)
    missing = object()
    eps: Any = getattr(norm, "eps", getattr(norm, "variance_epsilon", missing))
    if eps is missing:
        raise ValueError(
            f"{type(norm).__name__} is neither a LayerNorm nor an RMSNorm: it has no eps. If an adapter "
            "wraps it, merge the adapter first."
        )
    return gain, eps


def normalization(gain: Tensor | None, eps: float | None, inputs: Tensor, centred: bool) -> Normalization:
    """Return the linear map that a norm computed for given inputs.

    Args:
        gain: `(D,)`, or `(L, 1, D)` of the norms of stacked layers; None without a gain.
        eps: added to the variance or the mean square; None for the default of :class:`torch.nn.RMSNorm`.
        inputs: `(B, N, D)`.
        centred: whether the norm subtracts the mean.
    """
    if eps is None:
        eps = torch.finfo(inputs.dtype if gain is None else gain.dtype).eps
    if centred:
        # One kernel; Tensor.var alone takes longer.
        scale = torch.native_layer_norm(inputs, inputs.shape[-1:], None, None, eps)[2][..., 0]
    else:
        scale = torch.rsqrt(torch.linalg.vecdot(inputs, inputs) / inputs.shape[-1] + eps)
    return Normalization(None if gain is None else gain.to(inputs.dtype), centred, scale)


def norm_error(norm: nn.Module, inputs: Tensor, output: Tensor, centred: bool) -> Tensor:
    """Return the largest difference between a norm's output and its linear map's at each token, `(B, N)`."""
    expected = inputs
    with full_precision(inputs):  # autocast would compute the scale of an RMSNorm in half precision
        for linear in linearized_norm(norm, inputs, centred):
            with loaded(norm):
                bias: Any = getattr(norm, "bias", None)
            expected = linear.linear(inputs) * linear.scale[..., None]
            expected = expected if bias is None else expected + bias
        return (output - expected).abs().amax(-1)


class NormCheck:
    """Check that norms return what their family's norms do.

    Norms with hooks, which may exchange tokens, are checked at all tokens. Other norms that are not plainly
    torch's own are checked at one token of each example.

    Args:
        norms: the norms of the encoder.
        centred: whether the family's norms subtract the mean.
    """

    def __init__(self, norms: Iterable[nn.Module], centred: bool) -> None:
        self._centred = centred
        self._measured: list[tuple[Tensor, Tensor]] = []
        self.real: Tensor | None = None
        """`(B, N)`, False at padding, which may hold anything; None if every token is real."""
        self.norms: Sequence[nn.Module] = [
            norm for norm in {id(it): it for it in norms}.values() if _may_differ(norm, centred)
        ]
        self._hooked = [norm for norm in self.norms if _has_hooks(norm)]

    def measure(self, norm: nn.Module, args: Any, output: Tensor) -> None:
        """Measure one of :attr:`norms`; its forward hook."""
        tokens = slice(None if norm in self._hooked else 1)
        seen, returned = (it[:, tokens] if it.ndim == 3 else it for it in (args[0], output))
        inputs = seen.to(at_least_float32(seen.dtype))
        # Models of every dtype may compute their norms in float32.
        tolerance = max(TOLERANCE.get(it, 0.0) for it in (torch.float32, seen.dtype, returned.dtype))
        error = norm_error(norm, inputs, returned, self._centred)
        self._measured.append((error, tolerance * returned.abs().amax(-1)))

    def failures(self) -> Iterable[Failure]:
        """Return one failure per measured norm."""
        error = RecordingError(
            "A norm of the encoder does not return what the norms of its family do: it was replaced, or a "
            "hook changes its output. Remove the hook, or write a spec for such an encoder, see "
            "captum_globenc.check_encoder."
        )
        failures = []
        for found, bound in self._measured:
            if self.real is not None and self.real.shape == found.shape:
                real = self.real.to(found.device)
                found, bound = found.where(real, 0), bound.where(real, 0)
            failures.append(Failure(found.max() > bound.max(), lambda: error))
        return failures


def _may_differ(norm: nn.Module, centred: bool) -> bool:
    """Whether a norm may return something else than torch's own."""
    expected = nn.LayerNorm if centred else nn.RMSNorm
    return not isinstance(norm, nn.Identity) and (type(norm) is not expected or _has_hooks(norm))


def _has_hooks(norm: nn.Module) -> bool:
    """Whether something else than a norm's class decides what it returns."""
    return bool(norm._forward_hooks or torch_module._global_forward_hooks or "forward" in vars(norm))
