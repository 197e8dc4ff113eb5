"""The layout of tokens on the inputs, and the distribution of their scores."""

import math

import pytest
import torch

from captum_globenc.encoders.tokens import Axis, Grid, pooled_weights, spread

AXES = [
    pytest.param(Axis(1, kernel=4, stride=4), 17, id="patches-and-a-rest"),
    pytest.param(Axis(1, kernel=4, stride=4), 4, id="one-patch"),
    pytest.param(Axis(1, kernel=7, stride=3), 33, id="overlapping"),
    pytest.param(Axis(1, kernel=6, stride=1), 9, id="stride-1"),
    pytest.param(Axis(1, kernel=5, stride=2, padding=2), 18, id="padded"),
    pytest.param(Axis(1, kernel=5, stride=2, padding=2), 19, id="padded-odd"),
    pytest.param(Axis(1, kernel=400, stride=320), 16000, id="one-second"),
]


def random(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def field(axis, token, size):
    """The elements that feed a token."""
    start = token * axis.stride - axis.padding
    return set(range(max(start, 0), min(start + axis.kernel, size)))


@pytest.mark.parametrize(("axis", "size"), AXES)
def test_every_element_that_is_read_belongs_to_one_token_that_reads_it(axis, size):
    count = axis.tokens(size)
    grid = Grid(ndim=2, axes=(axis,))
    owned = [
        set(spread(one[None], (1, size), grid)[0].nonzero().flatten().tolist()) for one in torch.eye(count)
    ]
    fields = [field(axis, token, size) for token in range(count)]
    assert all(mine and mine <= fed for mine, fed in zip(owned, fields, strict=True))
    assert sorted(e for mine in owned for e in mine) == sorted(set().union(*fields))
    assert all(len(mine) == axis.stride for mine in owned[1:-1])


@pytest.mark.parametrize(("axis", "size"), AXES)
def test_the_elements_of_a_token_sum_to_its_score(axis, size):
    scores = random(2, axis.tokens(size))
    for token, one in enumerate(torch.eye(scores.shape[1], dtype=torch.float64)):
        alone = spread(scores * one, (2, size), Grid(ndim=2, axes=(axis,)))
        torch.testing.assert_close(alone.sum(1), scores[:, token], rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("kernels", "strides", "paddings"),
    [
        ((10, 3, 2), (5, 2, 2), None),
        ((3, 3), (1, 2), (1, 1)),
        ((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), None),
    ],
)
def test_convolutions_in_a_row_are_one_axis(kernels, strides, paddings):
    axis = Axis.of_convolutions(1, kernels, strides, paddings)
    for size in (axis.kernel, axis.kernel + 1, 3 * axis.kernel + 7):
        signal = torch.ones(1, 1, size, dtype=torch.float64, requires_grad=True)
        out = signal
        for kernel, stride, padding in zip(kernels, strides, paddings or [0] * len(kernels), strict=True):
            weight = torch.ones(1, 1, kernel, dtype=torch.float64)
            out = torch.nn.functional.conv1d(out, weight, stride=stride, padding=padding)
        assert axis.tokens(size) == out.shape[-1]
        for token in {0, out.shape[-1] // 2, out.shape[-1] - 1}:
            (gradient,) = torch.autograd.grad(out[0, 0, token], signal, retain_graph=True)
            assert set(gradient[0, 0].nonzero().flatten().tolist()) == field(axis, token, size)


def test_patches_come_row_by_row_after_the_special_tokens():
    grid = Grid(ndim=4, axes=(Axis(2, 2, 2), Axis(3, 4, 4)), special=2)
    scores = torch.arange(8.0)[None]
    image = spread(scores, (1, 3, 4, 12), grid)
    assert image.shape == (1, 3, 4, 12)
    assert image.is_contiguous()
    patches = image.unfold(2, 2, 2).unfold(3, 4, 4).sum((1, 4, 5))
    torch.testing.assert_close(patches, torch.tensor([[[2.0, 3.0, 4.0], [5.0, 6.0, 7.0]]]))
    assert all(image[0, :, row, column].unique().numel() == 1 for row in range(4) for column in range(12))
    assert image[0, 0, :2, :4].unique().numel() == 1


def test_axes_may_run_in_another_order_than_the_inputs():
    grid = Grid(ndim=3, axes=(Axis(2, 2, 2), Axis(1, 3, 3)), special=1)
    scores = random(1, 1 + 2 * 4)
    spectrogram = spread(scores, (1, 12, 4), grid)
    cells = spectrogram.unfold(1, 3, 3).unfold(2, 2, 2).sum((3, 4))
    torch.testing.assert_close(cells, scores[:, 1:].reshape(1, 2, 4).transpose(1, 2))


def test_overlapping_patches_keep_totals_and_even_scores_stay_even():
    grid = Grid(ndim=3, axes=(Axis(2, 16, 10), Axis(1, 16, 10)), special=2)
    scores = torch.full((1, 2 + 12 * 5), 0.1, dtype=torch.float64)
    inside = spread(scores, (1, 56, 128), grid)
    assert inside.sum().item() == pytest.approx(6.0, rel=1e-12)
    middle = inside[0, 13:43, 13:113]
    assert (middle == middle[0, 0]).all()


def test_elements_that_no_token_reads_get_exactly_zero():
    image = spread(random(1, 4), (1, 1, 7, 9), Grid(ndim=4, axes=(Axis(2, 3, 3), Axis(3, 4, 4))))
    assert (image[:, :, :6, :8] > 0).all()
    assert (image[:, :, 6:] == 0).all()
    assert (image[:, :, :, 8:] == 0).all()


def test_padded_sound_is_scored_as_without_padding():
    axis = Axis(1, kernel=9, stride=4)
    grid, size, length = Grid(ndim=2, axes=(axis,)), 60, 30
    real = torch.arange(axis.tokens(size))[None] < axis.tokens(length)
    scores = random(1, axis.tokens(size)) * real
    together = spread(scores, (1, size), grid, real)
    alone = spread(scores[real][None], (1, length), grid)
    assert (together[:, length:] == 0).all()
    assert torch.equal(together[:, :length], alone)


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 3), (2, 5, 3, 4)])
def test_without_a_grid_each_token_has_its_entry(shape):
    scores = random(2, 5)
    answer = spread(scores, shape)
    assert answer.shape == shape
    assert answer.is_contiguous()
    torch.testing.assert_close(answer.reshape(2, 5, -1).sum(-1), scores)
    assert (answer.reshape(2, 5, -1) == scores[..., None] / math.prod(shape[2:])).all()


@pytest.mark.parametrize("shape", [(1, 3, 8), (1, 3, 8, 8, 1), (1, 3, 8, 12), (1, 3, 3, 3)])
def test_inputs_that_make_other_tokens_do_not_fit(shape):
    grid = Grid(ndim=4, axes=(Axis(2, 4, 4), Axis(3, 4, 4)), special=1)
    assert grid.fits((1, 3, 8, 8), 5)
    assert not grid.fits(shape, 5)


def test_averages_of_tokens_and_of_slices():
    assert pooled_weights((0, 1), 4).tolist() == [0.5, 0.5, 0, 0]
    assert pooled_weights((slice(1, None),), 5).tolist() == [0, 0.25, 0.25, 0.25, 0.25]
    assert pooled_weights((0, slice(3, None)), 5).tolist() == [0.5, 0, 0, 0.25, 0.25]
