"""One rule for the number of threads that read images."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

import relabel.training.loop as loop
from relabel.datasets.pixels.batches import ImageBatches
from relabel.settings import Runtime
from relabel.training.settings import TrainSettings
from relabel.workspace import cores as cores_module
from relabel.workspace.cores import limit_cores, reading_threads
from tests.datasets.pixels.test_batches import make_dataset


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (12, 12), (40, 16)])
def test_one_thread_per_usable_core_at_most_16(
    cores: int, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading batches and training choose alike, and both take what they are told."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert reading_threads(-1) == threads
    assert [reading_threads(n) for n in (0, 1, 40)] == [0, 1, 40]
    assert ImageBatches(make_dataset(tmp_path, 1))._workers == threads
    seen: list[int] = []

    def prefetch(make: Any, start: int, stop: int, *, workers: int) -> Any:
        seen.append(workers)
        return map(make, range(start, stop))

    monkeypatch.setattr(loop, "prefetch", prefetch)
    for workers in (-1, 3):
        loop.fit(
            torch.nn.Linear(1, 1),
            lambda step: torch.ones(1, 1),
            lambda model, x: {"loss": model(x).sum()},
            steps=1,
            out=tmp_path / str(workers),
            settings=TrainSettings(),
            runtime=Runtime(device="cpu", workers=workers, quiet=True),
            description="",
        )
    assert seen == [threads, 3]


def test_the_help_says_threads() -> None:
    text = {f.name: f.metadata["help"] for f in fields(Runtime)}["workers"]
    assert "Threads" in text and "rocess" not in text


def test_a_worker_of_one_core_reads_between_its_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(cores_module, "_limit", None)
    monkeypatch.setattr(cores_module, "_busy", False)
    for cores, busy, threads in ((1, True, 0), (1, False, 1), (3, True, 3), (99, True, 8)):
        limit_cores(cores, busy=busy)
        assert reading_threads() == threads
    limit_cores(1, busy=True)
    assert reading_threads(2) == 2
    assert reading_threads(waiting=True) == 16
