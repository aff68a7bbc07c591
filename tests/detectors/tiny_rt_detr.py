"""What the tests of RT-DETRv2 share: targets, pixels and losses of an untrained model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from relabel.datasets.labelspace import LabelSpace
from relabel.detectors.base import Detections
from relabel.detectors.family import Trainable
from relabel.detectors.rt_detr.build import FAMILY
from relabel.detectors.settings import SpecialistSettings

SPACE = LabelSpace.from_names("three", ["a", "b", "c"])
CPU = torch.device("cpu")


def new_trainable(settings: SpecialistSettings, seed: int = 0) -> Trainable:
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
