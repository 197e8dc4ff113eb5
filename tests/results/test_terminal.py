"""The terminal view of an explanation: shades, captions, numbers in their units."""

import io
import re
from itertools import pairwise

import pytest
from rich.console import Console
from rich.style import Style
from test_explanation import BARS
from test_explanation import explanation as pair

from captum_globenc.drawing.picture import Picture
from captum_globenc.results import terminal
from captum_globenc.results.explanation import Explanation
from captum_globenc.results.explanations import Explanations
from captum_globenc.results.record import Span
from captum_globenc.results.shading import CUT, UNREAD
from captum_globenc.results.terminal import printable
from captum_globenc.results.words import Word
from colours import contrast

SIGNED = "transformer-deep-lift"
STEPS = [step / 200 for step in range(201)]


def explanation(**options):
    usual = {
        "text": "not bad",
        "pair": None,
        "prediction": "POSITIVE",
        "probability": 0.981,
        "value": 4.9,
        "probabilities": {"NEGATIVE": 0.019, "POSITIVE": 0.981},
        "target": "POSITIVE",
        "against": None,
        "explained": 4.9,
        "position": 0,
        "tokens": ["[CLS]", "not", "bad"],
        "scores": {"globenc": [0.125, 0.5, 0.375], "transformer-deep-lift": [0.0, 5.1, -1.0]},
        "kinds": {"globenc": "shares", "transformer-deep-lift": "contributions"},
    }
    return Explanation(**{**usual, **options})


def shown(found, *, terminal_=None, **options):
    console = Console(file=io.StringIO(), width=80, highlight=False, **terminal_ or {})
    console.print(terminal.Shown(found, **options))
    return console.file.getvalue()


def numbers(found, **options):
    """The shown lines, split at spaces, without bars."""
    return [line.translate(BARS).split() for line in shown(found, **options).splitlines()]


def shade(strength, signed):
    text, background = re.findall("#(.{6})", terminal._shade(strength, signed))
    return bytes.fromhex(text), bytes.fromhex(background)


@pytest.mark.parametrize(("sign", "signed"), [(1, True), (-1, True), (1, False)])
def test_shades_grow_smoothly_from_gray_and_are_legible(sign, signed):
    shades = [shade(sign * step, signed)[1] for step in STEPS]
    assert shades[0] == bytes(terminal.NEUTRAL)
    distances = [sum(abs(a - b) for a, b in zip(it, shades[0], strict=True)) for it in shades]
    assert distances == sorted(distances)
    assert len(set(distances)) > 100
    for before, after in pairwise(shades):
        assert max(abs(a - b) for a, b in zip(before, after, strict=True)) <= 2
    for step in STEPS:
        text, background = shade(sign * step, signed)
        assert contrast(text, background) > 4.5


def test_support_opposition_and_shares_have_different_hues():
    assert len({shade(1.0, True)[1], shade(-1.0, True)[1], shade(1.0, False)[1]}) == 3


def test_every_method_has_a_caption_and_the_sum_of_its_scores():
    lines = shown(explanation()).splitlines()
    assert lines[:6] == [
        "POSITIVE (98.1%)",
        "globenc · share of each token in the representation of [CLS]",
        "[CLS] not bad",
        "transformer-deep-lift · supports or opposes POSITIVE",
        "[CLS] not bad",
        "0.80 baseline + 4.10 tokens = 4.90 logit of POSITIVE",
    ]


def test_each_column_has_one_unit():
    lines = numbers(explanation())
    assert ["#", "token", "globenc,", "%", "transformer-deep-lift,", "logit"] in lines
    assert ["0", "[CLS]", "12.5", "0.000"] in lines
    assert ["1", "not", "50.0", "+5.100"] in lines
    assert ["2", "bad", "37.5", "-1.000"] in lines


