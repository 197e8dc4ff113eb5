"""The page of explained texts: escaping, completeness, and the content security policy."""

import base64
import hashlib
import json
import re

import pytest

from captum_globenc.drawing import document
from captum_globenc.drawing.document import Line, Part, Section
from captum_globenc.drawing.picture import Picture
from markup import HOSTILE, Page

BREAKING = HOSTILE + "<!--\u2028</SCRIPT >\"'&"


def section(**options):
    parts = [Part("[CLS]", 1.0, special=True), Part("not", -0.5), Part("  "), Part("bad", 2.0)]
    lines = [Line("deep", "logit", [parts], "supports or opposes")]
    usual = {"heading": "POSITIVE (98.1%)", "label": "POSITIVE", "text": "not  bad", "lines": lines}
    return Section(**{**usual, **options})


def scripts(page):
    return re.findall(r"<script[^>]*>(.*?)</script>", page, flags=re.DOTALL)


def test_everything_is_escaped_in_elements_and_in_data():
    part = Part(BREAKING, 1.0, note=BREAKING)
    lines = [Line(BREAKING, BREAKING, [[part, Part(BREAKING, note=BREAKING)]], BREAKING)]
    hostile = Section(BREAKING, BREAKING, BREAKING, lines, about=BREAKING)
    data = [{"text": BREAKING}] * 2
    made = document.document([hostile] * 2, data, {BREAKING: BREAKING}, title=BREAKING, measure=BREAKING)
    page = Page(made)
    assert [tag for tag, _ in page.elements].count("script") == 2
    assert [json.loads(line) for line in scripts(made)[0].split("\n") if line] == [{"text": BREAKING}, {}, {}]
    assert "alert" not in scripts(made)[1]
    # Of each text: heading in the contents and over it, what is said of it, method, note, two parts. Of all:
    # the title twice, a fact and its name, and what texts are chosen and ordered by.
    assert Page(made.replace(scripts(made)[0], "")).text.count(BREAKING) == 2 * 7 + 4 + 3
    assert HOSTILE not in document.document_part([hostile])


def test_only_its_own_script_may_run():
    made = document.document([section()], [{}], {})
    policy = next(it["content"] for tag, it in Page(made).elements if it.get("http-equiv"))
    digest = base64.b64encode(hashlib.sha256(scripts(made)[1].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}';" in policy
    assert not [name for _, it in Page(made).elements for name in it if name.startswith("on")]


def test_a_document_loads_nothing_else():
    made = document.document([section()] * 2, [{}] * 2, {})
    for tag, attributes in Page(made).elements:
        assert tag not in {"link", "img", "iframe", "object"}
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#")
    assert "url(" not in made
    assert set(re.findall(r"\w+://[^\"' ]*", made)) == {"http://www.w3.org/2000/svg"}


def test_a_text_is_shown_as_it_was_written_with_its_shades_and_numbers():
    page = Page(document.document([section()], [{}], {}))
    assert "[CLS]not  bad" in page.text
    spans = [it for tag, it in page.elements if tag == "span" and "style" in it]
    assert [(it["class"], it["style"], it["title"]) for it in spans] == [
        ("for special", "--s:0.500", "+1 logit"),
        ("against", "--s:0.250", "-0.5 logit"),
        ("for", "--s:1.000", "+2 logit"),
    ]


def test_a_text_and_its_pair_are_paragraphs_shaded_by_the_strongest_of_both():
    lines = [Line("m", "%", [[Part("a", 0.25)], [Part("b", 0.5)]])]
    page = Page(document.document_part([section(lines=lines)]))
    assert [it["style"] for tag, it in page.elements if tag == "span" and "style" in it] == [
        "--s:0.500", "--s:1.000",
    ]  # fmt: skip
    paragraphs = [it for tag, it in page.elements if tag == "p" and it.get("class") == "tokens"]
    assert paragraphs == [{"class": "tokens", "dir": "auto"}] * 2


def test_notes_of_a_part_are_shown_on_hover():
    parts = [Part("😀", 1.0, note="read as [UNK]"), Part("\x07", note="dropped"), Part(" ")]
    page = Page(document.document_part([section(lines=[Line("m", "%", [parts])])]))
    spans = [it for tag, it in page.elements if tag == "span" and "title" in it]
    assert [(it["class"], it["title"]) for it in spans] == [
        ("share noted", "100 %; read as [UNK]"),
        ("unread", "dropped"),
    ]


@pytest.mark.parametrize("count", [1, 2])
def test_contents_and_filters_are_shown_for_several_texts(count):
    made = document.document([section(), section(label="NEGATIVE")][:count], [{}] * count, {})
    page = Page(made)
    links = [it["href"] for tag, it in page.elements if tag == "a"]
    assert links == ["#texts", *(["#text-1"] if count == 1 else ["#text-1", "#text-2"] * 2)]
    hidden = [tag for tag, it in page.elements if "hidden" in it]
    assert hidden == (["form", "label", "label", "span", "output"] if count == 1 else ["form"])
    options = re.findall(r'<option value="(\w*)">([^<]*)', made)
    assert (("NEGATIVE", "NEGATIVE (1)") in options) is (count == 2)


@pytest.mark.parametrize(
    ("text", "entry"),
    [("a\n b", "a b"), ("x" * 70, "x" * 70), ("x" * 71, "x" * 69 + "…"), ("ab " * 99, "ab " * 23 + "…")],
)
def test_contents_show_the_beginning_of_a_text_in_one_line(text, entry):
    made = document.document([section(text=text)] * 2, [{}] * 2, {})
    assert f'<span dir="auto">{entry}</span>' in made


def test_tokens_of_each_part_are_named():
    made = document.document([section(tokens=[(0,), (1, 2), (3,)], layers=True)], [{}], {})
    article = next(it for tag, it in Page(made).elements if tag == "article")
    assert (article["data-tokens"], "data-layers" in article) == ("0 1+2 3", True)


def test_parts_of_a_picture_lie_on_it_and_others_beside_it():
    parts = [Part("a", 0.5), Part("b", -1.0), Part("rest", 0.25, special=True)]
    picture = Picture("image", [16, 8], [16], "data:image/png;base64,AA==")
    made = document.document([section(lines=[Line("deep", "logit", [parts])], picture=picture)], [{}], {})
    page = Page(made)
    (grid,) = [it for _, it in page.elements if it.get("class") == "tokens picture image"]
    assert grid["style"] == "grid: 16fr / 16fr 8fr; --shape: 24 / 16"
    article = next(it for tag, it in page.elements if tag == "article")
    assert article["style"] == "--picture: url(data:image/png;base64,AA==)"
    assert re.search(
        r'>b</span></div><p class="tokens" dir="auto"><span class="for special"[^>]*>rest</span></p>', made
    )
    assert "Opposes (underlined or lined)" in page.text


def test_every_text_has_its_line_of_data():
    with pytest.raises(ValueError, match="data of 1 for 2 texts"):
        document.document([section()] * 2, [{}], {})
