"""The run of an evaluation: every method and metric on every text, batch by batch."""

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.decomposition.flow import MOST_TOKENS
from captum_globenc.encoders import find_encoder
from captum_globenc.evaluation.data import Example, read_examples
from captum_globenc.evaluation.journal import (
    BATCH,
    EXAMPLE,
    LABEL,
    METHOD,
    PREDICTION,
    SECONDS,
    Journal,
    Row,
    free_folder,
)
from captum_globenc.evaluation.metrics import DEFAULT_METRICS, METRICS, Metric
from captum_globenc.evaluation.report import Evaluation
from captum_globenc.evaluation.subject import Batch, Subject, attribute
from captum_globenc.metrics import REMOVALS
from captum_globenc.recording.dropout import reject_dropout
from captum_globenc.texts.classes import VALUE
from captum_globenc.texts.methods import METHODS
from captum_globenc.texts.position import resolve_position
from captum_globenc.texts.provenance import config_text, content, digest, versions

DEFAULT_METHODS = (
    "globenc",
    "N-Res",
    "W-FixedRes",
    "N-Enc/max-flow",
    "transformer-deep-lift",
    "transformer-deep-lift/restore-2",
    "decompx",
    "integrated-gradients",
    "input-x-gradient",
    "saliency",
    "gradient-shap",
    "deep-lift",
    "feature-ablation",
    "lime",
    "random",
)
"""Methods that are compared by default."""


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Any,
    *,
    methods: Sequence[str] = DEFAULT_METHODS,
    metrics: Sequence[str] = DEFAULT_METRICS,
    removal: str = "mask",
    batch_size: int = 16,
    seed: int = 0,
    target: str | int | None = None,
    position: int | Literal["mean"] | None = None,
    out: Path | None = None,
    fresh: bool = False,
    progress: Callable[[float, int], None] | None = None,
) -> Evaluation:
    """Measure attribution methods on a sequence classifier.

    Every method explains the same output, that of the predicted class or of `target`, with the same forward
    function and the same baseline. Metrics never remove special tokens and padding. A regression is measured
    by its value; its log-odds and accuracy are NaN.

    Args:
        model: a supported sequence classifier, in eval mode: of one label, or several (by its config's
            `problem_type`), or a regression.
        tokenizer: its tokenizer.
        examples: the texts: a list of `Example`, or a file, DataFrame or data set for `read_examples`.
        methods: names from :data:`~captum_globenc.evaluation.METHODS`.
        metrics: names from :data:`~captum_globenc.evaluation.METRICS`.
        removal: how metrics remove tokens: "mask", "delete" or "pad".
        batch_size: texts that run together.
        seed: of everything that is random.
        target: the class that is explained, by name or index; left out, each text's highest. Of several
            values, one has to be chosen.
        position: the token whose mixture GlobEnc explains: its index in every text, negative ones counting
            from the text's own end, or "mean"; left out, what the model's head reads, where it is known.
        out: a folder for results.csv, summary.csv, summary.json and summary.png. Where it holds
            an unfinished evaluation of the same settings, that is taken up where it stopped.
        fresh: whether to take the next free one of `out`, `out-2`, `out-3` where it holds an evaluation of
            other settings, instead of refusing that.
        progress: called with the number of texts done and of all, after each batch; within a batch, with
            fractions of a text, as methods and metrics are done.

    Returns:
        The rows and their summary.

    Raises:
        ValueError: a name is not known, the model is not supported, a label or `target` is none of its
            classes, a position lies outside of a text, or `out` holds something else.
        ImportError: a method or metric needs a package that is not installed.
        RuntimeError: the numbers of a method were found not to hold.

    Example:
        >>> from captum_globenc.texts import load_default
        >>> evaluation = evaluate(
        ...     *load_default(), [Example(0, "A wonderful film.", 1)],
        ...     methods=["globenc", "random"], metrics=["comprehensiveness"],
        ... )
        >>> [row["method"] for row in evaluation.rows]
        ['globenc', 'random']
    """
    methods, metrics = tuple(dict.fromkeys(methods)), tuple(dict.fromkeys(metrics))
    for what, names, known in (
        ("method", methods, METHODS),
        ("metric", metrics, METRICS),
        ("removal", [removal], REMOVALS),
    ):
        _check_names(what, names, known)
    if not isinstance(examples, list | tuple):
        examples = read_examples(examples)
    if not examples:
        raise ValueError("there are no texts to evaluate on")
    if batch_size < 1:
        raise ValueError(f"the batch size is {batch_size}; it has to be at least 1")
    find_encoder(model)
    if not (position is None or position == "mean" or isinstance(position, int)):
        raise ValueError(f"position is {position!r}: give a whole number, 'mean', or leave it out")
    subject = Subject(model, tokenizer, removal, seed, target, position)
    _ = subject.explained  # refuses a class that the model does not have
    reject_dropout(model)
    for example in examples:  # An hour into the run is too late to find a bad label.
        try:
            subject.classes(example.label)
        except ValueError as error:
            raise error if example.line is None else ValueError(f"line {example.line}: {error}") from error
    if len({example.pair is None for example in examples}) > 1:
        raise ValueError("some texts have a second segment and others none: evaluate them apart")
    ids = [subject.ids(example) for example in examples]
    lengths = list(map(len, ids))
    if isinstance(position, int):
        resolve_position(position, torch.tensor(lengths), [example.text for example in examples])
    longest = max(lengths)
    flows = [method for method in methods if method.endswith("/max-flow")]
    if flows and longest > MOST_TOKENS:
        raise ValueError(
            f"{', '.join(flows)} takes texts of up to {MOST_TOKENS} tokens, and one has {longest}: "
            "leave it out of the methods"
        )
    # Texts of like length run together; the longest first, so that too little memory shows at once.
    order = sorted(range(len(examples)), key=lambda place: -len(ids[place]))
    ordered = [examples[place] for place in order]
    batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    settings = {
        "methods": methods,
        "metrics": metrics,
        "removal": removal,
        "batch_size": batch_size,
        "seed": seed,
        "target": target,
        "position": position,
        "texts": len(examples),
        "data": digest([repr([replace(example, line=None) for example in examples]).encode()]),
        "tokens": digest([repr(ids).encode()]),
        "model": type(model).__name__,
        "config": digest([config_text(model.config)]),
        "weights": digest(map(content, model.state_dict().values())),
        "versions": versions(),
    }
    asked = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
    if out is not None and fresh:
        out = free_folder(out, asked)
    journal = Journal(out, asked, metrics, [len(batch) * len(methods) for batch in batches])
    done = 0
    for index, chosen in enumerate(batches):
        if not journal.has(index):

            def step(share: float, before: int = done, texts: int = len(chosen)) -> None:
                if progress is not None:
                    progress(before + share * texts, len(examples))

            journal.add(_rows(subject, index, chosen, methods, metrics, step))
        done += len(chosen)
        if progress is not None:
            progress(done, len(examples))
    rows = sorted(journal.rows, key=lambda row: (row[EXAMPLE], methods.index(row[METHOD])))
    cut = sum(subject.is_cut(example) for example in examples)
    evaluation = Evaluation(methods, metrics, rows, {**settings, "cut": cut}, out)
    if out is not None:
        try:
            evaluation.save(out)
        except OSError as error:
            raise ValueError(f"cannot write to {out}: {error.strerror}") from error
    return evaluation


