"""Agreement and plausibility: cases computed by hand, and random scores."""

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_globenc.metrics import auprc, kendall, spearman, token_f1, token_iou

FIRST = torch.tensor([[0.5, 0.1, 0.4, 0.3], [0.1, 0.2, 0.3, 0.9]])
SECOND = torch.tensor([[4.0, 2.0, 3.0, 1.0], [3.0, 2.0, 1.0, 0.0]])


def test_values_worked_out_by_hand():
    # Ranks 4 1 3 2 and 4 2 3 1: 1 - 6 (1 + 1) / 60; 5 of 6 pairs in order. Three tokens: reversed.
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    assert spearman(FIRST, SECOND, mask).tolist() == pytest.approx([0.8, -1])
    assert kendall(FIRST, SECOND, mask).tolist() == pytest.approx([4 / 6, -1])


def test_embeddings_are_summed():
    spread = FIRST[:, :, None] * torch.tensor([3.0, -2.0])
    assert torch.equal(spearman(spread, SECOND), spearman(FIRST, SECOND))


@pytest.mark.parametrize("agreement", [spearman, kendall])
def test_undefined_is_nan_and_wrong_shapes_are_rejected(agreement):
    constant = torch.ones(2, 4)
    one = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 1]])
    assert agreement(FIRST, constant).isnan().all()
    assert agreement(FIRST, SECOND, one).isnan().tolist() == [True, False]
    with pytest.raises(ValueError, match="mask"):
        agreement(FIRST, SECOND[:, :3])


@settings(max_examples=10, deadline=None)
@given(st.integers(5, 20), st.integers(0, 999))
def test_random_permutations_agree_with_nothing(tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(tokens, generator=generator) for _ in range(400)])
    line = torch.arange(tokens).expand(400, -1)
    # The variances under independence are 1 / (N - 1), and for tau a smaller one; five deviations.
    bound = 5 / math.sqrt(400 * (tokens - 1))
    assert abs(spearman(order, line).mean().item()) < bound
    assert abs(kendall(order, line).mean().item()) < bound


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-99, 99), min_size=2, max_size=9, unique=True), st.integers(0, 99))
def test_agreement_is_symmetric_bounded_and_of_order_alone(values, seed):
    a = torch.tensor([values]).double()
    b = torch.rand(a.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    for agreement in (spearman, kendall):
        value = agreement(a, b).item()
        assert -1 - 1e-12 <= value <= 1 + 1e-12
        assert agreement(b, a).item() == pytest.approx(value)
        assert agreement(a**3, b).item() == pytest.approx(value)
        assert agreement(-a, b).item() == pytest.approx(-value)
        assert agreement(a, a).item() == pytest.approx(1)


SCORES = torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.5]])
MARKED = torch.tensor([[1, 0, 1, 0, 0]])


def test_plausibility_worked_out_by_hand():
    # By falling threshold: precision 1, 1/2, 2/3, 2/4, 2/5 at recall 1/2, 1/2, 1, 1, 1, from (0, 1):
    # trapezoids 1/2 * 1 and 1/2 * (1/2 + 2/3) / 2.
    assert auprc(SCORES, MARKED).item() == pytest.approx(0.5 + 0.5 * (1 / 2 + 2 / 3) / 2)
    # The top two are tokens 0 and 1: one of two is right.
    assert token_f1(SCORES, MARKED).item() == pytest.approx(1 / 2)
    assert token_iou(SCORES, MARKED).item() == pytest.approx(1 / 3)
    # The top three hold both: precision 2/3, recall 1.
    assert token_f1(SCORES, MARKED, top=3).item() == pytest.approx(0.8)
    assert token_iou(SCORES, MARKED, top=3).item() == pytest.approx(2 / 3)


def test_plausibility_is_perfect_for_the_rationale_itself_and_heeds_the_mask():
    marked = torch.tensor([[0, 1, 1, 0, 1], [0, 0, 0, 0, 1]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])
    for metric in (auprc, token_f1, token_iou):
        assert metric(marked.double(), marked).tolist() == [1, 1]
        first, second = metric(marked.double(), marked, mask).tolist()
        assert first == 1
        assert math.isnan(second)
        with pytest.raises(ValueError, match="rationales"):
            metric(marked.double(), marked[:, :2])


@pytest.mark.parametrize("metric", [token_f1, token_iou])
def test_top_counts_at_least_one_token(metric):
    with pytest.raises(ValueError, match="at least 1"):
        metric(SCORES, MARKED, top=0)


@pytest.mark.parametrize(
    ("metric", "module", "package"),
    [(spearman, "scipy.stats", "scipy"), (auprc, "sklearn.metrics", "scikit-learn")],
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, metric, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"{package} is not installed: .*\.\[evaluate\]"):
        metric(SCORES, MARKED)
