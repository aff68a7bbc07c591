"""Training and inference of the detectors at the preset ``standard``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.on_gpu import Measured, Work
from benchmarks.on_gpu.data import dataset, detector_settings, new_detector
from benchmarks.on_gpu.measure import (
    Times,
    device_of,
    peak_mib,
    rounded,
    steps_of,
    timed,
    timed_steps,
)
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.pixels.location import load_rgb
from relabel.detectors import training
from relabel.detectors.family import NetworkDetector
from relabel.detectors.settings import SpecialistSettings
from relabel.detectors.specialist import TrainingBatches
from relabel.settings import Runtime
from relabel.training.loop import autocast, resolve_precision
from relabel.training.pixels import stack_images

MANY_STEPS = 10_000


@dataclass(frozen=True)
class Scale:
    """Numbers of images, their (width, height), and of classes."""

    images: int
    size: tuple[int, int]
    classes: int
    larger_batch: int
    inference_batch: int


LARGE = Scale(256, (640, 480), 80, 16, 32)
SMALL = Scale(8, (80, 64), 3, 4, 2)


def faster_rcnn(work: Work) -> Measured:
    return measure(work, "faster-rcnn")


def rt_detr(work: Work) -> Measured:
    return measure(work, "rt-detr")


def measure(work: Work, family: str) -> Measured:
    scale, device = LARGE if work.large else SMALL, device_of(work)
    data = dataset(work, "target", scale.images, scale.size, scale.classes, 64)
    settings = detector_settings(work, family)
    found = Measured()
    figures = found.figures
    share = work.seconds / 5
    figures["precision"] = resolve_precision(settings.precision, device)
    figures["batch"] = settings.batch_size
    step = training_steps(work, data, settings, share)
    figures["training images/s, from files"] = step.per_second(settings.batch_size)
    for size in dict.fromkeys((settings.batch_size, scale.larger_batch)):
        step = training_steps(work, data, replace(settings, batch_size=size), share, kept=4)
        figures[f"training images/s, step of {size} alone"] = step.per_second(size)
        figures[f"training step of {size}, ms"] = rounded(1000 * step.median)
        figures[f"training step of {size}, peak MiB"] = peak_mib(work)
    # Not the trained one: accelerate leaves its arithmetic on a model whose training was cut off.
    detector = new_detector(data.space, settings).detector(device)
    images = [load_rgb(data, i % len(data)) for i in range(scale.inference_batch)]
    forward, detections = raw_forward(detector, images, work, share)
    figures["inference batch"] = len(images)
    figures["inference images/s, forward pass"] = forward.per_second(len(images))
    whole = timed(lambda: detector.predict(images), work, share)
    figures["inference images/s, from decoded images"] = whole.per_second(len(images))
    figures["inference, peak MiB"] = peak_mib(work)
    figures["detections an image"] = rounded(detections)
    return found


def training_steps(
    work: Work,
    data: DetectionDataset,
    settings: SpecialistSettings,
    seconds: float,
    *,
    kept: int = 0,
) -> Times:
    """Steps of a real training.

    Args:
        kept: so many batches are made before and take turns; 0: they are read from files.
    """
    trainable = new_detector(data.space, settings)
    batches: Any = TrainingBatches(data, settings, trainable.model.divisor)
    if kept:
        made = [batches(step) for step in range(kept if work.large else 1)]
        batches = partial(_turn, made)
    with timed_steps(training, work, seconds) as taken:
        training.train_detector(
            trainable,
            batches,
            MANY_STEPS,
            work.folder / f"{settings.detector}-training",
            settings,
            Runtime(device=device_of(work).type, quiet=True),
            description="training",
        )
    return steps_of(taken)


def _turn(made: Sequence[Any], step: int) -> Any:
    return made[step % len(made)]


def raw_forward(
    detector: NetworkDetector, images: list[np.ndarray], work: Work, seconds: float
) -> tuple[Times, float]:
    """The network alone on a batch that is on the device, and the mean of its detections."""
    s, device = detector.settings, detector.device
    batch, sizes, _ = stack_images(images, s.image_size, s.max_image_size, detector.model.divisor)
    batch = batch.to(device, memory_format=torch.channels_last)
    model = detector.model.eval()

    def forward() -> Any:
        with torch.no_grad(), autocast(s.precision, device):
            return model(batch, sizes)

    times = timed(forward, work, seconds)
    return times, float(np.mean([len(row["boxes"]) for row in forward()]))
