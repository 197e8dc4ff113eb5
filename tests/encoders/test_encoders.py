"""The registry, the search for an encoder, and the tokens that its head reads."""

from dataclasses import replace
from importlib.metadata import EntryPoint

import pytest
import torch
import transformers as hf
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import CNN, Pooling, Transformer, WordWeights
from torch import nn

from captum_globenc import EncoderForward, GlobEnc
from captum_globenc.encoders import (
    BERT,
    EncoderSpec,
    find_encoder,
    register_encoder,
    registry,
    supported_encoders,
)
from captum_globenc.encoders.registry import UNSUPPORTED
from checkpoints import save_classifier
from families import TEXT

SUPPORTED = {
    "bert",
    "roberta",
    "xlm-roberta",
    "camembert",
    "electra",
    "ernie",
    "data2vec-text",
    "layoutlm",
    "distilbert",
    "albert",
    "mpnet",
    "deberta",
    "deberta-v2",
    "nomic_bert",
    "roformer",
    "rembert",
    "splinter",
    "jina_embeddings_v3",
    "gte",
    "xlm",
    "flaubert",
    "bart",
    "mbart",
    "roberta-prelayernorm",
    "megatron-bert",
    "xlm-roberta-xl",
    "esm",
    "modernbert",
    "eurobert",
    "t5",
    "umt5",
}


@pytest.fixture
def known(monkeypatch):
    """The registry, put back afterwards, with entry points not yet loaded."""
    specs = dict(registry._REGISTRY)
    monkeypatch.setattr(registry, "_REGISTRY", specs)
    registry._provided.cache_clear()
    yield specs
    registry._provided.cache_clear()


def family(model_type):
    return next(row for row in TEXT if row.model_type == model_type)


def test_every_text_family_of_the_list_is_supported():
    assert set(supported_encoders()) >= SUPPORTED
    assert list(supported_encoders()) == sorted(supported_encoders())


def test_a_registered_family_is_found(known):
    class MineConfig(hf.BertConfig):
        model_type = "bert-of-mine"

    model = hf.BertModel(MineConfig(**family("bert").sizes, num_hidden_layers=1))
    with pytest.raises(ValueError, match=r"it holds bert-of-mine\. Supported: .*albert.*adding-a-family"):
        find_encoder(model)
    register_encoder(replace(BERT, model_type="bert-of-mine"))
    assert "bert-of-mine" in supported_encoders()
    assert find_encoder(model).stack is model


def test_registering_twice_needs_overwrite(known):
    other = replace(BERT, pooled=lambda config: "mean")
    with pytest.raises(ValueError, match="'bert' is registered already; pass overwrite=True"):
        register_encoder(other)
    register_encoder(other, overwrite=True)
    assert find_encoder(family("bert").make()).pooled == "mean"


@pytest.mark.parametrize(
    ("role", "path", "owner"),
    [
        ("layers", "encoder.blocks.*", r"BertModel has no 'encoder.blocks.\*'"),
        ("out", "attention.output.proj", "BertLayer has no 'attention.output.proj'"),
        ("final_norm", "encoder.norm", "BertModel has no 'encoder.norm'"),
        ("norm1", "encoder.norms.*", r"BertModel has no 'encoder.norms.\*'"),
    ],
)
def test_a_spec_that_does_not_fit_names_the_path_and_the_version(known, role, path, owner):
    register_encoder(replace(BERT, **{role: path}), overwrite=True)
    with pytest.raises(ValueError, match=f"'bert' does not fit: ({owner}) in transformers {hf.__version__}"):
        find_encoder(family("bert").make())


@pytest.mark.parametrize("model_type", sorted(UNSUPPORTED))
def test_an_unsupported_family_says_why_and_lists_the_supported(model_type):
    config = hf.AutoConfig.for_model(model_type)
    kinds = hf.AutoModel._model_mapping[type(config)]
    with torch.device("meta"):
        model = (kinds[0] if isinstance(kinds, tuple) else kinds)(config)
    with pytest.raises(
        ValueError, match=f"{model_type} is unsupported, because {UNSUPPORTED[model_type]}"
    ) as error:
        find_encoder(model)
    for name in SUPPORTED:
        assert name in str(error.value)


def test_no_family_is_both_unsupported_and_supported():
    assert not set(UNSUPPORTED) & set(supported_encoders())


@pytest.mark.parametrize(
    ("model_type", "settings", "reason"),
    [
        ("roformer", {"rotary_value": True}, "values are rotated"),
        ("deberta-v2", {"conv_kernel_size": 3}, "convolution"),
        ("deberta", {"talking_head": True}, "heads mix their weights"),
        ("flaubert", {"pre_norm": True}, "pre-LN"),
    ],
)
def test_an_unsupported_setting_is_rejected_with_its_reason(model_type, settings, reason):
    model = family(model_type).make(**settings)
    name = next(iter(settings))
    with pytest.raises(
        ValueError, match=rf"{model_type} with config\.{name} = .* is unsupported, .*{reason}"
    ):
        find_encoder(model)


