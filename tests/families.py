"""Every supported family with a tiny random model, the one table that its proofs are parametrised from.

To add a family is to add a row; `test_families.py` checks that no supported family lacks one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from packaging.version import Version
from torch import Tensor

from captum_globenc import EncoderForward

VOCABULARY = 60
PADDING = 1
LENGTHS = (7, 5, 2)
"""Tokens of the texts of a batch, none a multiple of the tiles of 4 that the proofs are run with."""


def _before(version: str) -> bool:
    """Whether the version of transformers that is there is older."""
    return bool(version) and Version(hf.__version__) < Version(version)


@dataclass(frozen=True)
class Batch:
    """What a forward function takes, and each example as it is alone, without padding."""

    inputs: Tensor
    extra: tuple[Any, ...]
    real: Tensor | None
    singles: tuple[tuple[Tensor, tuple[Any, ...]], ...]


def texts(side: str = "right", first: int = 5) -> Batch:
    """Three texts, padded on one side; `first` is the smallest id that is no special token."""
    generator = torch.Generator().manual_seed(3)
    longest = max(LENGTHS)
    ids = torch.full((len(LENGTHS), longest), PADDING)
    real = torch.zeros_like(ids).bool()
    alone = [torch.randint(first, VOCABULARY, (1, length), generator=generator) for length in LENGTHS]
    for i, text in enumerate(alone):
        where = slice(0, text.shape[1]) if side == "right" else slice(longest - text.shape[1], longest)
        ids[i, where] = text
        real[i, where] = True
    singles = tuple((text, (torch.ones_like(text),)) for text in alone)
    return Batch(ids, (real.long(),), real, singles)


@dataclass(frozen=True)
class Family:
    """How to make a tiny random model of a family, and what is particular about it.

    Args:
        model_type: as in `captum_globenc.encoders`.
        config: the class of the config.
        model: the class of the bare model.
        sizes: what makes it tiny.
        depth: the name of the setting for the number of layers.
        classifier: a model with a sequence-level head, None where the family has none.
        batch: the inputs, given the side of the padding.
        sides: on which sides padding leaves the model's own outputs alone; none where nothing is padded.
        arguments: names of the forward arguments that follow the inputs.
        name: of a further row of the same family.
        since: the version of transformers that first runs such a model itself, where not every one does.
    """

    model_type: str
    config: Any
    model: Any
    sizes: dict[str, Any]
    depth: str = "num_hidden_layers"
    classifier: Any = None
    batch: Callable[[str], Batch] = texts
    sides: tuple[str, ...] = ("right",)
    arguments: tuple[str, ...] = ("attention_mask",)
    name: str = ""
    since: str = ""

    @property
    def label(self) -> str:
        return self.name or self.model_type

    def make(self, layers: int = 2, kind: Any = None, **settings: Any) -> Any:
        """Return a float64 model in which nothing is 0 or 1, evaluated; `kind` instead of the bare one."""
        torch.manual_seed(0)
        config = self.config(**{**self.sizes, self.depth: layers, **settings})
        return scramble((kind or self.model)(config).double().eval()).requires_grad_(False)

    def forward(self, model: Any, output: str = "last_hidden_state") -> EncoderForward:
        """Return the forward function of a model of this family."""
        return EncoderForward(model, self.arguments, output)


def scramble(model: Any) -> Any:
    """Give every parameter random values, about 1 where it is a gain."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue  # sinusoidal positions
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            gain = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(1 + 0.3 * noise if gain else 0.3 * noise)
    return model


BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 12,
    "num_attention_heads": 3,
    "intermediate_size": 18,
    "max_position_embeddings": 32,
    "pad_token_id": PADDING,
}
BOTH = ("right", "left")
"""Families whose positions count from the first real token, or are relative."""

BART = {
    "vocab_size": VOCABULARY,
    "d_model": 12,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 18,
    "decoder_ffn_dim": 18,
    "decoder_layers": 1,
    "max_position_embeddings": 32,
    "pad_token_id": PADDING,
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 12,
    "d_kv": 5,
    "d_ff": 18,
    "num_heads": 3,
    "num_decoder_layers": 1,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "pad_token_id": PADDING,
}
XLM = {
    "n_words": VOCABULARY,
    "emb_dim": 12,
    "n_heads": 3,
    "max_position_embeddings": 32,
    "pad_index": PADDING,
    "pad_token_id": PADDING,
}


