import itertools
import warnings

import numpy as np
import pytest
import torch
from captum.attr import visualization as captum_visualization
from matplotlib import colors, pyplot
from matplotlib.figure import Figure

from captum_globenc import visualization
from captum_globenc.visualization import figures, visualize_image
from captum_globenc.visualization.figures import plot_comparison, plot_layers, plot_mixing
from colours import contrast

TOKENS = ["[CLS]", "the", "$5", "and", "$x^2$", "un", "##happy", "[SEP]"]
LONG = ["[CLS]", *(f"token{number}" for number in range(150)), "w" * 300, "two\nlines", "[SEP]"]


@pytest.fixture(autouse=True)
def _no_window():
    with pyplot.rc_context():
        pyplot.switch_backend("Agg")
        yield
    pyplot.close("all")


def scores(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


DRAW = {
    "layers": lambda tokens, **options: plot_layers(scores(6, len(tokens)), tokens, **options),
    "mixing": lambda tokens, **options: plot_mixing(scores(len(tokens), len(tokens)), tokens, **options),
    "comparison": lambda tokens, **options: plot_comparison(
        {"GlobEnc": scores(len(tokens)), "other": -scores(len(tokens))}, tokens, **options
    ),
}


def labels(axis):
    """The texts that are drawn along an axis, and their boxes in pixels."""
    figure = axis.axes.get_figure(root=True)
    figure.canvas.draw()
    drawn = [label for label in axis.get_ticklabels() if label.get_text()]
    low, high = sorted(axis.get_view_interval())
    places = [place for place in axis.get_ticklocs() if low <= place <= high]
    assert len(places) == len(drawn)
    return drawn, [label.get_window_extent() for label in drawn]


def assert_legible(axis):
    drawn, boxes = labels(axis)
    assert len(drawn) > 1
    for first, second in itertools.pairwise(boxes):
        assert not first.overlaps(second)
    for label in drawn:
        assert label.get_fontsize() >= 7


def test_the_heat_map_holds_the_scores_of_each_layer():
    values = scores(3, len(TOKENS))
    image = plot_layers(values, TOKENS, relative=False).images[0]
    np.testing.assert_allclose(image.get_array(), values)
    assert image.get_clim() == (0, values.max())


def test_a_layers_scores_are_relative_to_its_largest():
    values = scores(3, len(TOKENS)) * torch.tensor([[0.01], [1.0], [50.0]])
    image = plot_layers(values, TOKENS).images[0]
    np.testing.assert_allclose(image.get_array(), values / values.amax(1, keepdim=True))


def test_layer_1_is_the_lowest_row_and_tokens_run_from_left_to_right():
    ax = plot_layers(scores(3, len(TOKENS)), TOKENS)
    drawn, boxes = labels(ax.yaxis)
    assert [label.get_text() for label in drawn] == ["1", "2", "3"]
    assert boxes[0].y0 < boxes[1].y0 < boxes[2].y0
    drawn, boxes = labels(ax.xaxis)
    assert [label.get_text().replace(r"\$", "$") for label in drawn] == TOKENS
    assert boxes[0].x0 < boxes[-1].x0


def test_the_mixing_matrix_has_receivers_from_top_to_bottom():
    values = scores(len(TOKENS), len(TOKENS))
    ax = plot_mixing(values, TOKENS)
    np.testing.assert_allclose(ax.images[0].get_array(), values)
    drawn, boxes = labels(ax.yaxis)
    assert drawn[0].get_text() == "[CLS]"
    assert boxes[0].y0 > boxes[-1].y0
    # Row 0 of the array really is drawn at the top.
    top = ax.transData.transform((0, 0))[1]
    assert top > ax.transData.transform((0, len(TOKENS) - 1))[1]


def test_negative_scores_are_colored_around_zero():
    image = plot_layers([[1.0, -3.0]], ["a", "b"], relative=False).images[0]
    assert image.get_clim() == (-3, 3)
    assert image.get_cmap().name != plot_layers([[1.0, 3.0]], ["a", "b"]).images[0].get_cmap().name


def test_scores_that_are_all_zero_can_be_drawn():
    assert plot_layers([[0.0, 0.0]], ["a", "b"]).images[0].get_array().tolist() == [[0, 0]]
    assert [bar.get_height() for bar in plot_comparison({"m": [0, 0]}, ["a", "b"]).containers[0]] == [0, 0]


@pytest.mark.parametrize("relative", [True, False])
def test_bars_hold_every_methods_scores_next_to_each_other(relative):
    methods = {"GlobEnc": scores(8), "gradients": [0, -4, 2, 1, 0, 0, 0, 1.0]}
    ax = plot_comparison(methods, TOKENS, relative=relative)
    for name, bars in zip(methods, ax.containers, strict=True):
        values = np.asarray(methods[name])
        expected = values / np.abs(values).max() if relative else values
        np.testing.assert_allclose([bar.get_height() for bar in bars], expected)
    edges = [
        (bar.get_x(), bar.get_x() + bar.get_width())
        for pair in zip(*ax.containers, strict=True)
        for bar in pair
    ]
    for (_, end), (start, _) in itertools.pairwise(edges):
        assert end <= start + 1e-9
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["GlobEnc", "gradients"]


@pytest.mark.parametrize("draw", DRAW.values(), ids=DRAW)
@pytest.mark.parametrize("tokens", [TOKENS, LONG], ids=["short", "long"])
@pytest.mark.parametrize("own", [True, False])
def test_token_labels_never_overlap(draw, tokens, own):
    ax = None if own else Figure(figsize=(6, 4)).subplots()
    ax = draw(tokens, ax=ax)
    assert_legible(ax.xaxis)
    if ax.get_ylabel() in ("receiver", "layer"):
        assert_legible(ax.yaxis)


@pytest.mark.parametrize("draw", DRAW.values(), ids=DRAW)
def test_a_new_figure_labels_all_the_tokens_of_a_sentence(draw):
    tokens = [f"token{number}" for number in range(60)]
    drawn, _ = labels(draw(tokens).xaxis)
    assert [label.get_text() for label in drawn] == tokens


def test_zooming_in_labels_more_tokens():
    ax = plot_layers(scores(4, len(LONG)), LONG, ax=Figure(figsize=(6, 4)).subplots())
    before, _ = labels(ax.xaxis)
    ax.set_xlim(99.5, 109.5)
    after, _ = labels(ax.xaxis)
    assert len(before) < len(LONG) / 2
    assert [label.get_text() for label in after] == LONG[100:110]


def test_a_long_token_is_cut_and_stays_on_one_line():
    drawn, _ = labels(plot_layers(scores(1, 2), ["w" * 300, "two\nlines"]).xaxis)
    assert [label.get_text() for label in drawn] == ["w" * 23 + "…", "two�lines"]


def test_dollars_are_no_mathematics():
    drawn, _ = labels(plot_comparison({"$a$": [1.0, 2.0]}, ["$x^2$", r"\$"]).xaxis)
    for label in drawn:
        shown, mathematics = label._preprocess_math(label.get_text())
        assert not mathematics
        assert shown in ("$x^2$", r"\$")


@pytest.mark.parametrize("draw", DRAW.values(), ids=DRAW)
def test_axes_in_axes_out(draw):
    figure = Figure()
    ax, other = figure.subplots(2)
    assert draw(TOKENS, ax=ax) is ax
    assert not other.has_data()
    assert pyplot.get_fignums() == []


def test_without_a_color_bar_nothing_is_added_to_the_figure():
    figure = Figure()
    plot_layers(scores(2, 3), ["a", "b", "c"], ax=figure.subplots(), colorbar=False)
    assert len(figure.axes) == 1


@pytest.mark.parametrize("background", ["white"])
def test_bars_can_be_told_from_the_background(background):
    for colour in figures.BAR_COLORS:
        first, second = ([255 * part for part in colors.to_rgb(c)] for c in (colour, background))
        assert contrast(first, second) >= 4.5


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plot_layers(scores(2, 3), ["a", "b"]), r"\(2, 3\) do not fit the tokens: \(L, 2\)"),
        (lambda: plot_layers(scores(2), ["a", "b"]), r"\(2,\) do not fit the tokens: \(L, 2\)"),
        (lambda: plot_layers(scores(0, 2), ["a", "b"]), "nothing to draw"),
        (lambda: plot_mixing(scores(3, 2), ["a", "b"]), r"\(3, 2\) do not fit the tokens: \(2, 2\)"),
        (lambda: plot_comparison({"m": scores(3)}, ["a", "b"]), r"\(3,\) do not fit the tokens: \(2\)"),
        (lambda: plot_comparison({}, ["a"]), "no method"),
        (lambda: plot_comparison({"m": [float("nan")]}, ["a"]), "NaN"),
    ],
)
def test_values_that_cannot_be_drawn_are_rejected(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_tensors_of_any_precision_that_need_a_gradient_are_drawn(dtype):
    assert plot_layers(scores(2, 2).to(dtype).requires_grad_(), ["a", "b"]).has_data()


def test_the_figures_are_names_of_the_visualization_module():
    assert visualization.plot_layers is plot_layers
    assert visualization.plot_mixing is plot_mixing
    assert visualization.plot_comparison is plot_comparison
    assert not hasattr(visualization, "plot_nothing")


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_goes_to_captum_channels_last_and_within_0_to_1(monkeypatch, batched, channels):
    seen = {}
    monkeypatch.setattr(
        captum_visualization, "visualize_image_attr", lambda *args, **options: seen.update(options, args=args)
    )
    attributions, image = scores(channels, 4, 6), 5 * scores(channels, 4, 6) - 2
    ax = Figure().subplots()
    given = (attributions[None], image[None]) if batched else (attributions, image)
    assert visualize_image(*given, ax=ax, title="cat") is ax
    np.testing.assert_allclose(seen["args"][0], attributions.permute(1, 2, 0), rtol=1e-6)
    pixels = seen["args"][1]
    assert pixels.shape == (4, 6, 3)
    assert (pixels.min(), pixels.max()) == (0, 1)
    assert np.corrcoef(pixels[..., 0].ravel(), image[0].ravel())[0, 1] == pytest.approx(1)
    assert (seen["method"], seen["sign"], seen["title"]) == ("blended_heat_map", "positive", "cat")
    assert seen["plt_fig_axis"] == (ax.figure, ax)


def test_pixels_within_0_to_1_stay_as_they_are(monkeypatch):
    seen = []
    monkeypatch.setattr(captum_visualization, "visualize_image_attr", lambda *args, **_: seen.extend(args))
    image = 0.2 + 0.5 * scores(3, 4, 4)
    visualize_image(scores(3, 4, 4), image, ax=Figure().subplots())
    np.testing.assert_allclose(seen[1], image.permute(1, 2, 0), rtol=1e-6)


def test_captum_draws_the_image_and_the_scores_over_it():
    attributions = torch.zeros(1, 3, 4, 4)
    attributions[..., :2, :2] = 1
    ax = visualize_image(attributions, torch.randn(1, 3, 4, 4), outlier_perc=0)
    image, heat = ax.images
    assert np.asarray(image.get_array()).shape[:2] == (4, 4)
    np.testing.assert_allclose(heat.get_array(), attributions[0, 0])


def test_signed_scores_of_an_image_show_both_signs():
    attributions = torch.zeros(1, 3, 4, 4)
    attributions[..., 0, 0], attributions[..., 3, 3] = 1, -1
    ax = visualize_image(attributions, torch.rand(1, 3, 4, 4), outlier_perc=0)
    np.testing.assert_allclose(np.asarray(ax.images[1].get_array())[[0, 3], [0, 3]], [1, -1])


def test_an_image_of_one_color_is_drawn():
    ax = visualize_image(torch.rand(3, 4, 4), torch.full((3, 4, 4), -1.0), ax=Figure().subplots())
    assert np.isfinite(np.asarray(ax.images[0].get_array(), dtype=float)).all()


def test_names_of_methods_have_room_over_a_short_text():
    names = ("GlobEnc", "integrated-gradients", "gradient-x-input", "hidden-token-attribution")
    ax = plot_comparison({name: [1.0, 2.0, 3.0] for name in names}, ["[CLS]", "dull", "[SEP]"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ax.figure.canvas.draw()
    legend, whole = ax.get_legend().get_window_extent(), ax.figure.bbox
    assert legend.x1 <= whole.x1


@pytest.mark.parametrize(
    ("attributions", "image", "message"),
    [
        (torch.ones(3, 4, 4), torch.ones(3, 4, 5), "must both be"),
        (torch.ones(4, 4), torch.ones(4, 4), "must both be"),
        (torch.ones(2, 3, 4, 4), torch.ones(2, 3, 4, 4), "one image at a time, not 2"),
        (torch.full((3, 4, 4), torch.nan), torch.ones(3, 4, 4), "NaN"),
        (torch.zeros(3, 4, 4), torch.ones(3, 4, 4), "all scores are 0"),
        (torch.tensor([1.0, -1.0]).expand(4, 4, 2).movedim(-1, 0), torch.ones(2, 4, 4), "sum over the chann"),
    ],
)
def test_an_image_that_does_not_fit_is_rejected(attributions, image, message):
    with pytest.raises(ValueError, match=message):
        visualize_image(attributions, image)


@pytest.mark.parametrize(("options", "error"), [({"sign": "negative"}, ValueError), ({"no": 1}, TypeError)])
def test_an_image_that_captum_rejects_leaves_no_figure(options, error):
    with pytest.raises(error, match="cannot draw these scores with" if error is ValueError else "no"):
        visualize_image(torch.ones(3, 4, 4), torch.ones(3, 4, 4), **options)
    assert pyplot.get_fignums() == []
