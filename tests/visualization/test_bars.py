"""`plot_words` draws the given words as bars, with one panel per class."""

import pytest

from captum_globenc.visualization import plot_words

WORDS = {"no": [("dull", 0.5), ("great $5", -0.25)], "yes": [("film", 0.125)]}


def test_every_class_has_a_panel_with_its_words_from_above():
    panels = plot_words(WORDS).axes
    assert [panel.get_title() for panel in panels] == ["no", "yes"]
    assert [[bar.get_width() for bar in panel.patches] for panel in panels] == [[0.5, -0.25], [0.125]]
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["dull", r"great \$5"]
    assert panels[0].yaxis_inverted()


def test_supporting_and_opposing_words_have_different_colors():
    one, other = plot_words(WORDS).axes[0].patches
    assert one.get_facecolor() != other.get_facecolor()


def test_an_empty_figure_is_rejected():
    with pytest.raises(ValueError, match="there are no words to draw"):
        plot_words({})


@pytest.mark.parametrize("score", [float("nan"), float("inf"), None])
def test_scores_that_are_not_finite_are_rejected(score):
    with pytest.raises(ValueError, match="NaN or infinity"):
        plot_words({"POSITIVE": [("good", 0.5), ("bad", score)], "NEGATIVE": []})


def test_classes_may_be_numbers_and_have_no_words():
    assert [panel.get_title() for panel in plot_words({0: [("good", 0.5)], 1: []}).axes] == ["0", "1"]
