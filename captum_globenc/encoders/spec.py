"""EncoderSpec: how one family of encoders names its parts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from captum_globenc.encoders.tokens import Grid

Pooled = int | Literal["mean"] | tuple[int | slice, ...] | Callable[[Tensor], Tensor] | None
"""What a sequence-level head reads of the last layer.

A position, negative ones counted from the end; the mean over real tokens; the average of what a tuple
names, positions and means over slices of positions; a function of the inputs that finds the position
of each example, such as that of an end token; or None where it is no average of tokens.
"""


@dataclass(frozen=True)
class Head:
    """What one kind of head reads of the last layer, where its family's rule does not hold.

    Args:
        pooled: what it pools, given the config of the encoder.
        final_norm: path from the head's model to the norm that reads the stream after the last layer,
            instead of the family's; "" where no norm does. None: the family's.
    """

    pooled: Callable[[Any], Pooled] = lambda config: None
    final_norm: str | None = None


@dataclass(frozen=True)
class EncoderSpec:
    """The parts of an encoder family by role; a family is a row of these, not code.

    Paths are dotted, as `torch.nn.Module.get_submodule` takes them. `layers` starts at the *stack*, the
    module that runs the layers, a `transformers.PreTrainedModel` as a rule. The paths of roles start at a
    layer; one that holds a "*" starts at the stack, and its modules belong to the layers in the same order
    (XLM). Where versions of transformers call a part by different names, a path holds them all,
    "attention.o_proj|attention.output.dense": the first that is there is taken. An encoder that works like
    BERT needs the first six fields only.

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
        layer_scale: path to the parameter that scales the attention's output; empty where none does.
        modality: what the model reads.
        stack: class name of the stack, where the model has others of the same layout, as an
            encoder-decoder has, or where it is no `transformers.PreTrainedModel`. May name several, as a
            path may: the innermost module of such a name is the stack.
        pooled: what the family's sequence-level heads read of the last layer, given the config.
        refuses: settings of the config under which the family cannot be decomposed, each with the
            reason; a setting that is true or not zero counts.
        heads: the heads that read something else, by the class name of their model.
        tokens: how tokens lie on the inputs, given the config: a patch of an image, a stretch of
            sound. None where each token has an id or an embedding of its own.
        adapt: returns the row for one model, given the row and the stack, in a family whose layout
            depends on the config: another order of norms, no layer scale.

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
    layer_scale: str = ""
    modality: Literal["text", "vision", "audio"] = "text"
    stack: str = ""
    pooled: Callable[[Any], Pooled] = lambda config: 0
    refuses: Mapping[str, str] = field(default_factory=dict)
    heads: Mapping[str, Head] = field(default_factory=dict)
    tokens: Callable[[Any], Grid] | None = None
    adapt: Callable[["EncoderSpec", nn.Module], "EncoderSpec"] = lambda spec, stack: spec

    @property
    def roles(self) -> dict[str, str]:
        """The paths from a layer to its modules, by role; roles that the family lacks left out."""
        roles = ("attention", "out", "norm1", "norm2")
        return {role: path for role in roles if (path := getattr(self, role))}
