"""What a job will take: measured on a sample of it, and said in words."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from relabel.workspace.atomic import url_of
from relabel.workspace.cores import usable_cores
from relabel.workspace.engine import Workers

MINUTE = 60.0
_FIRST, _MOST = 4, 2048  # images of the first sample for each worker, and of any
_SAMPLES = 3


@dataclass(frozen=True)
class Forecast:
    """What is left of a job.

    Attributes:
        images: that are still to be gone through.
        shards: still to be made.
        seconds: expected, all workers together; None where it could not be measured.
        bytes: to be written; None where it could not be measured.
        free_bytes: where they are to be written; None in a store.
        workers: how many share the work.
        where: what they are, such as ``2 cores`` or ``8 workers on Ray, each with 1 GPU``.
        measured_images: images that the sample had.
        measured_seconds: what it took.
    """

    images: int
    shards: int
    seconds: float | None
    bytes: int | None
    free_bytes: int | None
    workers: int
    where: str
    measured_images: int = 0
    measured_seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The forecast in words."""
        if not self.images and not self.seconds:
            return ["nothing is left to do"]
        if not self.images:
            return [f"takes about {spoken(self.seconds or 0)}, by {self.where}"]
        images, shards = _counted(self.images, "image"), _counted(self.shards, "shard")
        said = [f"{images} in {shards}, by {self.where}"]
        if self.seconds is not None:
            takes = f"takes about {spoken(self.seconds)}"
            if self.measured_images:
                sample = _counted(self.measured_images, "image")
                takes += f", from {sample} that took {self.measured_seconds:.0f} s"
            said.append(takes)
        if self.bytes is not None:
            free = "" if self.free_bytes is None else f"; {sized(self.free_bytes)} are free there"
            said.append(f"writes about {sized(self.bytes)}{free}")
        return said


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def measured(
    make: Callable[[np.ndarray, Path], None],
    *,
    total: int,
    images: int,
    shards: int,
    out: Path,
    workers: Workers,
    minute: float = MINUTE,
) -> Forecast:
    """Do a small part of the job for a minute at most, and a first few images however long.

    A small sample and larger ones tell what starting costs from what an image costs.

    Args:
        make: does the work on these rows into a folder that is then removed, by all workers.
        total: images to draw samples from, evenly spread.
        images: those that the job has still to do.
        shards: and shards.
        out: where they will be written.
        minute: seconds to spend.
    """
    if not images:
        return Forecast(0, shards, 0.0, 0, free_bytes(out), workers.count, workers.where)
    # Workers on other machines see what this one sees where the output is to be.
    beside = _existing(out) if workers.shared and url_of(out) is None else None
    sizes, seconds, stored = [], [], 0
    size = max(1, min(total, _FIRST * workers.count))
    while True:
        rows = np.unique(np.linspace(0, total - 1, size).astype(np.int64))
        with tempfile.TemporaryDirectory(prefix=".relabel-measure-", dir=beside) as folder:
            begun = time.perf_counter()
            make(rows, Path(folder))
            seconds.append(time.perf_counter() - begun)
            stored = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
        sizes.append(len(rows))
        # Without a smaller sample beside it, a sample's start counts as its images'.
        each, start = seconds[-1] / size, 0.0
        if len(sizes) > 1:
            slope = (seconds[-1] - seconds[0]) / (sizes[-1] - sizes[0])
            each = slope if slope > 0 else each
            start = max(0.0, seconds[-1] - each * size)
        left = minute - sum(seconds)
        if len(sizes) == _SAMPLES or left < minute / 2:
            break
        more = int((0.7 * left - start) / max(each, 1e-6))
        more = min(total, _MOST * workers.count, more if start else max(4 * size, more))
        if more < 2 * size:
            break
        size = more
    return Forecast(
        images,
        shards,
        start + each * images,
        math.ceil(stored / sizes[-1] * images),
        free_bytes(out),
        workers.count,
        workers.where,
        sum(sizes),
        sum(seconds),
    )


def free_bytes(folder: Path) -> int | None:
    """Bytes that are free where a folder is or will be; None in a store."""
    if url_of(folder) is not None:
        return None
    return shutil.disk_usage(_existing(folder)).free


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def sized(count: float) -> str:
    """``340 MB``, ``1.2 GB``."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1000:
            return (
                f"{count:.0f} {unit}" if count >= 10 or unit == "bytes" else f"{count:.1f} {unit}"
            )
        count /= 1000
    return f"{count:.1f} TB"


def spoken(seconds: float) -> str:
    """``40 seconds``, ``12 minutes``, ``3.5 hours``."""
    if seconds < 90:
        count, unit = max(1, round(seconds)), "second"
    elif seconds < 90 * 60:
        count, unit = round(seconds / 60), "minute"
    else:
        hours = seconds / 3600
        return f"{hours:.1f} hours" if hours < 10 else f"{hours:.0f} hours"
    return f"{count} {unit}{'s' * (count != 1)}"


def announced(parts: Mapping[str, float], device: str = "cpu") -> str:
    """A line such as ``about 12 minutes on 2 cores: specialists 7, labels 1, transfer 4``.

    Args:
        parts: seconds by what they are spent on; parts that would read 0 are left out.
        device: torch device type that does the work.
    """
    total = sum(parts.values())
    cores = usable_cores()
    where = f"{cores} core{'s' * (cores != 1)}" if device == "cpu" else device
    divisor, digits = (1, 0) if total < 90 else (60, 1) if total < 20 * 60 else (60, 0)
    if total >= 90 * 60:
        divisor, digits = 3600, 1
    numbers = {name: f"{seconds / divisor:.{digits}f}" for name, seconds in parts.items()}
    shown = [f"{name} {number}" for name, number in numbers.items() if float(number) > 0]
    text = f"about {spoken(total)} on {where}"
    return f"{text}: {', '.join(shown)}" if len(shown) > 1 else text
