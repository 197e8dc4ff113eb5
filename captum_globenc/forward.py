"""EncoderForward: one forward function for every Captum method; and why one class rather than another."""

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor, nn

PIPELINES = {"CrossEncoder": "scores", "SentenceTransformer": "sentence_embedding"}
"""What objects of sentence-transformers, which take and return a dictionary, return by default."""


class EncoderForward(nn.Module):
    """A positional forward function that calls a Hugging Face model by name.

    Captum passes everything by position, and the third position means `token_type_ids` for BERT,
    `inputs_embeds` for DistilBERT and `position_ids` for MPNet. Here the first argument is the input
    (ids, or embeddings where it is a float), and the others are named once. The answer is one
    tensor, as Captum needs, instead of an output object.

    Args:
        model: any Hugging Face model, or an object of sentence-transformers as it is, a SentenceTransformer
            or a CrossEncoder.
        argument_names: the names of the arguments that follow the input, in order.
        output: which field of the model's output to return, or several, stacked in a last dimension. Left
            out: "logits", of a SentenceTransformer its pooled "sentence_embedding", of a CrossEncoder its
            "scores", no activation applied.

    Raises:
        TypeError: `model` is no module.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(
        ...     vocab_size=30, hidden_size=8, num_attention_heads=2, num_hidden_layers=2,
        ...     intermediate_size=8,
        ... )
        >>> model = BertForSequenceClassification(config).eval()
        >>> forward = EncoderForward(model)
        >>> batch = {"input_ids": torch.tensor([[2, 5, 7, 3]])}
        >>> inputs, extra = forward.arguments(batch)
        >>> forward(inputs, *extra).shape
        torch.Size([1, 2])
    """

    def __init__(
        self,
        model: nn.Module,
        argument_names: Sequence[str] = ("attention_mask", "token_type_ids"),
        output: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model is a {type(model).__name__}, not a module: pass the model itself.")
        self.model = model
        self.argument_names = tuple(argument_names)
        kind = sentence_object(model)
        self._takes_features = kind is not None
        self.output = output or PIPELINES.get(kind or "", "logits")

    def forward(self, inputs: Tensor, *arguments: Any) -> Tensor:
        """Run the model.

        Args:
            inputs: ids `(B, N)`, embeddings `(B, N, D)`, or what the model reads first otherwise.
            arguments: one for each of `argument_names`, or fewer; None leaves one out.

        Returns:
            The field `output` of what the model returned.

        Raises:
            TypeError: there are more arguments than names, or ids are no integers.
            ValueError: ids have no batch dimension, or the model's output has no such field.
        """
        if len(arguments) > len(self.argument_names):
            raise TypeError(
                f"EncoderForward got {len(arguments)} arguments after the inputs, for "
                f"{len(self.argument_names)} names {self.argument_names}: name the others in "
                "argument_names."
            )
        named = {
            name: argument
            for name, argument in zip(self.argument_names, arguments, strict=False)
            if argument is not None
        }
        named = {self._input_name(inputs): inputs, **named}
        # Objects of sentence-transformers return the features that they take, with more among them.
        answer = self.model(named) if self._takes_features else self.model(**named)
        if isinstance(self.output, str):
            return self._field(answer, self.output)
        return torch.stack([self._field(answer, name) for name in self.output], dim=-1)

    def arguments(self, batch: Mapping[str, Any]) -> tuple[Tensor, tuple[Any, ...]]:
        """Split a tokenizer's or a processor's batch into what `attribute()` takes.

        Args:
            batch: what a tokenizer returned, or any mapping of the model's arguments.

        Returns:
            `(inputs, additional_forward_args)`; arguments that the batch lacks are None.

        Raises:
            KeyError: the batch has no input for the model.
            TypeError: the batch is no mapping, or holds lists instead of tensors.
            ValueError: the batch has something for the model that `argument_names` leaves out.
        """
        if not isinstance(batch, Mapping):
            raise TypeError(
                f"batch is a {type(batch).__name__}, not a mapping: pass what the tokenizer returned, "
                'tokenizer(texts, padding=True, return_tensors="pt")'
            )
        names = (self._main_input, "inputs_embeds")
        name = next((name for name in names if batch.get(name) is not None), None)
        if name is None:
            raise KeyError(f"The batch holds none of {names}, only {sorted(batch)}.")
        left_out = self._left_out(batch, {name, *self.argument_names})
        if left_out:
            raise ValueError(
                f"{type(self.model).__name__} reads {left_out} of the batch, which argument_names leaves "
                f"out: EncoderForward(model, {(*self.argument_names, *left_out)}), or take them out of it."
            )
        return _tensor(name, batch[name]), tuple(_tensor(it, batch.get(it)) for it in self.argument_names)

    def _left_out(self, batch: Mapping[str, Any], passed: set[str]) -> list[str]:
        """Return which tensors of a batch the model would read, and that are not passed to it."""
        if self._takes_features:
            return []
        read = signature(self.model.forward).parameters.keys() - passed
        return [
            name
            for name, value in batch.items()
            if name in read
            and "label" not in name
            and isinstance(value, Tensor)
            # Masks of ones and numbers of zeros are what models take where none are given.
            and not bool(value.all() if "mask" in name else (value == 0).all())
        ]

    def masked(self, batch: Mapping[str, Any], tokenizer: Any) -> Tensor:
        """Return the ids of a batch with everything but special tokens masked: a baseline.

        Args:
            batch: what the tokenizer returned; its `special_tokens_mask`, where it has one, says what stays.
            tokenizer: the tokenizer. One without a mask token has its padding token, or what stands for
                unknown ones, in its place.

        Returns:
            Ids of the shape of the batch's.

        Raises:
            ValueError: the tokenizer has none of these.
        """
        ids: Tensor = _tensor("input_ids", batch["input_ids"])
        return torch.where(special_tokens(batch, tokenizer), ids, blank_token(tokenizer))

    def _field(self, answer: Any, name: str) -> Tensor:
        """Return a field of what the model returned."""
        named = isinstance(answer, Mapping)
        field: Any = answer.get(name) if named else getattr(answer, name, None)
        if isinstance(field, Tensor):
            return field
        if isinstance(answer, tuple):
            raise ValueError(
                f"{type(self.model).__name__} returned a plain tuple: set its config.return_dict to "
                f"True, so that {name!r} can be told by its name."
            )
        fields = list(answer.keys()) if named else []
        raise ValueError(
            f"{type(self.model).__name__} returned no tensor {name!r}; choose `output` from {fields}."
        )

    @property
    def _main_input(self) -> str:
        model: Any = self.model
        if self._takes_features:
            model = model.transformers_model
        return str(getattr(model, "main_input_name", "input_ids"))

    def _input_name(self, inputs: Tensor) -> str:
        """Return the name under which the model takes `inputs`: floats for token ids are embeddings."""
        if self._main_input == "input_ids":
            check_batched(inputs)
        if self._main_input == "input_ids" and inputs.is_floating_point():
            if inputs.ndim < 3:
                raise TypeError(
                    f"inputs are {inputs.dtype} of shape {tuple(inputs.shape)}: token ids must be integers "
                    "(.long()), and embeddings are (B, N, D)."
                )
            return "inputs_embeds"
        return self._main_input


def check_batched(ids: Tensor) -> None:
    """Check that token ids have a batch dimension; floats, such as embeddings, pass.

    Raises:
        ValueError: they have none.
    """
    if ids.ndim < 2 and not ids.is_floating_point():
        raise ValueError(
            f"token ids have shape {tuple(ids.shape)}, and (B, N) is needed: add the batch dimension, "
            "ids[None], to the attention mask and the baselines as well."
        )


def _tensor(name: str, value: Any) -> Any:
    """Return an entry of a tokenizer's batch, a tensor or None.

    Raises:
        TypeError: the entry is a list or an array.
    """
    if value is not None and not isinstance(value, Tensor):
        raise TypeError(
            f"{name!r} of the batch is a {type(value).__name__}, not a tensor: call the tokenizer with "
            'padding=True, return_tensors="pt"'
        )
    return value


def special_tokens(batch: Mapping[str, Any], tokenizer: Any) -> Tensor:
    """Tell which tokens of a batch are no part of a text: [CLS], [SEP], padding.

    Args:
        batch: what the tokenizer returned. Its `special_tokens_mask` tells it, where it has one, so that a
            "[SEP]" that somebody typed is a word; otherwise every special token counts.
        tokenizer: the tokenizer.

    Returns:
        `(B, N)`, True at special tokens. What stands for an unknown word is a word.
    """
    ids: Tensor = _tensor("input_ids", batch["input_ids"])
    if batch.get("special_tokens_mask") is not None:
        given: Tensor = _tensor("special_tokens_mask", batch["special_tokens_mask"])
        return given.bool()
    special = [it for it in tokenizer.all_special_ids if it != tokenizer.unk_token_id]
    return torch.isin(ids, torch.tensor(special, device=ids.device, dtype=ids.dtype))


def blank_token(tokenizer: Any) -> int:
    """Return the id that stands for no token: the mask's, else the padding's, else the unknown word's.

    Args:
        tokenizer: the tokenizer.

    Raises:
        ValueError: it has none of these.
    """
    for name in ("mask_token_id", "pad_token_id", "unk_token_id"):
        token: int | None = getattr(tokenizer, name, None)
        if token is not None:
            return token
    raise ValueError("the tokenizer has no mask, padding or unknown token: give a baseline of your own")


def sentence_object(model: object) -> str | None:
    """Return which object of sentence-transformers something is, a name of `PIPELINES`; None for others.

    Example:
        >>> sentence_object(nn.Linear(1, 1)) is None
        True
    """
    # Told by its names, because sentence-transformers need not be installed.
    kinds = [it for it in type(model).__mro__ if it.__module__.partition(".")[0] == "sentence_transformers"]
    return next((it.__name__ for it in kinds if it.__name__ in PIPELINES), None)


class Contrast(nn.Module):
    """Why one class rather than another: the difference of two outputs of a forward function.

    Args:
        forward: the forward function, which returns `(B, C)`.
        one: the class that is explained, its index.
        other: the class that it is held against.

    Raises:
        TypeError: a class is not a whole number.

    Example:
        >>> contrast = Contrast(nn.Linear(3, 4), 0, 2)
        >>> contrast(torch.ones(5, 3)).shape
        torch.Size([5])
    """

    def __init__(self, forward: Callable[..., Any], one: int, other: int) -> None:
        super().__init__()
        for index in (one, other):
            if not isinstance(index, int):
                raise TypeError(f"class {index!r} is no index: take it from config.label2id[{index!r}]")
        self.function = forward  # a part of this module where it is one itself
        self.one = one
        self.other = other

    def forward(self, *arguments: Any) -> Tensor:
        """Run the forward function.

        Returns:
            `(B,)`, the output for `one` less that for `other`.
        """
        outputs = self.function(*arguments)
        return cast(Tensor, outputs[..., self.one] - outputs[..., self.other])
