"""Evaluations of single-label, multi-label and regression models; targets and positions."""

import json
import math

import numpy
import pytest
import torch
from captum.attr import FeatureAblation
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    T5Config,
    T5ForSequenceClassification,
)

from captum_globenc import EncoderForward, GlobEnc
from captum_globenc.evaluation import METHODS, METRICS, Example, evaluate, read_examples
from captum_globenc.evaluation.data import classes_of
from captum_globenc.texts import load_classifier
from captum_globenc.texts.classes import MULTI, SINGLE, VALUE, class_of
from checkpoints import VOCABULARY, save_classifier
from families import BART, T5

TEXTS = ["the plot is bad", "unhappy but not bad , great script !", "a great film but the script is good ."]
NAMES = ["bad", "good", "red"]
FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.5)
ACTIVATIONS = {
    SINGLE: lambda logits: logits.exp() / logits.exp().sum(),
    MULTI: lambda logits: 1 / (1 + (-logits).exp()),
    VALUE: lambda logits: logits,
}


def loaded(folder, problem, names=NAMES):
    save_classifier(
        folder,
        problem_type=problem,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )
    return load_classifier(str(folder))[:2]


def outputs(model, tokenizer, text, gone=()):
    """The model's output for one text, (C,), with some tokens masked."""
    batch = tokenizer(text, return_tensors="pt")
    batch["input_ids"][0, list(gone)] = tokenizer.mask_token_id
    with torch.no_grad():
        return model(**batch).logits[0]


def removed(model, tokenizer, text, scores):
    """The model's output without the top tokens, for each fraction."""
    places = range(1, len(tokenizer(text)["input_ids"]) - 1)
    ranked = sorted(places, key=lambda place: -scores[place])
    return [
        outputs(model, tokenizer, text, ranked[: math.ceil(fraction * len(ranked))]) for fraction in FRACTIONS
    ]


def comprehensiveness(model, tokenizer, text, scores, of):
    """By its definition; `of` makes a number of logits."""
    lost = [
        of(outputs(model, tokenizer, text)) - of(some) for some in removed(model, tokenizer, text, scores)
    ]
    return float(sum(lost) / len(lost))


def ablated(model, tokenizer, text, target):
    forward = EncoderForward(model)
    ids, extra = forward.arguments(tokenizer(text, return_tensors="pt"))
    blank = ids.clone()
    blank[:, 1:-1] = tokenizer.mask_token_id
    attributed = FeatureAblation(forward).attribute(
        ids, baselines=blank, target=target, additional_forward_args=extra
    )
    return attributed[0].tolist()


@pytest.mark.parametrize("target", [None, 0, "RED"])
@pytest.mark.parametrize("problem", [SINGLE, MULTI, VALUE])
def test_the_target_is_explained_and_measured(tmp_path, problem, target):
    model, tokenizer = loaded(tmp_path, problem)
    examples = [Example(number, text) for number, text in enumerate(TEXTS)]
    options = {"methods": ["feature-ablation"], "metrics": ["comprehensiveness"], "target": target}
    if problem == VALUE and target is None:
        with pytest.raises(ValueError, match="gives 3 values: choose one with target, of bad, good, red"):
            evaluate(model, tokenizer, examples, **options)
        return
    rows = evaluate(model, tokenizer, examples, **options).rows
    for row, text in zip(rows, TEXTS, strict=True):
        logits = outputs(model, tokenizer, text)
        highest = int(logits.argmax())
        explained = {None: highest, 0: 0, "RED": 2}[target]
        expected = comprehensiveness(
            model,
            tokenizer,
            text,
            ablated(model, tokenizer, text, explained),
            lambda logits, explained=explained: ACTIVATIONS[problem](logits)[explained],
        )
        assert row["comprehensiveness"] == pytest.approx(expected, abs=1e-5)
        if problem == VALUE:
            assert float(row["prediction"]) == pytest.approx(logits[explained].item(), abs=1e-5)
        else:
            assert row["prediction"] == NAMES[highest]


