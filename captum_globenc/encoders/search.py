"""Find the encoder inside a user's model, and its parts."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from captum_globenc.encoders.registry import UNSUPPORTED, registered_specs, supported_encoders
from captum_globenc.encoders.spec import EncoderSpec, Head, Pooled
from captum_globenc.encoders.tokens import Grid
from captum_globenc.errors import UnsupportedModelError

_PER_TOKEN_HEAD = re.compile(
    "For(TokenClassification|MaskedLM|CausalLM|MaskedImageModeling|QuestionAnswering|PreTraining|CTC"
    "|AudioFrame|ProteinFolding)"
    "|LMHead"
)
"""Class names of models whose head gives one output per token, so that no token is pooled."""

_POOLING_MODES: dict[str, Pooled] = {"cls": 0, "mean": "mean"}
"""Modes of sentence-transformers' Pooling; other modes, and several at once, are unknown."""

_BEFORE_POOLING = ("CNN", "LSTM", "WeightedLayerPooling", "WordWeights")
"""Modules of sentence-transformers between the encoder and Pooling that change what is averaged."""

_UNHOOKABLE: dict[type[nn.Module], str] = {
    torch.jit.ScriptModule: "pass the module that was scripted or traced",
    nn.DataParallel: "pass its .module",
    nn.parallel.DistributedDataParallel: "pass its .module",
}
"""Modules whose parts run out of reach of hooks, and what to do."""


