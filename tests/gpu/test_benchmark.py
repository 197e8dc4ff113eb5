"""The benchmark for a GPU, run on a CPU: measurements, omitted cases, and the table."""

import json
import warnings
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

ENVIRONMENT = {
    "device": "NVIDIA H200",
    "memory_bytes": 150e9,
    "cuda": "13.0",
    "torch": "2.13.0",
    "transformers": "5.23.0",
}


@pytest.fixture
def gpu(bench):
    return bench("gpu")


@pytest.fixture
def device(gpu):
    return gpu.Device("cpu")


def seconds_of(gpu, number):
    """A clock of so many seconds that stands still."""
    return gpu.Clock(number, lambda: 0.0)


def test_a_case_has_each_subject_with_its_counts(gpu, device, bench):
    cells = gpu.measured(gpu.Case("BERT-base", 2, 8), device, seconds_of(gpu, 100), quick=True)
    assert [cell["subject"] for cell in cells] == list(bench("subjects").SUBJECTS)
    assert not [cell for cell in cells if "left_out" in cell]
    assert cells[0]["kernels"] < cells[1]["kernels"] < cells[3]["kernels"]
    for cell in cells:
        assert cell["lowest"] <= cell["ratio"] <= cell["highest"]
        assert cell["syncs"] >= cells[0]["syncs"] == 1  # the model reads whether there is padding
        assert cell["peak_bytes"] >= 0
    forward = cells[0]["seconds"]
    assert cells[3]["ratio"] == pytest.approx(sum(cells[3]["seconds"]) / sum(forward))  # medians of two


@pytest.mark.parametrize("model", ["ModernBERT-base", "Llama 1B"])
def test_half_precision_says_what_is_computed_in_float32(gpu, device, model):
    cells = gpu.measured(gpu.Case(model, 1, 8, "bfloat16"), device, seconds_of(gpu, 100), quick=True)
    of = {cell["subject"]: cell for cell in cells}
    assert ("GlobEnc" in of) == (model != "Llama 1B") == ("TransformerDeepLift, recompute" not in of)
    assert of["forward"]["float32_products"] == 0
    assert of["TransformerDeepLift"]["float32_products"] == 1


def test_forward_passes_are_compared_with_compiled_ones(gpu, device):
    case = gpu.Case("BERT-base", 1, 8, launches=True)
    cells = gpu.measured(case, device, seconds_of(gpu, 100), quick=True)
    assert len(cells) == 4
    assert len({cell["kernels"] for cell in cells}) == 1
    assert not [cell for cell in cells if "left_out" in cell]


def test_products_are_counted_by_dtype(gpu):
    one, other = torch.ones(2, 3), torch.ones(3, 4)
    with gpu.PrecisionMode() as seen:
        (one @ other).view(-1)
        (one.bfloat16() @ other.bfloat16()).sum()
    assert seen.found.products == {"float32": 48, "bfloat16": 48}
    assert seen.found.kernels == {"float32": 1, "bfloat16": 4}
    assert seen.found.shares() == {
        "float32_kernels": 0.2,
        "float32_products": 0.5,
        "float32_operations": ["mm"],
    }


