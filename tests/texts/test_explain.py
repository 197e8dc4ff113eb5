import json

import numpy
import pytest
import torch
import transformers
from tokenizers import processors
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertModel,
    T5Config,
    T5ForSequenceClassification,
    pipeline,
)

from captum_globenc import EncoderForward, GlobEnc
from captum_globenc.decomposition.mixing import MIXINGS
from captum_globenc.texts import Explanation, explain, load_classifier
from captum_globenc.texts.tokenizing import token_limit
from checkpoints import LIMIT, save_classifier
from vocabularies import byte_level

TEXTS = ["the plot is bad", "unhappy but not bad , great script !", "good"]


@pytest.fixture
def classifier(folder):
    return load(folder)


def load(folder):
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    return model.double(), AutoTokenizer.from_pretrained(folder)


def alone(text, model, tokenizer, mixing="N-Enc", **options):
    """GlobEnc for one text, through Captum's interface."""
    inputs, extra = EncoderForward(model).arguments(tokenizer(text, return_tensors="pt"))
    method = GlobEnc(EncoderForward(model), mixing=mixing)
    return method.attribute(inputs, additional_forward_args=extra, **options)[0].tolist()


def test_a_batch_scores_every_text_as_it_does_alone(classifier):
    model, tokenizer = classifier
    explanations = explain(TEXTS, model, tokenizer)
    assert [explanation.text for explanation in explanations] == TEXTS
    for explanation in explanations:
        assert explanation.scores["globenc"] == pytest.approx(alone(explanation.text, *classifier), rel=1e-9)
        assert sum(explanation.scores["globenc"]) == pytest.approx(1)
        assert explanation.tokens == tokenizer.tokenize(explanation.text, add_special_tokens=True)


def test_the_prediction_is_the_models(classifier):
    model, tokenizer = classifier
    for explanation in explain(TEXTS, model, tokenizer):
        logits = model(**tokenizer(explanation.text, return_tensors="pt")).logits[0]
        best = int(logits.argmax())
        assert explanation.prediction == ("NEGATIVE", "POSITIVE")[best]
        assert explanation.probability == pytest.approx(logits.softmax(-1)[best].item(), rel=1e-5)
        assert explanation.headline == f"{explanation.prediction} ({explanation.probability:.1%})"


@pytest.mark.parametrize("pair", [None, "A 😀 Script", ["Zebra", "BAD plot"]])
def test_words_are_spelled_as_in_the_texts(pair, classifier):
    texts = ["The  PLOT is 😀", "Unhappy, but"]
    pairs = ["", ""] if pair is None else [pair] * 2 if isinstance(pair, str) else pair
    for explanation, *sources in zip(explain(texts, *classifier, pair=pair), texts, pairs, strict=True):
        words = [word.text for word in explanation.groups if not word.special]
        assert "".join(words) == "".join(" ".join(sources).split())


@pytest.mark.parametrize("mixing", MIXINGS)
def test_every_mixing_is_passed_on(classifier, mixing):
    (explanation,) = explain(TEXTS[:1], *classifier, mixing=mixing)
    assert explanation.scores["globenc"] == pytest.approx(alone(TEXTS[0], *classifier, mixing=mixing))


def test_layers_end_in_the_scores(classifier):
    for explanation in explain(TEXTS, *classifier, layers=True):
        assert list(explanation.layers) == ["globenc", "transformer-deep-lift"]
        layers, scores = explanation.layers["globenc"], explanation.scores["globenc"]
        assert [len(row) for row in layers] == [len(explanation.tokens)] * 2
        assert layers[-1] == scores
        assert explanation.scores["globenc"] == pytest.approx(alone(explanation.text, *classifier), rel=1e-9)
        assert layers[0] != pytest.approx(scores, rel=1e-3)


