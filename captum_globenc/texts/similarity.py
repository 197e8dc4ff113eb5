"""What an embedding of a SentenceTransformer is made of, and what makes two of them alike.

Shapes: B texts, N tokens of a text, M tokens of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from captum_globenc.forward import EncoderForward
from captum_globenc.results.explanation import Explanation
from captum_globenc.results.record import Kind
from captum_globenc.texts.digest import versions
from captum_globenc.texts.embedded import Embedded
from captum_globenc.texts.methods import DEFAULT_METHODS, METHODS, differences, run_methods
from captum_globenc.texts.options import Options
from captum_globenc.texts.origin import find_unknown
from captum_globenc.texts.position import pooled_token, resolve_position
from captum_globenc.texts.question import Explained, Question, resolve_baseline
from captum_globenc.texts.subject import Subject, subject_of

__all__ = ["TokenMatrix", "explain_embeddings", "similarity_matrix"]


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


def explain_embeddings(
    texts: Sequence[str],
    pairs: Sequence[str | None],
    *,
    subject: Subject,
    options: Options,
    told: dict[str, None],
) -> list[Explanation]:
    """Explain what embeddings are made of, or how like two are, by tokens; see `captum_globenc.explain`.

    Of two texts, each is compared with itself all masked while the other one stays as it is, so that the
    scores of each add up to what its words add to the similarity. Two texts that are both masked are alike.

    Args:
        texts: B texts.
        pairs: The text that each is compared with, or None of all: then by "globenc" alone.
        subject: A SentenceTransformer.
        options: What is asked for.
        told: Gets what is left out, and why.

    Raises:
        ValueError: Some texts have a pair and others none, the model's similarity is neither the cosine nor
            the dot product, or an option or a method does not hold.
    """
    others = [pair for pair in pairs if pair is not None]
    if len(others) not in (0, len(texts)):
        raise ValueError(
            f"{len(others)} of {len(texts)} texts have a pair: explain them apart from the others"
        )
    what = "a similarity is one number of whole texts" if others else "an embedding is of a whole text"
    for name in ("target", "against", "windows", *(("position",) if others else ())):
        if getattr(options, name) is not None:
            raise ValueError(f"{what}: leave {name} out")
    methods = options.methods if others else _without_class(options.methods, told)
    embedded = Embedded(subject, [*texts, *others], compared=bool(others))
    count, lengths = len(texts), embedded.encoded.whole["attention_mask"].sum(-1)
    swapped = embedded.vectors.roll(count, dims=0)
    where: Tensor | Literal["mean"] | None
    at = options.position
    where = resolve_position(at, lengths, texts) if isinstance(at, int) else at
    model, tokenizer = subject.model, subject.tokenizer
    question = Question(
        Explained(model, tokenizer, embedded.forward, embedded.alike, options.baseline, options.mixing),
        embedded.encoded.batch,
        torch.arange(len(swapped), device=swapped.device),
        (swapped,),
        where,
    )
    scores, layers = run_methods(question, methods, options.layers, told)
    values = (embedded.vectors * swapped).sum(-1) if others else embedded.norms
    kinds: dict[str, Kind] = {name: METHODS[name].kind for name in scores}
    # Those of each text add up, to another difference each.
    kinds = {name: "signed" if kind == "contributions" else kind for name, kind in kinds.items()}
    settings = {"mixing": options.mixing, "baseline": resolve_baseline(options.baseline, tokenizer)}
    whose = {"name": str(model.config.name_or_path or ""), "class": type(subject.given).__name__}
    reads = pooled_token(subject.given) if where is None and "globenc" in scores else where
    target = "similarity" if others else "norm of the embedding"

    def joined(rows: Tensor, name: str, both: Sequence[int]) -> list[float]:
        """Return the scores of one text or both; shares are of all together."""
        share = 1 / len(both) if kinds[name] == "shares" else 1.0
        return [share * score for text in both for score in rows[text, : lengths[text]].tolist()]

    made = []
    for index, (text, value) in enumerate(zip(texts, values[:count].tolist(), strict=True)):
        both = (index, index + count) if others else (index,)
        place = int(reads[index]) if isinstance(reads, Tensor) else reads
        ids, words = embedded.ids(*both), embedded.words(*both)
        made.append(
            Explanation(
                text=text,
                pair=pairs[index],
                prediction=target,
                probability=None,
                value=value,
                probabilities={},
                target=target,
                against=None,
                explained=value,
                position=place if place == "mean" or not others else None,
                tokens=embedded.tokens(*both),
                scores={name: joined(rows, name, both) for name, rows in scores.items()},
                kinds=kinds,
                layers={
                    name: [joined(rows[:, depth], name, both) for depth in range(rows.shape[1])]
                    for name, rows in layers.items()
                },
                groups=words,
                offsets=embedded.offsets(*both),
                model=whose,
                settings=settings,
                versions=versions(),
                ids=ids,
                unknown=find_unknown(ids, words, tokenizer.unk_token_id),
                truncated=any(embedded.encoded.truncated[side] for side in both),
            )
        )
    return made


def _without_class(methods: Sequence[str] | None, told: dict[str, None]) -> list[str]:
    """Return the methods that hold for an embedding by itself; what is left out goes to `told`.

    Raises:
        ValueError: One that was chosen does not hold.
    """
    asked = DEFAULT_METHODS if methods is None else methods
    kept = [name for name in asked if METHODS[name].kind == "shares"]
    refused = ", ".join(name for name in asked if name not in kept)
    reason = "an embedding by itself has no class: pass pair, a text that it is compared with"
    if refused and methods is not None:
        raise ValueError(f"{refused} does not hold: {reason}, or take globenc alone")
    if refused:
        told[f"{refused} is left out: {reason}"] = None
    return kept


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
    embedded = Embedded(subject, [text, other])
    length = embedded.encoded.length(1)
    ids, extra = embedded.forward.arguments(
        {name: it[1:, :length] for name, it in embedded.encoded.batch.items()}
    )
    with torch.no_grad():
        vectors = EncoderForward(model, output="token_embeddings")(ids, *extra)
    parts = vectors / length
    mean = parts.sum(1)
    if embedded.alike.cosine:
        parts, mean = parts / mean.norm(dim=-1, keepdim=True)[..., None], normalize(mean, dim=-1)
    if not torch.allclose(mean, embedded.vectors[1:], rtol=1e-3, atol=1e-5):
        raise ValueError(
            "the model's embeddings are no means of its tokens' vectors: nothing adds up over pairs"
        )
    one = {name: it[:1, : embedded.encoded.length(0)] for name, it in embedded.encoded.batch.items()}
    of = Explained(subject.model, subject.tokenizer, embedded.forward, embedded.alike)
    question = Question(of, one, torch.zeros(1, dtype=torch.long, device=parts.device), (parts,))

    def over_pairs(inputs: Tensor, baselines: Tensor, _: None, arguments: tuple[Any, ...]) -> Tensor:
        found = cast(Tensor, of.exact_differences.attribute_classes(inputs, baselines, arguments))
        return found.sum(-1) if found.dim() == 4 else found  # over embeddings, (1, M, N, D)

    scores = differences(question, over_pairs)
    value = float((embedded.vectors[0] * embedded.vectors[1]).sum())
    return TokenMatrix(embedded.tokens(0), embedded.tokens(1), scores[0], value)
