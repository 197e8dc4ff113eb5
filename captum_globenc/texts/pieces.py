"""How tokenizers write the pieces of words: their marks, looked for and taken away."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "BLANK",
    "CUT_CHARACTER",
    "beginnings",
    "looks_for_spaces",
    "names",
    "read",
    "readable_tokens",
    "run_on",
]

BLANK = "\N{OPEN BOX}"
"""Shown for a token that is nothing but white space."""

CUT_CHARACTER = "\N{REPLACEMENT CHARACTER}"
"""Stands for the bytes of a character that are not all there."""

MARKED_SPACES = ("\u2581", "\u0120")
"""What stands for a space: sentencepiece's, and that of bytes written as letters."""

# How Unicode's names of letters begin in the scripts that put no space between words.
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
    """Write tokens as a reader would: no "##", "@@", "Ġ" or "▁", letters instead of byte codes.

    Args:
        tokens: Tokens as the tokenizer's vocabulary writes them.
        tokenizer: Their tokenizer.

    Returns:
        One text a token. White space alone is shown as "␣", a part of a character as "�".

    Example:
        >>> from captum_globenc.texts.default import load_default
        >>> _, tokenizer = load_default()
        >>> readable_tokens(["[CLS]", "fun", "##nie", "##st"], tokenizer)
        ['[CLS]', 'fun', 'nie', 'st']
    """
    return [read([token], tokenizer) for token in tokens]


def names(row: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the tokens of ids as the vocabulary writes them."""
    return [str(token) for token in tokenizer.convert_ids_to_tokens(list(row))]


def read(tokens: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> str:
    """Decode tokens by the tokenizer's own rules, which treat those inside a text and its first unlike.

    So another one is put ahead of them, and taken away from the result.
    """
    ahead = "a"
    text: str = tokenizer.convert_tokens_to_string([ahead, *tokens])
    if not text.startswith(ahead):
        return tokenizer.convert_tokens_to_string(list(tokens)).strip() or BLANK
    text = text.removeprefix(ahead).replace("</w>", " ").strip()
    if len(text) > 2 and text.endswith("@@") and _marks_what_goes_on(tokenizer):
        text = text.removesuffix("@@")
    return text or BLANK


def run_on(before: str, after: str) -> bool:
    """Whether two pieces of a text meet where its script would put no space between two words.

    Such a script's pieces are the closest there is to its words. What modifies the letter before it
    (a tone or vowel sign, a mark of length or repetition) is no beginning.

    Example:
        >>> run_on("今日", "は"), run_on("un", "happy"), run_on("ก", "\u0e49")
        (True, False, False)
    """
    if not before or not after or unicodedata.category(after[0]) in ("Lm", "Mn", "Mc", "Me"):
        return False
    return _unspaced(before[-1]) or _unspaced(after[0])


def _unspaced(char: str) -> bool:
    return unicodedata.name(char, "").startswith(_UNSPACED)


def looks_for_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer cuts texts at spaces, so that its word ids tell words apart."""
    before = tokenizer.backend_tokenizer.pre_tokenizer
    return before is not None and len(before.pre_tokenize_str("a b")) > 1


def beginnings(tokenizer: PreTrainedTokenizerBase) -> Callable[[str, str], bool]:
    """Return what tells, of a token and the one before it, whether a word begins.

    It goes by the mark that most tokens of the vocabulary have: a multilingual one has the letter Ġ, too.
    """
    if _marks_what_goes_on(tokenizer):
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


def _marks_what_goes_on(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether pieces end with "@@" where their word goes on, as subword-nmt writes them."""
    joined: str = tokenizer.convert_tokens_to_string(["a@@", "a"])
    return joined == "aa"
