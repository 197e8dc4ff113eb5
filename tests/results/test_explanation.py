"""Operations on explanations keep sums, and reject inconsistent arguments."""

import copy
import json
import math
import pickle
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from captum_globenc import Explanation, Explanations
from captum_globenc.results.record import Span
from captum_globenc.results.terminal import Shown
from captum_globenc.results.words import Word, sentence_spans
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


def test_spans_partition_the_tokens_and_the_rest_comes_last():
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


def test_top_ranks_by_magnitude():
    found = explanation()
    assert found.top(2) == found.top(2, of="words") == [("Unhappy", -3.5), ("Not", 3.0)]
    assert found.top(3, of="tokens") == [("not", 3.0), ("##happy", -2.0), ("good", 2.0)]
    assert found.top(1, of="sentences") == [("Not bad.", 4.125)]
    assert found.top(1, SHARES) == [("[CLS]", 0.25)]
    assert found.top(1, SHARES, special=False) == [("Unhappy", 0.25)]
    assert found.top(1, SHARES, of="tokens", special=False) == [("un", 0.125)]
    assert len(found.top(99, of="tokens")) == len(found.tokens)
    assert len(found.top(99)) == len(found.groups)


def test_scores_are_rounded_where_they_are_printed_and_nowhere_else():
    exact = 1.9306542873382568
    scores = {SIGNED: [exact, -0.00012345, 0.0, 12345.678, 0.1, 0.1, 0.1, 0.1, 1e-20, -100.06]}
    found = explanation(scores=scores, kinds={SIGNED: "contributions"})
    shown = "[('[CLS]', 1.93), ('Unhappy', -0.000123), ('?', 12346), ('Not', 0.1)]"
    assert repr(found.words()[:4]) == str(found.words()[:4]) == shown
    assert found.words()[0] == ("[CLS]", exact)
    assert math.fsum(score for _, score in found.words()) == math.fsum(scores[SIGNED])
    assert repr(found.top(1, of="tokens")) == "[('?', 12346)]"
    assert repr(found.spans([(0, 2)])[:1]) == "[('Un', -0.000123)]"
    assert repr(found.sentences()[-1:]) == "[('', -98)]"
    assert json.dumps(found.top(1)) == '[["?", 12345.678]]'


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda it: it.words("lime"),
            "no scores of 'lime', only of globenc, transformer-deep-lift",
        ),
        (lambda it: it.words(reduce="least"), "reduce is 'least': one of sum, mean, max"),
        (lambda it: it.top(0), "k is 0: pass an integer of at least 1"),
        (lambda it: it.top(1.5), "k is 1.5: pass an integer of at least 1"),
        (lambda it: it.top(of="letters"), "of is 'letters': one of words, tokens, sentences"),
        (lambda it: it.spans([(0, 4), (3, 7)]), r"spans \(0, 4\) and \(3, 7\) overlap"),
        (lambda it: it.spans([(4, 18)]), r"span \(4, 18\) is empty or outside a text of 17 characters"),
        (lambda it: it.spans([(-1, 2)]), r"span \(-1, 2\) is empty or outside"),
        (lambda it: it.spans([(3, 3)]), r"span \(3, 3\) is empty"),
        (lambda it: it.spans((0, 3)), r"spans is \(0, 3\): pass a list of \(start, stop\)"),
        (lambda it: it.spans([(0.0, 3.0)]), r"spans is \[\(0.0, 3.0\)\]: pass a list"),
        (lambda it: it.spans([(0, 1)], segment=2), "there is no segment 2"),
        (lambda _: explanation(offsets=[]).sentences(), "the character offsets of the tokens are unknown"),
        (lambda _: explanation(groups=[]).words(), "the words of this explanation are not known"),
        (lambda _: explanation(tokens=["a"]), "scores of globenc: 10 for 1 tokens"),
        (lambda _: explanation(offsets=[None]), "1 offsets for 10 tokens"),
        (
            lambda _: explanation(kinds={SHARES: "shares"}),
            "transformer-deep-lift: None is not one of",
        ),
        (lambda _: explanation(position=10), "a position or a word is outside the 10 tokens"),
        (lambda _: explanation(groups=[Word("a", (1, 2), False), Word("b", (2,), False)]), "in two words"),
        (lambda _: explanation(layers={SIGNED: [[math.inf] * 10]}), "layers of .* contain NaN or infinity"),
        (
            lambda it: explanation(scores={**it.scores, SHARES: [math.nan] * 10}),
            "scores of globenc contain NaN or infinity",
        ),
    ],
)
def test_inconsistent_fields_are_rejected(ask, message):
    with pytest.raises(ValueError, match=message):
        ask(explanation())


