"""The device under test. A CPU can take its place, with the tile budget of an accelerator."""

from contextlib import nullcontext

import pytest
import torch

from families import FAMILIES
from language_models import MIXTURES
from outsiders import OUTSIDERS

SELECTED = {
    "family": [row for row in FAMILIES if row.label in ("bert", "modernbert", "t5", "vit", "wav2vec2")],
    "outsider": ["llama"],
    "mixture": ["mixtral"],
}
"""What runs without `--device`."""
ALL = {"family": FAMILIES, "outsider": tuple(OUTSIDERS), "mixture": tuple(MIXTURES)}


def pytest_configure(config):
    """Stop where there is no such device."""
    device = config.getoption("--device") or "cpu"
    if torch.device(device).type != "cpu" and not torch.cuda.is_available():
        raise pytest.UsageError(
            f"--device {device}: torch finds no GPU; --device cpu runs all tests without one"
        )


def pytest_generate_tests(metafunc):
    """Parametrize over the models."""
    chosen = SELECTED if metafunc.config.getoption("--device") is None else ALL
    for name in chosen.keys() & set(metafunc.fixturenames):
        metafunc.parametrize(name, chosen[name], ids=lambda it: getattr(it, "label", it))


@pytest.fixture(scope="session")
def device(request):
    return torch.device(request.config.getoption("--device") or "cpu")


@pytest.fixture
def measuring(bench, device):
    """The counters of the benchmark for the device."""
    gpu = bench("gpu")
    return (gpu.Device if device.type == "cpu" else gpu.Gpu)(str(device))


@pytest.fixture
def accelerated(measuring):
    """Return the context in which the package works as on an accelerator."""
    return measuring.mode


@pytest.fixture
def streams(device):
    """Return a new stream as a context, which waits for what the current one has launched."""
    if device.type == "cpu":
        return nullcontext

    def made():
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        return torch.cuda.stream(stream)

    return made
