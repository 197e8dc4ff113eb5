"""Models with adapters, quantized models and half precision."""

import peft
import pytest
import torch
from torch import nn

from captum_globenc import DecompX, EncoderForward, GlobEnc, reconstruction_error
from captum_globenc.encoders import find_encoder
from captum_globenc.proofs.checks import layer_error
from captum_globenc.recording.linear import linear_map, linearized_norm
from captum_globenc.recording.recorder import record
from families import TEXT
from reference import probabilities

ROW = next(row for row in TEXT if row.model_type == "bert")
BATCH = ROW.batch("right")


def mixtures(model):
    return GlobEnc(ROW.forward(model)).mixing_matrices(BATCH.inputs, BATCH.extra)


def scores(model):
    globenc = GlobEnc(ROW.forward(model))
    return globenc.attribute(BATCH.inputs, additional_forward_args=BATCH.extra, position="mean")


def reconstruction(model):
    return reconstruction_error(ROW.forward(model), model, BATCH.inputs, BATCH.extra).max()


@pytest.mark.parametrize("targets", [["value"], ["attention.output.dense"], ["query", "value", "dense"]])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_lora_gives_the_numbers_of_the_merged_model(targets):
    settings = peft.LoraConfig(r=2, target_modules=targets)
    adapted = peft.get_peft_model(ROW.make(), settings).double().eval()
    generator = torch.Generator().manual_seed(5)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(generator=generator)
    assert reconstruction(adapted) <= 1e-10
    found = mixtures(adapted)
    assert not torch.allclose(found, mixtures(ROW.make()), rtol=0.01)
    torch.testing.assert_close(found, mixtures(adapted.merge_and_unload()), rtol=1e-10, atol=1e-10)


ADAPTERS = {
    "IA3": peft.IA3Config(
        target_modules=["query", "value", "dense"], feedforward_modules=["dense"], init_ia3_weights=False
    ),
    "AdaLoRA": peft.AdaLoraConfig(
        init_r=2, target_r=1, total_step=10, target_modules=["query", "value"], init_lora_weights=False
    ),
    "DoRA": peft.LoraConfig(r=2, use_dora=True, target_modules=["value", "dense"], init_lora_weights=False),
    "LoHa": peft.LoHaConfig(r=2, target_modules=["query", "value"], init_weights=False),
}


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("method", [DecompX, GlobEnc])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_adapters_give_the_scores_of_the_merged_model(name, method):
    torch.manual_seed(3)
    adapted = peft.get_peft_model(ROW.make(), ADAPTERS[name]).double().eval()

    def explained(model):
        forward = ROW.forward(model)
        method_ = method(lambda *args: forward(*args)[:, 0], model)
        return method_.attribute(BATCH.inputs, 1, BATCH.extra, **where)

    where = {"position": 0} if method is GlobEnc else {}
    found = explained(adapted)
    assert not torch.allclose(found, explained(ROW.make()), rtol=0.01)
    torch.testing.assert_close(found, explained(adapted.merge_and_unload()), rtol=1e-9, atol=1e-10)


@pytest.fixture(scope="module")
def quantized():
    """BERT with all its linear maps quantized to 8 bits, its inputs to them in each pass."""
    model = ROW.make().float()
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


quantization = pytest.mark.filterwarnings(
    "ignore:torch.ao.quantization:DeprecationWarning",
    "ignore:torch.quantize_per_tensor:UserWarning",
)


@quantization
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (peft.LNTuningConfig(target_modules=["LayerNorm"]), "merge the adapter"),
        (peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3), "prefix tuning"),
    ],
    ids=["tuned norms", "prefixes"],
)
def test_adapters_that_cannot_be_read_are_rejected(classifier, batch, config, message):
    adapted = peft.get_peft_model(classifier, config).eval()
    forward = EncoderForward(adapted)
    inputs, extra = forward.arguments(batch)
    with pytest.raises(ValueError, match=message):
        GlobEnc(forward).attribute(inputs, 1, extra)


def test_decompx_rejects_prefix_tuning(classifier, batch):
    config = peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3)
    forward = EncoderForward(peft.get_peft_model(classifier, config).eval())
    inputs, extra = forward.arguments(batch)
    for arguments in (extra, (None,)):
        with pytest.raises(ValueError, match="prefix tuning"):
            DecompX(forward).attribute(inputs, 1, arguments)


def test_a_quantized_projection_gives_its_dequantized_matrix(quantized):
    module = quantized.encoder.layer[0].attention.output.dense
    matrix, bias = linear_map(module, size=12, dtype=torch.float64)
    torch.testing.assert_close(matrix, module.weight().dequantize().double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(bias, module.bias().double(), rtol=1e-6, atol=1e-6)


@quantization
def test_a_quantized_model_is_exact_but_for_what_is_rounded_in_each_pass(quantized):
    layers = []
    forward = ROW.forward(quantized)
    record(lambda: forward(BATCH.inputs, *BATCH.extra), find_encoder(quantized), layers.append)
    for layer in layers:
        # The inputs of the projection are rounded to 127 steps over their range: no linear map has that.
        context = torch.einsum("bhij,bhjd->bhid", probabilities(layer), layer.value)
        step = (context.max().clamp_min(0) - context.min().clamp_max(0)) / 127
        whole = (layer.attended - layer.stream)[layer.real]
        assert layer_error(layer) <= step / 2 * layer.output.abs().sum(1).max() / whole.abs().max()


@quantization
def test_a_quantized_model_has_the_scores_of_its_dequantized_weights(quantized):
    plain = ROW.make().float()
    for name, module in quantized.named_modules():
        if isinstance(module, torch.ao.nn.quantized.dynamic.Linear):
            plain.get_submodule(name).weight.data = module.weight().dequantize()
    torch.testing.assert_close(scores(quantized), scores(plain), rtol=0.05, atol=0.01)


@pytest.mark.parametrize(("dtype", "steps"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision_is_decomposed_in_single(dtype, steps):
    half, single = ROW.make().to(dtype), ROW.make().to(dtype).float()
    assert reconstruction(half) <= 4 * steps
    found = scores(half)
    assert found.dtype == torch.float32
    assert mixtures(half).dtype == torch.float32
    torch.testing.assert_close(found, scores(single), rtol=8 * steps, atol=2 * steps)


def test_torchs_own_rms_norm_needs_no_eps():
    norm = nn.RMSNorm(6).double()
    torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(0))
    seen = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1)).double()
    (reading,) = linearized_norm(norm, seen, centred=False)
    assert torch.allclose(reading.linear(seen) * reading.scale[..., None], norm(seen), rtol=1e-12)


def test_weights_that_are_not_loaded_are_rejected():
    with pytest.raises(ValueError, match="meta device"):
        linear_map(nn.Linear(3, 2, device="meta"), size=3, dtype=torch.float32)


def test_a_token_that_nothing_attends_to_is_no_padding():
    """Where probabilities underflow to 0, the user's mask says what is real."""
    row = next(row for row in TEXT if row.model_type == "mpnet")
    model, batch = row.make(), row.batch("right")
    with torch.no_grad():
        find_encoder(model).layers[0].attention.get_submodule("q").weight.mul_(1e6)
    layers = []
    forward = row.forward(model)
    record(lambda: forward(batch.inputs, *batch.extra), find_encoder(model), layers.append)
    real = batch.extra[0].bool()
    assert ((layers[0].attention.probabilities.sum(dim=(1, 2)) == 0) & real).any()
    assert all(torch.equal(layer.real, real) for layer in layers)
