"""Recording observes the model as it runs: custom attention, adapters, hooks, compilation, copies."""

import copy
import pickle
from dataclasses import replace
from functools import partial

import peft
import pytest
import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from captum_globenc import EncoderForward, GlobEnc, reconstruction_error
from captum_globenc.encoders import find_encoder, registry
from captum_globenc.recording.attention import FUSED
from models import attribute, state_of

HEAD = 1


def eager(module, query, key, value, mask, scaling, change=lambda weights: weights, multiply=torch.matmul):
    scores = query @ key.transpose(2, 3) * scaling
    weights = nn.functional.softmax(scores if mask is None else scores + mask, dim=-1)
    return multiply(change(weights), value).transpose(1, 2).contiguous(), None


def without_head(tensor, dim=1):
    kept = torch.ones(tensor.shape[dim], dtype=tensor.dtype)
    kept[HEAD] = 0
    return tensor * kept.reshape(-1, *(1 for _ in range(tensor.ndim - dim - 1)))


def gate(weights):
    """A factor of 1, by softmaxes and products that are none of tokens."""
    one = torch.zeros(3, 1).double().softmax(dim=-1) @ torch.ones(1, 1).double()
    per_example = torch.zeros(weights.shape[0], 1, 2).double().softmax(-1) @ torch.ones(1, 2, 1).double()
    return one[0] * per_example[0, 0]


def in_place(weights):
    weights[:, HEAD] = 0
    return weights


# Each way switches one head off where it can be seen: before the weights meet the values, or in the values.
SEEN = {
    "weights times a mask": partial(eager, change=without_head),
    "weights in place": partial(eager, change=in_place),
    "weights, as a batch of heads": partial(
        eager,
        change=without_head,
        multiply=lambda a, v: torch.bmm(a.flatten(0, 1), v.flatten(0, 1)).unflatten(0, a.shape[:2]),
    ),
    "weights in an Einstein sum": partial(
        eager, change=without_head, multiply=lambda a, v: torch.einsum("bhij,bhjd->bhid", a, v)
    ),
    "weights in an Einstein sum of another layout": partial(
        eager,
        change=without_head,
        multiply=lambda a, v: torch.einsum("nhqk,nkhd->nhqd", a, v.transpose(1, 2)),
    ),
    "SDPA of a batch of heads": lambda module, query, key, value, mask, scaling, **kwargs: (
        nn.functional.scaled_dot_product_attention(
            query.flatten(0, 1),
            key.flatten(0, 1),
            without_head(value).flatten(0, 1),
            None if mask is None else mask.expand(-1, query.shape[1], query.shape[2], -1).flatten(0, 1),
            scale=scaling,
        )
        .unflatten(0, query.shape[:2])
        .transpose(1, 2)
        .contiguous(),
        None,
    ),
    "weights beside a gate": partial(eager, change=lambda weights: without_head(weights) * gate(weights)),
    "values ahead of SDPA": lambda module, query, key, value, mask, **kwargs: sdpa_attention_forward(
        module, query, key, without_head(value), mask, **{**kwargs, "is_causal": False}
    ),
}


@pytest.fixture
def own_attention():
    """Register attention functions of one's own; none is left after."""
    names = []

    def register(function):
        def attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
            if isinstance(function, partial):
                return function(module, query, key, value, attention_mask, scaling)
            return function(module, query, key, value, attention_mask, scaling=scaling, **kwargs)

        names.append(f"own{len(names)}")
        AttentionInterface.register(names[-1], attention)
        fits = eager_mask if isinstance(function, partial) else sdpa_mask
        AttentionMaskInterface.register(names[-1], fits)
        return names[-1]

    yield register
    for name in names:
        AttentionInterface._global_mapping.pop(name, None)
        AttentionMaskInterface._global_mapping.pop(name, None)


