"""The page of generated text: prompt above, answer below, shaded by the selected token of the answer."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from test_explanation import SIGNED, explanation
from test_page_in_browser import COLOURS, downloaded

from captum_globenc import Explanations
from captum_globenc.results.record import Answer, Span
from captum_globenc.results.words import Word
from colours import contrast

pytestmark = pytest.mark.browser

WORDS = ["the", "red", "mat"]
ROWS = [[0.0, 2.0, -1.0], [1.0, -0.5, 0.0]]
GENERATED = explanation(
    text="the red mat",
    pair=None,
    position=None,
    prediction="blue <b>",
    probability=None,
    probabilities={},
    target="blue <b>",
    value=-1.5,
    explained=-1.5,
    tokens=WORDS,
    scores={SIGNED: [1.0, 1.5, -1.0]},
    kinds={SIGNED: "contributions"},
    layers={},
    groups=[Word(word, (place,), False) for place, word in enumerate(WORDS)],
    offsets=[Span(0, 3), Span(4, 7), Span(8, 11)],
    answer=Answer("blue <b>", ["blue", "<b>"], [7, 8], [-1.0, -0.5]),
    answer_scores={SIGNED: ROWS},
)


def looks(page):
    """How each word of the prompt is shaded: its class (for or against) and its strength."""
    found = page.locator(".shaded :is(.for, .against)").evaluate_all(
        "them => them.map(it => [it.className.split(' ')[0], Number(it.style.getPropertyValue('--s'))])"
    )
    return [strength if kind == "for" else -strength for kind, strength in found]


WHOLE = pytest.approx([2 / 3, 1, -2 / 3], abs=1e-3)


@pytest.mark.parametrize("touch", [False, True])
def test_selecting_an_answer_token_shades_the_prompt_by_its_row(show, touch):
    page = show(Explanations([GENERATED]), **({"has_touch": True} if touch else {}))
    buttons = page.locator(".answer button")
    assert buttons.all_inner_texts() == ["blue", "<b>"]
    assert looks(page) == WHOLE
    press = (lambda it: it.tap()) if touch else (lambda it: it.click())
    press(buttons.nth(0))
    assert looks(page) == pytest.approx([0, 1, -0.5], abs=1e-3)
    assert buttons.nth(0).get_attribute("aria-pressed") == "true"
    press(buttons.nth(1))
    assert looks(page) == pytest.approx([1, -0.5, 0], abs=1e-3)
    press(buttons.nth(1))
    assert looks(page) == WHOLE
    assert page.locator('.answer [aria-pressed="true"]').count() == 0


def test_the_keyboard_goes_through_the_answer(show):
    page = show(Explanations([GENERATED]))
    buttons = page.locator(".answer button")
    buttons.nth(0).focus()
    page.keyboard.press("ArrowRight")
    assert looks(page) == pytest.approx([1, -0.5, 0], abs=1e-3)
    assert page.evaluate("document.activeElement.textContent") == "<b>"
    page.keyboard.press("Home")
    assert looks(page) == pytest.approx([0, 1, -0.5], abs=1e-3)
    page.keyboard.press("Escape")
    assert looks(page) == WHOLE
    assert page.locator('.answer button[tabindex="0"]').count() == 1


def test_hover_shows_the_score_for_the_selected_token(show):
    page = show(Explanations([GENERATED]))
    page.locator(".answer button").nth(0).click()
    page.locator(".shaded").get_by_text("red").hover()
    assert "+2.000" in page.locator("#tip").inner_text()


def test_an_answer_without_rows_is_shown_and_not_selected(show):
    page = show(Explanations([replace(GENERATED, answer_scores={})]))
    assert page.locator(".answer button").count() == 0
    assert page.locator(".answer .tokens").inner_text() == "blue <b>"
    assert page.locator(".answer span").first.get_attribute("title") == "log-probability -1.000"


def cells(table):
    """The rows of a table: their heads and the titles of their cells."""
    return {
        row.locator("th").inner_text(): row.locator("td").evaluate_all("them => them.map(it => it.title)")
        for row in table.locator("tr").all()[1:]
    }


def test_the_heat_map_shows_each_word_for_each_answer_token(show):
    other = replace(GENERATED, prediction="green")
    page = show(Explanations([GENERATED, other]))
    assert not page.get_by_role("combobox", name="Class").is_visible()
    article = page.locator("article").first
    table = article.locator("table.squares")
    assert table.locator("th[scope=col]").all_inner_texts() == ["", "blue", "<b>"]
    assert cells(table) == {
        "the": ["blue: +0 nats", "<b>: +1 nats"],
        "red": ["blue: +2 nats", "<b>: -0.5 nats"],
        "mat": ["blue: -1 nats", "<b>: +0 nats"],
    }
    shades = table.locator("td").evaluate_all("""them => them.map(it =>
      [it.className, Number(it.style.getPropertyValue('--s')), getComputedStyle(it).backgroundColor])""")
    # Relative to the strongest of all, whichever token of the answer it is of.
    assert [(kind, strength) for kind, strength, _ in shades] == [
        ("for", 0), ("for", 0.5), ("for", 1), ("against", 0.25), ("against", 0.5), ("for", 0),
    ]  # fmt: skip
    assert shades[2][2] == "rgb(255, 158, 64)"
    table.locator("td").nth(2).click()
    assert looks(article) == pytest.approx([0, 1, -0.5], abs=1e-3)
    assert page.locator("#said").inner_text() == "red → blue: +2 nats"
    table.locator("th[scope=col]").nth(2).click()
    assert looks(article) == pytest.approx([1, -0.5, 0], abs=1e-3)
    assert page.locator('.answer [aria-pressed="true"]').inner_text() == "<b>"


def long_prompt(count):
    """A prompt of so many sentences, of which the n-th scores n for the one token of the answer."""
    words = [word for number in range(count) for word in (f"Fact{number}", f"holds-{'x' * 60}.")]
    spans, start = [], 0
    for word in words:
        spans.append(Span(start, start + len(word)))
        start += len(word) + 1
    row = [float(place // 2) if place % 2 else 0.0 for place in range(len(words))]
    return replace(
        GENERATED,
        text=" ".join(words),
        tokens=words,
        scores={SIGNED: row},
        groups=[Word(word, (place,), False) for place, word in enumerate(words)],
        offsets=spans,
        answer=Answer("yes", ["yes"], [7], [-1.0]),
        answer_scores={SIGNED: [row]},
        passage_spans=[(f"page {number}", spans[2 * number]._replace(stop=spans[2 * number + 1].stop))
                       for number in range(3)],
    )  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_long_prompts_have_a_row_for_each_of_their_strongest_sentences(show, width, scheme):
    page = show(
        Explanations([long_prompt(120)]), viewport={"width": width, "height": 844}, color_scheme=scheme
    )
    table = page.locator("table.squares")
    # The names of the rows are in the order of the text; all 120 sum to the score of the answer.
    names = table.locator("th[scope=row]").all_inner_texts()
    assert [name.partition(" ")[0] for name in names] == [f"Fact{number}" for number in range(20, 120)]
    assert all(len(name) <= 70 for name in names)
    assert table.locator("td").last.get_attribute("title") == "yes: +119 nats"
    assert page.get_by_text("The 100 strongest of 120 sentences.").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    heights = table.locator("th[scope=row]").evaluate_all("them => them.map(it => it.offsetHeight)")
    assert max(heights) < 40  # a line each, however long the sentence
    for element in (table.locator("th[scope=row]").first, page.locator(".bars span").first):
        assert contrast(*element.evaluate(COLOURS)) > 4.5


def test_passages_are_ranked_with_bars_and_the_rest_of_the_prompt_is_last(show):
    signed = replace(
        GENERATED,
        scores={"other": [0.0] * 3, SIGNED: [1.0, -0.5, -2.0]},
        kinds={"other": "signed", SIGNED: "contributions"},
        answer_scores={},
        passage_spans=[("<a>", Span(8, 11)), ("b", Span(0, 3))],
    )
    page = show(Explanations([signed]))
    heading = page.get_by_role("heading", name=f"passages, by {SIGNED}")
    ranked = page.locator(".method", has=heading).get_by_role("list", name="Passages")
    assert [it.split() for it in ranked.get_by_role("listitem").all_inner_texts()] == [
        ["b", "+1.000"], ["<a>", "-2.000"], ["other", "tokens", "-0.500"],
    ]  # fmt: skip
    bars = ranked.locator("i").evaluate_all("them => them.map(it => [it.className, it.style.cssText])")
    assert bars == [["for", "--s: 0.500;"], ["against", "--s: 1.000;"], ["against", "--s: 0.250;"]]
    page.get_by_role("checkbox", name=SIGNED).uncheck()
    assert not heading.is_visible()
    assert page.get_by_role("heading", name="passages, by other").is_visible()


def test_an_exported_picture_holds_the_answer_and_the_bars(show):
    page = show(Explanations([replace(GENERATED, passage_spans=[("page", Span(4, 7))])]))
    _, content = downloaded(page, "SVG", page.get_by_role("article"))
    made = ET.fromstring(content)
    words = {it.text: float(it.get("y")) for it in made.iter("{http://www.w3.org/2000/svg}text")}
    assert {"red", "<b>", "page"} <= words.keys()
    assert max(words["<b>"], words["page"]) < float(made.get("height"))
    filled = [it.get("fill") for it in made.iter("{http://www.w3.org/2000/svg}rect")]
    assert filled.count("rgb(255, 158, 64)") >= 2  # two bars, one for the page and one for the rest


def test_a_notebook_shows_the_same_heat_map_and_bars(chromium):
    found = replace(GENERATED, passage_spans=[("page", Span(4, 7))])
    page = chromium.new_page(java_script_enabled=False)
    page.set_content(found._repr_html_())
    assert cells(page.locator("table.squares"))["red"] == ["blue: +2 nats", "<b>: -0.5 nats"]
    assert page.get_by_role("list", name="Passages").get_by_role("listitem").count() == 2
    drawn = page.locator(".bars, .squares").evaluate_all("them => them.map(it => it.outerHTML)")
    page.set_content(found.to_html())
    assert page.locator(".bars, .squares").evaluate_all("them => them.map(it => it.outerHTML)") == drawn
    page.close()
