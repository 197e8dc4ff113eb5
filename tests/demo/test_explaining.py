import re
from html import escape, unescape

import pytest
import torch
import transformers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    GPT2Config,
    GPT2ForSequenceClassification,
)

from captum_globenc.demo.explaining import FILES, Answer, answer, shown
from captum_globenc.demo.form import LONGEST_TEXT, Form
from captum_globenc.demo.models import TEXTS, describe, example_of
from captum_globenc.results.explanations import Explanations
from captum_globenc.texts import explain, tasks
from captum_globenc.texts.default import encoder_folder
from captum_globenc.texts.loading import Classifier, LoadingError, load_model
from captum_globenc.texts.tasks import SIMILARITY
from checkpoints import LIMIT, VOCABULARY
from language_models import language_model, word_tokenizer

HOSTILE = "<script> unhappy </b>"


@pytest.fixture(scope="module")
def classifier(folder):
    return Classifier(
        AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    )


@pytest.fixture
def ask(classifier):
    return lambda *values, **fields: answer(Form(*values, **fields), lambda _: classifier)


@pytest.mark.parametrize("words", [True, False])
@pytest.mark.parametrize("special", [True, False])
def test_the_form_selects_the_shown_parts(classifier, words, special):
    (explanation,) = explain(
        ["unhappy film"],
        classifier.model,
        classifier.tokenizer,
        layers=True,
    )
    form = Form("unhappy film", words=words, special=special, layer=1)
    tokens, layers = shown(Answer((), Explanations([explanation]), form))
    names = ["unhappy", "film"] if words else ["un", "##happy", "film"]
    names = ["[CLS]", *names, "[SEP]"] if special else names
    # The text itself is what is shaded, whatever tokens are called.
    assert re.findall(r"title=[^>]*>([^<]*)</span>", tokens) == 2 * [name.strip("#") for name in names]
    assert re.findall(r'scope="row" dir="auto">([^<]*)<', layers) == 2 * names
    assert "<h3>globenc, after layer 1 of 2</h3>" in tokens
    shares = [float(number) for number in re.findall(r'title="([^"]*) %"', tokens)]
    whole = explanation.layers["globenc"][0]
    assert sum(shares) / 100 == pytest.approx(sum(whole if special else whole[1:-1]), rel=1e-3)
    signed = [float(number) for number in re.findall(r'title="([^"]*) logit"', tokens)]
    assert sum(signed) == pytest.approx(sum(explanation.scores["transformer-deep-lift"]), abs=1e-3)
    heads = re.findall(r'scope="col">([^<]*)<', layers)
    assert heads == ["% after layer", "1", "2", "logit after layer", "0", "1", "2"]
    assert "largest share" in tokens
    assert "Opposes (underlined)" in tokens


def test_only_the_chosen_methods_are_shown(ask):
    found = ask("good", methods=["integrated-gradients"])
    tokens, layers = shown(found)
    assert layers == ""
    assert "<h3>integrated-gradients</h3>" in tokens
    assert "<h3>globenc" not in tokens
    assert "largest share" not in tokens


def test_class_contrast_and_baseline_are_passed_on_and_the_sum_is_shown(ask, classifier):
    options = {"target": "POSITIVE", "against": "NEGATIVE", "baseline": "zero"}
    (expected,) = explain(["bad film"], *classifier[:2], layers=True, **options)
    found = ask("bad film", target=" positive ", against="0", baseline="zero")
    assert found.explanation == expected
    tokens, _ = shown(found)
    assert f'<p class="note">{expected.notes["transformer-deep-lift"]}</p>' in tokens
    assert "minus NEGATIVE" in tokens
    assert "explained: POSITIVE rather than NEGATIVE" in found.prediction


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"target": "<b>"}, "target &#x27;&lt;b&gt;&#x27; is not a class of the model: NEGATIVE, POSITIVE"),
        ({"target": "0", "against": "negative"}, "NEGATIVE is contrasted with itself"),
        ({"baseline": "none"}, "no baseline none; known: mask, mean, pad, zero"),
        ({"methods": ("magic",)}, "no method magic; known: globenc"),
    ],
)
def test_unknown_classes_and_names_are_reported(ask, fields, text):
    found = ask("good", **fields)
    assert text in found.prediction
    assert found.explanation is None


