"""Remove tokens from a batch, and run the model without them.

B batch, K variants of each example, N tokens, D embedding size, C classes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from captum_globenc.captum_api import TargetType, format_arguments, run_forward, select_targets

Forward = Callable[..., Any]
Activation = Callable[[Tensor], Tensor]
Arguments = tuple[Any, ...]
Baseline = int | float | Tensor | None


ACTIVATIONS: Mapping[str, Activation] = {
    "softmax": lambda outputs: outputs.softmax(dim=-1),
    "sigmoid": torch.sigmoid,
    "none": lambda outputs: outputs,
}
"""Functions that turn a model's outputs into probabilities, by name."""


def activated(outputs: Tensor, activation: str | Activation) -> Tensor:
    """Turn a model's outputs into probabilities.

    Args:
        outputs: `(B, K, ...)`, of each variant of each example. A softmax is only taken over classes, of
            outputs `(B, K, C)` or with more dimensions and C > 1; one number per example is not changed.
        activation: a name from :data:`ACTIVATIONS`, or any function.

    Raises:
        ValueError: the name is unknown.

    Example:
        >>> activated(torch.tensor([[0.2, 0.7]]), "softmax")
        tensor([[0.2000, 0.7000]])
    """
    if not isinstance(activation, str):
        return activation(outputs)
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is unknown; choose from {', '.join(ACTIVATIONS)}.")
    if activation == "softmax" and (outputs.ndim < 3 or outputs.shape[-1] == 1):
        return outputs
    return ACTIVATIONS[activation](outputs)


def _mask(inputs: Tensor, extra: Arguments, gone: Tensor, baselines: Baseline, at: int) -> Any:
    """Replace removed tokens by the baseline; the length stays."""
    if baselines is None:
        raise ValueError('removal="mask" needs baselines: pass the id of the mask token, or embeddings.')
    return _replace(inputs, gone, baselines), extra


def _delete(inputs: Tensor, extra: Arguments, gone: Tensor, baselines: Baseline, at: int) -> Any:
    """Move the remaining tokens and their arguments together, and pad at the end."""
    extra = _with_attention_mask(inputs, extra, at)
    order = gone.long().argsort(dim=1, stable=True)
    extra = tuple(_gather(arg, order) if _per_token(arg, inputs) else arg for arg in extra)
    behind = gone.gather(1, order)
    moved = _gather(inputs, order)
    if baselines is not None:
        blank = torch.as_tensor(baselines).to(inputs).expand(inputs.shape)
        moved = _replace(moved, behind, _gather(blank, order))
    return moved, _without_attention(extra, behind, at)


def _pad(inputs: Tensor, extra: Arguments, gone: Tensor, baselines: Baseline, at: int) -> Any:
    """Hide removed tokens from the attention; all tokens keep their positions."""
    extra = _without_attention(_with_attention_mask(inputs, extra, at), gone, at)
    return inputs if baselines is None else _replace(inputs, gone, baselines), extra


REMOVALS: Mapping[str, Callable[[Tensor, Arguments, Tensor, Baseline, int], Any]] = {
    "mask": _mask,
    "delete": _delete,
    "pad": _pad,
}
"""Ways to remove tokens, by name."""


