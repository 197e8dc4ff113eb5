"""The similarity that a SentenceTransformer finds between two texts, and what makes them alike.

Shapes: B pairs, N tokens of a text, M tokens of the other, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from captum_globenc.attr.deep_lift import TransformerDeepLift
from captum_globenc.encoders import UnsupportedEncoderError, find_encoder
from captum_globenc.forward import EncoderForward
from captum_globenc.results.explanation import Explanation
from captum_globenc.results.record import Kind
from captum_globenc.results.words import Word
from captum_globenc.texts.methods import METHODS, Question, in_parts, run_methods
from captum_globenc.texts.options import Options
from captum_globenc.texts.origin import find_offsets, find_unknown, installed_versions
from captum_globenc.texts.subject import Subject, subject_of
from captum_globenc.texts.tokenizing import Encoded, encode
from captum_globenc.texts.words import find_words

__all__ = ["TokenMatrix", "explain_similarity", "similarity_matrix"]

NAME = "similarity"
"""What is predicted for two texts."""


class TokenMatrix(NamedTuple):
    """What each token of a text adds to the part that each token of another has in their similarity.

    Attributes:
        tokens: N tokens of the text.
        others: M tokens of the other.
        scores: `(M, N)`. They add up to `similarity`, less that of the text all masked with the other.
        similarity: of the two texts.
    """

    tokens: list[str]
    others: list[str]
    scores: Tensor
    similarity: float


class _Alike(nn.Module):
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


def explain_similarity(
    texts: Sequence[str],
    pairs: Sequence[str | None],
    *,
    subject: Subject,
    options: Options,
    told: dict[str, None],
) -> list[Explanation]:
    """Explain how like two texts are, by the tokens of both; see `captum_globenc.explain`.

    Each text is compared with itself all masked while the other one stays as it is, so that the scores of
    each add up to what its words add to the similarity. Two texts that are both masked are alike.

    Args:
        texts: B texts.
        pairs: The text that each is compared with.
        subject: A SentenceTransformer.
        options: What is asked for.
        told: Gets what is left out, and why.

    Raises:
        ValueError: A text has nothing to compare it with, the model's similarity is neither the cosine nor
            the dot product, or an option holds for other models only.
    """
    for name in ("target", "against", "windows", "position"):
        if getattr(options, name) is not None:
            raise ValueError(f"a similarity is one number of whole texts: leave {name} out")
    others = [pair for pair in pairs if pair is not None]
    if len(others) != len(texts):
        raise ValueError("a similarity is of two texts: pass pair, what each text is compared with")
    sides = _Sides(subject, [*texts, *others])
    count = len(texts)
    swapped = sides.embeddings.roll(count, dims=0)
    question = Question(
        subject.model,
        subject.tokenizer,
        sides.encoded.batch,
        torch.arange(2 * count, device=swapped.device),
        sides.forward,
        sides.alike,
        (swapped,),
        options.baseline,
        options.mixing,
    )
    scores, layers = run_methods(question, options.methods, options.layers, told)
    values = (sides.embeddings * swapped).sum(-1)[:count].tolist()
    kinds: dict[str, Kind] = {name: METHODS[name].kind for name in scores}
    # Those of each text add up, to another difference each.
    kinds = {name: "signed" if kind == "contributions" else kind for name, kind in kinds.items()}
    settings = {"mixing": options.mixing, "baseline": options.baseline}
    whose = {"name": str(subject.model.config.name_or_path or ""), "class": type(subject.given).__name__}
    mean = "globenc" in scores and _reads_mean(subject)

    def joined(of: Tensor, name: str, index: int) -> list[float]:
        """Return the scores of both texts; shares are of both together."""
        share = 0.5 if kinds[name] == "shares" else 1.0
        return [
            share * score
            for side in (index, index + count)
            for score in of[side, : sides.length(side)].tolist()
        ]

    return [
        Explanation(
            text=text,
            pair=other,
            prediction=NAME,
            probability=None,
            value=value,
            probabilities={},
            target=NAME,
            against=None,
            explained=value,
            position="mean" if mean else None,
            tokens=[*sides.tokens(index), *sides.tokens(index + count)],
            scores={name: joined(rows, name, index) for name, rows in scores.items()},
            kinds=kinds,
            layers={
                name: [joined(rows[:, depth], name, index) for depth in range(rows.shape[1])]
                for name, rows in layers.items()
            },
            groups=sides.words(index, index + count),
            offsets=sides.offsets(index, index + count),
            model=whose,
            settings=settings,
            versions=installed_versions(),
            ids=sides.ids(index, index + count),
            unknown=find_unknown(
                sides.ids(index, index + count),
                sides.words(index, index + count),
                subject.tokenizer.unk_token_id,
            ),
            truncated=sides.encoded.truncated[index] or sides.encoded.truncated[index + count],
        )
        for index, (text, other, value) in enumerate(zip(texts, others, values, strict=True))
    ]


def similarity_matrix(text: str, other: str, model: nn.Module) -> TokenMatrix:
    """Share the similarity of two texts out among the pairs of their tokens, exactly.

    An embedding that is the mean of its tokens' vectors makes the similarity a sum over the other text's
    tokens. Each term is explained by the tokens of the text, compared with the text all masked.

    Args:
        text: A text.
        other: What it is compared with.
        model: A SentenceTransformer that averages tokens.

    Raises:
        TypeError: `model` is something else.
        ValueError: Its embeddings are no means of tokens' vectors, or its similarity is neither the cosine
            nor the dot product.

    Example:
        >>> from sentence_transformers import SentenceTransformer
        >>> from captum_globenc.texts.default import encoder_folder
        >>> model = SentenceTransformer(str(encoder_folder()), device="cpu")
        >>> matrix = similarity_matrix("A cat sleeps.", "The kitten naps.", model)
        >>> matrix.tokens[2], matrix.others[2], tuple(matrix.scores.shape)
        ('cat', 'kitten', (7, 6))
    """
    subject = subject_of(model, None)
    if not subject.embeds:
        raise TypeError(f"model is a {type(model).__name__}: pass a SentenceTransformer")
    sides = _Sides(subject, [text, other])
    length = sides.length(1)
    ids, extra = sides.forward.arguments({name: it[1:, :length] for name, it in sides.encoded.batch.items()})
    with torch.no_grad():
        vectors = EncoderForward(model, output="token_embeddings")(ids, *extra)
    parts = vectors / length
    mean = parts.sum(1)
    if sides.alike.cosine:
        parts, mean = parts / mean.norm(dim=-1, keepdim=True)[..., None], normalize(mean, dim=-1)
    if not torch.allclose(mean, sides.embeddings[1:], rtol=1e-3, atol=1e-5):
        raise ValueError(
            "the model's embeddings are no means of its tokens' vectors: nothing adds up over pairs"
        )
    one = {name: it[:1, : sides.length(0)] for name, it in sides.encoded.batch.items()}
    ids, extra = sides.forward.arguments(one)
    blanks = sides.forward.masked(one, subject.tokenizer)
    method = TransformerDeepLift(sides.alike, subject.model)
    scores = cast(Tensor, method.attribute_classes(ids, blanks, (*extra, parts)))
    value = float((sides.embeddings[0] * sides.embeddings[1]).sum())
    return TokenMatrix(sides.tokens(0), sides.tokens(1), scores[0], value)


class _Sides:
    """Texts and what they are compared with, one after the other, and their embeddings.

    Args:
        subject: A SentenceTransformer.
        texts: Both.
    """

    def __init__(self, subject: Subject, texts: Sequence[str]) -> None:
        kind = getattr(subject.given, "similarity_fn_name", None) or "cosine"
        if kind not in ("cosine", "dot"):
            raise ValueError(f"the model's similarity is {kind!r}: only cosine and dot product add up")
        for name in ("truncate_dim", "default_prompt_name"):
            if getattr(subject.given, name, None) is not None:
                raise ValueError(f"the model changes texts or embeddings by its {name}: set that to None")
        self._subject = subject
        self.encoded: Encoded = encode(texts, [None] * len(texts), subject.model, subject.tokenizer)
        self.forward = EncoderForward(subject.given)
        self.alike = _Alike(self.forward, kind == "cosine")
        inputs, extra = self.forward.arguments(self.encoded.batch)
        with torch.no_grad():
            made = in_parts(self.forward, subject.model, inputs, *extra)
        if not made.isfinite().all():
            raise ValueError("the model's output is NaN or infinite")
        self.embeddings = normalize(made, dim=-1) if self.alike.cosine else made
        self._words = find_words(self.encoded.whole, subject.tokenizer, texts)

    def length(self, side: int) -> int:
        """Return how many tokens a text has."""
        return self.encoded.length(side)

    def ids(self, *sides: int) -> list[int]:
        """Return the ids of texts, which follow each other."""
        ids = self.encoded.whole["input_ids"]
        return [token for side in sides for token in ids[side, : self.length(side)].tolist()]

    def tokens(self, side: int) -> list[str]:
        """Return a text's tokens."""
        return [str(token) for token in self._subject.tokenizer.convert_ids_to_tokens(self.ids(side))]

    def words(self, one: int, other: int) -> list[Word]:
        """Return the words of two texts, whose tokens follow each other."""
        ahead = self.length(one)
        moved = [
            word._replace(tokens=tuple(ahead + token for token in word.tokens)) for word in self._words[other]
        ]
        return [*self._words[one], *moved]

    def offsets(self, one: int, other: int) -> list[Any]:
        """Return where the tokens of two texts stand: the text is the first segment, the other the second."""
        found = [find_offsets(self.encoded.whole, side) for side in (one, other)]
        moved = [place and place._replace(segment=1) for place in found[1]]
        return list(chain(found[0], moved))


def _reads_mean(subject: Subject) -> bool:
    """Whether the model's embeddings are the mean of what all tokens have mixed in."""
    try:
        return find_encoder(subject.given).pooled == "mean"
    except UnsupportedEncoderError:
        return False
