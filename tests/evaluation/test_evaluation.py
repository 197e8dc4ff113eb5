"""Evaluations: measured values, resumed runs, and rejected arguments."""

import csv
import io
import json
import math
import re
import signal
import statistics
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
import torch
from captum.attr import LayerIntegratedGradients
from rich.console import Console

from captum_globenc import GlobEnc, metrics
from captum_globenc.evaluation import (
    DEFAULT_METHODS,
    DEFAULT_METRICS,
    METHODS,
    METRICS,
    SENTENCES,
    Evaluation,
    Example,
    Method,
    Metric,
    Subject,
    evaluate,
    read_examples,
    register_method,
    register_metric,
    sample,
)
from captum_globenc.evaluation.subject import Remembering, attribute
from captum_globenc.texts import load_classifier, load_default
from captum_globenc.texts.methods import captums
from checkpoints import ENVIRONMENT, WORDS

EXAMPLES = [
    Example(7, "the plot is bad", "NEGATIVE"),
    Example(8, "unhappy but not bad , great script !", 1),
    Example(9, "good", None),
    Example(10, "a great film but the script is not good .", "positive"),
    Example(11, "red film", "0"),
]
QUICK = {"methods": ["globenc", "saliency", "random"], "metrics": ["comprehensiveness", "accuracy"]}


@pytest.fixture
def loaded(folder):
    return load_classifier(folder)[:2]


