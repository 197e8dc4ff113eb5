"""The page and the notebook view of explanations: original texts and all data."""

import base64
import json
import re
from datetime import date
from importlib.resources import files

import numpy as np
import pytest
from test_explanation import PAIR, SHARES, SIGNED, TEXT, explanation

from captum_globenc import Explanation, Explanations
from captum_globenc.results.record import Span
from captum_globenc.results.words import Word
from markup import Page

LAYERS = {SHARES: [[0.1] * 10] * 2, SIGNED: [[0.5] * 10] * 3}


def many(count):
    """Sentences of reviews that are split as tokenizers do, with scores of float32, as models give them."""
    held = files("captum_globenc") / "data/sentiment_sentences.tsv"
    lines = held.read_text(encoding="utf-8").splitlines()
    draw = np.random.default_rng(0)
    for line in lines[1 : count + 1]:
        text = line.split("\t")[2]
        found = [*re.finditer(r"\w{1,8}|[^\w\s]", text)]
        tokens = ["[CLS]", *(it[0].lower() for it in found), "[SEP]"]
        rows = draw.normal(size=(15, len(tokens))).astype(np.float32).tolist()
        yield explanation(
            text=text,
            pair=None,
            tokens=tokens,
            scores={SHARES: rows[0], SIGNED: rows[1]},
            layers={SHARES: rows[2:8], SIGNED: rows[8:]},
            groups=[Word(token, (place,), token[0] == "[") for place, token in enumerate(tokens)],
            offsets=[None, *(Span(*it.span()) for it in found), None],
            ids=list(range(1000, 1000 + len(tokens))),
            model={"name": "a/sentiment-classifier", "class": "BertForSequenceClassification"},
            settings={"mixing": "N-Enc", "baseline": "mask"},
            versions=dict.fromkeys(("captum_globenc", "torch", "transformers", "captum"), "5.20.0"),
        )


def data_of(page):
    held = re.search(r'<script type="application/x-ndjson"[^>]*>\n(.*?)\n</script>', page, flags=re.DOTALL)[1]
    shared, *own = map(json.loads, held.split("\n"))
    return [unpacked({**shared, **it}) for it in own]


def unpacked(made):
    """The page's script does the same: numbers are of four bytes, or of eight."""

    def row(packed):
        raw = base64.b64decode(packed)
        return np.frombuffer(raw, "<f4" if len(raw) == 4 * len(made["tokens"]) else "<f8").tolist()

    made["scores"] = {name: row(packed) for name, packed in made["scores"].items()}
    for field in made.keys() & {"layers", "answer_scores"}:
        made[field] = {name: [*map(row, rows)] for name, rows in made[field].items()}
    return made


def test_the_data_of_the_page_equal_the_saved_file():
    found = Explanations(
        [
            explanation(layers=LAYERS, answer_scores={SIGNED: [[0.25] * 10, [1e299] * 10]}),
            explanation(pair=None, text="</script>😀\u2028\r\n", probability=None),
        ]
    )
    data = data_of(found.to_html())
    assert data == json.loads(json.dumps(found.to_dict()))
    assert [Explanation.from_dict(it) for it in data] == list(found)


def test_300_texts_with_layers_stay_under_two_megabytes():
    found = Explanations(many(300))
    assert len(found.to_html().encode()) < 2_000_000


@pytest.mark.parametrize("draw", [Explanation.to_html, Explanation._repr_html_])
def test_text_and_pair_are_shown_as_they_were_written_by_every_method(draw):
    page = Page(draw(explanation()))
    assert page.text.count(f"[CLS]{TEXT}[SEP]{PAIR}[SEP]") == 2
    shades = [it for tag, it in page.elements if tag == "span" and "--s" in it.get("style", "")]
    # Unhappy is one word of two tokens: -1.5 and -2 together are the strongest.
    assert [(it["class"], it["style"], it["title"]) for it in shades][9:12] == [
        ("for special", "--s:0.143", "+0.5 logit"),
        ("against", "--s:1.000", "-3.5 logit"),
        ("for", "--s:0.071", "+0.25 logit"),
    ]
    assert len(shades) == 2 * 9


def test_the_head_lists_the_common_facts():
    one = explanation(settings={"mixing": "N-Enc"}, versions={"torch": "2.9"})
    other = explanation(prediction="NEGATIVE", position="mean", model={"class": "Electra"})
    page = Page(Explanations([one, one, other]).to_html())
    facts = page.text[page.text.index("Texts") : page.text.index("Shades")]
    for said in (
        "Texts3: 2 POSITIVE, 1 NEGATIVE",
        "Modelone (Bert), Electra",
        f"Methods{SHARES}, {SIGNED}",
        "Explained position[CLS] (0), mean of all tokens",
        "Settingsmixing N-Enc",
        "Versionstorch 2.9",
        f"Page of{date.today().isoformat()}",
    ):
        assert said in facts


def test_the_most_likely_classes_are_listed():
    many = {f"c{number}": share for number, share in enumerate([0.1, 0.4, 0.2, 0.05, 0.15, 0.1])}
    page = Page(explanation(probabilities=many).to_html())
    assert "c1 40.0%, c2 20.0%, c4 15.0%, c0 10.0% and 2 more" in page.text


def test_a_page_without_texts():
    assert Page(Explanations().to_html()).text.count("Token attributions") == 2


def test_a_notebook_has_the_layers_of_words_and_the_numbers_of_tokens():
    part = Page(explanation(layers=LAYERS)._repr_html_())
    cells = [it for tag, it in part.elements if tag == "td" and "title" in it]
    assert [it["title"] for it in cells][:4] == ["10 %", "10 %", "20 %", "20 %"]
    assert len(cells) == 9 * 2 + 9 * 3
    assert [tag for tag, _ in part.elements].count("details") == 3
    assert "##happy" in part.text
    for said in ("The score is the share after the last layer.", "The score is the contribution at 0."):
        assert part.text.count(said) == 1


@pytest.mark.parametrize("draw", [Explanation.to_html, Explanation._repr_html_])
def test_every_word_has_its_numbers(draw):
    found = explanation()
    titles = [it["title"] for tag, it in Page(draw(found)).elements if tag == "span" and "style" in it]
    words = {name: [score for _, score in found.words(name)] for name in (SHARES, SIGNED)}
    assert titles == [f"{100 * it:.4g} %" for it in words[SHARES]] + [
        f"{it:+.4g} logit" for it in words[SIGNED]
    ]
