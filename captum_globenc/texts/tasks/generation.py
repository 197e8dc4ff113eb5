"""Text generation: explain the log-probability of an answer to a prompt.

Shapes: B prompts, N tokens of a prompt, T tokens of an answer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from inspect import signature
from textwrap import shorten
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.forward import EncoderForward, Wrapper
from captum_globenc.results.explanation import Explanation
from captum_globenc.results.record import Answer
from captum_globenc.texts.methods import DEFAULT_METHODS, METHODS
from captum_globenc.texts.methods.ours import deep_lift_outputs
from captum_globenc.texts.model import LoadedModel
from captum_globenc.texts.options import Options, is_whole
from captum_globenc.texts.outputs import ExplainedOutput, OutputWeights, Predictions
from captum_globenc.texts.pieces import readable_tokens
from captum_globenc.texts.prompts import Prompt
from captum_globenc.texts.request import AttributionRequest, Explainer
from captum_globenc.texts.tokenizing import Encoded, encode, token_ids, token_limit

__all__ = [
    "GENERATION",
    "AnswerForward",
    "check_generation",
    "contrasted",
    "finish_answers",
    "left_padded",
    "new_tokens",
    "prepare_prompts",
    "prompt_batches",
    "select_generated",
]

NEW_TOKENS = 64
"""The default of `max_new_tokens` if the model's generation config has none."""

ROWS_AT_ONCE = 16
"""Answer tokens per backward pass with `per_token`, which bounds the memory."""

IGNORED = -100
"""The label of padding in transformers."""

_DEFAULTS: Any = cast("Any", GenerationConfig)()

GENERATION = ({name for name in vars(_DEFAULTS) if not name.startswith("_")} | {"seed"}) - {
    "max_length",
    "num_return_sequences",
    "return_dict_in_generate",
    "transformers_version",
    "use_cache",
}
"""The accepted options of `generate`: all but options that change the return value."""

METHOD = "transformer-deep-lift"
"""The method of `per_token`."""


class AnswerForward(EncoderForward):
    """A forward function from prompts to the log-probability of each answer token.

    The answer is an argument. A decoder reads it after the prompt, an encoder-decoder in its decoder.

    Args:
        model: A model that generates text.
    """

    settings = ()

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model, ("attention_mask", "labels", "decoder_input_ids"))

    def forward(self, inputs: Tensor, *arguments: Any) -> Tensor:
        """Run the model without its cache.

        Args:
            inputs: Ids of prompts `(B, N)`, padded on the left for decoders.
            arguments: The attention mask `(B, N)`; labels `(B, T)`, padded on the right with -100; and for an
                encoder-decoder the decoder ids `(B, T)`.

        Returns:
            Log-probabilities `(B, T)` in nats, arbitrary at padding.
        """
        mask, labels, *others = arguments
        read = signature(self.model.forward).parameters
        named: dict[str, Any] = {"attention_mask": mask}
        if others and others[0] is not None:
            named["decoder_input_ids"] = others[0]
        else:
            steps = labels[:, :-1]
            inputs = torch.cat([inputs, steps.clamp(min=0)], dim=1)
            named["attention_mask"] = mask = torch.cat([mask, (steps != IGNORED).to(mask)], dim=1)
            if "position_ids" in read:
                named["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
            if "logits_to_keep" in read:
                named["logits_to_keep"] = labels.shape[1]
        if "use_cache" in read:
            named["use_cache"] = False
        logits = self._field(self.model(input_ids=inputs, **named), "logits")[:, -labels.shape[1] :]
        logits = logits if logits.dtype == torch.float64 else logits.float()
        found = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])
        return found.squeeze(-1)

    def arguments(self, batch: Mapping[str, Any]) -> tuple[Tensor, tuple[Any, ...]]:
        """Return the arguments of `forward` from a batch of `prepare_prompts`."""
        return batch["input_ids"], tuple(batch.get(name) for name in self.argument_names)