def outputs_without(
    forward_func: Forward,
    inputs: Tensor,
    gone: Tensor,
    baselines: Baseline = None,
    additional_forward_args: object | None = None,
    *,
    removal: str = "mask",
    attention_mask: int = 0,
    max_examples_per_batch: int | None = None,
) -> Tensor:
    """Run the model on every variant of every example.

    Args:
        forward_func: the forward function, as in Captum's metrics; returns a tensor whose first
            dimension is the batch.
        inputs: `(B, N)` ids or `(B, N, D)` embeddings.
        gone: `(B, K, N)`, True at the tokens that each variant lacks.
        baselines: replacement of removed tokens: a number, or a tensor that broadcasts to `inputs`. Use the
            mask token's id for "mask", the padding token's id or None for "delete", and None for "pad",
            because some models count positions by the padding token's id.
        additional_forward_args: further arguments of `forward_func`, after `inputs`. Tensors whose first
            dimension is B are split by example. "delete" moves tensors `(B, N, ...)` with their
            tokens, so do not pass `position_ids`; the model then counts them.
        removal: "mask" replaces tokens, "delete" closes the gap and pads at the end, "pad" sets their
            attention mask to 0.
        attention_mask: index of the attention mask in `additional_forward_args`, `(B, N)` or None for all
            ones; "delete" and "pad" need it.
        max_examples_per_batch: most variants that run at once; None for all.

    Returns:
        `(B, K, ...)`: the output for each variant.

    Raises:
        ValueError: `removal` is unknown, an argument that it needs is missing, or shapes do not match.

    Example:
        >>> ids = torch.tensor([[5, 6, 7]])
        >>> gone = torch.tensor([[[False, False, False], [False, True, False]]])
        >>> outputs_without(lambda ids: ids.float(), ids, gone, baselines=0)
        tensor([[[5., 6., 7.],
                 [5., 0., 7.]]])
    """
    if removal not in REMOVALS:
        raise ValueError(f"removal {removal!r} is unknown; choose from {', '.join(REMOVALS)}.")
    if gone.ndim != 3 or (gone.shape[0], gone.shape[2]) != inputs.shape[:2]:
        raise ValueError(
            f"gone is {tuple(gone.shape)} for inputs {tuple(inputs.shape)}; its shape must be (B, K, N)."
        )
    batch, variants, _ = gone.shape
    extra = format_arguments(additional_forward_args)
    example = torch.arange(batch, device=inputs.device).repeat_interleave(variants)
    flat = gone.to(inputs.device).flatten(0, 1)
    remove, size = REMOVALS[removal], max_examples_per_batch or len(example)
    answers = []
    with torch.no_grad():
        for rows, lacking in zip(torch.split(example, size), torch.split(flat, size), strict=True):
            some = tuple(_of_rows(arg, rows, batch) for arg in extra)
            # A baseline with fewer dimensions than the inputs has no batch dimension.
            shared = isinstance(baselines, Tensor) and baselines.ndim < inputs.ndim
            blank = baselines if shared else _of_rows(baselines, rows, batch)
            run, some = remove(inputs[rows], some, lacking, blank, attention_mask)
            answers.append(run_forward(forward_func, run, some))
    answer = torch.cat(answers)
    if len(answer) != len(example):
        raise ValueError(f"forward_func returned {tuple(answer.shape)} for a batch of {len(example)}.")
    return answer.reshape(batch, variants, *answer.shape[1:])


def selected(values: Tensor, target: TargetType) -> Tensor:
    """Select the target of every variant, as Captum does.

    Args:
        values: `(B, K)` or `(B, K, C)` or with more dimensions.
        target: the index of the output, as in Captum; one for all examples, or one for each.

    Returns:
        `(B, K)`.

    Raises:
        ValueError: the outputs need a target, and there is none.
        AssertionError, IndexError: the target has the wrong length or is out of range.
    """
    if target is not None:
        columns = [select_targets(values[:, k], target) for k in range(values.shape[1])]
        values = torch.stack(columns, dim=1)
    elif values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim != 2:
        raise ValueError(f"outputs of shape {tuple(values[:, 0].shape)} need a target.")
    return values


def _replace(inputs: Tensor, gone: Tensor, baselines: Baseline) -> Tensor:
    where = gone.reshape(*gone.shape, *(1 for _ in inputs.shape[2:]))
    return torch.where(where, torch.as_tensor(baselines).to(inputs), inputs)


def _gather(tensor: Tensor, order: Tensor) -> Tensor:
    index = order.reshape(*order.shape, *(1 for _ in tensor.shape[2:])).expand(tensor.shape)
    return tensor.gather(1, index)


def _of_rows(value: Any, rows: Tensor, batch: int) -> Any:
    """Return the entries of the examples `rows`, if a value has one per example."""
    per_example = isinstance(value, Tensor) and value.ndim > 0 and len(value) == batch
    return value[rows] if per_example else value


def _per_token(value: object, inputs: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape[:2] == inputs.shape[:2]


def _with_attention_mask(inputs: Tensor, extra: Arguments, at: int) -> Arguments:
    """Return the arguments with a valid attention mask at index `at`; None becomes all ones."""
    given = extra[at] if 0 <= at < len(extra) else "missing"
    if given is None:
        given = inputs.new_ones(inputs.shape[:2], dtype=torch.long)
    if not isinstance(given, Tensor) or given.shape != inputs.shape[:2]:
        raise ValueError(
            f"removal needs the attention mask {tuple(inputs.shape[:2])} as argument {at} of "
            "additional_forward_args: pass it there (or None), or pass its index as attention_mask."
        )
    return (*extra[:at], given, *extra[at + 1 :])


def _without_attention(extra: Arguments, gone: Tensor, at: int) -> Arguments:
    return (*extra[:at], extra[at].masked_fill(gone, 0), *extra[at + 1 :])
