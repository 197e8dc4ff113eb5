"""A row of a batch gets the same results as its text alone, in the order of the rows."""

import pickle
import re

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from captum.attr import LayerIntegratedGradients
from datasets.fingerprint import Hasher
from tokenizers import processors
from transformers import AutoTokenizer, GPT2Config, GPT2ForSequenceClassification

from captum_globenc import DecompX, EncoderForward, GlobEnc, TransformerDeepLift, explain
from captum_globenc.datasets import Attributor, attribute_files
from captum_globenc.texts import load_classifier
from captum_globenc.texts.loading import LoadingError
from captum_globenc.texts.methods import MAIN_METHODS, METHODS
from checkpoints import LIMIT, VOCABULARY, save_classifier, save_tokenizer
from pages import ROOT, python_blocks
from sentences import LEXICON, sentences, write_rows

TEXTS = sentences(24)


@pytest.fixture(scope="module")
def classifier(folder):
    return load_classifier(folder)


@pytest.fixture(scope="module")
def alone(classifier):
    """The scores of each method's own class for one text, and the logits; `target` is explained."""
    model, tokenizer, _ = classifier
    forward = EncoderForward(model)

    def integrated(inputs, extra, blanks, target):
        method = LayerIntegratedGradients(forward, model.get_input_embeddings())
        return method.attribute(inputs, blanks, target, extra, n_steps=50).sum(-1)

    methods = {
        "globenc": lambda inputs, extra, blanks, target: GlobEnc(forward).attribute(
            inputs, additional_forward_args=extra
        ),
        "transformer-deep-lift": lambda inputs, extra, blanks, target: TransformerDeepLift(forward).attribute(
            inputs, blanks, target, extra
        ),
        "decompx": lambda inputs, extra, blanks, target: DecompX(forward).attribute(inputs, target, extra),
        "integrated-gradients": integrated,
    }

    def alone(method, text, pair=None, target=None):
        batch = tokenizer(text, pair, return_tensors="pt")
        inputs, extra = forward.arguments(batch)
        with torch.no_grad():
            logits = forward(inputs, *extra)
        blanks = forward.masked(batch, tokenizer)
        scores = methods[method](inputs, extra, blanks, logits.argmax(-1) if target is None else target)
        return scores[0].tolist(), logits[0].tolist()

    return alone


@pytest.mark.parametrize("method", MAIN_METHODS)
def test_a_text_has_the_same_scores_and_logits_in_a_batch_and_alone(method, folder, alone):
    rows = Attributor(folder, methods=method, batch_tokens=64)({"text": TEXTS})
    for text, scores, logits in zip(TEXTS, rows[method], rows["logits"], strict=True):
        expected, outputs = alone(method, text)
        assert scores == pytest.approx(expected, abs=1e-5)
        assert logits == pytest.approx(outputs, abs=1e-5)


def test_rows_keep_their_order_and_columns(folder):
    rows = Attributor(folder)({"text": TEXTS, "label": list(range(24))})
    assert rows["text"] == TEXTS
    assert rows["label"] == list(range(24))
    assert rows["error"] == [""] * 24
    assert {len(column) for column in rows.values()} == {24}
    for text, words, ids, scores in zip(
        *map(rows.get, ("text", "words", "input_ids", "globenc")), strict=True
    ):
        assert " ".join(words) == text
        assert len(ids) == len(scores)
        assert sum(scores) == pytest.approx(1, abs=1e-5)


def test_words_and_offsets_locate_the_tokens(folder):
    rows = Attributor(folder)({"text": ["A GOOD unhappy film"]})
    assert rows["tokens"] == [["[CLS]", "a", "good", "un", "##happy", "film", "[SEP]"]]
    assert rows["words"] == [["A", "GOOD", "unhappy", "film"]]
    assert rows["word_ids"] == [[None, 0, 1, 2, 2, 3, None]]
    assert rows["offsets"] == [[[0, 0], [0, 1], [2, 6], [7, 9], [9, 14], [15, 19], [0, 0]]]


