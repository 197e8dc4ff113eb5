"""The page of explanations in a browser: hover, touch, keyboard, search."""

import csv
import io
import json
import re
import struct
import xml.etree.ElementTree as ET
from itertools import accumulate

import numpy as np
import pytest
from test_explanation import SHARES, SIGNED, explanation

from captum_globenc import Explanations
from captum_globenc.drawing.numbers import number
from captum_globenc.results.record import Span
from captum_globenc.results.words import Word, merge_scores
from colours import contrast
from markup import HOSTILE

pytestmark = pytest.mark.browser

LAYERS = {SHARES: [[0.1] * 10, [0.05] * 10], SIGNED: [[0.25] * 10, [0.5] * 10, [-0.5] * 10]}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
DEEP = explanation(layers=LAYERS, ids=list(range(100, 110)))


def plain(text, **options):
    """A text of words with spaces between, which are tokens, the n-th of score n."""
    words = text.split(" ")
    starts = [0, *accumulate(len(word) + 1 for word in words[:-1])]
    usual = {
        "text": text,
        "pair": None,
        "position": None,
        "tokens": words,
        "scores": {SIGNED: [float(place) for place in range(len(words))]},
        "groups": [Word(word, (place,), False) for place, word in enumerate(words)],
        "offsets": [Span(start, start + len(word)) for start, word in zip(starts, words, strict=True)],
    }
    return explanation(**{**usual, **options})


MANY = Explanations(
    [
        plain("a fine film", prediction="POSITIVE", probability=0.75),
        plain("Dull and long", prediction="NEGATIVE", probability=0.875),
        plain("what a (fine) day", prediction="POSITIVE", probability=0.5),
    ]
)


def piece(page, text, method=SIGNED):
    return page.locator(f'.shaded[data-method="{method}"]').get_by_text(text, exact=True).first


def rows(table):
    """The cells of a table, a list a row."""
    return [row.locator("th, td").all_inner_texts() for row in table.locator("tr").all()]


COLOURS = """element => {
    const colour = (it, name) => getComputedStyle(it)[name].match(/[0-9.]+/g).map(Number);
    let behind = element;
    while (colour(behind, "backgroundColor")[3] === 0) behind = behind.parentElement;
    return [colour(element, "color"), colour(behind, "backgroundColor")].map((it) => it.slice(0, 3));
}"""
"""The colours of a text and of what is behind it."""

NUMBERS = [
    ["", f"{SHARES}, %", f"{SIGNED}, logit"],
    ["score", "25.0", "-3.500"],
    ["after layer 0", "", "+0.500"],
    ["after layer 1", "20.0", "+1.000"],
    ["after layer 2", "10.0", "-1.000"],
]
"""Of the word Unhappy, which is two tokens."""


def test_hover_shows_the_numbers_of_all_methods_and_layers(show):
    page = show(DEEP)
    tip = page.get_by_role("tooltip")
    piece(page, "Unhappy").hover()
    assert tip.locator("b").inner_text() == "Unhappy"
    assert rows(tip) == NUMBERS
    # The same word is marked in every method's line.
    assert page.locator(".same").all_inner_texts() == ["Unhappy", "Unhappy"]
    page.mouse.move(0, 0)
    assert tip.is_hidden()
    piece(page, "Good", SHARES).hover()
    assert rows(tip)[1] == ["score", "6.3", "+2.000"]
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_keys_go_from_word_to_word(show):
    page = show(DEEP)
    tip = page.get_by_role("tooltip")
    piece(page, "[CLS]").focus()
    steps = {"ArrowRight": "Unhappy", "End": "[SEP]", "ArrowLeft": "Good", "Home": "[CLS]"}
    for key, text in steps.items():
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.textContent") == text
        assert tip.locator("b").inner_text() == text
        assert page.locator(":focus").get_attribute("aria-describedby") == "tip"
    # A line is one stop of Tab: it is left at once, and come back to where it was.
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Layers"
    page.keyboard.press("Shift+Tab")
    assert page.locator(":focus").inner_text() == "Unhappy"
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    assert dialog.get_by_role("heading").first.inner_text() == "Unhappy"
    page.keyboard.press("Escape")
    assert dialog.is_hidden()
    assert page.locator(":focus").inner_text() == "Unhappy"


