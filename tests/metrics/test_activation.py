"""Metrics for outputs of one number per example, of classes, and with an activation."""

import math

import pytest
import torch

from captum_globenc import EncoderForward
from captum_globenc.metrics import accuracy, aopc, comprehensiveness, log_odds, removal_curve, sufficiency

METRICS = {
    "comprehensiveness": comprehensiveness,
    "sufficiency": sufficiency,
    "aopc": aopc,
    "log_odds": log_odds,
}
SCORES = torch.tensor([[0.1, 0.9, 0.5, 0.3], [0.7, 0.2, 0.1, 0.4]])
IDS = torch.tensor([[2, 7, 9, 3], [4, 5, 6, 8]])


@pytest.fixture
def forward(classifier):
    """Probabilities of two classes of a real classifier, by ids."""
    model = EncoderForward(classifier)
    return lambda ids: model(ids)[:, :2]


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("metric", METRICS)
def test_one_probability_an_example_gives_the_numbers_of_the_model_of_two_classes(forward, metric, shape):
    def second(ids):
        return forward(ids).softmax(-1)[:, 1].reshape(shape)

    expected = METRICS[metric](forward, IDS, SCORES, 1, target=1)
    assert expected.abs().min() > 1e-6
    target = None if len(shape) == 1 else 0
    for given in (None, target):
        found = METRICS[metric](second, IDS, SCORES, 1, target=given)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_a_regression_is_measured_by_its_value():
    def value(ids):
        return ids.sum(1, keepdim=True).double() - 10

    # Without token 1 (of 0.9): 21 - 7 - 10 = 4; of the second, without token 0: 23 - 4 - 10 = 9.
    found = removal_curve(value, IDS, SCORES, torch.tensor([[1], [1]]), baselines=0)
    assert found.tolist() == [[11, 4], [13, 9]]
    assert comprehensiveness(value, IDS, SCORES, 0, fractions=(0.25,)).tolist() == [7, 4]


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("softmax", lambda a, b: math.exp(a) / (math.exp(a) + math.exp(b))),
        ("sigmoid", lambda a, b: 1 / (1 + math.exp(-a))),
        ("none", lambda a, b: a),
        (torch.exp, lambda a, b: math.exp(a)),
    ],
)
def test_the_activation_can_be_chosen(activation, expected):
    def forward(ids):
        return torch.stack([ids[:, 0] / 4, ids[:, 1] / 8], dim=1).double()

    found = removal_curve(
        forward, IDS, SCORES, torch.tensor([[1], [1]]), baselines=0, target=0, activation=activation
    )
    pairs = [[(2 / 4, 7 / 8), (2 / 4, 0)], [(4 / 4, 5 / 8), (0, 5 / 8)]]
    by_hand = torch.tensor([[expected(*pair) for pair in row] for row in pairs]).double()
    torch.testing.assert_close(found, by_hand, rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_a_sigmoid_of_one_logit_is_taken_where_it_is_asked_for(shape):
    def logit(ids):
        return (ids.double().sum(1) / 10).reshape(shape)

    found = comprehensiveness(logit, IDS, SCORES, 0, fractions=(0.25,), activation="sigmoid")
    whole, without = torch.tensor([2.1, 2.3]).double(), torch.tensor([1.4, 1.9]).double()
    torch.testing.assert_close(found, whole.sigmoid() - without.sigmoid())


def test_unknown_names_and_options_raise():
    with pytest.raises(ValueError, match="activation 'tanh' is unknown; choose from softmax, sigmoid, none"):
        comprehensiveness(lambda ids: ids.float(), IDS, SCORES, 0, activation="tanh")
    with pytest.raises(TypeError, match=r"aopc\(\) got an unexpected keyword argument 'fraction'"):
        aopc(lambda ids: ids.float(), IDS, SCORES, 0, fraction=0.2)


@pytest.mark.parametrize("metric", [*METRICS.values(), accuracy])
def test_a_metric_is_called_and_documented_as_captums_are(metric):
    import inspect

    names = list(inspect.signature(metric).parameters)
    assert names[:6] == [
        "forward_func", "inputs", "attributions", "baselines", "additional_forward_args", "target",
    ]  # fmt: skip
    for name in names:
        assert f"        {name}: " in metric.__doc__ or f"        **{name}: " in metric.__doc__