@pytest.mark.parametrize("position", [0, 2, -1, -3, "mean"])
def test_a_position_counts_within_every_text(classifier, position):
    for explanation in explain(TEXTS, *classifier, position=position):
        own = position + len(explanation.tokens) if position in (-1, -3) else position
        expected = alone(explanation.text, *classifier, position=own)
        assert explanation.scores["globenc"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("position", [3, -4])
def test_a_position_outside_of_one_text_is_rejected(classifier, position):
    with pytest.raises(ValueError, match=f"position {position} is out of range: 'good' has 3 tokens, 0 to 2"):
        explain(TEXTS, *classifier, position=position)


def test_a_pair_is_a_second_segment_of_every_text(classifier):
    model, tokenizer = classifier
    for explanation in explain(TEXTS, model, tokenizer, pair="great film"):
        assert explanation.tokens[-4:] == ["[SEP]", "great", "film", "[SEP]"]
        inputs, extra = EncoderForward(model).arguments(
            tokenizer(explanation.text, "great film", return_tensors="pt")
        )
        expected = GlobEnc(EncoderForward(model)).attribute(inputs, additional_forward_args=extra)[0]
        assert explanation.scores["globenc"] == pytest.approx(expected.tolist(), rel=1e-9)


@pytest.mark.parametrize(
    ("config", "headline"),
    [
        ({"num_labels": 1, "id2label": {0: "STARS"}, "label2id": {"STARS": 0}}, "STARS = {value:.4g}"),
        ({"problem_type": "regression"}, "{label} = {value:.4g}"),
    ],
)
def test_a_regression_model_has_a_value_and_no_probability(tmp_path, config, headline):
    model, tokenizer = load(save_classifier(tmp_path, **config))
    (explanation,) = explain(TEXTS[:1], model, tokenizer, methods=["integrated-gradients"])
    assert explanation.probability is None
    logits = model(**tokenizer(TEXTS[0], return_tensors="pt")).logits[0]
    assert explanation.value == pytest.approx(logits.max().item(), rel=1e-5)
    assert explanation.headline == headline.format(value=explanation.value, label=explanation.prediction)


def test_a_multi_label_model_has_independent_probabilities(tmp_path):
    model, tokenizer = load(save_classifier(tmp_path, problem_type="multi_label_classification"))
    (explanation,) = explain(TEXTS[:1], model, tokenizer)
    assert explanation.probability == pytest.approx(torch.tensor(explanation.value).sigmoid().item())


def test_a_long_text_is_truncated_with_a_warning_that_names_windows(classifier, recwarn):
    with pytest.warns(UserWarning, match=rf"truncated at {LIMIT} tokens.*windows=16") as warned:
        long, short = explain(["bad " * 60, "good"], *classifier)
    assert [it.filename for it in warned] == [__file__]  # where explain was called
    told = []
    explain(["bad " * 60] * 2, *classifier, tell=told.append)
    assert told == [str(warned[0].message)]
    assert explain(["bad " * 60], *classifier, windows=4)[0].truncated is False
    assert not recwarn.list
    assert long.headline.endswith("%), text truncated")
    assert "text truncated" not in short.headline
    assert (long.truncated, len(long.tokens), long.tokens[-1]) == (True, LIMIT, "[SEP]")
    assert not short.truncated


def test_a_text_of_exactly_the_limit_is_whole(classifier):
    (explanation,) = explain(["bad " * (LIMIT - 2)], *classifier)
    assert (explanation.truncated, len(explanation.tokens)) == (False, LIMIT)


def test_the_lowest_limit_counts(classifier):
    model, tokenizer = classifier
    assert token_limit(model, tokenizer) == LIMIT
    tokenizer.model_max_length = 10
    assert token_limit(model, tokenizer) == 10


def test_relative_positions_have_no_limit(classifier):
    config = T5Config(vocab_size=9, d_model=8, d_kv=8, d_ff=8, num_layers=1, num_heads=1)
    assert token_limit(T5ForSequenceClassification(config), classifier[1]) is None


def test_positions_that_start_after_the_padding_row_leave_less_room(classifier):
    model, tokenizer = classifier
    model.bert.embeddings.position_embeddings.padding_idx = 1
    assert token_limit(model, tokenizer) == LIMIT - 2


def test_no_texts_have_no_explanations(classifier):
    assert list(explain([], *classifier)) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixing": "N-Nothing"}, "N-Nothing"),
        (
            {"methods": ["gradients"]},
            "no method gradients; known: globenc, transformer-deep-lift, ",
        ),
        ({"methods": []}, "a list of one or more of globenc"),
        ({"methods": "globenc"}, "a list of one or more of globenc"),
        ({"baseline": "blank"}, "no baseline blank; known: mask, mean, pad, zero"),
        ({"target": "POSTIVE"}, "target 'POSTIVE' is not a class of the model: NEGATIVE, POSITIVE"),
        ({"target": 2}, "target 2 is not a class of the model: NEGATIVE, POSITIVE"),
        ({"against": "x"}, "against 'x' is not a class of the model: NEGATIVE, POSITIVE"),
        ({"target": "positive", "against": "Positive"}, "Positive is contrasted with itself"),
        ({"target": 1, "against": "POSITIVE"}, "POSITIVE is contrasted with itself"),
    ],
)
def test_names_that_are_not_known_are_rejected(classifier, options, message):
    with pytest.raises(ValueError, match=message):
        explain(TEXTS, *classifier, **options)


