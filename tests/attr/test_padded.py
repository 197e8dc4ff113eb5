"""Every method warns about padding without a mask, and about nothing else."""

import copy
import warnings

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    GPT2Config,
    GPT2ForSequenceClassification,
    XLMConfig,
    XLMForSequenceClassification,
)

from captum_globenc import DecompX, EncoderForward, GlobEnc, TransformerDeepLift
from captum_globenc.attr.arguments import MaskWatch
from models import SMALL, randomize, state_of

PAD, BASE = 0, 4
IDS = torch.tensor([[2, 5, 7, 9, 3], [2, 8, 3, PAD, PAD]])
MASK = (IDS != PAD).long()


def masked(ids):
    """A baseline that keeps special tokens."""
    return torch.where(ids < BASE, ids, BASE)


METHODS = {
    "GlobEnc": lambda forward, model, ids, extra: GlobEnc(forward, model).attribute(ids, 1, extra),
    "DecompX": lambda forward, model, ids, extra: DecompX(forward, model).attribute(ids, 1, extra),
    "TransformerDeepLift": lambda forward, model, ids, extra: TransformerDeepLift(forward, model).attribute(
        ids, masked(ids), 1, extra
    ),
}


@pytest.fixture
def model():
    return randomize(BertForSequenceClassification(BertConfig(**SMALL)).double())


@pytest.fixture(params=METHODS)
def attribute(request):
    """Attribute, and return the messages of warnings."""

    def attribute(model, ids, extra=None, forward=None):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            METHODS[request.param](forward or EncoderForward(model), model, ids, extra)
        return [str(it.message) for it in caught]

    return attribute


@pytest.mark.parametrize("extra", [None, (None, torch.zeros_like(IDS))])
@pytest.mark.parametrize("ids", [IDS, IDS.flip(-1), IDS[1:]])
def test_padding_without_a_mask_gives_a_warning_with_advice(model, attribute, ids, extra):
    extra = extra and (None, extra[1][: len(ids)])
    before = state_of(model)
    (said,) = attribute(model, ids, extra)
    assert said.startswith("ids begin or end in the padding token and there is no attention mask")
    assert "additional_forward_args=(attention_mask,)" in said
    assert state_of(model) == before


def test_a_function_that_passes_no_mask_gives_a_warning(model, attribute):
    none = {"attention_mask": None}
    for forward in (lambda ids: model(ids).logits, lambda ids: model(input_ids=ids, **none).logits):
        assert len(attribute(model, IDS, forward=forward)) == 1


@pytest.mark.parametrize(
    "forward",
    [
        lambda model: lambda ids, mask: model(ids, mask).logits,
        lambda model: lambda ids, _: model(input_ids=ids, attention_mask=(ids != PAD).long()).logits,
        lambda model: lambda ids, mask: model.classifier(model.bert(ids, attention_mask=mask).pooler_output),
    ],
)
def test_a_mask_that_reaches_the_model_in_any_way_is_seen(model, attribute, forward):
    assert attribute(model, IDS, (MASK,), forward(model)) == []


def test_a_mask_of_ones_gives_no_warning(model, attribute):
    assert attribute(model, IDS, (torch.ones_like(IDS),)) == []


@pytest.mark.parametrize(
    "ids",
    [
        torch.tensor([[2, 5, 7, 9, 3]]),
        torch.tensor([[2, 5, PAD, 9, 3]]),
        torch.full((1, 5), PAD),
    ],
)
def test_padding_within_a_text_or_a_row_of_nothing_else_is_no_padding(model, attribute, ids):
    assert attribute(model, ids) == []


def said_of(method, model, ids):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        METHODS[method](EncoderForward(model), model, ids, None)
    return [str(it.message) for it in caught if "padding token" in str(it.message)]


@pytest.mark.parametrize("eos", [3, 2])
@pytest.mark.parametrize(("count", "side"), [(1, "end"), (3, "end"), (1, "start"), (3, "start")])
def test_a_decoder_reads_padding_ahead_of_a_text_and_none_after_it(count, side, eos):
    shape = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 24}
    config = GPT2Config(**shape, pad_token_id=3, eos_token_id=eos, bos_token_id=eos)
    model = randomize(GPT2ForSequenceClassification(config).double())
    text, padding = [5, 7, 9, 11], [3] * count
    ids = torch.tensor([text + padding if side == "end" else padding + text])
    # One token that is the end of a text as well is no padding.
    told = side == "start" and (count > 1 or eos != 3)
    assert len(said_of("TransformerDeepLift", model, ids)) == told


@pytest.mark.parametrize("method", METHODS)
def test_one_end_of_a_text_that_is_written_as_padding_is_none(method):
    config = BertConfig(**SMALL, pad_token_id=3, eos_token_id=3)
    model = randomize(BertForSequenceClassification(config).double())
    assert said_of(method, model, torch.tensor([[2, 5, 7, 3]])) == []
    assert len(said_of(method, model, torch.tensor([[2, 5, 3, 3]]))) == 1


@pytest.mark.parametrize("method", ["GlobEnc", "TransformerDeepLift"])
def test_clip_reads_none_of_what_follows_a_text(method):
    shape = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "projection_dim": 8}
    config = CLIPTextConfig(
        **shape, num_hidden_layers=2, num_attention_heads=2, pad_token_id=1, eos_token_id=3
    )
    model = randomize(CLIPTextModelWithProjection(config).double())
    forward = EncoderForward(model, output="text_embeds")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        METHODS[method](forward, model, torch.tensor([[5, 9, 3, 1, 1]]), None)


def test_a_model_that_finds_padding_itself_gives_no_warning(attribute):
    config = XLMConfig(vocab_size=60, emb_dim=24, n_layers=2, n_heads=4, pad_index=PAD)
    model = randomize(XLMForSequenceClassification(config).double())
    model.config.pad_token_id = PAD
    assert attribute(model, IDS) == []


def test_embeddings_are_not_looked_at(model):
    embedded = model.bert.embeddings.word_embeddings(IDS).detach()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GlobEnc(EncoderForward(model)).attribute(embedded)
        TransformerDeepLift(EncoderForward(model)).attribute(embedded, target=1)


def test_a_copy_that_is_made_meanwhile_is_not_watched(model):
    watch = MaskWatch(model, [IDS])
    with watch.recorded():
        made = copy.deepcopy(model)
        assert model._forward_pre_hooks
    assert not any(module._forward_pre_hooks for module in made.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
    made(IDS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.warn()  # the model that is watched never ran
