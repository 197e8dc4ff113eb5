"""Taking tokens out of a batch, and what the model says then.

Letters: B batch, K variants of each example, N tokens, D embedding size, C classes.
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
"""What makes probabilities of a model's outputs, by name."""


def activated(outputs: Tensor, activation: str | Activation) -> Tensor:
    """Make probabilities of what a model returned.

    Args:
        outputs: `(B, K, ...)`, of each variant of each example. Only what is `(B, K, C)`, or has more
            dimensions, with C > 1, has classes that a softmax could be taken over: where a model gives
            one number for each example, `(B,)` or `(B, 1)`, that number is what is watched.
        activation: a name from :data:`ACTIVATIONS`, or any function.

    Raises:
        ValueError: the name is not known.

    Example:
        >>> activated(torch.tensor([[0.2, 0.7]]), "softmax")
        tensor([[0.2000, 0.7000]])
    """
    if not isinstance(activation, str):
        return activation(outputs)
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is not known; choose from {', '.join(ACTIVATIONS)}.")
    if activation == "softmax" and (outputs.ndim < 3 or outputs.shape[-1] == 1):
        return outputs
    return ACTIVATIONS[activation](outputs)


def _mask(inputs: Tensor, extra: Arguments, gone: Tensor, baselines: Baseline, at: int) -> Any:
    """Put the baseline, a mask token, in the place of what goes; the length stays."""
    if baselines is None:
        raise ValueError('removal="mask" needs baselines: the id of the mask token, or embeddings.')
    return _replace(inputs, gone, baselines), extra


def _delete(inputs: Tensor, extra: Arguments, gone: Tensor, baselines: Baseline, at: int) -> Any:
    """Close the gaps: what stays moves up, its other arguments with it, and padding follows."""
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
    """Hide what goes from attention where it stands; the others keep their places."""
    extra = _without_attention(_with_attention_mask(inputs, extra, at), gone, at)
    return inputs if baselines is None else _replace(inputs, gone, baselines), extra


REMOVALS: Mapping[str, Callable[[Tensor, Arguments, Tensor, Baseline, int], Any]] = {
    "mask": _mask,
    "delete": _delete,
    "pad": _pad,
}
"""The ways to remove tokens by name."""


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
        forward_func: the forward function, as for every Captum metric; returns a tensor whose first
            dimension is the batch.
        inputs: `(B, N)` ids or `(B, N, D)` embeddings.
        gone: `(B, K, N)`, True at the tokens that each variant lacks.
        baselines: what stands where a token was: a number, or a tensor that broadcasts to `inputs`.
            The mask token's id for "mask"; the padding's, or None, for "delete"; None for "pad", where
            a model that counts its positions from the padding's id would count others.
        additional_forward_args: further arguments of `forward_func`; tensors whose first dimension is
            B go with their example, and with "delete" those of shape `(B, N, ...)` with their token:
            leave `position_ids` out there, for the model to count anew.
        removal: "mask" replaces, "delete" closes the gap and pads at the end, "pad" takes a token out
            of the attention mask where it stands.
        attention_mask: which of `additional_forward_args` is the attention mask, `(B, N)` or None for
            all ones; "delete" and "pad" need it.
        max_examples_per_batch: how many variants run at once; left out, all.

    Returns:
        `(B, K, ...)`: the output of each variant.

    Raises:
        ValueError: `removal` is not known, lacks what it needs, or the shapes do not match.

    Example:
        >>> ids = torch.tensor([[5, 6, 7]])
        >>> gone = torch.tensor([[[False, False, False], [False, True, False]]])
        >>> outputs_without(lambda ids: ids.float(), ids, gone, baselines=0)
        tensor([[[5., 6., 7.],
                 [5., 0., 7.]]])
    """
    if removal not in REMOVALS:
        raise ValueError(f"removal {removal!r} is not known; choose from {', '.join(REMOVALS)}.")
    if gone.ndim != 3 or (gone.shape[0], gone.shape[2]) != inputs.shape[:2]:
        raise ValueError(f"gone is {tuple(gone.shape)}, but inputs are {tuple(inputs.shape)}.")
    batch, variants, _ = gone.shape
    extra = format_arguments(additional_forward_args)
    example = torch.arange(batch, device=inputs.device).repeat_interleave(variants)
    flat = gone.to(inputs.device).flatten(0, 1)
    remove, size = REMOVALS[removal], max_examples_per_batch or len(example)
    answers = []
    with torch.no_grad():
        for rows, lacking in zip(torch.split(example, size), torch.split(flat, size), strict=True):
            some = tuple(_of_rows(arg, rows, batch) for arg in extra)
            # A baseline of fewer dimensions is the same for all, even where it is as long as the batch.
            every = isinstance(baselines, Tensor) and baselines.ndim < inputs.ndim
            blank = baselines if every else _of_rows(baselines, rows, batch)
            run, some = remove(inputs[rows], some, lacking, blank, attention_mask)
            answers.append(run_forward(forward_func, run, some))
    answer = torch.cat(answers)
    if len(answer) != len(example):
        raise ValueError(f"forward_func returned {tuple(answer.shape)} for a batch of {len(example)}.")
    return answer.reshape(batch, variants, *answer.shape[1:])


def selected(values: Tensor, target: TargetType) -> Tensor:
    """Select each example's target from all its variants, as Captum selects it.

    Args:
        values: `(B, K)` or `(B, K, C)` or with more dimensions.
        target: as for every Captum metric; one for all examples, or one for each.

    Returns:
        `(B, K)`.

    Raises:
        ValueError: there is no target where one is needed.
        AssertionError, IndexError: the target has the wrong length or is out of range.
    """
    if target is not None:
        columns = [select_targets(values[:, k], target) for k in range(values.shape[1])]
        values = torch.stack(columns, dim=1)
    elif values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim != 2:
        raise ValueError(f"a target is needed for outputs of shape {tuple(values[:, 0].shape)}.")
    return values


def _replace(inputs: Tensor, gone: Tensor, baselines: Baseline) -> Tensor:
    where = gone.reshape(*gone.shape, *(1 for _ in inputs.shape[2:]))
    return torch.where(where, torch.as_tensor(baselines).to(inputs), inputs)


def _gather(tensor: Tensor, order: Tensor) -> Tensor:
    index = order.reshape(*order.shape, *(1 for _ in tensor.shape[2:])).expand(tensor.shape)
    return tensor.gather(1, index)


def _of_rows(value: Any, rows: Tensor, batch: int) -> Any:
    """Return what belongs to the examples `rows`, of what has an entry for each."""
    per_example = isinstance(value, Tensor) and value.ndim > 0 and len(value) == batch
    return value[rows] if per_example else value


def _per_token(value: object, inputs: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape[:2] == inputs.shape[:2]


def _with_attention_mask(inputs: Tensor, extra: Arguments, at: int) -> Arguments:
    """Return the arguments with an attention mask at place `at`, checked; None becomes all ones."""
    given = extra[at] if 0 <= at < len(extra) else "missing"
    if given is None:
        given = inputs.new_ones(inputs.shape[:2], dtype=torch.long)
    if not isinstance(given, Tensor) or given.shape != inputs.shape[:2]:
        raise ValueError(
            f"removal needs the attention mask {tuple(inputs.shape[:2])} as argument {at} of "
            "additional_forward_args: pass it there (or None), or say with attention_mask which it is."
        )
    return (*extra[:at], given, *extra[at + 1 :])


def _without_attention(extra: Arguments, gone: Tensor, at: int) -> Arguments:
    return (*extra[:at], extra[at].masked_fill(gone, 0), *extra[at + 1 :])