def pruned(model):
    """The same model, with the head's part of every output projection at 0."""
    other = copy.deepcopy(model)
    size = other.config.hidden_size // other.config.num_attention_heads
    with torch.no_grad():
        for layer in other.bert.encoder.layer:
            layer.attention.output.dense.weight[:, HEAD * size : (HEAD + 1) * size] = 0
    return other


@pytest.mark.parametrize("way", SEEN)
def test_a_custom_attention_function_is_explained(classifier, batch, own_attention, way):
    plain = attribute(classifier, batch)
    expected = pruned(classifier)
    classifier.set_attn_implementation(own_attention(SEEN[way]))
    assert torch.allclose(classifier(**batch).logits, expected(**batch).logits, rtol=1e-10)
    before = state_of(classifier)
    scores = attribute(classifier, batch)
    torch.testing.assert_close(scores, attribute(expected, batch), rtol=1e-10, atol=1e-12)
    assert (scores - plain).abs().max() > 1e-3
    assert state_of(classifier) == before


def output_without_head(module, query, key, value, mask, **kwargs):
    output, _ = sdpa_attention_forward(module, query, key, value, mask, **{**kwargs, "is_causal": False})
    return without_head(output, dim=2), None


def linear_attention(module, query, key, value, mask, **kwargs):
    return ((query @ key.transpose(2, 3)) @ value).transpose(1, 2).contiguous(), None


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (output_without_head, "layer 0, example 0, .* does not sum"),
        (linear_attention, "was not recorded.*set_attn_implementation"),
    ],
)
def test_an_attention_function_that_cannot_be_recorded_is_rejected(
    classifier, batch, own_attention, function, message
):
    classifier.set_attn_implementation(own_attention(function))
    before = state_of(classifier)
    with pytest.raises(RuntimeError, match=message):
        attribute(classifier, batch)
    assert state_of(classifier) == before


def test_an_attribution_may_run_inside_of_another(classifier, batch):
    forward = EncoderForward(classifier)
    inputs, extra = forward.arguments(batch)
    scores = attribute(classifier, batch)
    inner = []

    def explaining(*arguments):
        inner.append(GlobEnc(forward).attribute(arguments[0], 1, arguments[1:]))
        return forward(*arguments)

    before = state_of(classifier)
    assert torch.equal(GlobEnc(explaining, classifier).attribute(inputs, 1, extra), scores)
    assert torch.equal(inner[0], scores)
    assert state_of(classifier) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_watches_after_an_interrupt(classifier, batch, error):
    def interrupt(module, args, output):
        raise error

    handle = classifier.bert.encoder.layer[1].attention.self.query.register_forward_hook(interrupt)
    before = state_of(classifier)
    with pytest.raises(error):
        attribute(classifier, batch)
    assert torch.overrides._get_current_function_mode() is None
    assert state_of(classifier) == before
    handle.remove()
    assert torch.isfinite(attribute(classifier, batch)).all()


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mixing", ["N-Enc", "W"])
def test_a_head_that_a_hook_switches_off_raises(classifier, batch, implementation, dtype, mixing):
    classifier.to(dtype).set_attn_implementation(implementation)
    attribute(classifier, batch, mixing=mixing)
    size = classifier.config.hidden_size // classifier.config.num_attention_heads

    def switch_off(module, args, output):
        context = output[0].clone()
        context[..., HEAD * size : (HEAD + 1) * size] = 0
        return (context, *output[1:])

    classifier.bert.encoder.layer[1].attention.self.register_forward_hook(switch_off)
    before = state_of(classifier)
    with pytest.raises(RuntimeError, match="encoder layer 1, example ., .* does not sum"):
        attribute(classifier, batch, mixing=mixing)
    assert state_of(classifier) == before


