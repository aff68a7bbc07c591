"""What do several workers bring cross-labelling, and how much of its time is not the model's?

    python benchmarks/engine.py --out benchmarks/engine.md [--images 2000] [--repeats 3]
        [--before OTHER_PYTHON]

Labels drawn images of the demo world with a specialist trained on a few: in this process, by one
worker on Ray and by two, each worker with one core; in turn, several times, each run a process of
its own. With `--before`, the interpreter of an environment with another version of relabel, that
one labels them, too. Rates are of the shards after the first of each worker, so without starting
Python, torch and Ray, which is told beside them. What is not the model's is measured inside of one
more run in this process: what the network's forward pass leaves of the time between start and end.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convert_coco import elsewhere

from relabel.evaluation.tables import markdown

SHARD_IMAGES = 50


def make_world(folder: Path, images: int) -> None:
    """Demo world with a large `waymo`, and a specialist of a few target images."""
    from relabel.demo.run import prepare_demo

    prepare_demo(folder, images=images, target_images=24, val_images=2, effort=0.02)


def train(folder: Path) -> None:
    command = ["train-specialist", "cityscapes", "--out", "specialist", "--steps", "30"]
    subprocess.run(
        [sys.executable, "-m", "relabel", *command, "--device", "cpu", "--quiet"],
        cwd=folder, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def label(python: str, folder: Path, options: Sequence[str], threads: int) -> dict[str, float]:
    """Seconds of the command, and images a second once the workers are there."""
    out = folder / "labels"
    shutil.rmtree(out, ignore_errors=True)
    command = [python, "-m", "relabel", "cross-label", "specialist", "waymo", "--out", "labels"]
    shards = ["--set", f"crosslabel.shard_images={SHARD_IMAGES}"]
    begun = time.time()
    subprocess.run(
        [*command, *shards, *options, "--device", "cpu", "--quiet"],
        cwd=folder, check=True, stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )  # fmt: skip
    seconds = time.time() - begun
    written = sorted(path.stat().st_mtime for path in out.glob("shard-*.parquet"))
    workers = 2 if "runtime.ray_actors=2" in options else 1
    steady = (len(written) - workers) * SHARD_IMAGES / (written[-1] - written[workers - 1])
    return {"seconds": seconds, "rate": steady, "start": written[0] - begun}


def shares(folder: Path, threads: int) -> dict[str, float]:
    """Seconds of labelling all, and of it the forward pass."""
    import torch

    from relabel.align.inputs import read_training_set
    from relabel.catalogue.catalogue import load_catalogue
    from relabel.crosslabel.label import cross_label
    from relabel.crosslabel.settings import CrossLabelSettings
    from relabel.detectors.load import load_detector
    from relabel.errors import Problems
    from relabel.settings import Runtime

    os.chdir(folder)
    torch.set_num_threads(threads)
    runtime = Runtime(device="cpu", quiet=True)
    entry = load_catalogue().resolve("waymo", None, None)
    dataset = read_training_set(entry, folder, runtime, Problems())
    detector: Any = load_detector(folder / "specialist", "cpu")
    forward, spent = detector.model.forward, [0.0]

    def timed(*args: Any, **options: Any) -> Any:
        begun = time.perf_counter()
        result = forward(*args, **options)
        spent[0] += time.perf_counter() - begun
        return result

    detector.model.forward = timed
    out = folder / "measured"
    shutil.rmtree(out, ignore_errors=True)
    settings = CrossLabelSettings(shard_images=SHARD_IMAGES)
    begun = time.perf_counter()
    cross_label(folder / "specialist", dataset, out, settings, runtime, detector=detector)
    return {"all": time.perf_counter() - begun, "forward": spent[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--before", help="python of an environment with another version")
    parser.add_argument("--folder", type=Path, help="keep the world here, or take it from here")
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary)).absolute()
        elsewhere(make_world, folder, args.images)
        if not (folder / "specialist").is_dir():
            train(folder)
        text = measured(args, folder)
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


def measured(args: argparse.Namespace, folder: Path) -> str:
    cores = len(os.sched_getaffinity(0))
    ray = ["--engine", "ray", "--set", "runtime.ray_cpus=1", "--set"]
    arms: dict[str, tuple[str, list[str], int]] = {
        "this process, one thread": (sys.executable, ["--workers", "0"], 1),
        "one worker on Ray": (sys.executable, [*ray, "runtime.ray_actors=1"], 1),
        "two workers on Ray": (sys.executable, [*ray, "runtime.ray_actors=2"], 1),
        f"this process, {cores} threads": (sys.executable, [], cores),
    }
    if args.before:
        arms[f"the version before, {cores} threads"] = (args.before, [], cores)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    for repeat in range(args.repeats):
        for name, (python, options, threads) in list(arms.items())[:: -1 if repeat % 2 else 1]:
            found[name].append(label(python, folder, options, threads))
            print(name, found[name][-1], file=sys.stderr)
    base = "one worker on Ray"

    def middle(name: str, what: str) -> float:
        return statistics.median(run[what] for run in found[name])

    rows = []
    for name in arms:
        rates = [run["rate"] for run in found[name]]
        rows.append(
            [
                name,
                f"{middle(name, 'rate'):.1f} ({min(rates):.1f} to {max(rates):.1f})",
                f"{middle(name, 'rate') / middle(base, 'rate'):.2f}",
                f"{middle(name, 'seconds'):.0f}",
                f"{middle(base, 'seconds') / middle(name, 'seconds'):.2f}",
                f"{middle(name, 'start'):.1f}",
            ]
        )
    one, more = (
        statistics.median(1 - run["forward"] / run["all"] for run in runs)
        for runs in (
            [elsewhere(shares, folder, threads) for _ in range(args.repeats)]
            for threads in (1, cores)
        )
    )
    command = " ".join(["python benchmarks/engine.py", *map(_shown, sys.argv[1:])])
    header = ["", "images/s", "ratio", "whole command (s)", "ratio", "until the first shard (s)"]
    return "\n".join(
        [
            "# Cross-labelling by several workers",
            "",
            f"`{command}` on {cores} cores: {args.images} images of the demo world, medians of "
            f"{args.repeats} runs in turn (in brackets the least and the greatest). Ratios tell "
            "how many times as fast as one worker on Ray.",
            "",
            markdown((header, rows)),
            f"In this process {100 * one:.1f} % of the time is not the network's forward pass with "
            f"one thread, {100 * more:.1f} % with {cores}: resizing images and waiting for them, "
            "NMS, writing.",
            "",
        ]
    )


def _shown(argument: str) -> str:
    """Paths of this machine say nothing."""
    return "..." if argument.startswith("/") else argument


if __name__ == "__main__":
    main()
