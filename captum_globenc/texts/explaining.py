"""The explanation of texts: what a classifier predicts for them, and what every token had to do with it.

The front ends (command line, web page) draw what is computed here.

Shapes: B texts, N tokens, L layers, D embedding dimensions, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from textwrap import shorten
from typing import Literal, cast

import torch
from captum.attr import LayerIntegratedGradients
from torch import Tensor
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.attr.decompx import DecompX
from captum_globenc.attr.deep_lift import TransformerDeepLift
from captum_globenc.attr.globenc import GlobEnc
from captum_globenc.forward import EncoderForward
from captum_globenc.texts.explanation import Explanation
from captum_globenc.texts.scores import token_scores
from captum_globenc.texts.tokenizing import encode
from captum_globenc.texts.words import find_words

__all__ = ["COMPARISONS", "explain", "parse_position", "resolve_position"]

INTEGRATION_STEPS = 50
INTEGRATION_BATCH = 32
"""Integration steps, and how many of them times texts run at once: bounds the memory."""


def explain(
    texts: Sequence[str],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    pair: str | Sequence[str | None] | None = None,
    position: int | Literal["mean"] | None = None,
    mixing: str = "N-Enc",
    layers: bool = False,
    compare: Sequence[str] = (),
) -> list[Explanation]:
    """Explain the predictions of a sequence classifier with GlobEnc.

    All texts run as one batch: cut long lists into pieces.

    Args:
        texts: B texts.
        model: A supported Hugging Face sequence classifier, in eval mode.
        tokenizer: Its tokenizer.
        pair: A second segment that goes with every text, or one for each, None where a text has none.
        position: The token whose mixture is explained: its index in every text, negative ones
            counting from the text's own end, or "mean"; left out, what the model's head pools.
        mixing: One of GlobEnc's kinds of mixing matrix.
        layers: Whether to compute the scores after every layer as well.
        compare: Names from `COMPARISONS`; they attribute the predicted class's logit.

    Returns:
        B explanations, in the order of `texts`.

    Raises:
        TypeError: `texts` is one string.
        ValueError: There are not as many pairs as texts, the model is not supported or gives no (B, C)
            logits, a name is not known, a position lies outside of a text, a text is not valid Unicode or
            has tokens that the model has no embedding for, or the model's output is not finite.

    Example:
        >>> from captum_globenc.texts.default import load_default
        >>> (explanation,) = explain(["A wonderful film."], *load_default())
        >>> explanation.prediction, explanation.tokens[1:-1]
        ('POSITIVE', ['a', 'wonderful', 'film', '.'])
    """
    if isinstance(texts, str):
        raise TypeError(f"texts is one string: pass a list of texts, [{shorten(texts, 40)!r}]")
    pairs = [pair] * len(texts) if pair is None or isinstance(pair, str) else list(pair)
    if len(pairs) != len(texts):
        raise ValueError(f"there are {len(pairs)} pairs for {len(texts)} texts")
    unknown = sorted(set(compare) - set(COMPARISONS))
    if unknown:
        raise ValueError(f"no method {', '.join(unknown)} to compare with; known: {', '.join(COMPARISONS)}")
    forward = EncoderForward(model)
    globenc = GlobEnc(forward, model, mixing=mixing)
    if not texts:
        return []
    batch, truncated = encode(texts, pairs, model, tokenizer)
    inputs, extra = forward.arguments(batch)
    with torch.no_grad():
        logits = _checked(forward(inputs, *extra))
    classes = logits.argmax(-1)
    lengths = batch["attention_mask"].sum(-1)
    where = resolve_position(position, lengths, texts) if isinstance(position, int) else position
    if layers:
        per_layer = globenc.attribute_layers(inputs, additional_forward_args=extra, position=where)
        attributions = per_layer[:, -1]
    else:
        attributions = globenc.attribute(inputs, additional_forward_args=extra, position=where)
    tokens, scores = token_scores(batch, tokenizer, attributions)
    words = find_words(batch, tokenizer, texts, [pair for pair in pairs if pair is not None] or None)
    compared = {}
    for name in compare:
        others = COMPARISONS[name](model, tokenizer, batch, classes)
        compared[name] = token_scores(batch, tokenizer, others)[1]
    probabilities = _probabilities(logits, model)
    names = cast("Mapping[int, str]", model.config.id2label or {})
    return [
        Explanation(
            text=text,
            pair=pairs[i],
            prediction=str(names.get(int(classes[i]), int(classes[i]))),
            probability=None if probabilities is None else probabilities[i, classes[i]].item(),
            value=logits[i, classes[i]].item(),
            tokens=tokens[i],
            scores=scores[i],
            layers=per_layer[i, :, : lengths[i]].tolist() if layers else [],
            compared={name: rows[i] for name, rows in compared.items()},
            words=words[i],
            truncated=truncated[i],
        )
        for i, text in enumerate(texts)
    ]


def parse_position(text: str) -> int | Literal["mean"] | None:
    """Read a position that somebody typed.

    Args:
        text: A whole number, "mean", or nothing, for what the model's head pools.

    Raises:
        ValueError: It is none of these.

    Example:
        >>> parse_position(" -1 "), parse_position("mean"), parse_position("")
        (-1, 'mean', None)
    """
    text = text.strip()
    if text in ("", "mean"):
        return "mean" if text else None
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"position must be a whole number or mean, not {text!r}") from None


def _checked(logits: Tensor) -> Tensor:
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        shape = tuple(getattr(logits, "shape", ()))
        raise ValueError(f"a sequence classifier gives logits (B, C), this model gives {shape}")
    if not logits.isfinite().all():
        raise ValueError("the model's output is NaN or infinite")
    return logits.float()


def resolve_position(position: int, lengths: Tensor, texts: Sequence[str]) -> Tensor:
    """Turn one position into an index (B,) into every text's own tokens.

    Args:
        position: The index, negative ones counting from a text's own end.
        lengths: How many tokens each text has, (B,).
        texts: B texts, for the message.

    Raises:
        ValueError: A text has no such token.

    Example:
        >>> resolve_position(-1, torch.tensor([3, 5]), ["good", "a good film"])
        tensor([2, 4])
    """
    for text, length in zip(texts, lengths.tolist(), strict=True):
        if not -length <= position < length:
            raise ValueError(
                f"position {position} is out of range: {shorten(text, 40)!r} has {length} tokens, "
                f"0 to {length - 1}"
            )
    return lengths + position if position < 0 else torch.full_like(lengths, position)


def _probabilities(logits: Tensor, model: PreTrainedModel) -> Tensor | None:
    """Probabilities (B, C); None for a regression model, whose output is no probability."""
    problem = model.config.problem_type
    if problem == "multi_label_classification":
        return logits.sigmoid()
    if problem == "regression" or logits.shape[1] == 1:
        return None
    return logits.softmax(-1)


def _integrated_gradients(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: BatchEncoding,
    classes: Tensor,
) -> Tensor:
    """Integrated gradients (B, N, D) of the logits of `classes` (B,) at the word embeddings.

    The baseline keeps the special tokens and puts padding, or the mask where a tokenizer has no
    padding, in the place of every other one.
    """
    forward = EncoderForward(model)
    inputs, extra = forward.arguments(batch)
    blank = tokenizer.mask_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    baselines = torch.where(batch["special_tokens_mask"].bool(), inputs, blank)
    method = LayerIntegratedGradients(forward, model.get_input_embeddings())
    attributions: Tensor = method.attribute(
        inputs,
        baselines=baselines,
        target=classes,
        additional_forward_args=extra,
        n_steps=INTEGRATION_STEPS,
        internal_batch_size=max(INTEGRATION_BATCH, len(inputs)),
    )
    return attributions.detach()


def _exact_differences(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: BatchEncoding,
    classes: Tensor,
) -> Tensor:
    """Contributions (B, N) to the logits of `classes` (B,), from the text all masked."""
    forward = EncoderForward(model)
    inputs, extra = forward.arguments(batch)
    scores: Tensor = TransformerDeepLift(forward).attribute(
        inputs, forward.masked(batch, tokenizer), classes, extra
    )
    return scores


def _decompx(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: BatchEncoding,
    classes: Tensor,
) -> Tensor:
    """DecompX's scores (B, N) for the logits of `classes` (B,)."""
    forward = EncoderForward(model)
    inputs, extra = forward.arguments(batch)
    scores: Tensor = DecompX(forward).attribute(inputs, classes, extra)
    return scores


COMPARISONS: Mapping[
    str, Callable[[PreTrainedModel, PreTrainedTokenizerBase, BatchEncoding, Tensor], Tensor]
] = {
    "transformer-deep-lift": _exact_differences,
    "decompx": _decompx,
    "integrated-gradients": _integrated_gradients,
}
"""Methods to compare GlobEnc with, by the names that `explain` takes."""