def test_arrows_follow_the_direction_of_the_text(show):
    words = ["[CLS]", "שלום", "עולם", "טוב"]
    found = plain(
        "שלום עולם טוב",
        tokens=words,
        scores={SIGNED: [1.0, 2.0, 3.0, 4.0]},
        groups=[Word(word, (place,), place == 0) for place, word in enumerate(words)],
        offsets=[None, Span(0, 4), Span(5, 9), Span(10, 13)],
    )
    page = show(found)
    assert page.locator(".tokens").evaluate("it => getComputedStyle(it).direction") == "rtl"
    piece(page, "[CLS]").focus()
    for key, text in [("ArrowLeft", "שלום"), ("ArrowLeft", "עולם"), ("ArrowRight", "שלום")]:
        page.keyboard.press(key)
        assert page.locator(":focus").inner_text() == text


def test_words_of_two_directions_stand_in_the_order_in_which_they_are_read(show):
    page = show(plain("He said שלום עולם to us"))
    left = {text: piece(page, text).bounding_box()["x"] for text in ("said", "שלום", "עולם", "to")}
    assert sorted(left, key=left.get) == ["said", "עולם", "שלום", "to"]


def test_tab_goes_past_the_list_of_contents(show):
    page = show(MANY)
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "To the texts"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.locator(":focus").get_attribute("href") == "#text-1"
    assert page.evaluate("document.activeElement.closest('article') !== null")


def test_a_tap_shows_the_numbers(show):
    page = show(DEEP, **PHONE)
    piece(page, "Unhappy").tap()
    panel = page.get_by_role("dialog")
    assert rows(panel.get_by_role("region", name="Scores")) == NUMBERS
    assert page.get_by_role("tooltip").is_hidden()
    box = panel.bounding_box()
    assert (box["x"], box["width"]) == (0, 390)
    panel.get_by_role("button", name="Close").tap()
    assert panel.is_hidden()


def test_a_click_shows_the_origin_of_a_word(show):
    page = show(DEEP)
    panel = page.get_by_role("dialog")
    piece(page, "Unhappy").click()
    assert panel.locator("mark").inner_text() == "Unhappy"
    assert panel.locator(".around").inner_text() == DEEP.text
    assert "characters 0 to 7 of the first text" in panel.inner_text()
    assert rows(panel.get_by_role("region", name="Tokens")) == [
        ["token", "un", "##happy"],
        ["number", "1", "2"],
        ["id", "101", "102"],
        ["word", "Unhappy", "Unhappy"],
        ["characters", "0 to 2", "2 to 7"],
        [f"{SHARES}, %", "12.5", "12.5"],
        [f"{SIGNED}, logit", "-1.500", "-2.000"],
    ]
    charts = panel.locator("svg")
    assert [charts.nth(index).get_attribute("aria-label") for index in (0, 1)] == [
        "From 20.0 to 10.0", "From +0.500 to -1.000",
    ]  # fmt: skip
    heights = charts.nth(1).locator("circle").evaluate_all("all => all.map(it => it.cy.baseVal.value)")
    assert heights[1] < heights[0] < heights[2]
    piece(page, "Good").click()
    assert "characters 0 to 4 of the second text" in panel.inner_text()
    piece(page, "[CLS]").click()
    assert "the tokenizer added it" in panel.inner_text()
    assert page.locator(".opened").all_inner_texts() == ["[CLS]", "[CLS]"]


@pytest.mark.parametrize("options", [{}, PHONE], ids=["desktop", "phone"])
def test_a_selected_word_stays_visible(show, options):
    page = show(plain("a fine film " * 120 + "end"), **options)
    for place in (2, 5, 9, 13, 200, 350):
        word = page.locator(".shaded .for").nth(place)
        word.click()
        box, over = word.bounding_box(), page.get_by_role("dialog").bounding_box()
        beside = box["x"] + box["width"] <= over["x"] or box["x"] >= over["x"] + over["width"]
        assert beside or box["y"] + box["height"] <= over["y"]
        assert 0 <= box["y"] < page.viewport_size["height"]
        page.keyboard.press("Escape")


