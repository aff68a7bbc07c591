"""Detectors small enough to be trained in a test, and how they resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relabel.detectors.settings import SpecialistSettings
from relabel.settings import Runtime
from tests.lat.world import tiny_backbone

RUNTIME = Runtime(device="cpu", workers=0, quiet=True)
FAMILIES = ("faster-rcnn", "rt-detr")


def tiny_detector(folder: Path, family: str = "faster-rcnn", **more: Any) -> SpecialistSettings:
    """Settings for images of 96 pixels; the backbone is written to ``folder``."""
    return SpecialistSettings(
        **{
            "detector": family,
            "backbone": str(tiny_backbone(folder)),
            "frozen_stride": 0,
            "backbone_lr_scale": 1.0,
            "image_size": 96,
            "fpn_strides": (4, 8, 16),
            "fpn_channels": 32,
            "head_channels": 64,
            "rois_per_image": 32,
            "rpn_proposals": 100,
            "rtdetr_queries": 20,
            "rtdetr_denoising": 10,
            "rtdetr_layers": 2,
            "rtdetr_channels": 32,
            "rtdetr_ffn": 64,
            "rtdetr_heads": 4,
            "lr": 2e-3,
            "precision": "fp32",
            "color_jitter": 0.1,
            **more,
        }
    )


def assert_resumes(
    train: Callable[[str], Path], batches: type, dies_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that is cut off and run again ends with the bytes of one that was not.

    Args:
        train: folder name to the checkpoint folder of the training that is done there.
        batches: the class whose instances give a step's batch.
        dies_at: the step whose batch never comes.
    """
    whole = train("whole")
    real: Callable[[Any, int], Any] = batches.__call__

    def dies(self: Any, step: int) -> Any:
        if step == dies_at:
            raise KeyboardInterrupt
        return real(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(batches, "__call__", dies)
        with pytest.raises(KeyboardInterrupt):
            train("cut")
    assert not (whole.with_name("cut") / "config.json").exists()
    cut = train("cut")
    for name in ("model.safetensors", "config.json", "training.json"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    assert not (cut / "checkpoint").exists()
