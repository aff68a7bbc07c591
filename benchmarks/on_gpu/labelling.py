"""Cross-labelling, from files to shards, against the network's forward pass alone."""

from __future__ import annotations

import shutil
from typing import Any

import torch

from benchmarks.on_gpu import Measured, Work
from benchmarks.on_gpu.data import dataset, detector_settings, new_detector, space_of
from benchmarks.on_gpu.detectors import LARGE, SMALL, raw_forward
from benchmarks.on_gpu.measure import device_of, once, rounded, timed
from relabel.crosslabel.label import cross_label
from relabel.crosslabel.nms import select
from relabel.crosslabel.settings import CrossLabelSettings
from relabel.crosslabel.shards import read_pseudo_labels
from relabel.datasets.pixels.batches import ImageBatches
from relabel.datasets.pixels.location import load_rgb
from relabel.detectors.family import NetworkDetector
from relabel.detectors.load import load_detector
from relabel.settings import Runtime
from relabel.training.pixels import stack_images

AIM = 0.9
MOST_IMAGES = 4096


def run(work: Work) -> Measured:
    scale, device = LARGE if work.large else SMALL, device_of(work)
    settings = detector_settings(work, "faster-rcnn")
    folder = work.folder / "specialist"
    new_detector(space_of("target", scale.classes), settings).save(folder)
    detector: Any = load_detector(folder, device.type)
    labelling = CrossLabelSettings(batch_size=scale.inference_batch)
    share = work.seconds / 6
    images = MOST_IMAGES if work.large else scale.images
    data = dataset(work, "source", images, scale.size, scale.classes, 64)
    some = [load_rgb(data, row) for row in range(scale.inference_batch)]
    found = Measured()
    figures = found.figures
    forward, _ = raw_forward(detector, some, work, share)
    raw = forward.per_second(len(some))
    figures["batch"] = len(some)
    figures["forward pass alone, images/s"] = raw
    figures |= stages(
        work, detector, data.subset(range(min(len(data), 16 * len(some)))), some, labelling, share
    )

    # As many images as take about a third of the time, but some batches of them.
    count = int(raw * work.seconds / 3) // len(some) * len(some)
    count = min(len(data), max(count, 4 * len(some)))
    out, runtime = work.folder / "labels", Runtime(device=device.type, quiet=True)

    def label(rows: int) -> float:
        shutil.rmtree(out, ignore_errors=True)
        part = data.subset(range(rows))
        return once(
            lambda: cross_label(folder, part, out, labelling, runtime, detector=detector), device
        )

    label(2 * len(some))
    rate = count / label(count)
    figures["images labelled"] = count
    figures["cross-labelling, images/s"] = rounded(rate)
    figures["pseudo-labels an image"] = rounded(len(read_pseudo_labels(out)) / count)
    ratio = rounded(rate / raw)
    figures["cross-labelling against the forward pass"] = ratio
    found.aim("cross-labelling against the forward pass", ratio, f"at least {AIM}", ratio >= AIM)
    return found


def stages(
    work: Work,
    detector: NetworkDetector,
    data: Any,
    images: list[Any],
    settings: CrossLabelSettings,
    seconds: float,
) -> dict[str, float]:
    """Images per second of what is done beside the forward pass, each alone."""
    device, s = detector.device, detector.settings
    figures = {}

    def decode() -> None:
        with ImageBatches(data, batch_size=len(images)) as batches:
            for _ in batches:
                pass

    times = timed(decode, work, seconds, warm=0, least=1)
    figures["decoding in threads, images/s"] = times.per_second(len(data))

    def stack() -> torch.Tensor:
        return stack_images(images, s.image_size, s.max_image_size, detector.model.divisor)[0]

    times = timed(stack, work, seconds / 2)
    figures["resizing and padding, images/s"] = times.per_second(len(images))
    batch = stack()
    times = timed(lambda: batch.to(device, memory_format=torch.channels_last), work, seconds / 2)
    figures["upload, images/s"] = times.per_second(len(images))
    times = timed(lambda: detector.predict(images), work, seconds)
    figures["prediction from decoded images, images/s"] = times.per_second(len(images))
    raw = detector.predict(images)

    def choose() -> None:
        for image, found in zip(images, raw, strict=True):
            select(
                found,
                settings,
                num_classes=detector.space.num_classes,
                width=image.shape[1],
                height=image.shape[0],
                source="",
            )

    times = timed(choose, work, seconds / 2)
    figures["filter and NMS, images/s"] = times.per_second(len(images))
    return figures
