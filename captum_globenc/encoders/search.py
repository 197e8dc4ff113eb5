"""The search for the one encoder inside a user's model, and for its parts."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from captum_globenc.encoders.paths import alternatives, parts
from captum_globenc.encoders.refused import REFUSED
from captum_globenc.encoders.registry import registered_specs, supported_encoders
from captum_globenc.encoders.spec import EncoderSpec, Head, Pooled
from captum_globenc.encoders.tokens import Grid
from captum_globenc.encoders.walk import every
from captum_globenc.errors import UnsupportedModelError

_PER_TOKEN_HEAD = re.compile(
    "For(TokenClassification|MaskedLM|CausalLM|MaskedImageModeling|QuestionAnswering|PreTraining|CTC"
    "|AudioFrame|ProteinFolding)"
    "|LMHead"
)
"""Heads that give one output per token, and so pool nothing."""

_POOLING_MODES: dict[str, Pooled] = {"cls": 0, "mean": "mean"}
"""What sentence-transformers' Pooling reads; other modes, and several at once, are none we know."""

_BEFORE_POOLING = ("CNN", "LSTM", "WeightedLayerPooling", "WordWeights")
"""Modules of sentence-transformers that may stand between the encoder and Pooling."""

_OPAQUE: dict[type[nn.Module], str] = {
    torch.jit.ScriptModule: "pass the module that was scripted or traced",
    nn.DataParallel: "pass its .module",
    nn.parallel.DistributedDataParallel: "pass its .module",
}


@dataclass(frozen=True)
class Layer:
    """One encoder layer's modules by role."""

    module: nn.Module
    attention: nn.Module
    out: nn.Module
    norm1: nn.Module
    norm2: nn.Module
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
        pooled: what the head, or a pooling module of sentence-transformers, reads of the last layer.
    """

    spec: EncoderSpec
    stack: nn.Module
    layers: tuple[Layer, ...]
    final_norm: nn.Module
    head: nn.Module
    pooled: Pooled

    @property
    def has_per_token_head(self) -> bool:
        """Whether the head gives one output per token, and so pools nothing."""
        return _PER_TOKEN_HEAD.search(type(self.head).__name__) is not None

    @property
    def has_decoder(self) -> bool:
        """Whether a decoder reads the encoder, so that the outputs are the decoder's."""
        return any(
            getattr(part, "is_decoder", False) or getattr(getattr(part, "config", None), "is_decoder", False)
            for part in every(self.head)
        )

    @property
    def grid(self) -> Grid | None:
        """How tokens lie on the inputs; None where each has an entry of its own."""
        return None if self.spec.tokens is None else self.spec.tokens(self.stack.config)


def find_encoder(model: nn.Module, spec: EncoderSpec | None = None) -> Encoder:
    """Find the one supported encoder inside `model`, and check that its spec fits it.

    Args:
        model: a bare encoder, a model with a head, or any module that holds one.
        spec: the only family to look for, registered or not; left out, all that are registered.

    Returns:
        The encoder, every part of its layers resolved.

    Raises:
        UnsupportedModelError: there is none that is supported, there are several, a part that the spec
            names is missing, or a module on the way cannot be seen into by hooks.
    """
    modules = list(every(model))
    specs = registered_specs() if spec is None else {spec.model_type: spec}
    models = [m for m in modules if isinstance(m, transformers.PreTrainedModel)]
    found = [m for m in modules if _is_stack(m, specs)]
    if not found:
        _refuse_opaque(modules)
        raise UnsupportedModelError(
            f"No supported encoder found in {type(model).__name__}: {_why_none(model, models, specs)}. "
            f"Supported: {', '.join(sorted(specs))}. A family can be added with "
            "captum_globenc.encoders.register_encoder; see docs/adding-a-family.md."
        )
    if len(found) > 1:
        names = ", ".join(f"{type(m).__name__} ({_model_type(m)})" for m in found)
        raise UnsupportedModelError(
            f"{type(model).__name__} holds more than one encoder: {names}. "
            "Pass the part to be explained as `model`."
        )
    stack = found[0]
    # What stands beside the encoder may be whatever it is.
    _refuse_opaque([*holders(model, stack), *every(stack)])
    spec = specs[_model_type(stack)]
    _check_config(stack.config, spec)
    spec = spec.adapt(spec, stack)
    head = _head(models, stack)
    row = _head_row(head, spec)
    layers = tuple(_resolve_layers(stack, spec))
    final_norm = _resolve_final_norm(stack, head, row, spec)
    return Encoder(spec, stack, layers, final_norm, head, _pooled(model, stack, row, spec))


def holders(model: nn.Module, stack: nn.Module) -> list[nn.Module]:
    """Return the modules on the way from `model`, the outermost, to `stack`, itself left out."""
    path = next(name for name, module in model.named_modules() if module is stack)
    parts = path.split(".") if path else []
    return [model.get_submodule(".".join(parts[:depth])) for depth in range(len(parts))]


def pooled_by(forward_func: object, model: nn.Module, encoder: Encoder) -> Pooled:
    """Return what a forward function reads of an encoder's last layer, as far as that can be known.

    What a model with a head reads is known by its family, whatever is made of its output, and
    sentence-transformers says it. What a function or a module of the user's own reads of a bare encoder
    is not known.

    Args:
        forward_func: what runs the encoder.
        model: the module in which the encoder was found.
        encoder: the encoder.
    """
    if encoder.head is not encoder.stack:
        return encoder.pooled
    if isinstance(forward_func, nn.Module) and any(m is encoder.stack for m in every(forward_func)):
        known = all(map(_passes_on, holders(forward_func, encoder.stack)))
        model = forward_func
    else:
        known = any(map(_is_of_sentence_transformers, every(model)))
    row = _head_row(encoder.head, encoder.spec)
    return _pooled(model, encoder.stack, row, encoder.spec) if known else None


