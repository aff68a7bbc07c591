"""Settings of classifiers that train in seconds, and their images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from relabel.classifiers.data import LabelledImages
from relabel.classifiers.inputs import read_images
from relabel.classifiers.settings import PRESETS, ClassifierSettings
from relabel.errors import Problems


def quick(model: Path | str, **values: Any) -> ClassifierSettings:
    defaults: dict[str, Any] = {
        "model": str(model),
        "steps": 60,
        "batch_size": 8,
        "lr": 2e-2,
        "backbone_lr_scale": 1.0,
        "batch_norm": "train",
        "image_size": 32,
        "test_crop": 1.0,
        "crop_scale": (0.6, 1.0),
        "precision": "fp32",
    }
    return ClassifierSettings(**{"preset": "light", **PRESETS["light"], **defaults, **values})


def read(root: Path, labels: Path | None) -> LabelledImages:
    return read_images(root, labels, None, Problems())
