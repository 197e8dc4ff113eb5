"""Methods that run coalitions of tokens: KernelSHAP and first-last, compared with known values."""

from itertools import combinations
from math import factorial

import pytest
import torch

from captum_globenc.evaluation import Example, Subject, evaluate
from captum_globenc.evaluation.subject import attribute
from captum_globenc.metrics import shapley_values
from captum_globenc.texts import load_classifier
from captum_globenc.texts.methods.coalitions import first_last, kernel_shap
from models import randomize

TEXTS = [Example(0, "the plot is bad"), Example(1, "a great film but not good"), Example(2, "good")]


def game(count, seed=0):
    """A function of coalitions with interactions of all orders, and its Shapley values by definition."""
    torch.manual_seed(seed)
    table = torch.randn(2**count, dtype=torch.double)

    def value(present):
        calls.append(len(present))
        return table[(present.long() << torch.arange(count)).sum(1)]

    calls = []
    exact = torch.zeros(count, dtype=torch.double)
    for one in range(count):
        others = [it for it in range(count) if it != one]
        for size in range(count):
            for some in combinations(others, size):
                before = sum(1 << it for it in some)
                share = factorial(size) * factorial(count - 1 - size) / factorial(count)
                exact[one] += share * (table[before + (1 << one)] - table[before])
    return value, exact, table[-1] - table[0], calls


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_kernel_shap_is_exact_where_all_coalitions_are_run(count):
    value, exact, _, calls = game(count)
    torch.testing.assert_close(kernel_shap(value, count, 16), exact, rtol=1e-9, atol=1e-11)
    assert sum(calls) == 2**count


@pytest.mark.parametrize("passes", [16, 32, 64])
def test_kernel_shap_adds_up_runs_pairs_and_takes_its_passes(passes):
    value, _, change, calls = game(9)
    pairs = []

    def seen(present):
        pairs.append(present[2:])
        return value(present)

    torch.manual_seed(1)
    scores = kernel_shap(seen, 9, passes)
    assert scores.sum() == pytest.approx(float(change))
    assert sum(calls) == passes + 2
    (drawn,) = pairs
    assert torch.equal(drawn[: passes // 2], ~drawn[passes // 2 :])
    assert drawn.any(1).all()
    assert not drawn.all(1).any()


def test_kernel_shap_finds_an_additive_function_and_converges_to_shapley_values():
    weights = torch.randn(8, generator=torch.Generator().manual_seed(0)).double()
    torch.manual_seed(0)
    scores = kernel_shap(lambda present: present.double() @ weights + 3, 8, 64)
    torch.testing.assert_close(scores, weights, rtol=1e-9, atol=1e-9)
    value, exact, _, _ = game(7)
    off = [float((kernel_shap(value, 7, passes) - exact).norm() / exact.norm()) for passes in (64, 20000)]
    assert off[1] < 0.1
    assert off[1] < off[0] / 3


def test_paired_coalitions_of_second_order_give_shapley_values():
    """Covert & Lee (2021): with pairs, interactions of two features cancel."""
    generator = torch.Generator().manual_seed(0)
    linear = torch.randn(6, generator=generator).double()
    pairs = torch.randn(6, 6, generator=generator).double().triu(1)

    def value(present):
        there = present.double()
        return there @ linear + ((there @ pairs) * there).sum(1)

    torch.manual_seed(3)
    exact = linear + (pairs.sum(0) + pairs.sum(1)) / 2
    torch.testing.assert_close(kernel_shap(value, 6, 60), exact, rtol=1e-8, atol=1e-8)


def test_first_last_is_the_mean_of_both_ends():
    value, _, _, calls = game(4)
    found = first_last(value, 4)
    assert sum(calls) == 10
    for one in range(4):
        of = [torch.zeros(4).bool(), torch.ones(4).bool(), torch.arange(4) == one, torch.arange(4) != one]
        none, whole, alone, without = (value(it[None])[0] for it in of)
        assert found[one] == pytest.approx(float((alone - none + whole - without) / 2))


@pytest.fixture
def subject(folder):
    model, tokenizer = load_classifier(folder)[:2]
    return Subject(randomize(model.double()), tokenizer)


def test_texts_of_four_tokens_get_their_shapley_values(subject):
    batch = subject.batch(0, TEXTS)
    exact = shapley_values(
        subject.forward, batch.inputs, batch.request.baselines, batch.extra, batch.target, mask=batch.mask
    )
    scores = attribute("kernel-shap/16", batch)
    short = batch.mask.sum(1) <= 4
    assert short.sum() == 2
    torch.testing.assert_close(scores[short], exact[short], rtol=1e-7, atol=1e-9)
    assert not scores[~batch.mask].any()


def test_the_distance_to_shapley_values_in_an_evaluation(subject):
    methods = ["kernel-shap/16", "first-last", "transformer-deep-lift/restore-4", "random"]
    long = Example(3, "good " * 13)
    found = evaluate(
        subject.model, subject.tokenizer, [*TEXTS, long], methods=methods, metrics=["shapley-distance"]
    )
    of = {(row["example"], row["method"]): row["shapley-distance"] for row in found.rows}
    assert of[0, "kernel-shap/16"] == pytest.approx(0, abs=1e-7)
    # A single token gets the whole difference.
    for method in methods[:3]:
        assert of[2, method] == pytest.approx(0, abs=1e-7)
        assert of[3, method] != of[3, method]
    assert of[0, "random"] > 0.1
    batch = subject.batch(0, TEXTS)
    exact = shapley_values(
        subject.forward, batch.inputs, batch.request.baselines, batch.extra, batch.target, mask=batch.mask
    )
    scores = attribute("first-last", batch)
    off = (scores - exact).norm(dim=1) / exact.norm(dim=1)
    assert of[1, "first-last"] == pytest.approx(float(off[1]))


def test_random_parts_depend_on_the_seed(subject):
    method = "transformer-deep-lift/restore-2"
    scores = {}
    for seed in (0, 0, 1):
        one = Subject(subject.model, subject.tokenizer, seed=seed)
        scores.setdefault(seed, []).append(attribute(method, one.batch(0, TEXTS)))
    assert torch.equal(*scores[0])
    assert not torch.equal(scores[0][0], scores[1][0])
    torch.testing.assert_close(scores[0][0].sum(1), scores[1][0].sum(1), rtol=1e-9, atol=1e-11)
