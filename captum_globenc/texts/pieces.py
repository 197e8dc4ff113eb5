"""Read tokens as text: decode them, and recognize the marks of word starts and continuations."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "BLANK",
    "CUT_CHARACTER",
    "names",
    "read",
    "readable_tokens",
    "splits_at_spaces",
    "splits_unspaced",
    "word_start_rule",
]

BLANK = "\N{OPEN BOX}"
"""Shown for a token of white space only."""

CUT_CHARACTER = "\N{REPLACEMENT CHARACTER}"
"""Shown for incomplete bytes of a character."""

MARKED_SPACES = ("\u2581", "\u0120")
"""The marks of a space in SentencePiece and in byte-level BPE."""

# Prefixes of the Unicode names of letters in scripts without spaces between words.
_UNSPACED = (
    "CJK",
    "HIRAGANA",
    "KATAKANA",
    "HALFWIDTH KATAKANA",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
    "TIBETAN",
)


def readable_tokens(tokens: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return readable tokens: without "##", "@@", "Ġ" or "▁", and with letters instead of byte codes.

    Args:
        tokens: Tokens as in the tokenizer's vocabulary.
        tokenizer: The tokenizer.

    Returns:
        One string per token. A token of white space is shown as "␣", an incomplete character as "�".

    Example:
        >>> from captum_globenc.texts.default import load_default
        >>> _, tokenizer = load_default()
        >>> readable_tokens(["[CLS]", "fun", "##nie", "##st"], tokenizer)
        ['[CLS]', 'fun', 'nie', 'st']
    """
    return [read([token], tokenizer) for token in tokens]


def names(row: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the tokens of ids, as in the vocabulary."""
    return [str(token) for token in tokenizer.convert_ids_to_tokens(list(row))]


def read(tokens: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> str:
    """Decode tokens with the tokenizer, as inside a text.

    Tokenizers decode the first token of a text differently, so another token is prepended and removed.
    """
    prefix = "a"
    text: str = tokenizer.convert_tokens_to_string([prefix, *tokens])
    if not text.startswith(prefix):
        return tokenizer.convert_tokens_to_string(list(tokens)).strip() or BLANK
    text = text.removeprefix(prefix).replace("</w>", " ").strip()
    if len(text) > 2 and text.endswith("@@") and _marks_continuations(tokenizer):
        text = text.removesuffix("@@")
    return text or BLANK


def splits_unspaced(before: str, after: str) -> bool:
    """Return whether a word starts between two pieces because their script has no spaces between words.

    In such scripts each piece counts as a word. A character that modifies the one before it (a tone or vowel
    sign, a length or repetition mark) does not start a word.

    Example:
        >>> splits_unspaced("今日", "は"), splits_unspaced("un", "happy"), splits_unspaced("ก", "\u0e49")
        (True, False, False)
    """
    if not before or not after or unicodedata.category(after[0]) in ("Lm", "Mn", "Mc", "Me"):
        return False
    return _unspaced(before[-1]) or _unspaced(after[0])


def _unspaced(char: str) -> bool:
    return unicodedata.name(char, "").startswith(_UNSPACED)


def splits_at_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the tokenizer splits texts at spaces, so that its word ids separate words."""
    pre_tokenizer = tokenizer.backend_tokenizer.pre_tokenizer
    return pre_tokenizer is not None and len(pre_tokenizer.pre_tokenize_str("a b")) > 1


def word_start_rule(tokenizer: PreTrainedTokenizerBase) -> Callable[[str, str], bool]:
    """Return a function of the previous token and a token: whether the token starts a word.

    The rule uses the most frequent mark of the vocabulary, because Ġ is also a letter of multilingual ones.
    """
    if _marks_continuations(tokenizer):
        return lambda previous, _: not previous.endswith("@@")
    vocabulary = tokenizer.get_vocab()
    ends = ("</w>", tokenizer.unk_token or "</w>")
    rules: dict[int, Callable[[str, str], bool]] = {
        sum(token.startswith(MARKED_SPACES) for token in vocabulary): (
            lambda _, token: token.startswith(MARKED_SPACES)
        ),
        sum(token.endswith("</w>") for token in vocabulary): lambda previous, _: previous.endswith(ends),
        sum(token.startswith("##") and token[2:].isalnum() for token in vocabulary): (
            lambda _, token: not token.startswith("##")
        ),
    }
    most = max(rules)
    return rules[most] if most else lambda _previous, _token: True


def _marks_continuations(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether "@@" marks pieces whose word continues, as in subword-nmt."""
    try:
        joined: str = tokenizer.convert_tokens_to_string(["a@@", "a"])
    except TypeError:  # ByT5's tokens are single bytes
        return False
    return joined == "aa"
