"""What methods are asked: the texts, the outputs that are explained, and what they are compared with.

Shapes: R rows, texts or windows of them, A outputs that are explained, N tokens, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from captum_globenc.attr.decompx import DecompX
from captum_globenc.attr.deep_lift import TransformerDeepLift, scales_by_masks
from captum_globenc.attr.globenc import GlobEnc
from captum_globenc.forward import EncoderForward, special_tokens
from captum_globenc.texts.embeddings import OnEmbeddings

__all__ = ["BASELINES", "Explained", "Question", "in_parts", "resolve_baseline"]

BASELINES = ("mask", "mean", "pad", "zero")
"""What stands in for all but the special tokens of a text in its baseline.

The mask token (where the tokenizer has none, the mean), the mean of the word embeddings, the padding token,
or word embeddings of zero.
"""

EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
"""Names under which configs of transformers have the number of experts."""

TOKENS_AT_ONCE = 1024
"""Tokens that go through a backward pass together, which bounds the memory."""


@dataclass(frozen=True)
class Explained:
    """What is explained, whatever the texts; and the methods, each made once for it.

    Attributes:
        model: the model.
        tokenizer: its tokenizer.
        forward: the model as a forward function of ids.
        outputs: a forward function of ids, the other arguments of `forward` and `asked` of a question, which
            returns the outputs `(A,)` that are explained.
        baseline: a name of `BASELINES`, see `resolve_baseline`.
        mixing: GlobEnc's kind of mixing.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    forward: EncoderForward
    outputs: nn.Module
    baseline: str = "mask"
    mixing: str = "N-Enc"

    @cached_property
    def over_embeddings(self) -> OnEmbeddings:
        """The outputs, as a forward function of word embeddings `(A, N, D)` and the ids."""
        return OnEmbeddings(self.outputs, self.model)

    @property
    def by_ids(self) -> bool:
        """Whether exact differences take ids: where the baseline is the text with its tokens masked.

        All other baselines replace word embeddings, and the model keeps reading the ids of the text: padding
        in their place would end the text early for models that find its end by its ids.
        """
        return resolve_baseline(self.baseline, self.model, self.tokenizer) == "mask"

    @cached_property
    def globenc(self) -> GlobEnc:
        """GlobEnc, in that kind of mixing."""
        return GlobEnc(self.forward, mixing=self.mixing)

    @cached_property
    def exact_differences(self) -> TransformerDeepLift:
        """Exact differences, made once, so that each operation is checked once.

        The baseline of a mixture of experts takes the router decisions of the text.
        """
        return TransformerDeepLift(
            self.outputs if self.by_ids else self.over_embeddings,
            decisions="follow" if has_experts(self.model) else "same",
        )

    @cached_property
    def decompx(self) -> DecompX:
        """DecompX, of the outputs."""
        return DecompX(self.outputs)


@dataclass(frozen=True)
class Question:
    """What is asked of every method: some texts, and the outputs that are explained.

    Attributes:
        of: what is explained, whatever the texts.
        batch: R texts, tokenized, with `special_tokens_mask`.
        rows: `(A,)`, which of them each explained output is of.
        asked: tensors `(A, ...)` that say which outputs these are.
        position: the tokens whose mixture GlobEnc explains: `(A,)` indices, `(A, N)` weights, "mean", or None
            for what the model's head reads.
        together: whether all of it runs at once, being few texts already.
    """

    of: Explained
    batch: Mapping[str, Tensor]
    rows: Tensor
    asked: tuple[Tensor, ...] = ()
    position: Tensor | Literal["mean"] | None = None
    together: bool = False

    @cached_property
    def each(self) -> Mapping[str, Tensor]:
        """The text of each explained output, A of them."""
        return {name: values[self.rows] for name, values in self.batch.items()}

    @property
    def inputs(self) -> Tensor:
        """The ids `(A, N)`."""
        return self.of.forward.arguments(self.each)[0]

    @property
    def extra(self) -> tuple[Any, ...]:
        """The other arguments of what is explained."""
        return (*self.of.forward.arguments(self.each)[1], *self.asked)

    @property
    def baselines(self) -> Tensor:
        """The baselines of the texts: ids `(A, N)`, or word embeddings `(A, N, D)`; special tokens are kept.

        Raises:
            ValueError: the tokenizer has no such token, or the model no such embeddings.
        """
        tokenizer = self.of.tokenizer
        baseline = resolve_baseline(self.of.baseline, self.of.model, tokenizer)
        if baseline == "mask":
            return self.of.forward.masked(self.each, tokenizer)
        kept = special_tokens(self.each, tokenizer)
        if tokenizer.mask_token_id is not None:  # one in the text is no word of it
            kept = kept | (self.inputs == tokenizer.mask_token_id)
        if baseline in ("mean", "zero"):
            over = self.of.over_embeddings
            own = over.embed(self.inputs)
            vector = own.new_zeros(()) if baseline == "zero" else over.mean.to(own)
            return torch.where(kept[..., None], own, vector)
        if tokenizer.pad_token_id is None:
            raise ValueError(f"the tokenizer has no padding token: choose another baseline, {_others('pad')}")
        return torch.where(kept, self.inputs, tokenizer.pad_token_id)

    def run(self, method: Callable[..., Tensor], *tensors: Tensor | None) -> Tensor:
        """Run a method, all at once or in parts: see `in_parts`."""
        return method(*tensors) if self.together else in_parts(method, self.of.model, *tensors)


def in_parts(run: Callable[..., Tensor], model: nn.Module, *tensors: Tensor | None) -> Tensor:
    """Run some rows at a time, since a backward pass keeps what all of them went through.

    Args:
        run: from tensors to a tensor, all `(A, ...)`.
        model: what runs. One that knows no padding takes one row at a time.
        tensors: The first `(A, N, ...)`, others `(A, ...)` or None.
    """
    first = cast("Tensor", tensors[0])
    pads = getattr(getattr(model, "config", None), "pad_token_id", None) is not None
    rows = max(1, TOKENS_AT_ONCE // first.shape[1]) if pads else 1
    parts = [slice(start, start + rows) for start in range(0, len(first), rows)]
    return torch.cat([run(*(it if it is None else it[part] for it in tensors)) for part in parts])


def resolve_baseline(baseline: str, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the baseline that is used: another one for "mask" where a model cannot read masked ids.

    Where the tokenizer has no mask token it is "mean", a point where norms are regular. Zero is none for
    norms without a bias, and the embedding of padding is often zero; docs/differences.md has measurements.

    For ESM-2 (`token_dropout`) it is "zero": the model replaces the word embeddings of mask tokens by zero,
    and scales all others by the share of mask tokens among the ids. That scale depends on the ids in a way
    that no token accounts for, so the embeddings alone are replaced and the scale stays that of the text.
    """
    if baseline != "mask":
        return baseline
    if scales_by_masks(model):
        return "zero"
    return "mask" if tokenizer.mask_token_id is not None else "mean"


def has_experts(model: nn.Module) -> bool:
    """Return whether a model of transformers routes tokens to experts, by its config.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> config = LlamaConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> has_experts(LlamaForCausalLM(config))
        False
    """
    config = getattr(model, "config", None)
    config = getattr(config, "text_config", None) or config
    counts = (getattr(config, name, None) for name in EXPERTS)
    return any(isinstance(count, int) and count > 1 for count in counts)


def _others(baseline: str) -> str:
    *names, last = [name for name in BASELINES if name != baseline]
    return f"{', '.join(names)} or {last}"
