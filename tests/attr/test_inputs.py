"""Pixels and sound: scores of inputs that are not token ids, and the tokens that heads read."""

import doctest
from pathlib import Path

import matplotlib as mpl
import pytest
import torch
import transformers as hf
from captum.attr import NoiseTunnel
from captum.attr import visualization as viz
from captum.metrics import infidelity

from captum_globenc import DecompX, EncoderForward, GlobEnc
from captum_globenc.encoders import find_encoder
from captum_globenc.recording.recorder import record
from families import AUDIO, BERT, CLIP_TEXT, FAMILIES, SQUARE, VISION, noise, scramble, sounds

mpl.use("Agg")

FAMILY = {family.label: family for family in (*VISION, *AUDIO)}
IDS = torch.tensor([[5, 9, 7, 3, 8], [5, 3, 1, 1, 1], [11, 12, 8, 9, 3]])
"""Texts that end with 3."""


def single(position):
    """One token, counted from the end where negative."""
    return lambda real: torch.nn.functional.one_hot(
        torch.full((len(real),), position) % real.shape[1], real.shape[1]
    )


def mean(first=0):
    """The average of the real tokens from `first` on."""
    return lambda real: (real & (torch.arange(real.shape[1]) >= first)).double().where(real, 0)


def both(one, other):
    """Half of one, half of the other."""
    return lambda real: share(one(real)) + share(other(real))


def share(weights):
    return weights / weights.sum(1, keepdim=True).double()


def clip_images(kind, config):
    """A model around the vision encoder of CLIP or SigLIP."""
    torch.manual_seed(0)
    text = {**CLIP_TEXT, "num_hidden_layers": 1}
    config = config(vision_config={**SQUARE, "num_hidden_layers": 2}, text_config=text, num_labels=3)
    return scramble(kind(config).double().eval())


def projected(kind, config, sizes):
    torch.manual_seed(0)
    return scramble(kind(config(**{**sizes, "num_hidden_layers": 2})).double().eval())


def classifier(label, kind=None, **settings):
    family = FAMILY[label]
    return family.make(kind=kind or family.classifier, num_labels=3, **settings)


SQUARES = noise(2, 12, 12)("none")
HEADS = {
    "vit": (lambda: classifier("vit"), None, "logits", single(0)),
    "deit": (lambda: classifier("deit"), None, "logits", single(0)),
    "deit, distilled": (
        lambda: classifier("deit", hf.DeiTForImageClassificationWithTeacher),
        noise(2, 8, 12)("none"),
        "logits",
        both(single(0), single(1)),
    ),
    "beit": (lambda: classifier("beit"), None, "logits", mean(1)),
    "beit, class token": (lambda: classifier("beit, class token"), None, "logits", single(0)),
    "dinov2": (lambda: classifier("dinov2"), None, "logits", both(single(0), mean(1))),
    "dinov2, bare": (lambda: FAMILY["dinov2"].make(), SQUARES, "pooler_output", single(0)),
    "dinov2_with_registers": (
        lambda: classifier("dinov2_with_registers"),
        None,
        "logits",
        both(single(0), mean(3)),
    ),
    "clip, projected": (
        lambda: projected(hf.CLIPVisionModelWithProjection, hf.CLIPVisionConfig, SQUARE),
        SQUARES,
        "image_embeds",
        single(0),
    ),
    "clip, classifier": (
        lambda: clip_images(hf.CLIPForImageClassification, hf.CLIPConfig),
        SQUARES,
        "logits",
        mean(1),
    ),
    "siglip, classifier": (
        lambda: clip_images(hf.SiglipForImageClassification, hf.SiglipConfig),
        SQUARES,
        "logits",
        mean(),
    ),
    "siglip, text": (lambda: FAMILY["siglip_text_model"].make(), IDS, "pooler_output", single(-1)),
    "wav2vec2": (lambda: classifier("wav2vec2"), None, "logits", mean()),
    "wav2vec2, pre-LN with adapters": (
        lambda: classifier("wav2vec2, pre-LN with adapters"),
        None,
        "logits",
        mean(),
    ),
    "hubert": (lambda: classifier("hubert"), None, "logits", mean()),
    "hubert, pre-LN": (lambda: classifier("hubert, pre-LN"), None, "logits", mean()),
    "whisper": (lambda: classifier("whisper"), None, "logits", mean()),
    "audio-spectrogram-transformer": (
        lambda: classifier("audio-spectrogram-transformer"),
        None,
        "logits",
        both(single(0), single(1)),
    ),
}


