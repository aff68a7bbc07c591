"""Does completing many images by many categories take flat memory?

    python benchmarks/completion_memory.py --images 10000,100000 --classes 1000 --out DIR

Made-up labels (2 % known) on made-up pooled features, whose categories are linear in them: a short
training of `bce`, then the whole result but for the pictures. Every size runs in a process of its
own; its peak memory is what the operating system says. Beside the labels themselves, some bytes per
known one, nothing may grow with the number of images.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from relabel.datasets.partial.labels import PartialLabels, row_blocks, sparse_known, stacked
from relabel.evaluation.tables import markdown

if TYPE_CHECKING:
    from relabel.partial.features import Features

CHANNELS, KNOWN = 64, 0.02


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", default="10000,100000")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--one", action="store_true", help="this size, in this process")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(int(args.images), args.classes, args.steps, args.out)))
        return 0
    rows = []
    for images in args.images.split(","):
        command = [sys.executable, __file__, "--one", "--images", images]
        command += ["--classes", str(args.classes), "--steps", str(args.steps)]
        done = subprocess.run(
            [*command, "--out", str(args.out)], stdout=subprocess.PIPE, check=True
        )
        found = json.loads(done.stdout)
        rows.append(
            [
                f"{int(images):,}",
                f"{found['before']:.2f}",
                f"{found['peak']:.2f}",
                f"{found['train']:.0f}",
                f"{found['complete']:.0f}",
                f"{found['bytes'] / 1e9:.2f}",
            ]
        )
    header = ["images", "labels read, GB", "peak, GB", "training, s", "result, s", "files, GB"]
    print(markdown((header, rows)))
    return 0


def measure(images: int, classes: int, steps: int, out: Path) -> dict[str, float]:
    """Seconds, and peak memory in GB before the training and at the end."""
    from relabel.partial.predict import predict_batches
    from relabel.partial.result.parts import completed_parts
    from relabel.partial.result.report import write_result_report
    from relabel.partial.result.summary import CompletionSummary
    from relabel.partial.result.write import write_labels
    from relabel.partial.settings import CompletionSettings
    from relabel.partial.train import train
    from relabel.settings import Runtime

    folder = out / f"{images}x{classes}"
    folder.mkdir(parents=True, exist_ok=True)
    labels, inputs = made_up(images, classes, folder)
    settings = CompletionSettings(method="bce", steps=steps, held_back=0.0)
    runtime = Runtime(quiet=True, device="cpu")
    before, started = peak(), time.monotonic()
    network = train(labels, inputs, folder / "network", settings, runtime)
    trained = time.monotonic()
    summary = CompletionSummary(classes, pictures=0)
    batches = predict_batches(network, inputs, runtime, labels=labels)
    files = write_labels(
        folder, labels.classes, completed_parts(labels, batches, 0.5), also=summary.add
    )
    write_result_report(folder / "report.html", labels, summary, title="Memory", threshold=0.5)
    ended = time.monotonic()
    return {
        "before": before,
        "peak": peak(),
        "train": trained - started,
        "complete": ended - trained,
        "bytes": sum((folder / name).stat().st_size for name in files.values()),
    }


def made_up(images: int, classes: int, folder: Path) -> tuple[PartialLabels, Features]:
    """Labels of which a share is known, and the features that they are linear in."""
    from relabel.partial.features import Features

    rng = np.random.default_rng(0)
    truth = rng.normal(size=(CHANNELS, classes))
    shape = (images, CHANNELS, 1, 1)
    maps = np.memmap(folder / "pooled.f16", np.float16, "w+", shape=shape)
    parts = []
    for rows in row_blocks(images, classes):
        values = rng.normal(size=(rows.stop - rows.start, CHANNELS))
        maps[rows] = values[:, :, None, None]
        logits = values @ truth
        present = np.where(logits > 2 * np.sqrt(CHANNELS), 1, -1)
        present[rng.random(logits.shape) >= KNOWN] = 0
        parts.append(sparse_known(present.astype(np.int8)))
    names = [f"{i // 1000:03d}/{i:06d}.jpg" for i in range(images)]
    labels = PartialLabels(
        "made up", None, names, tuple(f"class {c}" for c in range(classes)), stacked(parts, classes)
    )
    maps.flush()
    kept = np.memmap(folder / "pooled.f16", np.float16, "r", shape=shape)
    return labels, Features(kept, np.arange(images), np.ones(images, bool), "made up")


def peak() -> float:
    """Peak resident memory of this process in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    sys.exit(main())
