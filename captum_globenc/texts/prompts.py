"""Read the prompts of a call: strings or chats, their answers, and named passages.

Shapes: B prompts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from textwrap import shorten
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from captum_globenc.results.record import Span
from captum_globenc.texts.options import as_list, as_string, texts_and_pairs

__all__ = ["Passages", "Prompt", "is_chat", "read_prompts"]

Passages = Mapping[str, str] | Sequence[Any]
"""Named passages; see `captum_globenc.explain`."""

MARK = "\ue000{}\ue001"
"""Placeholder for the text of a message in a rendered chat; no template tests for these characters."""


class Prompt(NamedTuple):
    """A prompt with its answer and passages.

    Attributes:
        text: The prompt that the model reads; for a chat, rendered by the tokenizer's template.
        messages: Character spans of the messages in a rendered chat; None for a plain prompt.
        answer: The explained answer; None for the answer that the model generates.
        passages: Names and character spans of the passages.
    """

    text: str
    messages: Sequence[Span] | None = None
    answer: str | None = None
    passages: Sequence[tuple[str, Span]] = ()


def is_chat(entry: object) -> bool:
    """Return whether an entry is a list of chat messages.

    Example:
        >>> is_chat([{"role": "user", "content": "Hello"}]), is_chat("Hello"), is_chat(("text", "pair"))
        (True, False, False)
    """
    return isinstance(entry, list | tuple) and bool(entry) and all(isinstance(it, Mapping) for it in entry)


def read_prompts(
    prompts: Any,
    tokenizer: PreTrainedTokenizerBase,
    answer: Any = None,
    passages: Passages | None = None,
    *,
    name: str = "answer",
) -> list[Prompt]:
    """Return the prompts with their answers and passages.

    Args:
        prompts: B strings, or B lists of chat messages.
        tokenizer: The tokenizer, whose chat template renders chats.
        answer: One answer for all prompts, one per prompt, or None.
        passages: A dict from names to texts, a list of (name, text), or a list of texts; or a list of such
            dicts or lists, one per prompt.
        name: The name of `answer` in error messages.

    Raises:
        TypeError: `prompts` is a single prompt, mixes strings and chats, or has other entries.
        ValueError: There is no chat template or it fails, the numbers of answers and prompts differ, only
            some prompts have an answer, or a passage is not in its prompt.
    """
    prompts = list(prompts) if isinstance(prompts, Iterator) else prompts
    if is_chat(prompts):
        raise TypeError("a list of messages is one prompt: pass a list of prompts, [messages]")
    if not isinstance(prompts, str) and any(map(is_chat, prompts)):
        if not all(map(is_chat, prompts)):
            raise TypeError("some prompts are strings and some are chats: explain them in two calls")
        made = [_rendered(it, tokenizer) for it in prompts]
    else:
        texts, pairs = texts_and_pairs(prompts)
        if any(it is not None for it in pairs):
            raise ValueError("a prompt has no second segment: pass strings, and the answers as answer=")
        made = [Prompt(it) for it in texts]
    answers = [answer] * len(made) if answer is None or isinstance(answer, str) else as_list(answer, name)
    if len(answers) != len(made):
        raise ValueError(
            f"{name} has {len(answers)} entries for {len(made)} prompts: pass one for each, or a string"
        )
    answers = [it if it is None else as_string(it, f"{name}[{place}]") for place, it in enumerate(answers)]
    if len({it is None for it in answers}) > 1:
        raise ValueError(f"{name} is None for some prompts: explain those in a call without it")
    each = _passages_of_each(passages, len(made))
    return [
        prompt._replace(answer=one, passages=_found(named, prompt.text))
        for prompt, one, named in zip(made, answers, each, strict=True)
    ]


def _rendered(messages: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase) -> Prompt:
    """Render a chat, and find the spans of its messages; all other text belongs to the template."""
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "the tokenizer has no chat template: pass the prompt as a string, or set tokenizer.chat_template"
        )

    def render(chat: Sequence[Mapping[str, Any]]) -> str:
        try:
            rendering: Any = tokenizer.apply_chat_template
            return str(rendering(list(chat), add_generation_prompt=True, tokenize=False))
        except Exception as error:  # templates may raise anything
            raise ValueError(f"the tokenizer's chat template fails: {error}") from error

    text = render(messages)
    contents: list[str] = []

    def marked(content: Any) -> Any:
        if isinstance(content, str):
            contents.append(content)
            return MARK.format(len(contents) - 1)
        if isinstance(content, list):
            return [
                {**it, "text": marked(it["text"])} if isinstance(it, Mapping) and "text" in it else it
                for it in content
            ]
        return content

    chat = [{**it, "content": marked(it["content"])} if "content" in it else it for it in messages]
    spans = _messages_in(text, render(chat), contents)
    if spans is None:
        raise ValueError(
            "the messages cannot be found in the rendered prompt, because the chat template changes their "
            "text: pass the prompt as a string, "
            "tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)"
        )
    return Prompt(text, spans)


def _messages_in(text: str, marked: str, contents: Sequence[str]) -> list[Span] | None:
    """Return the spans of messages in a rendered chat; None if the template changes their text.

    Args:
        text: The rendered chat.
        marked: The chat rendered with a placeholder for each message.
        contents: The texts of the placeholders.

    Example:
        >>> _messages_in("<u>Hello<a>", "<u>\ue0000\ue001<a>", ["Hello "])
        [Span(start=3, stop=8, segment=0)]
    """
    first, *others = re.split(MARK.format(r"(\d+)"), marked)
    if not text.startswith(first):
        return None
    spans, position = [], len(first)
    for number, after in zip(others[::2], others[1::2], strict=True):
        content = contents[int(number)]
        last = after == others[-1] and number == others[-2]
        for read in dict.fromkeys((content, content.strip())):
            rest = text[position + len(read) :]
            if text.startswith(read, position) and (rest == after if last else rest.startswith(after)):
                break
        else:
            return None
        if read:
            spans.append(Span(position, position + len(read)))
        position += len(read) + len(after)
    return spans


def _passages_of_each(passages: Passages | None, count: int) -> list[list[tuple[str, str]]]:
    """Return the names and texts of the passages of each prompt."""
    if passages is None:
        return [[] for _ in range(count)]
    if isinstance(passages, str):
        raise TypeError("passages is one string: pass a list of passages, or a dict of names and passages")
    passages = passages if isinstance(passages, Mapping) else as_list(passages, "passages")
    if passages and isinstance(passages, list) and all(isinstance(it, Mapping | list) for it in passages):
        if len(passages) != count:
            raise ValueError(
                f"passages has {len(passages)} entries for {count} prompts: pass one list or dict for each"
            )
        return [_named(it) for it in passages]
    return [_named(passages) for _ in range(count)]


def _named(passages: Any) -> list[tuple[str, str]]:
    entries = list(passages.items()) if isinstance(passages, Mapping) else list(passages)
    made = [(shorten(it, 40), it) if isinstance(it, str) else tuple(it) for it in entries]
    for it in made:
        if len(it) != 2 or not all(isinstance(part, str) for part in it):
            raise TypeError(f"passage {it!r} is neither a string nor a pair (name, text)")
        if not it[1].strip():
            raise ValueError(f"passage {it[0]!r} is empty")
    return made


def _found(passages: Sequence[tuple[str, str]], text: str) -> list[tuple[str, Span]]:
    """Return the spans of passages in a prompt; repeated passages get one occurrence each, in order."""
    named = Counter(passage for _, passage in passages)
    starts_of: dict[str, list[int]] = {}
    for passage, count in named.items():
        starts = [it.start() for it in re.finditer(re.escape(passage), text)]
        if len(starts) != count:
            often = "is not" if not starts else f"is {len(starts)} times"
            raise ValueError(
                f"passage {shorten(passage, 40)!r} {often} in the prompt {shorten(text, 40)!r}: pass text "
                "that is there once, or character spans to Explanation.spans()"
            )
        starts_of[passage] = starts
    made = []
    for name, passage in passages:
        start = starts_of[passage].pop(0)
        made.append((name, Span(start, start + len(passage))))
    for (one, before), (other, after) in pairwise(sorted(made, key=lambda it: it[1])):
        if after.start < before.stop:
            raise ValueError(f"passages {one!r} and {other!r} overlap: a token would count twice")
    return made