def test_a_decoder_is_rejected_as_one():
    model = hf.BertLMHeadModel(hf.BertConfig(**family("bert").sizes, is_decoder=True))
    with pytest.raises(ValueError, match="its bert is a decoder"):
        find_encoder(model)


def test_an_encoder_without_layers_is_rejected():
    model = family("bert").make()
    del model.encoder.layer[:]
    with pytest.raises(ValueError, match="BertModel has no layers"):
        find_encoder(model)


def test_a_model_without_transformers_is_rejected():
    with pytest.raises(ValueError, match=r"in Linear: it holds no Hugging Face model"):
        find_encoder(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("kind", "depth"),
    [
        (hf.T5ForConditionalGeneration, "num_layers"),
        (hf.T5ForSequenceClassification, "num_layers"),
        (hf.BartForConditionalGeneration, "encoder_layers"),
        (hf.BartForSequenceClassification, "encoder_layers"),
        (hf.MBartForSequenceClassification, "encoder_layers"),
        (hf.UMT5ForSequenceClassification, "num_layers"),
    ],
)
def test_of_an_encoder_decoder_the_encoder_is_found_and_nothing_pooled(kind, depth):
    row = family(kind.config_class.model_type)
    model = kind(row.config(**row.sizes, **{depth: 2}))
    encoder = find_encoder(model)
    assert encoder.stack is model.base_model.encoder
    assert len(encoder.layers) == 2
    assert encoder.pooled is None


def test_a_head_that_reads_a_decoder_asks_for_a_position():
    row = family("bart")
    model = hf.BartForSequenceClassification(row.config(**row.sizes, encoder_layers=2)).eval()
    ids = torch.tensor([[5, 6, 7, model.config.eos_token_id]])
    globenc = GlobEnc(EncoderForward(model, ("attention_mask",)), model)
    with pytest.raises(ValueError, match="pass position="):
        globenc.attribute(ids)
    assert globenc.attribute(ids, position="mean").sum().item() == pytest.approx(1)


# Entry points


def offer(monkeypatch, **values):
    """Let other packages offer objects of this module as entry points."""
    points = [EntryPoint(name, value, registry.ENTRY_POINTS) for name, value in values.items()]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)


OFFERED = replace(BERT, model_type="offered")
OFFERED_MORE = [replace(BERT, model_type="offered-a"), replace(BERT, model_type="offered-b")]
NOT_A_SPEC = "bert"


def test_other_packages_provide_families(known, monkeypatch):
    offer(monkeypatch, one="test_encoders:OFFERED", several="test_encoders:OFFERED_MORE")
    assert {"offered", "offered-a", "offered-b"} <= set(supported_encoders())


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("no_such_package:SPEC", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("test_encoders:NO_SUCH_NAME", "AttributeError"),
        ("test_encoders:NOT_A_SPEC", "neither an EncoderSpec nor"),
        ("captum_globenc.encoders:BERT", "'bert' is registered already"),
    ],
)
def test_a_broken_entry_point_is_ignored_with_one_warning(known, monkeypatch, value, reason):
    offer(monkeypatch, broken=value, fine="test_encoders:OFFERED")
    with pytest.warns(UserWarning, match=f"Entry point 'broken' = '{value}' .* is ignored: .*{reason}"):
        assert "offered" in supported_encoders()
    assert find_encoder(family("bert").make()).spec is BERT


def test_entry_points_are_not_loaded_before_the_first_look_up(known, monkeypatch):
    monkeypatch.setattr(registry, "entry_points", lambda group: pytest.fail("loaded"))
    register_encoder(OFFERED)


def test_what_the_user_registered_stays_ahead_of_an_entry_point(known, monkeypatch):
    offer(monkeypatch, one="test_encoders:OFFERED")
    mine = replace(BERT, model_type="offered", pooled=lambda config: "mean")
    register_encoder(mine)
    with pytest.warns(UserWarning, match="'offered' is registered already"):
        supported_encoders()
    assert known["offered"] is mine


# What a head reads


POOLING = [
    *(pytest.param(row, {}, id=row.label) for row in TEXT if row.classifier is not None),
    *(
        pytest.param(row, {setting: value}, id=f"{name}-{value}")
        for name, setting, values in (
            ("modernbert", "classifier_pooling", ("cls", "mean")),
            ("eurobert", "classifier_pooling", ("bos", "mean", "late")),
            ("xlm", "summary_type", ("first", "last", "mean", "cls_index")),
            ("flaubert", "summary_type", ("first", "last", "mean", "cls_index")),
        )
        for row in TEXT
        if row.model_type == name  # not every version of transformers has every one
        for value in values
    ),
]


