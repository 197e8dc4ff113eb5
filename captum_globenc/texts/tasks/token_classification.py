"""Select the outputs of a token classifier: the entities that it finds, grouped as its pipeline groups them.

Shapes: R rows, N tokens, C labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any, cast

import torch
from torch import Tensor

from captum_globenc.results.record import Span
from captum_globenc.texts.outputs import ExplainedOutput, OutputWeights, Predictions

__all__ = ["select_entities"]

STRATEGY = "simple"
"""The aggregation strategy, unless a pipeline was passed."""


def select_entities(predictions: Predictions) -> list[ExplainedOutput]:
    """Select the mean logit of each entity's label over its tokens.

    For each token it is the most likely label of the entity's group, such as B-PER or I-PER for PER.

    Args:
        predictions: logits `(R, N, C)`.

    Returns:
        One output for each entity of each text, in order.

    Raises:
        ValueError: the outputs are not (R, N, C), a text has a pair, the tokenizer has no character
            offsets, or the model has no such label.
    """
    if predictions.outputs.dim() != 3:
        raise ValueError(
            f"a token classifier gives (B, N, C), this model gives {tuple(predictions.outputs.shape)}"
        )
    if any(pair is not None for pair in predictions.pairs):
        raise ValueError("token classification takes single texts: leave pair out")
    pipeline = _pipeline(predictions)
    # The names of the pipeline, which need not be unique.
    labels = cast("Mapping[int, str]", predictions.loaded.model.config.id2label or {})
    names = [str(labels.get(index, index)) for index in range(predictions.outputs.shape[2])]
    explained = []
    for text, rows in enumerate(predictions.encoded.rows):
        found = [
            {**entity, "row": row} for row in rows for entity in _entities(pipeline, predictions, text, row)
        ]
        if len(rows) > 1:
            found = pipeline.aggregate_overlapping_entities(found)
        if not found:
            predictions.on_notice(f"no entity is found in {shorten(predictions.texts[text], 40)!r}")
        explained += [_explained_output(predictions, text, entity, names) for entity in found]
    return explained


def _pipeline(predictions: Predictions) -> Any:
    """Return the pipeline that was passed, or a new one on the model's device."""
    loaded = predictions.loaded
    if loaded.pipeline is not None:
        return loaded.pipeline
    from transformers import TokenClassificationPipeline  # its module imports all pipelines

    make: Any = TokenClassificationPipeline
    return make(
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        device=loaded.model.device,
        aggregation_strategy=STRATEGY,
    )


def _entities(pipeline: Any, predictions: Predictions, text: int, row: int) -> list[dict[str, Any]]:
    """Return the entities that the pipeline finds in the model's outputs for a row."""
    spans, batch = predictions.spans(row), predictions.encoded.batch
    tokens = slice(row, row + 1), slice(len(spans))
    made = {
        "logits": predictions.outputs[tokens].cpu(),
        "sentence": predictions.texts[text],
        "input_ids": batch["input_ids"][tokens].cpu(),
        "offset_mapping": torch.tensor([[(it.start, it.stop) for it in spans]]),
        "special_tokens_mask": batch["special_tokens_mask"][tokens].cpu(),
        "is_last": True,
    }
    found: list[dict[str, Any]] = pipeline.postprocess([made], **pipeline._postprocess_params)
    return found


def _explained_output(
    predictions: Predictions, text: int, entity: Mapping[str, Any], names: Sequence[str]
) -> ExplainedOutput:
    options, row = predictions.options, entity["row"]
    group = str(entity.get("entity_group", entity.get("entity")))
    special = predictions.encoded.batch["special_tokens_mask"][row].tolist()
    tokens = [
        position
        for position, it in enumerate(predictions.spans(row))
        if not special[position] and entity["start"] <= it.start <= it.stop <= entity["end"]
    ]
    outputs = predictions.outputs[row, tokens]
    one = group if options.single is None else options.single
    weight = 1 / len(tokens)
    terms: dict[tuple[int, ...], float] = dict.fromkeys(
        zip(tokens, _labels(one, names, outputs), strict=True), weight
    )
    if options.against is not None:
        for token, label in zip(tokens, _labels(options.against, names, outputs), strict=True):
            if (token, label) in terms:
                raise ValueError(f"{names[label]} is contrasted with itself: choose two labels")
            terms[token, label] = -weight
    shares = outputs.softmax(-1).mean(0).tolist()
    own: OutputWeights = dict.fromkeys(zip(tokens, _labels(group, names, outputs), strict=True), weight)
    return ExplainedOutput(
        text=text,
        rows=[row],
        terms=terms,
        prediction=group,
        probability=float(entity["score"]),
        value=predictions.sum_of([row], own),
        probabilities=dict(zip(names, shares, strict=True)),
        target=_name(one, names),
        against=None if options.against is None else _name(options.against, names),
        explained=predictions.sum_of([row], terms),
        tokens=tokens,
        span=Span(int(entity["start"]), int(entity["end"])),
    )


def _labels(group: str | int, names: Sequence[str], outputs: Tensor) -> list[int]:
    """Return the label of each token for a group: the label itself, or the most likely of B-, I-, ..."""
    name = _name(group, names)
    chosen = [label for label, it in enumerate(names) if it == name]
    chosen = chosen or [label for label, it in enumerate(names) if it.partition("-")[2] == name]
    if not chosen:
        raise ValueError(f"label {group!r} is not a label of the model: {', '.join(names)}")
    best = outputs[:, chosen].argmax(-1).tolist()
    return [chosen[it] for it in best]


def _name(group: str | int, names: Sequence[str]) -> str:
    """Return the name of a group, in the spelling of the model."""
    text = str(group)
    if text.isdecimal() and int(text) < len(names) and text not in names:
        return names[int(text)]
    spelt = {it.lower(): it for name in names for it in (name.partition("-")[2], name)}
    return spelt.get(text.lower(), text)
