"""The situations of Captum's own test suites, with `TransformerDeepLift` instead of its methods.

The tests marked `row` are the table in docs/captum.md. Where a result differs from Captum's by design, the
row says why, and the test computes the expected numbers by hand.
"""

import math
import warnings
from pathlib import Path

import pytest
import torch
from captum.attr import DataLoaderAttribution, DeepLift, DeepLiftShap, IntegratedGradients, NoiseTunnel
from captum.testing.attr.helpers.gen_test_utils import parse_test_config
from captum.testing.helpers import basic_models as basic
from captum.testing.helpers import classification_models as classification
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_globenc import TransformerDeepLift
from captum_globenc.errors import UnsupportedOperationError

PAGE = Path(__file__).parents[2] / "docs" / "captum.md"
ROWS = []


def row(suite, situation, result="the same"):
    """Make a test a row of the table: Captum's suite, the situation, and what differs by design."""

    def add(test):
        ROWS.append((suite, situation, result))
        return test

    return add


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(1234)


def of(*rows, **options):
    return torch.tensor(rows, **options)


def attribute(model, inputs, *args, **options):
    """Return scores, after checking their sum and `compute_convergence_delta`."""
    method = TransformerDeepLift(model)
    scores, delta = method.attribute(inputs, *args, return_convergence_delta=True, **options)
    again = method.attribute(inputs, *args, **options)
    for one, other, it in zip(*map(_tuple, (scores, again, inputs)), strict=True):
        assert torch.equal(one, other)
        assert one.shape == it.shape
        assert not one.requires_grad
    assert delta.shape == (len(_tuple(inputs)[0]),)
    assert delta.abs().max() < 1e-4 * max(1.0, *(float(it.abs().max()) for it in _tuple(scores)))
    return scores


def _tuple(it):
    return it if isinstance(it, tuple) else (it,)


def assert_same(found, expected, rtol=1e-5, atol=1e-6):
    for one, other in zip(_tuple(found), _tuple(expected), strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=rtol, atol=atol)


def ones_and_twos(*shape):
    return torch.ones(shape), torch.full(shape, 2.0)


LINEAR_INPUTS = of([-10.0, 1.0, -5.0], [2.0, 3.0, 4.0]), of([3.0, 3.0, 1.0], [2.3, 5.0, 4.0])


