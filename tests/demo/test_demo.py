"""The web demo in a browser."""

import re
import socket
import subprocess
import sys
from html import unescape
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

import pandas
import pytest
import torch
import transformers

from captum_globenc.demo.models import ABOUT, EXAMPLE, EXAMPLES, describe, example_of
from captum_globenc.demo.page import STYLE
from captum_globenc.results.explanations import Explanations
from captum_globenc.texts import explain, load_default
from captum_globenc.texts.default import encoder_folder
from captum_globenc.texts.loading import load_model
from checkpoints import ENVIRONMENT, VOCABULARY, save_tokenizer
from colours import contrast
from language_models import language_model, word_tokenizer

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


@pytest.fixture
def visit(chromium, address):
    """Opens pages, each a visitor's own, that ask nothing of other machines and run nothing typed."""
    asked, failed, pages = [], [], []

    def visit(**options):
        page = chromium.new_context(**options).new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.on("dialog", lambda dialog: (failed.append(dialog.message), dialog.dismiss()))
        pages.append(page)
        return page

    yield visit
    here = urlsplit(address).netloc
    assert [
        url for url in asked if not url.startswith(("data:", "blob:")) and urlsplit(url).netloc != here
    ] == []
    assert failed == []
    for page in pages:
        assert page.title().startswith("GlobEnc")
        page.context.close()


@pytest.fixture
def page(visit):
    return visit()


def start(page, address):
    """Open the page, and wait for the explanation of its example."""
    page.goto(address)
    tokens(page)
    link(page)


def busy(page):
    """Mark the answer as out of date; the page takes the mark away when the next one is there."""
    page.locator("#answer").evaluate("it => it.setAttribute('aria-busy', 'true')")


def ask(page, text):
    page.get_by_label("Text", exact=True).fill(text)
    explain_it(page)


def explain_it(page):
    busy(page)
    page.get_by_role("button", name="Explain").click()


def tokens(page, method="globenc"):
    """The shown text of a method, and its numbers on hover."""
    heading = page.get_by_role("heading", name=method, exact=True)
    spans = page.locator("#tokens .method", has=heading).locator(".tokens span")
    spans.first.wait_for()
    page.locator("#answer:not([aria-busy=true])").wait_for()
    return spans.all_inner_texts(), spans.evaluate_all("all => all.map(span => parseFloat(span.title))")


def headline(page):
    return page.locator("#prediction .prediction").inner_text()


def link(page):
    """The link to the answer, once it exists."""
    box = page.locator("#link textarea, #link input")
    box.wait_for()
    page.wait_for_function("document.querySelector('#link textarea, #link input').value != ''")
    return box.input_value()


def asked(page):
    """The query of that link."""
    return dict(parse_qsl(urlsplit(link(page)).query))


def choose(page, label, name, exact=False):
    """Choose from a list."""
    page.get_by_label(label, exact=exact).click()
    page.get_by_role("option", name=name).click()
    page.wait_for_function("!document.querySelector('[role=option]')")  # which fades away


def options(page):
    page.get_by_role("button", name="More options").click()


def per_cent(scores):
    """Shares as they are shown."""
    return pytest.approx([100 * score for score in scores], rel=1e-2)


def scores(expected, method):
    """The scores of a method's words."""
    return [score for _, score in expected.words(method)]


@pytest.fixture(scope="module")
def expected():
    (explanation,) = explain([TEXT], *load_default(), layers=True)
    return explanation


def test_a_text_is_explained(page, address, expected):
    start(page, address)
    ask(page, TEXT)
    names, numbers = tokens(page)
    assert names == [word.text for word in expected.groups]
    assert numbers == per_cent(scores(expected, "globenc"))
    names, numbers = tokens(page, "transformer-deep-lift")
    assert names == [word.text for word in expected.groups]
    assert numbers == pytest.approx(scores(expected, "transformer-deep-lift"), rel=1e-2, abs=1e-3)
    said = page.locator("#tokens .note").all_inner_texts()
    assert said == list(expected.notes.values())
    assert headline(page) == expected.headline
    ranked = sorted(expected.probabilities.items(), key=lambda it: -it[1])
    bars = page.get_by_role("list", name="Probabilities").get_by_role("listitem").all_inner_texts()
    assert [bar.split() for bar in bars] == [[name, f"{share:.1%}"] for name, share in ranked]
    assert page.get_by_text(ABOUT[:40]).is_visible()