def test_characters_are_counted_as_python_counts_them(show):
    page = show(plain("😀😀 good 👩\u200d🚀"))
    panel = page.get_by_role("dialog")
    piece(page, "good").click()
    assert panel.locator("mark").inner_text() == "good"
    assert "characters 3 to 7 of the text" in panel.inner_text()
    assert panel.locator(".around").inner_text() == "😀😀 good 👩\u200d🚀"


def shown_texts(page):
    texts = page.locator("article:not([hidden]) .tokens").all_text_contents()
    entries = page.locator("#contents li:not([hidden]) a > span:last-child").all_text_contents()
    assert entries == texts
    return texts


def test_texts_are_searched_and_matches_are_marked(show):
    page = show(MANY)
    search = page.get_by_role("searchbox")
    search.fill("FINE   film")
    assert shown_texts(page) == ["a fine film"]
    assert page.get_by_text("1 of 3 texts").is_visible()
    marked = "[...CSS.highlights.get('found')].map(it => it.toString())"
    assert page.evaluate(marked) == ["fine film"]
    search.fill("(")
    assert shown_texts(page) == ["what a (fine) day"]
    search.fill("fine")
    assert len(shown_texts(page)) == 2
    search.press("Enter")
    search.press("Enter")
    assert page.locator("#said").inner_text() == "match 2 of 2"
    search.fill("")
    assert len(shown_texts(page)) == 3
    assert page.evaluate(marked) == []


def test_each_match_counts_once_however_many_methods_show_it(show):
    page = show(Explanations([DEEP, DEEP]))
    search = page.get_by_role("searchbox")
    said = page.locator("#said")
    search.fill("bad")
    assert page.evaluate("CSS.highlights.get('found').size") == 4  # marked in every line of both texts
    search.press("Enter")
    assert said.inner_text() == "match 1 of 2"
    search.press("Enter")
    search.press("Enter")
    assert said.inner_text() == "match 1 of 2"
    # With another method alone, the matches are its own.
    page.get_by_label(SHARES).uncheck()
    search.press("Enter")
    assert said.inner_text() == "match 1 of 2"


def test_the_message_of_a_search_disappears(show):
    page = show(MANY)
    page.clock.install()
    search, said = page.get_by_role("searchbox"), page.locator("#said")
    search.fill("film")
    search.press("Enter")
    assert said.inner_text() == "match 1 of 1"
    search.fill("fil")
    assert said.is_hidden()
    search.press("Enter")
    assert said.is_visible()
    page.clock.fast_forward(10_000)
    assert said.is_hidden()


def test_a_search_without_a_match_says_so(show):
    for found in (MANY, DEEP):  # of one text, nothing else on the page tells
        page = show(found)
        search, said = page.get_by_role("searchbox"), page.locator("#said")
        page.clock.install()
        search.fill("qwertz <b>")
        assert said.inner_text() == "no match for “qwertz <b>”"
        search.press("Enter")
        page.clock.fast_forward(10_000)
        assert said.inner_text() == "no match for “qwertz <b>”"
        assert page.locator("article:visible").count() == 0
        search.fill("")
        assert said.is_hidden()
        assert page.locator("article:visible").count() == len(page.locator("article").all())


def test_layers_explain_their_rows_and_why_words_end_at_0(show):
    # As a head that reads [CLS] alone leaves it: all other words end at exactly 0.
    rows = explanation().scores[SIGNED]
    layers = {SHARES: [[0.1] * 10] * 2, SIGNED: [rows, rows, [sum(rows), *[0.0] * 9]]}
    page = show(explanation(layers=layers))
    why = "0 after the last layer: the head does not read this position."
    tip, panel = page.get_by_role("tooltip"), page.locator("#panel")
    piece(page, "Unhappy").hover()
    assert tip.locator(".note").all_inner_texts() == [why]
    piece(page, "[CLS]").hover()
    assert tip.locator(".note").count() == 0
    piece(page, "Unhappy").click()
    captions = panel.locator("figcaption").all_inner_texts()
    assert captions[0] == f"{SHARES}, % after layer"
    assert captions[1].endswith("The score is the share after the last layer.")
    assert "The score is the contribution at 0." in captions[3]
    assert captions[3].endswith("only positions that the head reads contribute, and all others are 0.")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.get_by_text("Layers", exact=True).click()
    page.locator("table.heat").nth(1).wait_for()
    assert page.locator("article details .note").all_inner_texts() == [captions[1], captions[3]]


