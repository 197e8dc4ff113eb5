"""The embeddings that a SentenceTransformer gives texts: by `encode`, `encode_query` or `encode_document`.

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

__all__ = ["Alike", "Embedded", "Role", "encodes_roles"]

Role = Literal["query", "document"]

PROMPTS: Mapping[Role, tuple[str, ...]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}
"""The prompts of a role by name: `encode_query` and `encode_document` take the first that there is."""


def encodes_roles(model: Any) -> bool:
    """Return whether a SentenceTransformer has routes or prompts for queries and documents."""
    routers = [it for it in model.modules() if _is_router(it)]
    return any(_prompt(model, role) for role in PROMPTS) or any(
        _route_name(it, "query") != _route_name(it, "document") for it in routers
    )


def _is_router(module: nn.Module) -> bool:
    # Told by its name, because sentence-transformers need not be installed.
    return any(it.__name__ == "Router" for it in type(module).__mro__)


def _route_name(router: Any, role: Role | None) -> str:
    return str(router._resolve_route(task=role, modality="text"))


def _prompt(model: Any, role: Role | None) -> str:
    """Return the prompt that a model puts in front of a text."""
    if role is None:
        return str(model.prompts.get(model.default_prompt_name) or "")
    return str(next((model.prompts[name] for name in PROMPTS[role] if name in model.prompts), "") or "")


def _routed(model: Any, role: Role | None, settings: Mapping[str, Any]) -> Any:
    """Return a view of a SentenceTransformer, with shared modules, that runs one route alone.

    Args:
        model: the SentenceTransformer.
        role: the route to take.
        settings: entries of the features that are no tensors, such as the length of the prompt.
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

    @property
    def model(self) -> nn.Module:
        """The model that `embed` runs."""
        return cast("nn.Module", cast("Any", self.embed).model)

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
    """Texts and their embeddings, as one method of a SentenceTransformer encodes them.

    A prompt that the model puts in front of each text counts as special tokens: it stays in the baseline, and
    character offsets are those in the text alone.

    Args:
        loaded: A SentenceTransformer.
        texts: B texts.
        role: "query" or "document", encoded as `encode_query` and `encode_document` do; None, as `encode`.
        compared: Whether their embeddings are compared.

    Attributes:
        given: The SentenceTransformer, or a view of the route that the texts take in it.
        model: Its transformer.
        tokenizer: Its tokenizer.
        encoded: The tokenized texts.
        forward: The forward function, from ids to embeddings.
        alike: The forward function of the similarity to given embeddings.
        norms: `(B,)`, norms of the embeddings.
        vectors: `(B, D)`, the embeddings, normalized where the similarity is the cosine.

    Raises:
        ValueError: The model truncates embeddings, compares them neither by the cosine nor by the dot
            product, has no route or no transformer for the texts, or reads other tokens than its tokenizer
            makes; or the texts cannot be encoded.
    """

    def __init__(
        self, loaded: LoadedModel, texts: Sequence[str], role: Role | None = None, *, compared: bool = True
    ) -> None:
        whole = loaded.given
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
        self.given = _routed(whole, role, settings)
        self.model = cast(PreTrainedModel, self.given.transformers_model)
        self.tokenizer = cast(PreTrainedTokenizerBase, self.given.tokenizer)
        if self.model is None:
            raise ValueError(f"{self._method} of the model runs no transformer: there is nothing to explain")
        self._prompted = [self._prompt + text for text in texts]
        self.encoded = encode(self._prompted, [None] * len(texts), self.model, self.tokenizer)
        self._check_ids(features)
        self._in_prompt = self._find_prompt()
        self._words = find_words(self.encoded.whole, self.tokenizer, self._prompted)
        self.forward = EncoderForward(self.given)
        self.alike = Alike(self.forward, kind == "cosine")
        inputs, extra = self.forward.arguments(self.encoded.batch)
        with torch.no_grad():
            made = in_parts(self.forward, self.model, inputs, *extra)
        if not made.isfinite().all():
            raise ValueError("the model's output is NaN or infinite")
        self.norms = made.norm(dim=-1)
        self.vectors = normalize(made, dim=-1) if self.alike.cosine else made

    def ids(self, text: int) -> list[int]:
        """Return the ids of a text, the prompt's among them."""
        found: list[int] = self.encoded.whole["input_ids"][text, : self.encoded.length(text)].tolist()
        return found

    def tokens(self, text: int) -> list[str]:
        """Return the tokens of a text, the prompt's among them."""
        return [str(token) for token in self.tokenizer.convert_ids_to_tokens(self.ids(text))]

    def words(self, text: int) -> list[Word]:
        """Return the words of a text; those of the prompt are special."""
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
                spans = [place for token in tokens if (place := offsets[token])]
                if spans:
                    spelt = self._prompted[text][spans[0].start : spans[-1].stop].strip()
                    made.append(Word(spelt, tokens, special))
        return made

    def offsets(self, text: int) -> list[Span | None]:
        """Return the character offsets of the tokens of a text in it; None for special and prompt tokens."""
        cut = len(self._prompt)
        return [
            # A token may begin with the end of the prompt, such as its last space.
            place and place._replace(start=max(place.start - cut, 0), stop=place.stop - cut)
            if token not in self._in_prompt[text]
            else None
            for token, place in enumerate(find_offsets(self.encoded.whole, text))
        ]

    def _check_ids(self, features: Mapping[str, Any]) -> None:
        """Check that the model reads the ids that are explained.

        Raises:
            ValueError: It does not, such as where it fills texts into a template.
        """
        theirs, mask = features["input_ids"], features.get("attention_mask")
        theirs = theirs.flatten() if mask is None else theirs[mask.bool()]
        whole = self.encoded.whole
        ours = whole["input_ids"][whole["attention_mask"].bool()]
        if not torch.equal(theirs.to(ours.device), ours):
            raise ValueError(
                f"{self._method} gives the model other tokens than its tokenizer makes of the texts: explain "
                "the model's transformer by itself"
            )

    def _find_prompt(self) -> list[set[int]]:
        """Mark the tokens of the prompt as special, and return them by text.

        Raises:
            ValueError: The tokenizer does not tell where tokens are in a text.
        """
        whole = self.encoded.whole
        if self._prompt and not whole.encodings:
            raise ValueError(
                f"{type(self.tokenizer).__name__} has no character offsets, so the prompt's tokens cannot be "
                "told from the text's: use a fast tokenizer"
            )
        found: list[set[int]] = []
        for text in range(len(self._prompted)):
            places = enumerate(find_offsets(whole, text))
            found.append({token for token, it in places if it and it.stop <= len(self._prompt)})
            whole["special_tokens_mask"][text, sorted(found[-1])] = 1
        return found
