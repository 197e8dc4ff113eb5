"""Faults that GlobEnc would attribute to the wrong token raise; hooks that mix no tokens do not matter."""

import copy
import gc
import pickle
import threading
import weakref

import pytest
import torch
from torch import nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    BertConfig,
    BertForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.masking_utils import sdpa_mask

from captum_globenc import GlobEnc
from captum_globenc.encoders import find_encoder
from captum_globenc.errors import RecordingError
from families import FAMILIES
from models import SMALL, randomize, state_of

SIZES = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}


def bert():
    return randomize(BertForSequenceClassification(BertConfig(**{**SMALL, **SIZES}))).double()


def vit():
    return randomize(ViTForImageClassification(ViTConfig(**SIZES, image_size=12, patch_size=4))).double()


class Case:
    """A small model of one order of norms, and one batch for it."""

    def __init__(self, order):
        generator = torch.Generator().manual_seed(2)
        self.order = order
        self.model = bert() if order == "post-LN" else vit()
        self.inputs = torch.randint(5, 60, (2, 10), generator=generator)
        if order == "pre-LN":
            self.inputs = torch.randn(2, 3, 12, 12, generator=generator, dtype=torch.float64)
        self.globenc = GlobEnc(lambda x: self.model(x).logits, self.model)

    def attribute(self):
        return self.globenc.attribute(self.inputs)

    @property
    def layer(self):
        return find_encoder(self.model).layers[1]

    @property
    def first_linear(self):
        """The first projection of the feed-forward network."""
        return linears_after_attention(self.model, lambda: self.model(self.inputs))[0]

    @property
    def last_linear(self):
        return linears_after_attention(self.model, lambda: self.model(self.inputs))[-1]


def linears_after_attention(model, run, number=-1):
    """The projections that run in a layer after that of the attention, in order; the first two."""
    out, norm = (getattr(find_encoder(model).layers[number], name) for name in ("out", "norm2"))
    ran = []
    kinds = (nn.Linear, nn.Conv1d)
    handles = [
        module.register_forward_hook(lambda module, args, output: ran.append(module))
        for module in model.modules()
        if isinstance(module, kinds) or module is norm
    ]
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    after = ran[len(ran) - 1 - ran[::-1].index(out) + 1 :]
    return [module for module in after if module is not norm][:2]


@pytest.fixture(params=["post-LN", "pre-LN"])
def case(request):
    return Case(request.param)


def exchanged(hidden):
    return hidden[:, [0, 1, 3, 2, *range(4, hidden.shape[1])]]


def rolled(hidden):
    return hidden.roll(1, 1)


def rolled_in_place(hidden):
    hidden.copy_(hidden.roll(1, 1))
    return hidden


def one_token(hidden):
    return torch.cat([hidden[:, :1], hidden[:, :1], hidden[:, 2:]], 1)


def from_first_to_last(hidden):
    return torch.cat([hidden[:, :-1], hidden[:, :1]], 1)


def convolved(hidden):
    kernel = torch.tensor([0.2, 1.0, 0.0], dtype=hidden.dtype).expand(hidden.shape[2], 1, 3)
    return nn.functional.conv1d(hidden.mT, kernel, padding=1, groups=hidden.shape[2]).mT


def averaged(hidden):
    return hidden + hidden.mean(1, keepdim=True)


def summed(hidden):
    return hidden.cumsum(1)


def from_next_text(hidden):
    return torch.where(torch.arange(hidden.shape[1])[:, None] == 1, hidden.roll(1, 0), hidden)


MIXES = [
    exchanged,
    rolled,
    rolled_in_place,
    one_token,
    from_first_to_last,
    from_next_text,
    convolved,
    averaged,
    summed,
]


def doubled(hidden):
    return 2 * hidden


def added_to_itself(hidden):
    return hidden + hidden


