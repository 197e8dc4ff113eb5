"""Layers that are recomputed in the backward pass: the same contributions, with the memory of one layer."""

import copy
import threading
import warnings
from functools import partial

import pytest
import torch
import transformers
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, DynamicCache

import captum_globenc.attr.recomputing as recomputing
from captum_globenc import DecompX, EncoderForward, GlobEnc, TransformerDeepLift
from families import FAMILIES
from models import SMALL, randomize, state_of
from outsiders import OUTSIDERS
from storages import PeakMemory

IDS = torch.tensor([[2, 5, 7, 9, 11, 3], [2, 8, 6, 3, 0, 0]])
BASELINE = torch.tensor([[2, 4, 4, 4, 4, 3], [2, 4, 4, 3, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])


def bert(layers=3, **sizes):
    config = BertConfig(**{**SMALL, "num_hidden_layers": layers, **sizes})
    return randomize(BertForSequenceClassification(config)).double()


def count_calls(modules):
    """Count the calls of modules, including those that skip hooks."""
    calls = []
    for module in modules:
        forward = module.forward
        module.forward = lambda *args, _forward=forward, **kwargs: (
            calls.append(1) or _forward(*args, **kwargs)
        )
    return calls


def both(make, function):
    """Return the result of a function for a method that keeps everything, and for one that recomputes."""
    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        found.append(function(make(recompute=recompute)))
    return found


CHOSEN = {
    "bert", "roberta-prelayernorm, chunked", "albert", "deberta", "xlm", "modernbert", "t5", "vit",
    "whisper",
}  # fmt: skip


class Summed(nn.Module):
    """One number for each example, of all hidden states of an encoder."""

    def __init__(self, model, arguments):
        super().__init__()
        self.encoder = EncoderForward(model, arguments, output="last_hidden_state")

    def forward(self, inputs, *arguments):
        hidden = self.encoder(inputs, *arguments)
        return (hidden * torch.linspace(-1, 1, hidden.shape[-1], dtype=hidden.dtype)).tanh().sum((1, 2))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    "family", [it for it in FAMILIES if it.label in CHOSEN], ids=lambda family: family.label
)
def test_contributions_are_those_without_it(family, side):
    model = family.make(layers=3)
    batch = family.batch(side if side in family.sides else (family.sides or ("right",))[0])
    forward = Summed(model, family.arguments)
    if batch.inputs.is_floating_point():
        baseline = torch.zeros_like(batch.inputs)
    else:
        baseline = batch.inputs.flip(0) if batch.real is None else batch.inputs.masked_fill(batch.real, 7)
    kept, recomputed = both(
        lambda **options: TransformerDeepLift(forward, **options),
        lambda method: method.attribute(batch.inputs, baseline, None, batch.extra),
    )
    assert kept.abs().max() > 1e-3
    torch.testing.assert_close(recomputed, kept, rtol=1e-10, atol=1e-12)
    if family.label == "deberta":
        return  # DecompX does not find its value vectors
    kept, recomputed = both(
        lambda **options: DecompX(forward, **options),
        lambda method: method.attribute(batch.inputs, None, batch.extra),
    )
    torch.testing.assert_close(recomputed, kept, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "xlnet", "bart, decoder", "mamba", "swin"])
def test_decoders_and_other_models(name):
    outsider = OUTSIDERS[name]
    forward = EncoderForward(outsider.make(), ())
    inputs, baselines = outsider.inputs()
    target = (11, 3) if forward(inputs).dim() == 3 else 1
    kept, recomputed = both(
        lambda **options: TransformerDeepLift(forward, **options),
        lambda method: method.attribute(inputs, baselines, target),
    )
    torch.testing.assert_close(recomputed, kept, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [{}, {"n_steps": 3}, {"n_steps": 3, "path": "restore", "n_paths": 2}],
    ids=["one segment", "straight", "restore"],
)
@pytest.mark.parametrize("name", ["attribute", "attribute_layers", "attribute_classes"])
def test_paths_classes_and_layers(name, options):
    forward = EncoderForward(bert())
    arguments = (IDS, BASELINE) if name == "attribute_classes" else (IDS, BASELINE, 1)
    kept, recomputed = both(
        lambda **further: TransformerDeepLift(forward, **further),
        lambda method: getattr(method, name)(*arguments, additional_forward_args=(MASK,), **options),
    )
    torch.testing.assert_close(recomputed, kept, rtol=1e-10, atol=1e-12)
    assert recomputed.abs().sum() > 0


