"""EncoderForward, a forward function for every Captum method; Contrast, the difference of two classes."""

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, signature
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

PIPELINES = {"CrossEncoder": "scores", "SentenceTransformer": "sentence_embedding"}
"""Default output of the objects of sentence-transformers, which take and return a dictionary."""


class Wrapper(nn.Module):
    """A forward function that calls another one, which is cheap to make anew for each call.

    Two instances of one class with equal `settings` around the same function share the checks of a model.
    A subclass that does not define `settings` itself shares nothing.
    """

    settings: Any = ()
    """All that decides what an instance computes, besides its submodules and callable attributes."""


class EncoderForward(Wrapper):
    """A positional forward function that calls a Hugging Face model by name.

    Captum passes all arguments by position, and the third position means `token_type_ids` for BERT,
    `inputs_embeds` for DistilBERT and `position_ids` for MPNet. Here the first argument is the input
    (ids, or floating-point embeddings), and the others are named once. It returns a tensor, as
    Captum needs, instead of an output object.

    Args:
        model: a Hugging Face model, or a SentenceTransformer or CrossEncoder of sentence-transformers.
        argument_names: the names of the arguments after the input, in order.
        output: the field of the model's output to return; or several, which are stacked in a last dimension.
            By default "logits", for a SentenceTransformer its pooled "sentence_embedding", for a CrossEncoder
            its "scores" before any activation.

    Raises:
        TypeError: `model` is not a module.

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

    @property
    def settings(self) -> Any:
        """The names of the arguments and of the output."""
        return self.argument_names, self.output if isinstance(self.output, str) else tuple(self.output)

    def forward(self, inputs: Tensor, *arguments: Any) -> Tensor:
        """Run the model.

        Args:
            inputs: ids `(B, N)`, embeddings `(B, N, D)`, or any other main input of the model.
            arguments: one for each of `argument_names`, or fewer; None is not passed to the model.

        Returns:
            The field `output` of the model's output.

        Raises:
            TypeError: there are more arguments than names, or ids are not integers.
            ValueError: ids have no batch dimension, or the model's output has no such field.
        """
        if len(arguments) > len(self.argument_names):
            raise TypeError(
                f"EncoderForward got {len(arguments)} arguments after the inputs, but has "
                f"{len(self.argument_names)} names for them, {self.argument_names}: pass all names as "
                "argument_names."
            )
        named = {
            name: argument
            for name, argument in zip(self.argument_names, arguments, strict=False)
            if argument is not None
        }
        named = {self._input_name(inputs): inputs, **named}
        # Objects of sentence-transformers return their input, a dictionary, with further entries.
        result = self.model(named) if self._takes_features else self.model(**named)
        if isinstance(self.output, str):
            return self._field(result, self.output)
        return torch.stack([self._field(result, name) for name in self.output], dim=-1)

    def arguments(self, batch: Mapping[str, Any]) -> tuple[Tensor, tuple[Any, ...]]:
        """Split a tokenizer's or a processor's batch into the arguments of `attribute()`.

        Args:
            batch: the tokenizer's output, or any mapping of the model's arguments.

        Returns:
            `(inputs, additional_forward_args)`; arguments that the batch does not contain are None.

        Raises:
            KeyError: the batch has no input for the model.
            TypeError: the batch is not a mapping, or holds lists instead of tensors.
            ValueError: the batch has an argument of the model that is missing in `argument_names`.
        """
        if not isinstance(batch, Mapping):
            raise TypeError(
                f"batch is a {type(batch).__name__}, not a mapping: pass the tokenizer's output, "
                'tokenizer(texts, padding=True, return_tensors="pt")'
            )
        names = (self._main_input, "inputs_embeds")
        name = next((name for name in names if batch.get(name) is not None), None)
        if name is None:
            raise KeyError(f"The batch has none of {names}, only {sorted(batch)}.")
        missing = self._unpassed(batch, {name, *self.argument_names})
        if missing:
            raise ValueError(
                f"{type(self.model).__name__} reads {missing} of the batch, which argument_names does not "
                f"name: use EncoderForward(model, {(*self.argument_names, *missing)}), or remove them "
                "from the batch."
            )
        return _tensor(name, batch[name]), tuple(_tensor(it, batch.get(it)) for it in self.argument_names)

    def _unpassed(self, batch: Mapping[str, Any], passed: set[str]) -> list[str]:
        """Return the names of tensors of a batch that the model reads, but that are not passed to it."""
        if self._takes_features:
            return []
        named = (signature(it.forward).parameters for it in (self.model, self._inner))
        read = set().union(*named) - passed
        return [
            name
            for name, value in batch.items()
            if name in read
            and "label" not in name
            and isinstance(value, Tensor)
            # Masks of ones and other tensors of zeros are the defaults of models.
            and not bool(value.all() if "mask" in name else (value == 0).all())
        ]

    def masked(self, batch: Mapping[str, Any], tokenizer: Any) -> Tensor:
        """Return the ids of a batch with all tokens but special ones masked, as a baseline.

        Args:
            batch: the tokenizer's output; with a `special_tokens_mask`, this decides which tokens stay.
            tokenizer: the tokenizer. Without a mask token, its padding token or unknown token is used.

        Returns:
            Ids in the shape of the batch's.

        Raises:
            ValueError: the tokenizer has none of these tokens.
        """
        ids: Tensor = _tensor("input_ids", batch["input_ids"])
        return torch.where(special_tokens(batch, tokenizer), ids, blank_token(tokenizer))

    def _field(self, result: Any, name: str) -> Tensor:
        """Return a field of the model's output."""
        named = isinstance(result, Mapping)
        field: Any = result.get(name) if named else getattr(result, name, None)
        if isinstance(field, Tensor):
            return field
        if isinstance(result, tuple):
            raise ValueError(
                f"{type(self.model).__name__} returned a plain tuple, in which {name!r} has no name: set its "
                "config.return_dict to True."
            )
        fields = list(result.keys()) if named else []
        raise ValueError(
            f"{type(self.model).__name__} returned no tensor {name!r}; choose `output` from {fields}."
        )

    @property
    def _main_input(self) -> str:
        model: Any = self.model
        if self._takes_features:
            model = model.transformers_model
        named = model if hasattr(model, "main_input_name") else self._inner
        return str(getattr(named, "main_input_name", "input_ids"))

    @property
    def _inner(self) -> nn.Module:
        """The module that names the arguments: the model inside of a wrapper that passes on any argument."""
        kinds = {it.kind for it in signature(self.model.forward).parameters.values()}
        inside = (it for it in self.model.modules() if isinstance(it, PreTrainedModel))
        return next(inside, self.model) if Parameter.VAR_KEYWORD in kinds else self.model

    def _input_name(self, inputs: Tensor) -> str:
        """Return the name of the model's argument for `inputs`; floats for token ids are embeddings."""
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
    """Check that token ids have a batch dimension; floats, such as embeddings, are not checked.

    Raises:
        ValueError: they have none.
    """
    if ids.ndim < 2 and not ids.is_floating_point():
        raise ValueError(
            f"token ids have shape {tuple(ids.shape)}, not (B, N): add a batch dimension, ids[None], to the "
            "ids, the attention mask and the baselines."
        )