def without_seconds(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def without_last_column(out):
    return [line.rstrip().rpartition(" ")[0].rstrip() for line in out.splitlines()]


def results(folder):
    with (folder / "results.csv").open(newline="") as file:
        return without_seconds(csv.DictReader(file))


def test_every_method_and_metric_gives_a_number_for_every_text(loaded):
    marked = [replace(it, marked=((2, 7),), decoys=((0, 1),)) if it.number == 10 else it for it in EXAMPLES]
    of_marks = {name for name in METRICS if name.startswith(("marked-", "decoy-"))}
    evaluation = evaluate(*loaded, marked, methods=list(METHODS), metrics=list(METRICS), batch_size=2)
    assert [(row["example"], row["method"]) for row in evaluation.rows] == [
        (example.number, method) for example in EXAMPLES for method in METHODS
    ]
    for row in evaluation.rows:
        # One token has no rank to agree on, and only some texts are marked; nothing else may be undefined.
        undefined = {name for name in METRICS if math.isnan(row[name])}
        agreement = {"spearman-saliency", "kendall-ablation"} if row["example"] == 9 else set()
        assert undefined == agreement | (set() if row["example"] == 10 else of_marks)
    labels = {row["example"]: row["label"] for row in evaluation.rows}
    assert labels == {7: "NEGATIVE", 8: "POSITIVE", 9: "", 10: "POSITIVE", 11: "NEGATIVE"}
    of = {(row["example"], row["method"]): row for row in evaluation.rows}
    for example in (7, 8, 10, 11):
        assert of[example, "saliency"]["spearman-saliency"] == pytest.approx(1)
        assert of[example, "feature-ablation"]["kendall-ablation"] == pytest.approx(1)
        for metric in METRICS:
            assert of[example, "globenc"][metric] == pytest.approx(of[example, "N-Enc"][metric], nan_ok=True)


def test_rows_are_what_the_metrics_give_text_by_text(loaded):
    evaluation = evaluate(*loaded, EXAMPLES, **QUICK, batch_size=3)
    subject = Subject(*loaded)
    for row in evaluation.rows:
        if row["method"] != "globenc":
            continue
        example = EXAMPLES[row["example"] - 7]
        batch = loaded[1](example.text, return_tensors="pt")
        ids, extra = subject.forward.arguments(batch)
        scores = GlobEnc(subject.forward).attribute(ids, additional_forward_args=extra)
        mask = torch.ones_like(ids).bool()
        mask[:, [0, -1]] = False
        call = (subject.forward, ids, scores, loaded[1].mask_token_id, extra)
        predicted = int(subject.forward(ids, *extra).argmax())
        assert row["prediction"] == loaded[0].config.id2label[predicted]
        assert row["comprehensiveness"] == pytest.approx(
            metrics.comprehensiveness(*call, mask=mask).item(), abs=1e-6
        )
        label = subject.classes(example.label)
        right = metrics.accuracy(*call, predicted if label is None else label[0], mask=mask).item()
        assert row["accuracy"] == pytest.approx(right)


def test_the_summary_leaves_undefined_values_out(loaded, tmp_path):
    evaluation = evaluate(
        *loaded, EXAMPLES, methods=["random"], metrics=["kendall-ablation", "aopc-most"], out=tmp_path
    )
    values = [row["kendall-ablation"] for row in evaluation.rows if row["example"] != 9]
    mean, deviation, texts = evaluation.summary()["random"]["kendall-ablation"]
    assert (mean, deviation, texts) == (statistics.fmean(values), statistics.stdev(values), 4)
    saved = json.loads((tmp_path / "summary.json").read_text())
    assert saved["summary"]["random"]["kendall-ablation"] == {
        "mean": mean,
        "deviation": deviation,
        "texts": 4,
    }
    assert set(saved["seconds_per_text"]) == {"random"}
    assert set(saved["settings"]["versions"]) == {"captum_globenc", "captum", "torch", "transformers"}
    with (tmp_path / "summary.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert (row["metric"], row["better"], float(row["mean"]), row["texts"]) == (
        "kendall-ablation",
        "higher",
        mean,
        "4",
    )
    assert (tmp_path / "summary.png").read_bytes().startswith(b"\x89PNG")
    assert f"{mean:.3f} ± {deviation / 2:.3f}" in evaluation.markdown()
    alone = evaluate(
        *loaded, EXAMPLES[2:3], methods=["random"], metrics=["kendall-ablation"], out=tmp_path / "1"
    )
    assert math.isnan(alone.summary()["random"]["kendall-ablation"].mean)
    assert json.loads((tmp_path / "1/summary.json").read_text())["summary"]["random"] == {
        "kendall-ablation": {"mean": None, "deviation": None, "texts": 0}
    }


def drawn(evaluation, width=100):
    """The terminal output without the seconds, which differ between runs."""
    console = Console(width=width, record=True, file=io.StringIO())
    rows = [{**row, "seconds": 0.25} for row in evaluation.rows]
    console.print(replace(evaluation, rows=rows).table())
    return console.export_text()


@pytest.mark.parametrize("width", [60, 80, 120, 300])
def test_the_table_has_whole_words_and_every_mean_however_wide_the_terminal(width):
    values = dict.fromkeys(DEFAULT_METRICS, -1.2345)
    rows = [{"method": method, **values} for method in DEFAULT_METHODS for _ in range(2)]
    lines = drawn(Evaluation(DEFAULT_METHODS, DEFAULT_METRICS, rows), width).splitlines()[:-1]
    assert max(map(len, lines)) <= width
    heads = [line for line in lines if line.startswith("method ")]
    assert re.findall(r"\S+ [↑↓]", " ".join(heads)) == [
        f"{metric} {'↑' if METRICS[metric].better == 'higher' else '↓'}" for metric in DEFAULT_METRICS
    ]
    assert len(heads) == {60: 9, 80: 5, 120: 3, 300: 1}[width]
    for method in DEFAULT_METHODS:
        cells = [line.removeprefix(method) for line in lines if line.startswith(f"{method}  ")]
        assert " ".join(cells).split() == [*["-1.234", "±", "0.000"] * len(DEFAULT_METRICS), "0.25"]


def test_the_table_marks_the_best_means_and_shows_errors_and_times():
    found = {"globenc": [(0.5, 0.1), (0.7, 0.5)], "random": [(0.9, 0.0), (0.9, math.nan)]}
    rows = [
        {"method": method, "comprehensiveness": high, "sufficiency": low, "seconds": 0.125}
        for method, values in found.items()
        for high, low in values
    ]
    evaluation = Evaluation(tuple(found), ("comprehensiveness", "sufficiency"), rows)
    assert evaluation.seconds() == {"globenc": 0.125, "random": 0.125}
    lines = [line.split() for line in drawn(evaluation).splitlines()]
    # The standard error of 0.5 and 0.7 is 0.1; of one value there is none.
    assert ["globenc", "0.600", "±", "0.100", "0.300", "±", "0.200", "0.25"] in lines
    assert ["random", "*0.900", "±", "0.000", "*0.000", "±", "nan", "0.25"] in lines


def interrupt(done, total):
    if done >= 2:
        raise KeyboardInterrupt


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize("share", [1, 0.6, 0])
def test_an_interrupted_evaluation_ends_as_if_nothing_had_happened(loaded, tmp_path, share):
    options = {**QUICK, "batch_size": 1, "removal": "delete"}
    whole = evaluate(*loaded, EXAMPLES, **options, out=tmp_path / "whole")
    torch.rand(3)  # Whatever else has drawn from the random stream is no matter.
    with pytest.raises(KeyboardInterrupt):
        evaluate(*loaded, EXAMPLES, **options, out=tmp_path / "broken", progress=interrupt)
    assert len(results(tmp_path / "broken")) == 2 * len(QUICK["methods"])
    cut(tmp_path / "broken" / "results.csv", share)
    again = evaluate(*loaded, EXAMPLES, **options, out=tmp_path / "broken")
    assert without_seconds(again.rows) == without_seconds(whole.rows)
    assert results(tmp_path / "broken") == results(tmp_path / "whole")
    assert drawn(again) == drawn(whole)
    summaries = [(tmp_path / name / "summary.csv").read_text() for name in ("broken", "whole")]
    assert summaries[0] == summaries[1]
    # All is there now, so a third run measures nothing.
    before = (tmp_path / "broken" / "results.csv").stat().st_mtime_ns
    evaluate(*loaded, EXAMPLES, **options, out=tmp_path / "broken")
    assert (tmp_path / "broken" / "results.csv").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "ids",
    [[1, 2, 10, 3, 4], ["1", "2", "10", "3", "4"], [1, "b", 3, 4, 5], ["a\r\nb", "c\rd", "e\nf", "", '"']],
)
@pytest.mark.parametrize("cut", [0, 10])
def test_ids_are_the_same_after_an_interruption(loaded, tmp_path, ids, cut):
    examples = [replace(example, number=number) for example, number in zip(EXAMPLES, ids, strict=True)]
    options = {**QUICK, "batch_size": 2, "out": tmp_path}
    whole = evaluate(*loaded, examples, **options)
    path = tmp_path / "results.csv"
    path.write_bytes(path.read_bytes()[: path.stat().st_size - cut])
    again = evaluate(*loaded, examples, **options)
    assert without_seconds(again.rows) == without_seconds(whole.rows)