def _bart_encoder(of: Any) -> Callable[[Any], Any]:
    return lambda config: of(config).get_encoder()


NEWER = (
    ("nomic_bert", "NomicBert", "5.5", {**BERT, "head_dim": 6}),
    ("jina_embeddings_v3", "JinaEmbeddingsV3", "5.4", {**BERT, "head_dim": 6}),
    ("gte", "Gte", "5.18", {**BERT, "head_dim": 6}),
    (
        "eurobert",
        "EuroBert",
        "5.3",
        {
            **BERT,
            "hidden_size": 16,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "bos_token_id": 2,
            "eos_token_id": 3,
            "mask_token_id": 4,
        },
    ),
)
"""Families that not every transformers has: how their classes begin, since when, what makes one tiny."""
ABSENT = tuple(name for name, _, since, _ in NEWER if _before(since))
"""Those that the version that is there does not have."""
NEWEST = tuple(
    Family(
        name,
        getattr(hf, f"{prefix}Config"),
        getattr(hf, f"{prefix}Model"),
        sizes,
        classifier=getattr(hf, f"{prefix}ForSequenceClassification"),
        sides=BOTH,
    )
    for name, prefix, _, sizes in NEWER
    if name not in ABSENT
)


TEXT = (
    Family("bert", hf.BertConfig, hf.BertModel, BERT, classifier=hf.BertForSequenceClassification),
    Family(
        "bert",
        hf.BertConfig,
        hf.BertModel,
        {**BERT, "chunk_size_feed_forward": 1},
        name="bert, chunked",
    ),
    Family(
        "roberta",
        hf.RobertaConfig,
        hf.RobertaModel,
        BERT,
        classifier=hf.RobertaForSequenceClassification,
        sides=BOTH,
    ),
    Family(
        "xlm-roberta",
        hf.XLMRobertaConfig,
        hf.XLMRobertaModel,
        BERT,
        classifier=hf.XLMRobertaForSequenceClassification,
        sides=BOTH,
    ),
    Family(
        "camembert",
        hf.CamembertConfig,
        hf.CamembertModel,
        BERT,
        classifier=hf.CamembertForSequenceClassification,
        sides=BOTH,
    ),
    Family(
        "electra",
        hf.ElectraConfig,
        hf.ElectraModel,
        {**BERT, "embedding_size": 8},
        classifier=hf.ElectraForSequenceClassification,
    ),
    Family("ernie", hf.ErnieConfig, hf.ErnieModel, BERT, classifier=hf.ErnieForSequenceClassification),
    Family(
        "data2vec-text",
        hf.Data2VecTextConfig,
        hf.Data2VecTextModel,
        BERT,
        classifier=hf.Data2VecTextForSequenceClassification,
        sides=BOTH,
    ),
    Family(
        "layoutlm",
        hf.LayoutLMConfig,
        hf.LayoutLMModel,
        BERT,
        classifier=hf.LayoutLMForSequenceClassification,
    ),
    Family(
        "splinter",
        hf.SplinterConfig,
        hf.SplinterModel,
        {**BERT, "question_token_id": 4, "type_vocab_size": 2},
    ),
    Family(
        "distilbert",
        hf.DistilBertConfig,
        hf.DistilBertModel,
        {
            "vocab_size": VOCABULARY,
            "dim": 12,
            "n_heads": 3,
            "hidden_dim": 18,
            "max_position_embeddings": 32,
            "pad_token_id": PADDING,
        },
        depth="n_layers",
        classifier=hf.DistilBertForSequenceClassification,
    ),
    Family(
        "albert",
        hf.AlbertConfig,
        hf.AlbertModel,
        {**BERT, "embedding_size": 8},
        classifier=hf.AlbertForSequenceClassification,
    ),
    Family(
        "albert",
        hf.AlbertConfig,
        hf.AlbertModel,
        {**BERT, "embedding_size": 8, "num_hidden_groups": 2, "inner_group_num": 2},
        name="albert, groups",
        since="5.0",
    ),
    Family(
        "mpnet",
        hf.MPNetConfig,
        hf.MPNetModel,
        BERT,
        classifier=hf.MPNetForSequenceClassification,
        sides=BOTH,
    ),
    Family(
        "rembert",
        hf.RemBertConfig,
        hf.RemBertModel,
        {**BERT, "input_embedding_size": 8},
        classifier=hf.RemBertForSequenceClassification,
    ),
    Family(
        "roformer",
        hf.RoFormerConfig,
        hf.RoFormerModel,
        {**BERT, "embedding_size": 8},
        classifier=hf.RoFormerForSequenceClassification,
        # Its table of angles is in single precision: on the left only that many digits agree.
        sides=("right",),
    ),
    Family(
        "deberta-v2",
        hf.DebertaV2Config,
        hf.DebertaV2Model,
        {
            **BERT,
            "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"],
            "position_buckets": 4,
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
        },
        classifier=hf.DebertaV2ForSequenceClassification,
    ),
    Family(
        "deberta",
        hf.DebertaConfig,
        hf.DebertaModel,
        {**BERT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
        classifier=hf.DebertaForSequenceClassification,
    ),
    Family(
        "xlm",
        hf.XLMConfig,
        hf.XLMModel,
        XLM,
        depth="n_layers",
        classifier=hf.XLMForSequenceClassification,
    ),
    Family(
        "flaubert",
        hf.FlaubertConfig,
        hf.FlaubertModel,
        XLM,
        depth="n_layers",
        classifier=hf.FlaubertForSequenceClassification,
    ),
    Family("bart", hf.BartConfig, _bart_encoder(hf.BartModel), BART, depth="encoder_layers"),
    Family("mbart", hf.MBartConfig, _bart_encoder(hf.MBartModel), BART, depth="encoder_layers"),
    Family(
        "roberta-prelayernorm",
        hf.RobertaPreLayerNormConfig,
        hf.RobertaPreLayerNormModel,
        BERT,
        classifier=hf.RobertaPreLayerNormForSequenceClassification,
        sides=BOTH,
    ),
    Family(
        "roberta-prelayernorm",
        hf.RobertaPreLayerNormConfig,
        hf.RobertaPreLayerNormModel,
        {**BERT, "chunk_size_feed_forward": 1},
        name="roberta-prelayernorm, chunked",
    ),
    Family(
        "megatron-bert",
        hf.MegatronBertConfig,
        hf.MegatronBertModel,
        BERT,
        classifier=hf.MegatronBertForSequenceClassification,
    ),
    Family(
        "xlm-roberta-xl",
        hf.XLMRobertaXLConfig,
        hf.XLMRobertaXLModel,
        BERT,
        classifier=hf.XLMRobertaXLForSequenceClassification,
        sides=BOTH,
    ),
    Family(
        "esm",
        hf.EsmConfig,
        hf.EsmModel,
        {**BERT, "token_dropout": True, "mask_token_id": 4},
        classifier=hf.EsmForSequenceClassification,
        sides=BOTH,
    ),
    Family(
        "esm",
        hf.EsmConfig,
        hf.EsmModel,
        {**BERT, "mask_token_id": 4, "position_embedding_type": "rotary", "emb_layer_norm_before": True},
        sides=BOTH,
        name="esm, rotary",
    ),
    Family(
        "modernbert",
        hf.ModernBertConfig,
        hf.ModernBertModel,
        {
            **BERT,
            "local_attention": 4,
            "global_attn_every_n_layers": 2,
            "bos_token_id": 2,
            "eos_token_id": 3,
            "cls_token_id": 2,
            "sep_token_id": 3,
            "norm_bias": True,
            "attention_bias": True,
        },
        classifier=hf.ModernBertForSequenceClassification,
        sides=BOTH,
    ),
    *NEWEST,
    Family("t5", hf.T5Config, hf.T5EncoderModel, T5, depth="num_layers", sides=BOTH),
    Family("umt5", hf.UMT5Config, hf.UMT5EncoderModel, T5, depth="num_layers", sides=BOTH),
)