def test_the_result_of_a_row_does_not_depend_on_other_rows(folder):
    all_of_them = Attributor(folder, methods=["globenc", "decompx"])({"text": TEXTS})
    few = Attributor(folder, methods=["globenc", "decompx"], batch_tokens=1)({"text": TEXTS[5:8]})
    for method in ("globenc", "decompx"):
        for one, other in zip(all_of_them[method][5:8], few[method], strict=True):
            assert one == pytest.approx(other, abs=1e-5)


def test_globencs_own_pass_gives_the_prediction(classifier):
    model, tokenizer, _ = classifier
    attribute = Attributor(model, tokenizer)
    attribute({"text": ["good"]})
    widths = []
    handle = model.register_forward_hook(lambda _, __, output: widths.append(len(output.logits)))
    try:
        attribute({"text": TEXTS})
    finally:
        handle.remove()
    assert sum(widths) == len(TEXTS)


def test_texts_with_and_without_a_pair_run_together(folder, alone):
    pairs = ["bad plot", None, "", "the film is bad"]
    rows = Attributor(folder)({"text": TEXTS[:4], "pair": pairs})
    for text, pair, scores in zip(TEXTS, pairs, rows["globenc"], strict=False):
        assert scores == pytest.approx(alone("globenc", text, pair or None)[0], abs=1e-5)
    assert rows["words"][0][-2:] == ["bad", "plot"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (None, "the text is missing"),
        (3.5, "the text is a float, not a string"),
        ("good \ud800", "the text is not valid UTF-8"),
        ("good " * LIMIT, f"the text has {LIMIT + 2} tokens, and the model takes {LIMIT}"),
    ],
)
def test_an_error_of_a_row_is_reported_and_affects_no_other_row(text, error, folder):
    attribute = Attributor(folder, methods=["globenc", "decompx"], cut=False)
    rows = attribute({"text": ["a good film", text, "bad"]})
    assert rows["error"] == ["", error, ""]
    empty = {name: column[1] for name, column in rows.items() if name not in ("text", "error")}
    assert all(value in ([], "", 0, False) for value in empty.values()), empty
    expected = attribute({"text": ["a good film", "bad"]})
    assert [rows["decompx"][0], rows["decompx"][2]] == expected["decompx"]


def test_an_invalid_pair_is_an_error_of_its_row(folder):
    assert Attributor(folder)({"text": ["a"], "pair": [7]})["error"] == [
        "the second segment is a int, not a string"
    ]


def test_a_text_that_the_model_fails_on_fails_alone(folder):
    model, tokenizer, _ = load_classifier(folder)
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[tokenizer.convert_tokens_to_ids("red")] = torch.nan
    rows = Attributor(model, tokenizer, ["globenc", "transformer-deep-lift"])(
        {"text": ["a good film", "a red film", "bad"]}
    )
    assert [bool(error) for error in rows["error"]] == [False, True, False]
    assert "NaN" in rows["error"][1]
    assert [len(scores) for scores in rows["transformer-deep-lift"]] == [5, 0, 3]


@pytest.mark.parametrize("method", MAIN_METHODS)
def test_an_output_that_is_not_finite_is_an_error_of_its_row(method, folder):
    model, tokenizer, _ = load_classifier(folder)
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[tokenizer.convert_tokens_to_ids("red")] = torch.inf
    rows = Attributor(model, tokenizer, method)({"text": ["bad", "a red film"]})
    assert [bool(error) for error in rows["error"]] == [False, True]
    assert [len(scores) for scores in rows[method]] == [3, 0]


def test_out_of_memory_is_not_an_error_of_a_row(folder):
    model, tokenizer, _ = load_classifier(folder)

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    model.register_forward_pre_hook(full)
    with pytest.raises(torch.OutOfMemoryError):
        Attributor(model, tokenizer)({"text": ["good", "bad"]})


