"""The embeddings that a SentenceTransformer gives texts, alone or next to what they are compared with.

Shapes: B texts, A outputs that are explained, M parts of an embedding, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from captum_globenc.forward import EncoderForward
from captum_globenc.results.record import Span
from captum_globenc.results.words import Word
from captum_globenc.texts.origin import find_offsets
from captum_globenc.texts.question import in_parts
from captum_globenc.texts.subject import Subject
from captum_globenc.texts.tokenizing import encode
from captum_globenc.texts.words import find_words

__all__ = ["Alike", "Embedded"]


class Alike(nn.Module):
    """How like the embedding of a text is to others, which stay as they are.

    Args:
        embed: a forward function of ids, which returns embeddings `(A, D)`.
        cosine: whether the texts' embeddings are made as long as each other.
    """

    def __init__(self, embed: Callable[..., Tensor], cosine: bool) -> None:
        super().__init__()
        self.embed = embed
        self.cosine = cosine

    def forward(self, *arguments: Any) -> Tensor:
        """Run the model.

        Args:
            arguments: those of `embed`, and at last `(A, D)`, or M parts of an embedding, `(A, M, D)`.

        Returns:
            `(A,)`, or for each part `(A, M)`.
        """
        *own, others = arguments
        embedding = self.embed(*own)
        if self.cosine:
            embedding = normalize(embedding, dim=-1)
        return cast(Tensor, (others * (embedding if others.dim() == 2 else embedding[:, None])).sum(-1))


class Embedded:
    """Texts, each one after the other, and their embeddings.

    Args:
        subject: A SentenceTransformer.
        texts: B texts.
        compared: Whether their embeddings are compared.

    Raises:
        ValueError: The model changes texts or embeddings, or compares them neither by the cosine nor by the
            dot product, or the texts cannot be encoded.
    """

    def __init__(self, subject: Subject, texts: Sequence[str], *, compared: bool = True) -> None:
        kind = getattr(subject.given, "similarity_fn_name", None) or "cosine"
        if compared and kind not in ("cosine", "dot"):
            raise ValueError(f"the model's similarity is {kind!r}: only cosine and dot product add up")
        for name in ("truncate_dim", "default_prompt_name"):
            if getattr(subject.given, name, None) is not None:
                raise ValueError(f"the model changes texts or embeddings by its {name}: set that to None")
        self.encoded = encode(texts, [None] * len(texts), subject.model, subject.tokenizer)
        self.forward = EncoderForward(subject.given)
        self.alike = Alike(self.forward, kind == "cosine")
        inputs, extra = self.forward.arguments(self.encoded.batch)
        with torch.no_grad():
            made = in_parts(self.forward, subject.model, inputs, *extra)
        if not made.isfinite().all():
            raise ValueError("the model's output is NaN or infinite")
        self.norms = made.norm(dim=-1)
        self.vectors = normalize(made, dim=-1) if self.alike.cosine else made
        self._tokenizer = subject.tokenizer
        self._words = find_words(self.encoded.whole, subject.tokenizer, texts)

    def ids(self, *texts: int) -> list[int]:
        """Return the ids of texts, which follow each other, by their numbers."""
        ids = self.encoded.whole["input_ids"]
        return [token for text in texts for token in ids[text, : self.encoded.length(text)].tolist()]

    def tokens(self, *texts: int) -> list[str]:
        """Return their tokens."""
        return [str(token) for token in self._tokenizer.convert_ids_to_tokens(self.ids(*texts))]

    def words(self, *texts: int) -> list[Word]:
        """Return their words, which tell the tokens of all of them."""
        made: list[Word] = []
        ahead = 0
        for text in texts:
            words = self._words[text]
            made += [it._replace(tokens=tuple(ahead + token for token in it.tokens)) for it in words]
            ahead += self.encoded.length(text)
        return made

    def offsets(self, *texts: int) -> list[Span | None]:
        """Return where their tokens stand, each text a segment."""
        return [
            place and place._replace(segment=segment)
            for segment, text in enumerate(texts)
            for place in find_offsets(self.encoded.whole, text)
        ]
