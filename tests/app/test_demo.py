"""The web demo, as somebody sees it who types and clicks in a browser."""

import re
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest

import browser
from captum_globenc.texts import explain, load_default
from checkpoints import ENVIRONMENT
from colours import contrast

pytestmark = pytest.mark.browser

TEXT = "Unfathomably dull, but the acting is simply wonderful."
HOSTILE = (
    "<script>document.title='run'</script> <b>bold</b> <img src=x onerror=\"document.title='run'\"> "
    "${document.title='run'} {{document.title='run'}} wonderful"
)
SPACE = Path(__file__).parents[2] / "space/app.py"
PATIENCE = 60_000
"""Milliseconds that a page may take on a busy machine."""


COMMANDS = {"demo": ["-m", "captum_globenc", "demo", "--port"], "space": [str(SPACE)]}


@pytest.fixture(scope="module")
def address(request):
    """A demo that runs as its users start it, or as a Space does, on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    name = getattr(request, "param", "demo")
    command = [sys.executable, "-u", *COMMANDS[name], *([port] if name == "demo" else [])]
    environment = {**ENVIRONMENT, "GRADIO_SERVER_PORT": port}  # which the command's own option outdoes
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            line = process.stdout.readline()
            found = re.search(rf"http://127\.0\.0\.1:{port}/?", line)
            assert found, line
            yield found[0].rstrip("/") + "/"
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(
            executable_path=browser.chromium(), args=list(browser.ARGUMENTS), timeout=PATIENCE
        )


@pytest.fixture
def page(chromium, address):
    """A page that asks nothing of other machines, and in which nothing runs that was typed."""
    page = chromium.new_page()
    page.set_default_timeout(PATIENCE)
    asked, failed = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.on("dialog", lambda dialog: (failed.append(dialog.message), dialog.dismiss()))
    yield page
    here = urlsplit(address).netloc
    assert [
        url for url in asked if not url.startswith(("data:", "blob:")) and urlsplit(url).netloc != here
    ] == []
    assert failed == []
    assert page.title().startswith("GlobEnc")
    page.close()


def ask(page, text):
    page.get_by_label("Text", exact=True).fill(text)
    page.get_by_role("button", name="Explain").click()


def tokens(page, method="globenc"):
    """The tokens that are shown for a method, and the numbers on hover."""
    spans = page.locator(f'#tokens section[aria-label="{method}"] .tokens span')
    spans.first.wait_for()
    return spans.all_inner_texts(), spans.evaluate_all("all => all.map(span => parseFloat(span.title))")


def per_cent(scores):
    """Shares as they are shown."""
    return pytest.approx([100 * score for score in scores], rel=1e-2)


@pytest.fixture(scope="module")
def expected():
    (explanation,) = explain([TEXT], *load_default(), layers=True)
    return explanation


def test_a_text_is_explained(page, address, expected):
    page.goto(address)
    ask(page, TEXT)
    names, numbers = tokens(page)
    assert names == expected.tokens
    assert numbers == per_cent(expected.scores["globenc"])
    names, numbers = tokens(page, "transformer-deep-lift")
    assert names == expected.tokens
    assert numbers == pytest.approx(expected.scores["transformer-deep-lift"], rel=1e-2, abs=1e-3)
    said = page.locator("#tokens .note").all_inner_texts()
    assert said == list(expected.notes.values())
    assert "against (underlined)" in page.locator("#tokens .legend").inner_text()
    assert page.locator("#prediction").inner_text().strip() == expected.headline


@pytest.mark.parametrize("address", ["space"], indirect=True)
def test_a_space_answers(page, address, expected):
    page.goto(address)
    ask(page, TEXT)
    assert tokens(page)[0] == expected.tokens
    assert page.locator("#prediction").inner_text().strip() == expected.headline


def test_the_heat_map_holds_every_layer_of_every_token(page, address, expected):
    page.goto(address)
    ask(page, TEXT)
    maps = page.locator("#layers table")
    maps.first.wait_for()
    heads = [maps.nth(index).locator("tr").first.inner_text().split() for index in (0, 1)]
    assert heads == [["%", "after", "layer", *"123456"], ["logit", "after", "layer", *"0123456"]]
    strong = {"share": "rgb(190, 160, 240)", "for": "rgb(255, 158, 64)", "against": "rgb(116, 178, 255)"}
    for index, (name, scale) in enumerate([("globenc", 100), ("transformer-deep-lift", 1)]):
        assert maps.nth(index).locator("th[scope=row]").all_inner_texts() == expected.tokens
        cells = maps.nth(index).locator("td")
        shown = [float(text) / scale for text in cells.all_inner_texts()]
        layers = expected.layers[name]
        by_token = [layer[token] for token in range(len(expected.tokens)) for layer in layers]
        assert shown == pytest.approx(by_token, abs=2e-3)
        shades = cells.evaluate_all("all => all.map(cell => getComputedStyle(cell).backgroundColor)")
        strongest = max(range(len(by_token)), key=lambda place: abs(by_token[place]))
        kind = "share" if scale == 100 else "for" if by_token[strongest] > 0 else "against"
        assert shades[strongest] == strong[kind]


def test_a_class_a_contrast_and_a_baseline_can_be_chosen(page, address):
    page.goto(address)
    page.get_by_role("button", name="Options").click()
    page.get_by_label("Explained class").fill("negative")
    page.get_by_label("Rather than the class").fill("POSITIVE")
    page.get_by_label("Compared with").click()
    page.get_by_role("option", name="zero").click()
    ask(page, TEXT)
    options = {"target": "NEGATIVE", "against": "POSITIVE", "baseline": "zero"}
    (expected,) = explain([TEXT], *load_default(), **options)
    _, numbers = tokens(page, "transformer-deep-lift")
    assert numbers == pytest.approx(expected.scores["transformer-deep-lift"], rel=1e-2, abs=1e-3)
    assert page.locator("#prediction").inner_text().strip() == expected.headline
    assert page.locator("#tokens .note").all_inner_texts() == list(expected.notes.values())
    query = {"text": TEXT, "target": "negative", "against": "POSITIVE", "baseline": "zero"}
    link = page.get_by_role("link", name="Link to this input")
    assert sorted(link.get_attribute("href")[1:].split("&")) == sorted(urlencode(query).split("&"))


def test_a_link_restores_class_contrast_and_baseline(page, address):
    query = {"text": "good", "target": "0", "against": "1", "baseline": "pad", "methods": "decompx"}
    page.goto(f"{address}?{urlencode(query)}")
    tokens(page, "decompx")
    page.get_by_role("button", name="Options").click()
    assert page.get_by_label("Explained class").input_value() == "0"
    assert page.get_by_label("Rather than the class").input_value() == "1"
    assert page.get_by_label("Compared with").input_value() == "pad"
    assert page.get_by_role("checkbox", name="decompx", exact=True).is_checked()
    assert not page.get_by_role("checkbox", name="globenc", exact=True).is_checked()
    assert "NEGATIVE rather than POSITIVE" in page.locator("#prediction").inner_text()


def test_the_slider_goes_through_the_layers_by_keyboard(page, address, expected):
    page.goto(address)
    ask(page, TEXT)
    tokens(page)
    slider = page.locator("#layer input[type=range]")
    assert (slider.get_attribute("max"), slider.input_value()) == ("6", "6")
    slider.press("ArrowLeft")
    _, numbers = tokens(page, "globenc, after layer 5 of 6")
    assert numbers == per_cent(expected.layers["globenc"][4])


def test_the_slider_and_the_picture_agree_however_fast_it_moves(page, address, expected):
    page.goto(address)
    ask(page, TEXT)
    tokens(page)
    slider = page.locator("#layer input[type=range]")
    for _ in range(3):
        slider.press("ArrowLeft")
    _, numbers = tokens(page, "globenc, after layer 3 of 6")
    assert numbers == per_cent(expected.layers["globenc"][2])
    page.locator("#layer button").click()  # back to where it was
    assert tokens(page)[1] == per_cent(expected.scores["globenc"])


def test_what_was_explained_stays_until_explain_is_pressed(page, address, expected):
    page.goto(address)
    ask(page, TEXT)
    tokens(page)
    page.get_by_role("button", name="Options").click()
    page.get_by_role("checkbox", name="globenc", exact=True).uncheck()
    page.get_by_label("integrated-gradients").check()
    page.get_by_label("Merge pieces into words").check()
    page.locator("#tokens .tokens span", has_text="unfathomably").first.wait_for()
    names, _ = tokens(page)
    assert len(names) == len(expected.groups)
    link = page.get_by_role("link", name="Link to this input")
    assert link.get_attribute("href") == f"?{urlencode({'text': TEXT, 'words': 1})}"


def test_the_last_text_asked_for_is_the_one_explained(page, address):
    page.goto(address)
    page.get_by_role("button", name="Options").click()
    page.get_by_label("integrated-gradients").check()
    ask(page, "a dull film " * 60)
    ask(page, TEXT)
    page.locator("#tokens .tokens span", has_text="wonderful").first.wait_for()
    assert "wonderful" in tokens(page)[0]


def test_two_who_ask_at_once_get_their_own(page, address, chromium, expected):
    page.goto(address)
    page.get_by_role("button", name="Options").click()
    page.get_by_label("integrated-gradients").check()
    ask(page, TEXT)
    others = chromium.new_page()
    others.set_default_timeout(PATIENCE)
    query = {"text": "An awful, awful film.", "methods": "globenc,integrated-gradients"}
    others.goto(f"{address}?{urlencode(query)}")
    assert tokens(others, "integrated-gradients")[0][2:4] == ["awful", ","]
    assert others.locator("#prediction").inner_text().startswith("NEGATIVE")
    others.close()
    _, numbers = tokens(page, "integrated-gradients")
    (whole,) = explain([TEXT], *load_default(), methods=["integrated-gradients"])
    assert numbers == pytest.approx(whole.scores["integrated-gradients"], rel=1e-2, abs=1e-3)


def test_words_without_special_tokens(page, address, expected):
    page.goto(address)
    ask(page, TEXT)
    tokens(page)
    page.get_by_role("button", name="Options").click()
    page.get_by_label("Show special tokens").uncheck()
    page.get_by_label("Merge pieces into words").check()
    page.locator("#tokens .tokens span", has_text="unfathomably").first.wait_for()
    page.locator("#tokens .tokens span", has_text="[CLS]").first.wait_for(state="detached")
    names, numbers = tokens(page)
    assert " ".join(names) == "Unfathomably dull , but the acting is simply wonderful ."
    assert sum(numbers) == pytest.approx(100 * sum(expected.scores["globenc"][1:-1]), rel=1e-2)


def test_what_is_typed_is_shown_and_never_run(page, address):
    page.goto(address)
    ask(page, HOSTILE)
    names, _ = tokens(page)
    assert names[1:4] == ["<", "script", ">"]
    assert " ".join(names).count("< b > bold < / b >") == 1
    assert "$ { document" in " ".join(names)
    for part in ("#prediction", "#tokens", "#layers", "#link"):
        assert page.locator(f"{part} :is(script, b, img)").count() == 0


def test_a_text_that_is_too_long_is_cut_and_told_of(page, address):
    page.goto(address)
    ask(page, "wonderful acting, " * 400)
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "only its first 512 tokens" in alert.inner_text()
    assert len(tokens(page)[0]) == 512
    width, shown = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= shown


def test_a_link_restores_what_was_asked_for(page, address):
    query = {"text": "<b>not</b> bad & dull?", "mixing": "W", "methods": "globenc,integrated-gradients"}
    page.goto(f"{address}?{urlencode(query)}")
    assert tokens(page, "integrated-gradients") != tokens(page)
    assert page.get_by_label("Text", exact=True).input_value() == query["text"]
    page.get_by_role("button", name="Options").click()
    assert page.get_by_label("Mixing of GlobEnc").input_value() == "W"
    link = page.get_by_role("link", name="Link to this input")
    assert link.get_attribute("href") == f"?{urlencode(query)}"


def test_a_link_alone_loads_no_model(page, address):
    page.goto(f"{address}?{urlencode({'text': 'good', 'model': 'some/model'})}")
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert alert.inner_text() == "Press Explain to load the model some/model."


def test_mistakes_are_told_of_on_the_page(page, address):
    page.goto(address)
    page.get_by_role("button", name="Explain").click()
    page.get_by_role("alert").filter(has_text="Type a text").wait_for()
    page.get_by_role("button", name="Options").click()
    page.get_by_label("Model: a folder").fill("no/such/<b>folder</b>")
    ask(page, "good")
    page.get_by_role("alert").filter(has_text="cannot load no/such/<b>folder</b>: no such folder").wait_for()
    assert page.locator("#tokens .tokens").count() == 0


def test_an_example_is_a_click(page, address):
    page.goto(address)
    page.get_by_text("I expected a masterpiece").first.click()
    names, _ = tokens(page)
    assert "masterpiece" in names
    assert page.locator("#prediction").inner_text().startswith("NEGATIVE")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_tokens_can_be_read_in_both_themes(page, address, theme):
    page.goto(f"{address}?{urlencode({'text': TEXT, '__theme': theme})}")
    tokens(page)
    strongest = page.locator('#tokens .tokens span[style*="1.000"]').first
    text, shade = (
        strongest.evaluate(f"span => getComputedStyle(span).{name}.match(/[0-9]+/g).slice(0, 3).map(Number)")
        for name in ("color", "backgroundColor")
    )
    assert contrast(text, shade) > 4.5
