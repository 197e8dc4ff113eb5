import re
import subprocess
import sys

import pytest
import torch
from captum.attr import visualization as captum_visualization
from transformers import AutoTokenizer

from captum_globenc.texts import token_scores
from captum_globenc.visualization import records, visualization_records
from checkpoints import save_tokenizer
from markup import HOSTILE


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def batch(tokenizer):
    return tokenizer(["the plot is <b>bad</b>", "good film"], padding=True, return_tensors="pt")


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


def test_attributions_that_do_not_fit_the_batch_are_rejected(batch, tokenizer):
    with pytest.raises(ValueError, match=r"\(2, 4\) do not fit"):
        token_scores(batch, tokenizer, torch.ones(2, 4))


def test_attributions_that_are_not_finite_are_rejected(batch, tokenizer):
    attributions = torch.ones(batch["input_ids"].shape)
    attributions[0, 1] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        token_scores(batch, tokenizer, attributions)


@pytest.mark.parametrize("side", ["left", "right"])
def test_special_tokens_and_word_pieces_can_be_removed(tokenizer, side):
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


def test_records_are_scaled_by_the_largest_magnitude_of_their_text(batch, tokenizer):
    attributions = torch.randn(batch["input_ids"].shape) * torch.tensor([[1e-3], [50.0]])
    logits = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    for i, record in enumerate(visualization_records(batch, tokenizer, attributions, logits)):
        real = attributions[i][batch["attention_mask"][i].bool()]
        torch.testing.assert_close(record.word_attributions, real / real.abs().max())
        assert record.attr_score == pytest.approx(real.sum().item(), rel=1e-5)
        assert len(record.raw_input_ids) == len(real)


def test_records_hold_the_prediction_and_the_explained_class(batch, tokenizer):
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
    named = visualization_records(
        batch, tokenizer, scores, logits, **{**options, "class_names": [*names.values()]}
    )
    assert [it.pred_class for it in named] == [names[int(it)] for it in logits.argmax(-1)]
    with pytest.raises(ValueError, match="logits contain NaN or infinity"):
        visualization_records(batch, tokenizer, scores, logits * torch.nan)
    with pytest.raises(ValueError, match="class 7 has no name"):
        visualization_records(
            batch, tokenizer, scores, logits, class_names=names, true_classes=[7] * len(scores)
        )


def test_records_can_show_words_without_special_tokens(tokenizer):
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
def test_arguments_of_different_sizes_are_rejected(batch, tokenizer, wrong, message):
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


def test_the_module_needs_neither_captum_nor_ipython_nor_torch():
    # Its file alone: what the package itself imports is no matter here.
    script = (
        "import runpy, sys\n"
        f"runpy.run_path({records.__file__!r})\n"
        "print([name for name in ('IPython', 'captum', 'matplotlib', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
