"""Time of MaskCut's eigenvectors and of three rounds, against SciPy's dense solver, in one run.

    OMP_NUM_THREADS=1 python benchmarks/maskcut.py --images ../shared/data/voc100/JPEGImages \\
        --backbone ../shared/weights/mobilenet_v2_imagenet --photos 100 100 30

Per photo and grid, one after the other and on one thread: the affinity and its second eigenvector
by relabel, by `scipy.linalg.eigh(D - A, D, subset_by_index=[1, 2])` in double precision, as the
published code does it, and by `scipy.sparse.linalg.eigsh`; for the first photos also three whole
rounds, by relabel and by plain code that follows the same rules with the dense solver. Fails if
less than 99 % of the partitions have an IoU of 0.99 with the dense ones, or if relabel is not the
stated times faster.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from relabel.doctor.hardware import describe_hardware
from relabel.evaluation.tables import markdown
from relabel.multilabel.regions.eigen import second_vectors
from relabel.multilabel.regions.graph import patch_graph
from relabel.multilabel.regions.maskcut import EPS, discover

Array = np.ndarray[Any, Any]
Answer = TypeVar("Answer")
# The minimum ratios: (solve, with affinity, three rounds), by side of the grid.
LEAST = {32: (8.0, 4.0, 3.0), 60: (30.0, 10.0, 12.0)}


def photos(folder: Path, backbone: Path, grid: int, count: int) -> Iterator[Tensor]:
    """The last map of a convolutional network, brought to the grid: [grid, grid, d]."""
    from transformers import AutoModel

    network = AutoModel.from_pretrained(backbone, dtype=torch.float32).eval()
    for file in sorted(folder.glob("*.jpg"))[:count]:
        side = 16 * grid
        pixels = Image.open(file).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
        batch = torch.from_numpy(np.array(pixels)).float().permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            last = network(batch, output_hidden_states=True).hidden_states[-1]
            last = torch.nn.functional.interpolate(last, (grid, grid), mode="bilinear")
        yield last[0].permute(1, 2, 0).contiguous()


def affinity(features: Tensor, tau: float) -> Array:
    """A [P, P] in double precision."""
    rows = torch.nn.functional.normalize(features.double(), dim=1).numpy()
    return np.where(rows @ rows.T > tau, 1.0, EPS)


def dense(a: Array) -> Array:
    """The second generalised eigenvector of (D - A, D)."""
    d = np.diag(a.sum(1))
    return scipy.linalg.eigh(d - a, d, subset_by_index=[1, 2])[1][:, 0]


def by_eigsh(a: Array) -> Array:
    """The same from the two largest of D^-1/2 A D^-1/2."""
    scale = a.sum(1) ** -0.5
    start = np.random.default_rng(0).standard_normal(len(a))
    values, vectors = scipy.sparse.linalg.eigsh(
        a * scale * scale[:, None], k=2, which="LA", v0=start
    )
    return scale * vectors[:, values.argmin()]


def dense_rounds(features: Tensor, tau: float, rounds: int) -> list[Array]:
    """MaskCut with the dense solver; found patches leave the graph, as in relabel."""
    h, w = features.shape[:2]
    flat = features.flatten(0, 1)
    left = np.arange(h * w)
    masks: list[Array] = []
    for number in range(rounds):
        v = np.zeros(h * w)
        v[left] = dense(affinity(flat[left], tau))
        seed = int(np.abs(v).argmax())
        v *= np.sign(v[seed])
        inside = np.isin(np.arange(h * w), left)
        foreground = inside & (v > v[left].mean())
        if foreground.reshape(h, w)[[0, 0, -1, -1], [0, -1, 0, -1]].sum() >= 3:
            foreground, seed = inside & ~foreground, int((-v).argmax())
        parts = np.empty((h, w), np.int32)
        ndimage.label(foreground.reshape(h, w), output=parts)
        mask = parts == parts.ravel()[seed]
        left = np.setdiff1d(left, np.flatnonzero(mask))
        if number == 0 or mask.mean() > 0.01:
            masks.append(mask)
    return masks


def iou(a: Array, b: Array) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


def with_affinity(flat: torch.Tensor, inside: torch.Tensor, tau: float) -> torch.Tensor:
    return second_vectors(patch_graph(flat[None], tau), inside, EPS)


def agrees(v: Array, expected: Array, a: Array) -> bool:
    """Whether the partitions are the same, the signs aligned."""
    if v @ (a.sum(1) * expected) < 0:
        v = -v
    return iou(v > v.mean(), expected > expected.mean()) >= 0.99


class Clock:
    """Seconds of each step, photo by photo: of the clock on the wall, and of the processor."""

    def __init__(self) -> None:
        self.wall: dict[str, list[float]] = {}
        self.busy: dict[str, list[float]] = {}

    def __call__(self, step: str, work: Callable[..., Answer], *arguments: Any) -> Answer:
        wall, busy = time.perf_counter(), time.process_time()
        answer = work(*arguments)
        self.busy.setdefault(step, []).append(time.process_time() - busy)
        self.wall.setdefault(step, []).append(time.perf_counter() - wall)
        return answer

    def ratio(self, slow: tuple[str, ...], fast: tuple[str, ...]) -> tuple[float, float]:
        """Medians over the photos of the paired ratios, (wall, processor)."""
        wall, busy = (
            statistics.median(
                sum(above) / sum(below)
                for above, below in zip(
                    zip(*(seconds[step] for step in slow), strict=True),
                    zip(*(seconds[step] for step in fast), strict=True),
                    strict=True,
                )
            )
            for seconds in (self.wall, self.busy)
        )
        return wall, busy


def measure(
    maps: Iterator[Tensor], tau: float, with_rounds: int
) -> tuple[Clock, list[bool], list[bool]]:
    """(times, whether each partition agrees, whether each photo's masks of three rounds do)."""
    clock = Clock()
    same: list[bool] = []
    same_masks: list[bool] = []
    for number, features in enumerate(maps):
        flat = features.flatten(0, 1)
        inside = torch.ones(1, len(flat), dtype=torch.bool)
        graph = patch_graph(flat[None], tau)
        if not number:
            second_vectors(graph, inside, EPS)  # what is imported or set up at the first call
        clock("solve", second_vectors, graph, inside, EPS)
        a = clock("dense affinity", affinity, flat, tau)
        expected = clock("dense solve", dense, a)
        clock("eigsh solve", by_eigsh, a)
        v = clock("with affinity", with_affinity, flat, inside, tau)
        same.append(agrees(v[0].numpy(), expected, a))
        if number < with_rounds:
            masks = clock("rounds", discover, features, tau, 3).numpy()
            peers = clock("dense rounds", dense_rounds, features, tau, 3)
            same_masks.append(
                len(masks) == len(peers)
                and all(iou(*pair) >= 0.99 for pair in zip(masks, peers, strict=True))
            )
        print(f"{features.shape[0]}², photo {number + 1}", file=sys.stderr, flush=True)
    return clock, same, same_masks


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--backbone", type=Path, required=True)
    parser.add_argument("--grids", type=int, nargs="+", default=[28, 32, 60])
    parser.add_argument("--photos", type=int, nargs="+", default=[100, 100, 100])
    parser.add_argument("--rounds-photos", type=int, default=10)
    parser.add_argument("--tau", type=float, default=0.3)
    options = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        parser.error("set OMP_NUM_THREADS=1: the libraries read it when they are loaded")
    torch.set_num_threads(1)
    header = ["ms per photo, median", *(f"{grid}²" for grid in options.grids)]
    steps = {
        "solve, dense SciPy": "dense solve",
        "solve, eigsh": "eigsh solve",
        "solve, relabel": "solve",
        "affinity, dense": "dense affinity",
        "affinity and solve, relabel": "with affinity",
        "three rounds, dense": "dense rounds",
        "three rounds, relabel": "rounds",
    }
    ratios = {
        "solve": (("dense solve",), ("solve",)),
        "solve, against eigsh": (("eigsh solve",), ("solve",)),
        "affinity and solve": (("dense affinity", "dense solve"), ("with affinity",)),
        "three rounds": (("dense rounds",), ("rounds",)),
    }
    rows = [[label] for label in steps]
    times = [[f"times faster: {label}"] for label in ratios]
    busy_times = [[f"in processor time: {label}"] for label in ratios]
    shares = [["first partitions as the dense ones"], ["photos with the same three rounds' masks"]]
    passed = True
    for grid, count in zip(options.grids, options.photos, strict=True):
        maps = photos(options.images, options.backbone, grid, count)
        clock, same, same_masks = measure(maps, options.tau, options.rounds_photos)
        for row, step in zip(rows, steps.values(), strict=True):
            row.append(f"{1e3 * statistics.median(clock.wall[step]):.1f}")
        wall = []
        for line, busy_line, pair in zip(times, busy_times, ratios.values(), strict=True):
            ratio, busy = clock.ratio(*pair)
            wall.append(ratio)
            line.append(f"{ratio:.1f}")
            busy_line.append(f"{busy:.1f}")
        for row, values in zip(shares, (same, same_masks), strict=True):
            row.append(f"{sum(values)} of {len(values)}")
        least = LEAST.get(grid, (0.0, 0.0, 0.0))
        fast = all(got >= want for got, want in zip((wall[0], *wall[2:]), least, strict=True))
        passed &= fast and sum(same) >= 0.99 * len(same)
    packages = ", ".join(f"{name} {version(name)}" for name in ("scipy", "numpy", "torch"))
    print(f"{describe_hardware()}, one thread, Python {platform.python_version()}, {packages}\n")
    print(markdown((header, [*rows, *times, *busy_times, *shares])))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
