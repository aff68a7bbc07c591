"""Pseudo-labels: what one specialist found on another dataset's images.

Shape legend: ``I`` images of the dataset, ``n`` boxes, ``C`` classes of the specialist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

import numpy as np

from relabel.datasets.dataset import Boxes, DetectionDataset, Provenance, make_boxes
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.table import ImageTable
from relabel.errors import ConfigError, DataError
from relabel.geometry import xyxy_to_xywh


@dataclass(frozen=True, eq=False)
class PseudoLabels(ImageTable):
    """Pseudo-labels of one dataset in another dataset's label space.

    Attributes:
        space: the label space of the specialist.
        by: name of the specialist's dataset.
        on: name of the labelled dataset.
        file_name: I strings; "" for images not covered whose name is not known.
        image: int32 [n], row into ``file_name``; never decreases.
        boxes: float32 [n, 4], xyxy pixels; best first within an image.
        scores: float32 [n, C], probability of every class.
        covered: bool [I], the images that were labelled; an image without boxes may be covered.
            None means all.
        quality: float32 [n], localisation quality in [0, 1], where the detector has one.
    """

    space: LabelSpace
    by: str
    on: str
    file_name: Sequence[str]
    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    covered: np.ndarray | None = None
    quality: np.ndarray | None = None

    SHARED: ClassVar[frozenset[str]] = frozenset({"space", "by", "on", "file_name", "covered"})

    @cached_property
    def category(self) -> np.ndarray:
        """int32 [n], the best class, a position in ``space``."""
        return self.scores.argmax(1).astype(np.int32) if len(self) else np.zeros(0, np.int32)

    @cached_property
    def score(self) -> np.ndarray:
        """float32 [n], the best class's score."""
        return self.scores.max(1) if len(self) else np.zeros(0, np.float32)

    @cached_property
    def offsets(self) -> np.ndarray:
        """int64 [I + 1]; the boxes of image ``i`` are rows ``offsets[i]:offsets[i + 1]``."""
        return self.offsets_of(len(self.file_name))

    @cached_property
    def coverage(self) -> np.ndarray:
        """bool [I], ``covered`` with None spelled out."""
        return np.ones(len(self.file_name), bool) if self.covered is None else self.covered

    def rows(self, image: int) -> slice:
        """The box rows of one image."""
        return slice(int(self.offsets[image]), int(self.offsets[image + 1]))

    def filter(self, threshold: float | Sequence[float]) -> Self:
        """The boxes whose best class scores at least ``threshold``; images and coverage stay.

        Args:
            threshold: minimum score, for all classes or for each of the C.

        Raises:
            ConfigError: thresholds for another number of classes.
        """
        classes = self.space.num_classes
        minimum = np.asarray(threshold, np.float32)
        if minimum.ndim and len(minimum) != classes:
            raise ConfigError(
                f"{len(minimum)} thresholds for the {classes} classes of {self.space.name!r}",
                remedy="Give one threshold, or one per class.",
            )
        return self.take(self.score >= (minimum[self.category] if minimum.ndim else minimum))

    def for_images(self, file_names: Sequence[str]) -> Self:
        """The same pseudo-labels with images renumbered to the order of ``file_names``.

        Images without pseudo-labels come out as not covered, and those not asked for are left
        out, so that a subset of the dataset can be joined.
        """
        known = {name: i for i, name in enumerate(self.file_name) if name}
        old = np.array([known.get(name, -1) for name in file_names], dtype=np.int64)
        taken = self.of_images(old, self.offsets)
        covered = np.append(self.coverage, False)[old]  # the last one of names not known, -1
        return replace(taken, file_name=list(file_names), covered=covered)

    def to_boxes(self, dataset: str, by: str) -> Boxes:
        """Boxes with score and provenance, each under its best class.

        Args:
            dataset: name of the labelled dataset.
            by: who labelled, for the boxes' origin.
        """
        return make_boxes(
            self.image,
            xyxy_to_xywh(self.boxes.astype(np.float64)),
            self.category,
            score=self.score,
            provenance=Provenance.made(dataset, f"pseudo:{by}", len(self)),
        )


def merge_pseudo_labels(parts: Sequence[PseudoLabels]) -> PseudoLabels:
    """Join parts that cover different images of one dataset, as cross-fitting makes them.

    The specialists of the parts may differ (one per fold), their label space may not.

    Raises:
        DataError: nothing to merge; the parts have other label spaces or label other datasets;
            or an image is covered twice.
    """
    if not parts:
        raise DataError("there are no pseudo-labels to merge", remedy="Run `relabel cross-label`.")
    first = parts[0]
    # A part without boxes cannot tell whether its detector has a quality.
    rated = next((p.quality is not None for p in parts if len(p)), False)
    remedy = "Merge parts of one dataset in one label space, each image in one part only."
    names = list(first.file_name)
    covered = np.zeros(len(names), dtype=bool)
    for part in parts:
        what = f"pseudo-labels of {part.on!r} by {part.by!r}"
        if part.on != first.on or len(part.file_name) != len(names):
            raise DataError(f"{what} and of {first.on!r}: other datasets", remedy=remedy)
        if part.space != first.space:
            raise DataError(f"{what} use another label space than the first", remedy=remedy)
        if len(part) and (part.quality is not None) != rated:
            raise DataError(f"{what} and another part: only one has a quality", remedy=remedy)
        for row in np.flatnonzero(part.coverage).tolist():
            if covered[row]:
                raise DataError(f"{what} cover {part.file_name[row]} again", remedy=remedy)
            names[row] = part.file_name[row]
        covered |= part.coverage
    return replace(
        PseudoLabels.concatenate(parts).sorted_by_image(),
        by="+".join(dict.fromkeys(p.by for p in parts)),
        file_name=names,
        covered=covered,
    )


def pseudo_to_dataset(
    labels: PseudoLabels, dataset: DetectionDataset, threshold: float
) -> DetectionDataset:
    """The images of a dataset with pseudo-labels as boxes.

    Args:
        labels: pseudo-labels on the dataset, or on more images than it holds.
        threshold: minimum score.

    Returns:
        A dataset in the label space of the specialist; boxes carry score and provenance.

    Raises:
        DataError: an image is not covered.
    """
    joined = labels.for_images(dataset.images.file_name)
    absent = np.flatnonzero(~joined.coverage)
    if len(absent):
        raise DataError(
            f"{len(absent)} of {len(dataset)} images of {dataset.name!r} have no pseudo-labels by "
            f"{labels.by!r}, the first is {dataset.images.file_name[absent[0]]}",
            remedy="Run `relabel cross-label` on the whole dataset, or leave these images out.",
        )
    boxes = joined.filter(threshold).to_boxes(labels.on, labels.by)
    return dataset.with_boxes(boxes, labels.space)