@pytest.mark.parametrize("change", [("random,", "other,"), (",8,", ",9,"), ("0.", "x."), ("\n", '\n"')])
def test_a_damaged_row_has_its_batch_measured_again_whatever_the_damage(loaded, tmp_path, change):
    options = {**QUICK, "batch_size": 2, "out": tmp_path}
    whole = evaluate(*loaded, EXAMPLES, **options)
    path = tmp_path / "results.csv"
    before = path.read_text()
    path.write_text(before.replace(*change, 1))
    again = evaluate(*loaded, EXAMPLES, **options)
    assert without_seconds(again.rows) == without_seconds(whole.rows)


def test_a_damaged_row_has_its_batch_measured_again(loaded, tmp_path):
    options = {**QUICK, "batch_size": 2, "out": tmp_path}
    whole = evaluate(*loaded, EXAMPLES, **options)
    before = results(tmp_path)
    path = tmp_path / "results.csv"
    content = path.read_text()
    assert content.count(",10,") == len(QUICK["methods"])
    path.write_text(content.replace(",10,", ",70,", 1))
    again = evaluate(*loaded, EXAMPLES, **options)
    assert without_seconds(again.rows) == without_seconds(whole.rows)
    assert sorted(results(tmp_path), key=str) == sorted(before, key=str)