def test_the_difference_of_two_classes_sums_to_the_difference_of_the_logits():
    one = explanation()
    halved = {name: [score / 2 for score in row] for name, row in one.scores.items()}
    other = explanation(target="NEGATIVE", scores=halved, explained=-1.0)
    made = one.difference(other)
    assert made.scores == halved
    assert made.kinds == {SHARES: "difference", SIGNED: "contributions"}
    assert made.explained == 5.0
    assert made.sums == {SIGNED: "3.41 baseline + 1.59 tokens = 5.00 logit; POSITIVE minus NEGATIVE"}
    assert made.headline == "POSITIVE minus NEGATIVE"
    assert made.captions[SHARES].endswith("; POSITIVE minus NEGATIVE")
    assert one - other == made
    assert made.units == {SHARES: "share", SIGNED: "logit"}
    assert total(made.words(SHARES)) == pytest.approx(0.5)


def test_a_difference_of_differences_names_all_operands():
    one = explanation()
    contrast = one - explanation(target="NEGATIVE", explained=-1.0)
    for made, name, explained in (
        (contrast - one, "(POSITIVE minus NEGATIVE) minus POSITIVE", 1.0),
        (one - contrast, "POSITIVE minus (POSITIVE minus NEGATIVE)", -1.0),
        (contrast - contrast, "(POSITIVE minus NEGATIVE) minus (POSITIVE minus NEGATIVE)", 0.0),
    ):
        assert (made.headline, made.explained) == (name, explained)
        # The sum is of no single class.
        assert made.sums[SIGNED].endswith(f" = {explained:.2f} logit; {name}")
    of_models = one - explanation(model={"name": "two"})
    of_texts = of_models - replace(of_models, text="UNHAPPY? Not bad.")
    named = "(one minus two), 'Unhappy? Not bad.' minus (one minus two), 'UNHAPPY? Not bad.'"
    assert of_texts.headline == f"POSITIVE: {named}"
    # The target of a contrast of two classes is not the target of another model.
    with pytest.raises(ValueError, match="different outputs, 'POSITIVE minus NEGATIVE' and 'POSITIVE'"):
        _ = contrast - explanation(model={"name": "two"})


def test_a_difference_has_the_probabilities_of_one_prediction_only():
    one, other = explanation(), explanation(target="NEGATIVE")
    assert (one - other).probabilities == one.probabilities
    assert (one - explanation(value=3.0)).probabilities == {}  # two models of the same name


@pytest.mark.parametrize("wrong", [5, None, "ab", [None], [{"text": "a"}]])
def test_what_is_no_explanation_is_rejected(wrong):
    several = Explanations([explanation()])
    for ask in (Explanations, several.__add__, several.difference, several[0].difference):
        with pytest.raises(TypeError, match=r"(explanations has|explanations is|other is) a .*pass an? "):
            ask(wrong)
    with pytest.raises(TypeError, match="explanations is a Explanation: pass a list of explanations"):
        _ = several + several[0]


def test_the_difference_of_models_and_texts_says_which():
    one = explanation(layers={SIGNED: [[1.0] * 10] * 3})
    other = explanation(model={"name": "two"}, text="UNHAPPY? Not bad.", layers={SIGNED: [[0.25] * 10] * 3})
    made = one.difference(other)
    assert made.less == "one, 'Unhappy? Not bad.' minus two, 'UNHAPPY? Not bad.'"
    assert made.headline == f"POSITIVE: {made.less}"
    assert made.model == {"name": "one minus two", "class": "Bert"}
    assert made.layers == {SIGNED: [[0.75] * 10] * 3}
    assert set(made.scores[SIGNED]) == {0.0}


def test_a_difference_of_other_tokens_or_methods_is_rejected():
    one = explanation()
    other = explanation(text="Another", tokens=["x", *one.tokens[1:]])
    with pytest.raises(ValueError, match=r"'Unhappy\? Not bad\.' and 'Another' have different tokens"):
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
        "'b' minus 'a'", "this minus another explanation", "'a' minus 'b'",
    }  # fmt: skip
    with pytest.raises(ValueError, match="no order 'size': confidence, text, or a function"):
        found.sort_by("size")
    with pytest.raises(ValueError, match="3 explanations minus 1"):
        found.difference(found[:1])
    with pytest.raises(IndexError):
        found[3]


