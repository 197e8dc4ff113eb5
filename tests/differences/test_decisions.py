"""Decisions that differ at the baseline are rejected, or follow the decisions of the input."""

import pytest
import torch
import transformers
from torch import nn

from captum_globenc import TransformerDeepLift
from captum_globenc.differences import compare, compare_path


def values(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, X0 = values(5, 4), values(5, 4, seed=1)
EXPERTS = values(3, 4, 4, seed=2)
ROUTER = values(4, 3, seed=3)


def of_experts(x):
    """Each row by the expert that its router prefers, without a gate: linear along a route."""
    chosen = (x @ ROUTER).argmax(-1)
    return torch.einsum("ij,ijk->ik", x, EXPERTS[chosen])


def gated(x):
    """The best two experts, weighted by their probabilities."""
    weights, chosen = (x @ ROUTER).softmax(-1).topk(2, dim=-1)
    made = torch.stack([x @ expert for expert in EXPERTS], 1)
    picked = made.gather(1, chosen[..., None].expand(-1, -1, 4))
    return (weights[..., None] * picked).sum(1)


def gated_along(x, route):
    weights = (x @ ROUTER).softmax(-1).gather(-1, route)
    return sum(weights[:, it, None] * torch.einsum("ij,ijk->ik", x, EXPERTS[route[:, it]]) for it in range(2))


@pytest.mark.parametrize("function", [of_experts, gated])
def test_other_decisions_at_the_baseline_are_rejected_with_a_way_out(function):
    with pytest.raises(ValueError, match='decisions="follow"'):
        compare(function, [X], [X0])


def test_the_baseline_runs_along_the_route_of_the_input():
    both = compare(of_experts, [X], [X0], decisions="follow")
    route = (X @ ROUTER).argmax(-1)
    expected = torch.einsum("ij,ijk->ijk", X - X0, EXPERTS[route]).sum(-1)
    torch.testing.assert_close(both.contributions(both.output.sum())[0], expected)
    torch.testing.assert_close(both.base, torch.einsum("ij,ijk->ik", X0, EXPERTS[route]))
    differing = int((route != (X0 @ ROUTER).argmax(-1)).sum())
    assert differing > 0
    assert (both.trace.route.differing, both.trace.route.total) == (differing, len(X))


def test_values_that_a_router_chooses_are_those_of_its_indices():
    both = compare(gated, [X], [X0], decisions="follow")
    route = (X @ ROUTER).topk(2, dim=-1).indices
    expected = compare(lambda x: gated_along(x, route), [X], [X0])
    torch.testing.assert_close(both.output, gated(X))
    torch.testing.assert_close(both.base, expected.base)
    made, wanted = (it.contributions(it.output.sum())[0] for it in (both, expected))
    torch.testing.assert_close(made.sum(1), wanted.sum(1))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * (x > 0),
        lambda x: x if x.sum() > 0 else 2 * x,
        lambda x: x * float(x[0, 0] > 0),
        lambda x: x.sort(-1).values * torch.arange(4.0, dtype=x.dtype),
        lambda x: x.sort(-1, descending=True)[0][:, :2],
        lambda x: x.gather(-1, x.max(-1, keepdim=True).indices),
        lambda x: x[x.sum(-1).argsort()].cumsum(0),
    ],
)
def test_all_kinds_of_decisions_are_followed(function):
    both = compare(function, [X], [X0], decisions="follow")
    torch.testing.assert_close(both.output, function(X))
    total = both.contributions(both.output.sum())[0].sum()
    torch.testing.assert_close(total, (both.output - both.base).sum().detach())


def test_indices_of_a_maximum_are_a_decision_where_they_are_used():
    unused = compare(lambda x: x.max(-1)[0], [X], [X0])
    total = unused.contributions(unused.output.sum())[0].sum()
    torch.testing.assert_close(total, (unused.output - unused.base).sum().detach())
    contrast = values(5, 4, seed=9)
    with pytest.raises(ValueError, match="max decides what the model computes"):
        compare(lambda x: contrast.gather(-1, x.max(-1, keepdim=True)[1]) * x, [X], [X0])


def test_equal_decisions_give_the_same_contributions():
    x, x0 = X.abs() + 1, X0.abs() + 1
    function = lambda x: (x * (x > 0)).tanh()  # noqa: E731
    one, other = (compare(function, [x], [x0], decisions=it) for it in ("same", "follow"))
    assert torch.equal(one.contributions(one.output.sum())[0], other.contributions(other.output.sum())[0])
    assert other.trace.route.differing == 0


