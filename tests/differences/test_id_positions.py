"""Scores of embeddings that are looked up by numbers made of ids lie on the ids that changed these numbers.

The truth: a model that is a sum over its tokens, of which one is changed at a time.
"""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812

from captum_globenc import TransformerDeepLift

SIZE = 64
PERMUTED = torch.randperm(SIZE, generator=torch.Generator().manual_seed(3))
INPUT = torch.tensor([[1, 3, 5, 6, 3], [3, 2, 2, 7, 1]])
BASE = torch.tensor([[1, 2, 5, 3, 4], [3, 2, 3, 0, 0]])
SMALLER = torch.tensor([[1, 2, 5, 4, 0], [1, 1, 2, 7, 0]])
"""A baseline with which no changes of a count cancel: an embedding that is the same credits nobody."""


class Summed(nn.Module):
    """The sum of a weight for each place times the embedding of what is made of the ids there."""

    def __init__(self, make, linear=False):
        super().__init__()
        self.make = make
        generator = torch.Generator().manual_seed(5)
        table = torch.randn(SIZE, 1, generator=generator).double()
        table = torch.arange(float(SIZE)).double()[:, None] if linear else table
        self.embedding = nn.Embedding.from_pretrained(table)
        self.register_buffer("weights", torch.randn(100, generator=generator).double())

    def forward(self, ids):
        found = self.embedding(self.make(ids.clone()).long() % SIZE)
        found = found.reshape(len(ids), -1)
        return (found * self.weights[: found.shape[1]]).sum(1)


def one_at_a_time(model, ids, base):
    """Return the effect of each token alone, and whether the effects of any tokens sum."""
    with torch.no_grad():
        start, truth, additive = model(base), torch.zeros(ids.shape).double(), True
        for example in range(len(ids)):
            changed = (ids[example] != base[example]).nonzero()[:, 0].tolist()
            for size in range(1, len(changed) + 1):
                for chosen in combinations(changed, size):
                    some = base.clone()
                    some[example, list(chosen)] = ids[example, list(chosen)]
                    effect = (model(some) - start)[example]
                    if size == 1:
                        truth[example, chosen[0]] = effect
                    additive &= torch.allclose(effect, truth[example, list(chosen)].sum(), atol=1e-9)
    return truth, additive


def by_setitem(ids):
    made = torch.zeros_like(ids)
    made[ids == 3] = 1
    return made


def by_setitem_twice(ids):
    made = torch.zeros_like(ids)
    made[ids == 3] = 1
    made[ids == 2] = 4
    made[:, -1] = 2
    return made


def by_setitem_of_ids(ids):
    made = ids.clone()
    made[ids.roll(1, 1) == 77] = 9
    return made


def by_row_mask(ids):
    made = torch.zeros_like(ids)
    made[(ids[:, 0] == 3), 0] = 5
    return made


def through_in_place(ids):
    made = torch.zeros_like(ids)
    made += ids == 3
    made *= 2
    made[:, 1:] += (ids == 2)[:, :-1]
    return made


def shifted(ids):
    made = ids.new_zeros(ids.shape)
    made[:, 1:] = ids[:, :-1]
    return made


def view_before(ids):
    made = ids.clone()
    view = made[:, 1:]
    made[:, 2] = ids[:, 0]
    return view


def view_of_constants(ids):
    made = torch.zeros_like(ids)
    view = made.view(-1)
    made[ids == 3] = 1
    return view.view(ids.shape)


def base_of_a_view(ids):
    made = torch.zeros_like(ids)
    made[:, 1:].copy_(ids[:, :-1])
    return made


def chain_of_views(ids):
    made = torch.zeros_like(ids)
    made[:, 1:][:, ::2] = ids[:, :2]
    made.t()[0].masked_fill_(ids[:, 4] == 3, 8)
    return made


def base_of_a_view_that_is_written_twice(ids):
    made = ids.clone()
    view = made[:, :2]
    view.fill_(7)
    made[:, 1] = ids[:, 3]
    return view


def placed(ids, padding=1):
    mask = ids.ne(padding).int()
    return (mask.cumsum(1).type_as(mask) * mask).long() + padding


