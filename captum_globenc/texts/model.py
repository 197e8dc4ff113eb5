"""Find the model and the tokenizer in a model, a pipeline, or an object of sentence-transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.forward import sentence_object
from captum_globenc.texts.embeddings import knows_padding

if TYPE_CHECKING:
    from transformers import Pipeline

__all__ = ["LoadedModel", "as_loaded_model"]

UNSUPPORTED = ("MultiVectorEncoder", "SparseEncoder")
"""Classes of sentence-transformers whose output is neither one vector nor one score per text."""


class LoadedModel(NamedTuple):
    """A model of transformers and its tokenizer.

    Attributes:
        model: the model.
        tokenizer: the model's tokenizer.
        source: the object that was passed: the model itself, a pipeline, or an object of
            sentence-transformers.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: Any

    @property
    def embeds(self) -> bool:
        """Whether the source is a SentenceTransformer."""
        return sentence_object(self.source) == "SentenceTransformer"

    @property
    def pipeline(self) -> Any:
        """The pipeline that was passed; None if a model was passed."""
        return None if isinstance(self.source, nn.Module) else self.source

    @property
    def pads(self) -> bool:
        """Whether texts of different lengths can run as one batch."""
        return self.tokenizer.pad_token_id is not None and knows_padding(self.model)


def as_loaded_model(
    model: PreTrainedModel | Pipeline | nn.Module, tokenizer: PreTrainedTokenizerBase | None
) -> LoadedModel:
    """Find the model and the tokenizer of a model, a pipeline, or an object of sentence-transformers.

    Raises:
        TypeError: There is no tokenizer or a second one, `model` is not a model, or it is an unsupported
            object of sentence-transformers.
    """
    found: Any = model
    kind = sentence_object(found)
    for it in type(found).__mro__:
        if it.__name__ in UNSUPPORTED and it.__module__.startswith("sentence_transformers."):
            raise TypeError(
                f"a {it.__name__} of sentence-transformers is not supported: pass a SentenceTransformer or a "
                "CrossEncoder"
            )
    # No isinstance: the module of the class Pipeline imports all pipelines.
    is_pipeline = not isinstance(found, nn.Module) and hasattr(found, "model") and hasattr(found, "tokenizer")
    if is_pipeline or kind:
        what = f"a {kind}" if kind else "a pipeline"
        if tokenizer is not None and tokenizer is not found.tokenizer:
            raise TypeError(f"{what} has a tokenizer of its own: leave the other out")
        found, tokenizer = found.transformers_model if kind else found.model, found.tokenizer
        if kind and (found is None or (kind == "CrossEncoder" and "Sequence" not in type(found).__name__)):
            raise TypeError(
                f"{what} of {type(found).__name__} is not supported: explain its models one by one"
            )
    if not isinstance(found, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        name = repr(model) if isinstance(model, str) else "name"
        raise TypeError(
            f"model is {what}: pass a model and its tokenizer, or a transformers pipeline. A classifier is "
            f"loaded by AutoModelForSequenceClassification.from_pretrained({name})"
        )
    if not hasattr(found, "config") or not hasattr(found, "get_input_embeddings"):
        inside = " Pass model.module." if isinstance(getattr(found, "module", None), nn.Module) else ""
        raise TypeError(
            f"model is a {type(found).__name__}, not a model of transformers.{inside} For models of your own "
            "there is TransformerDeepLift(forward_func, model).attribute(inputs, baselines)"
        )
    if tokenizer is None:
        raise TypeError("no tokenizer: pass explain(texts, model, tokenizer), or explain(texts, pipeline)")
    if not callable(tokenizer) or not hasattr(tokenizer, "convert_ids_to_tokens"):
        text = isinstance(tokenizer, str)
        what, name = ("string", repr(tokenizer)) if text else (type(tokenizer).__name__, "name")
        raise TypeError(f"tokenizer is a {what}: pass AutoTokenizer.from_pretrained({name})")
    return LoadedModel(found, tokenizer, model)  # type: ignore[arg-type]  # any module with their signature