def test_a_model_without_a_task_is_rejected(folder, classifier):
    with pytest.raises(ValueError, match="BertModel returned no tensor 'logits'"):
        explain(TEXTS[:1], BertModel.from_pretrained(folder), classifier[1])
    with pytest.raises(ValueError, match="the attention of this BertLMHeadModel is not causal"):
        explain(TEXTS[:1], AutoModelForCausalLM.from_pretrained(folder), classifier[1])


def test_an_output_that_is_not_finite_is_rejected(classifier):
    model, tokenizer = classifier
    nn.init.constant_(model.classifier.bias, torch.nan)
    with pytest.raises(ValueError, match="NaN or infinite"):
        explain(TEXTS, model, tokenizer)


def test_fields_that_were_not_computed_are_not_in_the_json(classifier):
    (explanation,) = explain(TEXTS[:1], *classifier)
    always = [
        "format", "text", "prediction", "probability", "value", "probabilities", "target", "against",
        "explained", "position", "tokens", "scores", "sums", "kinds", "groups", "offsets", "model",
        "settings", "versions", "truncated", "ids",
    ]  # fmt: skip
    assert list(json.loads(json.dumps(explanation.to_dict()))) == always


def test_each_text_has_a_pair_of_its_own(folder):
    model, tokenizer, _ = load_classifier(folder)
    texts, pairs = ["a good film", "the plot", "a"], ["bad", "good script is bad", "b"]
    together = explain(texts, model, tokenizer, pair=pairs)
    for text, pair, found in zip(texts, pairs, together, strict=True):
        (alone,) = explain([text], model, tokenizer, pair=pair)
        assert found.pair == pair
        assert found.tokens == alone.tokens
        assert found.prediction == alone.prediction
        assert found.scores["globenc"] == pytest.approx(alone.scores["globenc"], abs=1e-6)


@pytest.mark.parametrize(
    ("texts", "pair", "error", "message"),
    [
        ("Dull.", None, TypeError, r"texts is one string: pass a list of texts, \['Dull.'\]"),
        (["a", "b"], ["c"], ValueError, "1 pairs for 2 texts"),
        (["a", "b"], ["c", None], ValueError, "1 of 2 texts have a pair"),
    ],
)
def test_mismatched_texts_and_pairs_are_reported(folder, texts, pair, error, message):
    model, tokenizer, _ = load_classifier(folder)
    with pytest.raises(error, match=message):
        explain(texts, model, tokenizer, pair=pair)


@pytest.mark.parametrize("pair", [None, "A 😀 Script, unhappy"])
def test_offsets_locate_each_token(classifier, pair):
    texts = ["The  PLOT is 😀 unhappy .", "Bad"]
    for explanation in explain(texts, *classifier, pair=pair):
        assert len(explanation.offsets) == len(explanation.tokens)
        for token, place in zip(explanation.tokens, explanation.offsets, strict=True):
            assert (place is None) == (token in ("[CLS]", "[SEP]"))
            if place is not None:
                read = explanation.sources[place.segment][place.start : place.stop]
                assert token == "[UNK]" or read.lower() == token.removeprefix("##")
        given = {place.segment for place in explanation.offsets if place}
        assert given == ({0} if pair is None else {0, 1})


def test_an_explanation_records_model_settings_and_versions(classifier, folder):
    (explanation,) = explain(TEXTS[:1], *classifier, mixing="N", baseline="pad", position=1)
    assert explanation.model == {"name": folder, "class": "BertForSequenceClassification"}
    assert explanation.settings == {"mixing": "N", "baseline": "pad"}
    assert explanation.versions["torch"] == torch.__version__
    assert explanation.versions["transformers"] == transformers.__version__
    assert set(explanation.versions) == {"captum_globenc", "captum", "torch", "transformers"}
    assert explanation.position == 1