# Each element has one id, whatever the table.
ADDITIVE = {
    "segments of a comparison": lambda ids: (ids == 3).long(),
    "setitem with a mask": by_setitem,
    "several setitems": by_setitem_twice,
    "setitem with another token's mask": by_setitem_of_ids,
    "setitem with a mask of rows": by_row_mask,
    "masked_fill": lambda ids: torch.zeros_like(ids).masked_fill(ids == 3, 1),
    "masked_fill_": lambda ids: torch.zeros_like(ids).masked_fill_(ids == 3, 1),
    "masked_fill_ of ids": lambda ids: ids.clone().masked_fill_(ids == 3, 11),
    "index_put": lambda ids: torch.zeros_like(ids).index_put((ids == 3,), torch.tensor(1)),
    "index_put_": lambda ids: torch.zeros_like(ids).index_put_((ids == 3,), torch.tensor(1)),
    "masked_scatter": lambda ids: torch.zeros_like(ids).masked_scatter(
        torch.ones_like(ids).bool(), ids.flip(1)
    ),
    "scatter": lambda ids: torch.zeros_like(ids).scatter(1, torch.tensor([[4, 3, 2, 1, 0]] * 2), ids),
    "view from before a write": view_before,
    "view of constants from before a write": view_of_constants,
    "base of a view": base_of_a_view,
    "chain of views": chain_of_views,
    "view that is written twice": base_of_a_view_that_is_written_twice,
    "ids that are written into": lambda ids: ids.masked_fill_(ids.ne(3), 4)[:, 1:],
    "where": lambda ids: torch.where(ids == 3, 1, torch.where(ids == 2, 2, 0)),
    "where of a constant mask": lambda ids: torch.where(
        torch.tensor([True, False, True, False, True]), ids, ids.roll(1, 1)
    ),
    "shifted": shifted,
    "flip": lambda ids: ids.flip(1),
    "roll": lambda ids: ids.roll(2, 1),
    "gather": lambda ids: ids.gather(1, torch.tensor([[1, 0, 4, 3, 2], [2, 2, 2, 0, 1]])),
    "table": lambda ids: PERMUTED[ids],
    "two tables": lambda ids: PERMUTED[PERMUTED[ids].flip(1)],
    "isin": lambda ids: torch.isin(ids, torch.tensor([2, 3])),
    "bucketize": lambda ids: torch.bucketize(ids, torch.tensor([2, 4, 6])),
    "cat": lambda ids: torch.cat([torch.full((2, 2), 9), ids[:, 2:], ids[:, :1]], 1),
    "stack": lambda ids: torch.stack([ids, ids.flip(1)], 2),
    "pad with ones": lambda ids: F.pad(ids, (1, 1), value=1),
    "padded, then compared": lambda ids: F.pad(ids, (2, 0)) == 3,
    "repeat": lambda ids: ids.repeat(1, 2).repeat_interleave(2, 1),
    "unfold": lambda ids: ids.unfold(1, 2, 1),
    "arithmetic": lambda ids: (3 * ids + 1) // 2 % 7,
    "by float": lambda ids: (ids.float() / 2).floor().long(),
    "detach": lambda ids: ids.detach() + 1,
    "arange": lambda ids: ids * (torch.arange(ids.shape[1]) > 1),
    "triangle": lambda ids: ids[:, None, :].expand(-1, 5, -1).tril(),
}
# A count adds up where the table is linear.
LINEAR = {
    "cumsum": lambda ids: (ids == 3).cumsum(1),
    "cumsum of dtype": lambda ids: (ids == 3).cumsum(-1, dtype=torch.int32),
    "cumsum of floats": lambda ids: (ids == 3).float().cumsum(1).long(),
    "cumsum before": lambda ids: (ids == 3).cumsum(1) - (ids == 3).long(),
    "cumsum behind": lambda ids: (ids == 3).flip(1).cumsum(1).flip(1),
    "cumsum of ids": lambda ids: ids.cumsum(1),
    "cumsum of cumsum": lambda ids: (ids == 3).cumsum(1).cumsum(1) * 2,
    "sum": lambda ids: (ids == 3).sum(1, keepdim=True).expand(-1, 5),
    "sum of all": lambda ids: (ids == 3).sum() + torch.zeros(2, 1, dtype=torch.long),
    "both sides": lambda ids: (ids == 3).long() + 2 * (ids == 3).roll(1, 1),
    "both sides in place": through_in_place,
    "difference": lambda ids: 20 + ids - ids.flip(1),
    "weighted": lambda ids: (ids * torch.arange(5)).cumsum(1),
    "count of others": lambda ids: (ids == 3).sum(1, keepdim=True) - (ids == 3).long(),
}


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize("name", [*ADDITIVE, *LINEAR])
def test_scores_are_those_of_one_token_at_a_time(name, dtype):
    model = Summed({**ADDITIVE, **LINEAR}[name], linear=name in LINEAR)
    ids, base = INPUT.to(dtype), (SMALLER if name in LINEAR else BASE).to(dtype)
    truth, additive = one_at_a_time(model, ids, base)
    if name != "sum of all":  # whose examples depend on each other
        assert additive
        torch.testing.assert_close(TransformerDeepLift(model).attribute(ids, base), truth)