PIXELS = {
    "hidden_size": 12,
    "num_attention_heads": 3,
    "intermediate_size": 18,
    "image_size": (8, 12),
    "patch_size": 4,
    "num_channels": 2,
}
SQUARE = {**PIXELS, "image_size": 12}
CLIP_TEXT = {**BERT, "bos_token_id": 2, "eos_token_id": 3, "projection_dim": 8, "projection_size": 8}
CONVOLUTIONS = {
    "hidden_size": 12,
    "num_attention_heads": 3,
    "intermediate_size": 18,
    "vocab_size": VOCABULARY,
    "conv_dim": (6, 6, 6),
    "conv_kernel": (5, 3, 2),
    "conv_stride": (3, 2, 1),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
    # A group norm, over the whole length, would let padding change the sound ahead of it.
    "feat_extract_norm": "layer",
    "mask_time_prob": 0.0,
    "layerdrop": 0.0,
}
WHISPER = {
    **BART,
    "num_mel_bins": 5,
    "max_source_positions": 9,
    "classifier_proj_size": 8,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "decoder_start_token_id": 2,
}
SPECTROGRAM = {
    "hidden_size": 12,
    "num_attention_heads": 3,
    "intermediate_size": 18,
    "patch_size": 4,
    "frequency_stride": 3,
    "time_stride": 2,
    "num_mel_bins": 8,
    "max_length": 13,
}