def test_texts_are_ordered_and_filtered_by_class(show):
    page = show(MANY)
    given = [it.text for it in MANY]
    orders = {"highest": [1, 0, 2], "lowest": [2, 0, 1], "text": [0, 1, 2], "given": [0, 1, 2]}
    for name, order in orders.items():
        page.get_by_label("Order").select_option(name)
        assert shown_texts(page) == [given[place] for place in order]
    page.get_by_label("Class").select_option("NEGATIVE")
    assert shown_texts(page) == ["Dull and long"]
    page.get_by_label("Class").select_option("")
    page.get_by_role("link", name="Dull").click()
    assert page.url.endswith("#text-2")


def test_methods_and_special_tokens_can_be_hidden(show):
    page = show(DEEP)
    page.get_by_label(SHARES).uncheck()
    assert page.get_by_role("heading", level=3).all_inner_texts() == [SIGNED]
    page.get_by_label("special tokens").uncheck()
    assert page.locator(".tokens:visible").all_inner_texts() == ["Unhappy? Not bad.", "Good"]
    # Tab reaches the line by a word that is shown.
    page.get_by_role("link", name="1").press("Tab")
    assert page.locator(":focus").inner_text() == "Unhappy"


def test_layers_and_numbers_are_tables(show):
    page = show(DEEP)
    page.get_by_text("Layers", exact=True).click()
    maps = page.locator("table.heat")
    maps.nth(1).wait_for()
    assert rows(maps.nth(0))[:3] == [
        ["% after layer", "1", "2"],
        ["[CLS]", "10.0", "5.0"],
        ["Unhappy", "20.0", "10.0"],
    ]
    assert rows(maps.nth(1))[2] == ["Unhappy", "+0.500", "+1.000", "-1.000"]
    assert maps.nth(1).locator("td").nth(3 + 2).get_attribute("class") == "against"
    page.get_by_text("Numbers", exact=True).click()
    page.locator("article .numbers").wait_for()
    numbers = rows(page.locator("article .numbers"))
    assert numbers[2:4] == [
        ["un", "1", "101", "Unhappy", "12.5", "-1.500"],
        ["##happy", "2", "102", "Unhappy", "12.5", "-2.000"],
    ]
    assert len(numbers) == 1 + len(DEEP.tokens)


def test_numbers_equal_the_explanation_to_the_shown_digits(show):
    draw = np.random.default_rng(0)
    # Of four bytes and of eight, as the page holds them.
    short, long = draw.normal(size=(2, 3, 10))
    short = short.astype(np.float32).astype(float)
    layers = {SHARES: long.tolist(), SIGNED: short.tolist()}
    found = explanation(layers=layers, scores={name: them[-1] for name, them in layers.items()})
    page = show(found)
    page.get_by_text("Numbers", exact=True).click()
    page.locator("article .numbers").wait_for()
    columns = {SHARES: 3, SIGNED: 4}
    for name, column in columns.items():
        shown = [row[column] for row in rows(page.locator("article .numbers"))[1:]]
        assert shown == [number(it, found.units[name]) for it in found.scores[name]]
    page.get_by_text("Layers", exact=True).click()
    page.locator("table.heat").nth(1).wait_for()
    for name, table in zip(layers, page.locator("table.heat").all(), strict=True):
        scored = [
            [number(it, found.units[name]) for it in merge_scores(row, found.groups)] for row in layers[name]
        ]
        assert [row[1:] for row in rows(table)[1:]] == [list(it) for it in zip(*scored, strict=True)]


def downloaded(page, name, area):
    with page.expect_download() as waited:
        area.get_by_role("button", name=name, exact=True).click()
    return waited.value.suggested_filename, waited.value.path().read_bytes()


def test_exported_json_loads_and_the_csv_equals_pandas(show, tmp_path):
    found = Explanations([DEEP, plain('a "quoted", </script>\u2028 word', less="x")])
    page = show(found)
    tools = page.get_by_role("search")
    name, content = downloaded(page, "JSON", tools)
    (tmp_path / name).write_bytes(content)
    assert name == "texts.jsonl"
    assert Explanations.load(tmp_path / name) == found
    name, content = downloaded(page, "CSV", tools)
    table = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    expected = found.to_pandas().astype(object).where(lambda it: it.notna(), "").to_dict("records")
    assert len(table) == len(expected)
    for row, other in zip(table, expected, strict=True):
        assert float(row.pop("score")) == other.pop("score")
        assert row == {key: str(value) for key, value in other.items()}