def test_classes_of_decompx_and_multipliers():
    model = bert()
    forward = EncoderForward(model)
    kept, recomputed = both(
        lambda **options: DecompX(forward, **options), lambda method: method.attribute_classes(IDS, (MASK,))
    )
    torch.testing.assert_close(recomputed, kept, rtol=1e-10, atol=1e-12)
    given, base = (model.get_input_embeddings()(it).detach() for it in (IDS, BASELINE))
    kept, recomputed = both(
        lambda **options: TransformerDeepLift(forward, multiply_by_inputs=False, **options),
        lambda method: method.attribute(given, base, 1, (MASK,)),
    )
    torch.testing.assert_close(recomputed, kept, rtol=1e-10, atol=1e-12)


def test_layers_run_once_more_at_each_point():
    model = bert(layers=5)
    method = TransformerDeepLift(EncoderForward(model), recompute=True)
    method.attribute(IDS, BASELINE, 1, (MASK,))  # the first call also runs the model without recording
    calls = count_calls(model.bert.encoder.layer)
    method.attribute(IDS, BASELINE, 1, (MASK,))
    assert len(calls) == 4 * 5
    decompx = DecompX(EncoderForward(model), recompute=True)
    decompx.attribute(IDS, 1, (MASK,))
    calls.clear()
    decompx.attribute(IDS, 1, (MASK,))
    assert len(calls) == 5 + 4  # the first layer, in which vectors are read, is kept


@pytest.mark.parametrize("kind", [TransformerDeepLift, DecompX])
def test_memory_grows_by_the_inputs_of_a_layer(kind):
    ids, batch, tokens, size = torch.randint(5, 50, (2, 64)), 2, 64, 32
    arguments = (ids, torch.full_like(ids, 4), 1) if kind is TransformerDeepLift else (ids, 1)
    peaks = {}
    for layers in (2, 6, 10):
        model = bert(layers, hidden_size=size, intermediate_size=4 * size).float()
        for recompute in (False, True):
            method = kind(EncoderForward(model), recompute=recompute)
            method.attribute(*arguments)
            with PeakMemory([*model.parameters(), *model.buffers()]) as memory:
                method.attribute(*arguments)
            peaks[layers, recompute] = memory.peak
    hidden = batch * tokens * size * 4  # bytes
    runs = 2 if kind is TransformerDeepLift else 1
    grown = {it: (peaks[10, it] - peaks[6, it]) / 4 for it in (False, True)}
    assert grown[True] <= (runs + 0.1) * hidden
    assert grown[False] >= 5 * grown[True]
    assert peaks[10, True] < 0.4 * peaks[10, False]


def test_nothing_is_kept_after_a_call():
    model = bert()
    before = state_of(model)
    method = TransformerDeepLift(EncoderForward(model), recompute=True)
    method.attribute(IDS, BASELINE, 1, (MASK,))
    with pytest.raises(IndexError):
        method.attribute(IDS, BASELINE, 7, (MASK,))
    assert state_of(model) == before


class Stack(nn.Module):
    """A classifier of embeddings `(B, N, 6)` with one kind of layer."""

    def __init__(self, layer, count=3):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(layer() for _ in range(count))
        self.double()

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x.mean(1)


