"""One detector over the label spaces of all datasets; the target's classes are used at test time.

The label spaces are concatenated, never merged by name, and all datasets are learned with their
own labels at once, as Plain-DET (Shi et al., ECCV 2024) and its predecessors do. An image teaches
the classes of its own dataset and the background only: a source image says nothing about the
target's classes. The network below the class scores is shared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from relabel.datasets.alternatives import renamed
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.labelspace import Category, JointLabelSpace, LabelSpace
from relabel.detectors.family import NetworkDetector, Trainable
from relabel.detectors.settings import SpecialistSettings
from relabel.detectors.training import Batch, new_trainable
from relabel.settings import Runtime
from relabel.studies.downstream.mixture import MixedBatches
from relabel.studies.downstream.settings import DownstreamSettings
from relabel.training.loop import resolve_device


def unified_training(
    target: DetectionDataset,
    sources: Mapping[str, DetectionDataset],
    detector: SpecialistSettings,
    settings: DownstreamSettings,
    maps: Path | None = None,
    runtime: Runtime | None = None,
) -> tuple[Trainable, UnifiedBatches]:
    """One detector of all datasets with their own labels, and its batches.

    What is measured and saved of it is the target's part.

    Args:
        target: training images of the target.
        sources: source datasets with their own labels in their own label spaces.
        detector: its ``steps`` and ``batch_size`` are those of every arm.
        maps: folder of frozen backbones' maps; without one, images are read.
    """
    used = [target, *(d for d in sources.values() if len(d))]
    joint = joint_space(used)
    whole = new_trainable(flat_space(joint), detector)
    runtime = runtime or Runtime()
    store = None if maps is None else whole.map_store(maps, resolve_device(runtime.device))
    batches = UnifiedBatches(
        used, joint, detector, settings, whole.model.divisor, store=store, runtime=runtime
    )
    return TargetPart(whole, target.space, range(target.space.num_classes)), batches


def joint_space(datasets: Sequence[DetectionDataset]) -> JointLabelSpace:
    """The datasets' label spaces, concatenated.

    Spaces are known by their place, since two datasets may share a label space (and its name) and
    still label differently.
    """
    return JointLabelSpace(
        tuple(replace(d.space, name=f"{i}:{d.name}") for i, d in enumerate(datasets))
    )


def flat_space(joint: JointLabelSpace) -> LabelSpace:
    """The concatenation as the label space of one detector; prompts are kept."""
    classes = [(s, c) for s in joint.spaces for c in s.categories if not c.ignore]
    return LabelSpace(
        "unified",
        tuple(
            Category(i, f"{space.name}/{c.name}", prompt=c.text_prompt)
            for i, (space, c) in enumerate(classes, start=1)
        ),
    )


def into_joint(dataset: DetectionDataset, joint: JointLabelSpace, place: int) -> DetectionDataset:
    """The dataset in the joint label space, where it is number ``place``."""
    boxes = dataset.boxes
    # Ignore categories have no place among the classes; their boxes stay regions to leave out.
    ignore = boxes.ignore | dataset.space.ignore_mask[boxes.category]
    start = joint.slice(place).start
    category = np.where(ignore, start, boxes.category + start).astype(np.int32)
    flat = flat_space(joint)
    names = dict(zip(dataset.space.class_names, flat.class_names[joint.slice(place)], strict=True))
    boxes = renamed(replace(boxes, category=category, ignore=ignore), names)
    return dataset.with_boxes(boxes, flat)


class UnifiedBatches(MixedBatches):
    """Step number to a batch of the mixture in which every image names the classes it knows."""

    def __init__(
        self,
        datasets: Sequence[DetectionDataset],
        joint: JointLabelSpace,
        detector: SpecialistSettings,
        settings: DownstreamSettings,
        divisor: int,
        **more: Any,
    ) -> None:
        target, *sources = [into_joint(d, joint, i) for i, d in enumerate(datasets)]
        super().__init__(
            target, {str(i): d for i, d in enumerate(sources)}, detector, settings, divisor, **more
        )
        self.known = [
            torch.from_numpy(np.concatenate([[True], joint.mask(i)])) for i in range(len(datasets))
        ]

    def __call__(self, step: int) -> Batch:
        pixels, sizes, targets = super().__call__(step)
        for row, (part, _) in zip(targets, self.mixture.rows(step), strict=True):
            row["classes"] = self.known[part]
        return pixels, sizes, targets


class TargetPart(Trainable):
    """A `Trainable` over all classes whose detector and checkpoint have the target's only.

    Args:
        whole: what is trained.
        target: the target's label space.
        classes: position of the target's classes in ``whole.space``.
    """

    def __init__(self, whole: Trainable, target: LabelSpace, classes: Sequence[int]) -> None:
        super().__init__(whole.family, whole.model, whole.space, whole.settings)
        self.target = target
        self.classes = classes

    def detector(self, device: torch.device) -> NetworkDetector:
        return self.restricted(self.target, self.classes).detector(device)

    def save(self, out: Path) -> None:
        self.restricted(self.target, self.classes).save(out)
