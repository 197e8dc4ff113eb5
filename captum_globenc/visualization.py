"""Pictures of token attributions: records for Captum's ``visualize_text``, and HTML pages.

Shapes: B texts, N tokens with padding, D embedding dimensions, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from captum.attr._utils.visualization import VisualizationDataRecord
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

__all__ = ["html_page", "strengths", "token_scores", "visualization_records"]


def token_scores(
    batch: Mapping[str, Tensor], tokenizer: PreTrainedTokenizerBase, attributions: Tensor
) -> tuple[list[list[str]], list[list[float]]]:
    """Pair the real tokens of each text with their scores, padding left out.

    Args:
        batch: What the tokenizer returned with ``return_tensors="pt"``: ``input_ids`` (B, N) and,
            where there is padding, ``attention_mask`` (B, N).
        tokenizer: The tokenizer that made ``batch``.
        attributions: (B, N), or (B, N, D) to be summed over D.

    Returns:
        The tokens and the scores, one list a text.

    Raises:
        ValueError: ``attributions`` do not fit the batch, or hold NaN or infinity.
    """
    ids = batch["input_ids"]
    if attributions.dim() == 3:
        attributions = attributions.sum(-1)
    if attributions.shape != ids.shape:
        raise ValueError(
            f"attributions of shape {tuple(attributions.shape)} do not fit "
            f"input_ids of shape {tuple(ids.shape)}"
        )
    if not attributions.isfinite().all():
        raise ValueError("attributions hold NaN or infinity")
    real = batch.get("attention_mask", ids.new_ones(ids.shape)).bool()
    tokens = [
        list(tokenizer.convert_ids_to_tokens(row[keep].tolist())) for row, keep in zip(ids, real, strict=True)
    ]
    scores = [
        row[keep].tolist()
        for row, keep in zip(attributions.detach(), real.to(attributions.device), strict=True)
    ]
    return tokens, scores


def strengths(scores: Sequence[float]) -> list[float]:
    """Scale the scores of one text to -1..1 by the largest magnitude; zeros stay zeros.

    Example:
        >>> strengths([0.1, -0.4, 0.2])
        [0.25, -1.0, 0.5]
    """
    largest = max(map(abs, scores), default=0.0)
    return [score / largest if largest else 0.0 for score in scores]


def visualization_records(
    batch: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    attributions: Tensor,
    logits: Tensor,
    *,
    class_names: Mapping[int, str] | None = None,
    true_classes: Sequence[int] | None = None,
    targets: Sequence[int] | None = None,
) -> list[VisualizationDataRecord]:
    """Make the records that Captum's ``visualize_text`` draws, one a text.

    ``visualize_text`` writes tokens and class names into HTML as they are, and clips colours at
    -1 and 1: so these come escaped, and the scores scaled by the largest magnitude of their text.
    The attribution score of a record is the sum of the scores before scaling.

    Args:
        batch: What the tokenizer returned with ``return_tensors="pt"``: ``input_ids`` (B, N) and,
            where there is padding, ``attention_mask`` (B, N).
        tokenizer: The tokenizer that made ``batch``.
        attributions: (B, N), or (B, N, D) to be summed over D; from any Captum method.
        logits: (B, C), of a classifier; with C = 1 the value itself stands for the probability.
        class_names: Names by class, such as ``model.config.id2label``; left out, the numbers.
        true_classes: The B classes that the texts are labelled with; left out, "-" is shown.
        targets: The B classes that were attributed to; left out, the predicted ones.

    Returns:
        B ``captum.attr.visualization.VisualizationDataRecord``.

    Raises:
        ValueError: The arguments do not fit each other, or the attributions hold NaN or infinity.

    Example::

        forward = EncoderForward(model)
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        inputs, extra = forward.arguments(batch)
        scores = GlobEnc(forward, model).attribute(inputs, additional_forward_args=extra)
        visualize_text(
            visualization_records(batch, tokenizer, scores, forward(inputs, *extra),
                                  class_names=model.config.id2label)
        )
    """
    # Captum's module brings matplotlib and, where installed, IPython; an HTML page needs neither.
    import torch
    from captum.attr import visualization

    def class_name(index: int | None) -> str:
        if index is None:
            return "-"
        return escape(str(index if class_names is None else class_names[index]))

    tokens, scores = token_scores(batch, tokenizer, attributions)
    if logits.dim() != 2:
        raise ValueError(f"logits must be (B, C), not of shape {tuple(logits.shape)}")
    predicted = logits.argmax(-1).tolist()
    probabilities = logits.detach().float()
    if logits.shape[1] > 1:
        probabilities = probabilities.softmax(-1)
    rows = {
        "logits": predicted,
        "true_classes": [None] * len(tokens) if true_classes is None else list(true_classes),
        "targets": predicted if targets is None else list(targets),
    }
    for name, row in rows.items():
        if len(row) != len(tokens):
            raise ValueError(f"{name} are for {len(row)} texts, the batch holds {len(tokens)}")
    return [
        visualization.VisualizationDataRecord(
            word_attributions=torch.tensor(strengths(scores[i])),
            pred_prob=probabilities[i, predicted[i]].item(),
            pred_class=class_name(predicted[i]),
            true_class=class_name(rows["true_classes"][i]),
            attr_class=class_name(rows["targets"][i]),
            attr_score=math.fsum(scores[i]),
            raw_input_ids=[escape(token) for token in tokens[i]],
            convergence_score=0.0,
        )
        for i in range(len(tokens))
    ]


def html_page(
    tokens: Sequence[Sequence[str]],
    methods: Mapping[str, Sequence[Iterable[float]]],
    *,
    headings: Sequence[str] | None = None,
    title: str = "Token attributions",
) -> str:
    """Draw one or several methods' scores over the same texts as a standalone HTML page.

    The page asks for nothing else: no script, no network, no notebook. It follows the reader's
    light or dark theme, and shows each number on hover and in a table. All texts are escaped.

    Args:
        tokens: The tokens of each text, padding left out (see `token_scores`).
        methods: Per method name the scores of each text, as many as it has tokens.
        headings: A line over each text, such as its prediction; left out, the text's number.
        title: The page's title.

    Returns:
        The page, to be written to a file as UTF-8.

    Raises:
        ValueError: There are not as many headings as texts, or scores as tokens.

    Example:
        >>> page = html_page([["a", "<b>"]], {"GlobEnc": [[0.4, 0.6]]})
        >>> "&lt;b&gt;" in page, "<b>" in page
        (True, False)
    """
    if headings is None:
        headings = [f"Text {number}" for number in range(1, len(tokens) + 1)]
    if len(headings) != len(tokens):
        raise ValueError(f"{len(headings)} headings for {len(tokens)} texts")
    for name, rows in methods.items():
        if len(rows) != len(tokens):
            raise ValueError(f"{name} has scores for {len(rows)} texts, not {len(tokens)}")
    sections = []
    has_negative = False
    for index, words in enumerate(tokens):
        scores = {name: [float(score) for score in rows[index]] for name, rows in methods.items()}
        for name, row in scores.items():
            if len(row) != len(words):
                raise ValueError(
                    f"{name} has {len(row)} scores for the {len(words)} tokens of text {index + 1}"
                )
            has_negative = has_negative or min(row, default=0.0) < 0
        sections.append(_section(headings[index], words, scores))
    legend = _LEGEND_SIGNED if has_negative else _LEGEND
    return _PAGE.format(title=escape(title), style=_STYLE, legend=legend, sections="\n".join(sections))


def _section(heading: str, tokens: Sequence[str], scores: Mapping[str, Sequence[float]]) -> str:
    """One text: a line of shaded tokens per method, and all the numbers in a table."""
    lines = "\n".join(
        f'<h3>{escape(name)}</h3>\n<p class="tokens" dir="auto">{_shaded(tokens, row)}</p>'
        for name, row in scores.items()
    )
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in scores)
    numbers = "\n".join(
        f'<tr><th scope="row">{escape(token)}</th>'
        + "".join(f"<td>{number:.4f}</td>" for number in row)
        + "</tr>"
        for token, *row in zip(tokens, *scores.values(), strict=True)
    )
    return (
        f"<section>\n<h2>{escape(heading)}</h2>\n{lines}\n<details><summary>Numbers</summary>\n"
        f'<div class="scroll"><table>\n<tr><th scope="col">token</th>{names}</tr>\n'
        f"{numbers}\n</table></div></details>\n</section>"
    )


def _shaded(tokens: Sequence[str], scores: Sequence[float]) -> str:
    return " ".join(
        f'<span class="{"negative" if strength < 0 else "positive"}" '
        f'style="--strength:{abs(strength):.3f}" title="{score:.4g}">{escape(token)}</span>'
        for token, score, strength in zip(tokens, scores, strengths(scores), strict=True)
    )


# Text on the strongest shade keeps a contrast above 5 to 1 in both themes; orange and blue stay
# apart for readers who do not tell red from green.
_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --text: #1a1a1a; --quiet: #595959; --line: #d5d5d5;
  --positive: 255 158 64; --negative: 116 178 255; }
@media (prefers-color-scheme: dark) {
  :root { --page: #16181c; --text: #f2f2f2; --quiet: #b0b0b0; --line: #3d4148;
    --positive: 150 72 0; --negative: 22 84 166; }
}
body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem; background: var(--page);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 0; overflow-wrap: anywhere; }
h3 { font-size: .85rem; font-weight: 600; color: var(--quiet); margin: .8rem 0 .2rem; }
section { border-top: 1px solid var(--line); padding: 1.2rem 0; }
.tokens { margin: 0; line-height: 2; overflow-wrap: anywhere; }
.positive, .negative { border-radius: .2rem; padding: .15rem .25rem;
  -webkit-print-color-adjust: exact; print-color-adjust: exact; }
.positive { background: rgb(var(--positive) / var(--strength)); }
.negative { background: rgb(var(--negative) / var(--strength)); }
.legend, summary { color: var(--quiet); font-size: .85rem; }
.scale { display: inline-block; width: 8rem; height: .8rem; vertical-align: middle;
  border: 1px solid var(--line); -webkit-print-color-adjust: exact; print-color-adjust: exact;
  background: linear-gradient(to right, var(--page), rgb(var(--positive))); }
.signed { background: linear-gradient(to right, rgb(var(--negative)), var(--page),
  rgb(var(--positive))); }
details { margin-top: .8rem; } summary { cursor: pointer; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .1rem .8rem .1rem 0; text-align: right; font-weight: 400; }
tr > :first-child { text-align: left; } tr:first-child th { font-weight: 600; }
"""

_LEGEND_END = "Shades are relative to the strongest token of each line; hover for the number."
_LEGEND = f'0 <span class="scale"></span> strongest. {_LEGEND_END}'
_LEGEND_SIGNED = f'negative <span class="scale signed"></span> positive. {_LEGEND_END}'

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p class="legend">{legend}</p>
{sections}
</body>
</html>
"""
