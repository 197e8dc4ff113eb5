"""Explanations of images and sounds from files equal plain calls of the methods."""

import base64
import io
import json
import re
import wave

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    CLIPConfig,
    CLIPForImageClassification,
    CLIPImageProcessor,
    SeamlessM4TFeatureExtractor,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertForSequenceClassification,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
)

from captum_globenc import EncoderForward, Explanation, Explanations, GlobEnc, TransformerDeepLift
from captum_globenc.media import explain_file, load_media_model, read_image, read_sound
from captum_globenc.media.explaining import _time_axis
from captum_globenc.visualization import draw_media
from models import randomize

SIZES = {"hidden_size": 24, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 32}
NAMES = {"id2label": {0: "dog", 1: "cat", 2: "bird"}, "label2id": {"dog": 0, "cat": 1, "bird": 2}}
RATE = 16000
SIGNED = "transformer-deep-lift"


@pytest.fixture(scope="module")
def vision(tmp_path_factory):
    """The folder of a tiny image classifier, of patches of 8 pixels."""
    folder = tmp_path_factory.mktemp("vision")
    config = ViTConfig(image_size=32, patch_size=8, **SIZES, **NAMES)
    randomize(ViTForImageClassification(config)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def hearing(tmp_path_factory):
    """The folder of a tiny classifier of samples."""
    folder = tmp_path_factory.mktemp("hearing")
    config = Wav2Vec2Config(
        **SIZES, **NAMES, conv_dim=(16, 16), conv_kernel=(10, 3), conv_stride=(5, 2),
        num_feat_extract_layers=2, feat_extract_norm="layer", num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    randomize(Wav2Vec2ForSequenceClassification(config)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=RATE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "cat.png"
    pixels = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype="uint8")
    Image.fromarray(pixels).save(path)
    return path


def save_sound(path, samples, rate=RATE, width=2):
    """Write `(T, channels)` of whole numbers."""
    with wave.open(str(path), "wb") as sound:
        sound.setparams((samples.shape[1], width, rate, 0, "NONE", ""))
        sound.writeframes(samples.astype("u1" if width == 1 else f"<i{width}").tobytes())
    return path


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    samples = np.random.default_rng(1).integers(-9000, 9000, (1600, 1))
    return save_sound(tmp_path_factory.mktemp("files") / "a.wav", samples)


@pytest.mark.parametrize(("kind", "target"), [("image", None), ("image", "bird"), ("sound", None)])
def test_a_file_is_explained_through_its_processor(request, kind, target):
    path = request.getfixturevalue("picture" if kind == "image" else "sound")
    folder = request.getfixturevalue("vision" if kind == "image" else "hearing")
    model, processor, missing = load_media_model(str(folder), kind)
    model = model.double()
    found = explain_file(path, model, processor, target=target)
    if kind == "image":
        inputs = processor(Image.open(path), return_tensors="pt")["pixel_values"]
    else:
        with wave.open(str(path)) as file:
            samples = np.frombuffer(file.readframes(1600), "<i2") / 32768
        inputs = processor(samples.astype("float32"), sampling_rate=RATE, return_tensors="pt")["input_values"]
    inputs = inputs.double()
    with torch.no_grad():
        logits, base = (model(it).logits[0] for it in (inputs, torch.zeros_like(inputs)))
    best = int(logits.argmax())
    one = best if target is None else 2
    assert missing == ()
    assert (found.prediction, found.target) == (NAMES["id2label"][best], NAMES["id2label"][one])
    assert found.probability == pytest.approx(logits.softmax(-1)[best].item())
    forward = EncoderForward(model, argument_names=())
    expected = {
        "globenc": GlobEnc(forward).attribute(inputs)[0],
        SIGNED: TransformerDeepLift(forward).attribute(inputs, target=one)[0],
    }
    shown = dict(zip(found.tokens, found.scores[SIGNED], strict=True))
    assert sum(shown.values()) == pytest.approx((logits[one] - base[one]).item(), abs=1e-6)
    for name, scores in expected.items():
        if kind == "image":
            sums = scores.reshape(3, 4, 8, 4, 8).sum((0, 2, 4)).flatten()
        else:
            sums = scores.reshape(50, 32).sum(1)
        assert found.scores[name][: len(sums)] == pytest.approx(sums.tolist(), abs=1e-9)
    # GlobEnc's shares sum to 1, including the share of [CLS], which no pixel feeds.
    assert sum(found.scores["globenc"]) == pytest.approx(1)
    if kind == "image":
        assert found.tokens[6:8] + found.tokens[16:] == [
            "row 2, column 3",
            "row 2, column 4",
            "[of no square]",
        ]
        assert found.scores["globenc"][16] > 0.01
        assert found.scores[SIGNED][16] == 0
    else:
        assert [*shown][:2] + [*shown][49:] == [
            "0.000 s to 0.002 s",
            "0.002 s to 0.004 s",
            "0.098 s to 0.100 s",
        ]


def opened(found):
    kind, _, content = found.picture.source.partition(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert kind == f"data:image/{image.format.lower()}"
    return image


def test_the_picture_shows_the_pixels_before_normalization(vision, tmp_path):
    halves = np.zeros((32, 32, 3), dtype="uint8")
    halves[:, 16:] = (200, 100, 50)
    path = tmp_path / "halves.png"
    Image.fromarray(halves).save(path)
    model, processor, _ = load_media_model(str(vision), "image")
    found = explain_file(path, model, processor)
    assert (found.picture.widths, found.picture.heights) == ([8] * 4, [8] * 4)
    drawn = np.asarray(opened(found)).astype(int)
    assert drawn.shape == (32, 32, 3)
    assert np.abs(drawn - halves).mean() < 5  # JPEG


def test_the_waveform_has_the_range_of_the_samples(hearing, tmp_path):
    samples = np.zeros((1600, 1), dtype=int)
    samples[400] = 9000
    samples[800] = -4500
    model, processor, _ = load_media_model(str(hearing), "sound")
    processor.do_normalize = False
    found = explain_file(save_sound(tmp_path / "x.wav", samples), model, processor)
    assert (found.picture.widths, found.picture.heights) == ([32] * 50, [1])
    inked = np.asarray(opened(found))[..., 1] > 0
    assert inked.shape == (100, 800)
    tall = inked.sum(0)
    # From a line that is two pixels thick: 49 of the upper half, half of that of the lower one.
    assert (tall[200], tall[400]) == (2 + 49, 2 + 24)
    assert inked[:50, 200].all()
    assert inked[50:75, 400].all()
    assert set(np.delete(tall, [200, 400])) == {2}


def drawn(figure):
    """The scores of each method, as they lie on the picture."""
    return [np.asarray(it.get_array()) for ax in figure.axes for it in ax.collections]


def test_a_figure_of_a_saved_explanation_is_the_same(tmp_path, vision, picture):
    found = explain_file(picture, *load_media_model(str(vision), "image")[:2])
    found.save(tmp_path / "x.jsonl")
    (again,) = Explanations.load(tmp_path / "x.jsonl")
    assert again == found
    for row, one, other in zip(
        found.scores.values(), drawn(draw_media(found)), drawn(draw_media(again)), strict=True
    ):
        assert one.tolist() == other.tolist() == np.reshape(row[:16], (4, 4)).tolist()
    with pytest.raises(ValueError, match="the explanation of a text"):
        draw_media(Explanation(**{**vars(found), "picture": None}))


def test_pictures_of_other_parts_and_of_no_method(vision, picture):
    found = explain_file(picture, *load_media_model(str(vision), "image")[:2], methods=["globenc"])
    config = ViTConfig(image_size=48, patch_size=8, **SIZES)
    processor = ViTImageProcessor(size={"height": 48, "width": 48})
    larger = explain_file(picture, ViTForImageClassification(config).eval(), processor, methods=["globenc"])
    with pytest.raises(ValueError, match="have different parts: explain with parts of the same size"):
        _ = found - larger
    for ask in (found.sentences, lambda: found.spans([(0, 2)])):
        with pytest.raises(ValueError, match=r"the image .*cat.png has no characters: use words\(\) or top"):
            ask()
    assert len(draw_media(found.by()).axes) == 1


def test_sound_features_are_drawn_and_named_by_frames(sound):
    config = ASTConfig(
        patch_size=8, num_mel_bins=16, max_length=40, frequency_stride=8, time_stride=8, **SIZES
    )
    model = randomize(ASTForAudioClassification(config))
    found = explain_file(sound, model, ASTFeatureExtractor(num_mel_bins=16, max_length=40))
    assert (found.picture.widths, found.tokens[39]) == ([1] * 40, "frames 39 to 40")
    assert opened(found).size == (800, 100)
    assert [it.shape for it in drawn(draw_media(found))] == [(1, 40)] * len(found.scores)


def bert_of_sound(frames):
    """A Wav2Vec2-BERT of features `(frames, 160)`, its extractor, and a sound of so many frames."""
    config = Wav2Vec2BertConfig(conv_depthwise_kernel_size=3, classifier_proj_size=8, **SIZES)
    # The extractor puts two mel frames together, and adds one where their number is odd.
    return Wav2Vec2BertForSequenceClassification(config), SeamlessM4TFeatureExtractor(), 320 * frames + 80


def ast(frames):
    """An AST of features `(frames, 32)`."""
    config = ASTConfig(patch_size=8, num_mel_bins=32, max_length=frames, **SIZES)
    config.frequency_stride = config.time_stride = 8
    return ASTForAudioClassification(config), ASTFeatureExtractor(num_mel_bins=32, max_length=frames), 1600


def whisper(frames):
    """A Whisper of features `(128, frames)`."""
    config = WhisperConfig(
        d_model=24, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=32, classifier_proj_size=8,
        num_mel_bins=128, max_source_positions=frames // 2, pad_token_id=0,
    )  # fmt: skip
    extractor = WhisperFeatureExtractor(feature_size=128, hop_length=16000 // frames, chunk_length=1)
    return WhisperForAudioClassification(config), extractor, 1600


@pytest.mark.parametrize(
    ("make", "frames", "time"),
    [
        *((bert_of_sound, frames, 1) for frames in (24, 25, 160, 170)),
        *((ast, frames, 1) for frames in (16, 32, 48)),
        *((whisper, frames, 2) for frames in (100, 128, 160)),
    ],
)
def test_parts_of_sound_features_are_frames_however_few_there_are(tmp_path, make, frames, time):
    torch.manual_seed(0)
    model, extractor, samples = make(frames)
    model = randomize(model).double()
    noise = np.random.default_rng(2).integers(-9000, 9000, (samples, 1))
    path = save_sound(tmp_path / "a.wav", noise)
    found = explain_file(path, model, extractor, target=0)
    batch = extractor(read_sound(path, RATE), sampling_rate=RATE, return_tensors="pt")
    mask = batch.pop("attention_mask", None)
    ((name, features),) = batch.items()
    features = features.to(next(model.parameters()).dtype)
    assert features.shape[time] == frames

    def forward(features):
        return model(**{name: features}, **({} if mask is None else {"attention_mask": mask})).logits

    scores = TransformerDeepLift(forward, model).attribute(features, target=0)[0]
    scores = scores.sum(2 - time)
    width = -(-frames // 50)
    expected = [part.sum().item() for part in scores.split(width)]
    assert found.scores[SIGNED][: len(expected)] == pytest.approx(expected, abs=1e-9)
    assert (sum(found.picture.widths), found.tokens[0]) == (frames, f"frames 0 to {width}")
    assert found.tokens[len(expected) - 1].endswith(f" to {frames}")
    if "globenc" in found.scores:
        shares = GlobEnc(forward, model).attribute(features)[0].sum(2 - time)
        expected = [part.sum().item() for part in shares.split(width)]
        assert found.scores["globenc"][: len(expected)] == pytest.approx(expected, abs=1e-9)
    assert ("globenc" in found.scores) == (make is not bert_of_sound)


def test_the_time_axis_of_an_unknown_extractor_follows_from_the_number_of_bins():
    class Config:
        model_type, num_mel_bins = "mine", 8

    class Model:
        config = Config()

    assert _time_axis(torch.zeros(8, 3), Model(), object()) == 1
    assert _time_axis(torch.zeros(8, 30), Model(), object()) == 1
    assert _time_axis(torch.zeros(3, 8), Model(), object()) == 0
    assert _time_axis(torch.zeros(8, 8), Model(), type("Own", (WhisperFeatureExtractor,), {})()) == 1
    for shape in [(8, 8), (3, 5), (1, 8, 5)]:
        with pytest.raises(
            ValueError, match=r"time axis of .* of a object and a Model is unknown: .*Whisper"
        ):
            _time_axis(torch.zeros(shape), Model(), object())


@pytest.mark.parametrize("width", [1, 2, 4])
def test_channels_are_averaged_and_whole_numbers_scaled(tmp_path, width):
    top = 2 ** (8 * width - 1)
    offset = 128 if width == 1 else 0
    samples = np.array([[0, 0], [top // 2, 0], [-top, -top]]) + offset
    read = read_sound(save_sound(tmp_path / "x.wav", samples, width=width), RATE)
    assert read.tolist() == [0, 0.25, -1]


def test_invalid_image_and_sound_files_are_reported(tmp_path, vision, hearing):
    (tmp_path / "x.wav").write_bytes(b"RIFF")
    with pytest.raises(
        ValueError, match=r"x.wav is not a WAV .* \(PCM\): ffmpeg -i .*x.wav -ar 16000 OUT.wav"
    ):
        read_sound(tmp_path / "x.wav", RATE)
    with pytest.raises(ValueError, match="is not an image that Pillow reads"):
        read_image(tmp_path / "x.wav")
    save_sound(tmp_path / "y.wav", np.zeros((10, 1)), rate=8000)
    with pytest.raises(ValueError, match="has 8000 samples a second, and the model takes 16000"):
        read_sound(tmp_path / "y.wav", RATE)
    with pytest.raises(OSError, match="nowhere"):
        read_image(tmp_path / "nowhere.png")
    save_sound(tmp_path / "empty.wav", np.zeros((0, 1)))
    with pytest.raises(ValueError, match="has no samples"):
        read_sound(tmp_path / "empty.wav", RATE)
    with wave.open(str(tmp_path / "wide.wav"), "wb") as file:
        file.setparams((1, 3, RATE, 0, "NONE", ""))
        file.writeframes(bytes(30))
    with pytest.raises(ValueError, match="has samples of 3 bytes, not of 1, 2 or 4: ffmpeg"):
        read_sound(tmp_path / "wide.wav", RATE)
    for content in (np.ones((4, 4), "int32"), np.ones((4, 4), "float32")):
        Image.fromarray(content).save(tmp_path / "wide.tif")
        with pytest.raises(ValueError, match="has pixels of 32 bits"):
            read_image(tmp_path / "wide.tif")


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("cut", [1, 3, 500])
def test_an_incomplete_sound_is_an_error_unless_it_was_streamed(tmp_path, channels, cut):
    path = save_sound(tmp_path / "x.wav", np.arange(400 * channels).reshape(400, channels))
    whole, content = read_sound(path, RATE), path.read_bytes()
    path.write_bytes(content[:-cut])
    frames = 400 - -(-cut // (2 * channels))
    with pytest.raises(ValueError, match=rf"is incomplete: it has {frames} of 400 samples"):
        read_sound(path, RATE)
    assert content[36:40] == b"data"
    for size in (0xFFFFFFFF, 0x7FFFFFFF - 36):  # as ffmpeg and SoX write to a pipe
        path.write_bytes(content[:40] + size.to_bytes(4, "little") + content[44:-cut])
        assert read_sound(path, RATE).tolist() == whole[:frames].tolist()


def test_a_model_of_one_channel_reads_levels_of_gray(picture):
    config = ViTConfig(image_size=32, patch_size=8, num_channels=1, **SIZES)
    model = randomize(ViTForImageClassification(config)).double()
    options = {"image_mean": [0.5], "image_std": [0.5], "size": {"height": 32, "width": 32}}
    found = explain_file(picture, model, ViTImageProcessor(**options))
    levels = np.asarray(Image.open(picture).convert("L").resize((32, 32), Image.Resampling.BILINEAR))
    pixels = torch.tensor(levels[None, None] / 127.5 - 1)
    with torch.no_grad():
        difference = (model(pixels).logits - model(0 * pixels).logits)[0]
    target = int(model.config.label2id[found.target])
    assert sum(found.scores[SIGNED]) == pytest.approx(difference[target].item(), abs=1e-5)
    assert np.abs(np.asarray(opened(found)).astype(int) - levels).mean() < 5  # JPEG


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bits_a_pixel_become_8(tmp_path, ending):
    levels = np.arange(0, 65536, 64, dtype="uint16").reshape(32, 32)
    Image.fromarray(levels).save(tmp_path / f"x.{ending}")
    read = np.asarray(read_image(tmp_path / f"x.{ending}"))
    assert read.tolist() == np.repeat(levels[..., None] // 256, 3, axis=2).tolist()


@pytest.mark.parametrize("orientation", [1, 2, 3, 5, 6, 8])
def test_the_part_that_differs_from_the_baseline_is_the_part_of_the_picture(tmp_path, orientation):
    """The processor resizes and crops, and the file may be rotated."""
    crop = {"height": 32, "width": 32}
    processor = CLIPImageProcessor(size={"shortest_edge": 48}, crop_size=crop, image_mean=[128 / 255] * 3)
    model = randomize(ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, **SIZES))).double()
    pixels = np.full((96, 144, 3), 128, dtype="uint8")  # the baseline
    pixels[50:62, 58:70] = (255, 0, 0)  # row 3, column 2 of the crop at half the size
    turn = {2: 0, 3: 3, 5: 5, 6: 2, 8: 4}  # the inverse of the orientation
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = image if orientation == 1 else image.transpose(Image.Transpose(turn[orientation]))
    stored.save(tmp_path / "x.png", exif=exif)
    found = explain_file(tmp_path / "x.png", model, processor)
    ((name, _),) = found.top(1, SIGNED)
    assert name == "row 3, column 2"
    drawn = np.asarray(opened(found).convert("RGB")).astype(int).reshape(4, 8, 4, 8, 3).mean((1, 3))
    assert (drawn[..., 0] - drawn[..., 1]).argmax() == found.tokens.index(name)


@pytest.mark.parametrize("kind", ["nested", "height and width"])
def test_the_squares_are_the_patches_of_the_model(kind, picture):
    if kind == "nested":
        sizes = {**SIZES, "image_size": 42, "patch_size": 14}
        model = CLIPForImageClassification(CLIPConfig(vision_config=sizes, text_config=dict(SIZES)))
        side, widths, heights = 42, [14] * 3, [14] * 3
    else:
        model = ViTForImageClassification(ViTConfig(image_size=32, patch_size=(8, 4), **SIZES))
        side, widths, heights = 32, [4] * 8, [8] * 4
    model, processor = randomize(model).double(), ViTImageProcessor(size={"height": side, "width": side})
    found = explain_file(picture, model, processor)
    assert (found.picture.widths, found.picture.heights) == (widths, heights)
    # GlobEnc's scores are constant in a patch.
    pixels = processor(read_image(picture), return_tensors="pt")["pixel_values"].double()
    scores = GlobEnc(EncoderForward(model, ())).attribute(pixels)[0]
    corners = scores[0, :: heights[0], :: widths[0]] * (3 * heights[0] * widths[0])
    assert found.scores["globenc"][: found.picture.count] == pytest.approx(corners.flatten().tolist())


@pytest.mark.parametrize(("make", "frames", "limit"), [("ast", 48, 8000), ("whisper", 100, 12500)])
def test_a_sound_that_is_longer_than_the_model_reads_is_marked_as_truncated(tmp_path, make, frames, limit):
    model, extractor, _ = globals()[make](frames)
    model = randomize(model)
    for samples, truncated in ((limit - 400, False), (2 * limit, True)):
        notices = []
        noise = np.random.default_rng(2).integers(-9000, 9000, (samples, 1))
        noise[-800:] = 0  # silence at the end is read too
        path = save_sound(tmp_path / "a.wav", noise)
        found = explain_file(path, model, extractor, tell=notices.append)
        assert found.truncated == truncated
        assert found.headline.endswith(", sound truncated") == truncated
        told = [f"{path} is longer than the model reads: its end is not explained"] * truncated
        assert notices == told


def test_a_processor_may_contain_a_feature_extractor(hearing, sound):
    model, extractor, _ = load_media_model(str(hearing), "sound")
    both = type("Processor", (), {"feature_extractor": extractor, "tokenizer": None})()
    assert explain_file(sound, model, both) == explain_file(sound, model, extractor)


def test_what_cannot_be_explained_is_an_error_that_names_it(vision, hearing, picture, tmp_path, monkeypatch):
    model, processor, _ = load_media_model(str(vision), "image")
    for given in (np.zeros((32, 32, 3)), Image.new("RGB", (32, 32)), [picture], b"x.png"):
        with pytest.raises(TypeError, match=f"path is a {type(given).__name__}: pass the name of one"):
            explain_file(given, model, processor)
    with pytest.raises(TypeError, match="processor is None: pass the image processor or feature extractor"):
        explain_file(picture, model, None)
    with pytest.raises(ValueError, match="methods is 'globenc': pass a list"):
        explain_file(picture, model, processor, methods="globenc")
    with pytest.raises(ValueError, match=r"cannot classify .*cat.png, 60 x 50 pixels: .*48\*48"):
        explain_file(picture, model, ViTImageProcessor(size={"height": 48, "width": 48}))
    with torch.no_grad():
        model.classifier.bias.fill_(torch.nan)
    with pytest.raises(ValueError, match="logits of the model for .* contain NaN"):
        explain_file(picture, model, processor)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"cat.png is too large: Image size \(3000 pixels\)"):
        read_image(picture)
    listener, extractor, _ = load_media_model(str(hearing), "sound")
    with pytest.raises(ValueError, match=r"cannot classify .*short.wav, 5 samples: .*[Kk]ernel"):
        explain_file(save_sound(tmp_path / "short.wav", np.ones((5, 1))), listener, extractor)


@pytest.mark.parametrize(
    ("options", "gray"),
    [({}, 200), ({"do_rescale": False, "do_normalize": False}, None), ({"do_normalize": False}, 200)],
)
def test_the_picture_of_a_uniform_image_has_its_color(vision, tmp_path, options, gray):
    Image.new("RGB", (40, 40), (200, 200, 200)).save(tmp_path / "x.png")
    model, processor, _ = load_media_model(str(vision), "image")
    for name, value in options.items():
        setattr(processor, name, value)
    drawn = np.asarray(opened(explain_file(tmp_path / "x.png", model, processor)))
    assert set(drawn.flatten().tolist()) <= ({gray - 1, gray, gray + 1} if gray else {0})


def test_the_command_line_explains_files(run, tmp_path, vision, hearing, picture, sound):
    for option, path, folder in (("--image", picture, vision), ("--audio", sound, hearing)):
        kind = "image" if option == "--image" else "sound"
        drawn, saved, page = (tmp_path / f"{kind}.{it}" for it in ("png", "jsonl.gz", "html"))
        command = ("explain", option, path, "--model", folder)
        out, err = run(*command, "--picture", drawn, "--save", saved, "--html", page)
        found = explain_file(path, *load_media_model(str(folder), kind)[:2])
        lines = out.splitlines()
        assert err.splitlines() == [f"wrote {it}" for it in (drawn, saved, page)]
        assert lines[0] == f"{path}: {found.headline}"
        part = "square" if kind == "image" else "stretch"
        assert f"globenc · share of each {part} in the representation that the head reads" in lines
        strongest = [line for line in lines if re.match(r"  (row|\d)", line) and "other" not in line]
        assert [re.split(" {2,}", line)[1] for line in strongest] == [name for name, _ in found.top(10)]
        assert Image.open(drawn).size > (200, 200)
        assert Explanations.load(saved) == Explanations([found])
        # Saved explanations are shown again without their model, as for texts.
        assert run("show", saved) == (out, "")
        again = tmp_path / "again.html"
        run("show", saved, "--html", again)
        assert again.read_bytes() == page.read_bytes() == found.to_html().encode()
        out, _ = run(*command, "--json", "--method", "globenc")
        assert Explanation.from_dict(json.loads(out)) == found.by("globenc")


def test_options_that_do_not_apply_to_files_are_reported(run, failing, tmp_path, vision, picture, sound):
    assert "pass an image classifier as --model" in failing("explain", "--image", picture)
    assert "--image and --audio accept only" in failing("explain", "a text", "--image", picture)
    assert "--image and --audio accept only" in failing("explain", "--image", picture, "--baseline", "pad")
    assert "no such folder" in failing("explain", "--audio", sound, "--model", tmp_path / "none")
    asked = ("explain", "--image", picture, "--model", vision)
    out, _ = run(*asked, "--json", "--method", f"{SIGNED},globenc")
    assert list(json.loads(out)["scores"]) == [SIGNED, "globenc"]
    assert run(*asked, "--method", "list")[0].split() == ["globenc", SIGNED]
    assert "Format 'xyz' is not supported" in run(*asked, "--picture", tmp_path / "a.xyz", status=2)[1]
    run(*asked, "--picture", tmp_path / "drawn")  # PNG, in the file of that name
    assert Image.open(tmp_path / "drawn").format == "PNG"
    for options in (["--mixing", "W"], ["--layers"], ["--position", 1], ["--windows", 4]):
        assert "--image and --audio accept only" in failing(*asked, *options)
    nowhere = (*asked[:-1], tmp_path / "none")
    assert "no method decompx; known: globenc" in failing(*nowhere, "--method", "decompx")
