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
        centred: whether the norms take off the mean (LayerNorm) or not (RMSNorm).
        final_norm: path from the stack to the norm after the last layer of a pre-LN encoder; empty
            where there is none.
        probabilities: the module that is given the attention probabilities, their dropout, in a
            family that does not call transformers' attention interface; empty in one that does.
        value: such a family's value projection.
        layer_scale: path to the parameter that scales the attention's output; empty where none does.
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
    centred: bool = True
    final_norm: str = ""
    probabilities: str = ""
    value: str = ""
    layer_scale: str = ""
    modality: Literal["text", "vision", "audio"] = "text"
    stack: str = ""
    pooled: Callable[[Any], Pooled] = lambda config: 0

    @property
    def roles(self) -> dict[str, str]:
        """The paths from a layer to its modules, by role; roles that the family lacks left out."""
        roles = ("attention", "out", "norm1", "norm2", "probabilities", "value")
        return {role: path for role in roles if (path := getattr(self, role))}
