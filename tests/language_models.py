"""Tiny language models with random weights, one of each family, and a tokenizer of words for them."""

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = "the a cat dog sat ran on mat red blue . ? what is colour of user assistant system :"
VOCABULARY = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", "<mask>", *WORDS.split()])}
LIMIT = 48
IDS = {"vocab_size": len(VOCABULARY), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": LIMIT,
    **IDS,
}
GROUPED = {**SIZES, "num_key_value_heads": 1}
WIDE = {**GROUPED, "head_dim": 8}
SEQ2SEQ = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": LIMIT,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
    **IDS,
}
OPT = {"ffn_dim": 24, "word_embed_proj_dim": 16}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}

ROUTED = {"num_experts_per_tok": 2}

FAMILIES = {
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": LIMIT},
    ),
    "llama": ("LlamaForCausalLM", "LlamaConfig", GROUPED),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**GROUPED, "sliding_window": 4}),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", WIDE),
    "gemma2": (
        "Gemma2ForCausalLM",
        "Gemma2Config",
        {**WIDE, "sliding_window": 4, "query_pre_attn_scalar": 8},
    ),
    "phi": ("PhiForCausalLM", "PhiConfig", SIZES),
    "gpt-neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", SIZES),
    "opt": ("OPTForCausalLM", "OPTConfig", {**SIZES, **OPT}),
    "bloom": ("BloomForCausalLM", "BloomConfig", {"hidden_size": 16, "n_layer": 2, "n_head": 2}),
    "t5": ("T5ForConditionalGeneration", "T5Config", T5),
    "bart": ("BartForConditionalGeneration", "BartConfig", SEQ2SEQ),
    "mbart": ("MBartForConditionalGeneration", "MBartConfig", SEQ2SEQ),
    "marian": ("MarianMTModel", "MarianConfig", {**SEQ2SEQ, "init_std": 0.1}),
    "led": (
        "LEDForConditionalGeneration",
        "LEDConfig",
        {
            **SEQ2SEQ,
            "max_encoder_position_embeddings": LIMIT,
            "max_decoder_position_embeddings": LIMIT,
            "attention_window": 4,
        },
    ),
    "gemma3, with images": (
        "Gemma3ForConditionalGeneration",
        "Gemma3Config",
        {
            "text_config": {**WIDE, "sliding_window": 4, "query_pre_attn_scalar": 8},
            "vision_config": {
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 16,
                "patch_size": 8,
            },
        },
    ),
}


MIXTURES = {
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**GROUPED, **ROUTED, "num_local_experts": 4}),
    "qwen3-moe": (
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {**WIDE, **ROUTED, "num_experts": 4, "moe_intermediate_size": 12, "decoder_sparse_step": 1},
    ),
    "olmoe": ("OlmoeForCausalLM", "OlmoeConfig", {**SIZES, **ROUTED, "num_experts": 4}),
    "gpt-oss": ("GptOssForCausalLM", "GptOssConfig", {**WIDE, **ROUTED, "num_local_experts": 4}),
}
"""Mixtures of experts."""


def language_model(family, seed=0):
    """A model in eval mode, in float32, whose weights are large enough that the prompt matters.

    It never generates a special token, so that its answers have tokens.
    """
    model, config, settings = {**FAMILIES, **MIXTURES}[family]
    torch.manual_seed(seed)
    made = getattr(hf, model)(getattr(hf, config)(**{**IDS, **settings})).eval()
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if weight.dim() > 1 and family != "t5":
                weight.mul_(10 if "embed" not in name and "wte" not in name else 20)
    made.generation_config.suppress_tokens = [0, 1, 2, 3, 4]
    return made


def word_tokenizer(mask=False, ends=False):
    """A fast tokenizer of words; `ends` puts <s> and </s> around a text."""
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if ends:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **names, **({"mask_token": "<mask>"} if mask else {})
    )
