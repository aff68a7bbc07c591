"""Times and peak memory, of work that a GPU may still be at when a call has returned."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.on_gpu import Work

MOST = 200  # repetitions
_earlier = [0]  # bytes at most on the GPU before the statistics were last reset


class Enough(Exception):
    """A training has run for as long as was to be measured."""


@dataclass(frozen=True)
class Times:
    """Seconds of repeated work, without those of warming up."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def per_second(self, items: int) -> float:
        """Items per second where each repetition is of ``items``."""
        return rounded(items / self.median)


def device_of(work: Work) -> torch.device:
    return torch.device("cuda" if work.large else "cpu")


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(work: Work) -> int:
    """Bytes at most in this process: allocated on the GPU, or resident where there is none."""
    if work.large:
        return max(_earlier[0], int(torch.cuda.max_memory_allocated()))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_mib(work: Work) -> int:
    """MiB at most since this was last asked, on a GPU; else as `peak_memory`."""
    if not work.large:
        return peak_memory(work) >> 20
    latest = int(torch.cuda.max_memory_allocated())
    _earlier[0] = max(_earlier[0], latest)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return latest >> 20


def timed(
    call: Callable[[], Any], work: Work, seconds: float, *, warm: int = 2, least: int = 3
) -> Times:
    """Repeat a call for about so many seconds, but ``least`` times; tiny models once."""
    device = device_of(work)
    for _ in range(warm if work.large else min(warm, 1)):
        call()
    synchronise(device)
    taken: list[float] = []
    started = time.perf_counter()
    while len(taken) < (least if work.large else 1) or (
        len(taken) < MOST and time.perf_counter() - started + taken[-1] < seconds
    ):
        before = time.perf_counter()
        call()
        synchronise(device)
        taken.append(time.perf_counter() - before)
    return Times(tuple(taken))


def once(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call."""
    synchronise(device)
    started = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - started


@contextmanager
def timed_steps(module: Any, work: Work, seconds: float) -> Iterator[list[float]]:
    """Within the block, trainings that ``module`` starts with `fit` are timed step by step.

    They end, and the block with them, after so many seconds of measuring, but not before some
    steps were measured.

    Args:
        module: one that has imported `relabel.training.loop.fit`.

    Yields:
        Seconds of each step after the first ones.
    """
    device, fit = device_of(work), module.fit
    warm, least = (4, 6) if work.large else (1, 2)
    taken: list[float] = []
    marks: list[float] = []

    def after_step(_model: Any, _step: int) -> None:
        synchronise(device)
        marks.append(time.perf_counter())
        if len(marks) > warm:
            taken.append(marks[-1] - marks[-2])
        if len(taken) >= least and marks[-1] - marks[warm - 1] > seconds:
            raise Enough

    module.fit = lambda *args, **more: fit(*args, **{**more, "after_step": after_step})
    try:
        with suppress(Enough):
            yield taken
    finally:
        module.fit = fit


def steps_of(taken: Sequence[float]) -> Times:
    """The times of a training's steps.

    Raises:
        ValueError: it ended before any was measured.
    """
    if not taken:
        raise ValueError("the training ended before a step was measured")
    return Times(tuple(taken))


def rounded(value: float, digits: int = 4) -> float:
    """``value`` with so many significant digits."""
    return float(f"{value:.{digits}g}")
