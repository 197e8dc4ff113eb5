import warnings

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import pyplot, rcParams
from matplotlib.font_manager import fontManager

from captum_globenc.visualization import plot_comparison, plot_layers, plot_mixing
from captum_globenc.visualization.fonts import drawable


@pytest.fixture(autouse=True)
def _only_matplotlibs_own_fonts(monkeypatch):
    """A machine with no fonts but those that matplotlib brings, whatever is installed on this one."""
    own = [font for font in fontManager.ttflist if font.name.startswith("DejaVu")]
    monkeypatch.setattr(fontManager, "ttflist", own)
    with pyplot.rc_context():
        pyplot.switch_backend("Agg")
        yield
    pyplot.close("all")


@pytest.fixture
def install(tmp_path):
    """Installs a font of black squares for some characters."""

    def add(name, characters):
        pen = TTGlyphPen(None)
        pen.moveTo((0, 0))
        for corner in ((0, 700), (700, 700), (700, 0)):
            pen.lineTo(corner)
        pen.closePath()
        square = pen.glyph()
        names = [".notdef", *(f"u{ord(char):x}" for char in characters)]
        builder = FontBuilder(1000, isTTF=True)
        builder.setupGlyphOrder(names)
        builder.setupCharacterMap({ord(char): f"u{ord(char):x}" for char in characters})
        builder.setupGlyf(dict.fromkeys(names, square))
        builder.setupHorizontalMetrics(dict.fromkeys(names, (800, 0)))
        builder.setupHorizontalHeader(ascent=800, descent=-200)
        builder.setupNameTable({"familyName": name, "styleName": "Regular"})
        builder.setupOS2(sTypoAscender=800, sTypoDescender=-200)
        builder.setupPost()
        builder.save(tmp_path / f"{name}.ttf")
        fontManager.addfont(tmp_path / f"{name}.ttf")

    return add


DRAW = {
    "layers": lambda tokens: plot_layers([[1.0] * len(tokens)] * 2, tokens),
    "mixing": lambda tokens: plot_mixing([[1.0] * len(tokens)] * len(tokens), tokens),
    "comparison": lambda tokens: plot_comparison({"気": [1.0] * len(tokens)}, tokens),
}


@pytest.fixture(params=DRAW)
def draw(request):
    return DRAW[request.param]


def test_a_font_that_has_the_characters_draws_them(draw, install):
    install("Globenc Squares", "天気🦊")
    before = dict(rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw(["天", "気", "fox", "🦊"]).figure
        figure.canvas.draw()
    assert dict(rcParams) == before
    assert "天" in {label.get_text() for axis in figure.axes for label in axis.get_xticklabels()}


def test_one_warning_names_characters_without_a_font(draw):
    with pytest.warns(UserWarning, match="no installed font has 天 .*🦊") as caught:
        draw(["天", "気", "天🦊", "fox"]).figure.canvas.draw()
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_characters_without_a_font_are_replaced():
    with pytest.warns(UserWarning, match="no installed font has 🦊: drawn"):
        assert drawable(["a🦊b", "fox"]) == (["a�b", "fox"], rcParams["font.family"])


def test_a_selector_of_variants_is_no_character_of_its_own():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (text,), _ = drawable(["\N{HEAVY BLACK HEART}\N{VARIATION SELECTOR-17}"])
    assert text == "\N{HEAVY BLACK HEART}"


def test_as_few_fonts_as_possible_are_used(install):
    install("Globenc A", "天")
    install("Globenc B", "天気")
    install("Globenc C", "🦊")
    texts, families = drawable(["天気", "🦊"])
    assert texts == ["天気", "🦊"]
    assert families == [*rcParams["font.family"], "Globenc B", "Globenc C"]


def test_the_fonts_of_rc_params_come_first(install):
    install("Globenc A", "天x")
    rcParams["font.family"] = ["Globenc A"]
    assert drawable(["天x"]) == (["天x"], ["Globenc A"])
    assert drawable(["天y"]) == (["天y"], ["Globenc A", "DejaVu Sans"])


def test_a_font_that_cannot_be_read_is_passed_over(install, tmp_path):
    install("Globenc A", "天")
    (tmp_path / "Globenc A.ttf").write_bytes(b"no font")
    with pytest.warns(UserWarning, match="天"):
        assert drawable(["天"])[0] == ["�"]
