import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
import torch
from captum.attr import visualization as captum_visualization
from transformers import AutoTokenizer

from captum_globenc.texts import token_scores
from captum_globenc.visualization import html_page, page, records, strengths, visualization_records
from checkpoints import save_tokenizer
from colours import contrast

HOSTILE = "<script>alert('x')</script>"
VOID = {"meta", "br"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def batch(tokenizer):
    return tokenizer(["the plot is <b>bad</b>", "good film"], padding=True, return_tensors="pt")


class Page(HTMLParser):
    """A page's elements, with a check that every one is closed where it should be."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements, self.text = [], [], ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_left_out(tokenizer, side):
    batch = tokenizer(["the plot is bad", "good"], padding=True, padding_side=side, return_tensors="pt")
    attributions = torch.rand(2, 6)
    tokens, scores = token_scores(batch, tokenizer, attributions)
    assert tokens == [["[CLS]", "the", "plot", "is", "bad", "[SEP]"], ["[CLS]", "good", "[SEP]"]]
    row = attributions[1]
    assert scores[1] == (row[:3] if side == "right" else row[3:]).tolist()


def test_without_an_attention_mask_every_token_is_real(tokenizer):
    tokens, scores = token_scores({"input_ids": torch.tensor([[2, 5, 3]])}, tokenizer, torch.ones(1, 3))
    assert (tokens, scores) == ([["[CLS]", "a", "[SEP]"]], [[1.0, 1.0, 1.0]])


def test_attributions_of_embeddings_are_summed(batch, tokenizer):
    attributions = torch.rand(*batch["input_ids"].shape, 5, requires_grad=True)
    assert token_scores(batch, tokenizer, attributions) == token_scores(
        batch, tokenizer, attributions.sum(-1)
    )


def test_attributions_that_do_not_fit_the_batch_are_refused(batch, tokenizer):
    with pytest.raises(ValueError, match=r"\(2, 4\) do not fit"):
        token_scores(batch, tokenizer, torch.ones(2, 4))


def test_attributions_that_are_not_finite_are_refused(batch, tokenizer):
    attributions = torch.ones(batch["input_ids"].shape)
    attributions[0, 1] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        token_scores(batch, tokenizer, attributions)


@pytest.mark.parametrize("side", ["left", "right"])
def test_special_tokens_and_pieces_of_words_go_where_that_is_asked(tokenizer, side):
    batch = tokenizer(
        ["unhappy but good", "bad"], ["film", "a"], padding=True, padding_side=side, return_tensors="pt"
    )
    attributions = torch.arange(16.0).reshape(2, 8) + 1
    real = attributions[1][batch["attention_mask"][1].bool()].tolist()
    assert token_scores(batch, tokenizer, attributions, special=False) == (
        [["un", "##happy", "but", "good", "film"], ["bad", "a"]],
        [[2, 3, 4, 5, 7], [real[1], real[3]]],
    )
    tokens, scores = token_scores(batch, tokenizer, attributions, words="sum")
    assert tokens[0][:3] == ["[CLS]", "unhappy", "but"]
    assert [sum(row) for row in scores] == [
        pytest.approx((attributions[i] * batch["attention_mask"][i]).sum().item()) for i in (0, 1)
    ]
    assert token_scores(batch, tokenizer, attributions, words="max", special=False)[1][0][0] == 3


def test_scores_that_are_all_zero_stay_zero():
    assert strengths([0.0, 0.0]) == [0.0, 0.0]
    assert strengths([]) == []


def test_records_are_scaled_by_the_largest_magnitude_of_their_text(batch, tokenizer):
    attributions = torch.randn(batch["input_ids"].shape) * torch.tensor([[1e-3], [50.0]])
    logits = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    for i, record in enumerate(visualization_records(batch, tokenizer, attributions, logits)):
        real = attributions[i][batch["attention_mask"][i].bool()]
        torch.testing.assert_close(record.word_attributions, real / real.abs().max())
        assert record.attr_score == pytest.approx(real.sum().item(), rel=1e-5)
        assert len(record.raw_input_ids) == len(real)


def test_records_hold_the_prediction_and_what_was_attributed(batch, tokenizer):
    records = visualization_records(
        batch,
        tokenizer,
        torch.ones(batch["input_ids"].shape),
        torch.tensor([[0.0, 2.0], [1.0, 0.0]]),
        class_names={0: "NEGATIVE", 1: "POSITIVE"},
        true_classes=[0, 0],
        targets=torch.tensor([1, 1]).tolist(),
    )
    first, second = records
    assert (first.pred_class, first.true_class, first.attr_class) == ("POSITIVE", "NEGATIVE", "POSITIVE")
    assert (second.pred_class, second.true_class, second.attr_class) == ("NEGATIVE", "NEGATIVE", "POSITIVE")
    assert first.pred_prob == pytest.approx(0.8808, abs=1e-4)


def test_a_single_output_stands_for_itself(batch, tokenizer):
    record, _ = visualization_records(
        batch, tokenizer, torch.ones(batch["input_ids"].shape), torch.tensor([[3.5], [0.0]])
    )
    assert (record.pred_prob, record.pred_class, record.true_class) == (3.5, "0", "-")


@pytest.mark.parametrize("shape", [(2, 1), (2, 2)])
def test_a_regression_model_has_values_and_no_classes(batch, tokenizer, shape):
    record, other = visualization_records(
        batch,
        tokenizer,
        torch.ones(batch["input_ids"].shape),
        torch.tensor([[3.5, 2.0], [-1.0, -2.0]])[:, : shape[1]],
        class_names={0: "STARS", 1: "LENGTH"},
        true_classes=[4, -1.25],
        problem_type="regression",
    )
    assert (record.pred_class, record.pred_prob, record.true_class) == ("STARS", 3.5, "4")
    assert (other.pred_class, other.pred_prob, other.true_class) == ("STARS", -1.0, "-1.25")


def test_several_labels_have_probabilities_of_their_own(batch, tokenizer):
    record, _ = visualization_records(
        batch,
        tokenizer,
        torch.ones(batch["input_ids"].shape),
        torch.tensor([[2.0, 2.0], [0.0, 0.0]]),
        problem_type="multi_label_classification",
    )
    assert record.pred_prob == pytest.approx(0.8808, abs=1e-4)


def test_classes_may_be_tensors_and_need_a_name(batch, tokenizer):
    scores = torch.rand(batch["input_ids"].shape)
    logits = torch.rand(len(scores), 2)
    names = {0: "NO", 1: "YES"}
    options = {"class_names": names, "targets": logits.argmax(-1), "true_classes": logits.argmin(-1)}
    for record, target in zip(
        visualization_records(batch, tokenizer, scores, logits, **options), logits.argmax(-1), strict=True
    ):
        assert (record.attr_class, record.true_class) == (names[int(target)], names[1 - int(target)])
    with pytest.raises(ValueError, match="class 7 has no name"):
        visualization_records(
            batch, tokenizer, scores, logits, class_names=names, true_classes=[7] * len(scores)
        )


def test_records_show_words_without_special_tokens_where_that_is_asked(tokenizer):
    batch = tokenizer(["unhappy <b>"], return_tensors="pt")
    (record,) = visualization_records(
        batch,
        tokenizer,
        torch.tensor([[9.0, 1, 1, 4, 0, 0, 9]]),
        torch.zeros(1, 2),
        words="sum",
        special=False,
    )
    assert record.raw_input_ids == ["unhappy", "&lt;", "b", "&gt;"]
    assert record.word_attributions.tolist() == [0.5, 1, 0, 0]
    assert record.attr_score == 6


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"true_classes": [1]}, "true_classes are for 1 texts"),
        ({"targets": [1, 0, 1]}, "targets are for 3 texts"),
        ({"logits": torch.zeros(3, 2)}, "logits are for 3 texts"),
        ({"logits": torch.zeros(2)}, r"logits must be \(B, C\)"),
    ],
)
def test_records_of_unequal_numbers_are_refused(batch, tokenizer, wrong, message):
    arguments = {"logits": torch.zeros(2, 2), **wrong}
    with pytest.raises(ValueError, match=message):
        visualization_records(batch, tokenizer, torch.ones(batch["input_ids"].shape), **arguments)


def test_captum_draws_the_records_without_running_what_is_in_them(batch, tokenizer):
    pytest.importorskip("IPython")
    records = visualization_records(
        batch,
        tokenizer,
        torch.rand(batch["input_ids"].shape),
        torch.zeros(2, 2),
        class_names={0: HOSTILE, 1: "POSITIVE"},
    )
    html = captum_visualization.visualize_text(records).data
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert re.search(r"&lt;\s*</font>", html), "the token < of the text"


def test_everything_in_a_page_is_escaped():
    page = html_page([[HOSTILE, "b"]], {HOSTILE: [[1, 2]]}, headings=[HOSTILE], title=HOSTILE)
    tags = {tag for tag, _ in Page(page).elements}
    assert "script" not in tags
    # The title and the heading; method and token, over the tokens and in the table of numbers.
    assert Page(page).text.count(HOSTILE) == 7


def test_a_page_asks_for_nothing_else():
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
        ("share", "0.25", "--strength:0.333"),
        ("share", "0.75", "--strength:1.000"),
        ("against", "-2", "--strength:1.000"),
        ("for", "0.5", "--strength:0.250"),
        ("share", "1", "--strength:1.000"),
        ("share", "0", "--strength:0.000"),
    ]
    assert [tag for tag, _ in page.elements].count("h2") == 2


@pytest.mark.parametrize(
    ("score", "unit", "signed"),
    [(0.5, None, False), (-0.5, None, True), (0.5, "logit", True), (0.5, "%", False)],
)
def test_the_legend_says_share_or_for_and_against(score, unit, signed):
    units = {} if unit is None else {"method": unit}
    page = Page(html_page([["a"]], {"method": [[score]]}, units=units))
    legend = page.text.partition("Shades are relative")[0]
    assert ("against (underlined)  for" in legend) is signed
    assert ("largest share" in legend) is not signed
    assert "negative" not in page.text


def test_units_are_said_and_numbers_are_in_them():
    rows = {"globenc": [[0.125, 0.875]], "deep": [[2.5, -0.0001]], "plain": [[1.0, 2.0]]}
    shown = Page(html_page([["a", "b"]], rows, units={"globenc": "%", "deep": "logit"}))
    numbers = shown.text.partition("Numbers")[2].split()
    assert numbers[:3] == ["tokenglobenc,", "%deep,", "logitplain"]
    assert numbers[3:] == ["a12.5+2.5001.0000", "b87.50.0002.0000"]
    titles = [attributes.get("title") for tag, attributes in shown.elements if tag == "span"]
    assert [it for it in titles if it] == ["12.5 %", "87.5 %", "+2.5 logit", "-0.0001 logit", "1", "2"]
    classes = [attributes["class"] for tag, attributes in shown.elements if "title" in attributes]
    assert classes == ["share", "share", "for", "against", "share", "share"]


def test_what_is_to_say_stands_under_each_method_of_each_text_escaped():
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
def test_pages_of_unequal_numbers_are_refused(tokens, methods, headings, message):
    with pytest.raises(ValueError, match=message):
        html_page(tokens, methods, headings=headings)


def test_notes_of_unequal_number_are_refused():
    with pytest.raises(ValueError, match="m has notes for 2 texts, not 1"):
        html_page([["a"]], {"m": [[1.0]]}, notes={"m": ["x", "y"]})


def test_the_heat_map_of_signed_scores_counts_from_what_enters_the_layers():
    table = Page(page.heat_map(["a", "b"], [[0.25, -1.5], [-0.5, 0.0]], "logit", first=0))
    assert table.text.split() == ["logit", "after", "layer01", "a+0.250-0.500", "b-1.5000.000"]
    cells = [attributes for tag, attributes in table.elements if tag == "td"]
    assert [cell["class"] for cell in cells] == ["for", "against", "against", "for"]
    assert [cell["title"] for cell in cells] == ["+0.25 logit", "-0.5 logit", "-1.5 logit", "+0 logit"]


def test_the_heat_map_shows_every_layer_of_every_token_escaped():
    table = Page(page.heat_map([HOSTILE, "b"], [[0.25, 0.75], [0.5, 0.5], [1.0, -0.5]]))
    cells = [attributes for tag, attributes in table.elements if tag == "td"]
    assert [cell["title"] for cell in cells] == ["25 %", "50 %", "100 %", "75 %", "50 %", "-50 %"]
    assert [cell["style"] for cell in cells][:3] == [
        "--strength:0.333",
        "--strength:1.000",
        "--strength:1.000",
    ]
    assert [cell["class"] for cell in cells][-1] == "against"
    assert "script" not in [tag for tag, _ in table.elements]
    assert HOSTILE in table.text


def test_what_scrolls_can_be_reached_with_the_keyboard():
    for part in (page.heat_map(["a"], [[1.0]]), page.number_table(["a"], {"m": [1.0]})):
        region = dict(Page(part).elements)["div"]
        assert (region["tabindex"], region["role"]) == ("0", "region")
        assert region["aria-label"]


def themes():
    """The colours of the light and of the dark theme by name."""
    for block in page._STYLE.split("@media"):
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


def test_the_module_needs_neither_captum_nor_ipython_nor_torch():
    # Its file alone: what the package itself imports is no matter here.
    script = (
        "import runpy, sys\n"
        f"runpy.run_path({records.__file__!r})\n"
        "print([name for name in ('IPython', 'captum', 'matplotlib', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