def test_a_model_without_classes_per_text_is_rejected(tagger, folder):
    with pytest.raises(ValueError, match=re.escape("gives logits (B, C), this model gives (1, 3, 5)")):
        Attributor(tagger, load_classifier(folder).tokenizer, "decompx").check()


def test_long_texts_are_truncated_and_reported(folder, alone):
    long = "good " * (LIMIT - 2)
    rows = Attributor(folder)({"text": [long + "bad film", "bad"]})
    assert rows["truncated"] == [True, False]
    assert rows["globenc"][0] == pytest.approx(alone("globenc", long.strip())[0], abs=1e-5)
    assert rows["words"][0] == ["good"] * (LIMIT - 2)


def test_tokens_that_the_model_has_no_embedding_for_are_an_error(folder):
    model, tokenizer, _ = load_classifier(folder)
    model.resize_token_embeddings(tokenizer.convert_tokens_to_ids("great"))
    rows = Attributor(model, tokenizer)({"text": ["bad", "great"]})
    assert rows["error"][0] == ""
    assert rows["error"][1].startswith("token id")


@pytest.fixture
def decoder(tmp_path):
    """A decoder, and its tokenizer, which has padding, and no other special token that is in a text."""
    save_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.mask_token = None
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1")
    torch.manual_seed(0)
    shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": LIMIT, "initializer_range": 0.6}
    config = GPT2Config(vocab_size=len(VOCABULARY), pad_token_id=tokenizer.pad_token_id, **shape)
    return GPT2ForSequenceClassification(config).eval(), tokenizer


@pytest.mark.parametrize("method", ["transformer-deep-lift", "integrated-gradients"])
def test_a_decoder_has_the_baseline_of_explain(method, decoder):
    rows = Attributor(*decoder, method)({"text": TEXTS[:4]})
    assert rows["error"] == [""] * 4
    for scores, explanation in zip(rows[method], explain(TEXTS[:4], *decoder, methods=[method]), strict=True):
        assert scores == pytest.approx(explanation.scores[method], abs=1e-4)


def test_a_model_that_a_method_does_not_support_is_rejected_at_once(decoder):
    for method in ("globenc", "decompx"):
        with pytest.raises(ValueError, match="No supported encoder found"):
            Attributor(*decoder, method)({"text": TEXTS[:2]})


def test_an_operation_is_checked_once(folder):
    model, tokenizer, _ = load_classifier(folder)
    attribute, passes = Attributor(model, tokenizer, "transformer-deep-lift"), []
    model.register_forward_hook(lambda *_: passes.append(1))
    for _ in range(3):
        attribute({"text": TEXTS[:2]})
        passes.append(0)
    first, second, third = "".join(map(str, passes)).split("0")[:3]
    # A plain run at the inputs and one at the baselines.
    assert len(first) - 2 == len(second) == len(third)


@pytest.mark.parametrize("target", ["negative", "1", 1])
def test_the_target_is_explained(target, folder, alone):
    rows = Attributor(folder, methods="decompx", target=target)({"text": TEXTS[:3]})
    number = 0 if target == "negative" else 1
    assert rows["explained"] == [["NEGATIVE", "POSITIVE"][number]] * 3
    for text, scores in zip(TEXTS, rows["decompx"], strict=False):
        assert scores == pytest.approx(alone("decompx", text, target=number)[0], abs=1e-5)


@pytest.mark.parametrize("position", [-1, 1, "mean"])
def test_globenc_explains_the_given_position(position, folder, classifier):
    rows = Attributor(folder, position=position)({"text": TEXTS[:5]})
    method = GlobEnc(EncoderForward(classifier.model))
    for text, scores in zip(TEXTS, rows["globenc"], strict=False):
        ids = classifier.tokenizer(text, return_tensors="pt")["input_ids"]
        where = ids.shape[1] - 1 if position == -1 else position
        assert scores == pytest.approx(method.attribute(ids, position=where)[0].tolist(), abs=1e-5)


