"""Text encoders, one row per family."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from captum_globenc.encoders.spec import EncoderSpec, Pooled


def _summarized(config: Any) -> Pooled:
    """Return the tokens that XLM's and FlauBERT's heads read; padding is zero, so a mean ignores it."""
    known: dict[str, Pooled] = {"first": 0, "last": -1, "cls_index": -1, "mean": "mean"}
    return known.get(config.summary_type)


def _nothing(config: Any) -> Pooled:
    """Return None, because the head reads the decoder."""
    return None


def _named(choices: dict[str, Pooled]) -> Callable[[Any], Pooled]:
    """Return a function that looks up the config's `classifier_pooling`."""
    return lambda config: choices.get(config.classifier_pooling)


BERT = EncoderSpec(
    model_type="bert",
    layers="encoder.layer.*",
    attention="attention.self",
    out="attention.output.dense",
    norm1="attention.output.LayerNorm",
    norm2="output.LayerNorm",
)

ROTARY = EncoderSpec(
    model_type="nomic_bert",
    layers="layers.*",
    attention="self_attn",
    out="self_attn.o_proj",
    norm1="post_attention_layernorm",
    norm2="post_mlp_layernorm",
)

XLM = EncoderSpec(
    model_type="xlm",
    layers="attentions.*",
    attention="attentions.*",
    out="attentions.*.out_lin",
    norm1="layer_norm1.*",
    norm2="layer_norm2.*",
    pooled=_summarized,
)

BART = EncoderSpec(
    model_type="bart",
    stack="BartEncoder",
    layers="layers.*",
    attention="self_attn",
    out="self_attn.out_proj",
    norm1="self_attn_layer_norm",
    norm2="final_layer_norm",
    pooled=_nothing,
)

T5 = EncoderSpec(
    model_type="t5",
    stack="T5Stack",
    layers="block.*",
    attention="layer.0.SelfAttention",
    out="layer.0.SelfAttention.o",
    norm1="layer.0.layer_norm",
    norm2="layer.1.layer_norm",
    order="pre-LN",
    centred=False,
    final_norm="final_layer_norm",
    pooled=_nothing,
)

ROBERTA_PRELAYERNORM = EncoderSpec(
    model_type="roberta-prelayernorm",
    layers="encoder.layer.*",
    attention="attention.self",
    out="attention.output.dense",
    norm1="attention.LayerNorm",
    norm2="intermediate.LayerNorm",
    order="pre-LN",
    final_norm="LayerNorm",
)

POST_LN = (
    BERT,
    *(
        replace(BERT, model_type=name)
        for name in [
            "roberta",
            "xlm-roberta",
            "camembert",
            "electra",
            "ernie",
            "data2vec-text",
            "layoutlm",
            "splinter",
        ]
    ),
    EncoderSpec(
        model_type="distilbert",
        layers="transformer.layer.*",
        attention="attention",
        out="attention.out_lin",
        norm1="sa_layer_norm",
        norm2="output_layer_norm",
    ),
    EncoderSpec(
        model_type="albert",
        layers="encoder.albert_layer_groups.*.albert_layers.*",
        attention="attention",
        out="attention.dense",
        norm1="attention.LayerNorm",
        norm2="full_layer_layer_norm",
    ),
    replace(
        BERT,
        model_type="mpnet",
        attention="attention.attn",
        out="attention.attn.o",
        norm1="attention.LayerNorm",
    ),
    replace(BERT, model_type="rembert"),
    replace(
        BERT,
        model_type="roformer",
        refuses={"rotary_value": "the values are rotated by their positions after the projection"},
    ),
    replace(
        BERT,
        model_type="deberta-v2",
        refuses={"conv_kernel_size": "a convolution next to the first layer mixes tokens past its attention"},
    ),
    replace(
        BERT,
        model_type="deberta",
        refuses={"talking_head": "its heads mix their weights after the softmax, which are no probabilities"},
    ),
    ROTARY,
    replace(ROTARY, model_type="jina_embeddings_v3"),
    replace(ROTARY, model_type="gte"),
    XLM,
    replace(
        XLM,
        model_type="flaubert",
        refuses={"pre_norm": "its layers are pre-LN then, and transformers 5 cannot run them"},
    ),
    BART,
)

PRE_LN = (
    ROBERTA_PRELAYERNORM,
    replace(
        ROBERTA_PRELAYERNORM, model_type="esm", norm2="LayerNorm", final_norm="encoder.emb_layer_norm_after"
    ),
    replace(
        ROBERTA_PRELAYERNORM,
        model_type="xlm-roberta-xl",
        norm1="attention.self_attn_layer_norm",
        norm2="LayerNorm",
        final_norm="encoder.LayerNorm",
    ),
    replace(
        ROBERTA_PRELAYERNORM,
        model_type="megatron-bert",
        norm1="attention.ln",
        norm2="ln",
        final_norm="encoder.ln",
    ),
    EncoderSpec(
        model_type="modernbert",
        layers="layers.*",
        attention="attn",
        out="attn.Wo",
        norm1="attn_norm",
        norm2="mlp_norm",
        order="pre-LN",
        final_norm="final_norm",
        pooled=_named({"cls": 0, "mean": "mean"}),
    ),
    EncoderSpec(
        model_type="eurobert",
        layers="layers.*",
        attention="self_attn",
        out="self_attn.o_proj",
        norm1="input_layernorm",
        norm2="post_attention_layernorm",
        order="pre-LN",
        centred=False,
        final_norm="norm",
        # "late" averages the tokens' logits, so it also weights every token equally.
        pooled=_named({"bos": 0, "mean": "mean", "late": "mean"}),
    ),
    replace(BART, model_type="mbart", stack="MBartEncoder", order="pre-LN", final_norm="layer_norm"),
    T5,
    replace(T5, model_type="umt5", stack="UMT5Stack"),
)

TEXT_ENCODERS = (*POST_LN, *PRE_LN)