@dataclass(frozen=True)
class Layer:
    """The modules of one encoder layer by role."""

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
        layers: the layers, each once even if the model runs it several times.
        final_norm: the norm after the last layer of a pre-LN encoder; an Identity if there is none.
        head: the outermost Hugging Face model that holds the encoder; the stack itself for a bare encoder.
        pooled: the tokens of the last layer that the head, or sentence-transformers' Pooling, reads.
    """

    spec: EncoderSpec
    stack: nn.Module
    layers: tuple[Layer, ...]
    final_norm: nn.Module
    head: nn.Module
    pooled: Pooled

    @property
    def has_per_token_head(self) -> bool:
        """Whether the head gives one output per token, so that no token is pooled."""
        return _PER_TOKEN_HEAD.search(type(self.head).__name__) is not None

    @property
    def has_decoder(self) -> bool:
        """Whether a decoder reads the encoder and returns the outputs."""
        return any(
            getattr(part, "is_decoder", False) or getattr(getattr(part, "config", None), "is_decoder", False)
            for part in submodules(self.head)
        )

    @property
    def grid(self) -> Grid | None:
        """The layout of tokens on the inputs; None if each token has an id or embedding of its own."""
        return None if self.spec.tokens is None else self.spec.tokens(self.stack.config)


def find_encoder(model: nn.Module, spec: EncoderSpec | None = None) -> Encoder:
    """Find the one supported encoder inside `model`, and check that its spec fits.

    Args:
        model: a bare encoder, a model with a head, or any module that holds one.
        spec: the only family to look for, registered or not; None for all registered families.

    Returns:
        The encoder and the modules of its layers.

    Raises:
        UnsupportedModelError: the model has no supported encoder, or several; a part that the spec names is
            missing; or hooks do not reach the encoder.
    """
    modules = list(submodules(model))
    specs = registered_specs() if spec is None else {spec.model_type: spec}
    models = [m for m in modules if isinstance(m, transformers.PreTrainedModel)]
    found = [m for m in modules if _is_stack(m, specs)]
    if not found:
        _reject_unhookable(modules)
        raise UnsupportedModelError(
            f"No supported encoder found in {type(model).__name__}: {_why_none(model, models, specs)}. "
            f"Supported: {', '.join(sorted(specs))}. A family can be added with "
            "captum_globenc.encoders.register_encoder; see docs/adding-a-family.md."
        )
    if len(found) > 1:
        names = ", ".join(f"{type(m).__name__} ({_model_type(m)})" for m in found)
        raise UnsupportedModelError(
            f"{type(model).__name__} holds more than one encoder: {names}. "
            "Pass the part to explain as `model`."
        )
    stack = found[0]
    # Modules beside the encoder do not matter.
    _reject_unhookable([*holders(model, stack), *submodules(stack)])
    spec = specs[_model_type(stack)]
    _check_config(stack.config, spec)
    spec = spec.adapt(spec, stack)
    head = _head(models, stack)
    row = _head_row(head, spec)
    layers = tuple(_resolve_layers(stack, spec))
    if not layers:
        raise UnsupportedModelError(f"The {type(stack).__name__} has no layers to decompose.")
    final_norm = _resolve_final_norm(stack, head, row, spec)
    return Encoder(spec, stack, layers, final_norm, head, _pooled(model, stack, row, spec))


def holders(model: nn.Module, stack: nn.Module) -> list[nn.Module]:
    """Return the modules that contain `stack`, from `model` inwards, without `stack` itself."""
    path = next(name for name, module in model.named_modules() if module is stack)
    parts = path.split(".") if path else []
    return [model.get_submodule(".".join(parts[:depth])) for depth in range(len(parts))]


def pooled_by(forward_func: object, model: nn.Module, encoder: Encoder) -> Pooled:
    """Return the tokens of the last layer that a forward function reads; None if that is unknown.

    It is known for models with a head, by their family, and for sentence-transformers. It is unknown if a
    function or module of the user's own reads a bare encoder.

    Args:
        forward_func: the forward function.
        model: the module that holds the encoder.
        encoder: the encoder.
    """
    if encoder.head is not encoder.stack:
        return encoder.pooled
    if isinstance(forward_func, nn.Module) and any(m is encoder.stack for m in submodules(forward_func)):
        known = all(map(_passes_on, holders(forward_func, encoder.stack)))
        model = forward_func
    else:
        known = any(map(_is_of_sentence_transformers, submodules(model)))
    row = _head_row(encoder.head, encoder.spec)
    return _pooled(model, encoder.stack, row, encoder.spec) if known else None


def _passes_on(module: nn.Module) -> bool:
    """Whether the tokens that a module around an encoder reads are known."""
    package = type(module).__module__.partition(".")[0]
    known = ("captum_globenc", "peft", "sentence_transformers", "transformers")
    return package in known or hasattr(module, "_orig_mod")


def _is_of_sentence_transformers(module: nn.Module) -> bool:
    # Tested by name, because sentence-transformers may not be installed.
    return type(module).__module__.startswith("sentence_transformers.")


def _why_none(
    model: nn.Module,
    models: list[transformers.PreTrainedModel],
    specs: Mapping[str, EncoderSpec],
) -> str:
    """Describe what `model` holds instead of a supported encoder."""
    if not models:
        return "it holds no Hugging Face model"
    for name in map(_model_type, models):
        if name in UNSUPPORTED:
            return f"{name} is unsupported, because {UNSUPPORTED[name]}"
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
                f"{spec.model_type} with config.{setting} = {value!r} is unsupported, because {reason}. "
                f"Supported: {', '.join(supported_encoders())}."
            )


def _head(models: list[transformers.PreTrainedModel], stack: nn.Module) -> nn.Module:
    """Return the outermost model around the stack; the stack itself if a model only runs it."""
    around = next((m for m in models if any(part is stack for part in submodules(m))), stack)
    return stack if list(around.children()) == [stack] else around


def _head_row(head: nn.Module, spec: EncoderSpec) -> Head | None:
    """Return the spec's entry for this head; None if the family's default applies."""
    names = (kind.__name__ for kind in type(head).__mro__)
    row = next((spec.heads[name] for name in names if name in spec.heads), None)
    # A model of another family around the encoder, such as a generator, may read any token.
    return Head() if row is None and _model_type(head) != spec.model_type else row


def _resolve_final_norm(stack: nn.Module, head: nn.Module, row: Head | None, spec: EncoderSpec) -> nn.Module:
    owner, path = stack, spec.final_norm
    if row is not None and row.final_norm is not None:
        owner, path = head, row.final_norm
    return _part(owner, path, spec) if path else nn.Identity()


def _pooled(model: nn.Module, stack: nn.Module, row: Head | None, spec: EncoderSpec) -> Pooled:
    """Return the tokens of the last layer that sentence-transformers' Pooling, or else the head, reads."""
    theirs = [m for m in submodules(model) if _is_of_sentence_transformers(m)]
    for module in theirs:
        if type(module).__name__ == "Pooling":
            if any(type(m).__name__ in _BEFORE_POOLING for m in theirs) or not module.include_prompt:
                return None
            return _POOLING_MODES.get(str(module.pooling_mode))
    return (spec.pooled if row is None else row.pooled)(stack.config)


