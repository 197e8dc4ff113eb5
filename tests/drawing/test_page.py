"""Pages and their parts: escaping, no external resources, contrast of all shades."""

import re

import pytest
import torch

from captum_globenc.drawing import elements, style
from captum_globenc.drawing.document import html_page
from captum_globenc.drawing.numbers import strengths
from colours import contrast
from markup import HOSTILE, Page


def test_scores_that_are_all_zero_stay_zero():
    assert strengths([0.0, 0.0]) == [0.0, 0.0]
    assert strengths([]) == []


def test_everything_in_a_page_is_escaped():
    page = html_page([[HOSTILE, "b"]], {HOSTILE: [[1, 2]]}, headings=[HOSTILE], title=HOSTILE)
    tags = {tag for tag, _ in Page(page).elements}
    assert "script" not in tags
    # The title and the heading; method and token, over the tokens and in the table of numbers.
    assert Page(page).text.count(HOSTILE) == 7


def test_a_page_loads_nothing_else():
    page = html_page([["a"]], {"GlobEnc": [[1.0]]})
    for tag, attributes in Page(page).elements:
        assert tag not in {"script", "link", "img", "iframe", "object", "form"}
        assert not [name for name in attributes if name in {"src", "href"} or name.startswith("on")]
    assert "url(" not in page
    assert "://" not in page
    assert "@media (prefers-color-scheme: dark)" in page


def test_a_page_shows_every_method_of_every_text_with_its_numbers_on_hover():
    scores = {"GlobEnc": [[0.25, 0.75], torch.tensor([1.0])], "other": [[-2.0, 0.5], [0.0]]}
    page = Page(html_page([["a", "b"], ["c"]], scores))
    spans = [attributes for tag, attributes in page.elements if tag == "span" and "title" in attributes]
    assert [(span["class"], span["title"], span["style"]) for span in spans] == [
        ("share", "0.25", "--s:0.333"),
        ("share", "0.75", "--s:1.000"),
        ("against", "-2", "--s:1.000"),
        ("for", "0.5", "--s:0.250"),
        ("share", "1", "--s:1.000"),
        ("share", "0", "--s:0.000"),
    ]
    assert [tag for tag, _ in page.elements].count("h2") == 2


@pytest.mark.parametrize(
    ("score", "unit", "signed"),
    [(0.5, None, False), (-0.5, None, True), (0.5, "logit", True), (0.5, "%", False)],
)
def test_the_legend_describes_shares_or_signed_scores(score, unit, signed):
    units = {} if unit is None else {"method": unit}
    page = Page(html_page([["a"]], {"method": [[score]]}, units=units))
    legend = page.text.partition("Shades are relative")[0]
    assert ("Opposes (underlined)  supports" in legend) is signed
    assert ("largest share" in legend) is not signed
    assert "negative" not in page.text


def test_numbers_are_shown_in_their_units():
    rows = {"globenc": [[0.125, 0.875]], "deep": [[2.5, -0.0001]], "plain": [[1.0, 2.0]]}
    shown = Page(html_page([["a", "b"]], rows, units={"globenc": "%", "deep": "logit"}))
    numbers = shown.text.partition("Numbers")[2].split()
    assert numbers[:3] == ["tokenglobenc,", "%deep,", "logitplain"]
    assert numbers[3:] == ["a12.5+2.5001.0000", "b87.50.0002.0000"]
    titles = [attributes.get("title") for tag, attributes in shown.elements if tag == "span"]
    assert [it for it in titles if it] == ["12.5 %", "87.5 %", "+2.5 logit", "-0.0001 logit", "1", "2"]
    classes = [attributes["class"] for tag, attributes in shown.elements if "title" in attributes]
    assert classes == ["share", "share", "for", "against", "share", "share"]


def test_notes_are_escaped_and_shown_under_each_method():
    notes = {"m": [HOSTILE, ""]}
    shown = Page(html_page([["a"], ["b"]], {"m": [[1.0], [1.0]], "n": [[1.0], None]}, notes=notes))
    assert HOSTILE in shown.text
    lines = [attributes for tag, attributes in shown.elements if attributes.get("class") == "note"]
    assert len(lines) == 1
    # A method without scores for a text is not shown there.
    assert [tag for tag, _ in shown.elements].count("h3") == 3


@pytest.mark.parametrize(
    ("tokens", "methods", "headings", "message"),
    [
        ([["a"]], {"m": [[1.0]]}, ["x", "y"], "2 headings for 1 texts"),
        ([["a"]], {"m": []}, None, "m has scores for 0 texts, not 1"),
        ([["a"]], {"m": [[1.0, 2.0]]}, None, "m has 2 scores for the 1 tokens of text 1"),
    ],
)
def test_a_page_needs_scores_for_each_text(tokens, methods, headings, message):
    with pytest.raises(ValueError, match=message):
        html_page(tokens, methods, headings=headings)


def test_a_page_needs_a_note_for_each_text():
    with pytest.raises(ValueError, match="m has notes for 2 texts, not 1"):
        html_page([["a"]], {"m": [[1.0]]}, notes={"m": ["x", "y"]})


def test_the_heat_map_of_signed_scores_starts_at_layer_0():
    table = Page(elements.layer_map(["a", "b"], [[0.25, -1.5], [-0.5, 0.0]], "logit", first=0))
    assert table.text.split()[-5:] == ["logit", "after", "layer01", "a+0.250-0.500", "b-1.5000.000"]
    assert table.text.startswith(elements.depths_note("logit"))
    cells = [attributes for tag, attributes in table.elements if tag == "td"]
    assert [cell["class"] for cell in cells] == ["for", "against", "against", "for"]
    assert [cell["title"] for cell in cells] == ["+0.25 logit", "-0.5 logit", "-1.5 logit", "+0 logit"]


def test_the_heat_map_shows_every_layer_of_every_token_escaped():
    table = Page(elements.layer_map([HOSTILE, "b"], [[0.25, 0.75], [0.5, 0.5], [1.0, -0.5]]))
    cells = [attributes for tag, attributes in table.elements if tag == "td"]
    assert [cell["title"] for cell in cells] == ["25 %", "50 %", "100 %", "75 %", "50 %", "-50 %"]
    assert [cell["style"] for cell in cells][:3] == [
        "--s:0.333",
        "--s:1.000",
        "--s:1.000",
    ]
    assert [cell["class"] for cell in cells][-1] == "against"
    assert "script" not in [tag for tag, _ in table.elements]
    assert HOSTILE in table.text


def test_scrolling_parts_can_be_reached_with_the_keyboard():
    for part in (elements.layer_map(["a"], [[1.0]]), elements.number_table(["a"], {"m": [1.0]})):
        region = dict(Page(part).elements)["div"]
        assert (region["tabindex"], region["role"]) == ("0", "region")
        assert region["aria-label"]


def themes():
    """The colours of the light and of the dark theme by name."""
    for block in style.PAGE_STYLE.split("@media"):
        named = re.findall(r"--(\w+): #(\w{6});", block)
        listed = re.findall(r"--(\w+): (\d+) (\d+) (\d+);", block)
        yield {name: bytes.fromhex(value) for name, value in named} | {
            name: [int(part) for part in parts] for name, *parts in listed
        }


def test_text_can_be_read_on_every_shade_of_both_themes():
    found = list(themes())
    assert len(found) == 2
    for theme in found:
        for shade in ("page", "for", "against", "share"):
            assert contrast(theme["text"], theme[shade]) > 5
        assert contrast(theme["quiet"], theme["page"]) > 5
