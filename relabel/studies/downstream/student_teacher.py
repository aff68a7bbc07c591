"""Student and teacher: the sources' images without their labels.

Unbiased Teacher (Liu et al., ICLR 2021; arXiv 2102.09480) on the target's labelled images and
the sources' unlabelled ones. The student trains on the target alone for the burn-in. Then the
teacher, a moving average of the student (Tarvainen and Valpola, 2017), labels a weak view of every
source image, and the student learns those labels on a strong view of it. The last steps have
target images only, as in every arm of the comparison. What is measured and saved is the teacher
(the student before there is one), as published.

Shape legend: ``B`` images, ``n`` boxes of an image, ``C`` classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision.transforms.functional as TF
from torch import Tensor, nn
from torchvision.ops import batched_nms, clip_boxes_to_image

from relabel.datasets.dataset import DetectionDataset
from relabel.detectors.family import Trainable
from relabel.detectors.settings import SpecialistSettings
from relabel.detectors.specialist import Example, batch_of, draw_scale
from relabel.detectors.training import Batch, Evaluate, new_trainable, on_device
from relabel.settings import Runtime
from relabel.studies.downstream.mixture import MixedBatches
from relabel.studies.downstream.settings import DownstreamSettings
from relabel.training.ema import moving_average
from relabel.training.loop import drop_checkpoint, fit, resolve_device
from relabel.training.pixels import pad_batch

TEACHER_NMS = 0.5
MIN_SIDE = 0.5
# Strong view of Unbiased Teacher: (probability, share of the area, aspect ratio) of erased boxes.
ERASED = (
    (0.7, (0.05, 0.2), (0.3, 3.3)),
    (0.5, (0.02, 0.2), (0.1, 6.0)),
    (0.3, (0.02, 0.2), (0.05, 8.0)),
)


def train_student_teacher(
    target: DetectionDataset,
    sources: Mapping[str, DetectionDataset],
    out: Path,
    detector: SpecialistSettings,
    settings: DownstreamSettings,
    runtime: Runtime,
    *,
    evaluate: Evaluate | None = None,
) -> Path:
    """Train a detector for the target on its labels and on the sources' images.

    Resumes from the checkpoint in ``out`` if it has one, to the same bits.

    Args:
        target: training images with the labels to learn.
        sources: only their images are used.
        detector: its ``steps`` and ``batch_size`` are those of every arm; its ``ema`` has no
            influence, since the teacher is the average.
        evaluate: detector and step to named results, at ``eval_every`` and at the end.

    Returns:
        The checkpoint folder with the teacher, for `load_detector`.

    Raises:
        RelabelError: the loss became NaN or infinite.
    """
    out.mkdir(parents=True, exist_ok=True)
    device = resolve_device(runtime.device)
    student = new_trainable(target.space, detector)
    batches = TeacherBatches(target, sources, detector, settings, student.model.divisor)
    teacher = Teacher(student, settings, batches.burn_in, device)

    def losses(net: Any, data: TeacherBatch) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = {}
        if data.labelled is not None:
            parts.update(net(*on_device(data.labelled, device)))
        if data.weak is not None and data.strong is not None:
            weak = data.weak.to(device, memory_format=torch.channels_last)
            found = teacher.label(weak, data.sizes)
            for name, value in net(*on_device((data.strong, data.sizes, found), device)).items():
                if settings.teacher_boxes or not is_box_loss(name):
                    parts[f"teacher_{name}"] = settings.unsupervised_weight * value
        return parts

    def measured(_model: Any, step: int) -> dict[str, float]:
        assert evaluate is not None
        best = teacher.trainable if teacher.exists(step) else student
        return evaluate(best.detector(device), step)

    fit(
        student.model,
        batches,
        losses,
        steps=detector.steps,
        out=out,
        settings=replace(detector, ema=0.0),
        runtime=runtime,
        description=f"Training student and teacher on {target.name}",
        backbone_parameters=student.backbone_parameters(),
        evaluate=measured if evaluate is not None else None,
        after_step=teacher.follow,
        stateful=[teacher.average],
    )
    teacher.trainable.save(out)
    drop_checkpoint(out)
    return out


class Teacher:
    """The moving average of a student, with its own copy of the model.

    The average starts as the student at the end of the burn-in, see `moving_average`. Running
    statistics of norms are averaged like weights.

    Args:
        student: what to copy; its architecture stays the teacher's.
        burn_in: number of steps after which the teacher exists.
    """

    def __init__(
        self,
        student: Trainable,
        settings: DownstreamSettings,
        burn_in: int,
        device: torch.device,
    ) -> None:
        self.average = moving_average(
            student.model.to(device), settings.teacher_ema, use_buffers=True
        ).requires_grad_(False)
        self.trainable = replace(student, model=self.average.module)
        self.settings = settings
        self.burn_in = burn_in

    def exists(self, step: int) -> bool:
        """Whether there is a teacher after ``step`` steps."""
        return step >= self.burn_in

    def follow(self, model: nn.Module, step: int) -> None:
        """Move towards the student, which has done ``step`` steps."""
        if self.exists(step):
            self.average.update_parameters(model)

    @torch.no_grad()
    def label(self, pixels: Tensor, sizes: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
        """Pseudo-labels of a batch, as training targets.

        Args:
            pixels: [B, 3, H, W] in [0, 1], weak views.
            sizes: (height, width) of each image without its padding.

        Returns:
            Per image ``boxes`` [n, 4] xyxy, ``labels`` [n] from 1, ``ignored`` [0, 4].
        """
        targets = []
        found = self.trainable.model.eval()(pixels, sizes)
        for row, size in zip(found, sizes, strict=True):
            boxes = clip_boxes_to_image(row["boxes"].float(), size)
            scores, labels = row["scores"].float().max(dim=1)
            sides = (boxes[:, 2:] - boxes[:, :2]).amin(dim=1)
            sure = (scores >= self.settings.teacher_threshold) & (sides > MIN_SIDE)
            boxes, scores, labels = boxes[sure], scores[sure], labels[sure]
            kept = batched_nms(boxes, scores, labels, TEACHER_NMS)
            targets.append(
                {
                    "boxes": boxes[kept],
                    "labels": labels[kept] + 1,
                    "ignored": boxes.new_zeros(0, 4),
                }
            )
        return targets


def is_box_loss(name: str) -> bool:
    """Whether a named loss is about coordinates, as opposed to classes or objectness.

    Confidence says little about the coordinates of a pseudo-label, so Unbiased Teacher leaves
    these losses out.
    """
    return "box" in name or "giou" in name


@dataclass(frozen=True)
class TeacherBatch:
    """The images of a step.

    Attributes:
        labelled: target images as in every arm, or None.
        weak, strong: [B, 3, H, W], two views of the same source images, or None.
        sizes: (height, width) of the source images without padding.
    """

    labelled: Batch | None
    weak: Tensor | None
    strong: Tensor | None
    sizes: list[tuple[int, int]]


class TeacherBatches:
    """Step number to a `TeacherBatch`; depends on nothing but the step.

    Target images only during the burn-in and from ``mixture.target_from`` on; between the two,
    target and source images in the proportion ``teacher_target_share`` (published: one to one).
    """

    def __init__(
        self,
        target: DetectionDataset,
        sources: Mapping[str, DetectionDataset],
        detector: SpecialistSettings,
        settings: DownstreamSettings,
        divisor: int,
    ) -> None:
        self.burn_in = round(settings.burn_in * detector.steps)
        mixed = MixedBatches(
            target,
            {name: without_boxes(d) for name, d in sources.items()},
            detector,
            replace(settings, target_share=settings.teacher_target_share),
            divisor,
            self.burn_in,
        )
        for part in mixed.parts[1:]:  # a weak view
            part.settings = replace(detector, color_jitter=0.0)
        self.parts, self.mixture = mixed.parts, mixed.mixture
        self.detector = detector
        self.divisor = divisor

    def __call__(self, step: int) -> TeacherBatch:
        s = self.detector
        rng = np.random.default_rng([s.seed, 1, step])
        strong_rng = np.random.default_rng([s.seed, 2, step])
        short = s.image_size * draw_scale(s, rng)
        mine: list[Example] = []
        weak: list[Tensor] = []
        for part, row in self.mixture.rows(step):
            pixels, target = self.parts[part].image(row, short, rng)
            if part == 0:
                mine.append((pixels, target))
            else:
                assert isinstance(pixels, Tensor)  # strong views need pixels: no kept maps here
                weak.append(pixels)
        labelled = batch_of(mine, self.divisor) if mine else None
        if not weak:
            return TeacherBatch(labelled, None, None, [])
        strong, sizes = pad_batch([strong_view(x, strong_rng) for x in weak], self.divisor)
        return TeacherBatch(labelled, pad_batch(weak, self.divisor)[0], strong, sizes)


def without_boxes(dataset: DetectionDataset) -> DetectionDataset:
    """The same images with no annotation at all."""
    return dataset.with_boxes(dataset.boxes.take(np.zeros(0, np.int64)))


def strong_view(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Colour jitter, greyscale, blur and erased rectangles; nothing moves, so boxes stay valid.

    Probabilities and ranges are those of Unbiased Teacher.

    Args:
        x: [3, h, w] in [0, 1]; not changed.
    """
    if rng.random() < 0.8:
        brightness, contrast, saturation = rng.uniform(0.6, 1.4, 3)
        x = TF.adjust_brightness(x, float(brightness))
        x = TF.adjust_contrast(x, float(contrast))
        x = TF.adjust_saturation(x, float(saturation))
        x = TF.adjust_hue(x, float(rng.uniform(-0.1, 0.1)))
    if rng.random() < 0.2:
        x = TF.rgb_to_grayscale(x, num_output_channels=3)
    if rng.random() < 0.5:
        sigma = float(rng.uniform(0.1, 2.0))
        x = TF.gaussian_blur(x, [2 * math.ceil(2 * sigma) + 1] * 2, [sigma] * 2)
    x = x.clone()
    height, width = x.shape[1:]
    for chance, area, aspect in ERASED:
        if rng.random() < chance:
            size = rng.uniform(*area) * height * width
            ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
            h = min(height, max(1, round(math.sqrt(size * ratio))))
            w = min(width, max(1, round(math.sqrt(size / ratio))))
            top = int(rng.integers(height - h + 1))
            left = int(rng.integers(width - w + 1))
            noise = rng.random((3, h, w), dtype=np.float32)
            x[:, top : top + h, left : left + w] = torch.from_numpy(noise)
    return x