@pytest.mark.parametrize("part", ["attention.self.value", "attention.output.dense"])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_one_batch_with_several_adapters_is_right_or_rejected(classifier, batch, part):
    settings = peft.LoraConfig(r=2, target_modules=[part])
    adapted = peft.get_peft_model(classifier, settings, adapter_name="one")
    adapted.add_adapter("two", settings)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator).double()
    adapted.eval()
    inputs, mask = batch["input_ids"], batch["attention_mask"]
    alone = []
    for row, name in enumerate(("one", "two", "one")):
        adapted.set_adapter(name)
        forward = EncoderForward(adapted)
        alone.append(GlobEnc(forward).attribute(inputs[row : row + 1], 1, mask[row : row + 1]))
    adapted.set_adapter("one")

    def mixed(ids, mask):
        return adapted(input_ids=ids, attention_mask=mask, adapter_names=["one", "two", "one"]).logits

    before = state_of(adapted)
    globenc = GlobEnc(mixed, adapted)
    if part == "attention.self.value":  # what is adapted is seen where it is used
        torch.testing.assert_close(globenc.attribute(inputs, 1, mask), torch.cat(alone), rtol=1e-9, atol=0)
    else:
        with pytest.raises(RuntimeError, match="example 1, .*several adapters"):
            globenc.attribute(inputs, 1, mask)
    assert state_of(adapted) == before


WRONG = [
    ("beit", {"layer_scale": "", "adapt": lambda spec, stack: spec}),
    ("bert", {"norm1": "output.LayerNorm", "norm2": "attention.output.LayerNorm"}),
    ("vit", {"order": "post-LN"}),
    ("mpnet", {"out": "attention.attn.q"}),
]


@pytest.mark.parametrize(("model_type", "changes"), WRONG, ids=lambda it: it if isinstance(it, str) else "")
def test_a_wrong_spec_raises_in_every_pass(monkeypatch, model_type, changes):
    from families import FAMILIES

    row = next(row for row in FAMILIES if row.model_type == model_type)
    model, data = row.make(), row.batch("right" if "right" in row.sides else "none")
    globenc = GlobEnc(row.forward(model), model)
    globenc.mixing_matrices(data.inputs, data.extra)
    spec = replace(registry._REGISTRY[model_type], **changes)
    monkeypatch.setitem(registry._REGISTRY, model_type, spec)
    with pytest.raises(RuntimeError, match="does not sum"):
        globenc.mixing_matrices(data.inputs, data.extra)


def test_heads_in_the_wrong_order_raise(classifier, batch):
    """A hook permutes what the projection is given: what is read of it is not what ran."""

    module = classifier.bert.encoder.layer[2].attention.output.dense
    order = torch.arange(24).reshape(4, 6).flip(0).flatten()
    module.register_forward_pre_hook(lambda module, args: (args[0][..., order], *args[1:]))
    with pytest.raises(RuntimeError, match="layer 2"):
        attribute(classifier, batch)


@pytest.mark.parametrize("implementation", sorted(FUSED))
def test_fused_attention_is_replaced_for_the_pass(classifier, batch, implementation):
    scores = attribute(classifier, batch)
    # Set past the check that its package is installed: what counts is that it is not called.
    classifier.config._attn_implementation_internal = implementation
    assert classifier.config._attn_implementation == implementation
    before = state_of(classifier)
    assert torch.equal(attribute(classifier, batch), scores)
    assert state_of(classifier) == before


@pytest.mark.parametrize("output", ["attentions", "hidden_states"])
def test_forward_func_sees_the_attention_weights_of_an_eager_model(classifier, batch, output):
    classifier.set_attn_implementation("eager")
    plain = classifier(**batch, **{f"output_{output}": True})
    seen = []

    def forward(ids, mask, segments):
        answer = classifier(ids, attention_mask=mask, token_type_ids=segments, **{f"output_{output}": True})
        seen.append(answer)
        return answer[output][-1].flatten(1)

    GlobEnc(forward, classifier).attribute(*[batch["input_ids"], 0], tuple(batch.values())[1:])
    for found, expected in zip(seen[0][output], plain[output], strict=True):
        assert torch.equal(found, expected)


