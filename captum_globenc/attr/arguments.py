"""Captum's arguments: inputs, baselines, target, and padding without an attention mask.

B batch, C classes, N tokens, D embedding size.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from captum_globenc.captum_api import TargetType, format_inputs, select_targets
from captum_globenc.differences.call import plain
from captum_globenc.encoders.search import submodules
from captum_globenc.forward import check_batched
from captum_globenc.recording.hooks import bound_arguments, hidden_from_copies, in_this_thread

CAPTUM_ERRORS = (AssertionError, IndexError, TypeError, RuntimeError)
"""The exceptions that Captum raises for a wrong target."""

Baselines = Tensor | int | float | tuple[Tensor | int | float, ...] | None
"""Reference values of the inputs, as in Captum."""


def as_tensors(inputs: Any, *, ids_of_texts: bool = False) -> tuple[Tensor, ...]:
    """Return the inputs as a tuple of tensors.

    Args:
        inputs: a tensor, or a tuple of tensors.
        ids_of_texts: whether integers are token ids `(B, N)`, so that they need two dimensions.

    Raises:
        AssertionError: an input is not a tensor. Captum raises the same type.
        ValueError: an input is empty, or token ids have no batch dimension.
    """
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    wrong = next((it for it in given if not isinstance(it, Tensor)), None)
    if wrong is not None:
        raise AssertionError(
            f"`inputs` must be a tensor or a tuple of tensors, not a {type(wrong).__name__}. With a "
            'tokenizer\'s batch (return_tensors="pt"): inputs, extra = forward.arguments(batch) with '
            "forward = EncoderForward(model), then .attribute(inputs, ..., additional_forward_args=extra)."
        )
    tensors = tuple(map(plain, format_inputs(inputs)))
    empty = next((tuple(it.shape) for it in tensors if not it.numel()), None)
    if empty is not None:
        raise ValueError(f"inputs of shape {empty} are empty: pass at least one example of one token")
    if ids_of_texts:
        for tensor in tensors:
            check_batched(tensor)
    return tensors


def formatted_inputs(inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the inputs as a tuple, detached.

    Raises:
        AssertionError: one of them is not a tensor.
        TypeError: one of them is boolean or complex.
    """
    tensors = as_tensors(inputs)
    for tensor in tensors:
        if tensor.dtype is torch.bool or tensor.is_complex():
            raise TypeError("inputs must be tensors of token ids or of real numbers")
    return tuple(tensor.detach() for tensor in tensors)


