"""A running demo limits the size of requests and the number of kept results."""

import asyncio
from types import SimpleNamespace

import pytest
from test_load import demo_load  # noqa: F401  (a fixture)

pytest.importorskip("gradio")
httpx = pytest.importorskip("httpx")

from captum_globenc.demo.form import LONGEST_TEXT  # noqa: E402
from captum_globenc.demo.limits import KEPT_RESULTS, MOST_BYTES, drop_unfetched  # noqa: E402


@pytest.fixture(scope="module")
def server(demo_load):  # noqa: F811
    with demo_load.demo() as (address, process):
        yield demo_load, address, process


def chunks(count):
    for _ in range(count):
        yield b" " * (1 << 16)


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/call/x"])
def test_a_body_that_is_too_large_is_rejected(server, path, declared):
    _, address, _ = server
    body = b" " * (MOST_BYTES + 1) if declared else chunks(MOST_BYTES // (1 << 16) + 1)
    found = httpx.post(address + path, content=body, headers={"content-type": "application/json"})
    assert found.status_code == 413
    assert "content-security-policy" in found.headers


@pytest.mark.parametrize("path", ["/gradio_api/upload", "/upload", "/gradio_api/upload/"])
def test_nothing_can_be_uploaded(server, path):
    _, address, _ = server
    assert httpx.post(address + path, files={"files": ("a.txt", b"some text")}).status_code == 404


def test_a_page_still_answers_within_the_bounds(server):
    demo_load, address, _ = server  # noqa: F811
    explain = demo_load.button(address)
    pair, model, mixing, _, *others = explain.values
    with httpx.Client(base_url=address, timeout=60) as http:
        text = "dull " * (LONGEST_TEXT // 5)
        for words in (text, "dull"):
            shown = demo_load.answer(http, explain, [words, pair, model, mixing, ["globenc"], *others])
            assert "NEGATIVE" in shown["prediction"]


def test_results_that_nobody_fetches_are_dropped_the_oldest_first():
    def messages(*kinds):
        queue = asyncio.Queue()
        for kind in kinds:
            queue.put_nowait(SimpleNamespace(msg=kind))
        return queue

    sessions = {
        str(number): messages("estimation", "process_completed") for number in range(KEPT_RESULTS + 5)
    }
    sessions["waits"] = messages("estimation")
    drop_unfetched(SimpleNamespace(pending_messages_per_session=sessions))
    left = [name for name, queue in sessions.items() if not queue.empty()]
    assert left == [*map(str, range(5, KEPT_RESULTS + 5)), "waits"]
    one = {"script": messages(*["process_completed"] * (KEPT_RESULTS + 1))}
    drop_unfetched(SimpleNamespace(pending_messages_per_session=one))
    assert one["script"].empty()
