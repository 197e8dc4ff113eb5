"""EncoderSpec: the names of the parts of one family of encoders."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from captum_globenc.encoders.tokens import Grid

Pooled = int | Literal["mean"] | tuple[int | slice, ...] | Callable[[Tensor], Tensor] | None
"""The tokens of the last layer that a sequence-level head reads.

One of: a position, negative from the end; "mean", the mean over real tokens; a tuple of positions and slices,
for the average of these tokens and of the means over these slices; a function of the inputs that returns the
position for each example, such as the position of an end token; None if the head reads no average of tokens.
"""


@dataclass(frozen=True)
class Head:
    """The tokens that one kind of head reads, if they are not its family's default.

    Args:
        pooled: the tokens that the head pools, given the config of the encoder.
        final_norm: path from the head's model to the norm that reads the stream after the last layer; "" if
            there is none. None: the family's norm.
    """

    pooled: Callable[[Any], Pooled] = lambda config: None
    final_norm: str | None = None


@dataclass(frozen=True)
class EncoderSpec:
    """The parts of an encoder family by role.

    Paths are dotted, as in `torch.nn.Module.get_submodule`. `layers` starts at the *stack*, the module that
    runs the layers, usually a `transformers.PreTrainedModel`. The paths of roles start at a layer; a path
    with a "*" starts at the stack and gives one module per layer, in order (XLM). If versions of transformers
    name a part differently, the path lists the names, "attention.o_proj|attention.output.dense"; the first
    that exists is used. An encoder that works like BERT only needs the first six fields.

    Args:
        model_type: the `config.model_type` of the family.
        layers: path from the stack to the layers, "*" for every child of a module list.
        attention: the module that computes attention probabilities.
        out: the attention's output projection, back to the hidden size.
        norm1: the block's first norm.
        norm2: the block's second norm.
        order: "post-LN" if norms follow the residual sums (BERT), "pre-LN" if they read the residual stream
            before attention and feed-forward network (ModernBERT, ViT).
        centred: whether the norms subtract the mean (LayerNorm) or not (RMSNorm).
        final_norm: path from the stack to the norm after the last layer of a pre-LN encoder; empty if there
            is none.
        layer_scale: path to the parameter that scales the attention's output; empty if there is none.
        modality: the kind of input.
        stack: class name of the stack, if the model holds other modules of the same layout, such as a
            decoder, or if the stack is not a `transformers.PreTrainedModel`. Several names are separated
            by "|"; the innermost module of such a name is the stack.
        pooled: the tokens of the last layer that the family's sequence-level heads read, given the config.
        refuses: settings of the config that are unsupported if they are true or not zero, with the reason.
        heads: heads that read other tokens, by the class name of their model.
        tokens: the layout of tokens on the inputs, such as patches of an image, given the config. None if
            each token has an id or an embedding of its own.
        adapt: returns the spec for one model, given the spec and the stack, if the layout depends on the
            config: another order of norms, no layer scale.

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
        """The paths of a layer's modules by role, without roles that the family lacks."""
        roles = ("attention", "out", "norm1", "norm2")
        return {role: path for role in roles if (path := getattr(self, role))}