def check_generation(
    loaded: LoadedModel,
    options: Options,
    notices: dict[str, None],
    *,
    answered: bool = False,
    contrasted: bool = False,
    paired: bool = False,
) -> Options:
    """Check the options of text generation, and return them without unsupported default methods.

    Args:
        loaded: The model.
        options: The options of the call.
        notices: Notices are added to it, such as a method that is left out.
        answered: Whether `answer` was passed.
        contrasted: Whether `against` was passed.
        paired: Whether `pair` was passed.

    Raises:
        ValueError: An option does not apply to the model.
    """
    decoder, name = not _encoder_decoder(loaded.model), type(loaded.model).__name__
    generation = options.generation
    for option, passed, instead in (
        ("pair", paired, "a prompt has no second segment, write it into the prompt"),
        ("target", options.target is not None, "pass the text that is explained as answer"),
        ("windows", options.windows is not None, "a prompt is not cut into windows"),
    ):
        if passed:
            raise ValueError(f"{option} is not for models that generate text: {instead}")
    if decoder and options.layers:
        raise ValueError(
            "layers is not for decoders: above the embeddings the tokens of the answer contribute as well"
        )
    if answered and generation:
        raise ValueError(f"answer was passed, so nothing is generated: leave {', '.join(generation)} out")
    if options.per_token and contrasted:
        raise ValueError("per_token has a row for each token of one answer: leave it or against out")
    tokens = generation.get("max_new_tokens", 1)
    if not is_whole(tokens) or tokens < 1:
        raise ValueError(f"max_new_tokens is {tokens!r}: pass an integer of at least 1")
    if generation.get("do_sample") and generation.get("seed") is None:
        raise ValueError("do_sample=True draws another answer in every call: pass a seed as well, seed=0")
    methods = DEFAULT_METHODS if options.methods is None else options.methods
    unsigned = [it for it in methods if METHODS[it].knows_class and METHODS[it].kind == "sizes"]
    if contrasted and unsigned:
        raise ValueError(f"{', '.join(unsigned)} has no sign: leave it or against out")
    if options.per_token and METHOD not in methods:
        raise ValueError(f"per_token is for {METHOD}: add it to methods")
    if decoder and "globenc" in methods:
        message = f"it explains encoders, and {name} is a decoder"
        if options.methods is not None:
            raise ValueError(f"globenc does not support the model: {message}")
        notices[f"globenc is left out: {message}"] = None
        return replace(options, methods=[it for it in methods if it != "globenc"])
    return options


def new_tokens(loaded: LoadedModel, options: Options) -> int:
    """Return the largest number of tokens of a generated answer."""
    return int(_generation(loaded, options.generation)["max_new_tokens"])


def prompt_batches(prompts: Sequence[Prompt], loaded: LoadedModel, options: Options) -> list[list[int]]:
    """Return the indices of the prompts of each batch, such that no answer depends on the other prompts.

    Models without padding run one prompt at a time. A prompt whose answer is cut at the limit of the model
    runs alone, because the longest prompt of a batch sets the number of tokens that are generated.
    """
    numbers = list(range(len(prompts)))
    if not loaded.pads:
        return [[it] for it in numbers]
    limit = token_limit(loaded.model, loaded.tokenizer)
    alone: list[int] = []
    if prompts and prompts[0].answer is None and limit is not None and not _encoder_decoder(loaded.model):
        ids = token_ids([it.text for it in prompts], loaded.tokenizer, special=prompts[0].messages is None)
        longest = limit + 1 - new_tokens(loaded, options)
        alone = [number for number, row in enumerate(ids) if len(row) > longest]
    together = [it for it in numbers if it not in alone]
    return [[it] for it in alone] + ([together] if together else [])


