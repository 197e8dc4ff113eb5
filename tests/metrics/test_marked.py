"""Metrics of known truth: cases computed by hand, and right and wrong methods."""

import pytest
import torch

from captum_globenc.metrics import first_rank, names_decoy, precision_at, token_f1

SCORES = torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.5], [0.1, 0.5, 0.4, 0.3, 9.0]])
MARKED = torch.tensor([[1, 0, 1, 0, 0], [0, 0, 0, 1, 1]])
DECOYS = torch.tensor([[0, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])


def test_values_worked_out_by_hand():
    # Two are marked in the first text and tokens 0 and 1 lead; in the second one counts, and token 1 leads.
    assert precision_at(SCORES, MARKED, MASK).tolist() == [1 / 2, 0]
    assert precision_at(SCORES, MARKED, MASK, top=3).tolist() == pytest.approx([2 / 3, 1 / 3])
    assert precision_at(SCORES, MARKED, MASK, top=9).tolist() == pytest.approx([2 / 9, 1 / 9])
    assert first_rank(SCORES, MARKED, MASK).tolist() == [1, 3]
    # Token 1 is second of two; token 0 is last where one is taken.
    assert names_decoy(SCORES, DECOYS, MARKED, MASK).tolist() == [1, 0]
    # Without the mask the last token leads the second text.
    assert precision_at(SCORES, MARKED).tolist() == [1 / 2, 1 / 2]
    assert first_rank(SCORES, MARKED).tolist() == [1, 1]


def test_with_as_many_as_are_marked_precision_is_f1():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(50, 9, generator=generator)
    marked = torch.rand(50, 9, generator=generator) < 0.3
    mask = torch.rand(50, 9, generator=generator) < 0.8
    ours, theirs = precision_at(scores, marked, mask), token_f1(scores, marked, mask)
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert torch.allclose(ours, theirs, equal_nan=True)


def test_the_truth_is_right_its_reverse_is_wrong_and_chance_is_in_between():
    generator = torch.Generator().manual_seed(1)
    texts, tokens = 4000, 10
    order = torch.stack([torch.randperm(tokens, generator=generator) for _ in range(texts)])
    marked, decoys = order < 2, order == 2
    assert precision_at(marked.double(), marked).tolist() == [1] * texts
    assert first_rank(marked.double(), marked).tolist() == [1] * texts
    assert not names_decoy(marked.double(), decoys, marked).any()
    assert precision_at(-marked.double(), marked).tolist() == [0] * texts
    assert first_rank(-marked.double(), marked).tolist() == [tokens - 1] * texts
    chance = torch.rand(texts, tokens, generator=generator)
    # 2 of 10; the mean rank of the first of two among ten is 11 / 3. Five standard errors.
    assert precision_at(chance, marked).mean().item() == pytest.approx(0.2, abs=0.022)
    assert first_rank(chance, marked).mean().item() == pytest.approx(11 / 3, abs=0.18)
    assert names_decoy(chance, decoys, marked).mean().item() == pytest.approx(0.2, abs=0.032)


def test_texts_without_marked_tokens_give_nan_and_wrong_calls_are_rejected():
    nothing = torch.zeros_like(MARKED)
    assert precision_at(SCORES, nothing).isnan().all()
    assert first_rank(SCORES, nothing).isnan().all()
    assert names_decoy(SCORES, nothing, MARKED).isnan().all()
    assert names_decoy(SCORES, DECOYS, nothing).isnan().all()
    with pytest.raises(ValueError, match="marked"):
        precision_at(SCORES, MARKED[:, :3])
    with pytest.raises(ValueError, match="at least 1"):
        precision_at(SCORES, MARKED, top=0)
    with pytest.raises(ValueError, match="NaN"):
        first_rank(torch.full((2, 5), torch.nan), MARKED)


def test_embeddings_are_summed():
    spread = SCORES[:, :, None] * torch.tensor([3.0, -2.0])
    assert torch.equal(precision_at(spread, MARKED), precision_at(SCORES, MARKED))