def test_rows_of_another_form_are_rejected(folder):
    attribute = Attributor(folder)
    with pytest.raises(TypeError, match="the batch is one row: pass several rows"):
        attribute({"text": "good"})
    with pytest.raises(TypeError, match="the batch is a list: pass a dict of columns"):
        attribute([{"text": "good"}])
    with pytest.raises(ValueError, match="there are 1 pairs for 2 texts"):
        attribute({"text": ["good", "bad"], "pair": ["a"]})


def test_numbers_of_numpy_are_those_of_python(folder):
    rows, number = {"text": ["a good film", "bad"]}, np.int64
    expected = Attributor(folder, position=-1, target=0)(rows)
    assert Attributor(folder, position=number(-1), target=number(0))(rows) == expected


def test_a_position_outside_of_a_text_is_an_error_of_its_row(folder):
    rows = Attributor(folder, position=4)({"text": ["a good film", "bad"]})
    assert rows["error"] == ["", "position 4 is out of range: the text has 3 tokens"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": []}, "methods is (): a list of one or more of globenc"),
        ({"methods": ["globenc", "magic"]}, "no method magic; known: globenc"),
        ({"position": 1.5}, "position is 1.5"),
        ({"windows": -1}, "windows is -1"),
        ({"windows": 2, "position": 3}, "windows have no position in common"),
        ({"batch_tokens": 0}, "batch_tokens is 0"),
        ({"tokenizer": object()}, "pass a tokenizer with a model object, and none with the name of a model"),
    ],
)
def test_options_are_checked_before_anything_is_loaded(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Attributor("no/such/model", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "sideways"}, "target 'sideways' is not a class of the model: NEGATIVE, POSITIVE"),
        ({"windows": 22}, "windows is 22, but a window has 22 tokens of a text"),
    ],
)
def test_unsupported_options_are_reported_before_the_first_row(options, message, folder):
    with pytest.raises(ValueError, match=re.escape(message)):
        Attributor(folder, **options).check()


def test_a_model_in_training_mode_is_rejected(folder):
    model, tokenizer, _ = load_classifier(folder)
    model.train()
    with pytest.raises(ValueError, match="training mode"):
        Attributor(model, tokenizer).check()


def test_a_regression_of_several_values_needs_a_target(tmp_path):
    folder = str(save_classifier(tmp_path / "model", problem_type="regression"))
    with pytest.raises(ValueError, match="the model gives 2 values: choose one with target, of NEGATIVE"):
        Attributor(folder).check()
    assert Attributor(folder, target="POSITIVE")({"text": ["good"]})["explained"] == ["POSITIVE"]


def test_a_missing_model_is_reported():
    with pytest.raises(LoadingError, match="cannot load no/such/model"):
        Attributor("no/such/model").check()


def test_a_missing_column_is_reported(folder):
    with pytest.raises(KeyError, match="no column 'text'"):
        Attributor(folder)({"review": ["good"]})


def test_dataset_map_gives_the_same_columns(folder):
    attribute = Attributor(folder, methods=["globenc", "transformer-deep-lift"])
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    data = datasets.Dataset.from_dict({"text": TEXTS, "label": [0, 1] * 12}, features)
    mapped = data.map(attribute, batched=True, batch_size=10)
    expected = attribute({"text": TEXTS})
    assert mapped.features["label"] == features["label"]
    assert mapped["prediction"][:] == expected["prediction"]
    assert mapped["words"][:] == expected["words"]
    for name in ("globenc", "transformer-deep-lift"):
        for one, other in zip(mapped[name][:], expected[name], strict=True):
            assert one == pytest.approx(other, abs=1e-5)


def test_caches_depend_on_settings_and_weights(tmp_path):
    folder = str(save_classifier(tmp_path / "model"))
    before = Hasher.hash(Attributor(folder))
    assert Hasher.hash(Attributor(folder)) == before
    assert Hasher.hash(Attributor(folder, methods="decompx")) != before
    save_classifier(tmp_path / "model", initializer_range=0.5)
    assert Hasher.hash(Attributor(folder)) != before


