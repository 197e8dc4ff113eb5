"""DifferenceMode: tracking of values that depend on the input, errors, and no side effects."""

import re
import threading
import warnings

import pytest
import torch
from torch import nn
from torch.overrides import get_overridable_functions, get_testing_overrides

from captum_globenc.differences import LINEAR, QUADRATIC, compare, freeze, register_rule
from captum_globenc.differences.op_sets import DECISIONS, IDENTITIES, PLAIN, display_name
from captum_globenc.differences.rules import EXACT
from captum_globenc.differences.scalars import smooth


def values(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, X0 = values(3, 4), values(3, 4, seed=1)


def without_a_rule():
    """Functions of torch that have no rule and take one square matrix of numbers between 0 and 1."""
    found = []
    x = torch.rand(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    known = set(EXACT) | PLAIN | DECISIONS | IDENTITIES
    everywhere = {function for functions in get_overridable_functions().values() for function in functions}
    for function in sorted(everywhere & set(get_testing_overrides()), key=str):
        name = getattr(function, "__name__", "")
        if function in known or name.startswith("_") or name.endswith("_"):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                output = function(x.clone())
        except Exception:
            continue
        if isinstance(output, torch.Tensor) and output.is_floating_point():
            found.append(function)
    # In an order of their own: torch's is not the same in every process.
    return sorted(found, key=lambda it: (it.__name__, str(getattr(it, "__module__", ""))))


REFUSED = without_a_rule()


def test_some_functions_have_no_rule():
    assert len(REFUSED) >= 50


@pytest.mark.parametrize("function", REFUSED, ids=lambda function: function.__name__)
def test_functions_without_a_rule_are_rejected_by_name(function):
    x = torch.rand(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.raises(ValueError, match=rf"{re.escape(display_name(function))} has no rule.*register_rule"):
        compare(lambda x: function(x * 1), [x], [x / 2])


@pytest.mark.parametrize(
    "call", [lambda x: torch.cumprod(x, 0), lambda x: x.cumprod(0), lambda x: x.cumprod_(0)]
)
def test_every_form_of_it_is(call):
    with pytest.raises(ValueError, match="cumprod_? has no rule"):
        compare(lambda x: call(x * 1), [X], [X0])


def test_where_nothing_depends_on_the_input_anything_goes():
    both = compare(lambda x: x * torch.cumprod(X, 0).median(), [X], [X0])
    assert (
        torch.equal(both.contributions(both.output.sum())[0].sum(), (both.output - both.base).sum()) or True
    )
    total = both.contributions(both.output.sum())[0].sum()
    torch.testing.assert_close(total, (both.output - both.base).sum().detach())


@pytest.mark.parametrize(
    "change", [lambda x: x / 2, lambda x: x**2, torch.tanh, lambda x: x.exp(), lambda x: x * x, torch.square]
)
def test_a_value_that_only_reaches_constants_has_no_multiplier(change):
    """In a frozen network, the softmax is a constant."""

    def function(x):
        return (x * change(x).softmax(-1)).sum(-1)

    run = freeze(function, [X])
    (multiplier,) = run.multipliers(run.output.sum(), [run.sources[0].leaf])
    torch.testing.assert_close(multiplier, change(X).softmax(-1))


def test_flags_of_gradients_do_not_matter():
    """Models that read sound set them in training mode."""

    def function(x):
        x = x[:, None] * 2
        x.requires_grad = True
        return x.sum()

    both = compare(function, [X], [X0])
    torch.testing.assert_close(both.contributions(both.output)[0], 2 * (X - X0))


def test_a_rule_can_be_added(monkeypatch):
    monkeypatch.delitem(EXACT, torch.special.i0e, raising=False)
    with pytest.raises(ValueError, match="has no rule"):
        compare(torch.special.i0e, [X], [X0])
    register_rule(torch.special.i0e, smooth)
    try:
        both = compare(torch.special.i0e, [X], [X0])
        total = both.contributions(both.output.sum())[0].sum()
        torch.testing.assert_close(total, (both.output - both.base).sum().detach())
    finally:
        del EXACT[torch.special.i0e]
    for wrong in ((1, LINEAR), (torch.add, "cubic")):
        with pytest.raises(TypeError, match="register_rule takes"):
            register_rule(*wrong)
    assert (LINEAR, QUADRATIC) == ("linear", "quadratic")


@pytest.mark.parametrize(
    "decide",
    [
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x * (x > 0).any(-1, keepdim=True),
        lambda x: x[x > 0].sum()[None],
        lambda x: x.clone().index_put_((x > 0,), torch.tensor(0.0)),
        lambda x: x[x.argmax(0)[0]],
        lambda x: x.gather(-1, x.max(-1, keepdim=True)[1]),
        lambda x: x.exp()[torch.arange(3), x.max(-1)[1]],
        lambda x: x * float(x[0, 0]),
        lambda x: x * x.sum().item(),
        lambda x: x[: 1 + int(x[0, 0] > 0)],
    ],
)
def test_a_decision_that_differs_is_rejected(decide):
    x, x0 = torch.arange(12.0).view(3, 4) - 3, 3.0 - torch.arange(12.0).view(3, 4)
    with pytest.raises(ValueError, match="decides what the model computes"):
        compare(decide, [x], [x0])


def test_an_equal_decision_is_accepted():
    both = compare(lambda x: x.exp() * (x > 0) if x.max() > 0 else x, [X.abs()], [X0.abs()])
    total = both.contributions(both.output.sum())[0].sum()
    torch.testing.assert_close(total, (both.output - both.base).sum().detach())


def test_a_function_that_runs_other_operations_the_second_time_is_rejected():
    calls = []

    def more(x):
        calls.append(1)
        return x.exp().exp() if len(calls) > 1 else x.exp()

    with pytest.raises(ValueError, match="once more"):
        compare(more, [X], [X0])
    for function in (lambda x: x.exp() if calls.pop() else x.tanh(), lambda x: x if calls.pop() else x.exp()):
        calls[:] = [True, False]
        with pytest.raises(ValueError, match="other operations at the baseline"):
            compare(function, [X], [X0])


def test_unrecorded_changes_of_a_rules_arguments_are_rejected():
    def function(x):
        x = x * 1
        y = x.exp()
        with torch._C.DisableTorchFunction():
            x.add_(1)
        return y

    with pytest.raises(ValueError, match="later modified in place"):
        compare(function, [X], [X0])


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_parameters_do_not_depend_on_the_input_and_get_no_gradient(learns, grad):
    module = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 2)).double()
    module.requires_grad_(learns)
    adapter = torch.randn(4, 4, dtype=torch.float64, requires_grad=learns)
    with torch.set_grad_enabled(grad):
        both = compare(lambda x: module(x @ (adapter @ adapter)), [X], [X0])
        assert torch.is_grad_enabled() is grad
    made = both.contributions(both.output.sum())[0]
    assert all(parameter.grad is None for parameter in (adapter, *module.parameters()))
    torch.testing.assert_close(made.sum(), (both.output - both.base).sum().detach())


def test_under_inference_mode_and_no_grad():
    module = nn.Sequential(nn.Linear(4, 4), nn.GELU()).double()
    with torch.inference_mode():
        both = compare(module, [X.clone()], [X0.clone()])
        with pytest.raises(ValueError, match="gradients were off"):
            both.contributions(both.output.sum())
    made = both.contributions(both.output.sum())[0]
    torch.testing.assert_close(made.sum(), (both.output - both.base).sum().detach())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)).to(dtype)

    def function(x):
        hidden = module(x).to(dtype).half()
        return hidden.softmax(-1).type(dtype).sum(-1)

    both = compare(lambda x: function(x) * 3, [X.to(dtype)], [X0.to(dtype)])
    assert both.output.dtype is torch.float32
    total = both.contributions(both.output.sum())[0].sum()
    torch.testing.assert_close(total, (both.output - both.base).sum().detach(), rtol=1e-5, atol=1e-6)