SMALL = {
    "vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0, "eos_token_id": 1,
    "num_experts_per_tok": 2,
}  # fmt: skip
MIXTURES = {
    "Mixtral": {"num_local_experts": 4, "head_dim": 8},
    "Qwen3Moe": {"num_experts": 4, "head_dim": 8, "moe_intermediate_size": 12, "decoder_sparse_step": 1},
    "Olmoe": {"num_experts": 4},
    "GptOss": {"num_local_experts": 4, "head_dim": 8},
    "DeepseekV3": {
        "num_key_value_heads": 2, "n_routed_experts": 4, "n_group": 1, "topk_group": 1,
        "first_k_dense_replace": 1, "moe_intermediate_size": 12, "q_lora_rank": 8, "kv_lora_rank": 8,
        "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8,
    },
    "Qwen3Next": {
        "layer_types": ["linear_attention", "full_attention"], "num_experts": 4, "head_dim": 8,
        "moe_intermediate_size": 12, "shared_expert_intermediate_size": 12, "linear_num_key_heads": 2,
        "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    },
    "Phimoe": {"num_local_experts": 4},
}  # fmt: skip


@pytest.mark.parametrize("experts", ["grouped_mm", "batched_mm", "eager"])
@pytest.mark.parametrize("family", MIXTURES)
def test_mixtures_of_experts_of_transformers(family, experts):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config", None)
    if config is None:
        pytest.skip(f"this transformers has no {family}")
    config = config(**SMALL | MIXTURES[family])
    if hasattr(config, "_experts_implementation"):
        config._experts_implementation = experts
    elif experts != "eager":
        pytest.skip("this transformers has one way to run experts")
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    table = model.get_input_embeddings()
    ids = torch.randint(5, 50, (2, 6), generator=torch.Generator().manual_seed(1))
    inputs = table(ids).detach()
    baseline = table.weight.detach().mean(0).expand_as(inputs)

    def forward(embeddings):
        return model(inputs_embeds=embeddings, use_cache=False).logits[:, -1]

    with pytest.raises(ValueError, match='decisions="follow"'):
        TransformerDeepLift(forward, model).attribute(inputs, baseline, 3)
    method = TransformerDeepLift(forward, model, decisions="follow")
    scores, delta = method.attribute(inputs, baseline, 3, return_convergence_delta=True)
    assert delta.abs().max() < 1e-5
    both = compare(forward, [inputs], [baseline], decisions="follow")
    torch.testing.assert_close(both.output[:, 3], forward(inputs)[:, 3], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        scores.sum((1, 2)), (both.output - both.base)[:, 3].detach(), rtol=1e-4, atol=1e-5
    )
    layers = method.attribute_layers(inputs, baseline, 3)
    torch.testing.assert_close(
        layers.sum(-1), scores.sum((1, 2))[:, None].expand(-1, 3), rtol=1e-4, atol=1e-5
    )


def test_an_encoder_with_experts():
    """In the style of nomic-embed v2: a router that takes the best expert of each token."""
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.norm, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
            self.router = nn.Linear(8, 4)
            self.experts = nn.ModuleList(
                nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(4)
            )

        def forward(self, x):
            x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
            flat = x.reshape(-1, 8)
            weights, chosen = self.router(flat).softmax(-1).topk(1, dim=-1)
            made = torch.zeros_like(flat)
            for number, expert in enumerate(self.experts):
                rows = torch.where(chosen[:, 0] == number)[0]
                made[rows] += weights[rows] * expert(flat[rows])
            return self.norm2(x + made.view_as(x))

    model = nn.Sequential(Block(), Block()).double().eval()
    x, x0 = values(2, 5, 8), values(2, 5, 8, seed=1)
    method = TransformerDeepLift(lambda x: model(x).mean(1), model, decisions="follow")
    scores, delta = method.attribute(x, x0, 0, return_convergence_delta=True)
    assert delta.abs().max() < 1e-10
    assert scores.abs().sum() > 0


def test_decisions_are_the_same_or_followed():
    with pytest.raises(ValueError, match='choose "same" or "follow"'):
        TransformerDeepLift(nn.Linear(2, 2), decisions="free")


def test_each_point_of_a_path_runs_once():
    calls = []

    def function(x):
        calls.append(1)
        return (x.exp() * x.flip(1)).sum(1)

    points = [[X0 + part * (X - X0)] for part in (0, 0.25, 0.6, 1)]
    found = [it.contributions(it.output.sum())[0] for it in compare_path(function, points)]
    assert len(calls) == 4
    for made, (base,), (x,) in zip(found, points[:-1], points[1:], strict=True):
        alone = compare(function, [x], [base])
        torch.testing.assert_close(made, alone.contributions(alone.output.sum())[0], rtol=0, atol=0)
