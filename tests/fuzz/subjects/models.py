"""Folders of detectors, backbones and label maps; torch reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.fuzz.subjects.base import DATA, Subject


def _backbone(root: Path) -> None:
    from tests.builders.blocks import tiny_backbone

    tiny_backbone(root)


def _detector(root: Path) -> None:
    """A specialist as it is written, untrained."""
    import torch

    from relabel.detectors.faster_rcnn import FAMILY
    from tests.builders.detectors import SPACE, tiny_detector

    torch.manual_seed(0)
    root.mkdir(parents=True, exist_ok=True)
    trainable = FAMILY.trainable(SPACE, tiny_detector(root.parent / "backbone-of-detector"))
    trainable.save(root)


def _label_maps(root: Path) -> None:
    import torch

    from tests.builders.datasets import write_image

    for label in ("ant", "bee"):
        for i in range(2):
            write_image(root / f"images/{label}/{i}.jpg", 32, 24)
            (root / f"maps/{label}").mkdir(parents=True, exist_ok=True)
            value = torch.rand(2, 5, 15, 15)
            value[1] = value[1].mul(999).round()
            torch.save(value, root / f"maps/{label}/{i}.pt")


def _call(name: str) -> Callable[[Random], list[str]]:
    def draw(rng: Random) -> list[str]:
        return [f"call:{name}", DATA]

    return draw


MODELS: tuple[Subject, ...] = (
    Subject("backbone", _backbone, _call("backbone"), 4),
    Subject("detector", _detector, _call("detector"), 6),
    Subject("label maps", _label_maps, _call("label_maps"), 6),
)
