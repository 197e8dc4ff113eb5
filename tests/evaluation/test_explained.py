"""Methods that are compared, shown on a text: the numbers of an evaluation, next to those of `explain`."""

import math

import pytest
import torch

from captum_globenc import explain
from captum_globenc.evaluation import METHODS, Example, Subject
from captum_globenc.evaluation.explaining import MIXED, explain_by
from captum_globenc.evaluation.methods import attribute
from captum_globenc.texts import load_classifier

TEXTS = ["the plot is bad", "unhappy but not bad , great script !"]


@pytest.fixture(scope="module")
def loaded(folder):
    return load_classifier(folder)[:2]


@pytest.fixture(scope="module")
def found(loaded):
    methods = ["globenc", "transformer-deep-lift"]
    return explain(TEXTS, *loaded, pair="a film", methods=methods, target="NEGATIVE")


def test_every_method_gives_the_numbers_of_an_evaluation(loaded, found):
    names = [name for name in METHODS if name not in found[0].scores]
    more = explain_by(names, found, *loaded)
    subject = Subject(*loaded, target="NEGATIVE")
    batch = subject.batch(0, [Example(i, text, None, "a film") for i, text in enumerate(TEXTS)])
    for i, it in enumerate(more):
        assert list(it.scores) == [*found[i].scores, *names]
        kept = batch.mask[i][: len(it.tokens)]
        for name in names:
            expected = attribute(name, subject, batch)[i][: len(it.tokens)].double()
            scores = torch.tensor(it.scores[name]).double()
            if it.kinds[name] == "sizes":
                assert math.fsum(it.scores[name]) == pytest.approx(1)
                assert min(it.scores[name]) >= 0
            if name.partition("/")[0] not in MIXED:
                assert set(scores[~kept].tolist()) == {0.0}
            scores, expected = scores[kept], expected[kept]
            if it.kinds[name] == "sizes":
                scores, expected = scores / scores.sum(), expected / expected.sum()
            assert torch.allclose(scores, expected, atol=1e-6), name


def test_what_has_no_sign_is_shown_as_shares(loaded, found):
    (it, _) = explain_by(["saliency", "W/max-flow", "lime"], found, *loaded)
    assert [it.kinds[name] for name in ("saliency", "W/max-flow", "lime")] == ["sizes", "sizes", "signed"]
    assert it.units["saliency"] == "%"
    assert it.captions["saliency"] == "share of each token in the sum of all, for or against"
    assert it.difference(it).kinds["saliency"] == "difference"


def test_some_methods_alone_in_their_order(loaded, found):
    (it, _) = explain_by(["lime"], found, *loaded)
    assert list(it.by("lime", "globenc").scores) == ["lime", "globenc"]
    assert it.by("globenc").scores["globenc"] == it.scores["globenc"]
    with pytest.raises(ValueError, match="no scores of 'random'"):
        it.by("random")


def test_what_does_not_go_together_is_refused(loaded, found):
    with pytest.raises(ValueError, match="no method magic; known: globenc"):
        explain_by(["magic"], found, *loaded)
    with pytest.raises(ValueError, match="lime cannot hold a class against another"):
        explain_by(["lime"], explain(TEXTS, *loaded, against="POSITIVE", target="NEGATIVE"), *loaded)
    with pytest.raises(ValueError, match="of other tokens"):
        explain_by(["lime"], [type(it)(**{**vars(it), "pair": "good"}) for it in found], *loaded)
    assert list(explain_by(["lime"], [], *loaded)) == []