def _model_type(model: nn.Module) -> str:
    return str(getattr(getattr(model, "config", None), "model_type", ""))


def _is_stack(model: nn.Module, specs: Mapping[str, EncoderSpec]) -> bool:
    """Whether `model` itself runs the layers of a supported encoder, and no part of it does."""
    spec = specs.get(_model_type(model))
    if spec is None or getattr(model.config, "is_decoder", False) or not _holds_stack(model, spec):
        return False
    return not any(_holds_stack(part, spec) for part in submodules(model) if part is not model)


def _holds_stack(module: nn.Module, spec: EncoderSpec) -> bool:
    """Whether `module` is, or holds, the stack of its family."""
    if _model_type(module) != spec.model_type:
        return False
    if spec.stack:
        return not {kind.__name__ for kind in type(module).__mro__}.isdisjoint(spec.stack.split("|"))
    return isinstance(module, transformers.PreTrainedModel)


def _resolve_layers(stack: nn.Module, spec: EncoderSpec) -> Iterator[Layer]:
    beside = {
        role: resolve_path(stack, path, spec.model_type) for role, path in spec.roles.items() if "*" in path
    }
    for index, module in enumerate(resolve_path(stack, spec.layers, spec.model_type)):
        modules = {
            role: beside[role][index] if role in beside else _part(module, path, spec)
            for role, path in spec.roles.items()
        }
        scale = _part(module, spec.layer_scale, spec) if spec.layer_scale else None
        yield Layer(module=module, layer_scale=scale, **modules)


def _part(module: nn.Module, path: str, spec: EncoderSpec) -> Any:
    (part,) = resolve_path(module, path, spec.model_type)
    return part


def _reject_unhookable(modules: Iterable[nn.Module]) -> None:
    for module in modules:
        if isinstance(module, nn.DataParallel) and len(module.device_ids) < 2:
            continue  # it calls its module directly
        advice = next((it for kind, it in _UNHOOKABLE.items() if isinstance(module, kind)), None)
        if advice is not None:
            raise UnsupportedModelError(
                f"Hooks do not reach the parts of a {type(module).__name__}: {advice}."
            )


def submodules(module: nn.Module) -> Iterator[nn.Module]:
    """Yield a module and all of its parts, each once, in the order of `module.modules()`.

    Several times as fast, because `modules()` runs a generator for each level.

    Example:
        >>> shared = nn.Linear(2, 2)
        >>> model = nn.Sequential(nn.Sequential(shared, nn.GELU()), shared)
        >>> list(submodules(model)) == list(model.modules())
        True
    """
    seen: set[nn.Module] = set()
    left: list[nn.Module | None] = [module]
    while left:
        part = left.pop()
        if part is not None and part not in seen:
            seen.add(part)
            yield part
            left.extend(reversed(part._modules.values()))


def resolve_path(module: nn.Module, path: str, model_type: str) -> list[Any]:
    """Return the parts of a module at a path of a spec.

    Args:
        module: the start of the path.
        path: dotted names, "*" for every child, "|" between alternatives, of which the first that exists
            counts; see :class:`~captum_globenc.encoders.EncoderSpec`.
        model_type: of the spec, for the error.

    Raises:
        UnsupportedModelError: no alternative exists.

    Example:
        >>> resolve_path(nn.Sequential(nn.ReLU(), nn.GELU()), "layers.*|*", "my-bert")
        [ReLU(), GELU(approximate='none')]
    """
    alternatives = path.split("|")
    for alternative in alternatives:
        try:
            return _follow(module, alternative.split("."))
        except AttributeError:
            continue
    raise UnsupportedModelError(
        f"The spec of {model_type!r} does not fit: {type(module).__name__} has no "
        f"{' or '.join(map(repr, alternatives))} in transformers {transformers.__version__}."
    )


def _follow(part: Any, names: list[str]) -> list[Any]:
    if not names:
        return [part]
    name, *rest = names
    found = part.children() if name == "*" else [getattr(part, name)]
    return list(chain.from_iterable(_follow(each, rest) for each in found))