def prepare_prompts(
    prompts: Sequence[Prompt], loaded: LoadedModel, options: Options
) -> tuple[Encoded, AnswerForward]:
    """Tokenize prompts and their answers; generate the answers of prompts without one.

    Returns:
        The prompts, with `labels` and `decoder_input_ids` of the answers in their batch; and the forward
        function.

    Raises:
        ValueError: A prompt with its answer is above the model's limit, an answer has no tokens, or the
            attention of the model is not causal.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    chat = prompts[0].messages is not None
    texts = [it.text for it in prompts]
    limit = token_limit(model, tokenizer)
    for text, ids in zip(texts, token_ids(texts, tokenizer, special=not chat), strict=True):
        if limit is not None and len(ids) > limit:
            raise ValueError(
                f"the prompt {shorten(text, 40)!r} has {len(ids)} tokens, and the model takes {limit}: "
                "shorten it"
            )
    encoded = encode(texts, [None] * len(texts), model, tokenizer, special=not chat)
    batch = {**encoded.batch, "special_tokens_mask": _special(prompts, encoded)}
    if not _encoder_decoder(model):
        _check_causal(model, batch["input_ids"])
        batch = left_padded(batch)
    if prompts[0].answer is None:
        labels, steps = _generated(batch, loaded, options, limit)
    else:
        labels, steps = _tokenized([str(it.answer) for it in prompts], loaded)
    for prompt, row, mask in zip(prompts, labels, batch["attention_mask"], strict=True):
        if not any(_explained(row, tokenizer, model)):
            reason = "the model ends it at once; pass answer=" if prompt.answer is None else "pass a text"
            raise ValueError(f"the answer to {shorten(prompt.text, 40)!r} has no tokens: {reason}")
        prompt_tokens = 0 if _encoder_decoder(model) else int(mask.sum())
        if limit is not None and prompt_tokens + len(row) > limit + (prompt_tokens > 0):
            raise ValueError(
                f"the prompt {shorten(prompt.text, 40)!r} has {int(mask.sum())} tokens and its answer "
                f"{len(row)}, and the model takes {limit}: shorten one of the two"
            )
    batch["labels"] = _padded(labels, IGNORED).to(model.device)
    if steps is not None:
        batch["decoder_input_ids"] = _padded(steps, _pad(model, tokenizer)).to(model.device)
    return replace(encoded, batch=batch), AnswerForward(model)


def select_generated(predictions: Predictions) -> list[ExplainedOutput]:
    """Select the log-probability of each answer in nats, the sum of the outputs `(B, T)` of its tokens."""
    made = []
    for row, answer in enumerate(_answers(predictions)):
        terms: OutputWeights = {(position,): 1.0 for position in answer[0]}
        value = predictions.sum_of([row], terms)
        made.append(
            ExplainedOutput(
                text=row,
                rows=[row],
                terms=terms,
                prediction=answer[1].text,
                probability=None,
                value=value,
                target=answer[1].text,
                explained=value,
            )
        )
    return made


def finish_answers(
    made: Sequence[Explanation], predictions: Predictions, request: AttributionRequest
) -> list[Explanation]:
    """Add answers, passages and, with `per_token`, the contributions to each answer token to explanations."""
    answers = _answers(predictions)
    rows = _rows(request, [positions for positions, _ in answers]) if predictions.options.per_token else []
    finished = []
    for index, (explanation, (_, answer), prompt) in enumerate(
        zip(made, answers, predictions.prompts, strict=True)
    ):
        real = request.batch["attention_mask"][index].bool()
        special = request.batch["special_tokens_mask"][index][real].bool().tolist()
        finished.append(
            replace(
                explanation,
                answer=answer,
                answer_scores={METHOD: rows[index][:, real].tolist()} if rows else {},
                passage_spans=list(prompt.passages),
                groups=[
                    word._replace(special=word.special or all(special[it] for it in word.tokens))
                    for word in explanation.groups
                ],
            )
        )
    return finished


def contrasted(one: Explanation, other: Explanation) -> Explanation:
    """Return the explanation of the difference of two answers to the same prompt.

    Contributions are linear in the explained output, so the contributions to the difference of two
    log-probabilities are the differences of the contributions. GlobEnc's shares do not depend on the answer.

    Raises:
        ValueError: The answers are equal.
    """
    if one.answer is None or other.answer is None or one.answer.ids == other.answer.ids:
        raise ValueError(
            f"against is the answer that is explained, {shorten(one.target, 40)!r}: pass another answer"
        )

    def minus(row: Sequence[float], its: Sequence[float], name: str) -> list[float]:
        return [a - b for a, b in zip(row, its, strict=True)] if METHODS[name].knows_class else list(row)

    return replace(
        one,
        scores={name: minus(row, other.scores[name], name) for name, row in one.scores.items()},
        layers={
            name: [minus(*pair, name) for pair in zip(rows, other.layers[name], strict=True)]
            for name, rows in one.layers.items()
        },
        against=other.target,
        explained=one.explained - other.explained,
    )


def _encoder_decoder(model: PreTrainedModel) -> bool:
    return bool(getattr(model.config, "is_encoder_decoder", False))


def _pad(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    known = (tokenizer.pad_token_id, getattr(model.config, "pad_token_id", None), 0)
    return next(it for it in known if it is not None)


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])


def left_padded(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Move the padding of tensors `(B, N)`, one of them `attention_mask`, from the right to the left."""
    mask = batch["attention_mask"]
    length = mask.shape[1]
    positions = torch.arange(length, device=mask.device)
    index = (positions - (length - mask.sum(-1, keepdim=True))) % length
    return {name: values.gather(1, index) for name, values in batch.items()}