def test_one_of_several_classes_is_shown_alone(capsys):
    names = {f"{SIGNED}: {label}": value for label, value in (("NEGATIVE", -1.0), ("POSITIVE", 1.0))}
    both = explanation(
        scores={name: [value] * 10 for name, value in names.items()},
        kinds=dict.fromkeys(names, "contributions"),
        outputs={name: (name.partition(": ")[2], value) for name, value in names.items()},
    )
    name = f"{SIGNED}: NEGATIVE"
    alone = both.by(name)
    assert (dict(alone.scores), dict(alone.outputs)) == ({name: [-1.0] * 10}, {name: ("NEGATIVE", -1.0)})
    alone.show(top=1)
    assert "supports or opposes NEGATIVE" in capsys.readouterr().out


def test_the_repr_is_short():
    found = explanation(text="word " * 100)
    cut = ("word " * 8)[:39]
    assert repr(found) == (
        f"<Explanation '{cut}…': POSITIVE (75.0%); 10 tokens by globenc, transformer-deep-lift; model one>"
    )
    assert repr(Explanations([found] * 2)) == (
        "<Explanations of 2 texts by globenc, transformer-deep-lift; model one>"
    )
    assert repr(Explanations()) == "<Explanations of 0 texts>"


def test_texts_and_explanations_are_counted_separately():
    def entity(start, stop, text=TEXT, kind="BertForTokenClassification", **options):
        return explanation(text=text, span=Span(start, stop), model={"class": kind}, **options)

    methods = "by globenc, transformer-deep-lift"
    three = [entity(0, 7), entity(9, 12), entity(13, 16)]
    for found, said in [
        (three, "3 entities in 1 text"),
        (three[:1], "1 entity in 1 text"),
        ([*three, entity(0, 7, "Another, yet.")], "4 entities in 2 texts"),
        (three * 2, "6 entities in 2 texts"),  # one text that was there twice
        ([entity(0, 7, kind="BertForMaskedLM")], "1 masked word in 1 text"),
        ([explanation(model={}, target=it) for it in ("toxic", "insult")], "2 explanations of 1 text"),
        ([explanation(model={})] * 3, "3 texts"),
    ]:
        assert repr(Explanations(found)) == f"<Explanations of {said} {methods}>"


def test_every_headline_reports_a_truncated_text():
    found = explanation(truncated=True)
    assert found.headline == "POSITIVE (75.0%), text truncated"
    assert "POSITIVE (75.0%), text truncated" in repr(found)
    assert "; 2 truncated; model one>" in repr(Explanations([found, explanation(), found]))
    assert found.headline in found.to_html()
    assert (explanation() - found).headline.endswith(", text truncated")


def test_guessed_attributes_exist_or_the_error_suggests_one(capsys):
    found = explanation()
    assert found.label == found.prediction == "POSITIVE"
    found.show(top=2, special=False)
    shown = capsys.readouterr().out
    assert "POSITIVE (75.0%)" in shown
    assert "Unhappy" in shown
    assert "7 other tokens" in shown
    several = Explanations([found] * 2)
    several.show()
    assert "2. POSITIVE (75.0%)" in capsys.readouterr().out
    assert (several - several)[0].headline == "POSITIVE: this minus another explanation"
    for name in ("label", "top", "prediction", "plot", "scores"):
        with pytest.raises(AttributeError, match=rf"an explanation has, such as the first, \[0\]\.{name}"):
            getattr(several, name)
    with pytest.raises(AttributeError, match="no attribute 'colour'$"):
        _ = several.colour
    with pytest.raises(TypeError):
        found - 1
    assert copy.deepcopy(several) == several
    assert pickle.loads(pickle.dumps(several)) == several


def other_model(**options):
    return explanation(**{"model": {"name": "two", "class": "Roberta"}, "value": 1.0, **options})


def test_explanations_of_other_models_or_texts_are_subtracted_for_one_target_alone():
    one, other = explanation(), other_model(target="NEGATIVE", prediction="NEGATIVE")
    with pytest.raises(ValueError, match=r"'POSITIVE' and 'NEGATIVE'.*explain both with target='POSITIVE'"):
        one - other
    with pytest.raises(ValueError, match="target='POSITIVE'.*subtract globenc alone"):
        one - explanation(text="UNHAPPY? Not bad.", target="NEGATIVE", prediction="NEGATIVE")
    # Classes that only one of the models has.
    alone = other_model(target="4 stars", probabilities={"4 stars": 0.5, "POSITIVE": 0.5})
    with pytest.raises(ValueError, match="target='POSITIVE'"):
        one - alone
    with pytest.raises(ValueError, match="with the same target="):
        one - other_model(target="4 stars", probabilities={"4 stars": 1.0})
    # A contrast class is a part of the target.
    with pytest.raises(ValueError, match="'POSITIVE' and 'POSITIVE rather than NEGATIVE'"):
        one - other_model(against="NEGATIVE")
    # A value and a logit have no difference, whatever they are called.
    with pytest.raises(ValueError, match=f"scores of {SIGNED} are in logit here and in value there"):
        one - other_model(probability=None, probabilities={})
    # Shares know no class.
    made = one.by(SHARES) - other.by(SHARES)
    assert set(made.scores[SHARES]) == {0.0}
    # The same model, which now predicts something else: another run, such as after training.
    with pytest.raises(ValueError, match="different outputs"):
        one - explanation(target="NEGATIVE", prediction="NEGATIVE")