def test_the_heat_map_holds_every_layer_of_every_token(page, address, expected):
    page.goto(f"{address}?{urlencode({'text': TEXT, 'words': 0})}")
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


def test_methods_a_class_a_contrast_and_a_baseline_can_be_chosen(page, address):
    start(page, address)
    page.get_by_role("checkbox", name="globenc", exact=True).uncheck()
    page.get_by_role("checkbox", name="decompx", exact=True).check()
    choose(page, "Explained class", "NEGATIVE")
    choose(page, "Rather than", "POSITIVE")
    options(page)
    choose(page, "Baseline", "zero")
    ask(page, TEXT)
    methods = ["transformer-deep-lift", "decompx"]
    chosen = {"target": "NEGATIVE", "against": "POSITIVE", "baseline": "zero"}
    (expected,) = explain([TEXT], *load_default(), methods=methods, **chosen)
    for method in methods:
        assert tokens(page, method)[1] == pytest.approx(scores(expected, method), rel=1e-2, abs=1e-3)
    assert page.locator("#tokens .method").count() == 2
    assert headline(page) == expected.headline
    assert page.locator("#tokens .note").all_inner_texts() == list(expected.notes.values())
    assert asked(page) == {"text": TEXT, "methods": ",".join(methods), **chosen}


def test_the_slider_goes_through_the_layers_by_keyboard_however_fast(page, address, expected):
    page.goto(f"{address}?{urlencode({'text': TEXT, 'words': 0})}")
    tokens(page)
    slider = page.locator("#layer input[type=range]")
    assert (slider.get_attribute("max"), slider.input_value()) == ("6", "6")
    for _ in range(3):
        slider.press("ArrowLeft")
    _, numbers = tokens(page, "globenc, after layer 3 of 6")
    assert numbers == per_cent(expected.layers["globenc"][2])
    page.wait_for_url("**layer=3*")
    page.locator("#layer button").click()  # back to where it was
    assert tokens(page)[1] == per_cent(expected.scores["globenc"])


def test_the_answer_stays_until_explain_is_pressed(page, address, expected):
    page.goto(f"{address}?{urlencode({'text': TEXT})}")
    tokens(page)
    page.get_by_role("checkbox", name="globenc", exact=True).uncheck()
    page.get_by_label("integrated-gradients").check()
    page.get_by_label("Whole words").uncheck()
    (pieces,) = expected.pieces("tokens")
    texts = [piece.text for piece in pieces if piece.tokens]
    page.locator("#tokens .tokens span", has_text=re.compile(f"^{texts[1]}$")).first.wait_for()
    assert tokens(page)[0] == texts
    page.get_by_label("Special tokens").uncheck()
    page.locator("#tokens .tokens span", has_text="[CLS]").first.wait_for(state="detached")
    names, numbers = tokens(page)
    assert names == texts[1:-1]
    assert numbers == per_cent(expected.scores["globenc"][1:-1])
    page.wait_for_url("**special=0*")
    assert asked(page) == {"text": TEXT, "words": "0", "special": "0"}


def test_the_last_submitted_text_is_explained(page, address):
    start(page, address)
    page.get_by_label("integrated-gradients").check()
    ask(page, "a dull film " * 20)
    ask(page, TEXT)
    page.locator("#tokens .tokens span", has_text="Unfathomably").first.wait_for()
    assert "Unfathomably" in tokens(page)[0]


def test_waiting_visitors_see_their_position_and_can_cancel_or_leave(visit, address, expected):
    slow, waiting = visit(), visit()
    status = [it.locator("#prediction").get_by_test_id("status-tracker") for it in (slow, waiting)]
    cancels = [it.get_by_role("button", name="Cancel") for it in (slow, waiting)]
    start(slow, address)
    slow.get_by_label("integrated-gradients").check()
    start(waiting, address)
    assert not any(it.is_visible() for it in cancels)
    ask(slow, "a dull film " * 170)
    cancels[0].wait_for()
    status[0].get_by_text("s", exact=False).wait_for()
    ask(waiting, "An awful, awful film.")
    status[1].get_by_text("queue: 1/1").wait_for()
    cancels[1].click()
    cancels[1].wait_for(state="hidden")
    assert waiting.locator("#tokens .tokens", has_text="awful").count() == 0
    ask(waiting, TEXT)
    status[1].get_by_text("queue: 1/1").wait_for()
    cancels[0].click()
    assert tokens(waiting)[1] == per_cent(scores(expected, "globenc"))
    cancels[0].wait_for(state="hidden")
    assert slow.locator("#tokens .tokens", has_text="dull film").count() == 0
    ask(slow, "a dull film " * 170)
    cancels[0].wait_for()
    ask(waiting, "good")
    status[1].get_by_text("queue: 1/1").wait_for()
    slow.goto("about:blank")  # which nobody waits for any more
    waiting.locator("#tokens .tokens span", has_text="good").first.wait_for()
    slow.goto(address)
    slow.get_by_role("button", name="Explain").wait_for()