def _tensor(name: str, value: Any) -> Any:
    """Return an entry of a tokenizer's batch, a tensor or None; a list or an array raises TypeError."""
    if value is not None and not isinstance(value, Tensor):
        raise TypeError(
            f"{name!r} of the batch is a {type(value).__name__}, not a tensor: call the tokenizer with "
            'padding=True, return_tensors="pt"'
        )
    return value


def special_tokens(batch: Mapping[str, Any], tokenizer: Any) -> Tensor:
    """Return which tokens of a batch are not part of a text: [CLS], [SEP], padding.

    Args:
        batch: the tokenizer's output. If it has a `special_tokens_mask`, this decides, so that a typed
            "[SEP]" is a word; otherwise every special token counts.
        tokenizer: the tokenizer.

    Returns:
        `(B, N)`, True at special tokens; False at the unknown token, which stands for a word.
    """
    ids: Tensor = _tensor("input_ids", batch["input_ids"])
    if batch.get("special_tokens_mask") is not None:
        given: Tensor = _tensor("special_tokens_mask", batch["special_tokens_mask"])
        return given.bool()
    special = [it for it in tokenizer.all_special_ids if it != tokenizer.unk_token_id]
    return torch.isin(ids, torch.tensor(special, device=ids.device, dtype=ids.dtype))


def blank_token(tokenizer: Any) -> int:
    """Return the id of the mask token, or else the padding token, or else the unknown token.

    Args:
        tokenizer: the tokenizer.

    Raises:
        ValueError: it has none of these tokens.
    """
    for name in ("mask_token_id", "pad_token_id", "unk_token_id"):
        token: int | None = getattr(tokenizer, name, None)
        if token is not None:
            return token
    raise ValueError("the tokenizer has no mask, padding or unknown token: pass baselines")


def sentence_object(model: object) -> str | None:
    """Return the class name in `PIPELINES` of an object of sentence-transformers; None for other objects.

    Example:
        >>> sentence_object(nn.Linear(1, 1)) is None
        True
    """
    # Tested by name, because sentence-transformers may not be installed.
    classes = [it for it in type(model).__mro__ if it.__module__.partition(".")[0] == "sentence_transformers"]
    return next((it.__name__ for it in classes if it.__name__ in PIPELINES), None)


class Contrast(Wrapper):
    """A forward function that returns the difference of two classes, to explain one rather than the other.

    Args:
        forward: the forward function, which returns `(B, C)`.
        one: index of the explained class.
        other: index of the contrast class.

    Raises:
        TypeError: a class is not an integer.

    Example:
        >>> contrast = Contrast(nn.Linear(3, 4), 0, 2)
        >>> contrast(torch.ones(5, 3)).shape
        torch.Size([5])
    """

    def __init__(self, forward: Callable[..., Any], one: int, other: int) -> None:
        super().__init__()
        for index in (one, other):
            if not isinstance(index, int):
                raise TypeError(f"class {index!r} is not an index: pass config.label2id[{index!r}]")
        self.function = forward  # registered as a submodule if it is a module
        self.one = one
        self.other = other

    @property
    def settings(self) -> Any:
        """Both classes."""
        return self.one, self.other

    def forward(self, *arguments: Any) -> Tensor:
        """Run the forward function.

        Returns:
            `(B,)`, the output for `one` minus the output for `other`.
        """
        outputs = self.function(*arguments)
        return cast(Tensor, outputs[..., self.one] - outputs[..., self.other])
