"""EncoderSpec: how one family of encoders names its parts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Pooled = int | Literal["mean"] | None
"""What a sequence-level head reads: a position, the mean over real tokens, or nothing known."""


@dataclass(frozen=True)
class EncoderSpec:
    """The parts of an encoder family by role; a family is a row of these, not code.

    Paths are dotted, as `torch.nn.Module.get_submodule` takes them. `layers` starts at the *stack*, the
    `transformers.PreTrainedModel` that runs the layers; the paths of roles start at a layer. An
    encoder that works like BERT needs the first six fields only.

    Args:
        model_type: the `config.model_type` of the family.
        layers: path from the stack to the layers, "*" for every child of a module list.
        attention: the module that computes attention probabilities.
        out: the attention's output projection, back to the hidden size.
        norm1: the block's first norm.
        norm2: the block's second norm.
        order: "post-LN" where norms follow the residual sums (BERT), "pre-LN" where they read the
            residual stream ahead of attention and feed-forward network (ModernBERT, ViT).
        modality: what the model reads.
        stack: class name of the stack, where the model has others of the same layout, as an
            encoder-decoder has.
        pooled: what the family's sequence-level heads read of the last layer, given the config.

    Example:
        >>> EncoderSpec(
        ...     model_type="my-bert",
        ...     layers="encoder.layer.*",
        ...     attention="attention.self",
        ...     out="attention.output.dense",
        ...     norm1="attention.output.LayerNorm",
        ...     norm2="output.LayerNorm",
        ... ).order
        'post-LN'
    """

    model_type: str
    layers: str
    attention: str
    out: str
    norm1: str
    norm2: str
    order: Literal["post-LN", "pre-LN"] = "post-LN"
    modality: Literal["text", "vision", "audio"] = "text"
    stack: str = ""
    pooled: Callable[[Any], Pooled] = lambda config: 0

    @property
    def roles(self) -> dict[str, str]:
        """The paths from a layer to its parts, by role."""
        return {role: getattr(self, role) for role in ("attention", "out", "norm1", "norm2")}
