"""Proofs for every family in the table in families.py."""

import warnings
from functools import wraps

import pytest
import torch
import transformers

from captum_globenc import GlobEnc, attr, reconstruction_error
from captum_globenc.decomposition import workspace
from captum_globenc.decomposition.mixing import MIXINGS, mix, mixing_norms
from captum_globenc.encoders import find_encoder, supported_encoders
from captum_globenc.recording.dropout import DROPOUT_RATES
from captum_globenc.recording.recorder import record
from families import ABSENT, FAMILIES, NEWER, ROWS
from reference import probabilities, reference_mixing

EXACT = 1e-10
DEPTHS = (2, 3)
ALL_MIXINGS = ("bert", "modernbert", "t5", "vit", "whisper")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Let short inputs span several tiles, the last of them cut."""
    monkeypatch.setattr(workspace, "CPU", workspace.TileBudget(cells=1, receivers=4, sources=4, syncs=False))


@pytest.fixture(autouse=True)
def double_throughout(monkeypatch):
    """Keep float64 models from dropping to single precision inside, as norms, softmaxes and angles do.

    Every comparison can then ask for ten digits.
    """
    softmax, to = torch.nn.functional.softmax, torch.Tensor.to

    def to_double(tensor, *args, **kwargs):
        double = [torch.float64 if arg is torch.float32 else arg for arg in args]
        named = {k: torch.float64 if v is torch.float32 else v for k, v in kwargs.items()}
        return to(tensor, *double, **named)

    @wraps(softmax)
    def softmax_as_given(scores, dim, dtype=None, **kwargs):
        return softmax(scores, dim)

    monkeypatch.setattr(torch.Tensor, "to", to_double)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(torch.nn.functional, "softmax", softmax_as_given)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # masks and angles are made in it
    yield
    torch.set_default_dtype(default)


def each_family(*, depths=(2,), sides=False, families=FAMILIES):
    """Parametrise over the table, depths and, if asked, the sides that the family can be padded on."""
    cases = [
        pytest.param(family, depth, side, id=f"{family.label}-{depth}-{side}")
        for family in families
        for depth in depths
        for side in (family.sides if sides else family.sides[:1]) or ("none",)
    ]
    return pytest.mark.parametrize(("family", "layers", "side"), cases)


def records_of(family, model, batch):
    """What the recorder saw of each layer, and what the model returned."""
    layers = []
    forward = family.forward(model)
    output = record(lambda: forward(batch.inputs, *batch.extra), find_encoder(model), layers.append)
    return layers, output


def apart(one, other):
    """The largest difference, relative to the largest entry."""
    return float((one - other).abs().max() / other.abs().max())


def test_every_supported_family_is_proved():
    proved = {family.model_type for family in FAMILIES}
    assert proved.isdisjoint(ABSENT)
    assert proved.union(ABSENT) >= set(supported_encoders())


def test_a_family_goes_unproved_only_where_transformers_lacks_or_cannot_run_it():
    for name, prefix, *_ in NEWER:
        assert (name in ABSENT) == (f"{prefix}Model" not in dir(transformers))
    for family in (row for row in ROWS if row not in FAMILIES):
        model, batch = family.make(), family.batch("right")
        with pytest.raises(IndexError):
            family.forward(model)(batch.inputs, *batch.extra)


@each_family(depths=DEPTHS, sides=True)
def test_the_decomposition_sums_to_the_attention_output(family, layers, side):
    model, batch = family.make(layers), family.batch(side)
    errors = reconstruction_error(family.forward(model), model, batch.inputs, batch.extra)
    assert len(errors) == len(records_of(family, model, batch)[0]) >= layers
    assert errors.max() <= EXACT


@each_family(depths=DEPTHS)
def test_all_mixings_equal_the_materialising_reference(family, layers, side):
    model, batch = family.make(layers), family.batch(side)
    for layer in records_of(family, model, batch)[0]:
        for kind in MIXINGS:
            assert apart(mixing_norms(layer, kind), reference_mixing(layer, kind)) <= EXACT, kind


@each_family(sides=True)
def test_recording_does_not_change_what_the_model_computes(family, layers, side):
    model, batch = family.make(layers), family.batch(side)
    with torch.no_grad():
        for inputs, extra in ((batch.inputs, batch.extra), *batch.singles):
            forward = family.forward(model)
            seen = record(lambda f=forward, i=inputs, e=extra: f(i, *e), find_encoder(model), lambda _: None)
            assert apart(seen, forward(inputs, *extra)) <= EXACT


@each_family()
def test_probabilities_are_the_ones_that_the_model_returns(family, layers, side):
    model, batch = family.make(layers), family.batch(side)
    seen = records_of(family, model, batch)[0]
    eager = family.make(layers, attn_implementation="eager")  # which not every version can be switched to
    with torch.no_grad():
        pairs = zip(family.arguments, batch.extra, strict=True)
        named = {name: argument for name, argument in pairs if argument is not None}
        returned = eager(batch.inputs, **named, output_attentions=True).attentions
    assert len(returned) == len(seen)
    for layer, expected in zip(seen, returned, strict=True):
        real = torch.ones(expected.shape[0], expected.shape[2]).bool() if layer.real is None else layer.real
        found, expected = probabilities(layer).transpose(1, 2)[real], expected.transpose(1, 2)[real]
        assert apart(found, expected) <= EXACT


@each_family(depths=(3,))
def test_linearized_norms_return_what_the_norms_returned(family, layers, side):
    model, batch = family.make(layers), family.batch(side)
    encoder = find_encoder(model)
    calls = []
    norms = {id(n): n for layer in encoder.layers for n in (layer.norm1, layer.norm2)}
    handles = [
        norm.register_forward_hook(
            # XLM goes on to write into what its norms return.
            lambda module, args, output: calls.append((module, args[0], output.clone()))
        )
        for norm in (*norms.values(), encoder.final_norm)
    ]
    seen = records_of(family, model, batch)[0]
    for handle in handles:
        handle.remove()
    calls = joined(calls)
    first, second = calls[0::2], calls[1::2]
    if encoder.spec.order == "post-LN":
        read = [(layer.after_layer, pair) for layer, *pair in zip(seen, first, second, strict=True)]
        assert all(layer.after_layer[:1] == layer.after_attention for layer in seen)
    else:
        read = [(layer.after_attention, [call]) for layer, call in zip(seen, second, strict=True)]
        read += [(layer.after_layer, [call]) for layer, call in zip(seen, first[1:], strict=True)]
    for readings, behind in read:
        assert len(readings) == len(behind)
        for reading, (norm, given, output) in zip(readings, behind, strict=True):
            bias = getattr(norm, "bias", None)
            # A norm of pooled tokens saw one vector for each example: its deviation holds for every token.
            scale = reading.scale[:, :, None] if given.ndim == 3 else reading.scale[:, :1]
            linear = reading.linear(given) * scale + (0 if bias is None else bias)
            assert apart(linear, output) <= EXACT


def joined(calls):
    """The calls of norms, those that were made in chunks of a sequence put together."""
    whole = []
    for norm, given, output in calls:
        if whole and whole[-1][0] is norm and given.shape[1] == 1:
            _, before, after = whole.pop()
            given, output = torch.cat([before, given], 1), torch.cat([after, output], 1)
        whole.append((norm, given, output))
    return whole


@each_family(sides=True)
def test_padding_gets_exactly_zero_and_a_batch_equals_its_texts(family, layers, side):
    model, batch = family.make(layers), family.batch(side)
    globenc = GlobEnc(family.forward(model))
    together = globenc.mixing_matrices(batch.inputs, batch.extra)
    scores = globenc.attribute_layers(batch.inputs, additional_forward_args=batch.extra, position="mean")[
        :, -1
    ]
    for i, (inputs, extra) in enumerate(batch.singles):
        real = torch.ones(together.shape[-1]).bool() if batch.real is None else batch.real[i]
        assert (together[i][:, ~real] == 0).all()
        assert (together[i][:, :, ~real] == 0).all()
        if batch.real is not None:
            assert (scores[i][~real] == 0).all()
        alone = globenc.mixing_matrices(inputs, extra)[0]
        assert apart(together[i][:, real][:, :, real], alone) <= EXACT


@each_family(depths=(3,), sides=True)
def test_layers_decomposed_together_have_the_numbers_of_single_layers(family, layers, side, monkeypatch):
    model, batch = family.make(layers), family.batch(side)
    forward = family.forward(model)
    (first, *_), _ = records_of(family, model, batch)
    texts, tokens, size = first.stream.shape
    cells = max(texts * first.attention.heads * tokens * max(tokens, size), first.output.numel())
    sizes = []

    def mixed(record, *arguments):
        sizes.append(record.layers)
        return mix(record, *arguments)

    def results(mixing):
        """Depths and matrices of the padded batch, and the matrices of a text without padding."""
        globenc = GlobEnc(forward, mixing=mixing)
        yield globenc.attribute_layers(batch.inputs, None, batch.extra, position="mean")
        yield globenc.mixing_matrices(batch.inputs, batch.extra)
        yield globenc.mixing_matrices(*batch.singles[0])

    monkeypatch.setattr(attr.run, "mix", mixed)
    for mixing in MIXINGS if family.label in ALL_MIXINGS else ("N-Enc",):
        with monkeypatch.context() as patch:
            expected = list(results(mixing))
            for together in (1, 2, 3):
                budget = workspace.TileBudget(together * cells, receivers=128, sources=512, syncs=True)
                patch.setattr(workspace, "CPU", budget)
                sizes.clear()
                for found, wanted in zip(results(mixing), expected, strict=True):
                    assert apart(found, wanted) <= EXACT
                number = len(wanted[0])
                assert sizes[0] == min(together, number)
                assert sum(sizes) == 3 * number


@each_family()
def test_the_model_is_left_as_it_was(family, layers, side):
    model, batch = family.make(layers).train(), family.batch(side)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        vars(module).update(
            {rate: 0.0 for rate in DROPOUT_RATES if isinstance(vars(module).get(rate), float)}
        )
    before = state(model)
    with torch.no_grad():
        records_of(family, model, batch)
    assert state(model) == before


@each_family()
def test_training_mode_is_warned_of_where_two_passes_differ(family, layers, side):
    model, batch = family.make(layers).train(), family.batch(side)
    forward = family.forward(model)
    with torch.no_grad():
        one, other = (forward(batch.inputs, *batch.extra) for _ in range(2))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        records_of(family, model, batch)
    warned = any("dropout is active" in str(warning.message) for warning in caught)
    assert warned or torch.equal(one, other)


def state(model):
    """What recording touches in a model."""
    return [
        (
            name,
            module.training,
            vars(module).get("forward"),
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            getattr(getattr(module, "config", None), "_attn_implementation", None),
        )
        for name, module in model.named_modules()
    ]
