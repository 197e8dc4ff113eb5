"""Select the outputs of a masked language model: the word that it predicts for each mask token of a text.

Shapes: R rows, N tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten

from transformers import PreTrainedTokenizerBase

from captum_globenc.texts.outputs import ExplainedOutput, OutputWeights, Predictions

__all__ = ["select_masks"]

TOP_K = 5
"""The number of most likely tokens with probabilities, the `top_k` of the pipeline of transformers."""


def select_masks(predictions: Predictions) -> list[ExplainedOutput]:
    """Select the logit of the predicted word, or of the target, for each mask token.

    In a text of several windows, the window with the most context on both sides predicts a mask token.

    Args:
        predictions: logits `(R, N, V)`.

    Returns:
        One output for each mask token of each text, in order.

    Raises:
        ValueError: the outputs are not (R, N, V), a text has no mask token, or the target is not one token.
    """
    if predictions.outputs.dim() != 3:
        raise ValueError(
            f"a masked language model gives (B, N, V), this model gives {tuple(predictions.outputs.shape)}"
        )
    tokenizer = predictions.loaded.tokenizer
    mask, explained = tokenizer.mask_token_id, []
    if mask is None:
        raise ValueError(
            "a masked language model predicts mask tokens, and the tokenizer has none: set its mask_token"
        )
    for text, rows in enumerate(predictions.encoded.rows):
        ids = predictions.encoded.whole["input_ids"][text].tolist()
        masked = [position for position, it in enumerate(ids) if it == mask]
        if not masked:
            raise ValueError(
                f"{shorten(predictions.texts[text], 40)!r} has no {tokenizer.mask_token}: a masked language "
                "model predicts mask tokens"
            )
        explained += [_explained_output(predictions, text, rows, position) for position in masked]
    return explained


def _explained_output(
    predictions: Predictions, text: int, rows: Sequence[int], position: int
) -> ExplainedOutput:
    tokenizer, options = predictions.loaded.tokenizer, predictions.options
    positions = predictions.encoded.positions
    found = {row: positions[row].index(position) for row in rows if position in positions[row]}
    row = max(found, key=lambda it: min(found[it], len(positions[it]) - 1 - found[it]))
    token = found[row]
    logits = predictions.outputs[row, token]
    shares = logits.softmax(-1)
    best = int(logits.argmax())
    one = best if options.single is None else _token(options.single, tokenizer)
    terms: OutputWeights = {(token, one): 1.0}
    if options.against is not None:
        other = _token(options.against, tokenizer)
        if other == one:
            raise ValueError(f"{options.against} is contrasted with itself: choose two words")
        terms = {**terms, (token, other): -1.0}
    offsets = predictions.offsets(row)
    likely = shares.topk(min(TOP_K, len(shares)))
    probabilities: dict[str, float] = {}
    for it, share in zip(likely.indices.tolist(), likely.values.tolist(), strict=True):
        # Several tokens may have the same text, such as one at a word start and one inside a word.
        probabilities.setdefault(_read(it, tokenizer), share)
    return ExplainedOutput(
        text=text,
        rows=[row],
        terms=terms,
        prediction=_read(best, tokenizer),
        probability=shares[best].item(),
        value=logits[best].item(),
        probabilities=probabilities,
        target=_read(one, tokenizer),
        against=None if options.against is None else _read(other, tokenizer),
        explained=predictions.sum_of([row], terms),
        tokens=[token],
        span=offsets[token] if offsets else None,
    )


def _token(word: str | int, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id of a word: of the token with this name, or of the only token of the word."""
    if isinstance(word, int) and 0 <= word < len(tokenizer):
        return word
    known = tokenizer.get_vocab().get(str(word))
    ids = [known] if known is not None else tokenizer(str(word), add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise ValueError(f"{word!r} is not a single token of the model's vocabulary")
    return int(ids[0])


def _read(token: int, tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode([token])).strip() or str(tokenizer.convert_ids_to_tokens(token))