class TestDeepLiftBasic:
    @row("deeplift_basic", "two ReLUs, one example, a batch, four dimensions; inputs that require gradients")
    @pytest.mark.parametrize("shape", [(1,), (4, 1), (4, 1, 1, 1)])
    @pytest.mark.parametrize("baselines", [None, 0, (0.0, 0)])
    def test_relu(self, shape, baselines):
        inputs = tuple(it.requires_grad_() for it in ones_and_twos(*shape))
        scores = attribute(basic.ReLUDeepLiftModel(), inputs, baselines)
        # 2 relu(x1) + 2 relu(x2 - 1.5): 2 and 2 (.5 - 0)
        assert_same(scores, (torch.full(shape, 2.0), torch.full(shape, 1.0)))

    @row("deeplift_basic", "`multiply_by_inputs=False`")
    def test_relu_multipliers(self):
        method = TransformerDeepLift(basic.ReLUDeepLiftModel(), multiply_by_inputs=False)
        multipliers, delta = method.attribute(ones_and_twos(1), return_convergence_delta=True)
        assert_same(multipliers, (of(2.0), of(0.5)))
        assert delta == 0

    @row("deeplift_basic", "two tanh")
    def test_tanh(self):
        scores = attribute(basic.TanhDeepLiftModel(), (of(-1.0), of(-2.0)), (of(0.0), of(0.0)))
        assert_same(scores, (of(2 * math.tanh(-1)), of(2 * (math.tanh(-3.5) - math.tanh(-1.5)))))

    @row("deeplift_basic", "linear layers and a ReLU, in place or not")
    @pytest.mark.parametrize("inplace", [False, True])
    @pytest.mark.parametrize("baselines", [None, (0, 0.0001), (torch.zeros(1, 3), torch.full((1, 3), 1e-3))])
    def test_relu_linear(self, inplace, baselines):
        expected = DeepLift(basic.ReLULinearModel()).attribute(LINEAR_INPUTS, baselines)
        assert_same(attribute(basic.ReLULinearModel(inplace=inplace), LINEAR_INPUTS, baselines), expected)

    @row("deeplift_basic", "maximum of a linear layer's outputs")
    def test_max_pool(self):
        baselines = of([1.0, 2.0, 3.0, 9.0], [4.0, 8.0, 6.0, 7.0])
        scores = attribute(basic.LinearMaxPoolLinearModel(), torch.ones(2, 4), baselines, 0)
        assert_same(scores, of([0.0, 0, 0, -8], [0, -7, 0, 0]))

    @row(
        "deeplift_basic",
        "maximum where another element is largest at the baseline",
        "both elements have a part, by max(u, w) = (u + w + abs(u - w)) / 2; DeepLift credits one",
    )
    def test_max_pool_of_two(self):
        x, x0 = of([1.0, 4.0, 2.0, 3.0]), of([5.0, 0.0, 3.0, 2.0])
        scores = attribute(basic.LinearMaxPoolLinearModel(), x, x0, 0)
        # u = 4 (from 0), w = 1 (from 5): abs(u - w) goes from 5 to 3, u - w from -5 to 3, secant -1/4.
        # Multipliers (1 - 1/4) / 2 and (1 + 1/4) / 2.
        assert_same(scores, of([-4 * 0.625, 4 * 0.375, 0, 0]))

    @row(
        "deeplift_basic",
        "one module called twice",
        "supported: DeepLift raises an error, because its hooks would see the second call alone",
    )
    def test_reused_modules(self):
        model = basic.BasicModelWithReusedModules()
        apart = nn.Sequential(model.lin1, nn.ReLU(), model.lin2, nn.ReLU())
        x = torch.randn(20, 3)
        expected = DeepLift(apart).attribute(x, target=0)
        assert expected.any()
        assert_same(attribute(model, x, target=0), expected)
        with pytest.raises(RuntimeError):
            DeepLift(model).attribute(x, target=0)
        attribute(basic.BasicModelWithReusedLinear(), x, target=1)

    @row(
        "deeplift_basic",
        "`custom_attribution_func`",
        "no such argument: `multiply_by_inputs=False` returns the multipliers that it would be given",
    )
    def test_custom_attribution(self):
        def hypothetical(multipliers, inputs, baselines):
            # What each of the four channels would contribute if it were the one that is on.
            (multiplier,), (base,) = multipliers, baselines
            total = (multiplier * base).sum(1, keepdim=True)
            return (multiplier - total,)

        model, x, x0 = basic.Conv1dSeqModel(), torch.rand(2, 4, 1000), torch.rand(2, 4, 1000)
        expected = DeepLift(model).attribute(x, x0, target=(1, 0), custom_attribution_func=hypothetical)
        multipliers = TransformerDeepLift(model, multiply_by_inputs=False).attribute(x, x0, target=(1, 0))
        assert_same(hypothetical((multipliers,), (x,), (x0,)), (expected,), atol=1e-7)
        with pytest.raises(TypeError, match="custom_attribution_func"):
            TransformerDeepLift(model).attribute(x, x0, target=0, custom_attribution_func=hypothetical)

    @row("deeplift_basic", "`attribute_future` is not implemented")
    def test_futures(self):
        with pytest.raises(NotImplementedError):
            TransformerDeepLift(basic.ReLUDeepLiftModel()).attribute_future()

    @row("deeplift_basic", "`compute_convergence_delta` gives the delta of `attribute`")
    def test_external_delta(self):
        method = TransformerDeepLift(basic.ReLULinearModel())
        baselines = torch.zeros(2, 3), torch.full((2, 3), 0.5)
        scores, delta = method.attribute(LINEAR_INPUTS, baselines, return_convergence_delta=True)
        found = method.compute_convergence_delta(scores, baselines, LINEAR_INPUTS)
        torch.testing.assert_close(found, delta, rtol=0, atol=1e-6)


class TestDistributionsOfBaselines:
    @row(
        "deeplift_basic",
        "DeepLiftShap: a distribution of baselines, also one that a function makes",
        "`baselines` holds one baseline per example: compare each example with each baseline, and average",
    )
    @pytest.mark.parametrize("count", [1, 2, 4])
    def test_every_example_with_every_baseline(self, count):
        model = basic.ReLULinearModel(inplace=True)
        baselines = torch.randn(count, 3), torch.randn(count, 3)
        examples = len(LINEAR_INPUTS[0])
        scores = attribute(
            model,
            tuple(it.repeat_interleave(count, 0) for it in LINEAR_INPUTS),
            tuple(it.repeat(examples, 1) for it in baselines),
        )
        averages = tuple(it.reshape(examples, count, 3).mean(1) for it in scores)
        if count > 1:
            expected = DeepLiftShap(basic.ReLULinearModel()).attribute(LINEAR_INPUTS, baselines)
            assert_same(averages, expected)
        if count == 4:
            with pytest.raises(ValueError, match="baselines.*do not fit"):
                TransformerDeepLift(model).attribute(LINEAR_INPUTS, baselines)


