"""What is done with an explanation: sums are kept, and what does not fit is told."""

import math
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from captum_globenc import Explanation, Explanations
from captum_globenc.results.parts import sentence_spans
from captum_globenc.results.record import Span
from captum_globenc.results.terminal import Shown
from captum_globenc.results.words import Word
from markup import HOSTILE, Page

SHARES, SIGNED = "globenc", "transformer-deep-lift"
TEXT, PAIR = "Unhappy? Not bad.", "Good"
BARS = dict.fromkeys(map(ord, "█▏▎▍▌▋▊▉"))


def explanation(**options):
    """Tokens: [CLS] un ##happy ? not bad . [SEP] good [SEP]."""
    usual = {
        "text": TEXT,
        "pair": PAIR,
        "prediction": "POSITIVE",
        "probability": 0.75,
        "value": 4.0,
        "probabilities": {"NEGATIVE": 0.25, "POSITIVE": 0.75},
        "target": "POSITIVE",
        "against": None,
        "explained": 4.0,
        "position": 0,
        "tokens": ["[CLS]", "un", "##happy", "?", "not", "bad", ".", "[SEP]", "good", "[SEP]"],
        "scores": {
            SHARES: [0.25, 0.125, 0.125, 0.0625, 0.0625, 0.125, 0.0625, 0.0625, 0.0625, 0.0625],
            SIGNED: [0.5, -1.5, -2.0, 0.25, 3.0, 1.0, 0.125, 0.0625, 2.0, -0.25],
        },
        "kinds": {SHARES: "shares", SIGNED: "contributions"},
        "groups": [
            Word(text, tokens, text[0] == "[")
            for text, tokens in [
                ("[CLS]", (0,)),
                ("Unhappy", (1, 2)),
                ("?", (3,)),
                ("Not", (4,)),
                ("bad", (5,)),
                (".", (6,)),
                ("[SEP]", (7,)),
                ("Good", (8,)),
                ("[SEP]", (9,)),
            ]
        ],
        "offsets": [
            None,
            Span(0, 2),
            Span(2, 7),
            Span(7, 8),
            Span(9, 12),
            Span(13, 16),
            Span(16, 17),
            None,
            Span(0, 4, 1),
            None,
        ],
        "model": {"name": "one", "class": "Bert"},
    }
    return Explanation(**{**usual, **options})


def total(parts):
    return math.fsum(score for _, score in parts)


@pytest.mark.parametrize("method", [SHARES, SIGNED])
def test_words_and_sentences_keep_the_sum(method):
    found = explanation()
    whole = math.fsum(found.scores[method])
    assert total(found.words(method)) == total(found.sentences(method)) == whole


def test_words_and_sentences_read_as_in_the_text():
    found = explanation()
    assert found.words()[:3] == [("[CLS]", 0.5), ("Unhappy", -3.5), ("?", 0.25)]
    assert [text for text, _ in found.words(special=False)] == ["Unhappy", "?", "Not", "bad", ".", "Good"]
    assert dict(found.words(SIGNED, reduce="max"))["Unhappy"] == -2.0
    assert found.sentences() == [("Unhappy?", -3.25), ("Not bad.", 4.125), ("Good", 2.0), ("", 0.3125)]


def test_spans_share_tokens_out_and_the_rest_comes_last():
    found = explanation()
    assert found.spans([(9, 16), (0, 7)]) == [("Not bad", 4.0), ("Unhappy", -3.5), ("", 2.6875)]
    assert found.spans([(0, 4)], segment=1)[0] == ("Good", 2.0)
    # Half of a token and more of it is in a span, or else as much of it in two.
    assert [score for _, score in found.spans([(0, 4), (4, 7)])[:2]] == [-1.5, -2.0]
    assert [score for _, score in found.spans([(9, 10), (10, 11)])[:2]] == [3.0, 0.0]


@given(st.lists(st.integers(0, len(TEXT)), unique=True, max_size=8), st.sampled_from([SHARES, SIGNED]))
def test_spans_keep_the_sum_wherever_they_are(cuts, method):
    cuts = sorted(cuts)
    found = explanation()
    spans = list(zip(cuts[::2], cuts[1::2], strict=False))
    parts = found.spans(spans, method)
    assert [text for text, _ in parts] == [*(TEXT[start:stop] for start, stop in spans), ""]
    assert total(parts) == math.fsum(found.scores[method])


