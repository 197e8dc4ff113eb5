"""Methods of other papers with one backward pass: AttnLRP, conservative propagation, LibraGrad, GIM.

Functions that take a forward function also work on images; functions that take a request are in the registry.
Shapes: B batch, N tokens of the encoder, D embedding dimensions.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from captum_globenc.attr.arguments import selected
from captum_globenc.attr.depths import Depths
from captum_globenc.attr.proof import check_output
from captum_globenc.differences import Comparison, freeze
from captum_globenc.differences.frozen import FROZEN, Rules
from captum_globenc.differences.peers import gim
from captum_globenc.differences.trace import Snapshot
from captum_globenc.recording.attention import observable_attention
from captum_globenc.texts.methods.context_mixing import with_whole_layers
from captum_globenc.texts.request import AttributionRequest

__all__ = ["fullgrad_plus", "gim_of_request", "gradient_interactions", "of_request", "relevance"]


def of_request(request: AttributionRequest, method: Callable[..., Tensor], **options: Any) -> Tensor:
    """Return the scores `(A, N)` of `relevance` or `fullgrad_plus`."""
    return method(request.of.outputs, request.inputs, request.extra, None, **options)


def gim_of_request(request: AttributionRequest) -> Tensor:
    """Return GIM's scores `(A, N)` over word embeddings."""
    of, inputs = request.of, request.inputs
    embeddings, baselines = of.over_embeddings.embed(inputs), of.embed(request.baselines)
    scores = gradient_interactions(of.over_embeddings, embeddings, baselines, (inputs, *request.extra), None)
    return scores.sum(-1)


def relevance(forward: Any, inputs: Tensor, extra: Sequence[Any], target: Any, rules: Rules) -> Tensor:
    """Return gradient times input at the first layer, `(B, N)`, with modified backward rules (LRP).

    Args:
        forward: a forward function with an attribute `model`.
        inputs: the first argument of the forward function.
        extra: the other arguments of the forward function.
        target: Captum's target: the explained output.
        rules: the rules of the backward pass.

    Raises:
        ValueError: an operation has no rule, or no layers with token hidden states were found.
        ProofError: the recorded output differs from the model's output.
    """
    depths = Depths(forward.model)
    run = _run(forward, inputs, extra, rules, depths.recorded)
    return _shares(run, selected(run.output, target), depths.streams[:1], [depths.streams[0].value])


def fullgrad_plus(forward: Any, inputs: Tensor, extra: Sequence[Any], target: Any) -> Tensor:
    """LibraGrad, Mehri et al. 2025 (arXiv 2411.16760): FullGrad+ (section 2.1) with balanced gradients (3.5).

    Sums over layers the gradient times the layer's input, and the gradient times each bias that it adds. The
    balanced gradients are the gradients of the frozen network.

    Args:
        forward: a forward function with an attribute `model`.
        inputs: the first argument of the forward function.
        extra: the other arguments of the forward function.
        target: Captum's target: the explained output.

    Returns:
        Scores `(B, N)`.

    Raises:
        ValueError: an operation has no rule, a layer is not one module, or a bias is not a module's `bias`.
        ProofError: the recorded output differs from the model's output.
    """
    encoder = with_whole_layers(forward.model)
    depths, biases = Depths(forward.model), Biases([layer.module for layer in encoder.layers])

    @contextmanager
    def recorded() -> Iterator[None]:
        with depths.recorded(), biases.recorded():
            yield

    run = _run(forward, inputs, extra, FROZEN, recorded)
    streams = depths.streams[:-1]
    biased, values = biases.collected(streams[0].value.shape[:2])
    return _shares(
        run,
        selected(run.output, target),
        [*streams, *biased],
        [*(stream.value for stream in streams), *values],
    )


def gradient_interactions(
    forward: Any,
    inputs: Tensor,
    baselines: Tensor,
    extra: Sequence[Any],
    target: Any,
    temperature: float = 2.0,
) -> Tensor:
    """GIM, Edin et al. 2025 (arXiv 2505.17630): the modified gradient times the difference from a baseline.

    Args:
        forward: a forward function with an attribute `model`.
        inputs: embeddings or pixels.
        baselines: the baseline, in the shape of the inputs.
        extra: the other arguments of the forward function.
        target: Captum's target: the explained output.
        temperature: the temperature of the softmax in the backward pass.

    Returns:
        Scores in the shape of the inputs.

    Raises:
        ValueError: an operation has no rule.
        ProofError: the recorded output differs from the model's output.
    """
    run = _run(forward, inputs, extra, gim(temperature))
    (multiplier,) = run.multipliers(selected(run.output, target), [run.sources[0].leaf])
    return multiplier * (inputs - baselines)


class Biases:
    """Record the outputs of submodules that add a bias.

    Args:
        modules: the modules whose submodules are recorded.

    Raises:
        ValueError: a bias is not the parameter `bias` of a submodule.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._owners: dict[str, nn.Module] = {}
        for number, module in enumerate(modules):
            for name, part in module.named_modules():
                for own, _ in part.named_parameters(recurse=False):
                    if own == "bias":
                        self._owners[f"{number}.{name}"] = part
                    elif own.endswith("bias"):
                        raise ValueError(f"{type(part).__name__} adds its {own} where it cannot be recorded")
        self._made: list[tuple[nn.Module, Tensor]] = []

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record one pass."""
        self._made.clear()
        with ExitStack() as handles:
            for part in set(self._owners.values()):
                handles.enter_context(
                    part.register_forward_hook(
                        lambda module, args, output: self._made.append((module, output))
                    )
                )
            yield

    def collected(self, shape: torch.Size | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Return the outputs with a bias that depend on the input, and their biases.

        Args:
            shape: `(B, N)`, the required leading dimensions of these outputs.

        Raises:
            ValueError: a bias was not recorded, or its output has another shape.
        """
        made = [(module, output) for module, output in self._made if output.requires_grad]
        unseen = set(self._owners.values()) - {module for module, _ in self._made}
        unseen |= {module for module, output in made if shape and output.shape[:2] != shape}
        names = [name for name, module in self._owners.items() if module in unseen]
        if names:
            raise ValueError(f"{names[0]}.bias of a layer is not added to tokens where it can be recorded")
        return [output for _, output in made], [module.get_parameter("bias").detach() for module, _ in made]


def _run(
    forward: Any,
    inputs: Tensor,
    extra: Sequence[Any],
    rules: Rules,
    recorded: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Comparison:
    """Run a forward function with backward rules, and check that its output is unchanged."""

    def function(tensor: Tensor) -> Tensor:
        with recorded():
            output: Tensor = forward(tensor, *extra)
        return output

    with observable_attention(forward.model, forward):
        run = freeze(function, [inputs], rules)
        with torch.no_grad():
            check_output(run.output.detach(), forward(inputs, *extra), forward.model)
    return run


def _shares(
    run: Comparison, output: Tensor, at: Sequence[Tensor | Snapshot], values: Sequence[Tensor]
) -> Tensor:
    """Return multiplier times value, summed over the tensors `(B, N, D)` and over D."""
    made = run.multipliers(output, at)
    shares = [(m * value).sum(-1) for m, value in zip(made, values, strict=True)]
    return torch.stack(shares).sum(0)