class Softmax(nn.Module):
    def forward(self, x):
        return x.softmax(1)


class Product(nn.Module):
    def forward(self, x, y):
        return x * y.relu()


class TestDeepLiftClassification:
    @row("deeplift_classification", "a saturated sigmoid")
    def test_sigmoid(self):
        x = torch.arange(20.0)[None]
        scores = attribute(classification.SigmoidDeepLiftModel(20, 5, 1), x, 0 * x, torch.tensor(0))
        # The logit goes from 0 to 5 * 190, its sigmoid from .5 to 1.
        assert_same(scores, 0.5 * x / 190)

    @row(
        "deeplift_classification",
        "a softmax of equal logits in the millions: probabilities change by rounding",
    )
    @pytest.mark.parametrize("baselines", [0, torch.arange(1.0, 41)[None]])
    @pytest.mark.parametrize("target", [torch.tensor([2, 2, 2]), torch.tensor(1)])
    def test_softmax_of_equal_logits(self, baselines, target):
        x, model = torch.arange(120.0).reshape(3, 40), classification.SoftmaxDeepLiftModel(40, 20, 10)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scores, delta = TransformerDeepLift(model).attribute(x, baselines, target, None, True)
        # All logits are equal, so that the ten probabilities stay 1/10. What is left is rounding, by 1e-8 of
        # the logits, 1.7e6 at most; DeepLift's sums are off by as much.
        assert delta.abs().max() < 0.05
        assert scores.abs().max() < 0.005
        exact = TransformerDeepLift(model.double()).attribute(
            x.double(), baselines if isinstance(baselines, int) else baselines.double(), target
        )
        assert exact.abs().max() < 1e-11

    @row(
        "deeplift_classification",
        "a softmax",
        "an exact rule, by the logarithmic mean of the probabilities: DeepLift's sum is not exact",
    )
    def test_softmax(self):
        x, x0 = of([1.0, 2.0, 0.0]), torch.zeros(1, 3)
        scores = attribute(Softmax(), x, x0, target=0)
        powers = [math.exp(it) for it in (1, 2, 0)]
        p = [it / sum(powers) for it in powers]
        mean = [(one - 1 / 3) / (math.log(one) - math.log(1 / 3)) for one in p]
        shares = [it / sum(mean) for it in mean]
        expected = [mean[0] * ((place == 0) - shares[place]) * it for place, it in enumerate((1, 2, 0))]
        assert_same(scores, of(expected))
        _, delta = DeepLift(nn.Sequential(nn.Softmax(1))).attribute(x, x0, 0, return_convergence_delta=True)
        assert delta.abs() > 0.1

    @row(
        "deeplift_classification",
        "a product of two values that depend on the input",
        "the product rule at the mean of both runs: DeepLift's sum is off by the product of both differences",
    )
    def test_product(self):
        inputs, baselines = (of(3.0), of(2.0)), (of(1.0), of(1.0))
        scores = attribute(Product(), inputs, baselines)
        # 3 * 2 - 1 * 1 = (3 - 1) (2 + 1) / 2 + (2 - 1) (3 + 1) / 2
        assert_same(scores, (of(3.0), of(2.0)))
        assert_same(scores, IntegratedGradients(Product()).attribute(inputs, baselines), atol=1e-4)

    @row(
        "deeplift_classification",
        "convolutions, max pools of one to three dimensions, near and far baselines",
        "the sum is exact, as Captum's test requires; a max pool follows the rule above",
    )
    @pytest.mark.parametrize("far", [20, 600])
    @pytest.mark.parametrize(
        ("model", "sizes"),
        [
            (basic.BasicModel_ConvNet_MaxPool1d, (10,)),
            (basic.BasicModel_ConvNet, (10, 10)),
            (basic.BasicModel_ConvNet_MaxPool3d, (10, 10, 10)),
        ],
    )
    def test_convolutions(self, model, sizes, far):
        x, x0 = 100 * torch.randn(2, 1, *sizes), far * torch.randn(2, 1, *sizes)
        network = model()
        for target in (torch.tensor(2), torch.tensor(1)):
            attribute(network, x, x0, target)
        network.softmax = nn.Identity()
        attribute(network, x, x0, 2)