@pytest.mark.parametrize("target", ["blue", 3, -1])
def test_an_unknown_class_is_rejected_at_once(tmp_path, target):
    with pytest.raises(ValueError, match=f"target {target!r} is not a class of the model: bad, good, red"):
        evaluate(*loaded(tmp_path, SINGLE), [Example(0, TEXTS[0])], target=target, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_method_and_metric_takes_a_regression(tmp_path):
    model, tokenizer = loaded(tmp_path / "model", None, ["stars"])
    examples = [
        Example(number, text, label)
        for number, text, label in zip(range(3), TEXTS, (4.5, "2", None), strict=True)
    ]
    out = tmp_path / "out"
    evaluation = evaluate(model, tokenizer, examples, methods=list(METHODS), metrics=list(METRICS), out=out)
    for row in evaluation.rows:
        marks = {name for name in METRICS if name.startswith(("marked-", "decoy-"))}  # of texts without any
        assert {name for name in METRICS if math.isnan(row[name])} == {"accuracy", "log-odds"} | marks
        value = outputs(model, tokenizer, TEXTS[row["example"]]).item()
        assert float(row["prediction"]) == pytest.approx(value, abs=1e-5)
        assert row["label"] == ("4.5", "2", "")[row["example"]]
    summary = json.loads((out / "summary.json").read_text())["summary"]["globenc"]
    assert summary["accuracy"]["texts"] == 0
    # It is taken up as it was, its values too.
    again = evaluate(model, tokenizer, examples, methods=list(METHODS), metrics=list(METRICS), out=out)
    assert [row["prediction"] for row in again.rows] == [row["prediction"] for row in evaluation.rows]


@pytest.mark.parametrize("target", [None, "bad", "good", "red"])
@pytest.mark.parametrize("labels", [None, [], ["red"], ["bad", "good"]])
def test_multi_label_accuracy_compares_the_explained_label(tmp_path, labels, target):
    model, tokenizer = loaded(tmp_path, MULTI)
    examples = [Example(number, text, labels) for number, text in enumerate(TEXTS)]
    rows = evaluate(
        model, tokenizer, examples, methods=["feature-ablation"], metrics=["accuracy"], target=target
    ).rows
    for row, text in zip(rows, TEXTS, strict=True):
        assert row["label"] == ", ".join(labels or [])
        logits = outputs(model, tokenizer, text)
        explained = int(logits.argmax()) if target is None else NAMES.index(target)
        holds = bool(logits[explained] > 0) if labels is None else NAMES[explained] in labels
        without = removed(model, tokenizer, text, ablated(model, tokenizer, text, explained))
        right = [bool(some[explained] > 0) == holds for some in without]
        assert row["accuracy"] == pytest.approx(sum(right) / len(right))


def test_accuracy_is_of_the_label_whatever_class_is_explained(tmp_path):
    model, tokenizer = loaded(tmp_path, SINGLE)
    for label in NAMES:
        (row,) = evaluate(
            model,
            tokenizer,
            [Example(0, TEXTS[1], [label])],
            methods=["feature-ablation"],
            metrics=["accuracy"],
            target="good",
        ).rows
        without = removed(model, tokenizer, TEXTS[1], ablated(model, tokenizer, TEXTS[1], 1))
        right = [NAMES[int(some.argmax())] == label for some in without]
        assert row["accuracy"] == pytest.approx(sum(right) / len(right))


@pytest.mark.parametrize(
    ("label", "names", "expected"),
    [
        ("1", ("1", "2"), 0),
        (1, ("1", "0"), 0),
        ("1", ("bad", "good"), 1),
        ("GOOD", ("bad", "good"), 1),
        (True, ("bad", "good"), 1),
        ("0", ("1", "2"), None),
        (True, ("bad", "good", "red"), None),
        (1.5, ("bad", "good"), None),
    ],
)
def test_labels_are_names_first(label, names, expected):
    if expected is None:
        with pytest.raises(ValueError, match="is not a class of the model"):
            class_of(label, names)
    else:
        assert class_of(label, names) == expected


@pytest.mark.parametrize("single", [None, "good", 1, "1", ["good"], [1]])
@pytest.mark.parametrize("problem", [SINGLE, MULTI])
def test_one_label_is_taken_as_it_is_and_as_a_list(problem, single):
    assert classes_of(single, NAMES, problem) == (None if single is None else (1,))


@pytest.mark.parametrize(
    ("problem", "label", "message"),
    [
        (MULTI, [0, 1, 0], "is ambiguous, one-hot or class indices: list the names of the classes instead"),
        (MULTI, [0.0, 1.0, 0.0], "one-hot"),
        (MULTI, ["0", "1", "1"], "one-hot"),
        (MULTI, [True, False, False], "one-hot"),
        (MULTI, [1, 0, 0, 0, 1], "one-hot"),
        (SINGLE, [0, 1, 0], "one-hot"),
        (MULTI, ["red", "red"], "names a class twice"),
        (MULTI, ["red", "blue"], "'blue' is not a class of the model"),
        (SINGLE, ["red", "bad"], "2 classes, but the model is single-label"),
        (SINGLE, [], "0 classes"),
        (VALUE, "good", "not a number, and the model is a regression"),
        (VALUE, [1.0], "is not a number"),
    ],
)
def test_labels_that_do_not_fit_the_problem_are_rejected(problem, label, message):
    with pytest.raises(ValueError, match=message):
        classes_of(label, NAMES, problem)


def test_indices_are_told_from_one_hot_rows():
    assert classes_of([0, 1], NAMES, MULTI) == (0, 1)
    assert classes_of([2, 0, 1], NAMES, MULTI) == (2, 0, 1)
    assert classes_of(["0", "1"], ["0", "1"], MULTI) == (0, 1)


def test_a_number_that_is_no_index_is_rejected_as_a_label():
    assert classes_of("1.0", ["bad", "good"], "single_label_classification") == (1,)
    with pytest.raises(ValueError, match="'01' is not a class of the model: bad, good"):
        classes_of("01", ["bad", "good"], "single_label_classification")


@pytest.mark.parametrize("written", ["True,False", "true,false", "TRUE,FALSE"])
def test_true_and_false_are_classes(tmp_path, folder, written):
    yes, no = written.split(",")
    (tmp_path / "a.csv").write_text(f"text,label\na good film,{yes}\na bad film,{no}\n")
    model, tokenizer, _ = load_classifier(folder)
    evaluation = evaluate(
        model, tokenizer, read_examples(tmp_path / "a.csv"), methods=["random"], metrics=["accuracy"]
    )
    assert [row["label"] for row in evaluation.rows] == ["POSITIVE", "NEGATIVE"]


def test_an_unknown_label_is_reported_with_its_line(tmp_path, folder):
    (tmp_path / "a.csv").write_text("text,label\na film,POSITIVE\na plot,MIXED\n")
    model, tokenizer, _ = load_classifier(folder)
    examples = read_examples(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="line 3: label 'MIXED' is not a class of the model"):
        evaluate(model, tokenizer, examples, methods=["random"], metrics=["accuracy"])


@pytest.mark.parametrize("method", ["globenc", "integrated-gradients", "feature-ablation"])
def test_the_second_segment_is_evaluated_too(folder, method):
    """As the tokenizer itself lays the pair out, and not as the first segment alone."""
    model, tokenizer, _ = load_classifier(folder)
    metrics = ["comprehensiveness", "sufficiency"]
    alone = [Example(0, "a good film", None), Example(1, "the plot is bad", None)]
    pairs = [Example(0, "a good film", None, "bad script"), Example(1, "the plot is bad", None, "good b")]
    rows = [
        evaluate(model, tokenizer, examples, methods=[method], metrics=metrics).rows
        for examples in (alone, pairs)
    ]
    encoded = tokenizer("a good film", "bad script", return_tensors="pt")
    predicted = model.config.id2label[int(model(**encoded).logits.argmax())]
    assert rows[1][0]["prediction"] == predicted
    for metric in metrics:
        assert abs(rows[0][0][metric] - rows[1][0][metric]) > 1e-6
    with pytest.raises(ValueError, match="some texts have a second segment and others none"):
        evaluate(model, tokenizer, [alone[0], pairs[1]], methods=[method], metrics=metrics)


EOS = VOCABULARY["[SEP]"]
SIZES = {"vocab_size": len(VOCABULARY), "pad_token_id": 0, "eos_token_id": EOS, "num_labels": 3}
UNPOOLED = {
    "bart": lambda: BartForSequenceClassification(
        BartConfig(**{**BART, **SIZES, "encoder_layers": 2, "decoder_start_token_id": EOS})
    ),
    "t5": lambda: T5ForSequenceClassification(
        T5Config(**{**T5, **SIZES, "num_layers": 2, "decoder_start_token_id": 0})
    ),
}
POOLED = {
    "bert": lambda: BertForSequenceClassification(
        BertConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            num_labels=3,
        )
    )
}