def test_typed_text_is_shown_and_never_run(page, address):
    start(page, address)
    ask(page, HOSTILE)
    names, _ = tokens(page)
    assert names[1:4] == ["<", "script", ">"]
    assert " ".join(names).count("< b > bold < / b >") == 1
    assert "$ { document" in " ".join(names)
    for part in ("#prediction", "#tokens", "#layers", "#link"):
        assert page.locator(f"{part} :is(script, b, img)").count() == 0


def test_a_long_text_is_truncated_and_reported(page, address):
    start(page, address)
    ask(page, "wonderful acting, " * 400)
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "only its first 512 tokens are read, up to “… " in alert.inner_text()
    end = page.locator("#tokens .unread").first
    assert end.inner_text().rstrip().endswith("wonderful acting,")
    assert end.get_attribute("title") == "truncated: the text is longer than the limit of the model"
    width, shown = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= shown


def test_a_text_too_long_for_a_link_is_reported_and_survives_a_refresh(page, address):
    text = "good " + "x" * 6_000
    page.goto(f"{address}?text=bad")
    tokens(page)
    ask(page, text)
    for refresh in (True, False):
        page.locator("#tokens .tokens span", has_text="good").first.wait_for()
        box = page.locator("#link textarea, #link input")
        page.wait_for_function("document.querySelector('#link textarea, #link input').value == ''")
        assert "too long for a link" in box.get_attribute("placeholder")
        assert page.url == address
        assert page.get_by_label("Text", exact=True).input_value() == text
        if refresh:
            page.reload()


def test_a_link_restores_everything_for_somebody_else(visit, address):
    page, other = visit(), visit()
    query = {
        "text": "<b>not</b> bad & dull?",
        "pair": "Is it?",
        "mixing": "W",
        "methods": "globenc,integrated-gradients",
        "words": "0",
        "special": "0",
        "position": "1",
        "target": "negative",
        "against": "1",
        "baseline": "pad",
        "layer": "3",
    }
    page.goto(f"{address}?{urlencode(query)}")
    shown = tokens(page, "globenc, after layer 3 of 6")
    assert asked(page) == query
    other.goto(link(page))
    assert tokens(other, "globenc, after layer 3 of 6") == shown
    assert tokens(other, "integrated-gradients") == tokens(page, "integrated-gradients")
    assert "NEGATIVE rather than POSITIVE" in other.locator("#prediction").inner_text()
    options(other)
    labels = {
        "Text": "text",
        "Second text, for models of pairs": "pair",
        "Mixing of GlobEnc": "mixing",
        "Baseline": "baseline",
        "Explained class": "target",
        "Rather than": "against",
        "Explained token of GlobEnc: an index, or mean": "position",
    }
    held = {name: other.get_by_label(label, exact=True).input_value() for label, name in labels.items()}
    assert held == {name: query[name] for name in held}
    assert other.locator("#layer input[type=range]").input_value() == "3"
    boxes = ("globenc", "transformer-deep-lift", "integrated-gradients", "Whole words", "Special tokens")
    ticked = [other.get_by_role("checkbox", name=name, exact=True).is_checked() for name in boxes]
    assert ticked == [True, False, True, False, False]


def test_a_refresh_keeps_the_answer_and_what_was_changed_since(page, address):
    start(page, f"{address}?__theme=dark")
    ask(page, "good")
    tokens(page)
    assert asked(page) == {"text": "good"}
    page.get_by_role("checkbox", name="decompx", exact=True).check()
    page.get_by_label("Text", exact=True).fill("good film")
    page.get_by_label("Text", exact=True).press("Tab")
    page.wait_for_function("history.state.text == 'good film'")
    page.reload()
    assert tokens(page, "decompx")[0] == ["[CLS]", "good", "film", "[SEP]"]
    assert page.get_by_label("Text", exact=True).input_value() == "good film"
    assert page.get_by_role("checkbox", name="decompx", exact=True).is_checked()
    assert page.locator("body.dark").count() == 1