def test_a_killed_command_goes_on_and_prints_the_same_table(folder, tmp_path):
    data = tmp_path / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": f"the film is {w}", "label": 0}) + "\n" for w in WORDS))
    # Killed by itself, after three batches, because nothing here may depend on the clock.
    deadly = (
        "import os, signal, sys\n"
        "from captum_globenc.evaluation.checkpoint import Checkpoint\n"
        "add = Checkpoint.add\n"
        "def add_and_die(self, rows):\n"
        "    add(self, rows)\n"
        "    if rows[0]['batch'] == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "if sys.argv.pop() == 'die': Checkpoint.add = add_and_die\n"
        "from captum_globenc.app.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )

    def start(out, how):
        command = [
            "evaluate", "--model", folder, "--data", str(data), "--out", "out", "--batch-size", "3",
            "--methods", "globenc,random", "--metrics", "comprehensiveness,log-odds",
        ]  # fmt: skip
        out.mkdir(exist_ok=True)
        return subprocess.run(
            [sys.executable, "-c", deadly, *command, how],
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
            cwd=out,
            check=False,
        )

    killed = start(tmp_path / "a", "die")
    assert killed.returncode == -signal.SIGKILL
    assert len(results(tmp_path / "a/out")) == 3 * 3 * 2
    assert not (tmp_path / "a/out/summary.csv").exists()
    again, whole = start(tmp_path / "a", "live"), start(tmp_path / "b", "live")
    assert again.returncode == whole.returncode == 0, again.stderr
    assert without_last_column(again.stdout) == without_last_column(whole.stdout)
    assert f"Means over {len(WORDS)} texts" in whole.stdout


def test_results_of_something_else_are_not_mixed(loaded, tmp_path):
    evaluate(*loaded, EXAMPLES[:2], **QUICK, out=tmp_path / "a")
    for change in (
        {"seed": 1},
        {"removal": "pad"},
        {"metrics": ["accuracy"]},
        {"methods": ["globenc"]},
        {"batch_size": 1},
    ):
        with pytest.raises(ValueError, match=f"with {next(iter(change))} .* not .*choose another folder"):
            evaluate(*loaded, EXAMPLES[:2], **{**QUICK, **change}, out=tmp_path / "a")
    with pytest.raises(ValueError, match="with texts 2, not 3"):
        evaluate(*loaded, EXAMPLES[:3], **QUICK, out=tmp_path / "a")
    with pytest.raises(ValueError, match="of other texts: choose another folder"):
        evaluate(*loaded, EXAMPLES[1:3], **QUICK, out=tmp_path / "a")
    loaded[0].classifier.weight.data[-1, -1] += 1
    with pytest.raises(ValueError, match="with other weights: choose another folder"):
        evaluate(*loaded, EXAMPLES[:2], **QUICK, out=tmp_path / "a")
    loaded[0].classifier.weight.data[-1, -1] -= 1
    loaded[0].config.problem_type = "multi_label_classification"
    with pytest.raises(ValueError, match="with another config: choose another folder"):
        evaluate(*loaded, EXAMPLES[:2], **QUICK, out=tmp_path / "a")
    loaded[0].config.problem_type = None
    for name, value in (("mask_token", "film"), ("pad_token", "film"), ("padding_side", "left")):
        before = getattr(loaded[1], name)
        setattr(loaded[1], name, value)
        with pytest.raises(ValueError, match="tokenized otherwise: choose another folder"):
            evaluate(*loaded, EXAMPLES[:2], **QUICK, out=tmp_path / "a")
        setattr(loaded[1], name, before)
    loaded[1].model_max_length = 4
    with pytest.raises(ValueError, match="tokenized otherwise: choose another folder"):
        evaluate(*loaded, EXAMPLES[:2], **QUICK, out=tmp_path / "a")
    (tmp_path / "a" / "settings.json").write_text("[]")
    with pytest.raises(ValueError, match="written by another program"):
        evaluate(*loaded, EXAMPLES[:2], **QUICK, out=tmp_path / "a")
    (tmp_path / "a" / "settings.json").write_text("{nope")
    with pytest.raises(ValueError, match="is damaged"):
        evaluate(*loaded, EXAMPLES[:2], **QUICK, out=tmp_path / "a")
    (tmp_path / "a" / "settings.json").unlink()
    with pytest.raises(ValueError, match="of another program"):
        evaluate(*loaded, EXAMPLES[:2], **QUICK, out=tmp_path / "a")
    with pytest.raises(ValueError, match="cannot use"):
        evaluate(*loaded, EXAMPLES[:2], **QUICK, out=tmp_path / "a" / "results.csv")


def test_a_fresh_evaluation_uses_the_first_free_folder(loaded, tmp_path):
    def run(**change):
        made = evaluate(*loaded, EXAMPLES[:2], **{**QUICK, **change}, out=tmp_path / "a", fresh=True)
        return made.folder.relative_to(tmp_path).name

    assert [run(), run(seed=1), run(), run(seed=2), run(seed=1)] == ["a", "a-2", "a", "a-3", "a-2"]
    (tmp_path / "a-4").write_text("something else")
    (tmp_path / "a-5").mkdir()
    (tmp_path / "a-5" / "results.csv").write_text("something else")
    (tmp_path / "a-6").mkdir()
    assert run(seed=3) == "a-6"


def test_the_command_takes_a_folder_of_its_own_for_other_settings(run, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").write_text("text\ngood film\nbad plot\n")
    quick = ("--model", folder, "--data", "x.csv", "--methods", "random", "--metrics", "accuracy")
    for seed, out in ((0, "globenc-evaluation"), (1, "globenc-evaluation-2"), (0, "globenc-evaluation")):
        said = run("evaluate", *quick, "--seed", seed)[0].splitlines()[0]
        assert said == f"Means over 2 texts; more in {out}"
        assert (tmp_path / out / "summary.json").exists()


def test_progress_is_told_after_each_method_and_goes_up(loaded):
    told = []
    evaluate(*loaded, EXAMPLES, **QUICK, batch_size=3, progress=lambda done, _: told.append(done))
    assert told == sorted(told)
    # Three methods that score and are measured, of each of the two batches, and the end of both.
    assert len(told) == 2 * (2 * 3 + 1)
    assert {3, 5} <= set(told)


def test_a_folder_in_which_nothing_was_measured_is_free(loaded, tmp_path):
    def fail(request):
        raise ValueError("no")

    METHODS["failing"] = Method(fail)
    try:
        with pytest.raises(ValueError, match="no"):
            evaluate(*loaded, EXAMPLES[:2], methods=["failing"], metrics=["accuracy"], out=tmp_path)
    finally:
        del METHODS["failing"]
    evaluate(*loaded, EXAMPLES[:2], **QUICK, out=tmp_path)
    assert len(results(tmp_path)) == 2 * len(QUICK["methods"])


def test_two_evaluations_in_one_folder_at_once_are_rejected(loaded, tmp_path):
    def other(done, total):
        if done == 1:
            evaluate(*loaded, EXAMPLES, **QUICK, batch_size=1, out=tmp_path)

    with pytest.raises(ValueError, match="another evaluation writes"):
        evaluate(*loaded, EXAMPLES, **QUICK, batch_size=1, out=tmp_path, progress=other)
    assert len(results(tmp_path)) == len(EXAMPLES) * len(QUICK["methods"])


def test_a_model_in_training_mode_is_rejected(loaded):
    with pytest.raises(ValueError, match="eval"):
        evaluate(loaded[0].train(), loaded[1], EXAMPLES[:1], **QUICK)


def test_texts_too_long_for_flows_are_reported_at_once(loaded, monkeypatch):
    monkeypatch.setattr("captum_globenc.evaluation.run.MOST_TOKENS", 4)
    with pytest.raises(ValueError, match="N-Enc/max-flow takes texts of up to 4"):
        evaluate(*loaded, EXAMPLES, methods=["N-Enc/max-flow"], metrics=["accuracy"])


def test_the_random_streams_of_the_user_are_left_alone(loaded):
    before = torch.get_rng_state(), np.random.get_state()[1]
    evaluate(*loaded, EXAMPLES[:1], methods=["random", "gradient-shap", "lime"], metrics=["infidelity"])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


def test_methods_and_metrics_are_added_by_name(loaded, monkeypatch, tmp_path):
    for registry in (METHODS, METRICS):
        monkeypatch.delitem(registry, "mine", raising=False)
    register_method("mine", Method(lambda request: request.inputs.double()))
    register_metric("mine", Metric(lambda subject, batch, scores: scores.amax(dim=1), "higher"))
    try:
        evaluation = evaluate(*loaded, EXAMPLES[:1], methods=["mine"], metrics=["mine"])
        ids = loaded[1](EXAMPLES[0].text)["input_ids"][1:-1]
        assert evaluation.rows[0]["mine"] == max(ids)
        for register, value in ((register_method, None), (register_metric, None)):
            with pytest.raises(ValueError, match="'mine' is registered already"):
                register("mine", value)
        METRICS["mine"] = Metric(lambda subject, batch, scores: scores.new_full([2], torch.inf), "higher")
        with pytest.raises(ValueError, match="must return 1 values, one per text"):
            evaluate(*loaded, EXAMPLES[:1], methods=["mine"], metrics=["mine"])
        endless = evaluate(*loaded, EXAMPLES[:2], methods=["mine"], metrics=["mine"], out=tmp_path)
        assert endless.summary()["mine"]["mine"].mean == math.inf
        assert json.loads((tmp_path / "summary.json").read_text())["summary"]["mine"]["mine"]["mean"] is None
        with pytest.raises(ValueError, match="column 'seconds'"):
            register_metric("seconds", METRICS["mine"])
        METHODS["mine"] = Method(lambda request: request.inputs[:, :1].double())
        with pytest.raises(ValueError, match="mine gave"):
            evaluate(*loaded, EXAMPLES[:1], methods=["mine"], metrics=["mine"])
        METHODS["mine"] = Method(lambda request: request.inputs * math.nan)
        with pytest.raises(ValueError, match="NaN"):
            evaluate(*loaded, EXAMPLES[:1], methods=["mine"], metrics=["mine"])
    finally:
        del METHODS["mine"], METRICS["mine"]


def test_captum_methods_over_embeddings_equal_methods_over_ids(loaded):
    subject = Subject(*loaded)
    batch = subject.batch(0, EXAMPLES)
    scores = attribute("integrated-gradients", batch)
    expected = LayerIntegratedGradients(subject.forward, loaded[0].get_input_embeddings()).attribute(
        batch.inputs,
        baselines=batch.request.baselines,
        target=batch.target,
        additional_forward_args=batch.extra,
        n_steps=50,
    )
    assert torch.allclose(scores, expected.sum(-1) * batch.mask, atol=1e-6)


def test_the_baseline_of_a_text_does_not_depend_on_the_batch(loaded):
    subject = Subject(*loaded)
    batch = subject.batch(0, EXAMPLES)
    for name in ("gradient-shap", "integrated-gradients", "deep-lift"):
        torch.manual_seed(0)
        scores = METHODS[name].scores(batch.request)
        # What is not masked in the baseline does not differ from it.
        assert scores.masked_fill(batch.mask, 0).abs().max() < 1e-6
        assert scores[batch.mask].abs().min() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_method_takes_a_model_in_half_precision(loaded, dtype):
    model, tokenizer = loaded
    names = list(METHODS)
    evaluation = evaluate(model.to(dtype), tokenizer, EXAMPLES, methods=names, metrics=["comprehensiveness"])
    assert len(evaluation.rows) == len(names) * len(EXAMPLES)


def test_lime_finds_the_weights_of_an_additive_model(monkeypatch):
    monkeypatch.setattr(captums, "LIME_SAMPLES", 400)
    ids = torch.tensor([[9, 4, 30, 11, 25, 9], [9, 8, 7, 9, 0, 0]])
    mask = torch.tensor([[0, 1, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0]]).bool()
    scale = torch.tensor([1.0, 2.0])
    of = SimpleNamespace(
        blanked=lambda ids, scale: ids.sum(1).double() * scale,
        model=SimpleNamespace(config=SimpleNamespace(pad_token_id=0)),
    )
    texts = [
        SimpleNamespace(
            of=of,
            inputs=ids[row : row + 1],
            kept=~mask[row : row + 1],
            baselines=ids.masked_fill(mask, 0)[row : row + 1],
            beside=(scale[row : row + 1],),
        )
        for row in range(2)
    ]
    request = SimpleNamespace(of=of, singles=lambda: texts)
    torch.manual_seed(0)
    scores = captums.lime(request)
    # Ridge regression shrinks a little.
    assert torch.allclose(
        scores[0, 1:5].double(), torch.tensor([4.0, 30, 11, 25]).double(), rtol=0.1, atol=0.5
    )
    assert torch.allclose(scores[1, 1:3].double(), torch.tensor([16.0, 14]).double(), rtol=0.1, atol=0.5)


def test_a_caching_forward_function_runs_each_text_once():
    rows = []

    def forward(ids, mask, missing):
        rows.extend(ids.tolist())
        return (ids * mask).sum(1, keepdim=True)

    remembering = Remembering(forward)
    ids = torch.tensor([[1, 2], [3, 4], [1, 2], [1, 2]])
    mask = torch.tensor([[1, 1], [1, 1], [1, 1], [1, 0]])
    for _ in range(2):
        assert remembering(ids, mask, None).tolist() == [[3], [7], [3], [1]]
    assert sorted(rows) == [[1, 2], [1, 2], [3, 4]]


def test_leave_one_out_beats_chance_on_the_default_model():
    evaluation = evaluate(
        *load_default(),
        sample(read_examples(SENTENCES), 24),
        methods=["feature-ablation", "random"],
        metrics=["comprehensiveness", "aopc-most", "aopc-least", "log-odds"],
    )
    ablation, chance = evaluation.summary().values()
    for metric in ("comprehensiveness", "aopc-most"):
        assert ablation[metric].mean > 2 * chance[metric].mean
    for metric in ("aopc-least", "log-odds"):
        assert ablation[metric].mean < chance[metric].mean


def test_samples_are_drawn_again_alike():
    examples = read_examples(SENTENCES)
    first = sample(examples, 50, seed=3)
    assert first == sample(examples, 50, seed=3)
    assert first != sample(examples, 50, seed=4)
    assert len({example.label for example in first}) == 2
    assert sample(examples, None) == sample(examples, 10**6) == examples


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "globenc,magic"], "no method magic; known: globenc"),
        (["--metrics", "magic"], "no metric magic; known: comprehensiveness"),
        (["--removal", "magic"], "no removal magic; known: mask, delete, pad"),
        (["--limit", "0"], "limit is 0"),
        (["--batch-size", "0"], "--batch-size"),
        (["--data", "no/such.csv"], "cannot read no/such.csv: no such file"),
        (["--model", "no/such"], "cannot load no/such"),
        (["--seed", "x"], "--seed"),
    ],
)
def test_user_errors_are_reported_in_one_line(failing, folder, tmp_path, options, message):
    model = [] if "--model" in options else ["--model", folder]
    assert message in failing("evaluate", *model, "--limit", "2", "--out", tmp_path / "out", *options)


