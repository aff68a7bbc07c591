"""Training of a specialist: one dataset, its own label space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from relabel.datasets.alternatives import possible_classes
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.pixels.location import load_rgb
from relabel.detectors.base import Detector
from relabel.detectors.settings import SpecialistSettings
from relabel.detectors.training import Batch, new_trainable, train_detector
from relabel.errors import DataError
from relabel.settings import Runtime
from relabel.training.loop import total_steps
from relabel.training.order import rows_of_step
from relabel.training.pixels import pad_batch, resized_pixels
from relabel.workspace.atomic import atomic_write_json


def train_specialist(
    train: DetectionDataset,
    out: Path,
    settings: SpecialistSettings,
    runtime: Runtime,
    *,
    validate: Callable[[Detector], dict[str, float]] | None = None,
) -> Path:
    """Train a detector on a dataset, resuming from the checkpoint in ``out`` if it has one.

    Args:
        train: the training images; images without objects count as background.
        out: receives ``model.safetensors``, ``config.json``, ``training.json``, ``metrics.json``.
        validate: named results of a detector, asked for at ``eval_every`` and at the end; see
            `relabel.evaluation.detector.validator`.

    Returns:
        The checkpoint folder, for `load_detector`.

    Raises:
        DataError: no images or no boxes to learn from, or an image that cannot be read.
    """
    if len(train) == 0 or not bool(np.any(~train.boxes.ignore)):
        raise DataError(
            f"dataset {train.name!r} has {len(train)} images and no boxes to learn from",
            file=train.root,
            remedy="Check the split and the annotation file in relabel.toml.",
        )
    settings = settings.resolved()
    out.mkdir(parents=True, exist_ok=True)
    trainable = new_trainable(train.space, settings)

    result = train_detector(
        trainable,
        TrainingBatches(train, settings, trainable.model.divisor),
        total_steps(settings, len(train)),
        out,
        settings,
        runtime,
        description=f"Training the {train.name} specialist",
        evaluate=None if validate is None else lambda detector, _step: validate(detector),
    )
    atomic_write_json(out / "metrics.json", {"validation": result.history})
    return out


class TrainingBatches:
    """Step number to a batch: (pixels, sizes, targets). Depends on nothing but the step.

    Images pass in a fresh order every epoch; flips, scales and colours are drawn per step.
    """

    def __init__(self, dataset: DetectionDataset, settings: SpecialistSettings, divisor: int):
        self.dataset = dataset
        self.settings = settings
        self.divisor = divisor

    def __call__(self, step: int) -> Batch:
        s = self.settings
        rng = np.random.default_rng([s.seed, 1, step])
        rows = rows_of_step(len(self.dataset), step, s.batch_size, s.seed)
        short = s.image_size * draw_scale(s, rng)
        return batch_of([self.image(int(row), short, rng) for row in rows], self.divisor)

    def image(
        self, row: int, short: float, rng: np.random.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One augmented image: pixels [3, h, w] in [0, 1] and its target."""
        s = self.settings
        pixels = load_rgb(self.dataset, row)
        height, width = pixels.shape[:2]
        x = resized_pixels(pixels, short, s.max_image_size)
        size = x.shape[1:]
        x = jitter_color(x, s.color_jitter, rng)
        keep = self.dataset.rows(row)
        ignored = self.dataset.boxes.ignore[keep]
        factors = np.array([size[1] / width, size[0] / height] * 2)
        boxes = self.dataset.boxes.xyxy[keep] * factors
        if rng.random() < s.flip:
            x = x.flip(2)
            boxes[:, [0, 2]] = size[1] - boxes[:, [2, 0]]
        boxes = torch.from_numpy(boxes.astype(np.float32))
        labels = torch.from_numpy(self.dataset.boxes.category[keep].astype(np.int64) + 1)
        flags = torch.from_numpy(ignored.copy())
        target = {"boxes": boxes[~flags], "labels": labels[~flags], "ignored": boxes[flags]}
        possible = possible_classes(self.dataset, keep)
        if possible is not None:
            target["possible"] = F.pad(torch.from_numpy(possible), (1, 0))[~flags]
        return x, target


def batch_of(images: Sequence[tuple[Tensor, dict[str, Tensor]]], divisor: int) -> Batch:
    """Augmented images, pixels [3, h, w] and target each, as a batch."""
    pixels, sizes = pad_batch([x for x, _ in images], divisor)
    return pixels, sizes, [target for _, target in images]


def draw_scale(settings: SpecialistSettings, rng: np.random.Generator) -> float:
    """The relative size of a step's images, log-uniform in ``scale_jitter``."""
    low, high = min(settings.scale_jitter), max(settings.scale_jitter)
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def jitter_color(x: Tensor, amount: float, rng: np.random.Generator) -> Tensor:
    """Random brightness, contrast and saturation of pixels [3, h, w] in [0, 1]."""
    if amount <= 0:
        return x
    brightness, contrast, saturation = rng.uniform(1 - amount, 1 + amount, 3)
    x = x * float(brightness)
    mean = x.mean()
    x = (x - mean) * float(contrast) + mean
    grey = x.mean(dim=0, keepdim=True)
    return ((x - grey) * float(saturation) + grey).clamp_(0, 1)