def test_the_difference_of_two_models_names_both():
    made = explanation() - other_model()
    assert made.headline == "POSITIVE: one minus two"
    assert made.model == {"name": "one minus two", "class": "Bert minus Roberta"}
    assert made.probabilities == {}
    assert "model one minus two" in repr(made)
    assert "one minus two (Bert minus Roberta)" in made.to_html()
    assert made.captions[SIGNED] == "supports or opposes POSITIVE; one minus two"
    nameless = explanation(model={}) - explanation(model={}, settings={"baseline": "pad"})
    assert nameless.headline == "POSITIVE: this minus another explanation"
    baselines = [explanation(settings={"mixing": "N-Enc", "baseline": it}) for it in ("mask", "zero")]
    assert (baselines[0] - baselines[1]).headline == "POSITIVE: baseline=mask minus baseline=zero"


def test_other_tokens_of_one_text_are_aligned_by_words():
    # "bad" and "." are one word here, and the space before "Not" is a part of its token.
    tokens = ["<s>", "Unhappy", "?", "▁Not", "▁ba", "d.", "</s>", "</s>", "Good", "</s>"]
    spans = [
        None,
        Span(0, 7),
        Span(7, 8),
        Span(8, 12),
        Span(12, 15),
        Span(15, 17),
        None,
        None,
        Span(0, 4, 1),
        None,
    ]
    groups = [
        Word(text, places, text[0] == "<")
        for text, places in [
            ("<s>", (0,)), ("Unhappy", (1,)), ("?", (2,)), ("Not", (3,)), ("bad.", (4, 5)), ("</s>", (6,)),
            ("</s>", (7,)), ("Good", (8,)), ("</s>", (9,)),
        ]
    ]  # fmt: skip
    rows = {SHARES: [0.1] * 10, SIGNED: [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0]}
    layers = {SIGNED: [[1.0] * 10, rows[SIGNED]]}
    other = other_model(tokens=tokens, offsets=spans, groups=groups, scores=rows, layers=layers, ids=[])
    one = explanation(layers={SIGNED: [[1.0] * 10, explanation().scores[SIGNED]]}, ids=[*range(10)])
    made = one - other
    assert made.tokens == ["Unhappy", "?", "Not", "bad.", "Good", "[special tokens]"]
    assert made.words(SIGNED) == [
        ("Unhappy", -3.5 - 2), ("?", 0.25 - 4), ("Not", 3.0 - 8), ("bad.", 1.125 - 48), ("Good", 2.0 - 256),
        ("[special tokens]", 0.3125 - 705),
    ]  # fmt: skip
    assert made.layers[SIGNED][1] == made.scores[SIGNED]
    assert made.layers[SIGNED][0] == [1.0, 0.0, 0.0, 0.0, 0.0, -1.0]
    for method in (SHARES, SIGNED):
        expected = math.fsum(one.scores[method]) - math.fsum(other.scores[method])
        assert total(made.words(method)) == pytest.approx(expected)
    assert [piece.text for pieces in made.pieces() for piece in pieces if piece.tokens] == made.tokens
    assert Explanation.from_dict(made.to_dict()) == made
    assert made.sums[SIGNED].endswith("= 0.00 logit of POSITIVE; one minus two")


def test_explanations_that_cannot_be_aligned_are_rejected():
    one = explanation()
    tokens = ["x", *one.tokens[1:]]
    with pytest.raises(ValueError, match="cannot be aligned by words: explain with fast tokenizers"):
        one - explanation(tokens=tokens, offsets=[])
    with pytest.raises(ValueError, match="different tokens: only explanations of one text can be aligned"):
        one - explanation(tokens=tokens, pair="Bad")


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


def test_without_pandas_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r'pip install "\.\[pandas\]"'):
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


def test_a_headline_has_single_spaces_where_answers_start_with_one():
    it = explanation(target=" big", against=" small")
    assert it.headline.endswith("explained: big rather than small")
    assert it.captions[SIGNED] == "supports or opposes big rather than small"
    assert "  " not in it.notes[SIGNED]
    difference = explanation(target=" big") - explanation(target=" small")
    assert difference.headline == "big minus small"
