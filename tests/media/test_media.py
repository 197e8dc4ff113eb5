"""Images and sounds from files are explained as plain calls of the methods explain what a model takes."""

import json
import wave

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
)

from captum_globenc import EncoderForward, GlobEnc, TransformerDeepLift
from captum_globenc.media import explain_file, load_media_model, read_image, read_sound
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
def test_a_file_is_explained_as_what_its_processor_makes_of_it(request, kind, target):
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
    assert torch.equal(found.inputs, inputs)
    assert (found.prediction, found.target) == (NAMES["id2label"][best], NAMES["id2label"][one])
    assert found.probability == pytest.approx(logits.softmax(-1)[best].item())
    forward = EncoderForward(model, argument_names=())
    torch.testing.assert_close(found.scores["globenc"], GlobEnc(forward).attribute(inputs))
    expected = TransformerDeepLift(forward).attribute(inputs, target=one)
    torch.testing.assert_close(found.scores[SIGNED], expected)
    parts = found.parts(SIGNED)
    assert sum(score for _, score in parts) == pytest.approx((logits[one] - base[one]).item(), abs=1e-6)
    if kind == "image":
        assert len(parts) == 16
        square = expected[0, :, 8:16, 24:32].sum().item()
        assert dict(parts)["row 2, column 4"] == pytest.approx(square, abs=1e-5)
    else:
        assert [name for name, _ in parts][:2] == ["0.000 s to 0.002 s", "0.002 s to 0.004 s"]
        assert parts[1][1] == pytest.approx(expected[0, 32:64].sum().item(), abs=1e-5)
    assert len(draw_media(found).axes) >= 3


def test_features_of_a_sound_are_drawn_and_told_by_frames(sound):
    config = ASTConfig(
        patch_size=8, num_mel_bins=16, max_length=40, frequency_stride=8, time_stride=8, **SIZES
    )
    model = randomize(ASTForAudioClassification(config))
    found = explain_file(sound, model, ASTFeatureExtractor(num_mel_bins=16, max_length=40))
    assert found.inputs.shape == (1, 40, 16)
    assert found.parts("globenc")[-1][0] == "frames 39 to 40"
    assert len(draw_media(found).axes) == 3


@pytest.mark.parametrize("width", [1, 2, 4])
def test_channels_are_averaged_and_whole_numbers_scaled(tmp_path, width):
    top = 2 ** (8 * width - 1)
    offset = 128 if width == 1 else 0
    samples = np.array([[0, 0], [top // 2, 0], [-top, -top]]) + offset
    read = read_sound(save_sound(tmp_path / "x.wav", samples, width=width), RATE)
    assert read.tolist() == [0, 0.25, -1]


def test_what_is_no_image_or_sound_is_told(tmp_path, vision, hearing):
    (tmp_path / "x.wav").write_bytes(b"RIFF")
    with pytest.raises(
        ValueError, match=r"is no WAV file of whole numbers \(PCM\): ffmpeg -i FILE -ar 16000"
    ):
        read_sound(tmp_path / "x.wav", RATE)
    with pytest.raises(ValueError, match="is no image that Pillow reads"):
        read_image(tmp_path / "x.wav")
    save_sound(tmp_path / "y.wav", np.zeros((10, 1)), rate=8000)
    with pytest.raises(ValueError, match="has 8000 samples a second, and the model takes 16000"):
        read_sound(tmp_path / "y.wav", RATE)
    with pytest.raises(OSError, match="nowhere"):
        read_image(tmp_path / "nowhere.png")


def test_the_command_line_explains_files(run, failing, tmp_path, vision, hearing, picture, sound):
    for option, path, folder in (("--image", picture, vision), ("--audio", sound, hearing)):
        drawn = tmp_path / f"{option}.png"
        out, err = run("explain", option, path, "--model", folder, "--picture", drawn)
        found = explain_file(
            path, *load_media_model(str(folder), "image" if option == "--image" else "sound")[:2]
        )
        lines = out.splitlines()
        assert err == ""
        assert lines[0] == f"{path}: {found.headline}"
        name, score = found.top(1)[0]
        assert lines[2].startswith(f"{SIGNED} \N{MIDDLE DOT} {name} {score:+.3f}, ")
        assert Image.open(drawn).size > (200, 200)
        out, _ = run("explain", option, path, "--model", folder, "--json", "--method", "globenc")
        assert json.loads(out)["scores"] == {
            "globenc": pytest.approx([score for _, score in found.parts("globenc")])
        }
    assert "give a --model of images" in failing("explain", "--image", picture)
    assert "--image and --audio go with" in failing("explain", "a text", "--image", picture)
    assert "no such folder" in failing("explain", "--audio", sound, "--model", tmp_path / "none")
    asked = ("explain", "--image", picture, "--model", vision)
    out, _ = run(*asked, "--json", "--method", f"{SIGNED},globenc")
    assert list(json.loads(out)["scores"]) == [SIGNED, "globenc"]
    assert run(*asked, "--method", "list")[0].split() == ["globenc", SIGNED]
    assert "Format 'xyz' is not supported" in run(*asked, "--picture", tmp_path / "a.xyz", status=2)[1]
    for options in (["--mixing", "W"], ["--baseline", "pad"], ["--top", 1], ["--tokens"], ["--no-special"]):
        assert "--image and --audio go with" in failing(*asked, *options)
    nowhere = (*asked[:-1], tmp_path / "none")
    assert "no method decompx; known: globenc" in failing(*nowhere, "--method", "decompx")