class TestIntegratedGradientsBasic:
    @row("integrated_gradients_basic", "relu(relu(x1) - 1 - relu(x2)), example one of the paper")
    def test_example_one(self):
        scores = attribute(basic.BasicModel2(), (of(3.0), of(1.0)), (of(0.0), of(0.0)))
        # The outer ReLU goes from 0 to 1 while its argument goes from -1 to 1: 3 / 2 and -1 / 2.
        assert_same(scores, (of(1.5), of(-0.5)))

    @row(
        "integrated_gradients_basic",
        "relu(relu(x1 - 1) - relu(x2)), example two of the paper",
        "2 and -1, the secants of each ReLU, as DeepLift: many segments (`n_steps`) approach 1.5 and -.5",
    )
    def test_example_two(self):
        inputs, baselines = (of(3.0), of(1.0)), (of(0.0), of(0.0))
        # relu(x1 - 1) goes from 0 to 2, relu(x2) from 0 to 1, the outer ReLU and its argument from 0 to 1.
        assert_same(attribute(basic.BasicModel3(), inputs, baselines), (of(2.0), of(-1.0)))
        many = attribute(basic.BasicModel3(), inputs, baselines, n_steps=100)
        assert_same(many, (of(1.5), of(-0.5)), atol=0.02)

    @row("integrated_gradients_basic", "one variable: 1 - relu(1 - x)")
    @pytest.mark.parametrize("x", [1.0, 0.0, -1.0])
    def test_one_variable(self, x):
        assert_same(attribute(basic.BasicModel(), of(x), of(0.0)), of(x))

    @row(
        "integrated_gradients_basic",
        "further arguments: tensors, numbers, lists",
        "the same sums; the elements equal IntegratedGradients with many segments (`n_steps`)",
    )
    @pytest.mark.parametrize(
        ("model", "arguments"),
        [
            (basic.BasicModel4_MultiArgs, (torch.arange(1.0, 7).reshape(2, 3), 1)),
            (basic.BasicModel4_MultiArgs, (torch.arange(1.0, 7).reshape(2, 3), 2)),
            (basic.BasicModel4_MultiArgs, (2.0,)),
            (basic.BasicModel5_MultiArgs, ([2, 3], 1)),
            (basic.BasicModel5_MultiArgs, ([2, 3], 2)),
        ],
    )
    def test_further_arguments(self, model, arguments):
        inputs = of([1.5, 2.0, 34.3], [3.4, 1.2, 2.0]), of([3.0, 3.5, 23.2], [2.3, 1.2, 0.3])
        baselines = torch.zeros(2, 3), torch.zeros(2, 3)
        scores = attribute(model(), inputs, baselines, additional_forward_args=arguments)
        many = attribute(model(), inputs, baselines, additional_forward_args=arguments, n_steps=60)
        path = IntegratedGradients(model()).attribute(
            inputs, baselines, additional_forward_args=arguments, n_steps=500
        )
        assert_same(many, path, rtol=0.02, atol=0.05)
        assert_same(sum(it.sum(1) for it in scores), sum(it.sum(1) for it in many), atol=1e-4)

    @row("integrated_gradients_basic", "several inputs that are summed")
    def test_several_inputs(self):
        scores = attribute(basic.BasicModel6_MultiTensor(), (of([1.5, 2.0, 34.3]), of([3.0, 3.5, 23.2])))
        # The second elements, 2 and 3.5, reach 1 - relu(1 - 5.5) = 1 together.
        assert_same(scores, (of([0.0, 2 / 5.5, 0]), of([0.0, 3.5 / 5.5, 0])))

    @row("integrated_gradients_basic", "batches, one or two inputs")
    @pytest.mark.parametrize("count", [1, 2])
    def test_batches(self, count):
        inputs = tuple(torch.rand(3, 3) * 2 for _ in range(count))
        model = basic.BasicModel_MultiLayer()
        scores = attribute(model, inputs, target=0)
        # With one layer of ReLUs the straight line and the secants agree.
        assert_same(
            scores, IntegratedGradients(model).attribute(inputs, target=0, n_steps=1500), rtol=1e-3, atol=1e-3
        )
        for example in range(3):
            alone = attribute(model, tuple(it[example][None] for it in inputs), target=0)
            assert_same(alone, tuple(it[example][None] for it in scores))

    @row(
        "integrated_gradients_basic",
        "`method` and `internal_batch_size`",
        "no such arguments: nothing is approximated, and `n_steps` segments run one after the other",
    )
    @pytest.mark.parametrize("option", [{"method": "riemann_right"}, {"internal_batch_size": 2}])
    def test_quadrature(self, option):
        with pytest.raises(TypeError, match=next(iter(option))):
            TransformerDeepLift(basic.BasicModel()).attribute(of(1.0), **option)

    @row("integrated_gradients_basic", "NoiseTunnel: smoothgrad, smoothgrad_sq, vargrad")
    @pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
    def test_noise(self, kind):
        method = TransformerDeepLift(basic.BasicModel2())
        inputs, baselines = (of(3.0), of(1.0)), (of(0.0), of(0.0))
        scores, delta = NoiseTunnel(method).attribute(
            inputs, nt_type=kind, nt_samples=20, stdevs=0.002, baselines=baselines,
            return_convergence_delta=True,
        )  # fmt: skip
        expected = {"smoothgrad": (1.5, -0.5), "smoothgrad_sq": (1.5**2, 0.5**2), "vargrad": (0.0, 0.0)}[kind]
        assert_same(scores, tuple(of(it) for it in expected), atol=0.02)
        assert delta.shape == (20,)
        assert delta.abs().max() < 1e-5


