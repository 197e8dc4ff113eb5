"""What is asked of a token classifier: the entities that it finds, grouped as its pipeline groups them.

Letters: R rows, N tokens, C labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any, cast

import torch
from torch import Tensor

from captum_globenc.results.record import Span
from captum_globenc.texts.asked import Asked, Given, Picks

__all__ = ["ask_entities"]

STRATEGY = "simple"
"""How tokens are grouped into entities unless a pipeline says otherwise."""


def ask_entities(given: Given) -> list[Asked]:
    """Ask why some words are an entity: the mean of its tokens' outputs for its label is explained.

    A token's label is the likeliest of the entity's group: of B-PER and I-PER for PER.

    Args:
        given: logits `(R, N, C)`.

    Returns:
        One for each entity of each text, in their order.

    Raises:
        ValueError: the outputs are not (R, N, C), a text has a pair, the tokenizer does not tell where tokens
            stand, or the labels of the model have no such group.
    """
    if given.outputs.dim() != 3:
        raise ValueError(f"a token classifier gives (B, N, C), this model gives {tuple(given.outputs.shape)}")
    if any(pair is not None for pair in given.pairs):
        raise ValueError("entities are of one text: leave pair out")
    pipeline = _pipeline(given)
    # As the pipeline calls them, which may call several alike.
    called = cast("Mapping[int, str]", given.subject.model.config.id2label or {})
    names = [str(called.get(index, index)) for index in range(given.outputs.shape[2])]
    asked = []
    for text, rows in enumerate(given.encoded.rows):
        found = [{**entity, "row": row} for row in rows for entity in _entities(pipeline, given, text, row)]
        if len(rows) > 1:
            found = pipeline.aggregate_overlapping_entities(found)
        if not found:
            given.tell(f"no entity is found in {shorten(given.texts[text], 40)!r}")
        asked += [_asked(given, text, entity, names) for entity in found]
    return asked


def _pipeline(given: Given) -> Any:
    """Return the pipeline that was given, or one that leaves the model where it is."""
    if given.subject.pipeline is not None:
        return given.subject.pipeline
    from transformers import TokenClassificationPipeline  # of a module that imports all kinds of pipelines

    make: Any = TokenClassificationPipeline
    return make(
        model=given.subject.model,
        tokenizer=given.subject.tokenizer,
        device=given.subject.model.device,
        aggregation_strategy=STRATEGY,
    )


def _entities(pipeline: Any, given: Given, text: int, row: int) -> list[dict[str, Any]]:
    """Return what the pipeline makes of the model's outputs for a row."""
    spans = given.spans(row)
    count = len(spans)
    made = {
        "logits": given.outputs[row : row + 1, :count].cpu(),
        "sentence": given.texts[text],
        "input_ids": given.encoded.batch["input_ids"][row : row + 1, :count].cpu(),
        "offset_mapping": torch.tensor([[(it.start, it.stop) for it in spans]]),
        "special_tokens_mask": given.encoded.batch["special_tokens_mask"][row : row + 1, :count].cpu(),
        "is_last": True,
    }
    found: list[dict[str, Any]] = pipeline.postprocess([made], **pipeline._postprocess_params)
    return found


def _asked(given: Given, text: int, entity: Mapping[str, Any], names: Sequence[str]) -> Asked:
    row, group = entity["row"], str(entity.get("entity_group", entity.get("entity")))
    special = given.encoded.batch["special_tokens_mask"][row].tolist()
    tokens = [
        place
        for place, it in enumerate(given.spans(row))
        if not special[place] and entity["start"] <= it.start <= it.stop <= entity["end"]
    ]
    outputs = given.outputs[row, tokens]
    one = group if given.options.single is None else given.options.single
    weight = 1 / len(tokens)
    picks: dict[tuple[int, ...], float] = dict.fromkeys(
        zip(tokens, _labels(one, names, outputs), strict=True), weight
    )
    if given.options.against is not None:
        for token, label in zip(tokens, _labels(given.options.against, names, outputs), strict=True):
            if (token, label) in picks:
                raise ValueError(f"{names[label]} is held against itself: choose two labels")
            picks[token, label] = -weight
    shares = outputs.softmax(-1).mean(0).tolist()
    own: Picks = dict.fromkeys(zip(tokens, _labels(group, names, outputs), strict=True), weight)
    return Asked(
        text=text,
        rows=[row],
        picks=picks,
        prediction=group,
        probability=float(entity["score"]),
        value=given.sum_of([row], own),
        probabilities=dict(zip(names, shares, strict=True)),
        target=_name(one, names),
        against=None if given.options.against is None else _name(given.options.against, names),
        explained=given.sum_of([row], picks),
        tokens=tokens,
        span=Span(int(entity["start"]), int(entity["end"])),
    )


def _labels(group: str | int, names: Sequence[str], outputs: Tensor) -> list[int]:
    """Return each token's label of a group: the one of that name or index, else its likeliest of B-, I-...

    Args:
        group: a label, its index, or what follows B- and I-.
        names: of the labels.
        outputs: the tokens' outputs `(P, C)`.

    Raises:
        ValueError: there is no such label.
    """
    name = _name(group, names)
    chosen = [label for label, it in enumerate(names) if it == name]
    chosen = chosen or [label for label, it in enumerate(names) if it.partition("-")[2] == name]
    if not chosen:
        raise ValueError(f"label {group!r} is none of the model's: {', '.join(names)}")
    best = outputs[:, chosen].argmax(-1).tolist()
    return [chosen[it] for it in best]


def _name(group: str | int, names: Sequence[str]) -> str:
    """Return a group as the model spells it."""
    text = str(group)
    if text.isdecimal() and int(text) < len(names) and text not in names:
        return names[int(text)]
    spelt = {it.lower(): it for name in names for it in (name.partition("-")[2], name)}
    return spelt.get(text.lower(), text)