class Plain(nn.Module):
    """A gated layer."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 12), nn.Linear(6, 6)

    def forward(self, x):
        one, other = self.inner(x).chunk(2, -1)
        return x + self.outer(one.tanh() * other)


X, X0 = (torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(it)).double() for it in (0, 1))


def compared(layer, **options):
    model = layer if isinstance(layer, Stack) else Stack(layer)
    return both(
        lambda **further: TransformerDeepLift(model, **options, **further),
        lambda method: method.attribute(X, X0, 2),
    )


class Drops(Plain):
    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.4, training=True))


class WritesInside(Plain):
    def forward(self, x):
        made = super().forward(x)
        made += x.tanh()
        made[:, 0] = made[:, 1].exp()
        return made.mul_(2)


class Nested(Plain):
    """Takes and returns containers and constants."""

    def forward(self, x):
        stream = x["stream"] if isinstance(x, dict) else x
        made = super().forward(stream)
        return {"stream": made, "same": made, "constant": torch.ones(3), "name": "layer", "input": stream}


class NestedStack(Stack):
    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        assert x["name"] == "layer"
        assert not x["constant"].requires_grad
        return (x["stream"] + x["same"] * x["input"] * x["constant"].sum()).mean(1)


class Routed(Plain):
    """Decides by its input, and returns what it chose."""

    def forward(self, x):
        stream = x[0] if isinstance(x, tuple) else x
        values, chosen = self.outer(stream).topk(2, dim=-1)
        made = stream.clone()
        if values.mean() > 0:
            made = made * 2
        return made.scatter_add(-1, chosen, values.tanh()), chosen


class RoutedStack(Stack):
    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        stream, chosen = x
        return stream.gather(-1, chosen).mean(1)


@pytest.mark.parametrize("layer", [Plain, Drops, WritesInside], ids=lambda it: it.__name__)
def test_layers_that_draw_or_write(layer):
    kept, recomputed = compared(layer)
    torch.testing.assert_close(recomputed, kept, rtol=1e-10, atol=1e-12)


def test_containers_and_constants():
    kept, recomputed = compared(NestedStack(Nested))
    torch.testing.assert_close(recomputed, kept, rtol=1e-10, atol=1e-12)


def test_decisions_are_followed_or_must_be_the_same():
    model = RoutedStack(Routed)
    kept, recomputed = both(
        lambda **options: TransformerDeepLift(model, decisions="follow", **options),
        lambda method: method.attribute(X, X0, 1),
    )
    torch.testing.assert_close(recomputed, kept, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match='decisions="follow"'):
        TransformerDeepLift(model, recompute=True).attribute(X, X0, 1)


def test_a_mixture_of_experts_of_transformers():
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=60, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_experts_per_tok=2, num_local_experts=4, head_dim=8,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config).eval()
    forward = EncoderForward(model, ())
    kept, recomputed = both(
        lambda **options: TransformerDeepLift(forward, decisions="follow", **options),
        lambda method: method.attribute(IDS[:1], BASELINE[:1], (5, 3)),
    )
    torch.testing.assert_close(recomputed, kept, rtol=1e-5, atol=1e-8)


class WritesToInput(Plain):
    def forward(self, x):
        x += 1
        return super().forward(x)


class Remembers(Plain):
    """Reads what the previous layer left behind."""

    memory = None

    def forward(self, x):
        made = super().forward(x)
        if Remembers.memory is not None:
            made = made + Remembers.memory
        Remembers.memory = made.sin()
        return made


class Counts(Plain):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * (1 + self.calls // 5)  # in two runs, and two checks of their outputs


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (WritesToInput, "WritesToInput 0 writes to its arguments in place"),
        (Remembers, "Remembers 1 reads a value that depends on the input but is not passed on"),
        (Counts, "Counts 2 computes other values when it runs again"),
    ],
)
def test_layers_that_cannot_be_recomputed_are_rejected(layer, message):
    model = Stack(layer)
    with pytest.raises(ValueError, match=f"{message}.*pass recompute=False"):
        TransformerDeepLift(model, recompute=True).attribute(X, X0, 2)
    Remembers.memory = None


def test_what_a_layer_leaves_behind_for_the_head_is_rejected():
    class Head(Stack):
        def forward(self, x):
            super().forward(x)
            return self.layers[0].left.mean(1)

    class Leaves(Plain):
        def forward(self, x):
            self.left = super().forward(x)
            return self.left * 2

    with pytest.raises(ValueError, match="The model reads a value that depends on the input but is not"):
        TransformerDeepLift(Head(Leaves), recompute=True).attribute(X, X0, 2)


def test_hidden_states_and_attention_as_the_output():
    model = bert()
    model.set_attn_implementation("eager")

    def output(name, ids):
        asked = {"output_hidden_states": True, "output_attentions": True}
        return getattr(model.bert(ids[:, :4], **asked), name)[1].flatten(1).tanh().sum(1)

    kept, recomputed = both(
        lambda **options: TransformerDeepLift(partial(output, "hidden_states"), model, **options),
        lambda method: method.attribute(IDS[:1], BASELINE[:1]),
    )
    torch.testing.assert_close(recomputed, kept, rtol=1e-10, atol=1e-12)
    method = TransformerDeepLift(partial(output, "attentions"), model, recompute=True)
    with pytest.raises(ValueError, match="is not passed on as a tensor"):
        method.attribute(IDS[:1], BASELINE[:1])


def test_embeddings_in_layers_are_rejected():
    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(60, 6)

        def forward(self, x, ids):
            return (x + self.table(ids)).tanh()

    class Model(Stack):
        def forward(self, ids):
            x = self.layers[0].table(ids)
            for layer in self.layers:
                x = layer(x, ids)
            return x.mean(1)

    model = Model(Looks)
    with pytest.raises(ValueError, match="Looks 0 looks up embeddings by ids.*recompute=False"):
        TransformerDeepLift(model, recompute=True).attribute(IDS, BASELINE, 1)


def test_a_cache_that_holds_tokens_is_rejected():
    outsider = OUTSIDERS["llama"]
    model = outsider.make()
    inputs, baselines = outsider.inputs()

    def forward(ids):
        cache = DynamicCache(config=model.config)
        model(ids[:, :3], past_key_values=cache)
        return model(ids[:, 3:], past_key_values=cache).logits[:, -1]

    with pytest.raises(ValueError, match="holds keys and values of earlier tokens.*recompute=False"):
        TransformerDeepLift(forward, model, recompute=True).attribute(inputs, baselines, 3)


@pytest.mark.parametrize("where", ["layer", "inside"])
def test_hooks_of_the_user(where):
    model = bert()
    layer = model.bert.encoder.layer[1]

    def hook(module, args, output):
        if isinstance(output, tuple):
            return (output[0].tanh() * 2, *output[1:])
        return output.tanh() * 2

    (layer if where == "layer" else layer.attention.output).register_forward_hook(hook)
    forward = EncoderForward(model)
    kept, recomputed = both(
        lambda **options: TransformerDeepLift(forward, **options),
        lambda method: method.attribute(IDS, BASELINE, 1, (MASK,)),
    )
    torch.testing.assert_close(recomputed, kept, rtol=1e-10, atol=1e-12)


def test_autocast_of_the_function_is_that_of_the_layers():
    model = bert().float()

    def function(*args):
        with torch.autocast("cpu", torch.bfloat16):
            return EncoderForward(model)(*args)

    kept, recomputed = both(
        lambda **options: TransformerDeepLift(function, model, **options),
        lambda method: method.attribute(IDS, BASELINE, 1, (MASK,)),
    )
    assert torch.equal(recomputed, kept)


def test_float32_that_is_not_precise_enough_is_repeated(monkeypatch):
    """Contributions of a sum that is off are computed again in float64, and their rounding is measured."""
    rounding = []

    def check_sum(first, finer):
        rounding.append(first.rounding(0))
        return finer().contributions, torch.zeros(())

    monkeypatch.setattr("captum_globenc.attr.deep_lift.check_sum", check_sum)
    model = bert().float()
    kept, recomputed = both(
        lambda **options: TransformerDeepLift(EncoderForward(model), **options),
        lambda method: method.attribute(IDS, BASELINE, 1, (MASK,)),
    )
    assert recomputed.dtype is torch.float64
    torch.testing.assert_close(recomputed, kept, rtol=1e-10, atol=1e-12)
    one, other = rounding
    assert one <= other <= 1.5 * one  # arguments and outputs of layers are counted twice


@pytest.mark.parametrize("kind", [TransformerDeepLift, DecompX])
@pytest.mark.parametrize("free", [0, 10**12, None])
def test_automatic_recomputation(kind, free, monkeypatch):
    asked = []
    monkeypatch.setattr(recomputing, "free_memory", lambda device: asked.append(device) or free)
    model = bert(layers=4)
    forward = EncoderForward(model)
    arguments = (IDS, BASELINE, 1, (MASK,)) if kind is TransformerDeepLift else (IDS, 1, (MASK,))
    expected = kind(forward).attribute(*arguments)
    method = kind(forward, recompute="auto")
    method.attribute(*arguments)
    calls = count_calls(model.bert.encoder.layer)
    found = method.attribute(*arguments)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    runs = 2 if kind is TransformerDeepLift else 1
    assert len(calls) == runs * (4 + (3 if free == 0 else 0))  # the first layer is measured, and kept
    assert asked == [torch.device("cpu")] * 2


def test_the_estimate_is_near_the_memory_of_the_layers(monkeypatch):
    sizes = []
    monkeypatch.setattr(recomputing, "fits", lambda size, device: sizes.append(size) or True)
    ids = torch.randint(5, 50, (2, 64))
    model = bert(9, hidden_size=64, intermediate_size=256).float()
    method = TransformerDeepLift(EncoderForward(model), recompute="auto")
    method.attribute(ids, 4, 1)
    with PeakMemory([*model.parameters(), *model.buffers()]) as memory:
        method.attribute(ids, 4, 1)
    assert 0.6 * memory.peak < sizes[-1] < 1.4 * memory.peak


def test_free_memory_of_this_machine():
    free = recomputing.free_memory(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50
    assert recomputing.free_memory(torch.device("meta")) is None


def test_threads_on_one_model():
    forward = EncoderForward(bert())
    method = TransformerDeepLift(forward, recompute=True)
    expected = method.attribute(IDS, BASELINE, 1, (MASK,))
    errors = []

    def work(recompute):
        try:
            own = TransformerDeepLift(forward, recompute=recompute)
            for _ in range(3):
                found = own.attribute(IDS, BASELINE, 1, (MASK,))
                torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(it,)) for it in (True, True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert not any({"forward", "__reduce_ex__"} & vars(it).keys() for it in forward.modules())


def test_copies_made_during_the_pass_are_plain():
    model, copies = bert(), []
    model.bert.encoder.layer[0].register_forward_hook(
        lambda *_: copies.append(copy.deepcopy(model.bert.encoder.layer[1]))
    )
    TransformerDeepLift(EncoderForward(model), recompute=True).attribute(IDS, BASELINE, 1, (MASK,))
    assert copies
    assert not any("forward" in vars(it) for it in copies)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match='choose True, False or "auto"'):
        TransformerDeepLift(bert(), recompute="yes")
    with pytest.raises(ValueError, match=r"TransformerDeepLift\(forward_func, model, recompute=True\)"):
        TransformerDeepLift(lambda x: x, recompute=True)
    with pytest.raises(ValueError, match="has no layers"):
        TransformerDeepLift(nn.Linear(6, 2).double(), recompute=True).attribute(X[:, 0], X0[:, 0], 1)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("kind", [GlobEnc, DecompX, TransformerDeepLift])
def test_gradient_checkpointing_is_off_during_the_pass(kind, reentrant):
    model = bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    forward = EncoderForward(model)
    arguments = (IDS, BASELINE, 1, (MASK,)) if kind is TransformerDeepLift else (IDS, 1, (MASK,))
    expected = kind(forward).attribute(*arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model.train().gradient_checkpointing_enable({"use_reentrant": reentrant})
    flags = [getattr(it, "gradient_checkpointing", None) for it in model.modules()]
    assert True in flags
    assert torch.equal(kind(forward).attribute(*arguments), expected)
    assert [getattr(it, "gradient_checkpointing", None) for it in model.modules()] == flags
    if kind is not GlobEnc:
        found = kind(forward, recompute=True).attribute(*arguments)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_of_the_forward_function(reentrant):
    model = Stack(Plain)

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            for layer in self.model.layers:
                x = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=reentrant)
            return x.mean(1)

    expected = TransformerDeepLift(model).attribute(X, X0, 2)
    found = TransformerDeepLift(Checkpointed(), recompute=True).attribute(X, X0, 2)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    if reentrant:
        assert torch.equal(TransformerDeepLift(Checkpointed()).attribute(X, X0, 2), expected)
    else:
        with pytest.raises(ValueError, match=r"calls torch\.utils\.checkpoint.*recompute=True"):
            TransformerDeepLift(Checkpointed()).attribute(X, X0, 2)
