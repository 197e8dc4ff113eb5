"""Load of the web demo: many clients at once, on this machine alone, for a bounded time.

    python benchmarks/demo_load.py [--clients 20] [--seconds 60]

Starts a demo of its own on a free port of the loopback address. Every client asks for one text after
the other, each of which it alone asks for, and reads the answer through the page's own queue. Prints how many
were answered, lost, or answered with another's text, how long they waited, and the server's memory.
"""

import argparse
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple

import httpx

MOST_CLIENTS, MOST_SECONDS = 50, 300
WORDS = ("plot", "film", "dull", "wonderful", "acting", "bad", "good", "boring", "script", "never")
PATIENCE = 120.0
"""Seconds that a client waits for its answer until it counts as lost."""


class Report(NamedTuple):
    """What became of the texts that were asked for.

    Attributes:
        answered: Answers with the client's own text.
        refused: Times that the queue was full, and the client told so.
        wrong: Answers with something else.
        lost: Texts without an answer: what went wrong.
        waits: Seconds from question to answer.
        memory: Resident megabytes of the server, once a second from the first answer.
    """

    answered: int
    refused: int
    wrong: list[str]
    lost: list[str]
    waits: list[float]
    memory: list[float]


class Button(NamedTuple):
    """What the page's button does.

    Attributes:
        function: The number of the function that it runs.
        values: What the fields hold at first, without the text.
        outputs: The `elem_id` of each component that is filled.
    """

    function: int
    values: list[Any]
    outputs: list[str]


@contextmanager
def demo(*options: str) -> Iterator[tuple[str, int]]:
    """Run a demo on a free port of the loopback address; gives its address and process id."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = [sys.executable, "-u", "-m", "captum_globenc", "demo", "--port", port, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if f"http://127.0.0.1:{port}" not in line:
                raise RuntimeError(f"the demo did not start: {line}")
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()


def load(address: str, process: int, clients: int, seconds: float) -> Report:
    """Let clients ask at once for some seconds, and wait for their last answers."""
    explain = button(address)
    answered: list[float] = []
    refused: list[str] = []
    wrong: list[str] = []
    lost: list[str] = []
    memory: list[float] = []
    end = time.monotonic() + seconds
    done = threading.Event()

    def watch() -> None:
        while not done.wait(1.0):
            if answered:
                memory.append(_resident(process))

    def ask(number: int) -> None:
        with httpx.Client(base_url=address, timeout=PATIENCE) as http:
            for turn in range(10**6):
                if time.monotonic() > end:
                    return
                text = f"{number} {turn} " + " ".join(
                    WORDS[(number + turn * k) % len(WORDS)] for k in range(5)
                )
                start = time.monotonic()
                try:
                    found = answer(http, explain, [text, *explain.values])
                except (httpx.HTTPError, RuntimeError) as error:
                    lost.append(f"{text}: {error!r}")
                    continue
                if found is None:
                    refused.append(text)
                    time.sleep(0.5)
                elif tokens(found["tokens"]) == text.split():
                    answered.append(time.monotonic() - start)
                else:
                    wrong.append(f"{text}: {found['prediction']} {found['tokens']}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    watcher = threading.Thread(target=watch)
    for thread in (watcher, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    watcher.join()
    return Report(len(answered), len(refused), wrong, lost, answered, memory)


def button(address: str) -> Button:
    """Read the page's description of its button."""
    config = httpx.get(f"{address}/config").json()
    components = {component["id"]: component["props"] for component in config["components"]}
    (pressed,) = (index for index, props in components.items() if props.get("elem_id") == "explain")
    (found,) = (
        dependency
        for dependency in config["dependencies"]
        if dependency["backend_fn"] and pressed in [index for index, _ in dependency["targets"]]
    )
    values = [components[index].get("value") for index in found["inputs"]]
    outputs = [components[index].get("elem_id", str(index)) for index in found["outputs"]]
    return Button(found["id"], values[1:], outputs)


def answer(http: httpx.Client, explain: Button, data: list[Any]) -> dict[str, Any] | None:
    """Press the button; gives what the page shows then, by `elem_id`, or None where the queue is full."""
    session = uuid.uuid4().hex
    body = {"data": data, "fn_index": explain.function, "session_hash": session}
    joined = http.post("/gradio_api/queue/join", json=body)
    if joined.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        return None
    joined.raise_for_status()
    with http.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as events:
        for line in events.iter_lines():
            event = json.loads(line.removeprefix("data:")) if line else {}
            if event.get("msg") == "process_completed":
                if not event["success"]:
                    raise RuntimeError(str(event["output"]))
                return dict(zip(explain.outputs, event["output"]["data"], strict=True))
    raise RuntimeError("the stream ended without an answer")


def tokens(html: str) -> list[str]:
    """Read the shaded tokens but for the special ones, which are the first and the last."""
    shaded = re.search(r'class="tokens".*?</(?:div|p)>', html, re.DOTALL)
    found = re.findall(r"<span[^>]*>(.*?)</span>", shaded[0]) if shaded else []
    return [unescape(token) for token in found][1:-1]


def _resident(process: int) -> float:
    """Return the resident memory of a process in megabytes (Linux)."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Run the load that the command line asks for, and print what became of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=20, choices=range(1, MOST_CLIENTS + 1), metavar="N")
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    with demo() as (address, process):
        report = load(address, process, options.clients, min(options.seconds, MOST_SECONDS))
    waits, memory = sorted(report.waits), report.memory
    print(
        f"{options.clients} clients, {options.seconds:g} s: {report.answered} answered, "
        f"{len(report.wrong)} wrong, {len(report.lost)} lost, {report.refused} told that the queue is full"
    )
    print(f"waited: median {statistics.median(waits):.2f} s, longest {waits[-1]:.2f} s")
    quarter = max(1, len(memory) // 4)
    parts = [statistics.median(memory[i : i + quarter]) for i in range(0, len(memory) - quarter + 1, quarter)]
    print("server's memory by quarters of the time:", ", ".join(f"{part:.0f} MB" for part in parts))
    for trouble in (*report.wrong, *report.lost):
        print(trouble)


if __name__ == "__main__":
    main()
