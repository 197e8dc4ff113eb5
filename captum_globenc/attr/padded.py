"""Padding that no mask covers: ids that end in the padding token, read as if they were text.

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

__all__ = ["MaskWatch", "unmasked_padding", "warn_of_padding"]

ROLES = ("bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id")
"""What the padding token may be as well, so that one at an end is none."""

TRAINED_ON_PADDING = "siglip"
"""How the names of families begin that read padding as they were trained to, without a mask."""

CAUSAL = ("clip", "clip_text_model")
"""Families in which no token sees a later one, but for those whose attention says so itself."""


def unmasked_padding(
    ids: Tensor, model: nn.Module, real: Tensor | None = None, arguments: object | None = None
) -> Tensor | None:
    """Return where rows of ids begin or end in padding that is read, without waiting for the device.

    A row of nothing else is somebody's baseline. Where another token is written as padding is, as the end of
    a text in GPT-2, one of them is no padding. And what follows a text is not read where no token sees a
    later one.

    Args:
        ids: `(..., N)`, given without a mask.
        model: what read them: its config names the padding token.
        real: `(B, N)`, True at tokens that took part; left out, all did.
        arguments: further arguments of the forward function. With a mask of all ones among them, padding is
            meant to be read.

    Returns:
        `(B, N)`, True where the padding token is in rows with such padding; None where there is none.
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
    if real is not None:  # where some are hidden, a mask said what is padding
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
    """Warn of padding that is read, with what to pass."""
    warnings.warn(
        "ids begin or end in the padding token and there is no attention mask: the model reads padding as "
        "text, and it gets scores. Pass the tokenizer's mask, additional_forward_args=(attention_mask,), as "
        "EncoderForward.arguments(batch) does.",
        UserWarning,
        stacklevel=2,
    )


class MaskWatch:
    """Sees whether a mask reaches the models of transformers in a module, by whatever way.

    Args:
        model: the module; None where it is not known, and nothing is seen.
        inputs: those of the forward function: only ids can hold padding.
    """

    def __init__(self, model: nn.Module | None, inputs: Sequence[Tensor]) -> None:
        self._model = model
        self._ids = [it for it in inputs if not it.is_floating_point() and it.dim() > 1]
        self._ran = self._masked = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """See one run, of this thread."""
        if self._model is None or not self._ids:
            yield
            return
        models = [it for it in submodules(self._model) if isinstance(it, PreTrainedModel)]
        ours: set[int] = set()

        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._ran = True
            # Once a mask is seen, there is nothing more to be found.
            self._masked = self._masked or _masked(module, args, kwargs)

        with ExitStack() as handles:
            handles.enter_context(hidden_from_copies(models, ours))
            for module in models:
                handle = module.register_forward_pre_hook(in_this_thread(enter), with_kwargs=True)
                ours.add(handle.id)
                handles.enter_context(handle)
            yield

    def warn(self) -> None:
        """Warn where there is padding and no mask was seen; waits for the device, there alone."""
        if self._model is not None and self._ran and not self._masked:
            found = [unmasked_padding(ids, self._model) for ids in self._ids]
            if any(it is not None and bool(it.any()) for it in found):
                warn_of_padding()


def _masked(module: nn.Module, args: Any, kwargs: Any) -> bool:
    """Whether a model is given a mask of its tokens, or makes one itself, as those that take lengths do."""
    try:
        named = bound_arguments(module, args, kwargs)
    except TypeError:  # the model itself will tell
        return True
    given = {**named.arguments, **kwargs}
    return "lengths" in named.signature.parameters or any(
        "mask" in name and name != "head_mask" and isinstance(value, Tensor) for name, value in given.items()
    )


def _causal(model: nn.Module) -> bool:
    """Whether no token sees a later one, in whatever attends."""
    said = (vars(it)["is_causal"] for it in submodules(model) if "is_causal" in vars(it))
    return next(said, False) is True and all(it is True for it in said)
