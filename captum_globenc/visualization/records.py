"""Attributions for Captum's ``visualize_text`` and ``visualize_image_attr``.

Shapes: B texts, N tokens with padding, D embedding dimensions, C classes; channels, H, W of an image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from inspect import signature
from typing import TYPE_CHECKING, Any

from captum_globenc.drawing.numbers import strengths
from captum_globenc.texts.words import token_scores

if TYPE_CHECKING:
    from captum.attr import LLMAttributionResult
    from captum.attr._utils.visualization import VisualizationDataRecord
    from matplotlib.axes import Axes
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from captum_globenc.results.explanation import Explanation
    from captum_globenc.texts.words import Source


__all__ = ["llm_result", "visualization_records", "visualize_image"]


def llm_result(explanation: Explanation, method: str | None = None) -> LLMAttributionResult:
    """Return an explanation of generated text as Captum's result object; see `Explanation.to_captum`."""
    import torch
    from captum.attr import LLMAttributionResult

    answer, name = explanation.answer, explanation.chosen(method)
    if answer is None:
        raise ValueError(
            "to_captum() is for generated text: visualization_records of captum_globenc.visualization makes "
            "Captum's records of classified texts"
        )
    rows = explanation.answer_scores.get(name)
    made: dict[str, Any] = {
        "input_tokens": list(explanation.tokens),
        "output_tokens": list(answer.tokens),
        "seq_attr": torch.tensor(explanation.scores[name]),
        "token_attr": None if rows is None else torch.tensor(rows),
    }
    if "output_probs" in signature(LLMAttributionResult).parameters:  # from Captum 0.9 on
        made["output_probs"] = torch.tensor(answer.log_probabilities).exp()
    return LLMAttributionResult(**made)


