"""Reading functions that no short command reaches: what ``call:NAME`` stands for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from relabel.errors import Problems
from tests.fuzz.subjects.base import OUT


def training_set(path: str, format: str, split: str, skip: str) -> None:
    """What ``train-specialist``, ``align`` and ``cross-label`` read."""
    from relabel.align.inputs import read_training_set
    from relabel.catalogue.catalogue import Catalogue
    from relabel.settings import Runtime

    entry = Catalogue().resolve(path, format, split or None)
    runtime = Runtime(workers=1, quiet=True, skip_bad=bool(skip))
    read_training_set(entry, Path(OUT), runtime, Problems(bool(skip)))


def image_folder(path: str, labels: str, classes: str, skip: str) -> None:
    """Every image of a folder is decoded, those that cannot be are passed over."""
    from relabel.datasets.pixels.image_folder import load_image, read_image_set
    from relabel.errors import DataError

    images = read_image_set(path, labels or None, classes or None, problems=Problems(bool(skip)))
    for row in range(len(images)):
        with contextlib.suppress(DataError):
            assert load_image(images, row).ndim == 3


def backbone(path: str) -> None:
    from relabel.backbones.extractor import FeatureExtractor, resolve_backbone

    FeatureExtractor(resolve_backbone(str(Path(path).resolve())), str(Path(path).resolve()))


def detector(path: str) -> None:
    from relabel.detectors.load import load_detector

    load_detector(Path(path), device="cpu")


def label_maps(path: str) -> None:
    from relabel.multilabel.scores.label_maps import LabelMapFolder

    maps = LabelMapFolder(Path(path) / "maps")
    for name in ("ant/0", "ant/1", "bee/0", "bee/1"):
        maps.read(f"{name}.jpg")


CALLS: dict[str, Callable[..., None]] = {
    "training_set": training_set,
    "image_folder": image_folder,
    "backbone": backbone,
    "detector": detector,
    "label_maps": label_maps,
}