def test_a_sum_over_the_batch_is_counted_for_every_token():
    model = Summed(LINEAR["sum of all"], linear=True)
    scores = TransformerDeepLift(lambda ids: model(ids).sum()[None]).attribute(INPUT, SMALLER)
    changes = (INPUT == 3).long() - (SMALLER == 3).long()
    torch.testing.assert_close(scores, changes * 2 * model.weights[0])


def test_shares_of_a_count_are_those_of_its_changes_whatever_the_table():
    model = Summed(lambda ids: (ids == 3).cumsum(1))
    scores = TransformerDeepLift(model).attribute(torch.tensor([[3, 3, 5]]), torch.tensor([[1, 2, 5]]))
    table = model.embedding.weight[:, 0]
    effects = (table[[1, 2, 2]] - table[0]) * model.weights[:3]
    expected = torch.stack([effects[0] + effects[1] / 2 + effects[2] / 2, (effects[1] + effects[2]) / 2])
    torch.testing.assert_close(scores[0], torch.cat([expected, torch.zeros(1).double()]))


@pytest.mark.parametrize("base", [[[5, 4, 6, 1, 1]], [[5, 1, 6, 1, 1]]])
def test_positions_that_skip_padding_as_robertas(base):
    ids, base = torch.tensor([[7, 3, 8, 1, 1]]), torch.tensor(base)
    model = Summed(placed)
    scores = TransformerDeepLift(model).attribute(ids, base)
    torch.testing.assert_close(scores.sum(1), model(ids) - model(base))
    assert not scores[:, ids[0] == base[0]].any()
    if (base == 1).equal(ids == 1):
        assert not scores.any()
    else:
        assert scores[0, 1] != 0
        assert not scores[0, [0, 2]].any()