def test_supported_default_methods_are_shown_and_the_others_reported(classifier):
    shape = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 24, "pad_token_id": 0}
    decoder = Classifier(GPT2ForSequenceClassification(GPT2Config(**shape)).eval(), classifier.tokenizer)
    found = answer(Form("good film"), lambda _: decoder)
    assert "globenc is left out: No supported encoder found" in found.prediction
    tokens, layers = shown(found)
    assert "<h3>transformer-deep-lift</h3>" in tokens
    assert "<h3>globenc" not in tokens + layers
    assert "logit after layer" in layers
    refused = answer(Form("good film", methods=("globenc",)), lambda _: decoder)
    assert "it holds gpt2" in refused.prediction
    assert refused.explanation is None


def test_a_position_is_explained_or_reported_as_invalid(ask, classifier):
    (last,) = explain(["bad film"], *classifier[:2], position=-1, layers=True)
    assert ask("bad film", position=" -1 ").explanation == last
    for position in ("first", "9"):
        assert "position" in ask("bad film", position=position).prediction


def test_the_text_is_shaded_as_it_was_written_and_its_pair_apart(ask):
    found = ask("GOOD,  bad\nred zebra", "Film", methods=("globenc",))
    tokens, _ = shown(found)
    first, second = re.findall(r'<p class="tokens" dir="auto">(.*?)</p>', tokens, flags=re.DOTALL)
    first, second = (re.sub(r"<[^>]*>", "", unescape(it)) for it in (first, second))
    assert (first, second) == ("[CLS]GOOD,  bad\nred zebra[SEP]", "Film[SEP]")
    assert "not in the vocabulary: the model reads [UNK]" in tokens


def test_everything_is_escaped(ask):
    found = ask(HOSTILE, HOSTILE)
    tokens, layers = shown(found)
    for part in (found.prediction, tokens, layers):
        assert "<script" not in part
        assert "</b>" not in part
    assert "&lt;</span>" in tokens


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (Form("  "), "Type a text"),
        (Form("good", methods=()), "Choose a method"),
        (Form("good", mixing="?"), "?"),
    ],
)
def test_missing_fields_are_reported(ask, form, text):
    found = ask(*form)
    assert text in found.prediction
    assert 'role="alert"' in found.prediction
    assert found.explanation is None


def test_a_model_that_cannot_be_loaded_is_reported():
    def failing(name):
        raise LoadingError(f"cannot load {name}: <i>why</i>")

    found = answer(Form("good", model=" <b> "), failing)
    assert "cannot load &lt;b&gt;: &lt;i&gt;why&lt;/i&gt;" in found.prediction
    assert found.explanation is None


@pytest.mark.parametrize("error", [RuntimeError("a <b>\nc"), IndexError("out of range"), KeyError("x")])
def test_a_model_that_fails_is_reported(classifier, error):
    def fail(*_):
        raise error

    hook = classifier.model.classifier.register_forward_hook(fail)
    try:
        found = answer(Form("good"), lambda _: classifier)
    finally:
        hook.remove()
    assert f"The model failed: {type(error).__name__}: " in found.prediction
    assert "<b>" not in found.prediction
    assert found.explanation is None
    assert answer(Form("good"), lambda _: classifier).explanation is not None


def test_missing_weights_and_truncated_texts_are_reported(classifier):
    found = answer(Form("bad " * 60), lambda _: classifier._replace(missing=("classifier.weight",)))
    assert "classifier.weight: its predictions are random" in found.prediction
    assert f"only its first {LIMIT} tokens are read, up to “… {'bad ' * 9}bad”." in found.prediction
    assert "The last 153 of its 240 characters are not." in found.prediction
    pair = answer(Form("bad " * 60, "good"), lambda _: classifier)
    assert f"only its first {LIMIT} tokens are read. Tick Windows" in pair.prediction
    whole = answer(Form("bad " * 60, windows=True), lambda _: classifier)
    assert whole.messages == ()
    assert len(whole.explanation.tokens) == 62


