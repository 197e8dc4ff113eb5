"""The explanation of texts: what a model predicts for them, and what every token had to do with it.

The front ends (command line, web page) draw what is computed here.

Shapes: B texts, R rows, texts or windows of them, A asked rows, N tokens.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.errors import unknown_names
from captum_globenc.forward import EncoderForward
from captum_globenc.results.explanation import Explanation
from captum_globenc.results.explanations import Explanations
from captum_globenc.texts.asked import Asked, Given, Picked, picked_tensors
from captum_globenc.texts.assembling import assemble
from captum_globenc.texts.generation import (
    GENERATION,
    check_generation,
    contrasted,
    finish_answers,
    prepare_prompts,
)
from captum_globenc.texts.inputs import Pairs, Texts, texts_and_pairs
from captum_globenc.texts.methods import METHODS, run_methods
from captum_globenc.texts.options import Options, Target
from captum_globenc.texts.position import pooled_token, resolve_position
from captum_globenc.texts.prompts import Passages, Prompt, read_prompts
from captum_globenc.texts.question import Explained, Question, in_parts
from captum_globenc.texts.similarity import explain_embeddings
from captum_globenc.texts.subject import Subject, subject_of
from captum_globenc.texts.tasks import check_task, task_of
from captum_globenc.texts.tokenizing import encode, token_limit

if TYPE_CHECKING:
    from transformers import Pipeline

__all__ = ["TRUNCATED", "explain"]

TRUNCATED = "texts are truncated at"
"""What the notice of truncated texts begins with."""


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
    """Explain what a model predicts for texts: which tokens were used, and what for.

    What is explained depends on what the model is for, which its class says: the class of a sequence
    classifier, each likely label of a multi-label one, the value of a regression; each entity of a token
    classifier, grouped as its pipeline groups them; the answer in `pair` to the question in a text; the word
    that a masked language model fills in for each mask token; the answer that a language model generates for
    a prompt; the similarity that a SentenceTransformer finds between a text and its pair, or, where there is
    none, what its embedding is made of, by "globenc" alone.

    All texts are tokenized together: cut long lists into pieces. A model without a padding token takes them
    one by one.

    Args:
        texts: B texts, or B tuples (text, pair). For a model that generates text, B prompts: strings, or
            lists of chat messages, which the tokenizer's chat template renders.
        model: A Hugging Face model for one of these, in eval mode; a pipeline of transformers; or a
            SentenceTransformer or a CrossEncoder.
        tokenizer: Its tokenizer; a pipeline, and an object of sentence-transformers, has one.
        pair: A second segment that goes with every text, or one for each. None where a text has none.
        context: `pair` of a question: the passage that holds its answer. For models that answer questions.
        position: The token whose mixture GlobEnc explains: its index in every text, negative ones
            counting from the text's own end, or "mean"; left out, what the model's head pools, or the tokens
            whose outputs are explained.
        mixing: One of GlobEnc's kinds of mixing matrix.
        layers: Whether to compute the scores at every depth as well, of methods that have them.
        methods: Names from `METHODS`. Left out, "globenc" and "transformer-deep-lift", or the one of them
            that holds for the model: the other is told of.
        target: What is explained in every text, by name or index: a class, a label, a word to be filled in,
            the "start" or "end" of an answer; left out, what is predicted. Several classes, or "all", are
            shown side by side, with scores by method and class. "globenc" knows no class.
        against: What `target` is held against: why that one rather than this. For a model that generates
            text, another answer, or one for each prompt: the difference of both log-probabilities is
            explained.
        baseline: What "transformer-deep-lift" and "integrated-gradients" compare a text with. Special tokens
            are kept, the others replaced: "mask" by the mask token, or the mean word embedding where the
            tokenizer has no mask token; "mean" by the mean word embedding; "pad" by the embedding of padding;
            "zero" by zeros, where norms without a bias are singular (RMSNorm of Llama, Mistral, Qwen, T5).
            `settings["baseline"]` of an explanation says which was used.
        windows: How many tokens neighbouring windows share, into which a text is cut that is longer than the
            model takes, or its pair where that is longer. The prediction is of the mean of the windows'
            logits, and a token's score is the average over the windows that hold it; GlobEnc's are made to
            sum to 1 again. An entity, an answer and a filled-in word are of the window that they are found
            in. Left out, such texts lose their end.
        threshold: How likely a label of a multi-label model has to be to be explained.
        tell: Called with each notice: a method that is left out and why, texts that are truncated. By default
            notices are warnings.
        answer: For a model that generates text: the answer whose log-probability is explained, or one for
            each prompt. It is tokenized by itself, so begin it with a space where the text would have one.
            Left out, the answer that the model generates, greedily unless `generation` says otherwise.
        max_new_tokens: The largest number of generated tokens; by default that of the model's generation
            config, else 64.
        per_token: Whether to compute a row of contributions for each token of the answer as well,
            `answer_scores`.
        passages: Passages of the prompt, whose contributions `Explanation.passages()` sums: a dict from names
            to texts, a list of (name, text), or a list of texts, as they stand in the prompt; or a list of
            such dicts or lists, one for each prompt.
        **generation: Further options of `model.generate` by the names of `transformers.GenerationConfig`, and
            `seed`, which `do_sample=True` needs.

    Returns:
        An explanation of each text, in their order: several of one with more than one label, entity or mask
        token, and none of one without entities.

    Raises:
        TypeError: `texts` is one string, or holds something else; `model` is not of transformers; or there
            is no tokenizer.
        ValueError: There are not as many pairs as texts, a method that was chosen does not hold for the model
            or none does, the model's outputs are none of a task's, a name is not known, a class is held
            against itself, a position lies outside of a text, a text has no mask token or no text to find an
            answer in, is not valid Unicode or has tokens that the model has no embedding for, windows share
            too much, or the model's output is not finite. Of generated text: a prompt is longer than the
            model takes, an answer has no tokens, a chat has no template or one that fails, or sampling has no
            seed.
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
    if unexpected := [it for it in generation if it not in GENERATION]:
        raise TypeError(f"explain() got an unexpected keyword argument {unexpected[0]!r}")
    unknown = [] if isinstance(methods, str) else [it for it in methods or () if it not in METHODS]
    if unknown:
        raise ValueError(unknown_names("method", unknown, [*METHODS]))
    subject = subject_of(model, tokenizer)
    if max_new_tokens is not None:
        generation["max_new_tokens"] = max_new_tokens
    given = {"answer": answer, "per_token": per_token or None, "passages": passages, **generation}
    own = [name for name, value in given.items() if value is not None]
    check_task(subject, context=context is not None, generation=own)
    generates = not subject.embeds and task_of(subject.model).generates
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
    told: dict[str, None] = {}
    if generates:
        options = check_generation(
            subject,
            options,
            told,
            answered=answer is not None,
            contrasted=against is not None,
            paired=pair is not None,
        )
        made = _answers(read_prompts(texts, subject.tokenizer, answer, passages), subject, options, told)
        if against is not None:
            contrasts = read_prompts(texts, subject.tokenizer, against, name="against")
            others = _answers(contrasts, subject, options, told)
            made = [contrasted(one, other) for one, other in zip(made, others, strict=True)]
    else:
        strings, pairs = texts_and_pairs(cast("Texts", texts), pair, context)
        run = partial(
            explain_embeddings if subject.embeds else _explained, subject=subject, options=options, told=told
        )
        if len(strings) > 1 and not subject.pads:
            made = [it for text, other in zip(strings, pairs, strict=True) for it in run([text], [other])]
        else:
            made = run(strings, pairs) if strings else []
    if subject.embeds and any(it.truncated for it in made):
        told[_truncated(subject)] = None
    for message in told:
        if tell is None:
            warnings.warn(message, stacklevel=2)
        else:
            tell(message)
    return Explanations(made)