class TestIntegratedGradientsClassification:
    @row(
        "integrated_gradients_classification",
        "sigmoid and softmax classifiers, alone and in NoiseTunnel",
        "the sum is exact, as Captum's test requires",
    )
    @pytest.mark.parametrize("kind", [None, "smoothgrad", "smoothgrad_sq", "vargrad"])
    @pytest.mark.parametrize("name", ["sigmoid", "softmax", "softmax in place", "batch"])
    def test_classifiers(self, name, kind):
        if name == "sigmoid":
            model, x, target = (
                classification.SigmoidModel(20, 5, 1),
                torch.arange(20.0)[None],
                torch.tensor(0),
            )
        else:
            model = classification.SoftmaxModel(40, 20, 10, inplace=name == "softmax in place")
            count = 3 if name == "batch" else 1
            x = torch.arange(40.0 * count).reshape(count, 40)
            target = torch.tensor([5, 5, 2]) if name == "batch" else torch.tensor(5)
        baselines = torch.zeros(1, x.shape[1])
        if kind is None:
            attribute(model.forward, x, baselines, target)
            attribute(model.forward, x, None, target, n_steps=5)
        else:
            scores, delta = NoiseTunnel(TransformerDeepLift(model.forward)).attribute(
                x, nt_type=kind, nt_samples=10, stdevs=0.0002, baselines=baselines, target=target,
                return_convergence_delta=True,
            )  # fmt: skip
            assert scores.shape == x.shape
            assert delta.shape == (10 * len(x),)
            assert delta.abs().max() < 1e-4


MULTIDIMENSIONAL = {
    "target": [(1, 0, 0), (0, 1, 1), (1, 1, 1), (0, 0, 0)],
    "additional_forward_args": (None, True),
}
CONFIGS = {
    "one": {"target": 1},
    "a list": {"target": [0, 1, 1, 0]},
    "a tensor of one": {"target": torch.tensor([0])},
    "a tensor": {"target": torch.tensor([1, 1, 0, 0])},
    "tuples": MULTIDIMENSIONAL,
    "tuples with baselines": {**MULTIDIMENSIONAL, "baselines": 0.5 * torch.ones(4, 3)},
    "one with baselines": {"target": torch.tensor([0]), "baselines": torch.linspace(-1, 1, 12).reshape(4, 3)},
}


def of_example(argument, example):
    """Return what of an argument belongs to one example."""
    if isinstance(argument, tuple):
        return tuple(of_example(it, example) for it in argument)
    whole = isinstance(argument, torch.Tensor | list) and len(argument) == 4
    return argument[example : example + 1] if whole else argument


