"""EncoderForward: arguments by name, one tensor back."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import nn
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    DistilBertConfig,
    ViTConfig,
    ViTForImageClassification,
)
from transformers import DistilBertForSequenceClassification as DistilBert

from captum_globenc import EncoderForward, GlobEnc
from checkpoints import save_classifier
from models import SMALL, SMALL_VIT, randomize


def test_ids_and_embeddings_give_what_the_model_gives(classifier, batch):
    forward = EncoderForward(classifier)
    inputs, extra = forward.arguments(batch)
    expected = classifier(**batch).logits
    assert torch.equal(forward(inputs, *extra), expected)
    embeddings = classifier.bert.embeddings.word_embeddings(inputs)
    assert torch.equal(forward(embeddings, *extra), expected)


def test_arguments_go_by_name_where_the_positional_order_differs(batch):
    config = DistilBertConfig(vocab_size=60, dim=24, n_layers=2, n_heads=4, hidden_dim=32)
    model = randomize(DistilBert(config).double())
    forward = EncoderForward(model)
    named = {key: batch[key] for key in ("input_ids", "attention_mask")}
    inputs, extra = forward.arguments(named)
    assert extra[1] is None
    assert torch.equal(forward(inputs, *extra), model(**named).logits)


def test_any_output_field_can_be_chosen(batch):
    model = randomize(BertForQuestionAnswering(BertConfig(**SMALL)).double())
    forward = EncoderForward(model, output="start_logits")
    inputs, extra = forward.arguments(batch)
    assert torch.equal(forward(inputs, *extra), model(**batch).start_logits)


def test_an_unknown_output_lists_the_known_ones(bare, batch):
    forward = EncoderForward(bare)
    with pytest.raises(ValueError, match=r"no tensor 'logits'.*last_hidden_state"):
        forward(batch["input_ids"])


def test_too_many_arguments_are_rejected(classifier, batch):
    with pytest.raises(TypeError, match="argument_names"):
        EncoderForward(classifier)(batch["input_ids"], None, None, None)


def test_a_batch_without_inputs_is_rejected(classifier, batch):
    with pytest.raises(KeyError, match="input_ids"):
        EncoderForward(classifier).arguments({"attention_mask": batch["attention_mask"]})


def test_a_plain_tuple_says_what_to_set(classifier, batch):
    classifier.config.return_dict = False
    with pytest.raises(ValueError, match="return_dict"):
        EncoderForward(classifier)(batch["input_ids"])


@pytest.mark.parametrize("shape", [(5,), (1, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_ids_given_as_floats_are_reported(classifier, shape, dtype):
    with pytest.raises(
        TypeError, match=r"ids must be integers \(.long\(\)\), and embeddings are \(B, N, D\)"
    ):
        EncoderForward(classifier)(torch.ones(shape, dtype=dtype))


@pytest.mark.parametrize("other", ["a tokenizer", None, 3])
def test_a_model_that_is_not_a_module_is_reported(classifier, other):
    with pytest.raises(TypeError, match="not a module: pass the model"):
        EncoderForward(other)
    if other is not None:
        with pytest.raises(TypeError, match="not a module: pass the model that forward_func calls"):
            GlobEnc(EncoderForward(classifier), other)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_sentence_transformer_is_taken_as_it_is(tmp_path, pooling):
    transformer = Transformer(str(save_classifier(tmp_path)))
    modules = [transformer, Pooling(transformer.get_embedding_dimension(), pooling_mode=pooling)]
    model = SentenceTransformer(modules=modules, device="cpu").eval()
    texts = ["a good film", "the plot is bad but great"]
    batch = transformer.tokenizer(texts, padding=True, return_tensors="pt")
    forward = EncoderForward(model)
    inputs, extra = forward.arguments(batch)
    embedding = forward(inputs, *extra)
    torch.testing.assert_close(embedding, model.encode(texts, convert_to_tensor=True), rtol=1e-5, atol=1e-6)
    vectors = transformer.model.get_input_embeddings()(inputs)
    torch.testing.assert_close(forward(vectors, *extra), embedding)
    scores = GlobEnc(forward).attribute(inputs, 0, extra)
    position = "mean" if pooling == "mean" else 0
    assert torch.equal(scores, GlobEnc(forward).attribute(inputs, 0, extra, position=position))


@pytest.mark.parametrize("labels", [1, 2])
def test_a_cross_encoder_is_taken_as_it_is(tmp_path, labels):
    save_classifier(tmp_path, id2label={i: str(i) for i in range(labels)}, label2id=None)
    model = CrossEncoder(str(tmp_path), device="cpu").eval()
    pairs = [("a good film", "bad"), ("the plot", "a great script")]
    batch = model.tokenizer(*zip(*pairs, strict=True), padding=True, return_tensors="pt")
    forward = EncoderForward(model)
    inputs, extra = forward.arguments(batch)
    scores = forward(inputs, *extra)
    expected = model.predict(pairs, activation_fn=torch.nn.Identity(), convert_to_tensor=True)
    torch.testing.assert_close(scores.reshape(expected.shape), expected, rtol=1e-5, atol=1e-6)
    plain = GlobEnc(EncoderForward(model.model)).attribute(inputs, 0, extra)
    assert torch.equal(GlobEnc(forward).attribute(inputs, 0, extra), plain)


def test_the_special_tokens_mask_of_a_batch_is_used():
    from captum_globenc.texts import load_default

    model, tokenizer = load_default()
    texts, forward = ["the [SEP] film", "good"], EncoderForward(model)
    mask, real = tokenizer.mask_token_id, [1, 3]
    told = tokenizer(texts, padding=True, return_special_tokens_mask=True, return_tensors="pt")
    expected = told["input_ids"].clone()
    expected[0, 1:4], expected[1, 1] = mask, mask
    assert torch.equal(forward.masked(told, tokenizer), expected)
    untold = tokenizer(texts, padding=True, return_tensors="pt")
    expected[0, 2] = tokenizer.sep_token_id
    assert forward.masked(untold, tokenizer)[0, real].tolist() == [mask, mask]
    assert torch.equal(forward.masked(untold, tokenizer), expected)


def test_arguments_that_the_model_reads_cannot_be_dropped(classifier, batch):
    forward = EncoderForward(classifier, ("attention_mask",))
    whole = {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}
    assert forward.arguments(whole)[1][0] is whole["attention_mask"]  # no types are types of zeros
    typed = {**batch, "token_type_ids": torch.ones_like(batch["input_ids"]), "labels": torch.ones(3)}
    with pytest.raises(
        ValueError, match=r"reads \['token_type_ids'\].*\('attention_mask', 'token_type_ids'\)"
    ):
        forward.arguments(typed)
    inputs, extra = EncoderForward(classifier).arguments(typed)
    assert torch.equal(inputs, batch["input_ids"])
    assert extra == (batch["attention_mask"], typed["token_type_ids"])
    with pytest.raises(ValueError, match="attention_mask"):
        EncoderForward(classifier, ()).arguments(batch)
    assert EncoderForward(classifier, ()).arguments(whole)[1] == ()


WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "adapter": lambda model: get_peft_model(model, LoraConfig(target_modules=["query", "q_proj"])).eval(),
    "adapter of a task": lambda model: get_peft_model(
        model, LoraConfig(target_modules=["query", "q_proj"], task_type="SEQ_CLS")
    ).eval(),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_names_the_arguments_of_its_model(name, classifier, batch):
    wrapped = WRAPPERS[name](classifier)
    typed = {**batch, "token_type_ids": torch.ones_like(batch["input_ids"])}
    with pytest.raises(ValueError, match=r"reads \['token_type_ids'\]"):
        EncoderForward(wrapped, ("attention_mask",)).arguments(typed)
    inputs, extra = EncoderForward(wrapped).arguments(typed)
    with torch.no_grad():
        found, expected = EncoderForward(wrapped)(inputs, *extra), classifier(**typed).logits
    torch.testing.assert_close(found, expected)


class WithShift(nn.Module):
    """Adds a number of its own argument to the outputs."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, shift=None, **arguments):
        return self.model(input_ids, **arguments)


def test_a_wrapper_has_arguments_of_its_own(classifier, batch):
    forward = EncoderForward(WithShift(classifier))
    with pytest.raises(ValueError, match=r"reads \['position_ids', 'shift'\]"):
        forward.arguments({**batch, "position_ids": batch["input_ids"], "shift": torch.ones(3)})


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_takes_the_main_input_of_its_model(name):
    config = ViTConfig(**SMALL_VIT)
    pixels = torch.randn(2, 3, 8, 8)
    model = ViTForImageClassification(config).eval()
    with torch.no_grad():
        expected = model(pixels).logits
        found = EncoderForward(WRAPPERS[name](model))(pixels)
    torch.testing.assert_close(found, expected)