def test_an_unknown_label_is_reported_at_once(failing, folder, tmp_path):
    (tmp_path / "x.csv").write_text("text,label\ngood,1\nbad,neutral\n")
    line = failing("evaluate", "--model", folder, "--data", tmp_path / "x.csv", "--out", tmp_path / "out")
    assert "label 'neutral' is not a class of the model: NEGATIVE, POSITIVE" in line
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_reported_in_one_line(failing, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    (tmp_path / "x.csv").write_text("text\ngood film\n")
    line = failing("evaluate", "--model", folder, "--data", tmp_path / "x.csv", "--out", tmp_path / "out")
    assert 'pip install ".[evaluate]"' in line


def test_the_metrics_are_listed(run):
    assert run("evaluate", "--metrics", "list")[0].split() == list(METRICS)


def test_an_interrupt_prints_how_to_resume(run, folder, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("captum_globenc.evaluation.evaluate", stop)
    out, err = run("evaluate", "--model", folder, "--limit", 1, "--out", tmp_path, status=130)
    assert out == ""
    assert err == f"note: stopped; repeat the command to resume from {tmp_path}\n"


def test_a_table_is_evaluated_as_the_examples_that_are_read_from_it(loaded):
    rows = {"text": ["the plot is bad", "great script !"], "label": ["NEGATIVE", "POSITIVE"]}
    frame = pandas.DataFrame(rows)
    found, expected = (evaluate(*loaded, data, **QUICK) for data in (frame, read_examples(frame)))
    assert without_seconds(found.rows) == without_seconds(expected.rows)
    assert {row["label"] for row in found.rows} == {"NEGATIVE", "POSITIVE"}
