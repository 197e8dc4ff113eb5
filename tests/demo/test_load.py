"""Many clients at once: no request is lost, and each client gets its own answer."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks/demo_load.py"


@pytest.fixture(scope="module")
def demo_load():
    pytest.importorskip("gradio")
    spec = importlib.util.spec_from_file_location("demo_load", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_many_clients_at_once_get_their_own_answers(demo_load):
    with demo_load.demo() as (address, process):
        report = demo_load.load(address, process, clients=6, seconds=4)
    assert (report.wrong, report.lost) == ([], [])
    assert report.answered >= 6


def test_a_slow_answer_is_stopped_and_the_next_is_served(demo_load):
    with (
        demo_load.demo("--seconds", "1") as (address, _),
        demo_load.httpx.Client(base_url=address, timeout=60) as http,
    ):
        explain = demo_load.button(address)
        pair, model, mixing, _, *others = explain.values
        methods = ["globenc", "integrated-gradients"]
        shown = demo_load.answer(http, explain, ["dull " * 500, pair, model, mixing, methods, *others])
        assert "stopped after 1 seconds" in shown["prediction"]
        assert shown["tokens"] == ""
        shown = demo_load.answer(http, explain, ["dull", pair, model, mixing, ["globenc"], *others])
        assert demo_load.tokens(shown["tokens"]) == ["dull"]
