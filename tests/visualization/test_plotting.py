"""The figures of an explanation show its numbers."""

import matplotlib.pyplot as plt
import numpy
import pytest

from captum_globenc import explain
from captum_globenc.texts.loading import load_classifier
from captum_globenc.visualization import plot_explanation

SIGNED = "transformer-deep-lift"


@pytest.fixture
def found(folder):
    model, tokenizer, _ = load_classifier(folder)
    yield explain(["the film is unhappy", "good"], model, tokenizer, layers=True, pair="a $bad$ plot")[0]
    plt.close("all")


@pytest.mark.parametrize("method", [None, "globenc", SIGNED])
@pytest.mark.parametrize("special", [True, False])
def test_bars_are_the_scores_of_the_words(found, method, special):
    ax = found.plot(method, special=special)
    expected = [score for _, score in found.words(method, special=special)]
    assert [bar.get_height() for bar in ax.patches] == pytest.approx(expected)
    assert ax.get_ylabel() == ("share" if method == "globenc" else "logit")
    title = ax.get_title(loc="left").splitlines()
    assert title == [found.headline, method or SIGNED]
    ax.figure.canvas.draw()


@pytest.mark.parametrize(("method", "first"), [("globenc", "1"), (SIGNED, "0")])
def test_the_heat_map_has_a_row_for_each_depth_by_its_number(found, method, first):
    ax = found.plot(method, layers=True)
    rows = numpy.array([found.by(method).layers[method]][0])
    merged = numpy.stack([rows[:, list(word.tokens)].sum(1) for word in found.groups], axis=1)
    drawn = ax.images[0].get_array()
    numpy.testing.assert_allclose(drawn, merged / abs(merged).max(1, keepdims=True), rtol=1e-6)
    ax.figure.canvas.draw()
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels[0] == first
    assert labels[-1] == "2"


def test_given_axes_are_used(found):
    figure, ax = plt.subplots()
    assert found.plot(ax=ax) is plot_explanation(found, ax=ax) is ax
    assert plt.get_fignums() == [figure.number]


def test_missing_scores_are_reported(found, folder):
    with pytest.raises(ValueError, match="no scores of 'lime'"):
        found.plot("lime")
    model, tokenizer, _ = load_classifier(folder)
    (plain,) = explain(["good"], model, tokenizer)
    with pytest.raises(ValueError, match="has no scores of layers: explain with layers=True"):
        plain.plot(layers=True)