def test_enter_explains_and_with_shift_begins_a_line(page, address):
    start(page, address)
    box = page.get_by_label("Text", exact=True)
    box.fill("good")
    box.press("Shift+Enter")
    box.press_sequentially("film")
    assert box.input_value() == "good\nfilm"
    busy(page)
    box.press("Enter")
    assert tokens(page)[0] == ["[CLS]", "good", "film", "[SEP]"]
    assert box.input_value() == "good\nfilm"


def test_answers_are_downloaded_as_files(page, address, expected, tmp_path):
    page.goto(f"{address}?{urlencode({'text': TEXT})}")
    tokens(page)
    files = {}
    for label in ("Download JSON", "Download page", "Download CSV"):
        with page.expect_download() as download:
            page.get_by_role("button", name=label).click()
        name = download.value.suggested_filename
        files[name] = tmp_path / name
        download.value.save_as(files[name])
    assert list(files) == ["globenc.jsonl", "globenc.html", "globenc.csv"]
    (found,) = Explanations.load(files["globenc.jsonl"])
    assert files["globenc.html"].read_text(encoding="utf-8") == found.to_html()
    frame = found.to_pandas()
    pandas.testing.assert_frame_equal(pandas.read_csv(files["globenc.csv"]), frame, check_dtype=False)
    # The demo computes in a process of its own, whose number of threads decides over the last digits.
    pandas.testing.assert_frame_equal(frame, expected.to_pandas(), rtol=1e-4, atol=1e-5)
    assert (found.headline, found.tokens, found.notes) == (
        expected.headline, expected.tokens, expected.notes
    )  # fmt: skip


def test_a_link_alone_loads_no_model(page, address):
    page.goto(f"{address}?{urlencode({'text': 'good', 'model': 'some/model'})}")
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert alert.inner_text() == "Press Explain to load the model some/model."


def test_user_errors_are_shown_on_the_page(page, address):
    start(page, address)
    ask(page, "")
    page.get_by_role("alert").filter(has_text="Type a text").wait_for()
    options(page)
    model = page.get_by_label("Model: a folder")
    model.fill("no/such/<b>folder</b>")
    ask(page, "good")
    page.get_by_role("alert").filter(has_text="cannot load no/such/<b>folder</b>: ").wait_for()
    assert page.locator("#tokens .tokens").count() == 0


def test_an_example_is_a_click(page, address):
    page.goto(f"{address}?{urlencode({'text': 'good', 'pair': 'bad', 'methods': 'decompx'})}")
    tokens(page, "decompx")
    for form in EXAMPLES.values():
        page.get_by_role("button", name=form.text, exact=True).click()
        page.locator("#tokens .tokens span", has_text=form.text.split()[-1].rstrip(".")).first.wait_for()
        tokens(page)
        assert page.get_by_label("Text", exact=True).input_value() == form.text
        page.wait_for_url(f"**{form.link()}")


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


def whole(page):
    """Whether nothing of the pictures of the layers, nor of the page, has to be scrolled to from the side."""
    page.locator("#layers table").first.wait_for()
    return page.evaluate(
        "[...document.querySelectorAll('#layers .scroll'), document.documentElement]"
        ".every(it => it.scrollWidth <= it.clientWidth)"
    )


def test_the_answer_stands_next_to_the_text(visit, address):
    page = visit(viewport={"width": 1280, "height": 800})
    start(page, address)
    ask(page, TEXT)
    tokens(page)
    text, *parts = (page.locator(it).bounding_box() for it in ("#text", "#prediction", "#tokens", "#layer"))
    assert all(part["x"] >= text["x"] + text["width"] for part in parts)
    assert all(part["y"] + part["height"] <= 800 for part in parts)
    assert page.evaluate("scrollY") == 0
    assert whole(page)


