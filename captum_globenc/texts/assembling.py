"""Explanations put together: what was asked of each text, and the scores that methods gave for it.

Shapes: A asked rows, N tokens of a row, L layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import compress, groupby
from typing import Any, Literal

from torch import Tensor

from captum_globenc.results.explanation import Explanation
from captum_globenc.results.record import Kind
from captum_globenc.texts.asked import Asked, Given
from captum_globenc.texts.digest import versions
from captum_globenc.texts.methods import METHODS
from captum_globenc.texts.origin import find_offsets, find_unknown
from captum_globenc.texts.request import resolve_baseline
from captum_globenc.texts.windows import lay_together

__all__ = ["assemble", "beside"]


def assemble(
    given: Given,
    asked: Sequence[Asked],
    scores: Mapping[str, Tensor],
    layers: Mapping[str, Tensor],
    *,
    position: Tensor | Literal["mean"] | int | None,
) -> list[Explanation]:
    """Return an explanation of each thing that was asked, or one of all that are shown side by side.

    Scores of windows are laid together over their text: what only one of them was asked for is 0 elsewhere.
    Averages over several do not add up to a difference any more, and are told to be signed.

    Args:
        given: the texts, and what the model gave for them.
        asked: what was asked.
        scores: by method, `(A, N)`, the rows of what was asked one after the other.
        layers: by method that has them, `(A, L, N)`.
        position: which token's mixture GlobEnc has explained: `(A,)` indices, "mean", an index into all
            texts, or None where that is no single one.
    """
    made = []
    for it, rows in _spans(asked):
        laid = _Laid(given, it)
        kinds: dict[str, Kind] = {name: METHODS[name].kind for name in scores}
        if len(it.rows) > 1:
            kinds = {name: "signed" if kind == "contributions" else kind for name, kind in kinds.items()}
        made.append(
            Explanation(
                text=given.texts[it.text],
                pair=given.pairs[it.text],
                prediction=it.prediction,
                probability=it.probability,
                value=it.value,
                probabilities=it.probabilities,
                target=it.target,
                against=it.against,
                explained=it.explained,
                position=_place(given, it, rows.start, position) if "globenc" in scores else None,
                scores={name: laid.row(values[rows], kinds[name]) for name, values in scores.items()},
                kinds=kinds,
                layers={
                    name: [laid.row(values[rows, depth], kinds[name]) for depth in range(values.shape[1])]
                    for name, values in layers.items()
                },
                span=it.span,
                **_of_text(given, it.text),
            )
        )
    together = groupby(zip(asked, made, strict=True), key=lambda pair: (pair[0].text, pair[0].beside))
    groups = [([explanation for _, explanation in group], key[1]) for key, group in together]
    return [it for group, joined in groups for it in ([beside(group)] if joined else group)]


def beside(found: Sequence[Explanation]) -> Explanation:
    """Return explanations of one text for several classes as one, with scores by method and class.

    Args:
        found: one for each class. Scores of methods that know no class are kept once.
    """
    first = found[0]
    made: dict[str, Any] = {"scores": {}, "kinds": {}, "layers": {}, "outputs": {}}
    for name, kind in first.kinds.items():
        knows_class = METHODS[name].knows_class
        for it in found if knows_class else found[:1]:
            key = f"{name}: {it.target}" if knows_class else name
            made["scores"][key], made["kinds"][key] = it.scores[name], kind
            if knows_class:
                made["outputs"][key] = (it.target, it.explained)
            if name in it.layers:
                made["layers"][key] = it.layers[name]
    return replace(first, **made, target=first.prediction, explained=first.value)


class _Laid:
    """Lays scores of rows over their text.

    Args:
        given: the texts.
        asked: what the rows are of.
    """

    def __init__(self, given: Given, asked: Asked) -> None:
        self._windows = [given.encoded.places[row] for row in asked.rows]
        self._real = [given.encoded.batch["attention_mask"][row].bool().tolist() for row in asked.rows]
        self._whole = len(given.encoded.rows[asked.text]) == 1
        self._count = given.encoded.length(asked.text)

    def row(self, values: Tensor, kind: Kind) -> list[float]:
        """Return the scores of the text's tokens, from those of its rows, `(rows, N)`."""
        rows: list[list[float]] = [
            list(compress(row.tolist(), real)) for row, real in zip(values, self._real, strict=True)
        ]
        if self._whole:
            return rows[0]
        laid = lay_together(self._count, self._windows, rows)
        total = laid.sum() if kind in ("shares", "sizes") else 0
        found: list[float] = (laid / total if total else laid).tolist()
        return found


def _spans(asked: Sequence[Asked]) -> Iterator[tuple[Asked, slice]]:
    """Yield what was asked, and which of A its rows are."""
    start = 0
    for it in asked:
        yield it, slice(start, start + len(it.rows))
        start += len(it.rows)


def _place(
    given: Given, asked: Asked, row: int, position: Tensor | Literal["mean"] | int | None
) -> Literal["mean"] | int | None:
    """Return the token that GlobEnc has explained, in its text, or "mean"; None where it is no single one."""
    if isinstance(position, Tensor):
        return int(position[row])
    if position is None and len(asked.tokens) == 1:
        return given.encoded.places[asked.rows[0]][asked.tokens[0]]
    return position


def _of_text(given: Given, text: int) -> dict[str, Any]:
    """Return the fields that tell of a text and of what read it."""
    whole, model = given.encoded.whole, given.subject.model
    baseline = resolve_baseline(given.options.baseline, model, given.subject.tokenizer)
    settings = {"mixing": given.options.mixing, "baseline": baseline}
    if len(given.encoded.rows[text]) > 1:
        settings["windows"] = str(given.options.windows)
    ids = whole["input_ids"][text, : given.encoded.length(text)].tolist()
    return {
        "tokens": [str(token) for token in given.subject.tokenizer.convert_ids_to_tokens(ids)],
        "groups": given.words[text],
        "offsets": find_offsets(whole, text),
        "model": {"name": str(model.config.name_or_path or ""), "class": type(model).__name__},
        "settings": settings,
        "versions": versions(),
        "truncated": given.encoded.truncated[text],
        "ids": ids,
        "unknown": find_unknown(ids, given.words[text], given.subject.tokenizer.unk_token_id),
    }