class TestGpuWithoutOne:
    """What `Gpu` makes of what torch returns, with torch's functions replaced."""

    @pytest.fixture(autouse=True)
    def replaced(self, monkeypatch):
        log = []

        def replace(**functions):
            for name, function in functions.items():
                monkeypatch.setattr(torch.cuda, name, function)

        class Stream(nullcontext):
            def wait_stream(self, other):
                log.append("wait")

        replace(
            synchronize=lambda: log.append("synchronize"),
            empty_cache=lambda: None,
            Event=lambda enable_timing: SimpleNamespace(
                record=lambda: log.append("record"), elapsed_time=lambda end: 1500.0
            ),
            memory_allocated=lambda: 100,
            max_memory_allocated=lambda: 350,
            reset_peak_memory_stats=lambda: None,
            mem_get_info=lambda device: (7, 9),
            get_device_properties=lambda device: SimpleNamespace(name="a GPU", total_memory=9),
            set_sync_debug_mode=log.append,
            Stream=Stream,
            current_stream=Stream,
            stream=lambda it: it,
            graph=lambda graph: nullcontext(),
            CUDAGraph=lambda: SimpleNamespace(replay=lambda: log.append("replay")),
        )
        return log

    @pytest.fixture
    def device(self, gpu):
        return gpu.Gpu("cuda")

    def test_times_are_between_events_around_the_call(self, device, replaced):
        assert device.seconds(lambda: replaced.append("call")) == 1.5
        assert replaced == ["synchronize", "record", "call", "record", "synchronize"]

    def test_memory_is_above_what_was_allocated(self, device):
        assert device.peak(lambda: None) == 250
        assert device.free() == 7
        assert device.environment() == {"device": "a GPU", "memory_bytes": 9, "cuda": torch.version.cuda}

    def test_syncs_are_the_warnings_of_torch(self, device, replaced):
        def call():
            for _ in range(2):
                warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            warnings.warn("something else", stacklevel=1)

        assert device.syncs(call) == 2
        with pytest.raises(ZeroDivisionError):
            device.syncs(lambda: 1 // 0)
        assert [it for it in replaced if it != "synchronize"] == ["warn", "default"] * 2

    def test_a_graph_is_captured_after_three_calls(self, device, replaced):
        replayed = device.graph(lambda: replaced.append("call"))
        assert replaced == ["wait", "call", "call", "call", "wait", "call"]
        replayed()
        assert replaced[-1] == "replay"

    def test_the_profiler_counts_no_kernel_of_the_cpu(self, device):
        with pytest.warns(UserWarning, match="CUDA is not available"):
            assert device.kernels(lambda: torch.ones(2) + 1) == 0


def test_kernels_are_the_events_of_the_gpu_without_copies_and_annotations(gpu):
    cuda, cpu = torch.autograd.DeviceType.CUDA, torch.autograd.DeviceType.CPU
    events = [
        SimpleNamespace(device_type=cuda, name="gemm"),
        SimpleNamespace(device_type=cuda, name="gemm", is_user_annotation=False),
        SimpleNamespace(device_type=cuda, name="ProfilerStep*", is_user_annotation=True),
        SimpleNamespace(device_type=cuda, name="Memcpy DtoH (Device -> Pageable)"),
        SimpleNamespace(device_type=cuda, name="Memset (Device)"),
        SimpleNamespace(device_type=cpu, name="cudaLaunchKernel"),
    ]
    assert gpu.launched(events) == 2


def left_out(cells):
    return {cell["subject"]: cell["left_out"] for cell in cells if "left_out" in cell}


def test_what_does_not_fit_into_the_time_is_left_out(gpu, device, monkeypatch):
    case = gpu.Case("BERT-base", 1, 8)
    cells = gpu.measured(case, device, seconds_of(gpu, 0.5), quick=True)
    assert left_out(cells) == {"all": "needs about 1 s, and 0 s of its share are left"}
    monkeypatch.setattr(device, "seconds", lambda call: 2.0)
    cells = gpu.measured(case, device, seconds_of(gpu, 25), quick=True)
    # Predicted are 30 and 15 forward passes of 2 s.
    assert left_out(cells) == {
        "TransformerDeepLift": "needs about 60 s, and 25 s of its share are left",
        "DecompX": "needs about 30 s, and 25 s of its share are left",
    }
    assert all({"kernels", "syncs"} <= cell.keys() for cell in cells[:3])
    (forward, *others) = gpu.measured(case, device, seconds_of(gpu, 9), quick=True)
    assert forward["seconds"] == [2.0, 2.0]
    assert "kernels" not in forward  # takes 10 s
    assert len(left_out(others)) == 4


def test_one_run_counts_where_no_round_fits(gpu, device, monkeypatch):
    now = [0.0]

    def seconds(call):
        now[0] += 4.0
        return 4.0

    monkeypatch.setattr(device, "seconds", seconds)
    clock = gpu.Clock(49, lambda: now[0])  # 8 s for the forward pass, 40 s predicted for the next
    cells = gpu.measured(gpu.Case("BERT-base", 1, 8), device, clock, quick=True)
    assert [cell.get("seconds") for cell in cells] == [[4.0, 4.0], [4.0, 4.0], None, None, None]
    now[0] = 0.0
    clock = gpu.Clock(9, lambda: now[0])
    cells = gpu.measured(gpu.Case("BERT-base", 1, 8), device, clock, quick=True)
    assert cells[0]["seconds"] == [4.0]
    assert [line for line in gpu.table({"environment": ENVIRONMENT, "cells": cells}) if "1.00, one" in line]


def test_nothing_is_compared_with_a_forward_pass_that_fails(gpu, device, monkeypatch):
    def without_memory(call):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(device, "seconds", without_memory)
    cells = gpu.measured(gpu.Case("Llama 1B", 1, 8, "bfloat16"), device, seconds_of(gpu, 99), quick=True)
    assert left_out(cells) == {
        "forward": "out of memory",
        "one gradient": "the forward pass was left out",
        "TransformerDeepLift": "the forward pass was left out",
        "TransformerDeepLift, recompute": "the forward pass was left out",
    }


def test_a_case_gets_an_equal_share_of_the_time_left(gpu):
    now = [0.0]
    clock = gpu.Clock(100, lambda: now[0])
    assert clock.share(4).left == 25
    now[0] = 10.0
    assert clock.share(3).left == 30
    now[0] = 200.0
    assert clock.share(1).left == -100


def test_what_does_not_fit_into_the_memory_is_left_out(gpu, device, monkeypatch):
    def without_memory(call):
        if call is exhausted[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1e-3

    calls_of, exhausted = gpu.calls_of, [None]

    def watched(*arguments):
        prepared = calls_of(*arguments)
        exhausted[0] = prepared["TransformerDeepLift"]()
        return prepared

    monkeypatch.setattr(gpu, "calls_of", watched)
    monkeypatch.setattr(device, "seconds", without_memory)
    cells = gpu.measured(gpu.Case("BERT-base", 1, 8), device, seconds_of(gpu, 100), quick=True)
    assert left_out(cells) == {"TransformerDeepLift": "out of memory"}
    assert not [cell for cell in cells if "failed" in cell]
    monkeypatch.setattr(device, "free", lambda: 1e5)
    (cell,) = gpu.measured(gpu.Case("Llama 8B", 1, 8, "bfloat16"), device, seconds_of(gpu, 100))
    assert cell["left_out"] == "the weights take 15.0 GB, and 0.0 GB are free"


def test_an_error_is_reported_and_the_other_cases_are_measured(gpu, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu, "CASES", (gpu.Case("BERT-base", 1, 128), gpu.Case("Llama 1B", 1, 128)))
    monkeypatch.setattr(gpu.Device, "peak", lambda self, call: 1 // 0)
    path = tmp_path / "made" / "gpu.json"
    monkeypatch.setattr("sys.argv", ["gpu.py", "--device", "cpu", "--quick", "--output", str(path)])
    assert gpu.main() == 1
    found = json.loads(path.read_text())
    assert len(found["cells"]) == 9
    assert found["cells"][0]["left_out"].startswith("ZeroDivisionError: ")
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["gpu.py", "--table", str(path)])
    assert gpu.main() == 0
    assert capsys.readouterr().out == "\n".join(gpu.table(found)) + "\n"


def test_without_a_gpu_the_script_says_what_to_do(gpu, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        gpu.main()
    assert "there is no GPU: --device cpu --quick runs the script without one" in capsys.readouterr().err


def test_the_table_has_every_cell(gpu):
    at = {"model": "Llama 8B", "batch": 1, "tokens": 2048, "dtype": "bfloat16", "tf32": True}
    counts = {"peak_bytes": 12_340_000, "kernels": 1234, "syncs": 3}
    shares = {"float32_kernels": 0.251, "float32_products": 1.0, "float32_operations": ["mm", "add"]}
    one = {"ratio": 1.0, "lowest": 0.9, "highest": 1.2, "seconds": [0.1, 0.2, 0.4]}
    other = {"ratio": 3.456, "lowest": 3.0, "highest": 4.0, "seconds": [0.6, 0.7]}
    found = {
        "environment": ENVIRONMENT,
        "cells": [
            {**at, "subject": "forward", **counts, **one},
            {**at, "subject": "TransformerDeepLift", **counts, **shares, **other},
            {**at, "tf32": False, "subject": "DecompX", **counts, **other, "seconds": [0.7]},
            {**at, "tf32": False, "subject": "GlobEnc", "left_out": "out of memory"},
        ],
    }
    where = "Llama 8B, 1 x 2,048, bfloat16"
    assert list(gpu.table(found)) == [
        "NVIDIA H200, 150 GB; torch 2.13.0, CUDA 13.0, transformers 5.23.0.",
        "",
        "| | | times the forward pass | peak memory | kernels | syncs |",
        "|---|---|---:|---:|---:|---:|",
        f"| {where}, TF32 products | forward | 1.00 (200.0 ms) | 12 MB | 1,234 | 3 |",
        f"| {where}, TF32 products | TransformerDeepLift | 3.46 (3.00 to 4.00) | 12 MB | 1,234 | 3 |",
        f"| {where} | DecompX | 3.46, one run | 12 MB | 1,234 | 3 |",
        f"| {where} | GlobEnc | left out: out of memory | | | |",
        "",
        "| | | kernels in float32 | products in float32 | most frequent in float32 |",
        "|---|---|---:|---:|---|",
        f"| {where}, TF32 products | TransformerDeepLift | 25% | 100% | `mm`, `add` |",
    ]