def _rows(
    subject: Subject,
    index: int,
    examples: Sequence[Example],
    methods: Sequence[str],
    metrics: Sequence[str],
    step: Callable[[float], None],
) -> list[Row]:
    """Measure a batch; `step` is told which share of it is done."""
    batch = subject.batch(index, examples)
    seconds = {}
    for number, method in enumerate(methods):
        start = time.perf_counter()
        attribute(method, batch)
        seconds[method] = (time.perf_counter() - start) / len(examples)
        step((number + 1) / (2 * len(methods) + 1))
    rows = []
    for number, method in enumerate(methods, start=len(methods)):
        scores = batch.scores[method]
        values = {name: _measured(METRICS[name], subject, batch, scores) for name in metrics}
        for name, value in values.items():
            if not isinstance(value, list) or len(value) != len(examples):
                raise ValueError(f"the metric {name} gave no value for each of {len(examples)} texts")
        step((number + 1) / (2 * len(methods) + 1))
        for place, example in enumerate(examples):
            rows.append(
                {
                    METHOD: method,
                    LABEL: _label(subject, batch, place),
                    PREDICTION: _prediction(subject, batch, place),
                    BATCH: index,
                    EXAMPLE: example.number,
                    **{name: value[place] for name, value in values.items()},
                    SECONDS: seconds[method],
                }
            )
    return rows


def _label(subject: Subject, batch: Batch, place: int) -> str:
    """Return what results call a text's label: names of classes, or a value as it was given."""
    classes, label = batch.labels[place], batch.examples[place].label
    if classes is not None:
        return ", ".join(subject.names[index] for index in classes)
    return "" if label is None else str(label)


def _prediction(subject: Subject, batch: Batch, place: int) -> str:
    """Return what results call the prediction: the highest class's name, or the value that is explained."""
    if subject.problem == VALUE:
        return str(batch.outputs[place, batch.target[place]].item())
    return subject.names[int(batch.outputs[place].argmax())]


def _measured(metric: Metric, subject: Subject, batch: Batch, scores: Tensor) -> Any:
    if subject.problem == VALUE and not metric.of_values:
        return [math.nan] * len(batch.examples)
    return metric.measure(subject, batch, scores).tolist()


def _check_names(what: str, names: Sequence[str], known: Collection[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"no {what} {', '.join(unknown) or 'is given'}; known: {', '.join(known)}")