@given(st.text("ab .!?\n…。\"')", max_size=30))
def test_sentences_hold_all_of_a_text_but_white_space(text):
    spans = sentence_spans(text)
    held = "".join(text[it.start : it.stop] for it in spans)
    assert "".join(held.split()) == "".join(text.split())
    assert all(it.start < it.stop for it in spans)
    assert all(before.stop <= after.start for before, after in pairwise(spans))


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ('He said "No!" Then left.', ['He said "No!"', "Then left."]),
        ("3.5 stars\nGood", ["3.5 stars", "Good"]),
        ("面白い。本当\uff1f", ["面白い。", "本当\uff1f"]),
        ("  ", []),
    ],
)
def test_sentences_end_at_their_marks_and_at_the_ends_of_lines(text, sentences):
    assert [text[it.start : it.stop] for it in sentence_spans(text)] == sentences


def test_the_top_is_by_size_whether_for_or_against():
    found = explanation()
    assert found.top(3) == [("not", 3.0), ("##happy", -2.0), ("good", 2.0)]
    assert found.top(2, of="words") == [("Unhappy", -3.5), ("Not", 3.0)]
    assert found.top(1, of="sentences") == [("Not bad.", 4.125)]
    assert found.top(1, SHARES) == [("[CLS]", 0.25)]
    assert found.top(1, SHARES, special=False) == [("un", 0.125)]
    assert len(found.top(99)) == len(found.tokens)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda it: it.words("lime"),
            "no scores of 'lime': there are those of globenc, transformer-deep-lift",
        ),
        (lambda it: it.words(reduce="least"), "no way 'least' to score a word"),
        (lambda it: it.top(0), "k is 0: at least 1"),
        (lambda it: it.top(of="letters"), "of is 'letters': one of tokens, words, sentences"),
        (lambda it: it.spans([(0, 4), (3, 7)]), r"spans \(0, 4\) and \(3, 7\) overlap"),
        (lambda it: it.spans([(4, 18)]), r"span \(4, 18\) is none of a text of 17 characters"),
        (lambda it: it.spans([(-1, 2)]), r"span \(-1, 2\) is none"),
        (lambda it: it.spans([(3, 3)]), r"span \(3, 3\) is none"),
        (lambda it: it.spans([(0, 1)], segment=2), "there is no segment 2"),
        (lambda _: explanation(offsets=[]).sentences(), "where the tokens stand is not known"),
        (lambda _: explanation(groups=[]).words(), "the words of this explanation are not known"),
        (lambda _: explanation(tokens=["a"]), "scores of globenc: 10 for 1 tokens"),
        (lambda _: explanation(offsets=[None]), "1 offsets for 10 tokens"),
        (lambda _: explanation(kinds={SHARES: "shares"}), "kind of transformer-deep-lift: None is none of"),
        (lambda _: explanation(position=10), "a position or a word lies outside of the 10 tokens"),
    ],
)
def test_what_does_not_fit_is_told(ask, message):
    with pytest.raises(ValueError, match=message):
        ask(explanation())


def test_the_difference_of_two_classes_adds_up_to_the_difference_of_both():
    one = explanation()
    halved = {name: [score / 2 for score in row] for name, row in one.scores.items()}
    other = explanation(target="NEGATIVE", scores=halved, explained=-1.0)
    made = one.difference(other)
    assert made.scores == halved
    assert made.kinds == {SHARES: "difference", SIGNED: "contributions"}
    assert made.explained == 5.0
    assert made.sums == {SIGNED: "3.41 baseline + 1.59 tokens = 5.00 logit of POSITIVE, less NEGATIVE"}
    assert made.headline == "POSITIVE (75.0%), explained: POSITIVE, less NEGATIVE"
    assert made.captions[SHARES].endswith(", less the same of NEGATIVE")
    assert made.units == {SHARES: "share", SIGNED: "logit"}
    assert total(made.words(SHARES)) == pytest.approx(0.5)


def test_the_difference_of_models_and_texts_says_which():
    one = explanation(layers={SIGNED: [[1.0] * 10] * 3})
    other = explanation(model={"name": "two"}, text="UNHAPPY? Not bad.", layers={SIGNED: [[0.25] * 10] * 3})
    made = one.difference(other)
    assert made.less == "POSITIVE by two in 'UNHAPPY? Not bad.'"
    assert made.layers == {SIGNED: [[0.75] * 10] * 3}
    assert set(made.scores[SIGNED]) == {0.0}


def test_a_difference_of_other_tokens_or_other_methods_is_refused():
    one = explanation()
    other = explanation(text="Another", tokens=["x", *one.tokens[1:]])
    with pytest.raises(ValueError, match=r"'Unhappy\? Not bad\.' and 'Another' are not of the same tokens"):
        one.difference(other)
    lime = explanation(scores={"lime": [1.0] * 10}, kinds={"lime": "signed"})
    with pytest.raises(ValueError, match="no method is in both: globenc, transformer-deep-lift and lime"):
        one.difference(lime)