@pytest.mark.parametrize(("layer", "shows"), [(0, 0), (1, 1), (2, 0), (7, 0)])
def test_a_layer_that_is_the_last_or_beyond_is_the_last(ask, layer, shows):
    assert ask("good film", layer=layer).form.layer == shows


@pytest.mark.parametrize("name", ["text", "pair", "target"])
def test_too_long_fields_are_rejected_and_not_truncated(ask, name):
    found = ask(**{"text": "good", name: "x" * (LONGEST_TEXT + 1)})
    assert f"The {name} has 20,001 characters, and 20,000 are the most" in found.prediction
    assert found.explanation is None


def test_files_hold_the_explanation(ask, tmp_path):
    (found,) = kept = ask("unhappy film").explanations
    for end, write in FILES.items():
        write(kept, tmp_path / f"it.{end}")
    assert [*Explanations.load(tmp_path / "it.jsonl")] == [found]
    assert (tmp_path / "it.html").read_text(encoding="utf-8") == found.to_html()
    head, *rows = (tmp_path / "it.csv").read_text(encoding="utf-8").splitlines()
    assert head == "text,index,token,segment,start,stop,method,score"
    assert len(rows) == sum(map(len, found.scores.values()))


def test_lone_surrogates_are_rejected(ask):
    for form in (Form("good \ud83d"), Form("good", "\ud83d")):
        assert "not valid UTF-8" in ask(*form).prediction


SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture
def model_of(classifier):
    """Make a model of a class, with random weights and the classifier's tokenizer."""

    def make(kind, **config):
        torch.manual_seed(0)
        shape = BertConfig(vocab_size=len(VOCABULARY), initializer_range=0.6, **SIZES, **config)
        return Classifier(getattr(transformers, kind)(shape).eval(), classifier.tokenizer)

    return make


ENTITIES = {"id2label": {0: "B-PER", 1: "B-LOC"}, "label2id": {"B-PER": 0, "B-LOC": 1}}


@pytest.mark.parametrize(
    ("kind", "config", "form"),
    [
        ("BertForTokenClassification", ENTITIES, Form("the plot is bad")),
        ("BertForMaskedLM", {}, Form("the [MASK] is [MASK]")),
        ("BertForQuestionAnswering", {}, Form("is the plot good ?", "The plot: bad!")),
        ("BertForSequenceClassification", {}, Form("the plot", "the film")),
    ],
)
@pytest.mark.parametrize("number", [0, 1, 9])
def test_every_task_is_explained_as_explain_explains_it(model_of, kind, config, form, number):
    model = model_of(kind, **config)
    expected = explain([form.text], *model[:2], pair=form.pair or None, layers=True)
    found = answer(form._replace(result=number), lambda _: model)
    assert [*found.explanations] == [*expected]
    shows = number if number < len(expected) else 0
    assert found.explanation == expected[shows]
    assert (len(expected) > 1) == (kind in ("BertForTokenClassification", "BertForMaskedLM"))
    assert escape(expected[shows].headline) in found.prediction


def test_a_text_without_entities_has_a_message(model_of):
    nothing = model_of("BertForTokenClassification", id2label={0: "O", 1: "B-X"}, label2id={"O": 0, "B-X": 1})
    with torch.no_grad():
        nothing.model.classifier.bias[:] = torch.tensor([99.0, -99.0])
    found = answer(Form("the plot"), lambda _: nothing)
    assert found.explanation is None
    assert "no entity" in found.prediction or "no entities" in found.prediction


def test_similarity_is_explained_and_has_no_windows():
    pytest.importorskip("sentence_transformers")
    embedder = load_model(str(encoder_folder()))
    found = answer(example_of(embedder), lambda _: embedder)
    assert found.explanation.headline.startswith("similarity = ")
    cut = answer(Form("cat " * 400, "dog"), lambda _: embedder)
    assert "too long for this model" in cut.prediction
    assert "Windows" not in cut.prediction


def test_the_page_has_texts_for_every_task():
    assert TEXTS.keys() == {SIMILARITY, *(task.name for task in tasks.TASKS)}