def _special(prompts: Sequence[Prompt], encoded: Encoded) -> Tensor:
    """Return a mask `(B, N)`, 1 at special tokens and at tokens of a chat template.

    Raises:
        ValueError: A prompt is a chat, and the tokenizer has no character offsets.
    """
    special = encoded.batch["special_tokens_mask"].clone()
    for row, prompt in enumerate(prompts):
        if prompt.messages is None:
            continue
        if not encoded.whole.encodings:
            raise ValueError("chats need a tokenizer with character offsets: use a fast tokenizer")
        for token, (start, stop) in enumerate(encoded.whole.encodings[row].offsets):
            inside = any(start < it.stop and it.start < stop for it in prompt.messages)
            special[row, token] = 0 if inside and encoded.batch["attention_mask"][row, token] else 1
    return special


def _check_causal(model: PreTrainedModel, ids: Tensor) -> None:
    """Check on a few tokens that XLNet, or a model whose config has `is_decoder=False`, has causal attention.

    Raises:
        ValueError: The output of the first token depends on the last one.
    """
    some = ids[:1, :8]
    bidirectional = getattr(model.config, "is_decoder", model.config.model_type != "xlnet") is False
    if not bidirectional or some.shape[1] < 2:
        return
    other = some.clone()
    other[0, -1] = (other[0, -1] + 1) % cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
    with torch.no_grad():
        first, changed = (model(input_ids=it).logits[0, 0] for it in (some, other))
    if (first - changed).abs().max() > torch.finfo(first.dtype).eps ** 0.5 * first.abs().max():
        raise ValueError(
            f"the attention of this {type(model).__name__} is not causal, so it cannot generate text: load "
            "it with is_decoder=True, or as a model for another task"
        )


def _tokenized(answers: Sequence[str], loaded: LoadedModel) -> tuple[list[list[int]], list[list[int]] | None]:
    """Return the labels of answers, and the decoder ids of an encoder-decoder."""
    model, tokenizer = loaded.model, loaded.tokenizer
    if not _encoder_decoder(model):
        return token_ids(answers, tokenizer, special=False), None
    labels: list[list[int]] = tokenizer(text_target=list(answers), verbose=False)["input_ids"]
    shifted = []
    for row in labels:
        ids = torch.tensor([row], dtype=torch.long)
        made = cast("Any", model).prepare_decoder_input_ids_from_labels(labels=ids) if row else ids
        steps = made[0].tolist()
        # MBart moves the language code at the end of labels to the front; other tokens do not start decoding.
        start = getattr(model.config, "decoder_start_token_id", None)
        if steps and steps[0] not in tokenizer.all_special_ids and start is not None:
            steps[0] = start
        shifted.append(steps)
    return labels, shifted


def _generated(
    batch: Mapping[str, Tensor], loaded: LoadedModel, options: Options, limit: int | None
) -> tuple[list[list[int]], list[list[int]] | None]:
    """Generate answers; return their labels, and the decoder ids of an encoder-decoder.

    Raises:
        ValueError: `max_new_tokens` exceeds the model's limit.
    """
    model = loaded.model
    encoder_decoder = _encoder_decoder(model)
    chosen, seed = _generation(loaded, options.generation), options.generation.get("seed")
    length = batch["input_ids"].shape[1]
    if limit is not None and not encoder_decoder:
        room = limit - length + 1
        if options.generation.get("max_new_tokens", 1) > room:
            raise ValueError(
                f"a prompt has {length} tokens and the model takes {limit}: "
                f"pass max_new_tokens={room} or less"
            )
        chosen["max_new_tokens"] = min(chosen["max_new_tokens"], room)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices) if seed is not None else nullcontext():
        if seed is not None:
            torch.manual_seed(seed)
        written: Tensor = cast("Any", model).generate(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **chosen
        )
    ends = chosen.get("eos_token_id")
    stops = {*(ends if isinstance(ends, list) else [ends])}
    rows = written[:, 0 if encoder_decoder else length :].tolist()
    if not encoder_decoder:
        return [_ended(row, stops, chosen["pad_token_id"]) for row in rows], None
    # The first token of a row starts the decoder.
    labels = [_ended(row[1:], stops, chosen["pad_token_id"]) for row in rows]
    return labels, [row[: len(own)] for row, own in zip(rows, labels, strict=True)]