def test_opposing_words_are_marked_without_colors():
    styled = shown(explanation(), terminal_={"force_terminal": True, "no_color": True})
    assert "transformer-deep-lift · supports or opposes (underlined) POSITIVE" in re.sub(
        r"\x1b\[.*?m", "", styled
    )
    assert re.findall(r"\x1b\[4m(.*?)\x1b", styled) == ["opposes", "bad"]


def test_layers_of_signed_scores_are_logits_and_start_at_layer_0():
    layers = {
        "globenc": [[0.5, 0.25, 0.25], [0.125, 0.5, 0.375]],
        "transformer-deep-lift": [[0.0, 5.1, -1.0], [0.2, 4.9, -1.0], [4.1, 0.0, 0.0]],
    }
    lines = [line.split() for line in shown(explanation(layers=layers)).splitlines()]
    assert ["%", "after", "layer", "1", "2"] in lines
    assert ["[CLS]", "50.0", "12.5"] in lines
    assert ["logit", "after", "layer", "0", "1", "2"] in lines
    assert ["not", "+5.100", "+4.900", "0.000"] in lines
    out = " ".join(shown(explanation(layers=layers)).split())
    assert out.count("The score is the share after the last layer.") == 1
    assert out.count("The score is the contribution at 0.") == 1
    assert lines.index(["globenc"]) < lines.index(["transformer-deep-lift"])


def test_many_signed_layers_stay_within_the_screen():
    rows = {"transformer-deep-lift": [[-11.5, 11.25, 0.0]] * 25}
    out = shown(explanation(layers=rows))
    assert max(map(len, out.splitlines())) <= 80
    heads = [line.split()[3:] for line in out.splitlines() if "logit after layer" in line]
    assert [int(number) for head in heads for number in head] == list(range(25))


@pytest.mark.parametrize(
    ("explained", "tokens", "said"),
    [
        (3.433, 2.057, "1.37 baseline + 2.06 tokens = 3.43"),
        (-2.522, -1.487, "-1.03 baseline - 1.49 tokens = -2.52"),
        (1.0, 1.0049, "0.00 baseline + 1.00 tokens = 1.00"),
        (0.001, -0.001, "0.00 baseline + 0.00 tokens = 0.00"),
    ],
)
def test_shown_sums_are_correct_as_rounded(explained, tokens, said):
    found = explanation(explained=explained, scores={"transformer-deep-lift": [tokens, 0.0, 0.0]})
    assert found.sums == {"transformer-deep-lift": f"{said} logit of POSITIVE"}


def test_the_text_is_shown_as_it_was_written_and_a_pair_in_a_line_of_its_own():
    lines = shown(pair()).splitlines()
    assert lines.count("[CLS] Unhappy? Not bad. [SEP]") == lines.count("Good [SEP]") == 2
    assert lines.index("Good [SEP]") == lines.index("[CLS] Unhappy? Not bad. [SEP]") + 1
    hidden = shown(pair(), special=False).splitlines()
    assert hidden.count("Unhappy? Not bad.") == hidden.count("Good") == 2


def test_words_sum_their_tokens_and_tokens_have_ids():
    assert ["Unhappy", "25.0", "-3.500"] in numbers(pair())
    lines = numbers(pair(ids=[*range(100, 110)]), of="tokens")
    assert ["#", "id", "token", "globenc,", "%", "transformer-deep-lift,", "logit"] in lines
    assert ["1", "101", "un", "12.5", "-1.500"] in lines
    assert ["2", "102", "##happy", "12.5", "-2.000"] in lines


