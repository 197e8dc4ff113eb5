"""The page of generated text: prompt above, answer below, shaded by the selected token of the answer."""

from dataclasses import replace

import pytest
from test_explanation import SIGNED, explanation

from captum_globenc import Explanations
from captum_globenc.results.record import Answer, Span
from captum_globenc.results.words import Word

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
    """How each word of the prompt is shaded: for or against, and how strongly."""
    found = page.eval_on_selector_all(
        ".shaded :is(.for, .against)",
        "them => them.map(it => [it.className.split(' ')[0], Number(it.style.getPropertyValue('--s'))])",
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


def test_hovering_tells_the_score_of_the_selected_token(show):
    page = show(Explanations([GENERATED]))
    page.locator(".answer button").nth(0).click()
    page.locator(".shaded").get_by_text("red").hover()
    assert "+2.000" in page.locator("#tip").inner_text()


def test_an_answer_without_rows_is_shown_and_not_selected(show):
    page = show(Explanations([replace(GENERATED, answer_scores={})]))
    assert page.locator(".answer button").count() == 0
    assert page.locator(".answer .tokens").inner_text() == "blue <b>"
    assert page.locator(".answer span").first.get_attribute("title") == "log-probability -1.000"
