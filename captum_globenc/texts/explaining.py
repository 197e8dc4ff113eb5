"""`explain`: explain a model's predictions for texts.

Shapes: B texts, R rows (texts, or windows of texts), A explained outputs, N tokens, L layers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, compress, groupby
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.forward import EncoderForward
from captum_globenc.results.explanation import Explanation
from captum_globenc.results.explanations import Explanations
from captum_globenc.results.record import Kind
from captum_globenc.texts.methods import METHODS, run_methods
from captum_globenc.texts.model import LoadedModel, as_loaded_model
from captum_globenc.texts.options import (
    Options,
    Pairs,
    Target,
    Texts,
    pooled_token,
    resolve_position,
    texts_and_pairs,
)
from captum_globenc.texts.outputs import ExplainedOutput, OutputSelector, Predictions, selector_tensors
from captum_globenc.texts.pieces import names
from captum_globenc.texts.prompts import Passages, Prompt, read_prompts
from captum_globenc.texts.provenance import versions
from captum_globenc.texts.request import AttributionRequest, Explainer, resolve_baseline, run_batch
from captum_globenc.texts.tasks import check_task, task_of
from captum_globenc.texts.tasks.generation import (
    GENERATION,
    check_generation,
    contrasted,
    finish_answers,
    prepare_prompts,
    prompt_batches,
)
from captum_globenc.texts.tasks.similarity import explain_embeddings
from captum_globenc.texts.tokenizing import encode, token_limit
from captum_globenc.texts.windows import merge_windows
from captum_globenc.texts.words import find_offsets, find_unknown

if TYPE_CHECKING:
    from transformers import Pipeline

__all__ = ["TRUNCATED", "explain", "explain_prompts"]

TRUNCATED = "texts are truncated at"
"""Prefix of the notice about truncated texts."""


def explain(
    texts: Texts | Sequence[Sequence[Mapping[str, Any]]],
    model: PreTrainedModel | Pipeline | nn.Module,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    pair: Pairs = None,
    context: Pairs = None,
    position: int | Literal["mean"] | None = None,
    mixing: str = "N-Enc",
    layers: bool = False,
    methods: Sequence[str] | None = None,
    target: Target | None = None,
    against: str | int | Sequence[str] | None = None,
    baseline: str = "mask",
    windows: int | None = None,
    threshold: float = 0.5,
    tell: Callable[[str], None] | None = None,
    answer: str | Sequence[str] | None = None,
    max_new_tokens: int | None = None,
    per_token: bool = False,
    passages: Passages | None = None,
    **generation: Any,
) -> Explanations:
    """Explain the predictions of a model for texts: score each token.

    The class of the model determines the task and the explained outputs:

    - sequence classification: the predicted class; every label above the threshold (multi-label); the value
      (regression);
    - token classification: each entity, grouped as by the pipeline of transformers;
    - question answering: the answer in `context` to the question in a text;
    - masked language modeling: the predicted word for each mask token;
    - text generation: the log-probability of the answer to a prompt;
    - SentenceTransformer: the similarity of a text and its pair; without a pair, the embedding, by "globenc".

    All texts run as one batch, so split long lists. Models without a padding token run one text at a time.

    Args:
        texts: B texts, or B tuples (text, pair). For text generation, B prompts: strings, or lists of chat
            messages, which the tokenizer's chat template renders.
        model: A Hugging Face model in eval mode, a pipeline of transformers, a SentenceTransformer or a
            CrossEncoder.
        tokenizer: The model's tokenizer; not needed for pipelines and objects of sentence-transformers.
        pair: One second segment for all texts, or one per text, with None for texts without one.
        context: An alias of `pair` for question answering: the passage that contains the answer.
        position: The token that GlobEnc explains: an index into every text, negative from the end of the
            text, or "mean". By default the token that the model's head pools, or the tokens of the explained
            outputs.
        mixing: GlobEnc's mixing matrix, a name of `MIXINGS`.
        layers: Whether to compute the scores of every layer as well, for methods that have them.
        methods: Names from `METHODS`. By default "globenc" and "transformer-deep-lift"; one that does not
            support the model is left out with a notice.
        target: The explained output of every text, by name or index: a class, a label, a word, or the "start"
            or "end" of an answer. By default the prediction. A list of classes, or "all", is explained side
            by side, with scores by method and class; scores of "globenc" do not depend on the class.
        against: The contrast class: explain `target` minus this output. For text generation, another answer,
            or one per prompt: the difference of the two log-probabilities is explained.
        baseline: The baseline of "transformer-deep-lift" and "integrated-gradients". Special tokens are kept;
            others are replaced by the mask token, or the mean word embedding if there is none ("mask"), by
            the mean word embedding ("mean"), by the embedding of padding ("pad"), or by zeros ("zero"), a
            singular point of norms without a bias (RMSNorm of Llama, Mistral, Qwen, T5).
            `settings["baseline"]` of an explanation has the baseline that was used.
        windows: The number of tokens that neighboring windows share, for texts that are longer than the
            model's limit; the longer of text and pair is split. Logits are averaged over windows, scores over
            the windows that contain the token; GlobEnc's are normalized to sum to 1. Entities, answers and
            mask tokens belong to one window. By default such texts are truncated.
        threshold: The minimum probability in [0, 1] of explained labels, for multi-label models.
        tell: Called with each notice, such as a method that is left out, or truncated texts. By default
            notices are warnings.
        answer: The explained answer for text generation, or one per prompt. It is tokenized separately, so it
            starts with a space if the text has one there. By default the answer that the model generates,
            greedily unless `generation` sets sampling or beams.
        max_new_tokens: The maximum number of generated tokens; by default the value in the model's
            generation config, else 64.
        per_token: Whether to compute the contributions to each token of the answer as well (`answer_scores`).
        passages: Passages of the prompt whose contributions `Explanation.passages()` sums: a dict from names
            to texts, a list of (name, text), or a list of texts, exactly as in the prompt; or a list of such
            dicts or lists, one per prompt.
        **generation: Further options of `model.generate`, named as in `transformers.GenerationConfig`, and
            `seed`, which `do_sample=True` requires.

    Returns:
        The explanations, in the order of the texts: several for a text with more than one label, entity or
        mask token, none for a text without entities.

    Raises:
        TypeError: `texts` is one string or has other entries, `model` is not a model of transformers, or
            there is no tokenizer.
        ValueError: The arguments do not fit each other or the model: an unknown name, a different number of
            pairs and texts, a class contrasted with itself, a position outside a text, a text without a mask
            token or a context, invalid Unicode, ids without an embedding, windows that share too many tokens,
            or a chosen method that does not support the model. Also if the model's output is not finite. For
            text generation: a prompt above the model's limit, an answer without tokens, a missing or failing
            chat template, or sampling without a seed.
        RuntimeError: A chosen method failed a check of its numbers.

    Example:
        >>> from captum_globenc.texts.default import load_default
        >>> (explanation,) = explain(["A wonderful film."], *load_default())
        >>> explanation.prediction, explanation.tokens[1:-1]
        ('POSITIVE', ['a', 'wonderful', 'film', '.'])
        >>> scores = explanation.scores["transformer-deep-lift"]
        >>> explanation.tokens[scores.index(max(scores))]
        'wonderful'
    """
    if unexpected := [it for it in generation if it not in GENERATION]:
        raise TypeError(f"explain() got an unexpected keyword argument {unexpected[0]!r}")
    loaded = as_loaded_model(model, tokenizer)
    if max_new_tokens is not None:
        generation["max_new_tokens"] = max_new_tokens
    own = {"answer": answer, "per_token": per_token or None, "passages": passages, **generation}
    passed = [name for name, value in own.items() if value is not None]
    check_task(loaded, context=context is not None, generation=passed)
    generates = not loaded.embeds and task_of(loaded.model).generates
    options = Options(
        methods,
        position,
        mixing,
        layers,
        target,
        None if generates else cast("str | int | None", against),
        baseline,
        windows,
        threshold,
        per_token,
        generation,
    )
    notices: dict[str, None] = {}
    if generates:
        texts = list(texts) if isinstance(texts, Iterator) else texts  # read twice with `against`
        options = check_generation(
            loaded,
            options,
            notices,
            answered=answer is not None,
            contrasted=against is not None,
            paired=pair is not None,
        )
        prompts = read_prompts(texts, loaded.tokenizer, answer, passages)
        made = explain_prompts(prompts, loaded, options, notices)
        if against is not None:
            contrasts = read_prompts(texts, loaded.tokenizer, against, name="against")
            others = explain_prompts(contrasts, loaded, options, notices)
            made = [contrasted(one, other) for one, other in zip(made, others, strict=True)]
    else:
        strings, pairs = texts_and_pairs(cast("Texts", texts), pair, context)
        run = partial(
            explain_embeddings if loaded.embeds else _explain_batch,
            loaded=loaded,
            options=options,
            notices=notices,
        )
        if len(strings) > 1 and not loaded.pads:
            made = [it for text, other in zip(strings, pairs, strict=True) for it in run([text], [other])]
        else:
            made = run(strings, pairs) if strings else []
    if loaded.embeds and any(it.truncated for it in made):
        notices[_truncated(loaded)] = None
    for message in notices:
        if tell is None:
            warnings.warn(message, stacklevel=2)
        else:
            tell(message)
    return Explanations(made)


def explain_prompts(
    prompts: Sequence[Prompt], loaded: LoadedModel, options: Options, notices: dict[str, None]
) -> list[Explanation]:
    """Explain the answers to prompts; see `explain` for the errors.

    Args:
        prompts: The prompts, all of them with an answer or none.
        loaded: The model.
        options: The options, as `check_generation` returns them.
        notices: Notices are added to it.
    """
    made: dict[int, Explanation] = {}
    for numbers in prompt_batches(prompts, loaded, options):
        part = [prompts[it] for it in numbers]
        texts = [it.text for it in part]
        found = _explain_batch(
            texts, [None] * len(part), loaded=loaded, options=options, notices=notices, prompts=part
        )
        made.update(zip(numbers, found, strict=True))
    return [made[it] for it in range(len(prompts))]


def _explain_batch(
    texts: Sequence[str],
    pairs: Sequence[str | None],
    *,
    loaded: LoadedModel,
    options: Options,
    notices: dict[str, None],
    prompts: Sequence[Prompt] = (),
) -> list[Explanation]:
    """Explain one batch, and add notices to `notices`."""
    model, tokenizer, position = loaded.model, loaded.tokenizer, options.position
    task = task_of(model)
    forward: EncoderForward
    if prompts:
        encoded, forward = prepare_prompts(prompts, loaded, options)
        position = "mean" if position is None else position  # for the encoder of an encoder-decoder
    else:
        encoded = encode(texts, pairs, model, tokenizer, options.windows)
        forward = EncoderForward(model, output=task.output)
    if any(encoded.truncated):
        whole = "windows=16 explains them whole, in windows that share 16 tokens"
        notices[f"{_truncated(loaded)}; {whole}"] = None
    outputs = run_batch(forward, model, encoded.batch)
    outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
    predictions = Predictions(
        texts,
        pairs,
        encoded,
        outputs,
        loaded,
        options,
        lambda message: notices.update({message: None}),
        prompts,
    )
    explained = task.select(predictions)
    if not explained:
        return []
    ids = encoded.batch["input_ids"]
    rows = torch.tensor([row for it in explained for row in it.rows], device=ids.device)
    if isinstance(position, int) and len(outputs) > len(texts):
        raise ValueError("windows have no position in common: leave one of the two out")
    where = resolve_position(position, encoded.whole["attention_mask"].sum(-1), texts)
    where = where[rows] if isinstance(where, Tensor) else where
    request = AttributionRequest(
        Explainer(model, tokenizer, forward, OutputSelector(forward), options.baseline, options.mixing),
        encoded.batch,
        rows,
        selector_tensors([it.terms for it in explained for _ in it.rows], outputs),
        _weights(explained, ids) if where is None and explained[0].tokens else where,
    )
    found, depths = run_methods(request, options.methods, options.layers, notices)
    head = where is None and not explained[0].tokens and "globenc" in found
    made = _assemble(predictions, explained, found, depths, position=pooled_token(model) if head else where)
    return finish_answers(made, predictions, request) if prompts else made


def _truncated(loaded: LoadedModel) -> str:
    limit = token_limit(loaded.model, loaded.tokenizer)
    return f"{TRUNCATED} {limit} tokens, the limit of the model"


def _weights(explained: Sequence[ExplainedOutput], ids: Tensor) -> Tensor:
    """Return the weights `(A, N)` of the tokens that GlobEnc explains, for outputs of single tokens."""
    weights = torch.zeros(len(explained), ids.shape[1], device=ids.device)
    for row, it in enumerate(explained):
        weights[row, list(it.tokens)] = 1 / len(it.tokens)
    return weights


def _assemble(
    predictions: Predictions,
    explained: Sequence[ExplainedOutput],
    scores: Mapping[str, Tensor],
    layers: Mapping[str, Tensor],
    *,
    position: Tensor | Literal["mean"] | int | None,
) -> list[Explanation]:
    """Return an explanation of each output, or one of all outputs that are shown side by side.

    The scores `(A, N)` and `(A, L, N)` of windows are merged into scores of the text, 0 outside the explained
    windows. Contributions averaged over several windows do not sum to a difference: their kind is "signed".
    """
    made = []
    starts = accumulate((len(it.rows) for it in explained), initial=0)
    for it, start in zip(explained, starts, strict=False):
        rows = slice(start, start + len(it.rows))
        merged = _MergedWindows(predictions, it)
        kinds = {
            name: METHODS[name].kind if len(it.rows) == 1 else METHODS[name].merged_kind for name in scores
        }
        made.append(
            Explanation(
                text=predictions.texts[it.text],
                pair=predictions.pairs[it.text],
                prediction=it.prediction,
                probability=it.probability,
                value=it.value,
                probabilities=it.probabilities,
                target=it.target,
                against=it.against,
                explained=it.explained,
                position=_position(predictions, it, start, position) if "globenc" in scores else None,
                scores={name: merged.row(values[rows], kinds[name]) for name, values in scores.items()},
                kinds=kinds,
                layers={
                    name: [merged.row(values[rows, depth], kinds[name]) for depth in range(values.shape[1])]
                    for name, values in layers.items()
                },
                span=it.span,
                **_of_text(predictions, it.text),
            )
        )
    pairs = zip(explained, made, strict=True)
    by_text = groupby(pairs, key=lambda pair: (pair[0].text, pair[0].side_by_side))
    groups = [([explanation for _, explanation in group], key[1]) for key, group in by_text]
    return [it for group, joined in groups for it in ([_side_by_side(group)] if joined else group)]


def _side_by_side(found: Sequence[Explanation]) -> Explanation:
    """Join the explanations of one text for several classes, with scores by method and class."""
    first = found[0]
    made: dict[str, Any] = {"scores": {}, "kinds": {}, "layers": {}, "outputs": {}}
    for name, kind in first.kinds.items():
        knows_class = METHODS[name].knows_class
        for it in found if knows_class else found[:1]:
            key = f"{name}: {it.target}" if knows_class else name
            made["scores"][key], made["kinds"][key] = it.scores[name], kind
            if knows_class:
                made["outputs"][key] = (it.target, it.explained)
            if name in it.layers:
                made["layers"][key] = it.layers[name]
    return replace(first, **made, target=first.prediction, explained=first.value)


class _MergedWindows:
    """Merge the scores of the windows of a text that explain one output."""

    def __init__(self, predictions: Predictions, explained: ExplainedOutput) -> None:
        encoded = predictions.encoded
        self._windows = [encoded.positions[row] for row in explained.rows]
        self._real = [encoded.batch["attention_mask"][row].bool().tolist() for row in explained.rows]
        self._whole = len(encoded.rows[explained.text]) == 1
        self._count = encoded.length(explained.text)

    def row(self, values: Tensor, kind: Kind) -> list[float]:
        """Return the scores of the text's tokens, from scores of its rows `(rows, N)`."""
        rows: list[list[float]] = [
            list(compress(row.tolist(), real)) for row, real in zip(values, self._real, strict=True)
        ]
        if self._whole:
            return rows[0]
        merged = merge_windows(self._count, self._windows, rows)
        total = merged.sum() if kind in ("shares", "sizes") else 0
        found: list[float] = (merged / total if total else merged).tolist()
        return found