def test_on_a_phone_the_answer_is_scrolled_to_and_whole(visit, address):
    page = visit(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    start(page, address)
    ask(page, TEXT)
    tokens(page)
    assert abs(page.locator("#answer").bounding_box()["y"]) < 40
    box = page.locator("#tokens .method").last.bounding_box()
    assert box["y"] + box["height"] < 844
    assert whole(page)


@pytest.mark.parametrize("address", ["space"], indirect=True)
def test_a_space_answers(page, address, expected):
    start(page, address)
    ask(page, TEXT)
    assert tokens(page)[0] == [word.text for word in expected.groups]
    assert headline(page) == expected.headline
    options(page)
    assert not page.get_by_label("Second text").is_visible()  # its only model takes none


def test_the_page_opens_with_an_example_and_its_explanation(visit, address):
    page = visit(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    start(page, address)
    (expected,) = explain([EXAMPLE.text], *load_default())
    assert page.get_by_label("Text", exact=True).input_value() == EXAMPLE.text
    assert headline(page) == expected.headline
    assert tokens(page)[1] == per_cent(scores(expected, "globenc"))
    assert page.evaluate("scrollY") == 0
    assert not page.get_by_role("button", name="Cancel").is_visible()


def test_a_link_shows_its_own_answer_and_never_the_example(page, address):
    page.goto(f"{address}?{urlencode({'text': 'good'})}")
    assert tokens(page)[0] == ["[CLS]", "good", "[SEP]"]
    assert page.get_by_label("Text", exact=True).input_value() == "good"


def test_a_long_text_is_explained_whole_in_windows(page, address):
    start(page, address)
    text = "wonderful acting, " * 180
    options(page)
    page.get_by_role("checkbox", name="Windows").check()
    ask(page, text)
    assert len(tokens(page)[0]) > 512
    assert page.locator("#tokens .unread").count() == 0
    assert page.get_by_role("alert").count() == 0
    ask(page, "good")
    tokens(page)
    assert asked(page) == {"text": "good", "windows": "1"}


def test_the_number_of_characters_of_a_text_is_the_same_after_a_refresh(page, address):
    start(page, address)
    ask(page, "x" * 20_500)
    for refresh in (True, False):
        alert = page.get_by_role("alert").filter(has_text="characters")
        alert.wait_for()
        assert "The text has 20,500 characters, and 20,000 are the most" in alert.inner_text()
        if refresh:
            page.reload()


def test_every_rule_of_the_style_is_valid(chromium):
    page = chromium.new_page()
    rules = """style => {
      const sheet = new CSSStyleSheet();
      sheet.replaceSync(style);  // which drops rules that are not valid
      const count = rules => [...rules].reduce((sum, it) => sum + 1 + count(it.cssRules ?? []), 0);
      return count(sheet.cssRules);
    }"""
    assert page.evaluate(rules, STYLE) == STYLE.count("{") > 30
    nested = ".a:has(.b:has(.c)) { color: red; }"
    assert page.evaluate(rules, nested) == 0
    page.close()


SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "initializer_range": 0.6}
LABELS = {
    "labels": ("BertForTokenClassification", {"id2label": {0: "B-PER", 1: "B-LOC"}}),
    "answers": ("BertForQuestionAnswering", {}),
    "masks": ("BertForMaskedLM", {}),
    "entailment": ("BertForSequenceClassification", {"id2label": {0: "entailment", 1: "neutral"}}),
    "rejected": ("BertForMultipleChoice", {}),
}
FIELDS = {
    "deep": ("Text", "Second text, for models of pairs"),
    "labels": ("Text", None),
    "answers": ("Question", "Context that holds the answer"),
    "masks": ("Text with a mask token", None),
    "entailment": ("Text", "Second text, for models of pairs"),
    "similarity": ("Text", "Second text to compare with"),
}
"""The labels of the text and of the second text for each model."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny models with random weights for every task, one of them with twelve layers."""
    home, made = tmp_path_factory.mktemp("tasks"), {}
    kinds = {"deep": ("BertForSequenceClassification", {"num_hidden_layers": 12}), **LABELS}
    for name, (kind, config) in kinds.items():
        settings = {"num_hidden_layers": 1, **SIZES, **config}
        if "id2label" in settings:
            settings["label2id"] = {label: index for index, label in settings["id2label"].items()}
        torch.manual_seed(0)
        model = getattr(transformers, kind)(transformers.BertConfig(vocab_size=len(VOCABULARY), **settings))
        model.save_pretrained(home / name)
        save_tokenizer(home / name)
        made[name] = str(home / name)
    (home / "similarity").symlink_to(encoder_folder())
    for it in (language_model("llama"), word_tokenizer()):
        it.save_pretrained(home / "language")
    return {**made, **{name: str(home / name) for name in ("similarity", "language")}}


@pytest.fixture(scope="module")
def served(folders):
    """A demo of these models; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    models = [part for folder in folders.values() for part in ("--model", folder)]
    command = [sys.executable, "-u", *COMMANDS["demo"], port, *models]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        try:
            yield re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())[0] + "/"
        finally:
            process.terminate()


@pytest.fixture
def tasks_page(chromium, served):
    page = chromium.new_context(viewport={"width": 390, "height": 844}).new_page()
    page.set_default_timeout(PATIENCE)
    start(page, served)
    yield page
    page.context.close()


@pytest.mark.parametrize("name", FIELDS)
def test_a_model_is_explained_for_its_task(tasks_page, folders, name):
    page, loaded = tasks_page, load_model(folders[name])
    if name != "deep":  # with which the page opens
        options(page)
        choose(page, "Model: a folder", re.compile(f"^{name}$"))
    page.locator("#about", has_text=f"The model {name} ").wait_for()
    assert page.locator("#about").inner_text() == unescape(describe(loaded, name))
    text, pair = FIELDS[name]
    assert page.get_by_label(text, exact=True).input_value() == example_of(loaded).text
    shown = [it for _, it in FIELDS.values() if it and page.get_by_label(it, exact=True).is_visible()]
    assert set(shown) == ({pair} if pair else set())
    explain_it(page)
    tokens(page)
    example = example_of(loaded)
    expected = explain([example.text], *loaded[:2], pair=example.pair or None)
    assert headline(page) == expected[0].headline
    assert page.get_by_label("Explained class").is_visible() == (name != "similarity")
    assert page.get_by_label("Rather than").is_visible() == (name != "similarity")
    if name == "similarity":  # whose texts are encoded one by one
        assert page.locator("#tokens .tokens").nth(1).inner_text().startswith("[CLS]")
    several = page.get_by_label("Explained", exact=True)
    assert several.is_visible() == (len(expected) > 1)
    if len(expected) > 1:
        choose(page, "Explained", expected[1].headline, exact=True)
        page.locator("#prediction .prediction", has_text=expected[1].headline).wait_for()
        page.wait_for_url("**result=1*")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_language_model_writes_an_answer_or_takes_a_typed_one(tasks_page, folders):
    page, (model, tokenizer, _) = tasks_page, load_model(folders["language"])
    options(page)
    choose(page, "Model: a folder", re.compile("^language$"))
    page.locator("#about", has_text="The model language ").wait_for()
    assert page.get_by_label("Explained class").count() == 0
    assert page.get_by_label("Rather than the answer").is_visible()
    page.get_by_label("Prompt", exact=True).fill("the cat sat on the mat .")
    for typed in ("", "red dog"):
        page.get_by_label("Answer; leave it empty").fill(typed)
        explain_it(page)
        how = {"answer": typed} if typed else {"max_new_tokens": 24}
        (expected,) = explain(["the cat sat on the mat ."], model, tokenizer, tell=lambda _: None, **how)
        page.locator("#prediction .prediction", has_text=expected.headline).wait_for()
        heads = page.locator("#tokens .heat.squares th[scope=col]").all_inner_texts()
        assert heads[1:] == expected.answer.tokens
    page.wait_for_url("**pair=red+dog*")
    choose(page, "Explained", "2: dog", exact=True)
    page.locator("#tokens h3", has_text="answer token 2: dog").wait_for()
    page.wait_for_url("**result=2*")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_model_for_another_task_is_rejected(tasks_page):
    options(tasks_page)
    choose(tasks_page, "Model: a folder", re.compile("^rejected$"))
    tasks_page.locator(
        "#about", has_text="BertForMultipleChoice is for a task that is not explained"
    ).wait_for()
    explain_it(tasks_page)
    alert = tasks_page.locator("#prediction [role=alert]", has_text="BertForMultipleChoice is for a task")
    alert.wait_for()
    assert tasks_page.locator("#tokens .tokens").count() == 0


def test_the_layer_table_of_a_deep_model_keeps_its_numbers_on_a_phone(tasks_page):
    cells = tasks_page.locator("#layers table").last.locator("td")
    sizes = cells.evaluate_all("all => all.map(it => parseFloat(getComputedStyle(it).fontSize))")
    assert len(sizes) >= 13
    assert min(sizes) > 8
    assert cells.evaluate_all("all => all.every(it => it.innerText.trim() != '')")
    assert tasks_page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    last = tasks_page.locator("#layers table").last.locator("tr").nth(1).locator("td").last
    last.scroll_into_view_if_needed()
    head = tasks_page.locator("#layers table").last.locator("th[scope=row]").first
    assert head.bounding_box()["x"] >= 0  # the tokens stay in view