def test_downloads_hold_the_shown_texts(show):
    page = show(MANY)
    page.get_by_role("searchbox").fill("Dull")
    _, content = downloaded(page, "JSON", page.get_by_role("search"))
    assert [json.loads(line)["text"] for line in content.decode().splitlines()] == ["Dull and long"]
    name, content = downloaded(page, "JSON", page.locator("article:visible"))
    assert name == "text-2.jsonl"
    assert json.loads(content)["text"] == "Dull and long"


def test_exported_pictures_equal_the_page(show):
    page = show(plain(f"{HOSTILE} \x01dull"), color_scheme="dark")
    article = page.get_by_role("article")
    name, content = downloaded(page, "SVG", article)
    assert name == "text-1.svg"
    svg = ET.fromstring(content)
    words = [it.text for it in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert words[:3] == ["1", "POSITIVE", "(75.0%)"]
    assert words[-2:] == [HOSTILE, "\ufffddull"]
    ground, *shades = [it.get("fill") for it in svg.iter("{http://www.w3.org/2000/svg}rect")]
    assert (ground, shades[-1]) == ("rgb(22, 24, 28)", "rgb(150, 72, 0)")
    name, content = downloaded(page, "PNG", article)
    assert name == "text-1.png"
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert (width, height) == (2 * int(svg.get("width")), 2 * int(svg.get("height")))


def test_a_copy_is_shaded_text_and_a_table(show):
    page = show(DEEP)
    page.get_by_role("button", name="Copy").click()
    page.get_by_text("copied").wait_for()
    copied = page.evaluate(
        """async () => {
            const [item] = await navigator.clipboard.read();
            const types = ["text/plain", "text/html"];
            return Promise.all(types.map(async (it) => (await item.getType(it)).text()));
        }"""
    )
    assert "Unhappy\t25.0\t-3.500\n" in copied[0].replace("\r\n", "\n")
    assert re.search(r"background-color: ?rgb\(116, 178, 255\)[^>]*>Unhappy<", copied[1])
    assert "button" not in copied[1]


@pytest.fixture(scope="module")
def document():
    """A text of 10,000 words: the 5,000th opposes, the 9,000th supports, all others hardly contribute."""
    words = [f"word{place}" for place in range(10_000)]
    scores = [0.001 * (1 + place % 7) for place in range(10_000)]
    scores[5_000], scores[9_000] = -4.0, 2.0
    return plain(" ".join(words), scores={SIGNED: scores})


def test_a_document_of_10_000_words_is_legible(show, document):
    page = show(document)
    visible = page.locator(".tokens").inner_text()
    assert "word5000" in visible
    assert "word9000" in visible
    assert len(visible.split()) < 1_500
    hidden = [int(text.replace(",", "")) for text in re.findall(r"⋯ ([\d,]+) words ⋯", visible)]
    assert sum(hidden) + len(re.findall(r"word\d", visible)) == 10_000
    jump = page.get_by_role("button", name="Next strongest")
    for word in ("word5000", "word9000"):
        jump.click()
        assert page.locator(":focus").inner_text() == word
        assert page.get_by_role("tooltip").locator("b").inner_text() == word
        box = page.locator(":focus").bounding_box()
        assert 0 < box["y"] < page.viewport_size["height"]
    page.get_by_role("button", name="Stronger one before").click()
    assert page.locator(":focus").inner_text() == "word5000"
    assert page.get_by_text("strongest 1 of 30").is_visible()
    # What is in sight is marked on the map, the less of it the more is unfolded.
    in_sight = """() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() =>
        done(document.querySelector(".minimap .view").width.baseVal.value))))"""
    folded = page.evaluate(in_sight)
    page.get_by_role("button", name="Unfold all").click()
    assert 0 < page.evaluate(in_sight) < folded / 4


def test_the_map_leads_to_any_place_of_a_document(show, document):
    page = show(document)
    bars = page.locator(".minimap rect:not(.view)")
    heights = bars.evaluate_all("all => all.map(it => [it.height.baseVal.value, it.y.baseVal.value])")
    assert len(heights) == 200
    assert heights[100] == pytest.approx([20, 20], abs=0.01)  # against: all of the lower half
    assert heights[180] == pytest.approx([10, 10], abs=0.01)  # for: half of the upper half
    box = page.locator(".minimap").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + 5)
    word = page.locator(":focus").inner_text()
    assert 2_400 < int(word.removeprefix("word")) < 2_600
    assert page.locator(":focus").is_visible()
    folded = page.locator(".folded[hidden]")
    page.get_by_role("button", name="Unfold all").click()
    assert folded.count() == 0
    page.get_by_role("button", name="Fold again").click()
    assert folded.count() == 3
    page.get_by_role("searchbox").fill("word7777")
    page.get_by_role("searchbox").press("Enter")
    assert folded.count() == 2
    assert page.locator(".shaded :is(.for, .against)").nth(7_777).is_visible()
    page.get_by_text("Numbers", exact=True).click()
    page.get_by_text("The 500 strongest of 10,000").wait_for()


