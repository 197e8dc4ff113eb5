"""Embeddings of texts by a SentenceTransformer: `encode`, `encode_query` or `encode_document`.

Shapes: B texts, N tokens, A explained outputs, M parts of an embedding, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.forward import EncoderForward
from captum_globenc.results.record import Span
from captum_globenc.results.words import Word
from captum_globenc.texts.model import LoadedModel
from captum_globenc.texts.offsets import find_offsets
from captum_globenc.texts.request import in_parts
from captum_globenc.texts.tokenizing import encode
from captum_globenc.texts.words import find_words

__all__ = ["Embedded", "Role", "SimilarityForward", "encodes_roles"]

Role = Literal["query", "document"]

PROMPTS: Mapping[Role, tuple[str, ...]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}
"""Prompt names by role; `encode_query` and `encode_document` use the first one that exists."""


def encodes_roles(model: Any) -> bool:
    """Return whether a SentenceTransformer has routes or prompts for queries and documents."""
    routers = [it for it in model.modules() if _is_router(it)]
    return any(_prompt(model, role) for role in PROMPTS) or any(
        _route_name(it, "query") != _route_name(it, "document") for it in routers
    )


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
    """Return a shallow copy of a SentenceTransformer that runs one route only, with shared modules.

    Args:
        model: the SentenceTransformer.
        role: the role whose route runs.
        settings: the features that are not tensors, such as the length of the prompt.
    """
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
            it has no transformer for the texts, it reads other ids than those of its tokenizer, or the texts
            cannot be tokenized.
    """

    def __init__(
        self, loaded: LoadedModel, texts: Sequence[str], role: Role | None = None, *, compared: bool = True
    ) -> None:
        whole = loaded.source
        kind = getattr(whole, "similarity_fn_name", None) or "cosine"
        if compared and kind not in ("cosine", "dot"):
            raise ValueError(f"the model's similarity is {kind!r}: only cosine and dot product add up")
        if getattr(whole, "truncate_dim", None) is not None:
            raise ValueError("the model changes texts or embeddings by its truncate_dim: set that to None")
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
        inputs, extra = self.forward.arguments(self.encoded.batch)
        with torch.no_grad():
            made = in_parts(self.forward, self.model, inputs, *extra)
        if not made.isfinite().all():
            raise ValueError("the model's output is NaN or infinite")
        self.norms = made.norm(dim=-1)
        self.vectors = normalize(made, dim=-1) if self.similarity.cosine else made

    def ids(self, text: int) -> list[int]:
        """Return the ids of a text, including the prompt."""
        found: list[int] = self.encoded.whole["input_ids"][text, : self.encoded.length(text)].tolist()
        return found

    def tokens(self, text: int) -> list[str]:
        """Return the tokens of a text, including the prompt."""
        return [str(token) for token in self.tokenizer.convert_ids_to_tokens(self.ids(text))]

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
        """Check that the model reads the ids of `encoded`.

        Raises:
            ValueError: The model reads other ids, for example because it applies a template.
        """
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
        """Mark the tokens of the prompt as special, and return their positions in each text.

        Raises:
            ValueError: There is a prompt, and the tokenizer has no character offsets.
        """
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