def formatted_baselines(baselines: Baselines, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return a baseline in the shape of each input.

    Raises:
        ValueError: there are more or fewer than inputs, one does not fit its input, or ids have none.
    """
    given: tuple[Any, ...] = baselines if isinstance(baselines, tuple) else (baselines,) * len(inputs)
    if isinstance(baselines, Tensor) and len(inputs) > 1:
        given = (baselines,)
    if len(given) != len(inputs):
        raise ValueError(f"there are {len(given)} baselines for {len(inputs)} inputs")
    return tuple(_baseline(one, tensor) for one, tensor in zip(given, inputs, strict=True))


def _baseline(baseline: Any, tensor: Tensor) -> Tensor:
    if baseline is None:
        if tensor.is_floating_point():
            return torch.zeros_like(tensor)
        raise ValueError(
            "token ids need baselines: ids of the same shape, such as the fully masked text, "
            "EncoderForward.masked(batch, tokenizer), or one id."
        )
    if isinstance(baseline, Tensor):
        if baseline.dim() != tensor.dim() or any(
            size not in (wanted, 1 if dim == 0 else wanted)
            for dim, (size, wanted) in enumerate(zip(baseline.shape, tensor.shape, strict=True))
        ):
            raise ValueError(f"baselines {tuple(baseline.shape)} do not fit inputs {tuple(tensor.shape)}")
    else:
        dtype = tensor.dtype if tensor.is_floating_point() else None
        baseline = torch.tensor(baseline, dtype=dtype, device=tensor.device)
    baseline = plain(baseline.detach()).to(tensor.device)
    ids_as_floats = baseline.is_floating_point() and not tensor.is_floating_point()
    if ids_as_floats and not torch.equal(baseline, baseline.trunc()):
        raise ValueError(
            "baselines of token ids must be ids, whole numbers; for other values, pass embeddings"
        )
    expanded: Tensor = baseline.to(tensor.dtype).expand_as(tensor).contiguous()
    return expanded


def selected(output: Tensor, target: TargetType) -> Tensor:
    """Return the output that a target selects, with its graph even if gradients are off.

    Args:
        output: the output of a forward function, batch first.
        target: the index of the output, as in Captum.

    Returns:
        `(B,)`.

    Raises:
        AssertionError, IndexError, RuntimeError: `target` is missing, or as :func:`select` raises.
    """
    with torch.inference_mode(False), torch.enable_grad():
        chosen = select(output, target)
        if not chosen.dim() or chosen[0].numel() != 1:
            raise AssertionError(
                "Target not provided when necessary, cannot explain several outputs at once."
            )
        return chosen.reshape(len(chosen))


def select(output: Tensor, target: TargetType) -> Tensor:
    """Select outputs as Captum does, with error messages that name the size of the output.

    Args:
        output: `(B, C)`, or `(B, ...)`.
        target: the index of the output, as in Captum.

    Raises:
        AssertionError, IndexError, RuntimeError: `target` has the wrong length, is out of range or is not an
            index. The types are those that Captum raises.
    """
    try:
        return select_targets(output, target)
    except CAPTUM_ERRORS as error:
        message = _target_error(output, target)
        if message is None:
            raise
        kind = next(kind for kind in CAPTUM_ERRORS if isinstance(error, kind))
        raise kind(message) from error


def _target_error(output: Tensor, target: Any) -> str | None:
    """Return a message for a wrong target; None if Captum's own message is the best."""
    given = target.tolist() if isinstance(target, Tensor) else target
    targets = given if isinstance(given, list) else [given]
    indices = [one if isinstance(one, tuple) else (one,) for one in targets]
    named = next((index for one in indices for index in one if isinstance(index, str)), None)
    shape = tuple(output.shape[1:])
    count = f"the output has {shape[0]} classes, 0 to {shape[0] - 1}" if len(shape) == 1 else ""
    has = count or f"the output of each example is {shape}"
    if named is not None:
        return (
            f"target {named!r} is a class name, and {has}: pass the index, model.config.label2id[{named!r}]"
        )
    if isinstance(given, list) and len(given) != len(output):
        return f"there are {len(given)} targets for {len(output)} examples: pass one for each, or one for all"
    for one, original in zip(indices, targets, strict=True):
        sizes = zip(one, shape, strict=False)
        if any(isinstance(index, int) and not -size <= index < size for index, size in sizes):
            return f"target {original} is out of range: {has}"
    return None


SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id")
"""Special tokens that may share their id with the padding token."""

TRAINED_ON_PADDING = "siglip"
"""Prefix of the families that were trained on padding without a mask."""

CAUSAL = ("clip", "clip_text_model")
"""Families with causal attention, besides those whose attention modules say so."""


def unmasked_padding(
    ids: Tensor, model: nn.Module, real: Tensor | None = None, arguments: object | None = None
) -> Tensor | None:
    """Return the padding tokens in rows of ids that begin or end in padding; does not synchronize the device.

    Rows of padding only are baselines, and do not count. If the padding token is also another special token,
    such as the end of text in GPT-2, a single one does not count. With causal attention, padding after the
    text does not count, because no token reads it.

    Args:
        ids: `(..., N)`, passed without a mask.
        model: the model; its config names the padding token.
        real: `(B, N)`, False at tokens that are masked; None if none is.
        arguments: further arguments of the forward function. A mask of all ones among them means that
            padding is read on purpose.

    Returns:
        `(B, N)`, True at padding tokens in such rows; None if the model has no padding token.
    """
    configs = (getattr(it, "config", None) for it in submodules(model))
    named = (it for it in configs if isinstance(it, PretrainedConfig))
    config: Any = next((it for it in named if isinstance(getattr(it, "pad_token_id", None), int)), None)
    if config is None or config.model_type.startswith(TRAINED_ON_PADDING):
        return None
    pad = config.pad_token_id
    others = [getattr(config, role, None) for role in SPECIAL_TOKENS]
    fewest = 2 if any(pad in it if isinstance(it, list) else pad == it for it in others) else 1
    padding = ids.reshape(-1, ids.shape[-1]).eq(pad)
    if real is not None:  # if any token is masked, the mask covers the padding
        padding = padding & real.to(ids.device).all()
    found = padding[:, :fewest].all(-1)
    if not (config.model_type in CAUSAL or _causal(model)):
        found = found | padding[:, -fewest:].all(-1)
    found = found & ~padding.all(-1)
    for it in arguments if isinstance(arguments, tuple) else (arguments,):
        if isinstance(it, Tensor) and it.shape == ids.shape:
            found = found & ~it.to(ids.device).bool().all()
    return padding & found[:, None]


def warn_of_padding() -> None:
    """Warn that padding is read as text, and say what to pass."""
    warnings.warn(
        "ids begin or end in the padding token and there is no attention mask: the model reads padding as "
        "text, and padding gets scores. Pass the tokenizer's mask, "
        "additional_forward_args=(attention_mask,), as EncoderForward.arguments(batch) does.",
        UserWarning,
        stacklevel=2,
    )


class MaskWatch:
    """Record whether a mask reaches the transformers models in a module.

    Args:
        model: the module; None if it is unknown, which disables the warning.
        inputs: the inputs of the forward function; only ids can contain padding.
    """

    def __init__(self, model: nn.Module | None, inputs: Sequence[Tensor]) -> None:
        self._model = model
        self._ids = [it for it in inputs if not it.is_floating_point() and it.dim() > 1]
        self._ran = self._masked = False

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record one run of this thread."""
        if self._model is None or not self._ids:
            yield
            return
        models = [it for it in submodules(self._model) if isinstance(it, PreTrainedModel)]
        ours: set[int] = set()

        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._ran = True
            self._masked = self._masked or _masked(module, args, kwargs)

        with ExitStack() as handles:
            handles.enter_context(hidden_from_copies(models, ours))
            for module in models:
                handle = module.register_forward_pre_hook(in_this_thread(enter), with_kwargs=True)
                ours.add(handle.id)
                handles.enter_context(handle)
            yield

    def warn(self) -> None:
        """Warn if there is padding and no mask was passed; only then, this synchronizes the device."""
        if self._model is not None and self._ran and not self._masked:
            found = [unmasked_padding(ids, self._model) for ids in self._ids]
            if any(it is not None and bool(it.any()) for it in found):
                warn_of_padding()


def _masked(module: nn.Module, args: Any, kwargs: Any) -> bool:
    """Whether a model is passed a mask of its tokens, or computes one from lengths."""
    try:
        named = bound_arguments(module, args, kwargs)
    except TypeError:  # the model will raise it itself
        return True
    given = {**named.arguments, **kwargs}
    return "lengths" in named.signature.parameters or any(
        "mask" in name and name != "head_mask" and isinstance(value, Tensor) for name, value in given.items()
    )


def _causal(model: nn.Module) -> bool:
    """Whether all attention modules are causal."""
    flags = (vars(it)["is_causal"] for it in submodules(model) if "is_causal" in vars(it))
    return next(flags, False) is True and all(it is True for it in flags)
