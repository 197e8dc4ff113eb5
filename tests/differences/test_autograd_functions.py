"""Autograd functions are explained by the torch functions that they call, not by their gradient."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from captum_globenc import TransformerDeepLift
from captum_globenc.differences import compare, freeze

X, X0 = (torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))
MODULE = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4)).double()


def function(forward, setup=None):
    """An autograd function with a gradient that is wrong on purpose."""
    members = {"forward": staticmethod(forward), "backward": staticmethod(lambda ctx, *grads: -7 * grads[0])}
    if setup:
        members["setup_context"] = staticmethod(setup)
    return type("Own", (torch.autograd.Function,), members).apply


def saved(ctx, x):
    ctx.save_for_backward(x)
    return x * x.sigmoid()


def written(ctx, x):
    x = x * 0.5
    x *= 2
    return x.tanh_()


FUNCTIONS = {
    "curved": (function(saved), lambda x: x * x.sigmoid()),
    "set up apart": (
        function(lambda x: x * x.sigmoid(), lambda ctx, inputs, output: None),
        lambda x: x * x.sigmoid(),
    ),
    "linear": (function(lambda ctx, x: x * 3), lambda x: x * 3),
    "identity": (function(lambda ctx, x: x), lambda x: x),
    "view": (function(lambda ctx, x: x.view(-1).view(3, 4)), lambda x: x),
    "in place": (function(written), torch.tanh),
    "nested": (function(lambda ctx, x: FUNCTIONS["curved"][0](x) + x), lambda x: x * x.sigmoid() + x),
    "several outputs": (
        lambda x: sum(function(lambda ctx, x: (x.exp(), x.tanh()))(x)),
        lambda x: x.exp() + x.tanh(),
    ),
    "checkpoint": (
        lambda x: checkpoint(MODULE, x * 1, use_reentrant=True),
        lambda x: MODULE(x),
    ),
}
PLACES = {
    "at the start": lambda f, x: f(x).exp(),
    "in the middle": lambda f, x: f(x.exp()).tanh(),
    "at the end": lambda f, x: f(x.exp()),
    "twice": lambda f, x: f(f(x).tanh()) + x,
    "used twice": lambda f, x: (lambda y: y * y.exp())(f(x * 1)),
    "written into after": lambda f, x: f(x * 1).mul_(2).tanh() + x,
    "under no_grad": lambda f, x: torch.no_grad()(lambda: f(x * 2))() * x,
}


CASES = [
    (name, place) for name in FUNCTIONS for place in PLACES if (name, place) != ("identity", "under no_grad")
]


def test_values_that_lose_their_graph_are_rejected():
    """Without gradients, an autograd function that returns its argument returns an unmarked tensor."""
    function = FUNCTIONS["identity"][0]
    with pytest.raises(ValueError, match="other operations at the baseline"):
        compare(lambda x: PLACES["under no_grad"](function, x), [X], [X0])


@pytest.mark.parametrize(("name", "place"), CASES)
@pytest.mark.parametrize("frozen", [False, True], ids=["compare", "freeze"])
def test_it_is_what_it_computes(name, place, frozen):
    made = []
    for form in FUNCTIONS[name]:
        whole = lambda x, form=form: PLACES[place](form, x)  # noqa: E731
        run = freeze(whole, [X]) if frozen else compare(whole, [X], [X0])
        torch.testing.assert_close(run.output, whole(X))
        made += run.multipliers(run.output.sum(), [run.sources[0].leaf])
    torch.testing.assert_close(*made)


HOOKS = {
    "full": lambda module: module.register_full_backward_hook(lambda _, into, out: (into[0] * 0.5,)),
    "full before": lambda module: module.register_full_backward_pre_hook(lambda _, out: (out[0] * 0.5,)),
    "everywhere": lambda _: nn.modules.module.register_module_full_backward_hook(
        lambda _, into, out: tuple(None if it is None else it * 0.5 for it in into)
    ),
    "of tensors": lambda module: module.register_forward_hook(
        lambda _, args, output: output.register_hook(lambda grad: grad * 0.5) and None
    ),
}


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("frozen", [False, True], ids=["compare", "freeze"])
def test_backward_hooks_of_the_model_do_not_count(hook, frozen):
    """In a contrast, whose sum could not tell."""
    layer = nn.Linear(4, 4).double()

    def contrast(x):
        made = layer(x * 1)
        return made[0] - made[1]

    made = []
    for register in (lambda _: None, HOOKS[hook]):
        handle = register(layer)
        try:
            run = freeze(contrast, [X]) if frozen else compare(contrast, [X], [X0])
        finally:
            if handle is not None:
                handle.remove()
        made += run.multipliers(run.output.sum(), [run.sources[0].leaf])
    torch.testing.assert_close(*made)


@pytest.mark.parametrize("training", [False, True])
def test_bloom(training):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BloomConfig(
        vocab_size=40,
        hidden_size=16,
        n_layer=2,
        n_head=2,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        num_labels=3,
        pad_token_id=0,
    )
    model = transformers.BloomForSequenceClassification(config).double().train(training)
    x, x0 = (torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(it)).double() for it in (0, 1))

    def forward(embeddings):
        return model(inputs_embeds=embeddings).logits

    method = TransformerDeepLift(forward, model)
    scores, delta = method.attribute(x, x0, 1, return_convergence_delta=True)
    difference = (forward(x) - forward(x0))[:, 1]
    torch.testing.assert_close(scores.sum((1, 2)), difference.detach())
    assert delta.abs().max() < 1e-9
