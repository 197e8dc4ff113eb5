"""Perturbed copies of a model: randomized parts, or other weights for the same function."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from captum_globenc.encoders import find_encoder


def redrawn(model: PreTrainedModel, seed: int = 0) -> Iterator[tuple[str, PreTrainedModel]]:
    """Randomize a copy of a model part by part, from the top, and yield it after each part.

    This is the cascading randomization of Adebayo et al. (2018), section 3: first the head and all other
    modules after the layers, then the layers from last to first, then the embeddings. Every parameter is
    drawn from a normal distribution with the mean and standard deviation of its entries, so that activations
    keep their scale. A layer that runs several times, as in ALBERT, is one part.

    Args:
        model: a model with one supported encoder; not modified.
        seed: random seed.

    Yields:
        The name of the part ("head", "layer 6" to "layer 1", "embeddings") and the model. It is the same
        object each time, and the next iteration changes it.

    Example:
        >>> from captum_globenc.texts import load_default
        >>> [name for name, _ in redrawn(load_default()[0])]
        ['head', 'layer 6', 'layer 5', 'layer 4', 'layer 3', 'layer 2', 'layer 1', 'embeddings']
    """
    model = copy.deepcopy(model)
    generator = torch.Generator(device=model.device).manual_seed(seed)
    layers = [list(layer.module.parameters()) for layer in find_encoder(model).layers]
    inside = {id(parameter) for layer in layers for parameter in layer}
    # Modules are registered in order: embeddings before the layers, everything else after them.
    order = list(model.parameters())
    first = next(place for place, parameter in enumerate(order) if id(parameter) in inside)
    parts = {"head": [parameter for parameter in order[first:] if id(parameter) not in inside]}
    parts.update({f"layer {number}": layers[number - 1] for number in range(len(layers), 0, -1)})
    parts["embeddings"] = order[:first]
    for name, parameters in parts.items():
        with torch.no_grad():
            for parameter in parameters:
                noise = torch.randn(
                    parameter.shape, generator=generator, device=parameter.device, dtype=torch.float32
                )
                parameter.copy_(parameter.mean() + parameter.std(correction=0) * noise)
        yield name, model


def with_permuted_heads(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """Return a copy of a model with the attention heads of each layer permuted; its function is the same.

    Args:
        model: a model with one supported encoder, which has separate linear maps for queries, keys and
            values; not modified.
        seed: random seed of the permutation.

    Raises:
        ValueError: queries, keys and values are not computed by three linear maps whose output size is the
            input size of the output projection.

    Example:
        >>> from captum_globenc.texts import load_default
        >>> model, tokenizer = load_default()
        >>> batch = tokenizer("A wonderful film.", return_tensors="pt")
        >>> torch.allclose(with_permuted_heads(model)(**batch).logits, model(**batch).logits, atol=1e-5)
        True
    """
    model = copy.deepcopy(model)
    encoder = find_encoder(model)
    generator = torch.Generator().manual_seed(seed)
    config: Any = encoder.stack.config
    heads: int = config.num_attention_heads
    for layer in encoder.layers:
        out = layer.out
        width = out.in_features if isinstance(out, nn.Linear) else 0
        projections = [
            module
            for module in layer.attention.modules()
            if isinstance(module, nn.Linear) and module is not out and module.out_features == width
        ]
        if len(projections) != 3 or not isinstance(out, nn.Linear):
            raise ValueError(
                f"{type(layer.attention).__name__} does not compute queries, keys and values with three "
                "linear maps of equal size: the heads cannot be permuted"
            )
        order = torch.arange(width).reshape(heads, -1)[torch.randperm(heads, generator=generator)].flatten()
        with torch.no_grad():
            for projection in projections:
                for parameter in projection.parameters():
                    parameter.copy_(parameter[order])
            out.weight.copy_(out.weight[:, order])
    return model


def with_folded_gains(model: PreTrainedModel, arguments: Mapping[str, Any]) -> PreTrainedModel:
    """Return a copy of a model with LayerNorm weights and biases folded into the following linear maps.

    The function is the same: `W (g * n + b) + c = (W diag(g)) n + (W b + c)`. A norm whose output is also
    used elsewhere, as in a post-LN encoder, is skipped; this is found by comparing outputs.

    Args:
        model: the model; not modified.
        arguments: the keyword arguments of one forward pass.

    Raises:
        ValueError: the model has no norm whose output is read by linear maps alone.
    """
    model = copy.deepcopy(model)
    folded = 0
    with torch.no_grad():
        before = model(**arguments)[0]
        for norm, maps in _readers(model, arguments).items():
            parts = [norm, *maps]
            kept = [copy.deepcopy(part.state_dict()) for part in parts]
            for linear in maps:
                linear.bias.add_(linear.weight @ norm.bias)
                linear.weight.mul_(norm.weight)
            norm.weight.fill_(1)
            norm.bias.zero_()
            if torch.allclose(model(**arguments)[0], before, rtol=1e-4, atol=1e-4):
                folded += 1
            else:
                for part, state in zip(parts, kept, strict=True):
                    part.load_state_dict(state)
    if not folded:
        raise ValueError(f"{type(model).__name__} has no LayerNorm whose output goes to linear maps alone")
    return model


def _readers(model: nn.Module, arguments: Mapping[str, Any]) -> dict[nn.LayerNorm, list[nn.Linear]]:
    """Return the linear maps with biases that read the output of each LayerNorm, from one forward pass."""
    made: list[tuple[Tensor, nn.LayerNorm]] = []  # keeps the tensors alive, so that `is` identifies them
    readers: dict[nn.LayerNorm, list[nn.Linear]] = {}

    def write(module: nn.Module, _: Any, output: Tensor) -> None:
        if isinstance(module, nn.LayerNorm):
            made.append((output, module))

    def read(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, nn.Linear) and module.bias is not None and inputs:
            for output, norm in made:
                if output is inputs[0]:
                    readers.setdefault(norm, []).append(module)

    handles = [module.register_forward_hook(write) for module in model.modules()]
    handles += [module.register_forward_pre_hook(read) for module in model.modules()]
    try:
        model(**arguments)
    finally:
        for handle in handles:
            handle.remove()
    return readers