@pytest.fixture
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


def seeded(build):
    torch.manual_seed(0)
    model = build().double().eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    return model


@pytest.mark.parametrize("position", [1, -2, "mean"])
@pytest.mark.parametrize("family", [*UNPOOLED, *POOLED])
def test_globenc_explains_the_given_position(tokenizer, family, position):
    model = seeded({**UNPOOLED, **POOLED}[family])
    examples = [Example(number, text) for number, text in enumerate(TEXTS)]
    rows = evaluate(
        model, tokenizer, examples, methods=["globenc"], metrics=["comprehensiveness"], position=position
    ).rows
    forward = EncoderForward(model)
    for row, text in zip(rows, TEXTS, strict=True):
        ids, extra = forward.arguments(tokenizer(text, return_tensors="pt"))
        where = position if isinstance(position, str) else position % ids.shape[1]
        scores = GlobEnc(forward, model).attribute(ids, additional_forward_args=extra, position=where)[0]
        explained = int(outputs(model, tokenizer, text).argmax())
        expected = comprehensiveness(
            model, tokenizer, text, scores.tolist(), lambda x, explained=explained: x.softmax(0)[explained]
        )
        assert row["comprehensiveness"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("family", UNPOOLED)
def test_a_model_whose_head_reads_no_one_token_needs_a_position(tokenizer, family):
    with pytest.raises(ValueError, match="position"):
        evaluate(
            seeded(UNPOOLED[family]),
            tokenizer,
            [Example(0, TEXTS[0])],
            methods=["globenc"],
            metrics=["accuracy"],
        )


@pytest.mark.parametrize(
    ("position", "message"),
    [
        (6, "position 6 is out of range: 'the plot is bad' has 6 tokens"),
        (-7, "position -7 is out of range"),
        ("cls", "position is 'cls': pass an integer, 'mean'"),
        ([0], r"position is \(0,\)"),
        (True, "position is True"),
    ],
)
def test_an_invalid_position_is_rejected_at_once(tmp_path, position, message):
    examples = [Example(number, text) for number, text in enumerate(TEXTS)]
    with pytest.raises(ValueError, match=message):
        evaluate(*loaded(tmp_path, SINGLE), examples, position=position, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"methods": "random"}, ValueError, "methods is 'random': pass a list of names"),
        ({"metrics": "accuracy"}, ValueError, "metrics is 'accuracy': pass a list of names"),
        ({"batch_size": 1.5}, ValueError, "batch_size is 1.5: pass an integer of at least 1"),
        ({"seed": "x"}, ValueError, "seed is 'x': pass an integer"),
        ({"examples": TEXTS}, TypeError, "examples has a str: pass a list of Example"),
        ({"examples": [(TEXTS[0], 1)]}, TypeError, "examples has a tuple: pass a list of Example"),
    ],
)
def test_arguments_of_other_types_are_rejected(tmp_path, options, error, message):
    usual = {"examples": [Example(0, TEXTS[0])], "methods": ["random"], "metrics": ["accuracy"]}
    with pytest.raises(error, match=message):
        evaluate(*loaded(tmp_path, SINGLE), **{**usual, **options})