def noise(*shape: int) -> Callable[[str], Batch]:
    """Three examples of `shape`, none of them padded."""

    def make(side: str) -> Batch:
        inputs = torch.randn(3, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        return Batch(inputs, (None,), None, tuple((example[None], (None,)) for example in inputs))

    return make


def sounds(side: str) -> Batch:
    """Three stretches of sound, padded on the right, of 12, 7 and 4 frames and some samples more."""
    inputs = noise(85)(side).inputs
    lengths, frames = torch.tensor([85, 54, 35]), torch.tensor([12, 7, 4])
    mask = torch.arange(85) < lengths[:, None]
    singles = tuple(
        (sound[None, :length], (torch.ones(1, length).long(),))
        for sound, length in zip(inputs, lengths.tolist(), strict=True)
    )
    return Batch(inputs * mask, (mask.long(),), torch.arange(12) < frames[:, None], singles)


IMAGE, SQUARE_IMAGE = noise(2, 8, 12), noise(2, 12, 12)

VISION = (
    Family(
        "vit",
        hf.ViTConfig,
        hf.ViTModel,
        PIXELS,
        classifier=hf.ViTForImageClassification,
        batch=IMAGE,
        sides=(),
    ),
    Family(
        "deit",
        hf.DeiTConfig,
        hf.DeiTModel,
        PIXELS,
        classifier=hf.DeiTForImageClassification,
        batch=IMAGE,
        sides=(),
    ),
    Family(
        "beit",
        hf.BeitConfig,
        hf.BeitModel,
        {**PIXELS, "use_relative_position_bias": True, "use_shared_relative_position_bias": True},
        classifier=hf.BeitForImageClassification,
        batch=IMAGE,
        sides=(),
    ),
    Family(
        "beit",
        hf.BeitConfig,
        hf.BeitModel,
        {
            **SQUARE,
            "use_mean_pooling": False,
            "use_absolute_position_embeddings": True,
            "layer_scale_init_value": 0.0,
        },
        classifier=hf.BeitForImageClassification,
        batch=SQUARE_IMAGE,
        sides=(),
        name="beit, class token",
    ),
    Family(
        "dinov2",
        hf.Dinov2Config,
        hf.Dinov2Model,
        SQUARE,
        classifier=hf.Dinov2ForImageClassification,
        batch=SQUARE_IMAGE,
        sides=(),
    ),
    Family(
        "dinov2",
        hf.Dinov2Config,
        hf.Dinov2Model,
        {**SQUARE, "use_swiglu_ffn": True},
        batch=IMAGE,
        sides=(),
        name="dinov2, gated and interpolated",
    ),
    Family(
        "dinov2_with_registers",
        hf.Dinov2WithRegistersConfig,
        hf.Dinov2WithRegistersModel,
        {**SQUARE, "num_register_tokens": 2},
        classifier=hf.Dinov2WithRegistersForImageClassification,
        batch=SQUARE_IMAGE,
        sides=(),
    ),
    Family(
        "clip_vision_model",
        hf.CLIPVisionConfig,
        hf.CLIPVisionModel,
        SQUARE,
        batch=SQUARE_IMAGE,
        sides=(),
    ),
    Family("clip_text_model", hf.CLIPTextConfig, hf.CLIPTextModel, CLIP_TEXT),
    Family(
        "siglip_vision_model",
        hf.SiglipVisionConfig,
        hf.SiglipVisionModel,
        SQUARE,
        batch=SQUARE_IMAGE,
        sides=(),
    ),
    Family("siglip_text_model", hf.SiglipTextConfig, hf.SiglipTextModel, CLIP_TEXT),
)

AUDIO = (
    Family(
        "wav2vec2",
        hf.Wav2Vec2Config,
        hf.Wav2Vec2Model,
        CONVOLUTIONS,
        classifier=hf.Wav2Vec2ForSequenceClassification,
        batch=sounds,
    ),
    Family(
        "wav2vec2",
        hf.Wav2Vec2Config,
        hf.Wav2Vec2Model,
        {**CONVOLUTIONS, "do_stable_layer_norm": True, "adapter_attn_dim": 4},
        classifier=hf.Wav2Vec2ForSequenceClassification,
        batch=sounds,
        name="wav2vec2, pre-LN with adapters",
    ),
    Family(
        "hubert",
        hf.HubertConfig,
        hf.HubertModel,
        CONVOLUTIONS,
        classifier=hf.HubertForSequenceClassification,
        batch=sounds,
    ),
    Family(
        "hubert",
        hf.HubertConfig,
        hf.HubertModel,
        {**CONVOLUTIONS, "do_stable_layer_norm": True},
        classifier=hf.HubertForSequenceClassification,
        batch=sounds,
        name="hubert, pre-LN",
    ),
    Family(
        "whisper",
        hf.WhisperConfig,
        _bart_encoder(hf.WhisperModel),
        WHISPER,
        depth="encoder_layers",
        classifier=hf.WhisperForAudioClassification,
        batch=noise(5, 18),
        sides=(),
    ),
    Family(
        "audio-spectrogram-transformer",
        hf.ASTConfig,
        hf.ASTModel,
        SPECTROGRAM,
        classifier=hf.ASTForAudioClassification,
        batch=noise(13, 8),
        sides=(),
    ),
)

ROWS = (*TEXT, *VISION, *AUDIO)
FAMILIES = tuple(row for row in ROWS if not _before(row.since))

SINGLE = {"splinter", "deberta", "xlm", "flaubert", "modernbert", "eurobert", "t5", "umt5"}
"""Families that compute a part of a float64 model in float32: softmax, norms or rotary positions."""

ROTARY = {"nomic_bert", "jina_embeddings_v3", "gte"}
"""Families that compute rotary positions in float32, not the same for all lengths."""


def rounds(family: Family, batch: bool = False) -> bool:
    """Whether a float64 model of the family computes a part in float32.

    Args:
        family: a row.
        batch: whether that part differs between lengths.
    """
    names = SINGLE | ROTARY if batch else SINGLE
    return family.label.split(",")[0] in names or family.label == "esm, rotary"


class Weighted(torch.nn.Module):
    """One number for each example, of all that an encoder gives."""

    def __init__(self, model: Any, arguments: tuple[str, ...]) -> None:
        super().__init__()
        self.forward_func = EncoderForward(model, arguments, output="last_hidden_state")

    def forward(self, inputs: Tensor, *arguments: Any) -> Tensor:
        hidden = self.forward_func(inputs, *arguments)
        mask = arguments[0] if arguments and arguments[0] is not None and arguments[0].dim() == 2 else None
        places = torch.linspace(-1, 1, hidden.shape[-1], dtype=hidden.dtype, device=hidden.device)
        scores = (hidden * places).tanh().sum(-1)
        if mask is not None:  # one of samples is none of frames, of which the first is always real
            scores = scores * mask if mask.shape == scores.shape else scores[:, :1]
        return scores.sum(-1)


def baselines_of(batch: Batch) -> Tensor:
    """Return zeros, or ids of which every second real one is another."""
    if batch.inputs.is_floating_point():
        return torch.zeros_like(batch.inputs)
    baselines = batch.inputs.clone()
    baselines[:, 1::2] = VOCABULARY - 1
    return baselines if batch.real is None else torch.where(batch.real, baselines, batch.inputs)
