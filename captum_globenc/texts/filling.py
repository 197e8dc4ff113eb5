"""What is asked of a masked language model: the word that it fills in for each mask token of a text.

Letters: R rows, N tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten

from transformers import PreTrainedTokenizerBase

from captum_globenc.texts.asked import Asked, Given, Picks

__all__ = ["ask_masks"]

SHOWN = 5
"""Of how many tokens, the likeliest, the probabilities are told, as by the pipeline of transformers."""


def ask_masks(given: Given) -> list[Asked]:
    """Ask why a masked token is filled in as it is.

    A mask in a text of several windows is filled in by the window that has most of the text around it.

    Args:
        given: logits `(R, N, V)`.

    Returns:
        One for each mask token of each text, in their order.

    Raises:
        ValueError: the outputs are not (R, N, V), a text has no mask token, or what is chosen is no token.
    """
    if given.outputs.dim() != 3:
        raise ValueError(
            f"a masked language model gives (B, N, V), this model gives {tuple(given.outputs.shape)}"
        )
    mask = given.subject.tokenizer.mask_token_id
    asked = []
    for text, rows in enumerate(given.encoded.rows):
        ids = given.encoded.whole["input_ids"][text].tolist()
        masked = [place for place, it in enumerate(ids) if it == mask and mask is not None]
        found = [_asked(given, text, rows, place) for place in masked]
        if not found:
            raise ValueError(
                f"{shorten(given.texts[text], 40)!r} has no {given.subject.tokenizer.mask_token}, which is "
                "what a masked language model fills in"
            )
        asked += found
    return asked


def _asked(given: Given, text: int, rows: Sequence[int], place: int) -> Asked:
    found = {
        row: given.encoded.places[row].index(place) for row in rows if place in given.encoded.places[row]
    }
    row = max(found, key=lambda it: min(found[it], len(given.encoded.places[it]) - 1 - found[it]))
    token = found[row]
    logits = given.outputs[row, token]
    shares = logits.softmax(-1)
    best = int(logits.argmax())
    one = best if given.options.single is None else _token(given.options.single, given.subject.tokenizer)
    picks: Picks = {(token, one): 1.0}
    if given.options.against is not None:
        other = _token(given.options.against, given.subject.tokenizer)
        if other == one:
            raise ValueError(f"{given.options.against} is held against itself: choose two words")
        picks = {**picks, (token, other): -1.0}
    offsets = given.offsets(row)
    likely = shares.topk(min(SHOWN, len(shares)))
    probabilities: dict[str, float] = {}
    for it, share in zip(likely.indices.tolist(), likely.values.tolist(), strict=True):
        # Of tokens that read alike, as one at the beginning of a word and one within may, the likeliest.
        probabilities.setdefault(_read(it, given.subject.tokenizer), share)
    return Asked(
        text=text,
        rows=[row],
        picks=picks,
        prediction=_read(best, given.subject.tokenizer),
        probability=shares[best].item(),
        value=logits[best].item(),
        probabilities=probabilities,
        target=_read(one, given.subject.tokenizer),
        against=None if given.options.against is None else _read(other, given.subject.tokenizer),
        explained=given.sum_of([row], picks),
        tokens=[token],
        span=offsets[token] if offsets else None,
    )


def _token(word: str | int, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id of a word: the token of that name, or the one that the tokenizer makes of it."""
    if isinstance(word, int) and 0 <= word < len(tokenizer):
        return word
    known = tokenizer.get_vocab().get(str(word))
    ids = [known] if known is not None else tokenizer(str(word), add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise ValueError(f"{word!r} is no single token of the model's, and so nothing that it fills in")
    return int(ids[0])


def _read(token: int, tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode([token])).strip() or str(tokenizer.convert_ids_to_tokens(token))
