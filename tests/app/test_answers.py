import re
from urllib.parse import parse_qsl

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from captum_globenc.app.answers import LONGEST_LINK, Form, answer, shown
from captum_globenc.texts import explain
from captum_globenc.texts.loading import Classifier, LoadingError
from checkpoints import LIMIT

HOSTILE = "<script> unhappy </b>"


@pytest.fixture(scope="module")
def classifier(folder):
    return Classifier(
        AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    )


@pytest.fixture
def ask(classifier):
    return lambda *values, **fields: answer(Form(*values, **fields), lambda _: classifier)


FORMS = [
    Form(),
    Form("a & b = c?", "<b>", "folder/of mine", "W-Res", ("GlobEnc", "integrated-gradients"), True, False),
    Form("café 😀", methods=("integrated-gradients",), position="mean"),
]


@pytest.mark.parametrize("form", FORMS)
def test_a_link_restores_the_form(form):
    assert Form.of(dict(parse_qsl(form.link()[1:], strict_parsing=form != Form()))) == form


def test_a_links_nonsense_is_left_out():
    query = {"mixing": "N-Nothing", "methods": "magic", "words": "maybe", "special": "", "other": "x"}
    assert Form.of(query) == Form()
    assert len(Form.of({"text": "a" * 10**6}).text) == 20_000


@pytest.mark.parametrize("words", [True, False])
@pytest.mark.parametrize("special", [True, False])
def test_what_is_shown_is_what_was_asked_for(classifier, words, special):
    (explanation,) = explain(
        ["unhappy film"],
        classifier.model,
        classifier.tokenizer,
        layers=True,
        compare=["integrated-gradients"],
    )
    form = Form("unhappy film", methods=("GlobEnc", "integrated-gradients"), words=words, special=special)
    tokens, layers = shown(explanation, form, layer=1)
    names = ["unhappy", "film"] if words else ["un", "##happy", "film"]
    names = ["[CLS]", *names, "[SEP]"] if special else names
    assert re.findall(r"title=[^>]*>([^<]*)</span>", tokens) == 2 * names
    assert re.findall(r'scope="row" dir="auto">([^<]*)<', layers) == names
    assert "<h3>GlobEnc, after layer 1 of 2</h3>" in tokens
    first = [float(number) for number in re.findall(r'title="([^"]*)"', tokens)][: len(names)]
    whole = sum(explanation.layers[0]) if special else sum(explanation.layers[0][1:-1])
    assert sum(first) == pytest.approx(whole, rel=1e-3)


def test_a_method_that_was_not_asked_for_is_not_shown(ask):
    tokens = ask("good", methods=["integrated-gradients"]).tokens
    assert "<h3>integrated-gradients</h3>" in tokens
    assert "<h3>GlobEnc" not in tokens


def test_a_position_is_explained_or_said_to_be_none(ask, classifier):
    (last,) = explain(["bad film"], *classifier[:2], position=-1, layers=True)
    assert ask("bad film", position=" -1 ").explanation.scores == last.scores
    for position in ("first", "9"):
        assert "position" in ask("bad film", position=position).prediction


def test_everything_is_escaped(ask):
    found = ask(HOSTILE, HOSTILE)
    for part in found[:4]:
        assert "<script" not in part
        assert "</b>" not in part
    assert "&lt;</span>" in found.tokens


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (Form("  "), "Type a text"),
        (Form("good", methods=()), "Choose a method"),
        (Form("good", mixing="?"), "?"),
    ],
)
def test_what_is_missing_is_told_of(ask, form, text):
    found = ask(*form)
    assert text in found.prediction
    assert 'role="alert"' in found.prediction
    assert found.explanation is None


def test_a_model_that_cannot_be_loaded_is_told_of():
    def failing(name):
        raise LoadingError(f"cannot load {name}: <i>why</i>")

    found = answer(Form("good", model=" <b> "), failing)
    assert "cannot load &lt;b&gt;: &lt;i&gt;why&lt;/i&gt;" in found.prediction
    assert found[1:] == ("", "", "", None, None)


def test_a_head_without_weights_and_a_cut_text_are_told_of(classifier):
    found = answer(Form("bad " * 60), lambda _: classifier._replace(missing=("classifier.weight",)))
    assert "classifier.weight: its predictions are random" in found.prediction
    assert f"only its first {LIMIT} tokens" in found.prediction


def test_a_text_that_no_link_can_hold_has_none(ask):
    assert 'href="?text=good"' in ask("good").link
    assert ask("x" * LONGEST_LINK).link == ""


def test_a_name_of_blanks_is_the_models_own_and_no_surrogate_is_a_text(ask):
    assert Form.of({"text": "good", "model": " "}) == Form("good")
    for form in (Form("good \ud83d"), Form("good", "\ud83d")):
        assert "not valid UTF-8" in ask(*form).prediction