def on_residual(case, number, change):
    """Change what the first or second residual connection of the last layer carries, and nothing else."""
    layer = case.layer.module
    if case.order == "post-LN":
        module = layer.attention.output if number == 1 else layer.output
        return module.register_forward_pre_hook(lambda module, args: (args[0], change(args[1].clone())))
    # The sum itself is in the layer's own forward function: what is added is what would have been.
    if number == 1:
        norm, seen = layer.layernorm_before, []
        before = norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        after = layer.attention.register_forward_hook(
            lambda module, args, output: (output[0] + change(seen[-1].clone()) - seen.pop(), *output[1:])
        )
        return Both(before, after)
    return Patched(layer, change)


class Both:
    def __init__(self, *handles):
        self.handles = handles

    def remove(self):
        for handle in self.handles:
            handle.remove()


class Patched:
    """A forward function of one's own for a ViT layer, with another second residual connection."""

    def __init__(self, layer, change):
        self.layer = layer

        def forward(hidden_states, *args, **kwargs):
            attention = layer.attention(layer.layernorm_before(hidden_states), *args, **kwargs)[0]
            hidden_states = attention + hidden_states
            return layer.mlp(layer.layernorm_after(hidden_states)) + change(hidden_states.clone())

        layer.forward = forward

    def remove(self):
        del self.layer.forward


RESIDUAL = "residual connection of encoder layer 1 does not carry"
SUMS = "encoder layer 1, .* does not sum"


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("change", [*MIXES, doubled, added_to_itself])
def test_a_residual_connection_that_carries_something_else_raises(case, number, change):
    expected = case.attribute()
    handle = on_residual(case, number, change)
    before = state_of(case.model)
    for _ in range(2):  # a fault is no less one when it is met again
        with pytest.raises(RecordingError, match=f"{RESIDUAL}|{SUMS}"):
            case.attribute()
    assert state_of(case.model) == before
    handle.remove()
    assert torch.equal(case.attribute(), expected)


@pytest.mark.parametrize("change", MIXES)
@pytest.mark.parametrize("place", ["first_linear", "last_linear"])
@pytest.mark.parametrize("warm", [False, True])
def test_a_feed_forward_network_that_mixes_tokens_raises(case, change, place, warm):
    expected = case.attribute() if warm else None
    handle = getattr(case, place).register_forward_hook(lambda module, args, output: change(output.clone()))
    for _ in range(2):
        with pytest.raises(
            RecordingError, match="layer 1, the output depends on other tokens .*feed-forward"
        ):
            case.attribute()
    handle.remove()
    if warm:
        assert torch.equal(case.attribute(), expected)


class Convolved(nn.Module):
    """A projection with a convolution over tokens behind it."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear
        self.convolution = nn.Conv1d(linear.out_features, linear.out_features, 3, padding=1).double()

    def forward(self, hidden):
        return self.convolution(self.linear(hidden).mT).mT


@pytest.mark.parametrize("warm", [False, True])
def test_a_module_that_is_replaced_by_one_that_mixes_tokens_raises(case, warm):
    if warm:
        case.attribute()
    linear = case.first_linear
    owner, name = next(
        (module, name)
        for module in case.model.modules()
        for name, it in module.named_children()
        if it is linear
    )
    setattr(owner, name, Convolved(linear))
    with pytest.raises(RecordingError, match="feed-forward network mixes tokens"):
        case.attribute()
    setattr(owner, name, linear)
    assert torch.isfinite(case.attribute()).all()


def attention(change):
    """An attention function of one's own."""

    def attend(module, query, key, value, attention_mask, scaling=None, **kwargs):
        return change(query, key, value, attention_mask, scaling).transpose(1, 2).contiguous(), None

    return attend


def weights(query, key, mask, scaling):
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)


def by_sdpa(move):
    return lambda q, k, v, mask, scaling: nn.functional.scaled_dot_product_attention(
        q, k, move(v), mask, scale=scaling
    )


def by_product(move, after=lambda context: context):
    return lambda q, k, v, mask, scaling: after(weights(q, k, mask, scaling) @ move(v))