def test_a_model_loaded_by_name_is_loaded_again_after_unpickling(folder):
    attribute = Attributor(folder)
    state = pickle.dumps(attribute)
    assert len(state) < 2000
    assert pickle.loads(state)({"text": TEXTS[:2]}) == attribute({"text": TEXTS[:2]})


def test_a_model_object_is_pickled(classifier):
    attribute = Attributor(classifier.model, classifier.tokenizer)
    assert pickle.loads(pickle.dumps(attribute))({"text": TEXTS[:2]}) == attribute({"text": TEXTS[:2]})


@pytest.mark.parametrize("kind", ["arrow", "numpy"])
def test_tables_and_arrays_return_tables(kind, folder):
    attribute = Attributor(folder)
    columns = {"text": [*TEXTS[:3], None], "label": [1, 0, 1, 0]}
    batch = (
        pa.table(columns)
        if kind == "arrow"
        else {"text": np.array(columns["text"], dtype=object), "label": np.array(columns["label"])}
    )
    table = attribute(batch)
    expected = attribute(columns)
    assert isinstance(table, pa.Table)
    assert table["label"].to_pylist() == expected["label"]
    assert table["word_ids"].to_pylist() == expected["word_ids"]
    assert table.schema.field("globenc").type == pa.list_(pa.float32())
    for one, other in zip(table["globenc"].to_pylist(), expected["globenc"], strict=True):
        assert one == pytest.approx(other, abs=1e-7)


def test_every_word_of_the_vocabulary_is_a_word(folder):
    rows = Attributor(folder)({"text": LEXICON})
    assert [words[0] for words in rows["words"]] == LEXICON


def test_the_guide_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    blocks = [it for it in python_blocks(ROOT / "docs/datasets.md") if "import ray" not in it]
    names = {}
    exec(blocks[0], names)
    reviews = write_rows(
        tmp_path / "reviews.jsonl", {"text": ["A wonderful film.", "Dull, and far too long."]}
    )
    attribute_files(names["attribute"], reviews, "attributions")
    for block in blocks[1:]:
        exec(block, names)
    for rows in (names["explained"], names["loaded"]):
        assert names["rows"]["prediction"] == rows["prediction"][:] == ["POSITIVE", "NEGATIVE"]
        for name in ("globenc", "transformer-deep-lift"):
            assert rows[name][0] == pytest.approx(names["rows"][name][0], abs=1e-6)


@pytest.mark.parametrize("kind", ["lists", "arrow", "numpy"])
def test_an_empty_batch_has_the_same_columns(kind, folder):
    batches = {
        "lists": {"text": []},
        "arrow": pa.table({"text": pa.array([], pa.string())}),
        "numpy": {"text": np.array([], dtype=object)},
    }
    attribute = Attributor(folder)
    rows = attribute(batches[kind])
    names = rows.column_names if kind != "lists" else list(rows)
    assert names == list(attribute({"text": ["good"]}))
    assert len(rows["globenc"]) == 0


def test_both_names_of_second_segments_are_read(folder):
    attributor = Attributor(folder)
    one, other = (attributor({"text": ["good"], name: ["a film"]}) for name in ("pair", "text_pair"))
    assert one["tokens"] == other["tokens"]
    assert "film" in one["tokens"][0]


def test_every_other_method_gives_the_scores_of_explain(folder):
    names = [name for name in METHODS if name not in (*MAIN_METHODS, "random", "gradient-shap", "lime")]
    found = Attributor(folder, methods=names)({"text": ["the plot is bad"]})
    (expected,) = explain(["the plot is bad"], *load_classifier(folder)[:2], methods=names)
    assert found["error"] == [""]
    for name in names:
        assert found[name][0] == pytest.approx(expected.scores[name], abs=1e-5), name