def test_a_printed_page_has_the_texts_and_the_open_tables(show):
    page = show(Explanations([plain(" ".join(map(str, range(200)))), DEEP]))
    page.get_by_text("Numbers", exact=True).first.click()
    table = page.get_by_role("region", name="Numbers")
    cut = "it => it.scrollHeight - it.clientHeight"
    assert table.evaluate(cut) > 1000
    page.emulate_media(media="print")
    assert table.evaluate(cut) == 0
    assert page.locator("summary:visible").all_inner_texts() == ["Numbers"]
    for hidden in ("search", "navigation", "button"):
        assert not [
            it
            for it in page.get_by_role(hidden).all()
            if it.is_visible() and not it.get_attribute("aria-haspopup")
        ]
    assert page.locator(".tokens:visible").count() == 1 + 4


def test_hostile_texts_never_run(show):
    image = "<img src=x onerror=\"document.title='run'\">"
    words = [
        "</script><script>document.title='run'</script>",
        image,
        f"<svg/onload=alert(1)>{HOSTILE}",
        "<!--<script>",
    ]
    found = plain(
        " ".join(word.replace(" ", "\u00a0") for word in words), prediction=image, model={"name": HOSTILE}
    )
    page = show(Explanations([found] * 2))
    for word in page.locator("article").first.locator(".tokens > span").all():
        word.hover()
        word.click()
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")
    page.get_by_text("Numbers", exact=True).first.click()
    page.get_by_role("searchbox").fill("<img")
    assert page.title() == "Token attributions"
    assert page.locator(":is(img, svg[onload])").count() == 0
    assert page.locator("script").count() == 2


def test_without_javascript_texts_and_numbers_are_there(show):
    page = show(MANY, java_script_enabled=False)
    assert page.locator(".tokens").all_inner_texts() == [it.text for it in MANY]
    assert piece(page, "film").get_attribute("title") == "+2 logit"
    assert page.get_by_text("need JavaScript").is_visible()
    assert page.get_by_role("search").count() == 0
    assert page.get_by_role("button").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_the_screen_and_is_legible(show, width, scheme):
    found = Explanations([DEEP, *MANY, plain("x" * 3_000), plain("an " * 500 + "end")])
    page = show(found, viewport={"width": width, "height": 844}, color_scheme=scheme)
    for summary in page.get_by_text("Numbers", exact=True).all():
        summary.click()
    piece(page, "Unhappy").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for element in (piece(page, "Unhappy"), page.locator("#panel td").first, page.locator(".note").first):
        assert contrast(*element.evaluate(COLOURS)) > 4.5


def test_an_exported_word_over_two_lines_has_all_its_letters(show):
    page = show(plain("x" * 300), viewport={"width": 390, "height": 844})
    _, content = downloaded(page, "SVG", page.get_by_role("article"))
    letters = [it for it in ET.fromstring(content).iter("{http://www.w3.org/2000/svg}text") if it.text == "x"]
    assert len(letters) == 300
    assert len({it.get("y") for it in letters}) > 5
    assert all(0 <= float(it.get("x")) <= 390 for it in letters)
