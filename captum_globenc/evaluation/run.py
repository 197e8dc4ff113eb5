"""The run of an evaluation: every method and metric on every text, batch by batch."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.decomposition.flow import MOST_TOKENS
from captum_globenc.encoders import find_encoder
from captum_globenc.errors import check_names
from captum_globenc.evaluation.answers import AnswerSubject
from captum_globenc.evaluation.checkpoint import (
    BATCH,
    EXAMPLE,
    LABEL,
    METHOD,
    PREDICTION,
    SECONDS,
    Checkpoint,
    Row,
    free_folder,
)
from captum_globenc.evaluation.data import Example, read_examples
from captum_globenc.evaluation.metrics import ANSWER_METRICS, DEFAULT_METRICS, METRICS, Metric
from captum_globenc.evaluation.report import Evaluation
from captum_globenc.evaluation.subject import Batch, Subject, attribute
from captum_globenc.metrics import REMOVALS
from captum_globenc.recording.dropout import reject_dropout
from captum_globenc.texts.classes import VALUE
from captum_globenc.texts.methods import METHODS
from captum_globenc.texts.model import as_loaded_model
from captum_globenc.texts.options import Options, as_python, is_whole, resolve_position
from captum_globenc.texts.provenance import config_text, content, digest, versions
from captum_globenc.texts.tasks import task_of

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

ANSWER_METHODS = (
    "transformer-deep-lift",
    "integrated-gradients",
    "input-x-gradient",
    "saliency",
    "random",
)
"""Methods that are compared by default for models that generate text."""


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Any,
    *,
    methods: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    removal: str | None = None,
    batch_size: int = 16,
    seed: int = 0,
    target: str | int | None = None,
    position: int | Literal["mean"] | None = None,
    out: Path | str | None = None,
    fresh: bool = False,
    progress: Callable[[float, int], None] | None = None,
) -> Evaluation:
    """Compare attribution methods on a sequence classifier, or on a model that generates text.

    Every method explains the same output (of the predicted class, or of `target`) with the same forward
    function and the same baseline. Metrics never remove special tokens or padding. For a regression, the
    metrics use its value; log-odds and accuracy are NaN.

    For a model that generates text, the examples are prompts with an `answer`, the explained output is the
    log-probability of the answer in nats, and the last token and the last sentence of a prompt, usually the
    question, are never removed.

    Args:
        model: a supported sequence classifier, in eval mode: single-label, multi-label or a regression, as
            `config.problem_type` says; or a model that generates text.
        tokenizer: its tokenizer.
        examples: a list of `Example`, or a file, DataFrame or data set for `read_examples`.
        methods: keys of :data:`~captum_globenc.evaluation.METHODS`; by default `DEFAULT_METHODS`, or
            `ANSWER_METHODS` for a model that generates text.
        metrics: keys of :data:`~captum_globenc.evaluation.METRICS`; by default `DEFAULT_METRICS`, or
            `ANSWER_METRICS` for a model that generates text.
        removal: how metrics remove tokens: "mask" (the default for classifiers), "delete" or "pad". For a
            model that generates text, "delete".
        batch_size: number of texts per forward pass.
        seed: random seed.
        target: the explained class, by name or index; by default the predicted class of each text. Required
            for a regression of several values.
        position: the token that GlobEnc explains: an index into every text (negative indices count from the
            end of each text), or "mean"; by default the tokens that the model's head reads, if known.
        out: a folder for results.csv, summary.csv, summary.json and summary.png. An unfinished evaluation
            of the same settings in it is resumed.
        fresh: whether to use the first free folder of `out`, `out-2`, `out-3`, ... if `out` holds an
            evaluation of other settings; by default that raises ValueError.
        progress: function of the number of finished texts and the number of all texts. It is called after
            each batch, and within a batch, with fractions of a text, after each method and metric.

    Returns:
        The rows and their summary.

    Raises:
        ValueError: a name is unknown, the model is not supported, the model does not have the class of a
            label or of `target`, `position` is outside a text, or `out` holds other files. For a model that
            generates text also: an example has no answer, or has a pair, or an option is not for it.
        ImportError: a method or metric needs a package that is not installed.
        RuntimeError: a check of a method's numbers failed.

    Example:
        >>> from captum_globenc.texts import load_default
        >>> evaluation = evaluate(
        ...     *load_default(), [Example(0, "A wonderful film.", 1)],
        ...     methods=["globenc", "random"], metrics=["comprehensiveness"],
        ... )
        >>> [row["method"] for row in evaluation.rows]
        ['globenc', 'random']
    """
    generates = task_of(model).generates
    usual = (ANSWER_METHODS, ANSWER_METRICS) if generates else (DEFAULT_METHODS, DEFAULT_METRICS)
    for what, given in (("methods", methods), ("metrics", metrics)):
        if isinstance(given, str):
            raise ValueError(f"{what} is {given!r}: pass a list of names")
    methods = tuple(dict.fromkeys(usual[0] if methods is None else methods))
    metrics = tuple(dict.fromkeys(usual[1] if metrics is None else metrics))
    removal = ("delete" if generates else "mask") if removal is None else removal
    check_names("method", methods, METHODS)
    check_names("metric", metrics, METRICS)
    check_names("removal", [removal], REMOVALS)
    options = Options(position=position, target=target)
    position, target = options.position, options.single
    examples = list(examples) if isinstance(examples, Iterator) else examples
    if not isinstance(examples, list | tuple):
        examples = read_examples(examples)
    if not examples:
        raise ValueError("there are no texts to evaluate on")
    if wrong := [it for it in examples if not isinstance(it, Example)]:
        raise TypeError(
            f"examples has a {type(wrong[0]).__name__}: pass a list of Example(number, text, label)"
        )
    batch_size, seed = as_python(batch_size), as_python(seed)  # the settings are saved as JSON
    if not (is_whole(batch_size) and batch_size >= 1):
        raise ValueError(f"batch_size is {batch_size!r}: pass an integer of at least 1")
    if not is_whole(seed):
        raise ValueError(f"seed is {seed!r}: pass an integer")
    out = None if out is None else Path(out)
    if generates:
        _check_answers(examples, metrics, removal, target)
        batch_size = batch_size if as_loaded_model(model, tokenizer).pads else 1
    else:
        find_encoder(model)
    subject = (
        AnswerSubject(model, tokenizer, "pad", seed, None, position)
        if generates
        else Subject(model, tokenizer, removal, seed, target, position)
    )
    _ = subject.explained  # rejects a class that the model does not have
    reject_dropout(model)
    for example in examples:  # check all labels before the run
        try:
            subject.classes(example.label)
        except ValueError as error:
            raise error if example.line is None else ValueError(f"line {example.line}: {error}") from error
    if len({example.pair is None for example in examples}) > 1:
        raise ValueError("some texts have a second segment and others none: evaluate them separately")
    ids, cut = subject.ids(examples)
    lengths = list(map(len, ids))
    resolve_position(position, torch.tensor(lengths), [example.text for example in examples])
    longest = max(lengths)
    flows = [method for method in methods if method.endswith("/max-flow")]
    if flows and longest > MOST_TOKENS:
        raise ValueError(
            f"{', '.join(flows)} takes texts of up to {MOST_TOKENS} tokens, and one has {longest}: "
            "leave it out of the methods"
        )
    # Batch texts of similar length, the longest first, so that running out of memory shows at once.
    order = sorted(range(len(examples)), key=lambda place: -len(ids[place]))
    ordered = [examples[place] for place in order]
    batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    # Methods and metrics read these ids as well.
    special = [getattr(tokenizer, f"{it}_id") for it in ("mask_token", "pad_token")]
    special += [tokenizer.padding_side, *sorted(tokenizer.all_special_ids)]
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
        "tokens": digest([repr((ids, special)).encode()]),
        "model": type(model).__name__,
        "config": digest([config_text(model.config)]),
        "weights": digest(map(content, model.state_dict().values())),
        "versions": versions(),
    }
    saved = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
    if out is not None and fresh:
        out = free_folder(out, saved)
    checkpoint = Checkpoint(out, saved, metrics, [[it.number for it in batch] for batch in batches])
    done = 0
    for index, chosen in enumerate(batches):
        if not checkpoint.has(index):

            def step(share: float, before: int = done, texts: int = len(chosen)) -> None:
                if progress is not None:
                    progress(before + share * texts, len(examples))

            checkpoint.add(_rows(subject, index, chosen, methods, metrics, step))
        done += len(chosen)
        if progress is not None:
            progress(done, len(examples))
    rows = sorted(checkpoint.rows, key=lambda row: (row[EXAMPLE], methods.index(row[METHOD])))
    evaluation = Evaluation(methods, metrics, rows, {**settings, "cut": sum(cut)}, out)
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
    """Compute the rows of a batch, and call `step` with the finished share of it."""
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
                raise ValueError(f"the metric {name} must return {len(examples)} values, one per text")
        step((number + 1) / (2 * len(methods) + 1))
        for place, example in enumerate(examples):
            rows.append(
                {
                    METHOD: method,
                    LABEL: subject.label(batch, place),
                    PREDICTION: subject.prediction(batch, place),
                    BATCH: index,
                    EXAMPLE: example.number,
                    **{name: value[place] for name, value in values.items()},
                    SECONDS: seconds[method],
                }
            )
    return rows


def _check_answers(
    examples: Sequence[Example], metrics: Sequence[str], removal: str, target: str | int | None
) -> None:
    """Check the arguments of an evaluation of answers."""
    if target is not None:
        raise ValueError("target is not for models that generate text: pass the answer of each example")
    if removal != "delete":
        raise ValueError(f'removal is {removal!r}: for models that generate text, it is "delete"')
    others = [name for name in metrics if not METRICS[name].of_answers]
    if others:
        known = ", ".join(name for name, it in METRICS.items() if it.of_answers)
        raise ValueError(f"{', '.join(others)} is not for models that generate text; choose from {known}")
    for it in examples:
        if not it.answer:
            raise ValueError(
                f"example {it.number} has no answer: pass one, for example explain(prompts, model, "
                "tokenizer)[0].answer.text"
            )
        if it.pair is not None:
            raise ValueError(f"example {it.number} has a second segment: write it into the prompt")


def _measured(metric: Metric, subject: Subject, batch: Batch, scores: Tensor) -> Any:
    if subject.problem == VALUE and not metric.of_values:
        return [math.nan] * len(batch.examples)
    return metric.measure(subject, batch, scores).tolist()
