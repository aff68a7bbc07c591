"""Tiny trainings of every kind that several processes share, with the losses of each step.

As a program, for torchrun, where other ranks than the first fail as soon as they write:

    python -m tests.builders.shared_trainings curves FOLDER OUT NAME...
    python -m tests.builders.shared_trainings dies ARGUMENTS-OF-RELABEL...
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.workspace import ranks
from tests.builders.blocks import RUNTIME, TINY_LAT, World, make_world, train_on_blocks
from tests.builders.colours import quick, read, tiny_resnet, two_colour_set
from tests.builders.datasets import write_pixels
from tests.builders.detectors import FAMILIES, tiny_detector

NAMES = (*FAMILIES, "frozen", "lat", "classifier", "blended")
STEPS, BATCH = 3, 4
DIES_AT = 3
ROOT = Path(__file__).resolve().parents[2]


def under_torchrun(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """This module as a program in two processes."""
    launch = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    return subprocess.run(
        [sys.executable, "-m", *launch, "-m", __name__, *map(str, args)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def prepare(folder: Path) -> None:
    """What the trainings read, beside the world of blocks."""
    two_colour_set(folder / "colours", 12)
    tiny_resnet(folder / "resnet")


def train(name: str, folder: Path, out: Path) -> list[dict[str, float]]:
    """Train on what is in ``folder``; the losses of each step."""
    out.mkdir(parents=True, exist_ok=True)
    with _losses() as curve:
        if name == "lat":
            settings = replace(TINY_LAT, backbone=_backbone(folder), steps=STEPS, folds=1)
            train_on_blocks(make_world(folder / "world", images=6), settings, out / name)
        elif name in ("classifier", "blended"):
            from relabel.classifiers.train import train_classifier

            more = {"mixup": 0.8, "cutmix": 1.0} if name == "blended" else {"ema": 0.5}
            settings = quick(folder / "resnet", steps=STEPS, batch_size=BATCH, **more)
            images = read(folder / "colours", folder / "colours.tsv")
            train_classifier(images, out / name, settings, RUNTIME)
        else:
            from relabel.detectors.specialist import train_specialist

            family, more = (name, {}) if name in FAMILIES else ("faster-rcnn", {})
            if name == "frozen":
                more = {"frozen_stride": 32}
            settings = tiny_detector(folder / "backbone", family, steps=STEPS, batch_size=BATCH)
            # A higher rate lets an RT-DETR match other queries after a change in the last digit.
            settings = replace(settings, lr=2e-4, ema=0.5, checkpoint_every=0.0, **more)
            train_specialist(_two_sizes(folder), out / name, settings, RUNTIME)
    return curve


def _backbone(folder: Path) -> str:
    return tiny_detector(folder / "backbone").backbone


def _two_sizes(folder: Path) -> DetectionDataset:
    """The target of the world; every other image is cut, so that padding shows."""
    world: World = make_world(folder / "sizes", images=6)
    dataset = world.target
    height = np.where(np.arange(6) % 2, 96, 64).astype(dataset.images.height.dtype)
    rng = np.random.default_rng(1)
    for row in range(0, 6, 2):
        pixels = rng.integers(90, 130, (64, 96, 3)).astype(np.uint8)
        write_pixels(dataset.image_path(row), pixels)
    boxes = dataset.boxes
    inside = boxes.xyxy[:, 3] <= height[boxes.image]
    cut = replace(dataset, images=replace(dataset.images, height=height))
    return cut.with_boxes(boxes.take(np.flatnonzero(inside)))


@contextmanager
def _losses() -> Iterator[list[dict[str, float]]]:
    from relabel.training.loop import _Progress

    curve: list[dict[str, float]] = []
    advance = _Progress.advance

    def noted(self: Any, parts: dict[str, float]) -> None:
        curve.append(dict(parts))
        advance(self, parts)

    _Progress.advance = noted
    try:
        yield curve
    finally:
        _Progress.advance = advance


def _curves(folder: Path, out: Path, names: Sequence[str]) -> None:
    if ranks.enter() > 0:
        _forbid_writing(out)
        error = ranks.serve()
        if error is not None:
            raise error
        return
    for name in names:
        curve = train(name, folder, out)
        (out / f"{name}.json").write_text(json.dumps(curve))
    ranks.release()


def _forbid_writing(folder: Path) -> None:
    from accelerate import Accelerator

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("another rank than the first writes")

    def look(event: str, args: tuple[Any, ...]) -> None:
        changes = event in ("os.rename", "os.remove", "shutil.rmtree")
        writes = (
            event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if (changes or writes) and str(args[0]).startswith(str(folder)):
            refused()

    Accelerator.save_state = refused
    sys.addaudithook(look)


def _dies(arguments: Sequence[str]) -> None:
    """relabel; the second rank gets a `kill -9` before a step."""
    from relabel.cli import main
    from relabel.detectors.specialist import TrainingBatches

    real = TrainingBatches.__call__

    def batch(self: Any, step: int) -> Any:
        if step == DIES_AT and ranks.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, step)

    TrainingBatches.__call__ = batch
    main(arguments)


if __name__ == "__main__":
    if sys.argv[1] == "curves":
        _curves(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    else:
        _dies(sys.argv[2:])
