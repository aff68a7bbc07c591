"""Detectors small enough to be trained in a test, how they resume, and an untrained RT-DETRv2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from relabel.datasets.labelspace import LabelSpace
from relabel.detectors.base import Detections
from relabel.detectors.family import Trainable
from relabel.detectors.rt_detr.build import FAMILY
from relabel.detectors.settings import SpecialistSettings
from relabel.settings import Runtime
from tests.builders.blocks import tiny_backbone

RUNTIME = Runtime(device="cpu", workers=0, quiet=True)
FAMILIES = ("faster-rcnn", "rt-detr", "certainty")
SPACE = LabelSpace.from_names("three", ["a", "b", "c"])
CPU = torch.device("cpu")


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


def new_rt_detr(settings: SpecialistSettings, seed: int = 0) -> Trainable:
    torch.manual_seed(seed)
    return FAMILY.trainable(SPACE, settings)


def target(boxes: list[list[float]], labels: list[int], **more: Any) -> dict[str, torch.Tensor]:
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "ignored": torch.zeros(0, 4),
        **more,
    }


def pixels_of(batch: int = 2, height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def losses(trainable: Trainable, targets: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
    torch.manual_seed(7)
    trainable.model.train()
    return trainable.model(pixels_of(len(targets)), [(64, 96)] * len(targets), targets)


def learn(parts: dict[str, Any]) -> None:
    torch.stack(list(parts.values())).sum().backward()


def same(a: list[Detections], b: list[Detections]) -> bool:
    return all(
        np.array_equal(x.boxes, y.boxes) and np.array_equal(x.scores, y.scores)
        for x, y in zip(a, b, strict=True)
    )