COPIES = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize("implementation", ["eager", "sdpa", "flex_attention"])
@pytest.mark.parametrize("way", COPIES)
def test_a_copy_made_during_a_pass_is_a_model_of_its_own(classifier, batch, way, implementation):
    classifier.config._attn_implementation_internal = implementation
    classifier.bert.encoder.layer[0].register_forward_hook(_own_hook)
    before = state_of(classifier)
    copies = []

    def forward(ids, mask, segments):
        logits = classifier(ids, attention_mask=mask, token_type_ids=segments).logits
        copies.append(COPIES[way](classifier))
        return logits

    GlobEnc(forward, classifier).attribute(batch["input_ids"], 1, tuple(batch.values())[1:])
    (copied,) = copies
    assert state_of(classifier) == before
    if way != "copy":  # shares its modules with the original
        own = {"grad": 0, "attributes": 0}  # whose objects are its own
        assert {**state_of(copied), **own} == {**before, **own}
        assert [sorted(vars(module)) for module in copied.modules()] == [
            sorted(vars(module)) for module in classifier.modules()
        ]
    if implementation != "flex_attention":
        assert torch.equal(copied(**batch).logits, classifier(**batch).logits)
        with torch.no_grad():
            copied.bert.encoder.layer[0].output.dense.weight.mul_(2)
        assert torch.isfinite(attribute(copied, batch)).all()


def _own_hook(module, args, output):
    """A hook of the user's own, which pickles."""


@pytest.mark.parametrize("way", ["a function", "a module", "in place", "a part"])
def test_compiled_models_are_run_as_they_were_written(classifier, batch, way):
    scores = attribute(classifier, batch)
    inputs, extra = EncoderForward(classifier).arguments(batch)
    forward, model = EncoderForward(classifier), classifier
    if way == "a function":
        forward = torch.compile(EncoderForward(classifier), fullgraph=True, backend="eager")
    elif way == "a module":
        model = torch.compile(classifier, fullgraph=True, backend="eager")
        forward = EncoderForward(model)
    elif way == "in place":
        classifier.compile(fullgraph=True, backend="eager")
    else:
        classifier.classifier.compile(fullgraph=True, backend="eager")
    before = state_of(classifier)
    assert torch.equal(GlobEnc(forward, model).attribute(inputs, 1, extra), scores)
    assert state_of(classifier) == before


def test_a_traced_module_beside_the_encoder_does_not_raise(classifier, batch):
    scores = attribute(classifier, batch)
    classifier.classifier = torch.jit.trace(classifier.classifier, torch.zeros(1, 24).double())
    assert torch.equal(attribute(classifier, batch), scores)


@pytest.mark.parametrize("where", ["everywhere", "bert.encoder.layer.1.attention.output.dense"])
def test_meta_weights_raise_before_anything_runs(classifier, batch, where):
    module = classifier if where == "everywhere" else classifier.get_submodule(where)
    module.to("meta")
    with pytest.raises(ValueError, match="meta device: not loaded"):
        attribute(classifier, batch)


def test_virtual_tokens_raise(classifier, batch):
    settings = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3)
    adapted = peft.get_peft_model(classifier, settings).eval()
    with pytest.raises(ValueError, match="3 more than .*virtual"):
        attribute(adapted, batch)


def test_reconstruction_error_measures_what_the_pass_rejects(classifier, batch):
    projection = find_encoder(classifier).layers[1].out
    projection.register_forward_hook(lambda module, args, output: 2 * output)
    forward = EncoderForward(classifier)
    inputs, extra = forward.arguments(batch)
    with pytest.raises(RuntimeError, match="layer 1"):
        GlobEnc(forward).attribute(inputs, 1, extra)
    assert reconstruction_error(forward, classifier, inputs, extra)[1] > 0.1
