"""Vision encoders, and the text encoders trained with them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from captum_globenc.encoders.spec import EncoderSpec, Head
from captum_globenc.encoders.tokens import Axis, Grid


def _patches(special: int = 0) -> Callable[[Any], Grid]:
    """Return a function that lays patches of pixels, row by row, after `special` tokens."""
    return lambda config: patch_grid(config, special)


def patch_grid(config: Any, special: int) -> Grid:
    """Return the grid of the patches of `(B, C, H, W)` pixels.

    Args:
        config: its `patch_size` is one number, or a height and a width.
        special: number of tokens before the patches.
    """
    size = config.patch_size
    height, width = (size, size) if isinstance(size, int) else size
    axes = Axis(2, kernel=height, stride=height), Axis(3, kernel=width, stride=width)
    return Grid(ndim=4, axes=axes, special=special)


def _beit(spec: EncoderSpec, stack: nn.Module) -> EncoderSpec:
    """Return BEiT's spec for a config, which may omit the layer scale and move the final norm.

    With mean pooling, the final norm reads the mean of the patches, not each of them. Without
    mean pooling, a head that has a norm of its own applies it after the final norm of the stack.
    """
    config: Any = stack.config
    pooler: Any = stack.pooler
    heads = {name: it for name, it in spec.heads.items() if it.final_norm is None or config.use_mean_pooling}
    return replace(
        spec,
        heads=heads,
        layer_scale=spec.layer_scale if config.layer_scale_init_value > 0 else "",
        final_norm="pooler.layernorm" if getattr(pooler, "layernorm", None) is not None else "layernorm",
    )


def _end_of_text(config: Any) -> Callable[[Tensor], Tensor]:
    """Return a function that finds the token CLIP pools: the first end token, or the largest id.

    transformers uses the largest id for configs with `eos_token_id` 2, which is not the end token's id.
    """
    if config.eos_token_id == 2:
        return lambda ids: ids.argmax(dim=-1)
    return lambda ids: (ids == config.eos_token_id).int().argmax(dim=-1)


_PATCHES = slice(1, None)

VIT = EncoderSpec(
    model_type="vit",
    layers="layers.*|encoder.layer.*",
    attention="attention",
    out="attention.o_proj|attention.output.dense",
    norm1="layernorm_before",
    norm2="layernorm_after",
    order="pre-LN",
    final_norm="layernorm",
    modality="vision",
    tokens=_patches(special=1),
)

DEIT = replace(
    VIT,
    model_type="deit",
    heads={"DeiTForImageClassificationWithTeacher": Head(lambda config: (0, 1))},
    tokens=_patches(special=2),
)

BEIT = replace(
    VIT,
    model_type="beit",
    layer_scale="lambda_1",
    pooled=lambda config: (_PATCHES,) if config.use_mean_pooling else 0,
    heads={
        "BeitForMaskedImageModeling": Head(final_norm="layernorm"),
        # These heads read the hidden states of several layers.
        "BeitForSemanticSegmentation": Head(),
        "BeitBackbone": Head(),
    },
    adapt=_beit,
)

DINOV2 = replace(
    VIT,
    model_type="dinov2",
    layers="encoder.layer.*",
    norm1="norm1",
    norm2="norm2",
    layer_scale="layer_scale1.lambda1",
    stack="Dinov2Model",
    heads={"Dinov2ForImageClassification": Head(lambda config: (0, _PATCHES))},
)

DINOV2_WITH_REGISTERS = replace(
    DINOV2,
    model_type="dinov2_with_registers",
    stack="Dinov2WithRegistersModel",
    heads={
        "Dinov2WithRegistersForImageClassification": Head(
            lambda config: (0, slice(1 + config.num_register_tokens, None))
        )
    },
    tokens=lambda config: patch_grid(config, special=1 + config.num_register_tokens),
)

CLIP_VISION = EncoderSpec(
    model_type="clip_vision_model",
    layers="encoder.layers.*",
    attention="self_attn",
    out="self_attn.out_proj",
    norm1="layer_norm1",
    norm2="layer_norm2",
    order="pre-LN",
    final_norm="post_layernorm",
    modality="vision",
    stack="CLIPVisionModel|CLIPVisionTransformer",
    # This head averages the patches before the final norm, which only reads the class token.
    heads={"CLIPForImageClassification": Head(lambda config: (_PATCHES,), final_norm="")},
    tokens=_patches(special=1),
)

CLIP_TEXT = replace(
    CLIP_VISION,
    model_type="clip_text_model",
    final_norm="final_layer_norm",
    modality="text",
    stack="CLIPTextModel|CLIPTextTransformer",
    pooled=_end_of_text,
    heads={},
    tokens=None,
)

SIGLIP_VISION = replace(
    CLIP_VISION,
    model_type="siglip_vision_model",
    stack="SiglipVisionModel|SiglipVisionTransformer",
    # The model pools with an attention of its own, which is not an average of tokens.
    pooled=lambda config: None,
    heads={"SiglipForImageClassification": Head(lambda config: "mean")},
    tokens=_patches(),
)

SIGLIP_TEXT = replace(
    CLIP_TEXT,
    model_type="siglip_text_model",
    stack="SiglipTextModel|SiglipTextTransformer",
    pooled=lambda config: -1,
)


VISION_ENCODERS = (
    VIT,
    DEIT,
    BEIT,
    DINOV2,
    DINOV2_WITH_REGISTERS,
    CLIP_VISION,
    CLIP_TEXT,
    SIGLIP_VISION,
    SIGLIP_TEXT,
)