def test_several_are_a_sequence_that_is_sliced_and_sorted():
    found = Explanations(
        explanation(text=text, probability=p) for text, p in [("b", 0.5), ("c", 0.9), ("a", 0.7)]
    )
    assert [it.text for it in found] == ["b", "c", "a"]
    assert found[-1].text == "a"
    assert found[1:] == Explanations([found[1], found[2]])
    assert [it.text for it in found.sort_by()] == ["b", "a", "c"]
    assert [it.text for it in found.sort_by("text", reverse=True)] == ["c", "b", "a"]
    assert [it.text for it in found.sort_by(lambda it: -it.probability)] == ["c", "a", "b"]
    assert len(found + found[:1]) == 4
    assert {it.less for it in found.difference(reversed(found))} == {
        "POSITIVE in 'a'", "POSITIVE", "POSITIVE in 'b'",
    }  # fmt: skip
    with pytest.raises(ValueError, match="no order 'size': confidence, text, or a function"):
        found.sort_by("size")
    with pytest.raises(ValueError, match="3 explanations less 1"):
        found.difference(found[:1])
    with pytest.raises(IndexError):
        found[3]


def test_what_is_printed_of_it_is_short():
    found = explanation(text="word " * 100)
    cut = ("word " * 8)[:39]
    assert repr(found) == (
        f"<Explanation '{cut}…': POSITIVE (75.0%); 10 tokens by globenc, transformer-deep-lift>"
    )
    assert repr(Explanations([found] * 2)) == "<Explanations of 2 texts by globenc, transformer-deep-lift>"
    assert repr(Explanations()) == "<Explanations of 0 texts>"


def test_terminal_and_table_show_the_same_numbers():
    found = explanation()
    console = Console(width=100)
    with console.capture() as captured:
        console.print(Shown(found, of="tokens"))
    lines = [line.translate(BARS).split() for line in captured.get().splitlines()]
    frame = found.to_pandas()
    for index, token in enumerate(found.tokens):
        share, signed = found.scores[SHARES][index], found.scores[SIGNED][index]
        shown = [f"{100 * share:.1f}", f"{signed:+.3f}"]
        assert [str(index), token, *shown] in lines
        rows = frame[frame["index"] == index].set_index("method")["score"]
        assert rows.to_dict() == {SHARES: share, SIGNED: signed}


def test_a_table_has_a_row_for_each_token_and_method():
    found = Explanations([explanation(), explanation(offsets=[])])
    frame = found.to_pandas()
    assert list(frame) == ["text", "index", "token", "segment", "start", "stop", "method", "score"]
    assert len(frame) == 2 * 2 * 10
    placed = frame[(frame["text"] == 0) & (frame["method"] == SIGNED)]
    assert [
        None if row.isna().any() else tuple(row) for _, row in placed[["start", "stop", "segment"]].iterrows()
    ] == [place and tuple(place) for place in found[0].offsets]
    assert frame[frame["text"] == 1]["start"].isna().all()
    for (number, method), rows in frame.groupby(["text", "method"]):
        assert rows["score"].sum() == pytest.approx(math.fsum(found[number].scores[method]))


def test_without_pandas_it_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r'pip install "captum_globenc\[pandas\]"'):
        explanation().to_pandas()


def test_what_a_notebook_shows_is_escaped_and_its_rules_stay_inside():
    hostile = explanation(text=HOSTILE, tokens=[HOSTILE] * 10, prediction=HOSTILE, model={"name": HOSTILE})
    part = hostile._repr_html_()
    elements = Page(part).elements
    assert elements[0] == ("div", {"class": "globenc-part"})
    assert {tag for tag, _ in elements} & {"script", "link", "img"} == set()
    assert HOSTILE not in part
    style = part.partition("<style>")[2].partition("</style>")[0]
    depth, outside = 0, ""
    for char in style:
        depth += {"{": 1, "}": -1}.get(char, 0)
        outside += char if depth == 0 else ""
    assert depth == 0
    assert set(outside.replace("}", " ").split()) == {
        ".globenc-part",
        "@media",
        "(prefers-color-scheme:",
        "dark)",
    }


def test_a_notebook_shows_the_first_of_many():
    shown = Explanations([explanation()] * 25)._repr_html_()
    assert shown.count("<section>") == 20
    assert shown.endswith("<p>20 of 25 are shown.</p>")


def test_without_scores_nothing_can_be_chosen():
    found = explanation(scores={}, kinds={})
    for ask in (found.top, found.words, found.sentences):
        with pytest.raises(ValueError, match="there are no scores in this explanation"):
            ask()