@pytest.mark.parametrize(("row", "settings"), POOLING)
def test_a_head_reads_the_tokens_that_it_is_said_to_pool_and_no_other(row, settings):
    model, batch = row.make(2, row.classifier, **settings), row.batch("right")
    forward = row.forward(model, "logits")
    pooled = find_encoder(model).pooled
    tokens = batch.inputs.shape[1]
    expected = batch.real.bool() if pooled == "mean" else torch.arange(tokens) == pooled % tokens
    # A position counted from the end may be padding: its row is zero, and GlobEnc rejects it.
    expected = expected & batch.real.bool()
    before = forward(batch.inputs, *batch.extra)
    for token in range(tokens):
        moved = with_moved_row(model, token, lambda: forward(batch.inputs, *batch.extra))
        assert torch.equal((moved != before).any(-1), expected[:, token])


def with_moved_row(model, token, forward):
    """What `forward` returns while the last layer's output for `token` is another."""
    encoder = find_encoder(model)
    last = encoder.layers[-1].norm2 if encoder.spec.order == "post-LN" else encoder.final_norm
    calls = []
    count = last.register_forward_hook(lambda module, args, output: calls.append(output))
    forward()
    count.remove()
    total = len(calls)

    def move(module, args, output):
        calls.append(output)
        if len(calls) == 2 * total:  # a shared layer runs before as well
            moved = output.clone()
            moved[:, token] += torch.linspace(-1, 1, output.shape[-1], dtype=output.dtype)
            return moved
        return None

    handle = last.register_forward_hook(move)
    try:
        return forward()
    finally:
        handle.remove()


PER_TOKEN = [
    hf.BertForTokenClassification,
    hf.BertForMaskedLM,
    hf.BertForQuestionAnswering,
    hf.ElectraForPreTraining,
    hf.XLMWithLMHeadModel,
    hf.ModernBertForTokenClassification,
    hf.RobertaForCausalLM,
    hf.SplinterForQuestionAnswering,
]


@pytest.mark.parametrize("kind", PER_TOKEN)
def test_a_head_for_each_token_pools_none(kind):
    row = family(kind.config_class.model_type)
    assert find_encoder(row.make(1, kind)).has_per_token_head


@pytest.mark.parametrize(
    ("mode", "pooled"),
    [("mean", "mean"), ("cls", 0), ("lasttoken", None), ("max", None), (("cls", "mean"), None)],
)
def test_the_pooling_module_of_a_sentence_transformer_decides_the_pooled_tokens(tmp_path, mode, pooled):
    save_classifier(tmp_path)
    transformer = Transformer(str(tmp_path))
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode=mode)
    model = SentenceTransformer(modules=[transformer, pooling], device="cpu")
    encoder = find_encoder(model)
    assert encoder.spec.model_type == "bert"
    assert encoder.pooled == pooled


def test_modules_between_encoder_and_pooling_leave_no_known_average(tmp_path):
    save_classifier(tmp_path)
    transformer = Transformer(str(tmp_path))
    size = transformer.get_embedding_dimension()
    for modules in (
        [WordWeights(["a"], {"a": 2.0}), Pooling(size, pooling_mode="mean")],
        [CNN(size, size, kernel_sizes=[3]), Pooling(size, pooling_mode="mean")],
        [Pooling(size, pooling_mode="mean", include_prompt=False)],
    ):
        model = SentenceTransformer(modules=[transformer, *modules], device="cpu")
        assert find_encoder(model).pooled is None


def test_a_sentence_transformer_is_explained_directly(tmp_path):
    """Its embedding of a text changes with every token: the mean is explained without saying so."""
    save_classifier(tmp_path)
    transformer = Transformer(str(tmp_path))
    modules = [transformer, Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")]
    model = SentenceTransformer(modules=modules, device="cpu").eval()

    def forward(ids, mask):
        return model({"input_ids": ids, "attention_mask": mask})["sentence_embedding"]

    ids = torch.tensor([[2, 7, 8, 9, 3], [2, 7, 3, 0, 0]])
    mask = (ids > 0).long()
    globenc = GlobEnc(forward, model)
    found = globenc.attribute(ids, target=0, additional_forward_args=mask)
    assert torch.equal(found, globenc.attribute(ids, additional_forward_args=mask, position="mean"))
    assert not torch.allclose(found, globenc.attribute(ids, additional_forward_args=mask, position=0))


def test_a_spec_is_hidden_from_change():
    with pytest.raises(AttributeError):
        BERT.model_type = "other"
    assert isinstance(BERT, EncoderSpec)
