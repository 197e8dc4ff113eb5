"""Token ids are tracked to the embeddings that are looked up by them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from captum_globenc import TransformerDeepLift
from captum_globenc.differences import compare

TABLE = torch.randperm(30, generator=torch.Generator().manual_seed(3))
IDS, OTHERS = torch.arange(1, 9).view(2, 4), torch.arange(9, 15).view(2, 3)


class Places(nn.Module):
    """Looks each id up as itself, and returns the sum of 10^p times the p-th: scores tell their places."""

    def __init__(self, arrange, width=4):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(torch.arange(30.0).double()[:, None])
        self.arrange = arrange
        self.scale = 10.0 ** torch.arange(width).double()

    def forward(self, *ids):
        return (self.embedding(self.arrange(*ids))[..., 0] * self.scale).sum(-1)


def shifted(ids):
    made = ids.new_zeros(ids.shape)
    made[:, 1:] = ids[:, :-1].clone()
    made[:, 0] = 2
    made.masked_fill_(made == -100, 1)
    return made


def with_prefix(ids):
    return torch.cat([torch.full((len(ids), 1), 29), ids[:, :3]], 1)


def without(ids):
    return ids.flatten()[(ids > 0).flatten().nonzero()[:, 0]].view(ids.shape)


def copied(ids):
    made = torch.zeros(2, 5, dtype=ids.dtype)
    made[:, :4].copy_(ids)
    return made[:, :4]


# What a row of scores is, by the row of ids: for each place, the power of ten that it is looked up under.
KNOWN = {
    "as they are": (lambda ids: ids, [0, 1, 2, 3]),
    "other types": (lambda ids: ids.to(torch.int16).to(torch.int32).long(), [0, 1, 2, 3]),
    "elementwise": (lambda ids: (ids * 2).clamp(max=40) // 2 + (ids < 0), [0, 1, 2, 3]),
    "turned": (lambda ids: ids.flip(1), [3, 2, 1, 0]),
    "shifted to the right": (shifted, [1, 2, 3, None]),
    "behind a prefix": (with_prefix, [1, 2, 3, None]),
    "padded": (lambda ids: F.pad(ids[:, 1:], (1, 0), value=25), [None, 1, 2, 3]),
    "by places that are counted": (lambda ids: ids.gather(1, torch.tensor([[1, 0, 3, 2]] * 2)), [1, 0, 3, 2]),
    "without what is hidden": (without, [0, 1, 2, 3]),
    "written into a view": (copied, [0, 1, 2, 3]),
    "where": (lambda ids: torch.where(ids > 100, 1, ids), [0, 1, 2, 3]),
}


@pytest.mark.parametrize("name", KNOWN)
def test_looked_up_embeddings_are_credited_to_their_ids(name):
    arrange, powers = KNOWN[name]
    scores = TransformerDeepLift(Places(arrange)).attribute(IDS, 1)
    expected = [
        [0.0 if p is None else 10.0**p * (int(it) - 1) for p, it in zip(powers, row, strict=True)]
        for row in IDS
    ]
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(
    "by", [lambda ids: TABLE[ids], lambda ids: TABLE.gather(0, ids.flatten()).view(ids.shape), TABLE.take]
)
def test_ids_that_a_table_makes_of_others_are_scored_as_these(by):
    scores = TransformerDeepLift(Places(by)).attribute(IDS, 0)
    expected = 10.0 ** torch.arange(4).double() * (TABLE[IDS] - TABLE[0])
    torch.testing.assert_close(scores, expected)


def test_several_inputs_that_are_joined_are_each_scored():
    model = Places(lambda one, other: torch.cat([other, one], 1), width=7)
    for_one, for_other = TransformerDeepLift(model).attribute((IDS, OTHERS), (1, 1))
    torch.testing.assert_close(for_one, 10.0 ** torch.arange(3, 7).double() * (IDS - 1))
    torch.testing.assert_close(for_other, 10.0 ** torch.arange(3).double() * (OTHERS - 1))


# Their order differs from the places that they would be taken for.
UNKNOWN = {
    "sorted": lambda ids: ids.flip(1).sort(1).values,
    "sorted by themselves": lambda ids: ids.gather(1, ids.argsort(1, descending=True)),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_ids_of_look_ups_are_rejected(name):
    base = torch.tensor([[4, 3, 2, 1], [1, 1, 2, 2]])
    with pytest.raises(ValueError, match="unknown which id"):
        TransformerDeepLift(Places(UNKNOWN[name])).attribute(IDS, base)


@pytest.mark.parametrize("n_steps", [1, 3])
def test_ids_at_other_positions_at_the_baseline_are_rejected(n_steps):
    model = Places(lambda ids: ids[:, ids[0].argsort()])
    with pytest.raises(ValueError, match="unknown which id"):
        TransformerDeepLift(model).attribute(IDS, IDS.flip(1) + 1, n_steps=n_steps)


@pytest.mark.parametrize(("twice_at", "said"), [("baseline", "more"), ("input", "fewer")])
def test_another_number_of_look_ups_at_the_baseline_is_rejected(twice_at, said):
    embedding = nn.Embedding(30, 2)
    other = IDS + 1

    def function(ids):
        twice = torch.equal(ids, other) is (twice_at == "baseline")
        return embedding(ids) + embedding(ids) if twice else embedding(ids)

    with pytest.raises(ValueError, match=f"looks up {said} inputs there"):
        compare(function, [IDS], [other])


@pytest.mark.parametrize(
    "baselines", [0.5, torch.full((2, 4), 1.5), torch.tensor([[1.0, 2.0, torch.nan, 3.0]])]
)
def test_baselines_of_ids_are_ids(baselines):
    with pytest.raises(ValueError, match="whole numbers"):
        TransformerDeepLift(Places(lambda ids: ids)).attribute(IDS, baselines)


def test_whole_numbers_are_ids_whatever_their_type():
    method = TransformerDeepLift(Places(lambda ids: ids))
    for baselines in (1.0, torch.ones(2, 4), torch.ones(1, 4, dtype=torch.int32)):
        assert torch.equal(method.attribute(IDS, baselines), method.attribute(IDS, 1))
