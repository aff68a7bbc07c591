"""Detectors by name: trained ones from their folder, new ones from their settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from relabel.datasets.labelspace import LabelSpace
from relabel.detectors.base import Detector
from relabel.detectors.settings import SpecialistSettings
from relabel.errors import DataError
from relabel.files.json_text import read_object

if TYPE_CHECKING:
    from relabel.detectors.family import Trainable


def load_detector(checkpoint: Path, device: str = "auto") -> Detector:
    """Load a trained detector from its checkpoint folder.

    The folder's ``config.json`` names the detector type.

    Raises:
        DataError: not a checkpoint folder, or damaged.
    """
    config = Path(checkpoint) / "config.json"
    if not config.is_file():
        raise DataError(
            "no config.json: not a detector checkpoint",
            file=checkpoint,
            remedy="Train one with `relabel train-specialist`.",
        )
    kind = read_object(config, remedy="Train it again with `relabel train-specialist`.").get(
        "detector"
    )
    if kind == "faster_rcnn":
        from relabel.detectors.faster_rcnn import FAMILY

        return FAMILY.load(Path(checkpoint), device)
    if kind == "certainty":
        from relabel.detectors.certainty.detector import FAMILY

        return FAMILY.load(Path(checkpoint), device)
    if kind == "rt_detr":
        from relabel.detectors.rt_detr.build import FAMILY

        return FAMILY.load(Path(checkpoint), device)
    if kind == "sam3":
        from relabel.detectors.sam3.detector import Sam3Detector

        return Sam3Detector.from_folder(Path(checkpoint), device=device)
    raise DataError(
        f"unknown detector type {kind!r}",
        file=config,
        remedy="Known: certainty, faster_rcnn, rt_detr, sam3.",
    )


def build_trainable(space: LabelSpace, settings: SpecialistSettings) -> Trainable:
    """A new model of the family that ``settings.detector`` names, from pretrained weights.

    Raises:
        ConfigError, DataError: the backbone or the pretrained model cannot be loaded.
    """
    if settings.detector == "rt-detr":
        from relabel.detectors.rt_detr.build import FAMILY
    elif settings.detector == "certainty":
        from relabel.detectors.certainty.detector import FAMILY
    else:
        from relabel.detectors.faster_rcnn import FAMILY
    return FAMILY.trainable(space, settings)
