"""The sections of `benchmarks/gpu.py`: what is measured, on which sizes, in which order.

This module imports nothing but the standard library: it is read before it is known what is
installed.
"""

from __future__ import annotations

import os
import threading
import traceback
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Section:
    """A part of the measurements, in a process of its own.

    Attributes:
        work: module and function.
        least: seconds that have to be left for it to be started.
        most: seconds after which it is stopped.
        measuring: seconds that it may spend on measuring alone.
    """

    title: str
    work: str
    least: float
    most: float
    measuring: float


# In order of importance; seconds are those of a GPU of the year 2025.
SECTIONS: dict[str, Section] = {
    "tests": Section("CUDA tests of the suite", "suite:run", 40, 110, 100),
    "faster-rcnn": Section("Faster R-CNN, preset standard", "detectors:faster_rcnn", 30, 75, 24),
    "maskcut": Section("MaskCut, DINOv3 ViT-L/16 at 896 px", "regions:run", 60, 120, 45),
    "cross-label": Section("Cross-labelling", "labelling:run", 30, 70, 24),
    "lat": Section("LAT and region features", "transfer:run", 40, 80, 24),
    "rt-detr": Section("RT-DETRv2, preset standard", "detectors:rt_detr", 30, 75, 24),
}
PRELOAD = ["torch", "torchvision", "transformers", "accelerate", "relabel.detectors.training"]
TRACEBACK_LINES = 12


@dataclass
class Work:
    """What a section gets.

    Attributes:
        size: ``gpu``, or ``cpu`` with the same code on tiny models and images.
        folder: for files, shared with the other sections; gone in the end.
        seconds: to measure for.
    """

    size: str
    folder: Path
    seconds: float

    @property
    def large(self) -> bool:
        return self.size == "gpu"


@dataclass
class Measured:
    """What a section gives back.

    Attributes:
        figures: by name, JSON-ready.
        aims: by name what is wanted, what was found and whether that meets it.
    """

    figures: dict[str, Any] = field(default_factory=dict)
    aims: dict[str, dict[str, Any]] = field(default_factory=dict)

    def aim(self, name: str, value: float, wanted: str, met: bool) -> None:
        self.aims[name] = {"value": value, "wanted": wanted, "met": bool(met)}


class Skipped(Exception):
    """A section cannot run here; the message says why."""


def run(work: str, size: str, folder: str, seconds: float, connection: Any) -> None:
    """Run a function in this process, which is its own, and send what came of it.

    The process ends with the one that started it, and what it started ends with it.
    """
    os.setpgid(0, 0)
    threading.Thread(target=_end_with_parent, args=(connection,), daemon=True).start()
    connection.send(attempt(work, Work(size, Path(folder), seconds)))


def attempt(work: str, given: Work) -> dict[str, Any]:
    """``state`` and what goes with it: figures, or why there are none."""
    try:
        module, name = work.split(":")
        found = getattr(import_module(f"benchmarks.on_gpu.{module}"), name)(given)
        from benchmarks.on_gpu.measure import peak_memory

        return {
            "state": "done",
            "figures": found.figures,
            "aims": found.aims,
            "peak_bytes": peak_memory(given),
        }
    except Skipped as error:
        return {"state": "skipped", "why": str(error)}
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("relabel", "benchmarks", "tests", ""):
            return {"state": "failed", "error": _last_lines()}
        return {"state": "skipped", "why": f"{package} is not installed"}
    except BaseException:
        return {"state": "failed", "error": _last_lines()}


def _last_lines() -> list[str]:
    return traceback.format_exc().strip().splitlines()[-TRACEBACK_LINES:]


def _end_with_parent(connection: Any) -> None:
    try:
        connection.recv()  # nothing ever comes but the end
    except (EOFError, OSError):
        os.killpg(0, 9)
