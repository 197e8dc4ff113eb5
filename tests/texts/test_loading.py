"""Models are loaded for the task in their files; unsupported tasks are rejected."""

import json

import pytest
import transformers
from transformers import BertConfig

from captum_globenc.texts.default import encoder_folder
from captum_globenc.texts.loading import LoadingError, load_model
from captum_globenc.texts.tasks import SIMILARITY, TASKS, task_name
from checkpoints import VOCABULARY, save_classifier, save_tokenizer

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def save(folder, head):
    getattr(transformers, head)(BertConfig(vocab_size=len(VOCABULARY), **SIZES)).save_pretrained(folder)
    save_tokenizer(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        ("BertForTokenClassification", "token-classification"),
        ("BertForQuestionAnswering", "question-answering"),
        ("BertForMaskedLM", "fill-mask"),
        ("BertForSequenceClassification", "text-classification"),
    ],
)
def test_a_model_is_loaded_with_the_head_of_its_files(head, name, tmp_path):
    model, _, missing = load_model(save(tmp_path, head))
    assert (type(model).__name__, task_name(model), missing) == (head, name, ())


def test_every_task_has_a_name_of_its_own():
    names = [task.name for task in TASKS]
    assert len({*names, SIMILARITY}) == len(names) + 1


@pytest.mark.parametrize(
    "head", ["BertForMultipleChoice", "BertForNextSentencePrediction", "BertForPreTraining"]
)
def test_a_head_for_another_task_is_rejected_and_not_replaced_by_a_random_one(head, tmp_path):
    with pytest.raises(LoadingError, match=f"{head} is for a task that is not explained: supported are"):
        load_model(save(tmp_path, head))


def test_a_model_that_generates_text_is_loaded_as_one(tmp_path):
    found = load_model(save(tmp_path, "BertLMHeadModel"))
    assert type(found.model).__name__ == "BertLMHeadModel"
    assert task_name(found.model) == "text-generation"


def test_a_sentence_transformer_is_loaded_as_one():
    pytest.importorskip("sentence_transformers")
    model, tokenizer, missing = load_model(str(encoder_folder()))
    assert (type(model).__name__, task_name(model), missing) == ("SentenceTransformer", SIMILARITY, ())
    assert tokenizer is model.tokenizer


@pytest.mark.parametrize(
    ("kind", "said"),
    [("CrossEncoder", ""), ("SparseEncoder", "a SparseEncoder of sentence-transformers is not supported")],
)
def test_other_objects_of_sentence_transformers_are_told_apart(kind, said, tmp_path):
    save_classifier(tmp_path)
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps({"model_type": kind}))
    if said:
        with pytest.raises(LoadingError, match=said):
            load_model(str(tmp_path))
    else:
        assert type(load_model(str(tmp_path)).model).__name__ == "BertForSequenceClassification"
