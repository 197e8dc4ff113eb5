"""Engines that run an attributor over blocks of rows: this process, or Ray actors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from captum_globenc.datasets.attributor import Attributor
from captum_globenc.datasets.blocks import Block
from captum_globenc.errors import EngineError
from captum_globenc.extras import optional

__all__ = ["ENGINES", "EngineError", "check_engine"]

Blocks = Iterator[tuple[int, Block]]
Done = Callable[[float], None]
Made = Iterator[tuple[int, Block, dict[str, list[Any]]]]
"""Number, rows and new columns of each block."""

QUEUED = 2
"""Blocks queued or running per worker; limits the memory."""


def _local(attributor: Attributor, blocks: Blocks, workers: int, done: Done) -> Made:
    for number, block in blocks:
        yield number, block, attributor.explain(**block.rows, done=done)


def _on_ray(attributor: Attributor, blocks: Blocks, workers: int, done: Done) -> Made:
    """Send blocks to idle actors; each actor loads the model once."""
    ray: Any = optional("ray", "ray")
    started = not ray.is_initialized()
    if started:
        ray.init(
            num_cpus=None if "RAY_ADDRESS" in os.environ else max(workers, os.cpu_count() or 1),
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
    try:
        resources: Mapping[str, float] = ray.cluster_resources()
        cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        if workers > cpus:
            raise ValueError(f"Ray has {cpus:g} CPUs for {workers} workers: ask for fewer")
        # Ray sets the number of threads of a worker to its number of CPUs.
        actor = ray.remote(
            num_cpus=max(1, int(cpus // workers)), num_gpus=min(1.0, gpus / workers), max_restarts=2
        )(_Worker)
        idle = [actor.options(max_task_retries=2).remote(attributor) for _ in range(workers)] * QUEUED
        running: dict[Any, tuple[Any, int, Block]] = {}
        while True:
            while idle and (following := next(blocks, None)) is not None:
                worker = idle.pop(0)
                number, block = following
                running[worker.explain.remote(block.rows)] = worker, number, block
            if not running:
                return
            (ready,), _ = ray.wait(list(running), num_returns=1)
            worker, number, block = running.pop(ready)
            try:
                made = ray.get(ready)
            except ray.exceptions.RayError as error:
                reason = str(error).strip().split("\n")[-1]
                raise EngineError(
                    f"a Ray worker failed ({reason}); finished shards are kept: repeat the call to resume"
                ) from error
            idle.append(worker)
            done(len(block))
            yield number, block, made
    finally:
        if started:
            ray.shutdown()


class _Worker:
    """The class of the Ray actors."""

    def __init__(self, attributor: Attributor) -> None:
        self._attributor = attributor

    def explain(self, rows: Mapping[str, Any]) -> dict[str, list[Any]]:
        return self._attributor.explain(**rows)


ENGINES: Mapping[str, Callable[[Attributor, Blocks, int, Done], Made]] = {"local": _local, "ray": _on_ray}
"""Engines by name: `(attributor, blocks, workers, done)`."""


def check_engine(engine: str, workers: int) -> None:
    """Check the name of an engine, its installation, and the number of workers.

    Raises:
        ValueError: the engine is unknown, `workers` is less than 1, or more than 1 for the local engine.
        ImportError: the engine is not installed; the message says what to install.
    """
    if engine not in ENGINES:
        raise ValueError(f"no engine {engine!r}; known: {', '.join(ENGINES)}")
    if workers < 1:
        raise ValueError(f"workers is {workers}: at least one is needed")
    if engine == "local" and workers > 1:
        raise ValueError(
            "the local engine is one process on all cores: for more workers, take the engine ray"
        )
    if engine == "ray":
        optional("ray", "ray")