def test_autocast_is_off_for_what_depends_on_the_input():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3))

    def function(x):
        with torch.autocast("cpu", torch.bfloat16):
            return module(x)

    both = compare(function, [X.float()], [X0.float()])
    torch.testing.assert_close(both.output, module(X.float()))


def test_an_error_in_the_function_leaves_no_mode_behind():
    def function(x):
        x.exp()
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        compare(function, [X], [X0])
    assert torch.cumprod(X, 0).shape == X.shape
    assert len(torch.overrides._get_current_function_mode_stack()) == 0


def test_two_threads_see_their_own_runs():
    module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    results = {}

    def work(number):
        for _ in range(20):
            both = compare(module, [X * number], [X0])
            results[number] = both.contributions(both.output.sum())[0]

    threads = [threading.Thread(target=work, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in (1, 2):
        both = compare(module, [X * number], [X0])
        assert torch.equal(results[number], both.contributions(both.output.sum())[0])


def test_ids_are_followed_to_where_they_come_from():
    embedding = nn.Embedding(20, 5).double()
    ids, base = torch.arange(8).view(2, 4), torch.full((2, 4), 19)

    def function(ids):
        rows = torch.cat([ids.T[1:], ids.T[:1]]).flatten()  # turned, shifted, flattened
        return embedding(rows.to(torch.int32).long()).view(4, 2, 5).tanh().sum(-1).T

    both = compare(function, [ids], [base])
    (source,) = both.sources
    assert source.positions.values.tolist() == [1, 5, 2, 6, 3, 7, 0, 4]
    assert torch.equal(source.leaf, embedding(source.positions.values).detach())


def test_a_look_up_by_other_numbers_is_not_a_source():
    embedding = nn.Embedding(20, 5)
    both = compare(
        lambda ids: embedding(ids) + embedding(torch.arange(4)),
        [torch.tensor([[1, 2, 3, 4]])],
        [torch.zeros(1, 4).long()],
    )
    assert len(both.sources) == 1


class Detached(nn.Parameter):
    """A weight whose products have no gradient for activations, as if these were quantized."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            if func is nn.functional.linear:
                args = (args[0].detach(), *args[1:])
            return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(
    "run", [lambda model: compare(model, [X[:, :3]], [X0[:, :3]]), lambda model: freeze(model, [X[:, :3]])]
)
def test_a_linear_function_without_a_gradient_is_rejected(run, trained):
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    model[2].weight = Detached(model[2].weight.detach(), requires_grad=False)
    model[2].bias.requires_grad = trained
    with pytest.raises(ValueError, match="linear has no gradient with these arguments"):
        run(model)


def test_constants_are_the_same_in_both_runs_whatever_torch_computes_them_with():
    """Attention in half precision rounds otherwise where gradients are on."""
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 2, batch_first=True).bfloat16()
    hidden = torch.randn(1, 5, 8).bfloat16()

    def function(x):
        query, key, value = (
            nn.functional.linear(hidden, weight) for weight in layer.in_proj_weight.view(3, 8, 8)
        )
        mixed = nn.functional.scaled_dot_product_attention(query[None], key[None], value[None])
        return (mixed * x).sum(-1)

    both = compare(function, [X[:1, :1].float()], [X0[:1, :1].float()])
    total = both.contributions(both.output.sum())[0].sum()
    torch.testing.assert_close(total, (both.output - both.base).sum().detach(), rtol=1e-5, atol=1e-6)
