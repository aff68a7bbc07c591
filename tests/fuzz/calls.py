"""Reading functions that no short command reaches: what ``call:NAME`` stands for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from relabel.errors import Problems


def image_folder(path: str) -> None:
    """Every image of a folder is decoded, those that cannot be are skipped."""
    from relabel.datasets.pixels.image_folder import load_image, read_image_set
    from relabel.errors import DataError

    images = read_image_set(path, problems=Problems(skip_bad=True))
    for row in range(len(images)):
        try:
            assert load_image(images, row).ndim == 3
        except DataError:
            pass


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


CALLS: dict[str, Callable[[str], None]] = {
    "image_folder": image_folder,
    "backbone": backbone,
    "detector": detector,
    "label_maps": label_maps,
}
