"""The form of the web demo, and the link that restores it."""

from urllib.parse import parse_qsl

import pytest

from captum_globenc.demo.form import LONGEST_LINK, Form

FORMS = [
    Form(),
    Form("a & b = c?", "<b>", "folder/of mine", "W-Res", ("globenc", "integrated-gradients"), False, False),
    Form("café 😀", methods=("integrated-gradients",), position="mean"),
    Form("good\nfilm", target="<b> & A", against="1", baseline="zero"),
    Form("good", methods=("globenc",), baseline="pad", layer=3),
    Form("good", "bad", windows=True, result=2),
]


@pytest.mark.parametrize("form", FORMS)
def test_a_link_restores_the_form(form):
    assert Form.of(dict(parse_qsl(form.link()[1:], strict_parsing=form != Form()))) == form


@pytest.mark.parametrize("form", FORMS)
def test_values_stored_by_the_browser_restore_the_form(form):
    kept = {name: str(value) for name, value in form._asdict().items()}
    kept |= {"methods": ",".join(form.methods)}
    kept |= {name: str(getattr(form, name)).lower() for name in ("words", "special", "windows")}
    assert Form.of(kept) == form


def test_invalid_values_of_a_link_are_ignored():
    query = {"mixing": "N-Nothing", "methods": "magic", "words": "", "special": "", "other": "x"}
    query |= {"baseline": "os.system", "target": " ", "against": "", "layer": "9" * 99, "pair": ""}
    assert Form.of(query) == Form()
    assert Form.of({"layer": "-1", "position": None, "methods": ["globenc"], "words": "maybe"}) == Form(
        position="None", words=False
    )


@pytest.mark.parametrize("name", ["text", "pair", "target", "against"])
def test_a_text_that_is_too_long_keeps_its_length(name):
    assert len(getattr(Form.of({name: "a" * 30_000}), name)) == 30_000


def test_a_form_that_no_link_can_hold_has_none():
    room = LONGEST_LINK - len("?text=")
    assert len(Form("x" * room).link()) == LONGEST_LINK
    assert Form("x" * (room + 1)).link() == ""


def test_a_name_of_blanks_is_the_models_own():
    assert Form.of({"text": "good", "model": " "}) == Form("good")