def _passes_on(module: nn.Module) -> bool:
    """Whether a module around an encoder reads what the encoder's family says, or says what it reads."""
    package = type(module).__module__.partition(".")[0]
    known = ("captum_globenc", "peft", "sentence_transformers", "transformers")
    return package in known or hasattr(module, "_orig_mod")


def _is_of_sentence_transformers(module: nn.Module) -> bool:
    # Told by the name, because it need not be installed.
    return type(module).__module__.startswith("sentence_transformers.")


def _why_none(
    model: nn.Module,
    models: list[transformers.PreTrainedModel],
    specs: Mapping[str, EncoderSpec],
) -> str:
    """Say what was found in `model` instead of a supported encoder."""
    if not models:
        return "it holds no Hugging Face model"
    for name in map(_model_type, models):
        if name in REFUSED:
            return f"{name} is refused, because {REFUSED[name]}"
        if name in specs:
            return (
                f"its {name} is a decoder, or lacks the module {specs[name].stack or 'that runs the layers'}"
            )
    return f"it holds {', '.join(sorted(set(map(_model_type, models))))}"


def _check_config(config: Any, spec: EncoderSpec) -> None:
    for setting, reason in spec.refuses.items():
        value = getattr(config, setting, None)
        if value:
            raise UnsupportedModelError(
                f"{spec.model_type} with config.{setting} = {value!r} is refused, because {reason}. "
                f"Supported: {', '.join(supported_encoders())}."
            )


def _head(models: list[transformers.PreTrainedModel], stack: nn.Module) -> nn.Module:
    """Return the outermost model around the stack: the stack itself where none does more than run it."""
    around = next((m for m in models if any(part is stack for part in every(m))), stack)
    return stack if list(around.children()) == [stack] else around


def _head_row(head: nn.Module, spec: EncoderSpec) -> Head | None:
    """Return what the spec says of this kind of head; None where the family's rule holds."""
    names = (kind.__name__ for kind in type(head).__mro__)
    row = next((spec.heads[name] for name in names if name in spec.heads), None)
    # A model of another family around the encoder, such as one that generates, may read any of it.
    return Head() if row is None and _model_type(head) != spec.model_type else row


def _resolve_final_norm(stack: nn.Module, head: nn.Module, row: Head | None, spec: EncoderSpec) -> nn.Module:
    owner, path = stack, spec.final_norm
    if row is not None and row.final_norm is not None:
        owner, path = head, row.final_norm
    return _part(owner, path, spec) if path else nn.Identity()


def _pooled(model: nn.Module, stack: nn.Module, row: Head | None, spec: EncoderSpec) -> Pooled:
    """Return what is read of the last layer: by sentence-transformers' Pooling, or by the head."""
    theirs = [m for m in every(model) if _is_of_sentence_transformers(m)]
    for module in theirs:
        if type(module).__name__ == "Pooling":
            # What stands between, weights of words or another network, changes what is averaged.
            if any(type(m).__name__ in _BEFORE_POOLING for m in theirs) or not module.include_prompt:
                return None
            return _POOLING_MODES.get(str(module.pooling_mode))
    return (spec.pooled if row is None else row.pooled)(stack.config)


def _model_type(model: nn.Module) -> str:
    return str(getattr(getattr(model, "config", None), "model_type", ""))


def _is_stack(model: nn.Module, specs: Mapping[str, EncoderSpec]) -> bool:
    """Whether `model` runs the layers of a supported encoder itself, rather than holding one that does."""
    spec = specs.get(_model_type(model))
    if spec is None or getattr(model.config, "is_decoder", False) or not _holds_stack(model, spec):
        return False
    return not any(_holds_stack(part, spec) for part in every(model) if part is not model)


def _holds_stack(module: nn.Module, spec: EncoderSpec) -> bool:
    """Whether `module` looks from outside like the stack of its family, which may be one of its parts."""
    if _model_type(module) != spec.model_type:
        return False
    if spec.stack:
        return not {kind.__name__ for kind in type(module).__mro__}.isdisjoint(alternatives(spec.stack))
    return isinstance(module, transformers.PreTrainedModel)


def _resolve_layers(stack: nn.Module, spec: EncoderSpec) -> Iterator[Layer]:
    beside = {role: parts(stack, path, spec.model_type) for role, path in spec.roles.items() if "*" in path}
    for index, module in enumerate(parts(stack, spec.layers, spec.model_type)):
        modules = {
            role: beside[role][index] if role in beside else _part(module, path, spec)
            for role, path in spec.roles.items()
        }
        scale = _part(module, spec.layer_scale, spec) if spec.layer_scale else None
        yield Layer(module=module, layer_scale=scale, **modules)


def _part(module: nn.Module, path: str, spec: EncoderSpec) -> Any:
    (part,) = parts(module, path, spec.model_type)
    return part


def _refuse_opaque(modules: Iterable[nn.Module]) -> None:
    """Refuse modules whose parts run out of reach of hooks."""
    kinds = tuple(_OPAQUE)
    for module in modules:
        if isinstance(module, nn.DataParallel) and len(module.device_ids) < 2:
            continue  # it calls its module itself
        if isinstance(module, kinds):
            reason = next(todo for kind, todo in _OPAQUE.items() if isinstance(module, kind))
            raise UnsupportedModelError(f"Hooks cannot see into a {type(module).__name__}: {reason}.")