# What depends on a choice that differs between the runs, or on a function that is not followed.
UNKNOWN = {
    "sort": lambda ids: ids.sort(1).values,
    "sorted by themselves": lambda ids: ids.gather(1, ids.argsort(1)),
    "argsort": lambda ids: ids.argsort(1),
    "unique": lambda ids: ids.unique(return_inverse=True)[1],
    "cummax": lambda ids: ids.cummax(1).values,
    "any": lambda ids: (ids == 7).any(1, keepdim=True),
    "gather by ids": lambda ids: torch.arange(10).repeat(2, 1).gather(1, ids).gather(1, (ids % 5).flip(1)),
    "compaction": lambda ids: torch.zeros_like(ids).masked_scatter(ids == 3, ids.roll(1, 1)),
    "names of two": lambda ids: torch.where(ids.roll(1, 1) == 3, ids, 0),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_scores_of_unknown_ids_are_rejected(name):
    with pytest.raises(ValueError, match="unknown which id"):
        TransformerDeepLift(Summed(UNKNOWN[name])).attribute(INPUT, BASE)


def rows(ids):
    return torch.arange(len(ids))[:, None]


OPERATIONS = {
    "flip": lambda a, b: a.flip(1),
    "roll": lambda a, b: a.roll(1, 1),
    "shift": lambda a, b: F.pad(a, (1, 0), value=2)[:, :-1],
    "cumsum": lambda a, b: a.cumsum(1),
    "compare": lambda a, b: (a == 3).long(),
    "compare both": lambda a, b: (a > b).long(),
    "modulo": lambda a, b: a % 3,
    "where": lambda a, b: torch.where(a == 3, b, 4),
    "where other": lambda a, b: torch.where(b > 2, a, b),
    "sum": lambda a, b: a + b,
    "difference": lambda a, b: a - b,
    "product": lambda a, b: a * b,
    "maximum": lambda a, b: torch.maximum(a, b),
    "sort": lambda a, b: a.sort(1).values,
    "gather": lambda a, b: a.gather(1, b.abs() % a.shape[1]),
    "table": lambda a, b: PERMUTED[a.abs() % SIZE],
    "masked": lambda a, b: a.masked_fill(b == 3, 1),
    "written": lambda a, b: written(a, b == 3, 5),
    "written ids": lambda a, b: written(a, b == 3, b[b == 3]),
    "written at": lambda a, b: written(a, (rows(a), b.abs() % a.shape[1]), 7),
    "put": lambda a, b: a.index_put((b == 3,), torch.tensor(6)),
    "cat": lambda a, b: torch.cat([b[:, 2:], a[:, :2]], 1),
    "unique": lambda a, b: a.unique(return_inverse=True)[1],
    "count": lambda a, b: (a == 3).sum(1, keepdim=True) + b,
    "clamp": lambda a, b: a.clamp(1, 5),
    "in place": lambda a, b: a.clone().add_(b).mul_(2),
    "scatter": lambda a, b: a.scatter(1, b.abs() % a.shape[1], b),
    "and": lambda a, b: ((a > 2) & (b > 2)).long(),
}


def written(target, where, value):
    made = target.clone()
    made[where] = value
    return made


@st.composite
def programs(draw):
    """Draw functions of earlier results, each given by its name and the numbers of two of these."""
    length = draw(st.integers(1, 4))
    return [
        (draw(st.sampled_from(sorted(OPERATIONS))), draw(st.integers(0, k)), draw(st.integers(0, k)))
        for k in range(length)
    ]


@settings(max_examples=200, deadline=None)
@given(programs(), st.lists(st.integers(0, 6), min_size=16, max_size=16), st.booleans())
def test_random_programs_credit_the_tokens_that_changed(program, numbers, linear):
    def make(ids):
        made = [ids]
        for name, one, other in program:
            made.append(OPERATIONS[name](made[one], made[other]))
        return made[-1] + 3 * SIZE

    numbers = torch.tensor(numbers).view(2, 2, 4)
    ids, base = numbers
    model = Summed(make, linear)
    try:
        scores = TransformerDeepLift(model).attribute(ids, base)
    except ValueError as error:
        if "unknown which id" not in str(error):
            raise
        return
    torch.testing.assert_close(scores.sum(1), model(ids) - model(base), atol=1e-9, rtol=1e-9)
    # The effect of an example's only token that changed is all of it.
    changed = ids != base
    for example in range(2):
        if changed[example].sum() < 2:
            assert not scores[example][~changed[example]].any()
    truth, additive = one_at_a_time(model, ids, base)
    if additive and ids_are_names(program):
        torch.testing.assert_close(scores, truth, atol=1e-9, rtol=1e-9)


def ids_are_names(program):
    return not {name for name, *_ in program} & {
        "cumsum",
        "sum",
        "difference",
        "product",
        "count",
        "in place",
    }


def test_counts_over_several_inputs():
    model = Summed(lambda both: (both == 3).cumsum(1), linear=True)
    other, base = INPUT[:, 1:3], torch.zeros(2, 2, dtype=torch.long)

    def joined(one, other):
        return model(torch.cat([one, other], 1))

    for_one, for_other = TransformerDeepLift(joined).attribute((INPUT, other), (SMALLER, base))
    truth, _ = one_at_a_time(model, torch.cat([INPUT, other], 1), torch.cat([SMALLER, base], 1))
    torch.testing.assert_close(torch.cat([for_one, for_other], 1), truth)
