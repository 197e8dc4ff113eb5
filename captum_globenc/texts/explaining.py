"""The explanation of texts: what a classifier predicts for them, and what every token had to do with it.

The front ends (command line, web page) draw what is computed here.

Shapes: B texts, N tokens, L layers, C classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from textwrap import shorten
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.forward import EncoderForward
from captum_globenc.results.explanation import Explanation
from captum_globenc.results.explanations import Explanations
from captum_globenc.texts.classes import class_names, probabilities
from captum_globenc.texts.methods import DEFAULT_METHODS, METHODS, REFUSALS, NoLayersError, Question
from captum_globenc.texts.options import check_options, chosen_classes, model_and_tokenizer
from captum_globenc.texts.origin import find_offsets, find_unknown, installed_versions
from captum_globenc.texts.position import pooled_token, resolve_position
from captum_globenc.texts.scores import token_scores
from captum_globenc.texts.tokenizing import encode
from captum_globenc.texts.words import find_words

if TYPE_CHECKING:
    from transformers import Pipeline

__all__ = ["explain"]


def explain(
    texts: Sequence[str],
    model: PreTrainedModel | Pipeline,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    pair: str | Sequence[str | None] | None = None,
    position: int | Literal["mean"] | None = None,
    mixing: str = "N-Enc",
    layers: bool = False,
    methods: Sequence[str] | None = None,
    target: str | int | None = None,
    against: str | int | None = None,
    baseline: str = "mask",
    tell: Callable[[str], None] | None = None,
) -> Explanations:
    """Explain the predictions of a sequence classifier: which tokens were used, and what for.

    All texts run as one batch: cut long lists into pieces. A model without a padding token takes them one
    by one.

    Args:
        texts: B texts.
        model: A Hugging Face sequence classifier, in eval mode, or a text-classification pipeline.
        tokenizer: Its tokenizer; a pipeline has one.
        pair: A second segment that goes with every text, or one for each, None where a text has none.
        position: The token whose mixture GlobEnc explains: its index in every text, negative ones
            counting from the text's own end, or "mean"; left out, what the model's head pools.
        mixing: One of GlobEnc's kinds of mixing matrix.
        layers: Whether to compute the scores at every depth as well, of methods that have them.
        methods: Names from `METHODS`. Left out, "globenc" and "transformer-deep-lift", or the one of them
            that holds for the model: the other is told of.
        target: The class that is explained in every text, by name or index; left out, the predicted one.
            "globenc" knows no class.
        against: A class that `target` is held against: why that one rather than this.
        baseline: What "transformer-deep-lift" and "integrated-gradients" compare a text with, special tokens
            kept: "mask", all its tokens masked; "pad", padding; "zero", word embeddings of zero.
        tell: Called with what is left out, and why; left out itself, that is a warning.

    Returns:
        B explanations, in the order of `texts`.

    Raises:
        TypeError: `texts` is one string, or there is no tokenizer.
        ValueError: There are not as many pairs as texts, a method that was chosen does not hold for the
            model or none does, it gives no (B, C) logits, a name is not known, a class is held against
            itself, a position lies outside of a text, a text is not valid Unicode or has tokens that the
            model has no embedding for, or the model's output is not finite.
        RuntimeError: The numbers of a method that was chosen were found not to hold.

    Example:
        >>> from captum_globenc.texts.default import load_default
        >>> (explanation,) = explain(["A wonderful film."], *load_default())
        >>> explanation.prediction, explanation.tokens[1:-1]
        ('POSITIVE', ['a', 'wonderful', 'film', '.'])
        >>> scores = explanation.scores["transformer-deep-lift"]
        >>> explanation.tokens[scores.index(max(scores))]
        'wonderful'
    """
    if isinstance(texts, str):
        raise TypeError(f"texts is one string: pass a list of texts, [{shorten(texts, 40)!r}]")
    pairs = [pair] * len(texts) if pair is None or isinstance(pair, str) else list(pair)
    if len(pairs) != len(texts):
        raise ValueError(f"there are {len(pairs)} pairs for {len(texts)} texts")
    check_options(methods, mixing=mixing, baseline=baseline, target=target, against=against)
    if not texts:
        return Explanations()
    model, tokenizer = model_and_tokenizer(model, tokenizer)
    run = partial(
        _explained,
        model=model,
        tokenizer=tokenizer,
        position=position,
        mixing=mixing,
        layers=layers,
        methods=methods,
        target=target,
        against=against,
        baseline=baseline,
    )
    told: dict[str, None] = {}
    if len(texts) > 1 and None in (tokenizer.pad_token_id, getattr(model.config, "pad_token_id", None)):
        made = [
            explanation
            for text, other in zip(texts, pairs, strict=True)
            for explanation in run([text], [other], told=told)
        ]
    else:
        made = run(texts, pairs, told=told)
    for message in told:
        if tell is None:
            warnings.warn(message, stacklevel=2)
        else:
            tell(message)
    return Explanations(made)


def _explained(
    texts: Sequence[str],
    pairs: Sequence[str | None],
    *,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    position: int | Literal["mean"] | None,
    mixing: str,
    layers: bool,
    methods: Sequence[str] | None,
    target: str | int | None,
    against: str | int | None,
    baseline: str,
    told: dict[str, None],
) -> list[Explanation]:
    """Explain one batch; what is left out goes to `told`."""
    batch, truncated = encode(texts, pairs, model, tokenizer)
    forward = EncoderForward(model)
    inputs, extra = forward.arguments(batch)
    with torch.no_grad():
        logits = _checked(forward(inputs, *extra))
    names = class_names(model.config, logits.shape[1])
    highest = logits.argmax(-1)
    classes, other = chosen_classes(highest, names, target, against, model.config, texts)
    lengths = batch["attention_mask"].sum(-1)
    where = resolve_position(position, lengths, texts) if isinstance(position, int) else position
    question = Question(model, tokenizer, batch, classes, other, baseline, mixing, where)
    found, depths = _answers(question, methods, layers, told)
    scores = {name: token_scores(batch, tokenizer, made)[1] for name, made in found.items()}
    tokens, _ = token_scores(batch, tokenizer, next(iter(found.values())))
    words = find_words(batch, tokenizer, texts, [pair for pair in pairs if pair is not None] or None)
    ids = [row[:length].tolist() for row, length in zip(batch["input_ids"], lengths.tolist(), strict=True)]
    shares = probabilities(logits, model.config)
    explained = logits.gather(1, classes[:, None])[:, 0]
    explained = explained if other is None else explained - logits[:, other]
    whose = {"name": str(model.config.name_or_path or ""), "class": type(model).__name__}
    settings = {"mixing": mixing, "baseline": baseline}
    versions = installed_versions()
    pooled = pooled_token(model) if position is None and "globenc" in found else None
    return [
        Explanation(
            text=text,
            pair=pairs[i],
            prediction=names[best],
            probability=None if shares is None else shares[i, best].item(),
            value=logits[i, best].item(),
            probabilities={} if shares is None else dict(zip(names, shares[i].tolist(), strict=True)),
            target=names[int(classes[i])],
            against=None if other is None else names[other],
            explained=explained[i].item(),
            position=pooled if "globenc" not in found or where is None else _place(where, i),
            tokens=tokens[i],
            scores={name: rows[i] for name, rows in scores.items()},
            layers={name: rows[i, :, : lengths[i]].tolist() for name, rows in depths.items()},
            kinds={name: METHODS[name].kind for name in scores},
            groups=words[i],
            offsets=find_offsets(batch, i),
            model=whose,
            settings=settings,
            versions=versions,
            truncated=truncated[i],
            ids=ids[i],
            unknown=find_unknown(ids[i], words[i], tokenizer.unk_token_id),
        )
        for i, (text, best) in enumerate(zip(texts, highest.tolist(), strict=True))
    ]


def _answers(
    question: Question, methods: Sequence[str] | None, layers: bool, told: dict[str, None]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return each method's scores `(B, N)`, and of those that have them `(B, L, N)` at every depth."""
    found: dict[str, Tensor] = {}
    depths: dict[str, Tensor] = {}
    refused: dict[str, Exception] = {}
    for name in dict.fromkeys(DEFAULT_METHODS if methods is None else methods):
        method = METHODS[name]
        try:
            found[name] = method.scores(question)
        except REFUSALS as error:
            if methods is not None:
                raise
            refused[name] = error
            continue
        if layers and method.layers is not None:
            try:
                depths[name] = method.layers(question)
            except (NoLayersError, *REFUSALS) as error:  # such as that a decoder reads the text as well
                told[f"{name} has no scores of single layers: {error}"] = None
    if not found:
        raise ValueError("; ".join(f"{name}: {error}" for name, error in refused.items()))
    told.update({f"{name} is left out: {error}": None for name, error in refused.items()})
    return found, depths


def _place(where: Tensor | Literal["mean"], index: int) -> int | Literal["mean"]:
    return int(where[index]) if isinstance(where, Tensor) else where


def _checked(logits: Tensor) -> Tensor:
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        shape = tuple(getattr(logits, "shape", ()))
        raise ValueError(f"a sequence classifier gives logits (B, C), this model gives {shape}")
    if not logits.isfinite().all():
        raise ValueError("the model's output is NaN or infinite")
    return logits.float()
