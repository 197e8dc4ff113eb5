"""Find padding without an attention mask, which the model reads as text.

B batch, N tokens.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from captum_globenc.encoders.search import submodules
from captum_globenc.recording.hooks import bound_arguments, hidden_from_copies, in_this_thread

ROLES = ("bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id")
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
    others = [getattr(config, role, None) for role in ROLES]
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