def _position(
    predictions: Predictions,
    explained: ExplainedOutput,
    row: int,
    position: Tensor | Literal["mean"] | int | None,
) -> Literal["mean"] | int | None:
    """Return the index in the text of the token that GlobEnc explains, or "mean"; None for several tokens."""
    if isinstance(position, Tensor):
        return int(position[row])
    if position is None and len(explained.tokens) == 1:
        return predictions.encoded.positions[explained.rows[0]][explained.tokens[0]]
    return position


def _of_text(predictions: Predictions, text: int) -> dict[str, Any]:
    """Return the fields of an explanation that all outputs of a text share."""
    encoded, options = predictions.encoded, predictions.options
    model, tokenizer = predictions.loaded.model, predictions.loaded.tokenizer
    settings = {
        "mixing": options.mixing,
        "baseline": resolve_baseline(options.baseline, model, tokenizer),
    }
    if len(encoded.rows[text]) > 1:
        settings["windows"] = str(options.windows)
    ids = encoded.whole["input_ids"][text, : encoded.length(text)].tolist()
    return {
        "tokens": names(ids, tokenizer),
        "groups": predictions.words[text],
        "offsets": find_offsets(encoded.whole, text),
        "model": {"name": str(model.config.name_or_path or ""), "class": type(model).__name__},
        "settings": settings,
        "versions": versions(),
        "truncated": encoded.truncated[text],
        "ids": ids,
        "unknown": find_unknown(ids, predictions.words[text], tokenizer.unk_token_id),
    }