def generated(name, inputs, noise=False):
    """A row of the kind that Captum's generated tests take."""
    several = isinstance(inputs, tuple)
    arguments = {"inputs": inputs, **CONFIGS[name]}
    if several:
        arguments["additional_forward_args"] = (2 * torch.ones(4, 3), 5)
    if noise:
        arguments |= {"nt_samples": 5, "stdevs": 0.0}
    model = basic.BasicModel_MultiLayer_MultiInput() if several else basic.BasicModel_MultiLayer()
    return parse_test_config(
        {"name": name, "algorithms": [TransformerDeepLift], "model": model, "attribute_args": arguments,
         "noise_tunnel": noise}
    )  # fmt: skip


class TestGenerated:
    @row(
        "targets",
        "targets of all kinds, one or two inputs, with NoiseTunnel or not: batches equal their examples",
    )
    @pytest.mark.parametrize("noise", [False, True])
    @pytest.mark.parametrize("several", [False, True])
    @pytest.mark.parametrize("name", CONFIGS)
    def test_targets(self, name, several, noise):
        if several and ("tuples" in name or "baselines" in name):
            several, name = False, "tuples"
        inputs = (10 * torch.randn(4, 3), 5 * torch.randn(4, 3)) if several else torch.randn(4, 3)
        (algorithm,), model, arguments, _, noise, _ = generated(name, inputs, noise)
        method = NoiseTunnel(algorithm(model)) if noise else algorithm(model)
        together = _tuple(method.attribute(**arguments))
        assert any(it.any() for it in together)
        for example in range(4):
            alone = method.attribute(**{key: of_example(it, example) for key, it in arguments.items()})
            assert_same(alone, tuple(it[example : example + 1] for it in together), atol=1e-4)

    @row("hook_removal", "no hook stays when the target is out of range")
    def test_hooks(self):
        (algorithm,), model, arguments, *_ = generated("one", torch.randn(4, 3))
        arguments["target"] = (9999,) * 20
        with pytest.raises(AssertionError):
            algorithm(model).attribute(**arguments)
        for module in model.modules():
            hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks
            assert not any(map(len, hooks))

    @row("jit", "traced and scripted modules", "rejected: their operations cannot be intercepted")
    def test_scripted(self):
        traced = torch.jit.trace(basic.BasicModel_MultiLayer(), torch.randn(4, 3))
        with pytest.raises(UnsupportedOperationError, match="scripted"):
            TransformerDeepLift(traced).attribute(torch.randn(4, 3), target=0)
        scripted = torch.jit.script(basic.ReLULinearModel())
        with pytest.raises(UnsupportedOperationError, match="scripted"):
            TransformerDeepLift(scripted).attribute(LINEAR_INPUTS)


class TestDataLoader:
    @row(
        "dataloader_attr",
        "`DataLoaderAttribution`",
        "takes perturbation methods alone, as it does not take IntegratedGradients: loop over the batches",
    )
    def test_loop(self):
        model, x = basic.BasicModel_MultiLayer(), torch.randn(8, 3)
        method = TransformerDeepLift(model)
        loader = DataLoader(TensorDataset(x), batch_size=3)
        batches = [method.attribute(batch, target=1) for (batch,) in loader]
        assert_same(torch.cat(batches), method.attribute(x, target=1))
        for gradients in (method, IntegratedGradients(model)):
            with pytest.raises(AssertionError, match="does not support"):
                DataLoaderAttribution(gradients)