def _answers(
    prompts: Sequence[Prompt], subject: Subject, options: Options, told: dict[str, None]
) -> list[Explanation]:
    """Explain the answers to prompts, all together or, without padding, one by one."""
    parts = [prompts] if subject.pads and prompts else [[it] for it in prompts]
    return [
        it
        for part in parts
        for it in _explained(
            [it.text for it in part],
            [None] * len(part),
            subject=subject,
            options=options,
            told=told,
            prompts=part,
        )
    ]


def _explained(
    texts: Sequence[str],
    pairs: Sequence[str | None],
    *,
    subject: Subject,
    options: Options,
    told: dict[str, None],
    prompts: Sequence[Prompt] = (),
) -> list[Explanation]:
    """Explain one batch; what is left out goes to `told`."""
    model, tokenizer, position = subject.model, subject.tokenizer, options.position
    task = task_of(model)
    forward: EncoderForward
    if prompts:
        encoded, forward = prepare_prompts(prompts, subject, options)
        position = "mean" if position is None else position  # of the encoder of an encoder-decoder
    else:
        encoded = encode(texts, pairs, model, tokenizer, options.windows)
        forward = EncoderForward(model, output=task.output)
    if any(encoded.truncated):
        told[f"{_truncated(subject)}; windows=16 explains them whole, in windows that share 16 tokens"] = None
    inputs, extra = forward.arguments(encoded.batch)
    with torch.no_grad():
        outputs = _checked(in_parts(forward, model, inputs, *extra))
    given = Given(
        texts,
        pairs,
        encoded,
        outputs,
        subject,
        options,
        lambda message: told.update({message: None}),
        prompts,
    )
    asked = task.ask(given)
    if not asked:
        return []
    rows = torch.tensor([row for it in asked for row in it.rows], device=inputs.device)
    where: Tensor | Literal["mean"] | None = None if isinstance(position, int) else position
    if isinstance(position, int):
        if len(outputs) > len(texts):
            raise ValueError("windows have no position in common: leave one of the two out")
        where = resolve_position(position, encoded.whole["attention_mask"].sum(-1), texts)[rows]
    question = Question(
        Explained(model, tokenizer, forward, Picked(forward), options.baseline, options.mixing),
        encoded.batch,
        rows,
        picked_tensors([it.picks for it in asked for _ in it.rows], outputs),
        _weights(asked, inputs) if where is None and asked[0].tokens else where,
    )
    found, depths = run_methods(question, options.methods, options.layers, told)
    head = where is None and not asked[0].tokens and "globenc" in found
    made = assemble(given, asked, found, depths, position=pooled_token(model) if head else where)
    return finish_answers(made, given, question) if prompts else made


def _truncated(subject: Subject) -> str:
    limit = token_limit(subject.model, subject.tokenizer)
    return f"{TRUNCATED} {limit} tokens, the most that this model takes"


def _weights(asked: Sequence[Asked], inputs: Tensor) -> Tensor:
    """Return how much of each token's mixture GlobEnc explains, `(A, N)`, of outputs that tokens have."""
    weights = torch.zeros(len(asked), inputs.shape[1], device=inputs.device)
    for row, it in enumerate(asked):
        weights[row, list(it.tokens)] = 1 / len(it.tokens)
    return weights


def _checked(outputs: Tensor) -> Tensor:
    if not outputs.isfinite().all():
        raise ValueError("the model's output is NaN or infinite")
    return outputs if outputs.dtype == torch.float64 else outputs.float()