def perturbed(forward, encoder, inputs, extra, token):
    """What the model answers when one row of the last layer is another."""
    size = encoder.stack.config.hidden_size
    other = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(5))

    def change(module, args, output):
        output = output.clone()
        output[:, token] += other
        return output

    handle = encoder.layers[-1].module.register_forward_hook(change)
    try:
        with torch.no_grad():
            return forward(inputs, *extra)
    finally:
        handle.remove()


def reads(forward, encoder, inputs, extra, tokens):
    """Which rows of the last layer the answer depends on, `(B, N)`."""
    with torch.no_grad():
        answer = forward(inputs, *extra)
    changed = [
        (perturbed(forward, encoder, inputs, extra, token) - answer).abs().flatten(1).amax(1) > 1e-9
        for token in range(tokens)
    ]
    return torch.stack(changed, dim=1)


def rolled_out(globenc, inputs, extra, weights):
    """The raw scores of the average of last-layer rows with these weights, from the plain product."""
    mixtures = globenc.mixing_matrices(inputs, extra)
    rows = share(weights)[:, None]
    for mixture in reversed(mixtures.unbind(1)):
        rows = rows @ mixture
    return rows[:, 0]


@pytest.mark.parametrize("name", HEADS)
def test_the_default_position_is_the_token_that_the_head_reads(name):
    make, batch, output, weights = HEADS[name]
    model = make()
    batch = FAMILY[name].batch("right") if batch is None else batch
    inputs, extra = (batch, (None,)) if isinstance(batch, torch.Tensor) else (batch.inputs, batch.extra)
    forward = EncoderForward(model, ("attention_mask",), output)
    globenc, encoder = GlobEnc(forward), find_encoder(model)
    scores = globenc.attribute_layers(inputs, additional_forward_args=extra, normalize=False)[:, -1]
    tokens = scores.shape[1]
    real = getattr(batch, "real", None)
    expected = weights(torch.ones(len(inputs), tokens).bool() if real is None else real)
    assert torch.equal(reads(forward, encoder, inputs, extra, tokens), expected > 0)
    torch.testing.assert_close(scores, rolled_out(globenc, inputs, extra, expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("eos", [3, 2])
def test_clip_reads_the_end_of_each_text(eos):
    # A config that says 2 is an old one: the end token is then the one with the largest id.
    family = FAMILY["clip_text_model"]
    model = family.make(kind=hf.CLIPTextModelWithProjection, eos_token_id=eos)
    ids = IDS if eos == 3 else IDS.where(IDS != 3, 50)
    forward = EncoderForward(model, ("attention_mask",), "text_embeds")
    ends = torch.tensor([3, 1, 4])
    read = reads(forward, find_encoder(model), ids, (), 5)
    assert torch.equal(read, torch.nn.functional.one_hot(ends, 5).bool())
    found = GlobEnc(forward).attribute(ids)
    assert torch.equal(found, GlobEnc(forward).attribute(ids, position=ends))
    later = torch.arange(5) > ends[:, None]
    assert (found[later] == 0).all()


NO_POSITION = {
    "siglip, attention pooling": (lambda: FAMILY["siglip_vision_model"].make(), SQUARES, ()),
    "vit, masked images": (
        lambda: FAMILY["vit"].make(kind=hf.ViTForMaskedImageModeling, image_size=12),
        SQUARES,
        (),
    ),
    "wav2vec2, sum of layers": (
        lambda: classifier("wav2vec2", use_weighted_layer_sum=True),
        sounds("right"),
        (),
    ),
    "wav2vec2, letters": (
        lambda: FAMILY["wav2vec2"].make(kind=hf.Wav2Vec2ForCTC),
        sounds("right"),
        (),
    ),
    "whisper, transcript": (
        lambda: FAMILY["whisper"].make(kind=hf.WhisperForConditionalGeneration),
        noise(5, 18)("none"),
        (torch.tensor([[2, 7]] * 3),),
    ),
}


@pytest.mark.parametrize("name", NO_POSITION)
def test_a_head_that_reads_no_average_of_tokens_asks_for_a_position(name):
    make, batch, extra = NO_POSITION[name]
    model = make()

    def forward(inputs, *decoder_ids):
        return model(inputs, **({"decoder_input_ids": decoder_ids[0]} if decoder_ids else {}))[0]

    globenc = GlobEnc(forward, model)
    with pytest.raises(ValueError, match="position"):
        globenc.attribute(batch.inputs, additional_forward_args=extra or None)
    scores = globenc.attribute(batch.inputs, additional_forward_args=extra or None, position="mean")
    assert scores.shape == batch.inputs.shape


def test_an_encoder_inside_another_family_asks_for_a_position():
    vision = FAMILY["vit"].make()
    text = hf.BertConfig(**BERT, num_hidden_layers=1, is_decoder=True, add_cross_attention=True)
    model = hf.VisionEncoderDecoderModel(encoder=vision, decoder=hf.BertLMHeadModel(text)).double().eval()
    globenc = GlobEnc(lambda image: model(image, decoder_input_ids=torch.tensor([[2]] * 3)).logits, model)
    with pytest.raises(ValueError, match="unknown which tokens of VisionEncoderDecoderModel"):
        globenc.attribute(noise(2, 8, 12)("none").inputs)


@pytest.mark.parametrize("family", ["whisper", "bart", "t5"])
def test_positions_of_a_decoder_are_not_taken_for_positions_of_the_encoder(family):
    row = next(row for row in FAMILIES if row.model_type == family)
    kind = {
        "whisper": hf.WhisperForConditionalGeneration,
        "bart": hf.BartForConditionalGeneration,
        "t5": hf.T5ForConditionalGeneration,
    }[family]
    model, batch = row.make(kind=kind, decoder_start_token_id=2), row.batch("right")
    tokens = 9 if family == "whisper" else 11
    globenc, decoder = GlobEnc(EncoderForward(model, ("decoder_input_ids",))), torch.full((3, tokens), 2)
    with pytest.raises(ValueError, match="position"):
        globenc.attribute(batch.inputs, target=(4, 7), additional_forward_args=(decoder,))


def test_letters_of_speech_are_explained_by_their_target():
    model = FAMILY["wav2vec2"].make(kind=hf.Wav2Vec2ForCTC)
    batch, globenc = sounds("right"), GlobEnc(EncoderForward(model, ("attention_mask",)))
    found = globenc.attribute(batch.inputs, target=(2, 7), additional_forward_args=batch.extra)
    expected = globenc.attribute(batch.inputs, additional_forward_args=batch.extra, position=2)
    assert torch.equal(found, expected)


SENSORY = [family for family in (*VISION, *AUDIO) if not family.model_type.endswith("text_model")]


def first_tokens(family, model, inputs, extra):
    """The tokens `(B, N, D)` as they are before any of them sees another."""
    found = []
    module = getattr(model, "feature_projection", find_encoder(model).layers[0].module)
    handle = module.register_forward_pre_hook(lambda module, args: found.append(args[0]))
    family.forward(model)(inputs, *extra)
    handle.remove()
    return found[0]


@pytest.mark.parametrize("family", SENSORY, ids=lambda family: family.label)
def test_a_token_scores_elements_that_feed_it_and_all_that_do_are_scored(family):
    model, batch = family.make(1), family.batch("right")
    inputs = batch.inputs[:1].clone().requires_grad_()
    tokens = first_tokens(family, model, inputs, ())
    globenc = GlobEnc(family.forward(model))
    seen = torch.zeros_like(inputs[0], dtype=torch.bool)
    layers = globenc.attribute_layers(inputs, position="mean")[0, -1]
    scores = globenc.attribute(inputs, position="mean")[0]
    special = find_encoder(model).grid.special
    for token in range(tokens.shape[1]):
        (gradient,) = torch.autograd.grad(tokens[0, token].square().sum(), inputs, retain_graph=True)
        fed = gradient[0] != 0
        assert bool(fed.any()) == (token >= special)
        if bool(fed.any()):
            # What it scores lies in what feeds it, together with what its neighbours score there.
            assert scores[fed].sum() >= layers[token] * (1 - 1e-12)
        seen |= fed
    assert torch.equal(scores != 0, seen)
    torch.testing.assert_close(scores.sum(), layers[special:].sum(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("family", SENSORY, ids=lambda family: family.label)
def test_scores_keep_the_shape_of_inputs_and_the_share_of_special_tokens(family):
    model, batch = family.make(), family.batch("right")
    globenc = GlobEnc(family.forward(model))
    (scores,) = globenc.attribute((batch.inputs,), additional_forward_args=batch.extra, position=0)
    assert scores.shape == batch.inputs.shape
    assert scores.is_contiguous()
    assert scores.dtype == torch.float64
    tokens = globenc.attribute_layers(batch.inputs, additional_forward_args=batch.extra, position=0)[:, -1]
    special = tokens[:, : find_encoder(model).grid.special].sum(1)
    torch.testing.assert_close(tokens.sum(1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(scores.flatten(1).sum(1), 1 - special)


def vit(**settings):
    return classifier("vit", **{"image_size": 12, **settings})


def image_forward(model):
    return EncoderForward(model, ("interpolate_pos_encoding",))


@pytest.mark.parametrize(("height", "width"), [(8, 16), (13, 19), (4, 27)])
def test_a_patch_sums_to_its_token_on_images_of_any_size(height, width):
    images = noise(2, height, width)("none").inputs
    globenc = GlobEnc(image_forward(vit()))
    scores = globenc.attribute(images, target=1, additional_forward_args=(True,))
    tokens = globenc.attribute_layers(images, target=1, additional_forward_args=(True,))[:, -1, 1:]
    patches = scores.unfold(2, 4, 4).unfold(3, 4, 4).sum((1, 4, 5)).flatten(1)
    torch.testing.assert_close(patches, tokens)
    assert (scores[:, :, height // 4 * 4 :] == 0).all()
    assert (scores[:, :, :, width // 4 * 4 :] == 0).all()


def test_patches_need_not_be_square():
    model = vit(patch_size=(3, 4))
    images = noise(2, 12, 12)("none").inputs
    globenc = GlobEnc(EncoderForward(model))
    tokens = globenc.attribute_layers(images)[:, -1, 1:]
    patches = globenc.attribute(images).unfold(2, 3, 3).unfold(3, 4, 4).sum((1, 4, 5)).flatten(1)
    torch.testing.assert_close(patches, tokens)


def test_whisper_scores_two_frames_for_each_token():
    model, batch = classifier("whisper"), noise(5, 18)("none")
    globenc = GlobEnc(EncoderForward(model))
    scores = globenc.attribute(batch.inputs)
    tokens = globenc.attribute_layers(batch.inputs)[:, -1]
    torch.testing.assert_close(scores.unfold(2, 2, 2).sum((1, 3)), tokens)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("method", [GlobEnc, DecompX])
@pytest.mark.parametrize("label", ["wav2vec2", "wav2vec2, pre-LN with adapters", "hubert", "hubert, pre-LN"])
def test_sound_in_a_batch_is_scored_as_it_is_alone(label, method, attention):
    batch, model = sounds("right"), classifier(label)
    model.set_attn_implementation(attention)
    explainer = method(EncoderForward(model, ("attention_mask",)))
    scores = explainer.attribute(batch.inputs, target=0, additional_forward_args=batch.extra)
    for together, (alone, extra) in zip(scores, batch.singles, strict=True):
        length = alone.shape[1]
        assert (together[length:] == 0).all()
        expected = explainer.attribute(alone, target=0, additional_forward_args=extra)[0]
        torch.testing.assert_close(together[:length], expected, rtol=1e-10, atol=1e-13)


def test_resized_inputs_are_rejected():
    model = vit()
    half = torch.nn.functional.avg_pool2d
    with pytest.raises(ValueError, match="Pass the encoder.s inputs"):
        GlobEnc(lambda images: model(half(images, 2)).logits, model).attribute(
            noise(2, 24, 24)("none").inputs
        )


def test_two_encoders_in_one_model_are_explained_one_at_a_time():
    clip = clip_images(hf.CLIPModel, hf.CLIPConfig)
    with pytest.raises(ValueError, match=r"more than one encoder: .*CLIPTextModel.*CLIPVisionModel"):
        GlobEnc(clip)
    images = SQUARES.inputs
    scores = GlobEnc(
        lambda images: clip(input_ids=IDS, pixel_values=images).logits_per_image, clip.vision_model
    ).attribute(images, target=0, position=0)
    alone = GlobEnc(lambda images: clip.vision_model(images).pooler_output, clip.vision_model)
    torch.testing.assert_close(scores, alone.attribute(images, position=0))


def last_layer(model, images):
    """The record of the last layer."""
    layers = []
    record(lambda: model(images), find_encoder(model), layers.append)
    return layers[-1]


@pytest.mark.parametrize("label", ["beit", "clip_vision_model"])
def test_a_norm_of_pooled_tokens_has_one_deviation(label):
    family = FAMILY[label]
    model, images = family.make(), family.batch("none").inputs
    norm, seen = find_encoder(model).final_norm, []
    handle = norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    (reading,) = last_layer(model, images).after_layer
    handle.remove()
    (pooled,) = seen
    assert pooled.shape == (3, 12)
    expected = (pooled.var(1, unbiased=False) + norm.eps).rsqrt()[:, None].expand_as(reading.scale)
    torch.testing.assert_close(reading.scale, expected, rtol=1e-12, atol=0)


def test_a_head_that_passes_the_norm_by_reads_the_last_layer_without():
    model = clip_images(hf.CLIPForImageClassification, hf.CLIPConfig)
    assert last_layer(model, SQUARES.inputs).after_layer == ()


@pytest.mark.parametrize("label", ["beit", "beit, class token"])
def test_a_head_with_a_norm_of_its_own_reads_the_last_layer_through_the_first_norm(label):
    family = FAMILY[label]
    model, images = family.make(kind=hf.BeitForMaskedImageModeling), family.batch("none").inputs
    norm = model.layernorm if label == "beit" else model.beit.layernorm
    calls = []
    handle = norm.register_forward_hook(lambda module, *call: calls.append((call[0][0], call[1])))
    (reading,) = last_layer(model, images).after_layer
    handle.remove()
    GlobEnc(EncoderForward(model, ())).attribute(images, position=1)
    ((given, output),) = calls
    linear = reading.linear(given) * reading.scale[:, :, None] + norm.bias
    torch.testing.assert_close(linear, output, rtol=1e-10, atol=1e-12)


def test_forward_arguments_are_found_by_the_name_of_the_main_input():
    for label, name in (("vit", "pixel_values"), ("wav2vec2", "input_values"), ("whisper", "input_features")):
        model, batch = classifier(label), FAMILY[label].batch("right")
        forward = EncoderForward(model)
        inputs, extra = forward.arguments({name: batch.inputs, "labels": None})
        assert inputs is batch.inputs
        assert extra == (None, None)
        assert GlobEnc(forward).attribute(inputs, additional_forward_args=extra).shape == inputs.shape


def test_ids_given_as_floats_are_rejected():
    forward = EncoderForward(FAMILY["clip_text_model"].make(), output="pooler_output")
    with pytest.raises(TypeError, match="token ids must be integers"):
        GlobEnc(forward).attribute(IDS.double())


def test_captum_draws_the_scores_of_an_image():
    images = noise(3, 12, 12)("none").inputs
    scores = GlobEnc(EncoderForward(vit(num_channels=3))).attribute(images, target=1)
    picture = torch.sigmoid(images[0]).permute(1, 2, 0).numpy()
    heat = scores[0].permute(1, 2, 0).numpy()
    for method in ("heat_map", "blended_heat_map"):
        figure, axis = viz.visualize_image_attr(heat, picture, method, sign="positive", use_pyplot=False)
        figure.canvas.draw()
        drawn = axis.get_images()[-1].get_array()
        assert drawn.shape == (12, 12)
        # One colour for each patch, not one for all.
        assert all(len(set(drawn[row : row + 4, :4].ravel().tolist())) == 1 for row in (0, 4, 8))
        assert len(set(drawn.ravel().tolist())) > 3


def test_noise_tunnel_over_pixels_averages_the_scores_of_noisy_images():
    forward, noisy = EncoderForward(vit()), []
    globenc = GlobEnc(forward)
    handle = forward.register_forward_pre_hook(lambda module, args: noisy.append(args[0]))
    found = NoiseTunnel(globenc).attribute(SQUARES.inputs, nt_samples=4, stdevs=0.1, target=1)
    handle.remove()
    images = torch.cat(noisy)
    assert (images[0] != images[1]).all()
    expected = globenc.attribute(images, target=1).unflatten(0, (3, 4)).mean(1)
    torch.testing.assert_close(found, expected)


def test_infidelity_over_pixels_takes_the_scores():
    images = SQUARES.inputs
    forward = EncoderForward(vit())

    def perturb(inputs):
        change = 0.01 * torch.randn_like(inputs)
        return change, inputs - change

    scores = GlobEnc(forward).attribute(images, target=1)
    value = infidelity(forward, perturb, images, scores, target=1, n_perturb_samples=3)
    assert value.shape == (3,)
    assert bool((value > 0).all())


def test_the_page_on_inputs_is_right():
    page = Path(__file__).parents[2] / "docs" / "inputs.md"
    failed, tried = doctest.testfile(str(page), module_relative=False)
    assert tried > 0
    assert failed == 0