def visualization_records(
    batch: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    attributions: Tensor,
    logits: Tensor,
    *,
    class_names: Mapping[int, str] | Sequence[str] | None = None,
    true_classes: Sequence[int | float] | Tensor | None = None,
    targets: Sequence[int] | Tensor | None = None,
    problem_type: str | None = None,
    words: str | None = None,
    special: bool = True,
    texts: Sequence[Source] | None = None,
    pairs: Sequence[Source] | None = None,
) -> list[VisualizationDataRecord]:
    """Return records for Captum's ``visualize_text``, one per text.

    ``visualize_text`` does not escape tokens and class names, and clips scores at -1 and 1. So this function
    escapes them, and divides the scores by the largest magnitude of their text. The attribution score of a
    record is the sum of the scores before scaling.

    Args:
        batch: The tokenizer's output with ``return_tensors="pt"``: ``input_ids`` (B, N) and, if there is
            padding, ``attention_mask`` (B, N).
        tokenizer: The tokenizer of ``batch``.
        attributions: (B, N), or (B, N, D), which is summed over D; from any Captum method.
        logits: (B, C), of a classifier or a regression.
        class_names: Names by class index, such as ``model.config.id2label``; by default the indices.
        true_classes: B true classes, or the true values of a regression, as a list or a tensor; by default
            "-" is shown.
        targets: B explained classes, as a list or a tensor; by default the predicted classes.
        problem_type: ``model.config.problem_type``. For "regression", and for C = 1, the value is shown
            instead of a probability; for "multi_label_classification", each probability is a sigmoid. By
            default, the probabilities are a softmax.
        words: How the scores of a word's tokens are combined ("sum", "mean" or "max"); by default tokens are
            shown.
        special: Whether special tokens are shown.
        texts: The B texts, so that words are shown as written.
        pairs: The B second segments, so that words are shown as written.

    Returns:
        B ``captum.attr.visualization.VisualizationDataRecord``.

    Raises:
        ValueError: The sizes of the arguments differ, or the attributions or logits contain NaN or infinity.

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
    # Captum's module imports matplotlib and, if installed, IPython, which HTML pages do not need.
    import torch
    from captum.attr import visualization

    regression = problem_type == "regression" or logits.shape[-1] == 1

    known = class_names if isinstance(class_names, Mapping | None) else dict(enumerate(class_names))

    def class_name(index: int) -> str:
        if known is not None and index not in known:
            raise ValueError(f"class {index} has no name in class_names, only {', '.join(map(str, known))}")
        return escape(str(index if known is None else known[index]))

    def true_name(label: Any) -> str:
        if label is None:
            return "-"
        return f"{float(label):.4g}" if regression else class_name(label)

    tokens, scores = token_scores(
        batch, tokenizer, attributions, words=words, special=special, texts=texts, pairs=pairs
    )
    if logits.dim() != 2:
        raise ValueError(f"logits must be (B, C), not of shape {tuple(logits.shape)}")
    if not logits.isfinite().all():
        raise ValueError("logits contain NaN or infinity")
    predicted = logits.argmax(-1).tolist()
    probabilities = logits.detach().float()
    if problem_type == "multi_label_classification":
        probabilities = probabilities.sigmoid()
    elif not regression:
        probabilities = probabilities.softmax(-1)
    rows: dict[str, list[Any]] = {
        "logits": predicted,
        "true_classes": [None] * len(tokens) if true_classes is None else _plain(true_classes),
        "targets": predicted if targets is None else _plain(targets),
    }
    for name, row in rows.items():
        if len(row) != len(tokens):
            raise ValueError(f"{name} are for {len(row)} texts, the batch holds {len(tokens)}")
    return [
        visualization.VisualizationDataRecord(
            word_attributions=torch.tensor(strengths(scores[i])),
            pred_prob=probabilities[i, predicted[i]].item(),
            pred_class=class_name(predicted[i]),
            true_class=true_name(rows["true_classes"][i]),
            attr_class=class_name(rows["targets"][i]),
            attr_score=math.fsum(scores[i]),
            raw_input_ids=[escape(token) for token in tokens[i]],
            convergence_score=0.0,
        )
        for i in range(len(tokens))
    ]


def _plain(values: Sequence[Any] | Tensor) -> list[Any]:
    """Return the values of a tensor, an array or a list as Python numbers."""
    return [value.item() if hasattr(value, "item") else value for value in values]


def visualize_image(attributions: Tensor, image: Tensor, *, ax: Axes | None = None, **options: Any) -> Axes:
    """Draw the attributions of one image with Captum's ``visualize_image_attr``.

    Args:
        attributions: (channels, H, W) or (1, channels, H, W), from any Captum method.
        image: The pixels, of the same shape. Values outside of [0, 1], as in a normalized image, are scaled
            to that range.
        ax: The matplotlib axes; by default a new figure's.
        options: Further arguments of ``visualize_image_attr``. The defaults are
            ``method="blended_heat_map"``, and ``sign="all"`` if a score is negative, else "positive".

    Returns:
        The axes.

    Raises:
        ValueError: The shapes differ, there is NaN or infinity, the scores of every pixel sum to 0 over its
            channels, or Captum rejects the options.

    Example:
        >>> import torch
        >>> from matplotlib.figure import Figure
        >>> ax = visualize_image(torch.rand(1, 3, 4, 4), torch.randn(1, 3, 4, 4), ax=Figure().subplots())
        >>> len(ax.images)
        2
    """
    from captum.attr import visualization
    from matplotlib import pyplot

    if attributions.shape != image.shape or attributions.dim() not in (3, 4):
        raise ValueError(
            f"attributions {tuple(attributions.shape)} and image {tuple(image.shape)} must both be "
            "(channels, H, W) or (1, channels, H, W)"
        )
    if attributions.dim() == 4 and len(attributions) != 1:
        raise ValueError(f"one image at a time, not {len(attributions)}: index the batch")
    scores, pixels = (
        values.detach().cpu().float().reshape(values.shape[-3:]).permute(1, 2, 0)
        for values in (attributions, image)
    )
    if not (scores.isfinite().all() and pixels.isfinite().all()):
        raise ValueError("attributions or image contain NaN or infinity")
    if not scores.sum(-1).any():  # Captum draws the sums
        raise ValueError("all scores are 0, or their sum over the channels is: there is nothing to draw")
    low, high = pixels.min(), pixels.max()
    if low < 0 or high > 1:
        pixels = (pixels - low) / (high - low if high > low else 1)
    if pixels.shape[-1] == 1:
        pixels = pixels.expand(-1, -1, 3)
    made, ax = pyplot.subplots() if ax is None else (None, ax)
    sign = "all" if bool((scores < 0).any()) else "positive"
    defaults = {"method": "blended_heat_map", "sign": sign, "use_pyplot": False}
    try:
        visualization.visualize_image_attr(
            scores.numpy(), pixels.numpy(), plt_fig_axis=(ax.figure, ax), **{**defaults, **options}
        )
    except Exception as error:
        if made is not None:
            pyplot.close(made)
        if isinstance(error, AssertionError):
            raise ValueError(f"Captum cannot draw these scores with {options}: {error}") from error
        raise
    return ax
