"""The drop without the top k features and the linear datamodeling score, compared with their definitions."""

import math

import pytest
import torch
from scipy.stats import spearmanr

from captum_globenc.metrics import linear_datamodeling_score, top_k_drop

IDS = torch.tensor([[1, 5, 3, 4, 9], [2, 7, 1, 8, 0]])
SCORES = torch.tensor([[0.1, 0.4, 0.2, 0.2, 9.0], [0.3, -0.5, 0.6, 0.6, 9.0]], dtype=torch.float64)
SENTENCES = torch.tensor([[0, 0, 1, 2, -1], [0, 0, 1, 1, -1]])


def forward(ids):
    return (ids.double() ** 2).sum(1)


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (1, [26.0, 65.0]),  # sentence 0 of scores .5, .2, .2; sentence 1 of scores -.2, 1.2
        (2, [35.0, 118.0]),  # the first of equal scores
        (3, [51.0, 118.0]),  # all features that there are
    ],
)
def test_the_drop_is_that_without_the_sentences_of_the_highest_scores(k, expected):
    drop = top_k_drop(forward, IDS, SCORES, 0, k=k, feature_mask=SENTENCES)
    assert drop.tolist() == expected


@pytest.mark.parametrize(("k", "expected"), [(1, [81.0, 0.0]), (2, [106.0, 1.0])])
def test_tokens_are_the_features_by_default(k, expected):
    assert top_k_drop(forward, IDS, SCORES, 0, k=k).tolist() == expected


def test_tokens_outside_of_the_mask_stay():
    mask = torch.tensor([[0, 1, 1, 1, 0], [0, 0, 0, 0, 0]])
    drop = top_k_drop(forward, IDS, SCORES, 0, feature_mask=SENTENCES, mask=mask)
    assert drop[0] == 25
    assert math.isnan(drop[1])
    everything_kept = torch.full((1, 5), -1)
    for metric in (top_k_drop, linear_datamodeling_score):
        assert metric(forward, IDS, SCORES, 0, feature_mask=everything_kept).isnan().all()


def test_the_datamodeling_score_is_the_rank_correlation_over_random_subsets():
    found = linear_datamodeling_score(forward, IDS, SCORES, 0, feature_mask=SENTENCES, n_samples=20, seed=3)
    for row, count in enumerate((3, 2)):
        kept = torch.rand(20, count, generator=torch.Generator().manual_seed(3)) < 0.5
        sums, outputs = [], []
        for subset in kept:
            inside = [int(it) >= 0 and bool(subset[it]) for it in SENTENCES[row]]
            sums.append(math.fsum(s for s, kept in zip(SCORES[row].tolist(), inside, strict=True) if kept))
            outputs.append(sum(int(it) ** 2 for it, kept in zip(IDS[row], inside, strict=True) if kept))
        assert found[row] == pytest.approx(spearmanr(sums, outputs).statistic)


def test_a_datamodel_that_is_exact_scores_one_and_its_negative_minus_one():
    values = IDS.double() ** 2
    options = {"feature_mask": SENTENCES, "n_samples": 30}
    assert linear_datamodeling_score(forward, IDS, values, 0, **options).tolist() == pytest.approx([1, 1])
    assert linear_datamodeling_score(forward, IDS, -values, 0, **options).tolist() == pytest.approx([-1, -1])


def test_the_subsets_of_an_example_do_not_depend_on_the_others():
    both = linear_datamodeling_score(forward, IDS, SCORES, 0, feature_mask=SENTENCES)
    one = linear_datamodeling_score(forward, IDS[1:], SCORES[1:], 0, feature_mask=SENTENCES[1:])
    assert both[1] == one[0]


def test_given_subsets_replace_random_ones():
    kept = torch.rand(20, 3, generator=torch.Generator().manual_seed(3)) < 0.5
    options = {"feature_mask": SENTENCES[:1], "n_samples": 20, "seed": 3}
    found = linear_datamodeling_score(forward, IDS[:1], SCORES[:1], 0, **options)
    given = linear_datamodeling_score(
        forward, IDS[:1], SCORES[:1], 0, feature_mask=SENTENCES[:1], subsets=kept[None]
    )
    assert given == found


@pytest.mark.parametrize(
    ("metric", "options", "message"),
    [
        (top_k_drop, {"k": 0}, "k is 0: at least 1"),
        (linear_datamodeling_score, {"n_samples": 1}, "n_samples is 1: at least 2"),
        (linear_datamodeling_score, {"subsets": torch.ones(2, 3, 4)}, r"pass \(B, K, F\), here \(2, K, 5\)"),
        (top_k_drop, {"feature_mask": torch.zeros(2, 4)}, r"feature_mask is \(2, 4\) for inputs \(2, 5\)"),
    ],
)
def test_bad_arguments_are_reported(metric, options, message):
    with pytest.raises(ValueError, match=message):
        metric(forward, IDS, SCORES, 0, **options)