@pytest.mark.parametrize("of", ["words", "tokens"])
@pytest.mark.parametrize("options", [{"special": False}, {"top": 2}, {"top": 1, "special": False}])
def test_columns_keep_their_sum_when_rows_are_hidden(of, options):
    found = pair()
    lines = numbers(found, of=of, **options)
    start = next(index for index, line in enumerate(lines) if "globenc," in line) + 2
    rows = [line for line in lines[start : lines.index([], start)] if line]
    assert rows[-1][-4:-2] == ["other", "tokens"]
    assert len(rows) == options.get("top", len(rows) - 1) + 1
    sums = [sum(float(row[column]) for row in rows) for column in (-2, -1)]
    assert sums == pytest.approx([100 * sum(found.scores["globenc"]), sum(found.scores[SIGNED])], abs=0.3)
    strongest = {"words": "Unhappy", "tokens": "not"}[of]
    assert "top" not in options or strongest in rows[0]


def test_the_length_of_a_bar_is_the_strength_of_the_score():
    lines = shown(explanation()).splitlines()
    bars = [re.findall("[█▏▎▍▌▋▊▉]+", line) for line in lines if re.match(r" +\d  ", line)]
    assert bars == [["██"], ["█" * 8, "█" * 21], ["██████", "████▏"]]


def test_an_ascii_terminal_gets_ascii_bars():
    file = io.TextIOWrapper(io.BytesIO(), "ascii", "replace")
    Console(file=file, width=80).print(terminal.Shown(explanation()))
    file.flush()
    lines = file.buffer.getvalue().decode("ascii").splitlines()
    (row,) = [line.replace("|", "").split() for line in lines if " not " in line and "50.0" in line]
    assert row == ["1", "not", "50.0", "#" * 8, "+5.100", "#" * 21]


def test_several_texts_are_numbered_and_one_is_not():
    console = Console(file=io.StringIO(), width=80)
    console.print(Explanations([explanation(), explanation()]))
    console.print(Explanations([explanation()]))
    lines = console.file.getvalue().splitlines()
    assert [line for line in lines if "POSITIVE (" in line] == [
        "1. POSITIVE (98.1%)", "2. POSITIVE (98.1%)", "POSITIVE (98.1%)",
    ]  # fmt: skip


def test_text_that_the_model_does_not_read_has_a_note():
    text = "\U0001f600\U0001f600 not\x1b[31m bad" + " and so on" * 9
    found = explanation(
        text=text,
        tokens=["[CLS]", "[UNK]", "not"],
        groups=[Word("[CLS]", (0,), True), Word(text[:2], (1,), False), Word("not", (2,), False)],
        offsets=[None, Span(0, 2), Span(3, 6)],
        unknown=[1],
    )
    lines = shown(found).splitlines()
    assert "not in the vocabulary: the model reads [UNK]: \U0001f600\U0001f600" in lines
    assert any(line.startswith(f"{UNREAD}: \ufffd[31m bad") for line in lines)
    cut = shown(explanation(**{**vars(found), "truncated": True})).splitlines()
    assert CUT in cut
    assert not any(UNREAD in line for line in cut)


def squares(columns, rows, **options):
    names = [f"row {row}, column {column}" for row in range(1, rows + 1) for column in range(1, columns + 1)]
    return explanation(
        text="cat.png",
        position=None,
        tokens=names,
        groups=[Word(name, (place,), False) for place, name in enumerate(names)],
        picture=Picture("image", [16] * columns, [16] * rows, "data:image/png;base64,iVBORw0KGgo="),
        **options,
    )


