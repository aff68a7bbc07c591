"""Pseudo-labels: what one specialist found on another dataset's images.

Shape legend: ``I`` images of the dataset, ``n`` boxes, ``C`` classes of the specialist.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from relabel.datasets.dataset import DetectionDataset, Provenance, make_boxes
from relabel.datasets.labelspace import LabelSpace
from relabel.errors import DataError
from relabel.geometry import xyxy_to_xywh


@dataclass(frozen=True, eq=False)
class PseudoLabels:
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

    def __len__(self) -> int:
        return len(self.image)

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
        return np.searchsorted(self.image, np.arange(len(self.file_name) + 1))

    @cached_property
    def coverage(self) -> np.ndarray:
        """bool [I], ``covered`` with None spelled out."""
        return np.ones(len(self.file_name), bool) if self.covered is None else self.covered

    def rows(self, image: int) -> slice:
        """The box rows of one image."""
        return slice(int(self.offsets[image]), int(self.offsets[image + 1]))

    def take(self, mask: np.ndarray) -> PseudoLabels:
        """The boxes a bool [n] mask or ascending rows select; images and coverage stay."""
        return replace(
            self,
            image=self.image[mask],
            boxes=self.boxes[mask],
            scores=self.scores[mask],
            quality=None if self.quality is None else self.quality[mask],
        )

    def filter(self, min_score: float) -> PseudoLabels:
        """The boxes whose best class scores at least ``min_score``."""
        return self.take(self.score >= np.float32(min_score))

    def for_images(self, file_names: Sequence[str]) -> PseudoLabels:
        """The same pseudo-labels with images renumbered to the order of ``file_names``.

        Images without pseudo-labels come out as not covered, and those not asked for are left
        out, so that a subset of the dataset can be joined.
        """
        known = {name: i for i, name in enumerate(self.file_name) if name}
        old = np.array([known.get(name, -1) for name in file_names], dtype=np.int64)
        spans = [self.rows(i) for i in old.tolist() if i >= 0]
        pieces = [np.arange(span.start, span.stop) for span in spans]
        taken = self.take(np.concatenate(pieces) if pieces else np.zeros(0, np.int64))
        counts = np.zeros(len(old), np.int64)
        counts[old >= 0] = [span.stop - span.start for span in spans]
        return replace(
            taken,
            file_name=list(file_names),
            image=np.repeat(np.arange(len(old), dtype=np.int32), counts),
            covered=np.array([i >= 0 and self.coverage[i] for i in old.tolist()], dtype=bool),
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
    filled = [p for p in parts if len(p)]
    rated = filled[0].quality if filled else None
    remedy = "Merge parts of one dataset in one label space, each image in one part only."
    names = list(first.file_name)
    covered = np.zeros(len(names), dtype=bool)
    for part in parts:
        what = f"pseudo-labels of {part.on!r} by {part.by!r}"
        if part.on != first.on or len(part.file_name) != len(names):
            raise DataError(f"{what} and of {first.on!r}: other datasets", remedy=remedy)
        if part.space != first.space:
            raise DataError(f"{what} use another label space than the first", remedy=remedy)
        if len(part) and (part.quality is None) != (rated is None):
            raise DataError(f"{what} and another part: only one has a quality", remedy=remedy)
        for row in np.flatnonzero(part.coverage).tolist():
            if covered[row]:
                raise DataError(f"{what} cover {part.file_name[row]} again", remedy=remedy)
            names[row] = part.file_name[row]
        covered |= part.coverage
    image = np.concatenate([p.image for p in parts])
    order = np.argsort(image, kind="stable")
    quality = None
    if rated is not None:
        quality = np.concatenate([p.quality for p in filled if p.quality is not None])[order]
    return PseudoLabels(
        space=first.space,
        by="+".join(dict.fromkeys(p.by for p in parts)),
        on=first.on,
        file_name=names,
        image=image[order].astype(np.int32),
        boxes=np.concatenate([p.boxes for p in parts])[order],
        scores=np.concatenate([p.scores for p in parts])[order],
        covered=covered,
        quality=quality,
    )


def pseudo_to_dataset(
    labels: PseudoLabels,
    dataset: DetectionDataset,
    threshold: float | Mapping[str, float] | Filter,
    *,
    covered_only: bool = False,
) -> DetectionDataset:
    """The images of ``dataset`` with pseudo-labels as their annotations.

    Args:
        labels: pseudo-labels that cover the images; joined by file name.
        dataset: the labelled dataset, or a part of it.
        threshold: minimum score; or minimum scores by class name, other classes being left out;
            or a filter (see `relabel.crosslabel.filters`).
        covered_only: leave out images that were not labelled (broken ones that a run with
            ``--skip-bad`` passed over) instead of raising.

    Returns:
        A dataset in the label space of the specialist; boxes carry score and provenance.

    Raises:
        DataError: an image is not covered, unless ``covered_only``.
    """
    joined = labels.for_images(dataset.images.file_name)
    absent = np.flatnonzero(~joined.coverage)
    if len(absent) and covered_only:
        dataset = dataset.subset(np.flatnonzero(joined.coverage))
        joined = labels.for_images(dataset.images.file_name)
    elif len(absent):
        raise DataError(
            f"{len(absent)} of {len(dataset)} images of {dataset.name!r} have no pseudo-labels by "
            f"{labels.by!r}, the first is {dataset.images.file_name[absent[0]]}",
            remedy="Run `relabel cross-label` on the whole dataset, or leave these images out.",
        )
    if callable(threshold):
        keep = threshold
    elif isinstance(threshold, Mapping):
        keep = class_wise_thresholds(threshold)
    else:
        keep = fixed_threshold(float(threshold))
    kept = joined.take(keep(joined))
    n = len(kept)
    boxes = make_boxes(
        kept.image,
        xyxy_to_xywh(kept.boxes.astype(np.float64)),
        kept.category,
        score=kept.score,
        provenance=Provenance(
            labels.on,
            [f"pseudo:{labels.by}"] * n,
            np.full(n, -1, np.int64),
            [""] * n,
            np.full(n, np.nan, np.float32),
        ),
    )
    return dataset.with_boxes(boxes, labels.space)


Filter = Callable[[PseudoLabels], np.ndarray]
"""From n pseudo-labels to bool [n], True for those to keep."""


def fixed_threshold(min_score: float) -> Filter:
    """Keep boxes whose best class scores at least ``min_score``."""
    return lambda labels: labels.score >= np.float32(min_score)


def class_wise_thresholds(thresholds: Mapping[str, float], default: float | None = None) -> Filter:
    """Keep boxes whose best class reaches that class's own threshold.

    Args:
        thresholds: minimum score by class name (or alias).
        default: for classes not named; None leaves their boxes out.

    Raises:
        ConfigError: on use, a name that the label space does not have.
    """

    def keep(labels: PseudoLabels) -> np.ndarray:
        limits = np.full(len(labels.space), np.inf if default is None else default, np.float32)
        for name, limit in thresholds.items():
            limits[labels.space.index(name)] = limit
        return labels.score >= limits[labels.category]

    return keep