@pytest.fixture(scope="module", params=["gpt2", "t5"])
def writer(request):
    return Classifier(language_model(request.param), word_tokenizer())


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, {"max_new_tokens": 24, "per_token": True}),
        ({"pair": " blue mat"}, {"answer": " blue mat", "per_token": True}),
        ({"pair": "blue", "against": "red"}, {"answer": "blue", "against": "red"}),
        ({"target": "POSITIVE", "windows": True}, {"max_new_tokens": 24, "per_token": True}),
    ],
)
def test_answers_to_prompts_are_explained_as_explain_explains_them(writer, fields, options):
    decoder = not writer.model.config.is_encoder_decoder
    expected = explain(["the cat sat"], *writer[:2], layers=not decoder, tell=lambda _: None, **options)
    found = answer(Form("the cat sat", **fields), lambda _: writer)
    assert found.explanation == expected[0]
    assert escape(expected[0].headline) in found.prediction
    assert ("it explains encoders" in found.prediction) == decoder
    tokens, layers = shown(found)
    assert bool(layers) == (not decoder)
    assert ("The answer by words of the prompt" in tokens) == ("per_token" in options)
    for token in expected[0].answer.tokens if "per_token" in options else ():
        assert f'<th scope="col">{escape(token)}</th>' in tokens


def test_each_token_of_an_answer_can_be_selected(writer):
    found = answer(Form("the cat sat", "blue mat", methods=("transformer-deep-lift",)), lambda _: writer)
    explanation = found.explanation
    names = explanation.answer.tokens
    assert found.choices == ["the whole answer", *(f"{n}: {name}" for n, name in enumerate(names, 1))]
    assert found.answer_token is None
    for number, (name, row) in enumerate(
        zip(names, explanation.answer_scores["transformer-deep-lift"], strict=True)
    ):
        chosen = answer(found.form._replace(result=number + 1), lambda _: writer)
        assert (chosen.explanation, chosen.answer_token) == (explanation, number)
        tokens, _ = shown(chosen)
        assert f"<h3>transformer-deep-lift, answer token {number + 1}: {escape(name)}</h3>" in tokens
        line = tokens.partition('<p class="tokens"')[2].partition("</p>")[0]
        read = [float(it) for it in re.findall(r'title="([^"]*) nats"', line)]
        assert read == pytest.approx([it for it in row if abs(it) > 1e-4], rel=1e-2, abs=1e-3)
    beyond = answer(found.form._replace(result=len(names) + 1), lambda _: writer)
    assert beyond.answer_token is None


def test_generated_answers_are_bounded_by_the_page_and_by_the_model(writer):
    limit = 48 if writer.model.config.model_type == "gpt2" else None
    found = answer(Form("the cat " * 20), lambda _: writer)
    assert len(found.explanation.answer.ids) == (24 if limit is None else limit - 40 + 1)
    found = answer(Form("the cat " * 25), lambda _: writer)
    assert (found.explanation is None) == (limit is not None)
    assert limit is None or "has 50 tokens, and the model takes 48: shorten it" in found.prediction


def test_a_typed_answer_is_escaped_and_too_long_ones_are_reported(writer):
    found = answer(Form("a dog", HOSTILE, against="<b>"), lambda _: writer)
    tokens, layers = shown(found)
    assert "<script" not in found.prediction + tokens + layers
    assert "The pair has 20,001 characters" in answer(Form("a", "b" * 20_001), lambda _: writer).prediction


def test_the_description_and_the_example_are_those_of_the_model(model_of, classifier):
    said = describe(classifier, "me/<b>")
    assert said.startswith("The model me/&lt;b&gt; (BertForSequenceClassification) classifies texts")
    assert "Its classes are NEGATIVE, POSITIVE." in said
    assert f"It reads at most {LIMIT} tokens." in said
    labels = {"id2label": dict(enumerate("abcdefghijk")), "label2id": {}}
    assert "a, b, c, d, e, f, g, h and 3 more." in describe(
        model_of("BertForSequenceClassification", **labels), "many"
    )
    assert "finds the answer to a question" in describe(model_of("BertForQuestionAnswering"), "qa")
    entailing = model_of("BertForSequenceClassification", id2label={0: "ENTAILMENT", 1: "x"}, label2id={})
    assert example_of(entailing).pair
    assert "[MASK]" in example_of(model_of("BertForMaskedLM")).text
