"""Where the time of a stage goes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from relabel.workspace.atomic import atomic_write_json

TIMES = "times.json"


class Clock:
    """Seconds by activity, summed over threads, beside the wall time and the images done."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.images = 0
        self._started = time.perf_counter()
        self._lock = threading.Lock()

    @contextmanager
    def spent(self, activity: str) -> Iterator[None]:
        """Count the time inside the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            taken = time.perf_counter() - start
            with self._lock:
                self.seconds[activity] = self.seconds.get(activity, 0.0) + taken

    def add(self, seconds: Mapping[str, float], images: int) -> None:
        """Count what another clock has counted, of another process."""
        with self._lock:
            self.images += images
            for activity, taken in seconds.items():
                self.seconds[activity] = self.seconds.get(activity, 0.0) + taken

    def summary(self) -> dict[str, Any]:
        """``images``, ``wall`` seconds, ``images_per_second``, and seconds of each activity.

        Where there is a backbone, also the share of the wall time outside its forward passes.
        """
        wall = time.perf_counter() - self._started
        rate = self.images / wall if wall > 0 else 0.0
        more = {}
        if "backbone" in self.seconds and wall > 0:
            more["outside_backbone"] = round(1 - self.seconds["backbone"] / wall, 3)
        return {
            "images": self.images,
            "wall": round(wall, 3),
            "images_per_second": round(rate, 3),
            **more,
            **{k: round(v, 3) for k, v in sorted(self.seconds.items())},
        }


def record(out: Path, stage: str, clock: Clock) -> None:
    """Add a stage's times to ``times.json`` of the workspace; one entry per run of a stage."""
    if not clock.images:
        return
    runs = [*_recorded(out), {"stage": stage, **clock.summary()}]
    atomic_write_json(out / TIMES, runs, indent=1)


def recorded_seconds(out: Path) -> dict[str, float]:
    """What each stage took when it last ran, by name, as far as ``times.json`` tells."""
    return {
        str(run.get("stage")): float(run["wall"])
        for run in _recorded(out)
        if isinstance(run, dict) and isinstance(run.get("wall"), int | float)
    }


def _recorded(out: Path) -> list[Any]:
    try:
        runs = json.loads((out / TIMES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return runs if isinstance(runs, list) else []
