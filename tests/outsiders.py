"""Models without a spec of GlobEnc: decoders, other attention, windows, state spaces, convolutions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf

SMALL = {
    "vocab_size": 60,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 300,
}
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 6}
IMAGE = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 12,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}


@dataclass(frozen=True)
class Outsider:
    """How to make a tiny random model; its inputs are ids, or pixels where its class is for images."""

    config: Callable[..., Any]
    model: Callable[..., Any]
    sizes: dict[str, Any]

    @property
    def reads_images(self) -> bool:
        return "Image" in self.model.__name__

    def make(self) -> Any:
        torch.manual_seed(0)
        model = self.model(self.config(**self.sizes)).double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        if getattr(model.config, "pad_token_id", 0) is None:
            model.config.pad_token_id = 0
        return model

    def inputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Two examples, and their baselines."""
        generator = torch.Generator().manual_seed(3)
        if self.reads_images:
            pixels = torch.randn(2, 3, 32, 32, generator=generator, dtype=torch.float64)
            return pixels, torch.zeros_like(pixels)
        ids = torch.randint(5, 60, (2, 12), generator=generator)
        ids[:, -1] = 2
        baselines = torch.full_like(ids, 4)
        baselines[:, [0, -1]] = ids[:, [0, -1]]
        return ids, baselines


def _narrow(**sizes: Any) -> dict[str, Any]:
    return {name: size for name, size in SMALL.items() if name not in sizes} | {
        name: size for name, size in sizes.items() if size is not None
    }


OUTSIDERS = {
    "gpt2": Outsider(
        hf.GPT2Config,
        hf.GPT2ForSequenceClassification,
        {"vocab_size": 60, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 300, "pad_token_id": 0},
    ),
    "llama": Outsider(hf.LlamaConfig, hf.LlamaForCausalLM, GROUPED),
    "mistral": Outsider(hf.MistralConfig, hf.MistralForCausalLM, {**GROUPED, "sliding_window": 4}),
    "qwen3": Outsider(hf.Qwen3Config, hf.Qwen3ForCausalLM, GROUPED),
    "gemma2": Outsider(
        hf.Gemma2Config, hf.Gemma2ForCausalLM, {**GROUPED, "query_pre_attn_scalar": 6, "pad_token_id": 0}
    ),
    "gemma3": Outsider(
        hf.Gemma3TextConfig,
        hf.Gemma3ForCausalLM,
        {**GROUPED, "query_pre_attn_scalar": 6, "sliding_window": 4, "pad_token_id": 0},
    ),
    "olmo2": Outsider(hf.Olmo2Config, hf.Olmo2ForCausalLM, {**GROUPED, "pad_token_id": 0}),
    "phi3": Outsider(hf.Phi3Config, hf.Phi3ForCausalLM, {**GROUPED, "pad_token_id": 0}),
    "opt": Outsider(
        hf.OPTConfig,
        hf.OPTForCausalLM,
        _narrow(intermediate_size=None, ffn_dim=32, word_embed_proj_dim=24),
    ),
    "gpt-neox": Outsider(hf.GPTNeoXConfig, hf.GPTNeoXForCausalLM, SMALL),
    "luke": Outsider(
        hf.LukeConfig,
        hf.LukeForSequenceClassification,
        {**SMALL, "entity_vocab_size": 10, "entity_emb_size": 8},
    ),
    "squeezebert": Outsider(
        hf.SqueezeBertConfig,
        hf.SqueezeBertForSequenceClassification,
        {
            **SMALL,
            "embedding_size": 24,
            **{f"{name}_groups": 2 for name in ("q", "k", "v", "intermediate", "output")},
        },
    ),
    "yoso": Outsider(hf.YosoConfig, hf.YosoForSequenceClassification, {**SMALL, "use_expectation": True}),
    "fnet": Outsider(hf.FNetConfig, hf.FNetForSequenceClassification, _narrow(num_attention_heads=None)),
    "big_bird": Outsider(
        hf.BigBirdConfig, hf.BigBirdForSequenceClassification, {**SMALL, "attention_type": "original_full"}
    ),
    "xlnet": Outsider(
        hf.XLNetConfig,
        hf.XLNetForSequenceClassification,
        {"vocab_size": 60, "d_model": 24, "n_layer": 2, "n_head": 4, "d_inner": 32},
    ),
    "longformer": Outsider(
        hf.LongformerConfig, hf.LongformerForSequenceClassification, {**SMALL, "attention_window": [4, 4]}
    ),
    "mobilebert": Outsider(
        hf.MobileBertConfig,
        hf.MobileBertForSequenceClassification,
        {**SMALL, "embedding_size": 12, "intra_bottleneck_size": 12, "num_feedforward_networks": 2},
    ),
    "convbert": Outsider(
        hf.ConvBertConfig, hf.ConvBertForSequenceClassification, {**SMALL, "embedding_size": 24}
    ),
    "bart, decoder": Outsider(
        hf.BartConfig,
        hf.BartForSequenceClassification,
        {
            "vocab_size": 60,
            "d_model": 24,
            "max_position_embeddings": 100,
            **{
                f"{side}_{name}": 2
                for side in ("encoder", "decoder")
                for name in ("layers", "attention_heads")
            },
            **{f"{side}_ffn_dim": 32 for side in ("encoder", "decoder")},
            "eos_token_id": 2,
        },
    ),
    "mamba": Outsider(
        hf.MambaConfig,
        hf.MambaForCausalLM,
        {"vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 2, "state_size": 4},
    ),
    "funnel": Outsider(
        hf.FunnelConfig,
        hf.FunnelForSequenceClassification,
        {"vocab_size": 60, "d_model": 24, "n_head": 4, "d_head": 6, "d_inner": 32, "block_sizes": [1, 1]},
    ),
    "swin": Outsider(hf.SwinConfig, hf.SwinForImageClassification, IMAGE),
    "swinv2": Outsider(hf.Swinv2Config, hf.Swinv2ForImageClassification, IMAGE),
    "convnext": Outsider(
        hf.ConvNextConfig,
        hf.ConvNextForImageClassification,
        {"hidden_sizes": [8, 8], "depths": [1, 1], "num_stages": 2, "image_size": 32},
    ),
    "resnet": Outsider(
        hf.ResNetConfig,
        hf.ResNetForImageClassification,
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    ),
    "segformer": Outsider(
        hf.SegformerConfig,
        hf.SegformerForImageClassification,
        {
            "depths": [1, 1],
            "num_encoder_blocks": 2,
            "hidden_sizes": [8, 8],
            "sr_ratios": [2, 1],
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "num_attention_heads": [1, 2],
            "mlp_ratios": [2, 2],
        },
    ),
}
# The oldest supported transformers lacks these.
if hasattr(hf, "ApertusConfig"):
    OUTSIDERS["apertus"] = Outsider(hf.ApertusConfig, hf.ApertusForCausalLM, {**GROUPED, "pad_token_id": 0})
if hasattr(hf, "Qwen3_5TextConfig"):
    OUTSIDERS["qwen3_5"] = Outsider(
        hf.Qwen3_5TextConfig,
        hf.Qwen3_5ForCausalLM,
        {
            **GROUPED,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 6,
            "linear_value_head_dim": 6,
            "pad_token_id": 0,
        },
    )
