"""Sets of torch functions: functions by name, and the functions that need no rule of their own."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

NAMESPACES = (
    torch,
    Tensor,
    torch.nn.functional,
    torch._C._nn,
    torch._C._VariableFunctions,
    torch.special,
    torch.linalg,
    torch._C._fft,  # type: ignore[attr-defined]
)


def functions(names: str) -> set[Callable[..., Any]]:
    """Return all functions with one of these names, separated by spaces.

    `add` means torch.add, Tensor.add, Tensor.add_ and the operators + and +=, from either side. The name of
    an attribute of tensors means its getter.

    Example:
        >>> torch.Tensor.__radd__ in functions("add"), torch.Tensor.mT.__get__ in functions("mT")
        (True, True)
    """
    found: set[Callable[..., Any]] = set()
    for name in names.split():
        for variant in (name, f"{name}_", f"__{name}__", f"__r{name}__", f"__i{name}__"):
            for namespace in NAMESPACES:
                function: Any = getattr(namespace, variant, None)
                if hasattr(function, "__objclass__") and not callable(function):
                    found.add(function.__get__)
                elif callable(function):
                    found.add(function)
    return found


def table(rows: Iterable[tuple[str, Any]]) -> dict[Callable[..., Any], Any]:
    """Return a dictionary from functions to values, given rows of names and values."""
    return {function: value for names, value in rows for function in functions(names)}


def display_name(function: Any) -> str:
    """Return the name of a function for error messages.

    Example:
        >>> display_name(torch.nn.functional.gelu), display_name(torch.Tensor.cumprod)
        ('torch.nn.functional.gelu', 'torch.Tensor.cumprod')
    """
    name = torch.overrides.resolve_name(function)
    return name or getattr(function, "__qualname__", None) or str(function)


def changes_in_place(function: Any) -> bool:
    """Whether a function writes to its first argument.

    Example:
        >>> [changes_in_place(function) for function in (Tensor.add_, Tensor.__iadd__, Tensor.__add__)]
        [True, True, False]
    """
    name = getattr(function, "__name__", "")
    if name.startswith("__"):
        return (
            name.startswith("__i") and name not in ("__invert__", "__index__", "__int__")
        ) or name == "__setitem__"
    return name.endswith("_") and not name.startswith("_")


ARRANGING = functions(
    "reshape view view_as reshape_as permute transpose t T mT H mH adjoint swapaxes swapdims movedim "
    "moveaxis flatten unflatten ravel squeeze unsqueeze expand expand_as broadcast_to "
    "broadcast_tensors repeat repeat_interleave tile contiguous clone alias getitem setitem select "
    "narrow index_select gather take take_along_dim masked_select split split_with_sizes tensor_split "
    "chunk unsafe_split unsafe_split_with_sizes unsafe_chunk unbind hsplit vsplit dsplit diagonal diag "
    "diag_embed diagflat block_diag tril triu unfold as_strided cat concat concatenate stack hstack vstack "
    "dstack column_stack row_stack meshgrid atleast_1d atleast_2d atleast_3d pad constant_pad_nd roll flip "
    "fliplr flipud rot90 select_scatter slice_scatter diagonal_scatter to type type_as cpu cuda "
    "_pack_padded_sequence _pad_packed_sequence"
)
"""Functions that move elements without changing them."""

LINEAR_FUNCTIONS = (
    ARRANGING
    | functions(
        "add sub rsub subtract neg negative positive sum nansum mean cumsum diff trace fold real imag "
        "view_as_real view_as_complex resolve_conj conj complex double half bfloat16 index_add index_copy "
        "index_put scatter scatter_add masked_fill masked_scatter where copy fill zero dropout dropout1d "
        "dropout2d dropout3d alpha_dropout feature_alpha_dropout feature_dropout avg_pool1d avg_pool2d "
        "avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d interpolate upsample "
        "pixel_shuffle pixel_unshuffle channel_shuffle fft_fft fft_ifft fft_rfft fft_irfft "
        "fft_fft2 fft_ifft2 fft_fftn fft_ifftn fft_rfft2 fft_irfft2 fft_rfftn fft_irfftn fft_fftshift "
        "fft_ifftshift stft istft deg2rad rad2deg index_fill"
    )
    | {Tensor.float}
)
"""Functions that are linear in all arguments that depend on the input."""

QUADRATIC_FUNCTIONS = functions(
    "mul multiply matmul bmm mm mv dot vdot inner outer ger tensordot kron linear bilinear conv1d "
    "conv2d conv3d convolution conv_transpose1d conv_transpose2d conv_transpose3d einsum addmm addbmm "
    "baddbmm addmv addr addcmul cross"
)
"""Functions that are linear in each argument, and products if several depend on the input."""

PLAIN = functions(
    "shape size dim ndim ndimension stride storage_offset dtype device layout numel nelement "
    "is_floating_point is_complex is_contiguous is_sparse is_quantized is_cuda is_cpu is_mps is_meta "
    "is_nested is_conj is_neg is_inference is_leaf is_same_size is_tensor names itemsize element_size "
    "nbytes data_ptr requires_grad grad grad_fn _version _base _backward_hooks output_nr retains_grad "
    "get_device len hash format repr result_type can_cast new_zeros new_ones new_full new_empty "
    "new_tensor new zeros_like ones_like full_like empty_like rand_like randn_like randint_like "
    "_is_view is_pinned is_shared dim_order has_names untyped_storage storage storage_type "
    "_has_compatible_shallow_copy_type _nested_tensor_from_mask_left_aligned"
)
"""Functions whose result does not depend on a tensor's values."""

DECISIONS = functions(
    "eq ne lt le gt ge equal not_equal less less_equal greater greater_equal isnan isinf isfinite "
    "isneginf isposinf isclose allclose any all argmax argmin argsort item tolist bool int index "
    "contains nonzero count_nonzero logical_and logical_or logical_not logical_xor is_nonzero "
    "bucketize searchsorted long short byte char"
) | {Tensor.__float__}
"""Functions whose result decides what a model computes: it must be the same in both runs."""

ELEMENTWISE = functions(
    "add sub rsub mul multiply div divide true_divide truediv floor_divide floordiv remainder mod fmod pow "
    "square neg negative abs sign floor ceil round trunc clamp clip clamp_min clamp_max maximum minimum "
    "masked_fill where eq ne lt le gt ge not_equal less less_equal greater greater_equal logical_and "
    "logical_or logical_xor logical_not bitwise_and bitwise_or bitwise_xor bitwise_not and or xor invert "
    "bitwise_left_shift bitwise_right_shift lshift rshift long int short byte bool double half bfloat16 to "
    "type type_as cpu cuda detach"
) | {Tensor.float}
"""Elementwise functions."""

COUNTING = functions("cumsum sum")
"""Functions that sum elements."""

LOOKING_UP = functions("getitem gather take take_along_dim index_select")
"""Functions that look up elements of a table, one for each index."""

CASTS = functions("to type half bfloat16")
"""Functions that change the dtype."""

FILLED = functions("new_tensor new")
"""Functions whose data follow the tensor that gives the dtype."""

LIKE = functions("type_as view_as reshape_as expand_as to")
"""Functions that only take the shape or dtype of their second argument."""

IDENTITIES = functions("detach data")
"""Functions that cut gradients, but not the dependence on the input."""

SOURCES = functions("embedding")
"""Functions that turn token ids into embeddings."""
