"""The registry of encoder families, and the search for an encoder inside a user's model."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from captum_globenc.encoders.spec import EncoderSpec
from captum_globenc.encoders.text import TEXT_ENCODERS

_REGISTRY: dict[str, EncoderSpec] = {spec.model_type: spec for spec in TEXT_ENCODERS}

_PER_TOKEN_HEAD = re.compile(
    "For(TokenClassification|MaskedLM|QuestionAnswering|PreTraining|CTC|AudioFrame)|LMHead"
)
"""Heads that give one output per token, and so pool nothing."""

_OPAQUE: tuple[tuple[type[nn.Module], str], ...] = (
    (torch.jit.ScriptModule, "pass the module that was scripted or traced"),
    (nn.DataParallel, "pass its .module"),
    (nn.parallel.DistributedDataParallel, "pass its .module"),
)


@dataclass(frozen=True)
class Layer:
    """One encoder layer's modules by role."""

    module: nn.Module
    attention: nn.Module
    out: nn.Module
    norm1: nn.Module
    norm2: nn.Module
    probabilities: nn.Module | None = None
    value: nn.Module | None = None
    layer_scale: Tensor | None = None


@dataclass(frozen=True)
class Encoder:
    """An encoder found inside a model.

    Args:
        spec: its family.
        stack: the module that runs the layers.
        layers: the layers, each once even where the model runs it several times.
        final_norm: the norm after the last layer of a pre-LN encoder, an Identity where there is none.
        head: the outermost Hugging Face model around it, the stack itself for a bare encoder.
    """

    spec: EncoderSpec
    stack: transformers.PreTrainedModel
    layers: tuple[Layer, ...]
    final_norm: nn.Module
    head: transformers.PreTrainedModel

    @property
    def has_per_token_head(self) -> bool:
        """Whether the head gives one output per token, and so pools nothing."""
        return _PER_TOKEN_HEAD.search(type(self.head).__name__) is not None


def register_encoder(spec: EncoderSpec, overwrite: bool = False) -> None:
    """Make a family of encoders known.

    Args:
        spec: the family.
        overwrite: whether to replace a spec of the same `model_type`.

    Raises:
        ValueError: the family is known already and `overwrite` is False.

    Example:
        >>> from dataclasses import replace
        >>> from captum_globenc.encoders import BERT, register_encoder, supported_encoders
        >>> register_encoder(replace(BERT, model_type="bert-of-mine"))
        >>> "bert-of-mine" in supported_encoders()
        True
    """
    if spec.model_type in _REGISTRY and not overwrite:
        raise ValueError(
            f"Encoder {spec.model_type!r} is registered already; pass overwrite=True to replace it."
        )
    _REGISTRY[spec.model_type] = spec


def supported_encoders() -> tuple[str, ...]:
    """Return the `model_type` of every family that is supported, sorted.

    Example:
        >>> "bert" in supported_encoders()
        True
    """
    return tuple(sorted(_REGISTRY))


def find_encoder(model: nn.Module) -> Encoder:
    """Find the one supported encoder inside `model`, and check that its spec fits it.

    Args:
        model: a bare encoder, a model with a head, or any module that holds one.

    Returns:
        The encoder, every part of its layers resolved.

    Raises:
        ValueError: there is none that is supported, there are several, a part that the spec names is
            missing, or a module on the way cannot be seen into by hooks.
    """
    for module in model.modules():
        _refuse_opaque(module)
    models = [m for m in model.modules() if isinstance(m, transformers.PreTrainedModel)]
    found = [m for m in models if _is_stack(m)]
    if not found:
        kinds = sorted({_model_type(m) for m in models}) or [type(model).__name__]
        raise ValueError(
            f"No supported encoder found in {type(model).__name__} (found: {', '.join(kinds)}). "
            f"Supported: {', '.join(supported_encoders())}. A family can be added with "
            "captum_globenc.encoders.register_encoder; see the README on adding a family."
        )
    if len(found) > 1:
        names = ", ".join(f"{type(m).__name__} ({_model_type(m)})" for m in found)
        raise ValueError(
            f"{type(model).__name__} holds more than one encoder: {names}. "
            "Pass the part to be explained as `model`."
        )
    stack = found[0]
    spec = _REGISTRY[_model_type(stack)]
    head = next(m for m in models if any(part is stack for part in m.modules()))
    final_norm = _submodule(stack, spec.final_norm, spec) if spec.final_norm else nn.Identity()
    return Encoder(spec, stack, tuple(_resolve_layers(stack, spec)), final_norm, head)


def _model_type(model: transformers.PreTrainedModel) -> str:
    return str(getattr(model.config, "model_type", ""))


def _is_stack(model: transformers.PreTrainedModel) -> bool:
    """Whether `model` runs the layers of a supported encoder itself, rather than holding one that does."""
    spec = _REGISTRY.get(_model_type(model))
    if spec is None or getattr(model.config, "is_decoder", False):
        return False
    if spec.stack:
        return spec.stack in {cls.__name__ for cls in type(model).__mro__}
    return not any(
        isinstance(part, transformers.PreTrainedModel) and _model_type(part) == spec.model_type
        for part in model.modules()
        if part is not model
    )


def _resolve_layers(stack: nn.Module, spec: EncoderSpec) -> Iterator[Layer]:
    for module in _expand(stack, spec.layers.split("."), spec):
        parts = {role: _submodule(module, path, spec) for role, path in spec.roles.items()}
        scale = _attribute(module, spec.layer_scale, spec) if spec.layer_scale else None
        yield Layer(module=module, layer_scale=scale, **parts)


def _expand(module: nn.Module, path: list[str], spec: EncoderSpec) -> Iterator[nn.Module]:
    """Yield the modules that `path` leads to, every child where it says "*"."""
    if not path:
        yield module
    elif path[0] == "*":
        for child in module.children():
            yield from _expand(child, path[1:], spec)
    else:
        yield from _expand(_submodule(module, path[0], spec), path[1:], spec)


def _submodule(module: nn.Module, path: str, spec: EncoderSpec) -> nn.Module:
    part = _attribute(module, path, spec)
    assert isinstance(part, nn.Module)
    return part


def _attribute(module: nn.Module, path: str, spec: EncoderSpec) -> Any:
    try:
        return attrgetter(path)(module)
    except AttributeError as error:
        raise ValueError(
            f"The spec of {spec.model_type!r} does not fit: {type(module).__name__} has no {path!r} "
            f"in transformers {transformers.__version__}."
        ) from error


def _refuse_opaque(module: nn.Module) -> None:
    """Refuse modules whose parts run out of reach of hooks."""
    reason = next((todo for kind, todo in _OPAQUE if isinstance(module, kind)), None)
    if hasattr(module, "_orig_mod"):
        reason = "pass the module that was compiled (its ._orig_mod)"
    elif getattr(module, "_compiled_call_impl", None) is not None:
        reason = "call .compile() on a copy, and pass the module before compilation"
    if reason is not None:
        raise ValueError(f"Hooks cannot see into a {type(module).__name__}: {reason}.")