def _generation(loaded: LoadedModel, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `generate`: the model's generation config, greedy, updated by `overrides`.

    They are keyword arguments, because some versions of transformers prefer the model's generation config to
    a `GenerationConfig` that is passed.
    """
    pipeline, model = loaded.pipeline, cast("Any", loaded.model)
    own = getattr(pipeline, "generation_config", None) or model.generation_config
    chosen = {name: getattr(own, name, None) for name in GENERATION - {"seed"}}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    chosen |= {it: v for it, v in getattr(pipeline, "_forward_params", {}).items() if it in GENERATION}
    chosen |= {"do_sample": False, "num_beams": 1}
    if not overrides.get("do_sample"):
        chosen |= dict.fromkeys(("temperature", "top_k", "top_p", "min_p", "typical_p"))
    if overrides.get("num_beams", 1) == 1:
        chosen |= {"early_stopping": False, "length_penalty": 1.0}
    # The default cache lasts for one call; others stay with the model.
    chosen |= {"cache_implementation": None, "num_return_sequences": 1, "return_dict_in_generate": False}
    chosen.setdefault("max_new_tokens", NEW_TOKENS)
    chosen |= {name: value for name, value in overrides.items() if name != "seed"}
    if chosen.get("pad_token_id") is None:
        chosen["pad_token_id"] = _pad(loaded.model, loaded.tokenizer)
    if chosen.get("stop_strings"):
        chosen["tokenizer"] = loaded.tokenizer
    return chosen


def _ended(row: Sequence[int], stops: set[int], pad: int | None) -> list[int]:
    """Return the generated ids up to the end token, without it and padding.

    Example:
        >>> _ended([7, 8, 2, 0], {2}, 0), _ended([7, 8, 0], {2}, 0)
        ([7, 8], [7, 8])
    """
    ended = [*row[: next((position for position, it in enumerate(row) if it in stops), len(row))]]
    while ended and ended[-1] == pad:
        ended.pop()
    return ended


def _explained(row: Sequence[int], tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> list[bool]:
    """Return whether each label is explained: not padding, and no special token of an encoder-decoder."""
    if not _encoder_decoder(model):
        return [it != IGNORED for it in row]
    special = {it for it in tokenizer.all_special_ids if it != tokenizer.unk_token_id}
    return [it != IGNORED and it not in special for it in row]


def _answers(predictions: Predictions) -> list[tuple[list[int], Answer]]:
    """Return the positions of each answer's tokens in the labels, and the answer."""
    model, tokenizer = predictions.loaded.model, predictions.loaded.tokenizer
    made = []
    rows = predictions.encoded.batch["labels"].tolist()
    for row, values, prompt in zip(rows, predictions.outputs.tolist(), predictions.prompts, strict=True):
        positions = [position for position, it in enumerate(_explained(row, tokenizer, model)) if it]
        ids = [row[position] for position in positions]
        text = prompt.answer
        if text is None:
            text = str(tokenizer.decode(ids, skip_special_tokens=True))
        tokens = readable_tokens(tokenizer.convert_ids_to_tokens(ids), tokenizer)
        made.append((positions, Answer(text, tokens, ids, [values[position] for position in positions])))
    return made


def _rows(request: AttributionRequest, positions: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return the contributions to the log-probability of each answer token, `(T, N)` for each prompt."""
    of = request.of
    every = _EachToken(of.forward)
    each = Explainer(of.model, of.tokenizer, of.forward, every, of.baseline, of.mixing)
    longest = max(map(len, positions))
    blocks = []
    for start in range(0, longest, ROWS_AT_ONCE):
        # Shorter answers repeat their last token, which is dropped below.
        chosen = [
            [row[min(it, len(row) - 1)] for it in range(start, min(start + ROWS_AT_ONCE, longest))]
            for row in positions
        ]
        selected = torch.tensor(chosen, device=request.rows.device)[..., None]
        blocks.append(deep_lift_outputs(AttributionRequest(each, request.batch, request.rows, (selected,))))
    rows = torch.cat(blocks, dim=1)
    return [row[: len(own)] for row, own in zip(rows, positions, strict=True)]


class _EachToken(Wrapper):
    """A forward function of the log-probabilities of chosen answer tokens."""

    settings = ()

    def __init__(self, forward: EncoderForward) -> None:
        super().__init__()
        self.function = forward

    def forward(self, *arguments: Any) -> Tensor:
        *others, positions = arguments
        return cast(Tensor, self.function(*others).gather(1, positions.squeeze(-1)))