def test_an_image_is_shaded_by_square_and_lists_the_strongest():
    scores = {"globenc": [0.125] * 8, SIGNED: [0.0, 1.0, -2.0, 0.0, 0.0, 0.0, 0.5, 0.0]}
    found = squares(4, 2, scores=scores)
    lines = numbers(found, top=2)
    assert lines[0] == ["cat.png:", "POSITIVE", "(98.1%)"]
    assert " ".join(lines[1]) == "globenc · share of each square in the representation that the head reads"
    assert ["square", "globenc,", "%", f"{SIGNED},", "logit"] in lines
    assert [line for line in lines if line[:1] == ["row"] or "other" in line] == [
        ["row", "1,", "column", "3", "12.5", "-2.000"],
        ["row", "1,", "column", "2", "12.5", "+1.000"],
        ["6", "other", "squares", "75.0", "+0.500"],
    ]
    assert "5.40 baseline - 0.50 squares = 4.90 logit of POSITIVE" in shown(found)
    # Rich keeps a style as the terminal before took it, which may have had fewer colours.
    Style.parse.cache_clear()
    Style._add.cache_clear()
    colours = shown(found, terminal_={"force_terminal": True, "color_system": "truecolor"}).splitlines()
    grid = [re.findall(r"48;2;(\d+;\d+;\d+)m( +)", line) for line in colours[5:7]]
    assert [[cell for _, cell in row] for row in grid] == [["  "] * 4] * 2
    expected = [";".join(map(str, shade(it / 2, True)[1])) for it in scores[SIGNED]]
    assert [colour for row in grid for colour, _ in row] == expected


def test_the_ten_strongest_squares_are_listed_by_default():
    found = squares(4, 4, scores={SIGNED: [float(place) for place in range(16)]})
    rows = [
        [line for line in numbers(found, **options) if line[:1] == ["row"]] for options in ({}, {"top": 16})
    ]
    assert [len(it) for it in rows] == [10, 16]


def test_a_grid_that_is_too_wide_gets_narrower_cells():
    options = {"terminal_": {"force_terminal": True}, "top": 1}
    for columns, width in ((40, 80), (41, 41)):
        found = squares(columns, 1, scores={SIGNED: [1.0] * columns})
        line = shown(found, **options).splitlines()[2]
        assert len(re.sub(r"\x1b\[[^m]*m", "", line)) == width


LETTERS = ["\u0645\u06cc\u200c\u062e", "👩\u200d🚀", "面白い\u3000本", "a\u00a0b", "\u200f\u05e9"]


@pytest.mark.parametrize("text", LETTERS)
def test_invisible_joining_characters_stay_in_words(text):
    assert printable(text) == text


@pytest.mark.parametrize("char", "\x1b\n\t\x07\u202e\u2066\u2028\ufdd0\ue000")
def test_control_characters_are_replaced(char):
    assert printable(f"a{char}b") == "a\ufffdb"
    assert printable(f"a{char}b", char) == f"a{char}b"


def test_classes_side_by_side_are_ranked_by_any_class():
    scores = {"globenc": [0.9, 0.05, 0.05], "lift: good": [0.0, 3.0, 1.0], "lift: bad": [0.0, -1.0, 4.0]}
    kinds = {"globenc": "shares", "lift: good": "contributions", "lift: bad": "contributions"}
    outputs = {"lift: good": ("good", 1.0), "lift: bad": ("bad", 2.0)}
    found = explanation(scores=scores, kinds=kinds, outputs=outputs)
    lines = [line.split()[:2] for line in shown(found, top=2).splitlines()]
    rows = lines[next(number for number, line in enumerate(lines) if line[:1] == ["#"]) + 2 :]
    assert rows[:3] == [["2", "bad"], ["1", "not"], ["1", "other"]]


def test_columns_of_many_methods_continue_in_another_table():
    names = ("globenc", "integrated-gradients", "decompx", "lime", "feature-ablation")
    kinds = {"globenc": "shares", **dict.fromkeys(names[1:], "contributions")}
    found = explanation(scores={name: [0.125, 0.5, -1.0] for name in names}, kinds=kinds)
    console = Console(file=io.StringIO(), width=80)
    console.print(terminal.Shown(found))
    lines = console.file.getvalue().splitlines()
    assert "\N{HORIZONTAL ELLIPSIS}" not in "".join(lines)
    heads = [line.split() for line in lines if "globenc, " in line or ", logit" in line]
    assert [word.rstrip(",") for head in heads for word in head if word.endswith(",")] == [*names]
    rows = [line.split() for line in lines if " bad " in line and "-1.000" in line]
    assert len(rows) == len(heads) > 1
