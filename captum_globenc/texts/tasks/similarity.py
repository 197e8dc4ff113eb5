"""Explain a SentenceTransformer: an embedding, or the similarity of two texts.

Shapes: B texts, N tokens of a text, M tokens of the other, D embedding dimensions, A explained outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.forward import EncoderForward
from captum_globenc.results.explanation import Explanation
from captum_globenc.results.record import Span
from captum_globenc.results.words import Word
from captum_globenc.texts.methods import DEFAULT_METHODS, METHODS, run_methods
from captum_globenc.texts.methods.ours import deep_lift_outputs
from captum_globenc.texts.model import LoadedModel, as_loaded_model
from captum_globenc.texts.options import Options, pooled_token, resolve_position
from captum_globenc.texts.pieces import names
from captum_globenc.texts.provenance import versions
from captum_globenc.texts.request import AttributionRequest, Explainer, resolve_baseline, run_batch
from captum_globenc.texts.tokenizing import encode
from captum_globenc.texts.words import find_offsets, find_unknown, find_words

__all__ = ["TokenMatrix", "explain_embeddings", "similarity_matrix"]

Role = Literal["query", "document"]

PROMPTS: Mapping[Role, tuple[str, ...]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}
"""Prompt names by role; `encode_query` and `encode_document` use the first one that exists."""


class TokenMatrix(NamedTuple):
    """The contribution of each pair of tokens to the similarity of two texts.

    Attributes:
        tokens: the N tokens of the text.
        others: the M tokens of the other text.
        scores: `(M, N)`; their sum is `similarity` minus its value for the fully masked text.
        similarity: the similarity of the two texts.
    """

    tokens: list[str]
    others: list[str]
    scores: Tensor
    similarity: float


def explain_embeddings(
    texts: Sequence[str],
    pairs: Sequence[str | None],
    *,
    loaded: LoadedModel,
    options: Options,
    notices: dict[str, None],
) -> list[Explanation]:
    """Explain embeddings, or the similarities of pairs; see `captum_globenc.explain`.

    For a pair, the baseline of each text is the fully masked text, while the embedding of the other is fixed.
    Models with routes or prompts for retrieval encode texts by `encode_query` and pairs by `encode_document`;
    others encode both by `encode`.

    Args:
        texts: B texts.
        pairs: The second text of each pair; None for all to explain embeddings, by "globenc" alone.
        loaded: A SentenceTransformer.
        options: The options of the call.
        notices: Notices are added to it, such as a method that is left out.

    Raises:
        ValueError: Only some texts have a pair, the similarity is neither the cosine nor the dot product, or
            an option or a method does not apply.
    """
    others = [pair for pair in pairs if pair is not None]
    if len(others) not in (0, len(texts)):
        raise ValueError(
            f"{len(others)} of {len(texts)} texts have a pair: explain them apart from the others"
        )
    what = "similarities" if others else "embeddings"
    for name in ("target", "against", "windows", *(("position",) if others else ())):
        if getattr(options, name) is not None:
            raise ValueError(f"{name} does not apply to {what}: leave it out")
    methods = options.methods if others else _without_class(options.methods, notices)
    roles = _roles(loaded.source) if others else (None, None)
    sides = [Embedded(loaded, texts, roles[0], compared=bool(others))]
    if others:
        sides.append(Embedded(loaded, others, roles[1]))
    where = resolve_position(options.position, sides[0].encoded.whole["attention_mask"].sum(-1), texts)
    found = [
        run_methods(_request(side, other, options, where), methods, options.layers, notices)
        for side, other in zip(sides, reversed(sides), strict=True)
    ]
    scores, layers = _supported_by_both(found, notices)
    values = (sides[0].vectors * sides[1].vectors).sum(-1) if others else sides[0].norms
    # The contributions of the two texts sum to two different differences.
    kinds = {name: METHODS[name].merged_kind for name in scores}
    baseline = resolve_baseline(options.baseline, sides[0].model, sides[0].tokenizer)
    settings = {"mixing": options.mixing, "baseline": baseline}
    if roles[0]:
        settings["encoded"] = "by encode_query and encode_document"
    whose = {"name": str(sides[0].model.config.name_or_path or ""), "class": type(loaded.source).__name__}
    reads: Tensor | int | Literal["mean"] | None = where
    if where is None and "globenc" in scores:
        pooled = {pooled_token(side.encoder) for side in sides}
        reads = pooled.pop() if len(pooled) == 1 else None
    target = "similarity" if others else "norm of the embedding"

    def joined(rows: Sequence[Tensor], name: str, index: int) -> list[float]:
        """Return the scores of one text or both; shares of both together sum to 1."""
        share = 1 / len(sides) if kinds[name] in ("shares", "sizes") else 1.0
        return [
            share * score
            for side, of in zip(sides, rows, strict=True)
            for score in of[index, : side.encoded.length(index)].tolist()
        ]

    made = []
    for index, (text, value) in enumerate(zip(texts, values.tolist(), strict=True)):
        position = int(reads[index]) if isinstance(reads, Tensor) else reads
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
                position=position if position == "mean" or not others else None,
                scores={name: joined(rows, name, index) for name, rows in scores.items()},
                kinds=kinds,
                layers={
                    name: [
                        joined(depth, name, index)
                        for depth in zip(*(it.unbind(1) for it in rows), strict=True)
                    ]
                    for name, rows in layers.items()
                },
                model=whose,
                settings=settings,
                versions=versions(),
                truncated=any(side.encoded.truncated[index] for side in sides),
                **_tokens(sides, index),
            )
        )
    return made


def _request(
    side: Embedded, other: Embedded, options: Options, where: Tensor | Literal["mean"] | None
) -> AttributionRequest:
    """Return the request for the texts of one side, with fixed embeddings of the other side."""
    of = Explainer(
        side.model, side.tokenizer, side.forward, side.similarity, options.baseline, options.mixing
    )
    rows = torch.arange(len(side.vectors), device=side.vectors.device)
    return AttributionRequest(of, side.encoded.batch, rows, (other.vectors,), where)


def _supported_by_both(
    found: Sequence[tuple[dict[str, Tensor], dict[str, Tensor]]], notices: dict[str, None]
) -> tuple[dict[str, list[Tensor]], dict[str, list[Tensor]]]:
    """Return scores, and scores of layers, by method, for the methods that support both encoders."""
    first, last = found[0], found[-1]
    scores = {name: [it[0][name] for it in found] for name in first[0] if name in last[0]}
    if not scores:
        raise ValueError("no method supports both the query encoder and the document encoder")
    layers = {name: [it[1][name] for it in found] for name in first[1] if name in last[1]}
    for name in [name for name, rows in layers.items() if rows[0].shape[1] != rows[-1].shape[1]]:
        del layers[name]
        reason = "the two encoders have different numbers of them"
        notices[f"{name} has no scores of single layers: {reason}"] = None
    return scores, layers


def _tokens(sides: Sequence[Embedded], index: int) -> dict[str, Any]:
    """Return the fields of an explanation with the tokens of a text and its pair."""
    fields: dict[str, Any] = {"ids": [], "tokens": [], "groups": [], "offsets": [], "unknown": []}
    for segment, side in enumerate(sides):
        ahead, ids, words = len(fields["ids"]), side.ids(index), side.words(index)
        unknown = find_unknown(ids, words, side.tokenizer.unk_token_id)
        fields["ids"] += ids
        fields["tokens"] += side.tokens(index)
        fields["groups"] += [it._replace(tokens=tuple(ahead + token for token in it.tokens)) for it in words]
        fields["offsets"] += [span and span._replace(segment=segment) for span in side.offsets(index)]
        fields["unknown"] += [ahead + token for token in unknown]
    return fields


def _without_class(methods: Sequence[str] | None, notices: dict[str, None]) -> list[str]:
    """Return the methods that do not depend on a class, for single embeddings; add notices of the others."""
    chosen = DEFAULT_METHODS if methods is None else methods
    kept = [name for name in chosen if not METHODS[name].knows_class]
    rejected = ", ".join(name for name in chosen if name not in kept)
    reason = "a single embedding has no class: pass pair, a text to compare it with"
    if rejected and methods is not None:
        raise ValueError(f"{rejected} does not apply: {reason}, or use globenc alone")
    if rejected:
        notices[f"{rejected} is left out: {reason}"] = None
    return kept


def similarity_matrix(text: str, other: str, model: nn.Module) -> TokenMatrix:
    """Distribute the similarity of two texts over the pairs of their tokens, exactly.

    With mean pooling, the similarity is a sum over the tokens of the other text. Each term is explained by
    the tokens of the text, with the fully masked text as the baseline.

    Args:
        text: A text; the query, for models with routes or prompts for retrieval.
        other: The other text; the document, for such models.
        model: A SentenceTransformer with mean pooling.

    Raises:
        TypeError: `model` is not a SentenceTransformer.
        ValueError: The model has no mean pooling, or its similarity is neither the cosine nor the dot
            product.

    Example:
        >>> from sentence_transformers import SentenceTransformer
        >>> from captum_globenc.texts.default import encoder_folder
        >>> model = SentenceTransformer(str(encoder_folder()), device="cpu")
        >>> matrix = similarity_matrix("A cat sleeps.", "The kitten naps.", model)
        >>> matrix.tokens[2], matrix.others[2], tuple(matrix.scores.shape)
        ('cat', 'kitten', (7, 6))
    """
    loaded = as_loaded_model(model, None)
    if not loaded.embeds:
        raise TypeError(f"model is a {type(model).__name__}: pass a SentenceTransformer")
    roles = _roles(model)
    own, its = Embedded(loaded, [text], roles[0]), Embedded(loaded, [other], roles[1])
    ids, extra = its.forward.arguments(its.encoded.batch)
    with torch.no_grad():
        vectors = EncoderForward(its.encoder, output="token_embeddings")(ids, *extra)
    parts = vectors / vectors.shape[1]
    mean = parts.sum(1)
    if its.similarity.cosine:
        parts, mean = parts / mean.norm(dim=-1, keepdim=True)[..., None], normalize(mean, dim=-1)
    if not torch.allclose(mean, its.vectors, rtol=1e-3, atol=1e-5):
        raise ValueError(
            "the embeddings are not the means of the token vectors: similarity_matrix needs mean pooling"
        )
    of = Explainer(own.model, own.tokenizer, own.forward, own.similarity)
    only = torch.zeros(1, dtype=torch.long, device=parts.device)
    request = AttributionRequest(of, own.encoded.batch, only, (parts,))
    value = float((own.vectors * its.vectors).sum())
    return TokenMatrix(own.tokens(0), its.tokens(0), deep_lift_outputs(request)[0], value)


def _roles(model: Any) -> tuple[Role | None, Role | None]:
    """Return the roles of a text and its pair; None if there are no routes or prompts for retrieval."""
    routers = [it for it in model.modules() if _is_router(it)]
    for_retrieval = any(_prompt(model, role) for role in PROMPTS) or any(
        _route_name(it, "query") != _route_name(it, "document") for it in routers
    )
    return ("query", "document") if for_retrieval else (None, None)


def _is_router(module: nn.Module) -> bool:
    # By name, because sentence-transformers may not be installed.
    return any(it.__name__ == "Router" for it in type(module).__mro__)


def _route_name(router: Any, role: Role | None) -> str:
    return str(router._resolve_route(task=role, modality="text"))


def _prompt(model: Any, role: Role | None) -> str:
    """Return the prompt that a model prepends to texts."""
    if role is None:
        return str(model.prompts.get(model.default_prompt_name) or "")
    return str(next((model.prompts[name] for name in PROMPTS[role] if name in model.prompts), "") or "")


def _routed(model: Any, role: Role | None, settings: Mapping[str, Any]) -> Any:
    """Return a shallow copy of a SentenceTransformer that runs one route only, with shared modules."""
    children: dict[str, nn.Module] = {}
    for name, child in model.named_children():
        if _is_router(child):
            route = child.sub_modules[_route_name(child, role)]
            children |= {f"{name}-{number}": it for number, it in enumerate(route)}
        else:
            children[name] = child
    view = copy(model)
    run, keywords = view.forward, {} if role is None else {"task": role}
    vars(view)["_modules"] = children
    vars(view)["forward"] = lambda features: run({**settings, **features}, **keywords)
    return view


class SimilarityForward(nn.Module):
    """A forward function of the similarity of texts to fixed embeddings.

    Args:
        embed: a forward function of ids, which returns embeddings `(A, D)`.
        cosine: whether to normalize the embeddings of the texts.
    """

    def __init__(self, embed: Callable[..., Tensor], cosine: bool) -> None:
        super().__init__()
        self.embed = embed
        self.cosine = cosine

    @property
    def model(self) -> nn.Module:
        """The model that `embed` runs."""
        return cast("nn.Module", cast("Any", self.embed).model)

    def forward(self, *arguments: Any) -> Tensor:
        """Run the model.

        Args:
            arguments: the arguments of `embed`, then fixed embeddings `(A, D)`, or M parts of an embedding
                `(A, M, D)`.

        Returns:
            Similarities `(A,)`, or `(A, M)` for parts.
        """
        *own, others = arguments
        embedding = self.embed(*own)
        if self.cosine:
            embedding = normalize(embedding, dim=-1)
        return cast(Tensor, (others * (embedding if others.dim() == 2 else embedding[:, None])).sum(-1))


class Embedded:
    """Texts and their embeddings by a SentenceTransformer.

    The tokens of a prompt that the model prepends count as special tokens: the baseline keeps them, and
    character offsets refer to the text without the prompt.

    Args:
        loaded: A SentenceTransformer.
        texts: B texts.
        role: "query" for `encode_query`, "document" for `encode_document`, None for `encode`.
        compared: Whether the embeddings are compared, so that the similarity must be supported.

    Attributes:
        encoder: The SentenceTransformer, reduced to the route of the role.
        model: The transformer of the encoder.
        tokenizer: The tokenizer of the encoder.
        encoded: The tokenized texts.
        forward: The forward function from ids to embeddings.
        similarity: The forward function of the similarity to fixed embeddings.
        norms: `(B,)`, the norms of the embeddings.
        vectors: `(B, D)`, the embeddings, normalized if the similarity is the cosine.

    Raises:
        ValueError: The model truncates embeddings, its similarity is neither the cosine nor the dot product,
            it has no transformer for the texts, it reads other ids than its tokenizer returns, or the texts
            cannot be tokenized.
    """

    def __init__(
        self, loaded: LoadedModel, texts: Sequence[str], role: Role | None = None, *, compared: bool = True
    ) -> None:
        whole = loaded.source
        kind = getattr(whole, "similarity_fn_name", None) or "cosine"
        if compared and kind not in ("cosine", "dot"):
            raise ValueError(f"the model's similarity is {kind!r}: only cosine and dot are supported")
        if getattr(whole, "truncate_dim", None) is not None:
            raise ValueError("truncate_dim is not supported: set it to None")
        self._method = f"encode_{role}" if role else "encode"
        self._prompt = _prompt(whole, role)
        routing = {} if role is None else {"task": role}
        features = whole.preprocess(list(texts), prompt=self._prompt or None, **routing)
        settings = {name: it for name, it in features.items() if not isinstance(it, Tensor)}
        self.encoder = _routed(whole, role, settings)
        self.model = cast(PreTrainedModel, self.encoder.transformers_model)
        self.tokenizer = cast(PreTrainedTokenizerBase, self.encoder.tokenizer)
        if self.model is None:
            raise ValueError(f"{self._method} of the model runs no transformer: there is nothing to explain")
        self._prompted = [self._prompt + text for text in texts]
        self.encoded = encode(self._prompted, [None] * len(texts), self.model, self.tokenizer)
        self._check_ids(features)
        self._in_prompt = self._find_prompt()
        self._words = find_words(self.encoded.whole, self.tokenizer, self._prompted)
        self.forward = EncoderForward(self.encoder)
        self.similarity = SimilarityForward(self.forward, kind == "cosine")
        made = run_batch(self.forward, self.model, self.encoded.batch)
        self.norms = made.norm(dim=-1)
        self.vectors = normalize(made, dim=-1) if self.similarity.cosine else made

    def ids(self, text: int) -> list[int]:
        """Return the ids of a text, including the prompt."""
        found: list[int] = self.encoded.whole["input_ids"][text, : self.encoded.length(text)].tolist()
        return found

    def tokens(self, text: int) -> list[str]:
        """Return the tokens of a text, including the prompt."""
        return names(self.ids(text), self.tokenizer)

    def words(self, text: int) -> list[Word]:
        """Return the words of a text; words of the prompt are special."""
        prompt, offsets = self._in_prompt[text], find_offsets(self.encoded.whole, text)
        made = []
        for word in self._words[text]:
            parts = {
                kind: tuple(it for it in word.tokens if (it in prompt) is kind) for kind in (True, False)
            }
            if not parts[True]:
                made.append(word)
                continue
            for special, tokens in parts.items():
                spans = [span for token in tokens if (span := offsets[token])]
                if spans:
                    spelt = self._prompted[text][spans[0].start : spans[-1].stop].strip()
                    made.append(Word(spelt, tokens, special))
        return made

    def offsets(self, text: int) -> list[Span | None]:
        """Return the character offsets in the text of its tokens; None for special and prompt tokens."""
        cut = len(self._prompt)
        return [
            # A token may begin with the end of the prompt, such as its last space.
            span and span._replace(start=max(span.start - cut, 0), stop=span.stop - cut)
            if token not in self._in_prompt[text]
            else None
            for token, span in enumerate(find_offsets(self.encoded.whole, text))
        ]

    def _check_ids(self, features: Mapping[str, Any]) -> None:
        """Check that the model reads the ids of `encoded`; a template would add others."""
        model_ids, mask = features["input_ids"], features.get("attention_mask")
        model_ids = model_ids.flatten() if mask is None else model_ids[mask.bool()]
        whole = self.encoded.whole
        ids = whole["input_ids"][whole["attention_mask"].bool()]
        if not torch.equal(model_ids.to(ids.device), ids):
            raise ValueError(
                f"{self._method} passes other tokens to the model than its tokenizer returns for the texts: "
                "explain the model's transformer alone"
            )

    def _find_prompt(self) -> list[set[int]]:
        """Mark the tokens of the prompt as special, and return their positions in each text."""
        whole = self.encoded.whole
        if self._prompt and not whole.encodings:
            raise ValueError(
                f"{type(self.tokenizer).__name__} has no character offsets to find the tokens of the prompt: "
                "use a fast tokenizer"
            )
        found: list[set[int]] = []
        for text in range(len(self._prompted)):
            offsets = enumerate(find_offsets(whole, text))
            found.append({token for token, it in offsets if it and it.stop <= len(self._prompt)})
            whole["special_tokens_mask"][text, sorted(found[-1])] = 1
        return found
