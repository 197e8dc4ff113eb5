"""Exact Shapley values, against the mean over all orders; and the distance to them."""

from itertools import permutations

import pytest
import torch

from captum_globenc import EncoderForward
from captum_globenc.metrics import shapley_distance, shapley_values


def by_orders(value, count):
    """The mean contribution of each feature over all orders."""
    total = torch.zeros(count, dtype=torch.double)
    orders = list(permutations(range(count)))
    for order in orders:
        present = [False] * count
        before = value(present)
        for one in order:
            present[one] = True
            after = value(present)
            total[one] += after - before
            before = after
    return total / len(orders)


@pytest.fixture
def setting(classifier, batch):
    forward = EncoderForward(classifier)
    inputs, extra = forward.arguments(batch)
    mask = extra[0].bool()
    mask[:, 0] = False
    mask[0, 6:] = False
    return forward, inputs, extra, mask


@pytest.mark.parametrize("removal", ["mask", "pad"])
@pytest.mark.parametrize("targets", [[0, 2, 1], torch.tensor([0, 2, 1]), 1, None])
def test_they_are_the_mean_over_all_orders(setting, removal, targets):
    forward, inputs, extra, mask = setting
    blank = 3 if removal == "mask" else None
    values = shapley_values(
        forward, inputs, blank, extra, targets, mask=mask, removal=removal, max_examples_per_batch=5
    )
    assert values.shape == inputs.shape
    assert not values[~mask].any()
    with torch.no_grad():
        highest = forward(inputs, *extra).argmax(1)
    for row in range(3):
        target = highest[row] if targets is None else torch.as_tensor(targets).expand(3)[row]
        places = mask[row].nonzero()[:, 0]

        def value(present, row=row, places=places, target=target):
            gone = places[~torch.tensor(present)]
            ids, attention, types = (it[row : row + 1].clone() for it in (inputs, *extra))
            if removal == "mask":
                ids[0, gone] = 3
            else:
                attention[0, gone] = 0
            with torch.no_grad():
                return forward(ids, attention, types)[0, target]

        torch.testing.assert_close(values[row, places], by_orders(value, len(places)), rtol=1e-9, atol=1e-12)


def test_probabilities_and_baselines_of_each_example(setting):
    forward, inputs, extra, mask = setting
    blanks = torch.where(mask, inputs.flip(1) % 50 + 5, inputs)
    values = shapley_values(forward, inputs, blanks, extra, 2, mask=mask, activation="softmax")
    with torch.no_grad():
        whole, blank = (forward(ids, *extra).softmax(1)[:, 2] for ids in (inputs, blanks))
    torch.testing.assert_close(values.sum(1), whole - blank)


def test_more_than_twelve_tokens_are_rejected_before_anything_runs():
    def never(ids):
        raise AssertionError

    with pytest.raises(ValueError, match=r"13 tokens .* 2\*\*13 forward passes"):
        shapley_values(never, torch.ones(2, 13).long(), 0)


def test_the_distance_is_relative_and_unknown_for_long_texts(setting):
    forward, inputs, extra, mask = setting
    exact = shapley_values(forward, inputs, 3, extra, 1, mask=mask)
    scores = exact * torch.tensor([[1.0], [1.5], [0.0]]).double()
    found = shapley_distance(forward, inputs, scores, 3, extra, 1, mask=mask)
    torch.testing.assert_close(found, torch.tensor([0, 0.5, 1]).double(), rtol=1e-9, atol=1e-12)
    # What is written at tokens that stay does not count.
    torch.testing.assert_close(
        shapley_distance(forward, inputs, scores + ~mask, 3, extra, 1, mask=mask), found
    )
    long = torch.ones(2, 14).long()
    there = torch.arange(14) < torch.tensor([[14], [2]])
    found = shapley_distance(lambda ids: ids.sum(1).double(), long, torch.ones(2, 14), 0, mask=there)
    assert found.isnan().tolist() == [True, False]
    assert found[1] == pytest.approx(0)
