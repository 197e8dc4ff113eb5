"""Other methods of one backward pass, from the formulas of their papers.

Functions of a forward function work on images as well; functions of a request are those of the registry.
B batch, N tokens of the encoder, D embedding size.
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
    given, baselines = of.embed(inputs), of.embed(request.baselines)
    scores = gradient_interactions(of.over_embeddings, given, baselines, (inputs, *request.extra), None)
    return scores.sum(-1)


def relevance(forward: Any, inputs: Tensor, extra: Sequence[Any], target: Any, rules: Rules) -> Tensor:
    """Multiplier times value of each token that enters the first layer, for one output.

    Args:
        forward: a forward function with an attribute `model`.
        inputs: its first argument.
        extra: its other arguments.
        target: the output that is explained, as for every Captum method.
        rules: the rules of the backward pass.

    Returns:
        `(B, N)`.

    Raises:
        ValueError: an operation has no rule, or there are no layers that pass on the tokens.
        ProofError: the recorded output is not the model's own.
    """
    depths = Depths(forward.model)
    run = _run(forward, inputs, extra, rules, depths.recorded)
    return _shares(run, selected(run.output, target), depths.streams[:1], [depths.streams[0].value])


def fullgrad_plus(forward: Any, inputs: Tensor, extra: Sequence[Any], target: Any) -> Tensor:
    """LibraGrad, Mehri et al. 2025 (arXiv 2411.16760): FullGrad+ (section 2.1) with balanced gradients (3.5).

    The sum over layers of multiplier times value of what enters it, and of multiplier times bias of all
    that it adds. Its balanced gradients are those of the frozen network.

    Args:
        forward: a forward function with an attribute `model`.
        inputs: its first argument.
        extra: its other arguments.
        target: the output that is explained, as for every Captum method.

    Returns:
        `(B, N)`.

    Raises:
        ValueError: an operation has no rule, or a layer is no module or adds a bias where it cannot be seen.
        ProofError: the recorded output is not the model's own.
    """
    encoder = with_whole_layers(forward.model)
    depths, biases = Depths(forward.model), Biases([layer.module for layer in encoder.layers])

    @contextmanager
    def watched() -> Iterator[None]:
        with depths.recorded(), biases.watched():
            yield

    run = _run(forward, inputs, extra, FROZEN, watched)
    streams = depths.streams[:-1]
    of_biases, values = biases.seen(streams[0].value.shape[:2])
    return _shares(
        run,
        selected(run.output, target),
        [*streams, *of_biases],
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
    """GIM, Edin et al. 2025 (arXiv 2505.17630): its gradient times the difference from a baseline.

    Args:
        forward: a forward function with an attribute `model`.
        inputs: embeddings, or pixels.
        baselines: the baseline, of the same shape.
        extra: the other arguments of the forward function.
        target: the output that is explained, as for every Captum method.
        temperature: of the softmax in the backward pass.

    Returns:
        In the shape of the inputs.

    Raises:
        ValueError: an operation has no rule.
        ProofError: the recorded output is not the model's own.
    """
    run = _run(forward, inputs, extra, gim(temperature))
    (multiplier,) = run.multipliers(selected(run.output, target), [run.sources[0].leaf])
    return multiplier * (inputs - baselines)


class Biases:
    """What modules add to tokens, as a run sees it.

    Args:
        modules: whose own parts add biases.

    Raises:
        ValueError: one of them adds a bias that is no module's parameter `bias`.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._owners: dict[str, nn.Module] = {}
        for number, module in enumerate(modules):
            for name, part in module.named_modules():
                for own, _ in part.named_parameters(recurse=False):
                    if own == "bias":
                        self._owners[f"{number}.{name}"] = part
                    elif own.endswith("bias"):
                        raise ValueError(f"{type(part).__name__} adds its {own} where it cannot be seen")
        self._made: list[tuple[nn.Module, Tensor]] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        """See one run."""
        self._made.clear()
        with ExitStack() as handles:
            for part in set(self._owners.values()):
                handles.enter_context(
                    part.register_forward_hook(
                        lambda module, args, output: self._made.append((module, output))
                    )
                )
            yield

    def seen(self, shape: torch.Size | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Return what biases were added to, as far as it depends on the input, and the biases.

        Args:
            shape: `(B, N)`, of what they have to be added to.

        Raises:
            ValueError: a bias was not seen as it was added, or was added to something else.
        """
        made = [(module, output) for module, output in self._made if output.requires_grad]
        unseen = set(self._owners.values()) - {module for module, _ in self._made}
        unseen |= {module for module, output in made if shape and output.shape[:2] != shape}
        names = [name for name, module in self._owners.items() if module in unseen]
        if names:
            raise ValueError(f"{names[0]}.bias of a layer is not added to tokens where it can be seen")
        return [output for _, output in made], [module.get_parameter("bias").detach() for module, _ in made]


def _run(
    forward: Any,
    inputs: Tensor,
    extra: Sequence[Any],
    rules: Rules,
    watched: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Comparison:
    """Run a forward function by some rules; what it returns has to be what it returns by itself."""

    def function(tensor: Tensor) -> Tensor:
        with watched():
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
    """Return multiplier times value, summed over tensors `(B, N, D)` and D."""
    made = run.multipliers(output, at)
    shares = [(m * value).sum(-1) for m, value in zip(made, values, strict=True)]
    return torch.stack(shares).sum(0)