def test_numbers_of_numpy_and_torch_are_those_of_python(tmp_path):
    model, tokenizer = loaded(tmp_path, SINGLE)
    usual = {"methods": ["globenc"], "metrics": ["comprehensiveness", "accuracy"]}
    expected = evaluate(
        model, tokenizer, [Example(it, TEXTS[it], 1) for it in range(2)],
        **usual, batch_size=2, seed=3, target=1, position=-1,
    )  # fmt: skip
    for number in (numpy.int64, torch.tensor):
        found = evaluate(
            model, tokenizer, (Example(it, TEXTS[it], number(1)) for it in range(2)),
            **usual, batch_size=numpy.int64(2), seed=numpy.int64(3), target=number(1), position=number(-1),
            out=str(tmp_path / number.__name__),
        )  # fmt: skip
        assert [{**row, "seconds": 0} for row in found.rows] == [
            {**row, "seconds": 0} for row in expected.rows
        ]


def test_a_text_of_an_example_is_valid_unicode():
    with pytest.raises(ValueError, match="pair is not valid UTF-8"):
        Example(0, "good", 1, "\ud800")


def test_the_command_takes_a_class_and_a_position(run, failing, folder, tmp_path):
    (tmp_path / "x.csv").write_text("text\na good film\n")
    command = [
        "evaluate", "--model", folder, "--data", tmp_path / "x.csv", "--methods", "globenc", "--metrics",
        "comprehensiveness", "--out", tmp_path / "out", "--target", "negative",
    ]  # fmt: skip
    run(*command, "--position", "mean")
    settings = json.loads((tmp_path / "out/settings.json").read_text())
    assert (settings["target"], settings["position"]) == ("negative", "mean")
    for other in (["--position", "0"], ["--position", "mean", "--target", "positive"]):
        assert "choose another folder" in failing(*command, *other)
    assert "position must be a whole number or mean" in failing(*command, "--position", "x")