class TestMultipliers:
    def test_multipliers_of_a_linear_model_are_its_gradient(self):
        torch.manual_seed(0)
        model = basic.BasicLinearModel()
        method = TransformerDeepLift(model, multiply_by_inputs=False)
        assert not method.multiplies_by_inputs
        assert TransformerDeepLift(model).multiplies_by_inputs
        inputs, baselines = (torch.randn(2, 3), torch.randn(2, 4)), (torch.randn(2, 3), 0.5)
        for steps in (1, 3):
            found = method.attribute(inputs, baselines, 0, n_steps=steps)
            weights = model.linear.weight.detach().split([3, 4], 1)
            assert_same(found, tuple(it.expand(2, -1) for it in weights))

    @pytest.mark.parametrize("steps", [1, 4])
    def test_multiplied_by_differences_they_are_contributions(self, steps):
        model = classification.SoftmaxModel(6, 5, 3).double()
        x, x0 = torch.randn(4, 6).double(), torch.randn(4, 6).double()
        x0[:, 2] = x[:, 2]
        multipliers, delta = TransformerDeepLift(model, multiply_by_inputs=False).attribute(
            x, x0, 1, return_convergence_delta=True, n_steps=steps
        )
        scores = TransformerDeepLift(model).attribute(x, x0, 1, n_steps=steps)
        assert_same(multipliers * (x - x0), scores, atol=1e-12)
        assert multipliers[:, 2].any()
        assert delta.abs().max() < 1e-12

    def test_tuples_come_out_as_tuples(self):
        method = TransformerDeepLift(basic.BasicModel_MultiLayer(), multiply_by_inputs=False)
        x = torch.randn(2, 3)
        (alone,) = method.attribute((x,), target=0)
        assert torch.equal(alone, method.attribute(x, target=0))

    def test_ids_have_none(self):
        method = TransformerDeepLift(basic.BasicEmbeddingModel(), multiply_by_inputs=False)
        ids = of([1, 2, 3]), of([4, 5, 6])
        with pytest.raises(ValueError, match="pass embeddings as inputs"):
            method.attribute(ids, (0, 0), 0)
        attribute(basic.BasicEmbeddingModel().double(), ids, (0, 0), 0)

    def test_noise_tunnel_averages_them(self):
        model = basic.BasicLinearModel2(3, 2)
        method = NoiseTunnel(TransformerDeepLift(model, multiply_by_inputs=False))
        assert not method.multiplies_by_inputs
        found = method.attribute(torch.randn(2, 3), nt_samples=6, stdevs=2.0, target=1)
        assert_same(found, model.linear.weight[1].expand(2, -1))


QUIET = {
    "a constant output": (lambda x: x.sum(1) * 0 + 3, 0.0),
    "an output that never reads the input": (lambda x: torch.ones(len(x)), 0.0),
    "probabilities that sum to 1": (lambda x: x.softmax(1).sum(1), 1e-5),
    "equal logits of millions": (lambda x: torch.stack([x.sum(1) * 1e6] * 3, 1).softmax(1)[:, 0], 1.0),
    "a sum that only rounds": (lambda x: ((1e6 + x) - (1e6 - x) - 2 * x).sum(1), 1e-5),
    "a saturated sigmoid": (lambda x: (x.abs() * 100 + 50).sum(1).sigmoid(), 1e-6),
    "a saturated softmax": (lambda x: (x * 0.1 + of([500.0, 0, -500])).softmax(1)[:, 0], 1e-6),
    "a saturated logarithm": (lambda x: (x * 0.1 + of([500.0, 0, -500])).log_softmax(1)[:, 0], 1e-6),
    "a saturated tanh": (lambda x: (x.abs() * 100 + 50).tanh().sum(1), 1e-6),
    "zero gradients": (lambda x: (x - 100).relu().sum(1), 0.0),
    "a norm of equal values": (
        lambda x: nn.functional.layer_norm(x[:, :1].expand(-1, 4), (4,)).square().sum(1),
        1e-3,
    ),
    "a decision": (lambda x: (x > -100).float().sum(1), 0.0),
}


class TestNoFalseAlarm:
    @pytest.fixture(autouse=True)
    def quiet(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield

    @pytest.mark.parametrize("baselines", ["zero", "random", "equal", "close"])
    @pytest.mark.parametrize("name", QUIET)
    def test_outputs_that_do_not_change_but_by_rounding(self, name, baselines):
        function, allowed = QUIET[name]
        x = torch.randn(4, 3)
        base = {"zero": 0 * x, "random": torch.randn(4, 3), "equal": x.clone(), "close": x * (1 + 1e-7)}
        scores = TransformerDeepLift(function).attribute(x, base[baselines])
        assert scores.isfinite().all()
        assert scores.abs().max() <= allowed
        if baselines == "equal":
            assert not scores.any()

    @pytest.mark.parametrize("model", [basic.BasicModel_MultiLayer(), classification.SoftmaxModel(3, 4, 2)])
    def test_a_baseline_that_is_the_input(self, model):
        x = torch.randn(2, 3)
        scores, delta = TransformerDeepLift(model).attribute(x, x, 0, return_convergence_delta=True)
        assert not scores.any()
        assert not delta.any()


def table():
    """The rows as the page has them."""
    return [f"| `test_{suite}` | {situation} | {result} |" for suite, situation, result in ROWS]


def test_the_page_has_every_row():
    lines = PAGE.read_text().splitlines()
    assert [line for line in lines if line.startswith("| `test_")] == table()
