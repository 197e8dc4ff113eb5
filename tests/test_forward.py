"""EncoderForward: arguments by name, one tensor back."""

import pytest
import torch
from transformers import BertConfig, BertForQuestionAnswering, DistilBertConfig
from transformers import DistilBertForSequenceClassification as DistilBert

from captum_globenc import EncoderForward
from models import SMALL, randomize


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


def test_an_unknown_output_names_those_there_are(bare, batch):
    forward = EncoderForward(bare)
    with pytest.raises(ValueError, match=r"no tensor 'logits'.*last_hidden_state"):
        forward(batch["input_ids"])


def test_too_many_arguments_are_refused(classifier, batch):
    with pytest.raises(TypeError, match="argument_names"):
        EncoderForward(classifier)(batch["input_ids"], None, None, None)


def test_a_batch_without_inputs_is_refused(classifier, batch):
    with pytest.raises(KeyError, match="input_ids"):
        EncoderForward(classifier).arguments({"attention_mask": batch["attention_mask"]})


def test_a_plain_tuple_says_what_to_set(classifier, batch):
    classifier.config.return_dict = False
    with pytest.raises(ValueError, match="return_dict"):
        EncoderForward(classifier)(batch["input_ids"])