def test_a_pipeline_is_explained_as_its_model_and_tokenizer_are(classifier, folder):
    model, tokenizer = classifier
    pipe = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    found, expected = explain(TEXTS, pipe), explain(TEXTS, model, tokenizer)
    assert found == expected
    assert [it.prediction for it in found] == [answer["label"] for answer in pipe(TEXTS)]
    assert [it.probability for it in found] == pytest.approx([it["score"] for it in pipe(TEXTS)], rel=1e-6)
    with pytest.raises(TypeError, match="a pipeline has a tokenizer of its own"):
        explain(TEXTS, pipe, AutoTokenizer.from_pretrained(folder))


def test_an_object_that_is_no_model_is_reported(classifier, folder):
    with pytest.raises(TypeError, match=r"no tokenizer: pass explain\(texts, model, tokenizer\)"):
        explain(TEXTS, classifier[0])
    with pytest.raises(TypeError, match="model is a str: pass a model and its tokenizer, or a"):
        explain(TEXTS, folder)


def test_texts_come_from_whatever_holds_strings(classifier):
    pandas = pytest.importorskip("pandas")
    expected = explain(TEXTS, *classifier, methods=["globenc"])
    column = pandas.Series(TEXTS, index=[7, 3, 5])
    for texts in (column, column.to_numpy(), tuple(TEXTS), (text for text in TEXTS)):
        assert explain(texts, *classifier, methods=["globenc"]) == expected
    for texts, entry in (
        (["good", None], "None"),
        (pandas.Series(["good", 1.5]), r"1.5 \(float\)"),
        (pandas.Series(["good", None], dtype="string"), "<NA>"),
        (["good", numpy.array(["a", "b"])], r"array\(.*\) \(ndarray\)"),
        (["good", torch.ones(2)], r"tensor\(.*\) \(Tensor\)"),
    ):
        with pytest.raises(TypeError, match=rf"texts\[1\] is {entry}, not a string"):
            explain(texts, *classifier)
    with pytest.raises(TypeError, match=r"pair\[1\] is nan, not a string"):
        explain(TEXTS[:2], *classifier, pair=pandas.Series(["good", float("nan")]))
    with pytest.raises(TypeError, match=r"pair is a DataFrame: pass a list of texts.*pair\['a'\]"):
        explain(TEXTS[:2], *classifier, pair=pandas.DataFrame({"a": ["x", "y"], "b": ["x", "y"]}))
    pairs = explain(numpy.array([["good", "bad"], ["a", "b"]]), *classifier, methods=["globenc"])
    assert pairs == explain([("good", "bad"), ("a", "b")], *classifier, methods=["globenc"])


@pytest.mark.parametrize("number", [numpy.int64, torch.tensor, numpy.array])
def test_numbers_of_numpy_and_torch_are_those_of_python(classifier, number):
    for name in ("position", "target", "windows"):
        for value in (0, 1, -1):
            if name == "position" or value >= 0:
                found = explain(TEXTS, *classifier, **{name: number(value)})
                assert found == explain(TEXTS, *classifier, **{name: value})
                assert Explanation.from_dict(json.loads(json.dumps(found[0].to_dict()))) == found[0]
    expected = explain(TEXTS[:1], *classifier, target=[0, 1])
    for several in (numpy.array([0, 1]), torch.tensor([0, 1]), [number(0), number(1)]):
        assert explain(TEXTS[:1], *classifier, target=several) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"position": [0, 1, 2]}, r"position is \(0, 1, 2\): pass an integer, 'mean' or None"),
        ({"position": True}, "position is True: pass an integer"),
        ({"target": numpy.bool_(True)}, "target is True: pass the name or index of a class"),
        ({"target": 1.0}, "target is 1.0: pass the name or index of a class"),
        ({"threshold": "0.5"}, "threshold is '0.5': pass a probability"),
        ({"methods": 3}, "methods is 3: a list of one or more"),
        ({"mixing": ["N-Enc"]}, r"no mixing \['N-Enc'\]; known"),
    ],
)
def test_options_of_other_types_are_rejected(classifier, options, message):
    with pytest.raises(ValueError, match=message):
        explain(TEXTS, *classifier, **options)


def test_a_text_without_tokens_is_reported(classifier):
    model, _ = classifier
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel()
    for texts in (["the", ""], [""]):
        with pytest.raises(ValueError, match="'' has no tokens: there is nothing to explain"):
            explain(texts, model, tokenizer)
