"""Tiny trainings of every kind that several processes share, with the losses of each step.

As a program, under torchrun: the trainings that are named, one after the other.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from relabel.datasets.dataset import DetectionDataset
from relabel.training import loop
from relabel.workspace import ranks
from tests.builders.blocks import RUNTIME, TINY_LAT, make_world, tiny_backbone, train_on_blocks
from tests.builders.colours import quick, read, tiny_resnet, two_colour_set
from tests.builders.datasets import write_pixels
from tests.builders.detectors import FAMILIES, tiny_detector

NAMES = (*FAMILIES, "frozen", "lat", "classifier", "blended")
STEPS = 4
BATCH = 4
# Seconds that a step takes, so that a test can kill a process between two of them.
SLOW = "RELABEL_TEST_SECONDS_PER_STEP"


def prepare(folder: Path) -> None:
    """What all trainings read: photos, a backbone, classified images, a classifier."""
    world = make_world(folder / "world", images=6)
    rng = np.random.default_rng(0)
    for row in range(0, len(world.target), 2):  # images of two sizes
        file = world.target.image_path(row)
        write_pixels(file, rng.integers(90, 130, (72, 96, 3)).astype(np.uint8))
    two_colour_set(folder / "colours", 12)
    tiny_backbone(folder / "backbone")
    tiny_resnet(folder / "resnet")


def run(name: str, folder: Path, out: Path) -> list[dict[str, float]]:
    """Train; the losses of each step that was done now."""
    with _losses() as curve:
        _train(name, folder, out / name)
    return curve


def _train(name: str, folder: Path, out: Path) -> None:
    if name == "lat":
        settings = replace(TINY_LAT, backbone=str(folder / "backbone"), folds=1, steps=STEPS)
        train_on_blocks(_world(folder), settings, out)
    elif name in ("classifier", "blended"):
        from relabel.classifiers.train import train_classifier

        images = read(folder / "colours", folder / "colours.tsv")
        blending = {"mixup": 0.8, "cutmix": 1.0} if name == "blended" else {}
        settings = quick(folder / "resnet", steps=STEPS, batch_size=BATCH, weights="random")
        settings = replace(settings, drop_path=0.0, **blending)
        train_classifier(images, out, settings, RUNTIME)
    else:
        from relabel.detectors.specialist import train_specialist

        more = {"frozen_stride": 32} if name == "frozen" else {}
        family = "faster-rcnn" if name == "frozen" else name
        settings = tiny_detector(folder / "again", family, steps=STEPS, batch_size=BATCH, **more)
        settings = replace(settings, backbone=str(folder / "backbone"), checkpoint_every=0.0)
        import os as _o
        if _o.environ.get("LR"): settings = replace(settings, lr=float(_o.environ["LR"]))
        train_specialist(_world(folder).target, out, settings, RUNTIME, validate=None)


def _world(folder: Path) -> Any:
    return make_world(folder / "world", images=6)


@contextmanager
def _losses() -> Iterator[list[dict[str, float]]]:
    curve: list[dict[str, float]] = []
    advance = loop._Progress.advance

    def noted(self: Any, parts: dict[str, float]) -> None:
        curve.append(dict(parts))
        advance(self, parts)

    loop._Progress.advance = noted
    try:
        yield curve
    finally:
        loop._Progress.advance = advance


def main(folder: Path, out: Path, names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    if ranks.enter() > 0:
        error = ranks.serve()
        if error is not None:
            raise error
        return
    for name in names:
        curve = run(name, folder, out)
        (out / f"{name}.json").write_text(json.dumps(curve))
    ranks.release()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