def tokens_exchanged(heads):
    return heads[:, :, [0, 1, 3, 2, *range(4, heads.shape[2])]]


VALUES = "layer 0, the value vectors of the attention depend on other tokens"
FUNCTIONS = {
    "rolls": (by_product(lambda v: v.roll(1, 2)), VALUES),
    "rolls, SDPA": (by_sdpa(lambda v: v.roll(1, 2)), VALUES),
    "exchanges": (by_product(tokens_exchanged), VALUES),
    "averages": (by_product(lambda v: v + v.mean(2, keepdim=True)), VALUES),
    "exchanges its output": (by_product(lambda v: v, tokens_exchanged), "layer 0, .* does not sum"),
    "scales its output": (by_product(lambda v: v, lambda c: 2 * c), "layer 0, .* does not sum"),
    "drops its output": (by_product(lambda v: v, lambda c: c * (c > 0)), "layer 0, .* does not sum"),
    "scales": (by_product(lambda v: 2 * v), None),
    "drops": (by_product(lambda v: v * torch.tensor([1.0, 0.0]).double()[:, None, None]), None),
    "nothing": (by_sdpa(lambda v: v), None),
}


@pytest.fixture
def register():
    """Register attention functions of one's own under one name; it is gone after."""

    def set_function(change):
        AttentionInterface.register("own", attention(change))
        AttentionMaskInterface.register("own", sdpa_mask)

    yield set_function
    AttentionInterface._global_mapping.pop("own", None)
    AttentionMaskInterface._global_mapping.pop("own", None)


@pytest.mark.parametrize("way", FUNCTIONS)
@pytest.mark.parametrize("warm", [False, True])
def test_an_attention_function_that_moves_values_raises(case, register, way, warm):
    change, message = FUNCTIONS[way]
    register(by_sdpa(lambda v: v))
    case.model.set_attn_implementation("own")
    if warm:
        case.attribute()
    register(change)
    if message is None:
        assert torch.isfinite(case.attribute()).all()
        return
    for _ in range(2):
        with pytest.raises(RecordingError, match=message):
            case.attribute()
    register(by_sdpa(lambda v: v))
    assert torch.isfinite(case.attribute()).all()


def test_values_in_other_places_are_the_values_of_the_scaled_attention(case, register):
    """A control with numbers: twice the values are twice the output projection."""
    register(by_product(lambda v: 2 * v))
    case.model.set_attn_implementation("own")
    scores = case.attribute()
    other = Case(case.order)
    with torch.no_grad():
        for layer in find_encoder(other.model).layers:
            layer.out.weight.mul_(2)
    torch.testing.assert_close(scores, other.attribute(), rtol=1e-9, atol=0)


def observing(case):
    for module in case.model.modules():
        module.register_forward_hook(lambda *args: None)
        module.register_forward_pre_hook(lambda *args: None)


def copying(case):
    case.layer.norm2.register_forward_pre_hook(lambda module, args: (args[0].clone(), *args[1:]))
    case.last_linear.register_forward_hook(lambda module, args, output: output.clone())
    if case.order == "post-LN":
        case.layer.module.output.register_forward_pre_hook(lambda module, args: (args[0], args[1].clone()))


def steering(case):
    def add(module, args, output):
        output = output.clone()
        output[:, 3] += 1.5
        return output

    case.last_linear.register_forward_hook(add)


def ablating(case):
    case.last_linear.register_forward_hook(lambda module, args, output: torch.zeros_like(output))


def gating(case):
    case.first_linear.register_forward_hook(lambda module, args, output: output * output.sigmoid())


def training(case):
    for module in case.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)
    case.model.train()


