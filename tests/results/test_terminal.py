"""What a terminal shows of an explanation: shades, captions, numbers in their units."""

import io
import re
from itertools import pairwise

import pytest
from rich.console import Console

from captum_globenc.results import terminal
from captum_globenc.results.explanation import Explanation
from colours import contrast

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


def shown(found, **options):
    console = Console(file=io.StringIO(), width=80, highlight=False, **options)
    terminal.show(console, found)
    return console.file.getvalue()


def shade(strength, signed):
    text, background = re.findall("#(.{6})", terminal._shade(strength, signed))
    return bytes.fromhex(text), bytes.fromhex(background)


@pytest.mark.parametrize(("sign", "signed"), [(1, True), (-1, True), (1, False)])
def test_shades_grow_from_grey_without_a_step_and_can_be_read(sign, signed):
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


def test_for_against_and_shares_have_hues_of_their_own():
    assert len({shade(1.0, True)[1], shade(-1.0, True)[1], shade(1.0, False)[1]}) == 3


def test_every_method_says_what_its_scores_are_and_what_they_add_up_to():
    lines = shown(explanation()).splitlines()
    assert lines[:6] == [
        "POSITIVE (98.1%)",
        "globenc · share of each token in what [CLS] has mixed in",
        "[CLS] not bad",
        "transformer-deep-lift · for and against POSITIVE",
        "[CLS] not bad",
        "0.80 baseline + 4.10 tokens = 4.90 logit of POSITIVE",
    ]


def test_each_column_has_one_unit():
    lines = [line.split() for line in shown(explanation()).splitlines()]
    assert ["#", "token", "globenc,", "%", "transformer-deep-lift,", "logit"] in lines
    assert ["0", "[CLS]", "12.5", "0.000"] in lines
    assert ["1", "not", "50.0", "+5.100"] in lines
    assert ["2", "bad", "37.5", "-1.000"] in lines


def test_what_speaks_against_is_told_without_colours_too():
    styled = shown(explanation(), force_terminal=True, no_color=True)
    assert "transformer-deep-lift · for and against (underlined) POSITIVE" in styled
    assert re.findall(r"\x1b\[4m(.*?)\x1b", styled) == ["bad"]


def test_layers_of_signed_scores_are_logits_and_begin_with_what_enters_the_first():
    layers = {
        "globenc": [[0.5, 0.25, 0.25], [0.125, 0.5, 0.375]],
        "transformer-deep-lift": [[0.0, 5.1, -1.0], [0.2, 4.9, -1.0], [4.1, 0.0, 0.0]],
    }
    lines = [line.split() for line in shown(explanation(layers=layers)).splitlines()]
    assert ["%", "after", "layer", "1", "2"] in lines
    assert ["[CLS]", "50.0", "12.5"] in lines
    assert ["logit", "after", "layer", "0", "1", "2"] in lines
    assert ["not", "+5.100", "+4.900", "0.000"] in lines
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
def test_a_sum_adds_up_as_it_is_shown(explained, tokens, said):
    found = explanation(explained=explained, scores={"transformer-deep-lift": [tokens, 0.0, 0.0]})
    assert found.sums == {"transformer-deep-lift": f"{said} logit of POSITIVE"}
