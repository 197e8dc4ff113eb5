"""Images and sounds on the page, in a browser: display, pointer, keyboard, export."""

import base64
import io
import xml.etree.ElementTree as ET

import pytest
from PIL import Image
from test_explanation import SHARES, SIGNED
from test_page_in_browser import PHONE, downloaded, plain, rows

from captum_globenc import Explanation, Explanations
from captum_globenc.drawing.picture import Picture
from captum_globenc.results.words import Word

pytestmark = pytest.mark.browser

GREEN = (0, 160, 0)
COLUMNS = 3
NAMES = [f"row {row}, column {column}" for row in (1, 2) for column in (1, 2, 3)]
SCORES = {
    SHARES: [0.125, 0.0625, 0.25, 0.0625, 0.25, 0.0, 0.25],
    SIGNED: [0.5, -2.0, 1.0, 0.25, -0.5, 0.0, 0.0],
}


def picture(size=(40, 32)):
    written = io.BytesIO()
    Image.new("RGB", size, GREEN).save(written, format="png")
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"


def image(**options):
    """An image of two rows of squares of 16 pixels, the last column of 8."""
    names = [*NAMES, "[of no square]"]
    usual = {
        "text": "cat.png",
        "tokens": names,
        "scores": SCORES,
        "groups": [Word(name, (place,), place == 6) for place, name in enumerate(names)],
        "offsets": [],
        "position": None,
        "picture": Picture("image", [16, 16, 8], [16, 16], picture()),
    }
    made = {**vars(plain("")), "kinds": {SHARES: "shares", SIGNED: "contributions"}, **usual, **options}
    return Explanation(**made)


def sound():
    names = [f"{second}.000 s to {second + 1}.000 s" for second in range(4)]
    return image(
        text="a.wav",
        tokens=names,
        scores={SIGNED: [1.0, -2.0, 0.5, 0.0]},
        groups=[Word(name, (place,), False) for place, name in enumerate(names)],
        picture=Picture("sound", [100] * 4, [1], picture((80, 10))),
    )


def squares(page, method=SIGNED):
    return page.locator(f'.shaded[data-method="{method}"] .picture > span')


def test_every_square_lies_on_its_part_of_the_image(show):
    page = show(image(), java_script_enabled=False)
    frame = page.locator(".shaded .picture").first.bounding_box()
    assert frame["width"] / frame["height"] == pytest.approx(40 / 32, rel=0.01)
    for place, square in enumerate(squares(page, SHARES).all()):
        row, column = divmod(place, COLUMNS)
        box = square.bounding_box()
        unit = frame["width"] / 40
        assert box["x"] - frame["x"] == pytest.approx(16 * column * unit, abs=0.5)
        assert box["y"] - frame["y"] == pytest.approx(16 * row * unit, abs=0.5)
        assert box["width"] == pytest.approx((16, 16, 8)[column] * unit, abs=0.5)
        assert square.get_attribute("title") == f"{100 * SCORES[SHARES][place]:.4g} %"
    assert page.get_by_role("heading", name="cat.png: POSITIVE").is_visible()
    # A square of nothing lets the image through; what no square stands for is a word below.
    seen = Image.open(io.BytesIO(page.locator(".shaded .picture").nth(1).screenshot())).convert("RGB")
    assert len(set(seen.getpixel((seen.width - 5, seen.height - 5)))) == 1  # as grey as it was bright
    assert len(set(seen.getpixel((5, 5)))) == 3
    plain = Image.open(io.BytesIO(page.get_by_role("img").screenshot())).convert("RGB")
    assert plain.getpixel((5, 5)) == GREEN
    assert page.locator(".special").all_inner_texts() == ["[of no square]"] * 2


def test_squares_react_to_pointer_and_keyboard(show):
    page = show(image())
    tip = page.get_by_role("tooltip")
    squares(page).nth(1).hover()
    assert tip.locator("b").inner_text() == "row 1, column 2"
    assert rows(tip)[1] == ["score", "6.3", "-2.000"]
    squares(page).first.focus()
    for key, place in [("ArrowRight", 1), ("ArrowDown", 4), ("ArrowLeft", 3), ("ArrowUp", 0), ("End", None)]:
        page.keyboard.press(key)
        text = page.evaluate("document.activeElement.textContent")
        assert text == ("[of no square]" if place is None else NAMES[place])
        assert tip.locator("b").inner_text() == text
    squares(page).nth(2).click()
    panel = page.get_by_role("dialog")
    assert rows(panel.get_by_role("region", name="Tokens"))[:2] == [
        ["token", "row 1, column 3"], ["number", "2"],
    ]  # fmt: skip
    assert "in the text" not in panel.inner_text()


def test_a_picture_and_a_table_of_an_image_are_saved(show, tmp_path):
    found = Explanations([image(), sound(), plain("a fine film")])
    page = show(found)
    name, content = downloaded(page, "JSON", page.get_by_role("search"))
    (tmp_path / name).write_bytes(content)
    assert Explanations.load(tmp_path / name) == found
    article = page.get_by_role("article").first
    _, content = downloaded(page, "SVG", article)
    svg = ET.fromstring(content)
    shown = list(svg.iter("{http://www.w3.org/2000/svg}image"))
    assert [it.get("href") for it in shown] == [picture()] * 3
    words = [it.text for it in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert "column" not in words
    assert words.count("cat.png:") == 1
    _, content = downloaded(page, "PNG", article)
    drawn = Image.open(io.BytesIO(content)).convert("RGB")
    last = shown[0]
    x, y, width, height = (float(last.get(it)) for it in ("x", "y", "width", "height"))
    at = [round(2 * (8 + start + size - 4)) for start, size in ((x, width), (y, height))]
    assert drawn.getpixel(tuple(at)) == GREEN


@pytest.mark.parametrize("options", [{"viewport": {"width": 1280, "height": 800}}, PHONE])
def test_images_and_sounds_fit_the_page(show, options):
    page = show(Explanations([image(), sound()]), **options)
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [it.bounding_box() for it in page.locator(".shaded .picture").all()]
    # Methods of an image stand side by side where there is room, a sound is as wide as the page.
    assert (boxes[0]["y"] == boxes[1]["y"]) is (width > 1000)
    assert boxes[2]["width"] > 0.6 * width
    squares(page).first.click()
    assert page.get_by_role("dialog").get_by_role("heading").first.inner_text() == NAMES[0]


def test_a_fine_grid_is_not_folded_as_a_long_text(show):
    names = [f"row {row}, column {column}" for row in range(1, 25) for column in range(1, 25)]
    found = image(
        tokens=names,
        scores={SIGNED: [float(place) for place in range(576)]},
        groups=[Word(name, (place,), False) for place, name in enumerate(names)],
        picture=Picture("image", [16] * 24, [16] * 24, picture((384, 384))),
    )
    page = show(found)
    assert page.locator(".fold, .minimap").count() == 0
    assert squares(page).last.is_visible()