@pytest.mark.parametrize("change", [observing, copying, steering, ablating, gating, training])
@pytest.mark.parametrize("warm", [False, True])
def test_hooks_that_mix_no_tokens_do_not_raise(case, change, warm):
    if warm:
        case.attribute()
    change(case)
    first = case.attribute()
    assert torch.equal(case.attribute(), first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("broken", [False, True])
def test_low_precision_does_not_count_as_mixing(case, dtype, broken):
    case.model.to(dtype)
    if case.inputs.is_floating_point():
        case.inputs = case.inputs.to(dtype)
    if not broken:
        assert torch.isfinite(case.attribute()).all()
        return
    case.first_linear.register_forward_hook(lambda module, args, output: output.roll(1, 1))
    with pytest.raises(RecordingError, match="feed-forward network mixes"):
        case.attribute()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("broken", [False, True])
def test_every_gradient_mode_is_checked(case, context, broken):
    if broken:
        on_residual(case, 2, exchanged)
    with context():
        if broken:
            with pytest.raises(RecordingError, match=RESIDUAL):
                case.attribute()
        else:
            assert torch.isfinite(case.attribute()).all()


def test_the_stack_runs_twice_once_and_hooks_see_the_real_tokens_last(case):
    ran = []
    stack = find_encoder(case.model).stack
    out = case.layer.out
    forward = out.forward
    out.forward = lambda hidden: (ran.append(1), forward(hidden))[1]
    case.attribute()
    assert len(ran) == 2
    for _ in range(3):
        case.attribute()
    assert len(ran) == 5
    seen = []
    handle = stack.register_forward_hook(lambda *args: None)
    case.layer.norm2.register_forward_hook(lambda module, args, output: seen.append(output))
    case.attribute()
    assert len(seen) == 3
    assert torch.equal(seen[-1], seen[0])
    assert not torch.equal(seen[1], seen[0])
    case.attribute()
    assert len(seen) == 4
    handle.remove()


def test_a_new_object_does_not_check_the_same_model_again(case):
    case.attribute()
    seen = []
    out = case.layer.out
    forward = out.forward
    out.forward = lambda hidden: (seen.append(1), forward(hidden))[1]
    case.attribute()
    assert len(seen) == 2  # the function is another one
    GlobEnc(lambda x: case.model(x).logits, case.model, mixing="N").attribute(case.inputs)
    assert len(seen) == 3


def test_one_token_proves_nothing_for_more(register):
    case = Case("post-LN")
    register(by_product(lambda v: v.roll(1, 2)))
    case.model.set_attn_implementation("own")
    case.globenc.attribute(torch.tensor([[7]]))
    for tokens in (2, 3):
        with pytest.raises(RecordingError, match=VALUES):
            case.globenc.attribute(torch.arange(5, 5 + tokens)[None])


@pytest.mark.parametrize("tokens", [2, 3, 4, 7])
@pytest.mark.parametrize("change", [rolled, averaged, one_token, from_first_to_last])
def test_short_texts_show_it_too(tokens, change):
    case = Case("post-LN")
    case.inputs = torch.arange(5, 5 + tokens)[None]
    case.first_linear.register_forward_hook(lambda module, args, output: change(output))
    with pytest.raises(RecordingError, match="feed-forward network mixes"):
        case.attribute()


@pytest.mark.parametrize("number", range(12))
def test_an_exchange_of_any_two_tokens_shows(number):
    case = Case("post-LN")
    case.inputs = torch.arange(5, 18)[None]
    order = list(range(13))
    order[number], order[number + 1] = order[number + 1], order[number]
    case.first_linear.register_forward_hook(lambda module, args, output: output[:, order])
    with pytest.raises(RecordingError, match="feed-forward network mixes"):
        case.attribute()


@pytest.mark.parametrize("steered", [0, 3, 9])
def test_an_exchange_shows_next_to_a_larger_change_of_one_position(case, steered):
    if case.order == "pre-LN":
        case.inputs = case.inputs[:1]

    def hook(module, args, output):
        output = exchanged(output.clone())
        output[:, steered] += 100
        return output

    case.first_linear.register_forward_hook(hook)
    with pytest.raises(RecordingError, match="feed-forward network mixes"):
        case.attribute()


def test_an_exchange_shows_next_to_texts_without_one():
    """A text that is too short for the exchange only reads its padding."""
    case = Case("post-LN")
    mask = torch.ones_like(case.inputs)
    mask[1, 3:] = 0
    case.first_linear.register_forward_hook(lambda module, args, output: exchanged(output))
    globenc = GlobEnc(lambda x, mask: case.model(x, attention_mask=mask).logits, case.model)
    with pytest.raises(RecordingError, match="feed-forward network mixes"):
        globenc.attribute(case.inputs, additional_forward_args=mask)


def test_nothing_is_kept_alive_or_left_on_copies(case):
    case.attribute()
    for copied in (copy.deepcopy(case.model), pickle.loads(pickle.dumps(case.model))):
        assert [sorted(vars(it)) for it in copied.modules()] == [
            sorted(vars(it)) for it in case.model.modules()
        ]
    model = weakref.ref(case.model)
    inputs = weakref.ref(case.inputs)
    case.globenc = case.model = case.inputs = None
    gc.collect()
    assert model() is None
    assert inputs() is None


def test_threads_check_the_same_model_at_once(case):
    expected = Case(case.order).attribute()
    found = []
    threads = [threading.Thread(target=lambda: found.append(case.attribute())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert all(torch.equal(it, expected) for it in found)


def test_a_model_that_writes_into_its_inputs_writes_once():
    case = Case("post-LN")
    embedded = case.model.bert.embeddings.word_embeddings(case.inputs).detach()
    kept = embedded.clone()

    def write(module, args, kwargs):
        kwargs["inputs_embeds"].mul_(1.5)

    case.model.bert.embeddings.register_forward_pre_hook(write, with_kwargs=True)
    with torch.no_grad():
        expected = GlobEnc(lambda x: case.model(inputs_embeds=x.clone()).logits, case.model).attribute(kept)
    scores = GlobEnc(lambda x: case.model(inputs_embeds=x).logits, case.model).attribute(embedded)
    assert torch.equal(embedded, 1.5 * kept)
    assert torch.equal(scores, expected)


def broken_values(module, args, kwargs):
    """Exchange the tokens that the attention reads."""
    name = "hidden_states" if "hidden_states" in kwargs else None
    if args:
        return (args[0].roll(1, 1), *args[1:]), kwargs
    return args, {**kwargs, name: kwargs[name].roll(1, 1)}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda it: it.label)
def test_every_family_is_checked_for_values_of_other_tokens(family):
    model, data = family.make(), family.batch("right" if "right" in family.sides else "none")
    globenc = GlobEnc(family.forward(model))
    globenc.mixing_matrices(data.inputs, data.extra)
    attention = find_encoder(model).layers[0].attention
    values = [it for name, it in attention.named_modules() if name.split(".")[-1] in ("value", "v_lin")]
    if values:
        handle = values[0].register_forward_hook(lambda module, args, output: output.roll(1, 1))
    else:
        handle = attention.register_forward_pre_hook(broken_values, with_kwargs=True)
    with pytest.raises(RecordingError, match="value vectors of the attention depend on other"):
        globenc.mixing_matrices(data.inputs, data.extra)
    handle.remove()
    globenc.mixing_matrices(data.inputs, data.extra)


@pytest.mark.parametrize(
    "family", [it for it in FAMILIES if "chunked" not in it.label], ids=lambda it: it.label
)
def test_every_family_is_checked_for_a_feed_forward_network_that_mixes(family):
    model, data = family.make(), family.batch("right" if "right" in family.sides else "none")
    globenc = GlobEnc(family.forward(model))
    globenc.mixing_matrices(data.inputs, data.extra)
    forward = family.forward(model)
    linear = linears_after_attention(model, lambda: forward(data.inputs, *data.extra))[0]
    handle = linear.register_forward_hook(lambda module, args, output: output.roll(1, 1))
    with pytest.raises(RecordingError, match="the output depends on other tokens past the attention"):
        globenc.mixing_matrices(data.inputs, data.extra)
    handle.remove()
    globenc.mixing_matrices(data.inputs, data.extra)
