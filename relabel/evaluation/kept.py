"""What became of a source's annotations, where the truth in the target space is known.

An annotation says that somebody saw an object. Where the target's truth has that object, too, a
relabelling should leave a label there, whatever its class; `AnnotationsKept` counts those without.

**Whose object the truth has.** A truth box of any class overlaps the annotation with IoU >= 0.5. An
annotation without one has every truth box with IoU >= 0.3 whose centre lies in it: loose styles,
and one annotation around two objects (a motorbike and its rider). On roadside, chess, tollroad and
the demo world the second rule adds 18 of 7,190 annotations, none of them over another's object.

**That left no label.** No label of the result overlaps the annotation, or one of its truth boxes,
with IoU >= 0.5. Where labels name the annotation that they come from (their ``relabel`` objects),
IoU >= 0.3 is enough for those that name this one. Classes play no part (that is what class accuracy
is for), ignore regions are no labels, and two annotations may share one.

Shape legend: ``a`` annotations, ``n`` labels, ``m`` truth boxes, ``S`` source and ``C`` target
classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from relabel.datasets.dataset import Boxes
from relabel.geometry import BoxPairs, overlapping

CLOSE_IOU, LOOSE_IOU = 0.5, 0.3
NO_ANNOTATION, NO_LABEL_GIVEN = "(no annotation)", "(no label)"


@dataclass(frozen=True, eq=False)
class AnnotationsKept:
    """Annotations by source class, int64 [S] each.

    Attributes:
        names: S class names.
        total: all of them, without ignore regions.
        in_truth: those whose object the truth has.
        lost: of these, those that left no label.
        absent_kept: of the others, those that left one.
    """

    names: tuple[str, ...]
    total: np.ndarray
    in_truth: np.ndarray
    lost: np.ndarray
    absent_kept: np.ndarray

    @property
    def lost_share(self) -> float | None:
        """Of the annotations whose object the truth has, the share that left no label."""
        there = int(self.in_truth.sum())
        return int(self.lost.sum()) / there if there else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: sums, and the same by source class."""
        every = {
            name: _row(*(int(column[c]) for column in self._columns))
            for c, name in enumerate(self.names)
            if self.total[c]
        }
        return {**_row(*(int(column.sum()) for column in self._columns)), "per_class": every}

    @property
    def _columns(self) -> tuple[np.ndarray, ...]:
        return self.total, self.in_truth, self.lost, self.absent_kept


@dataclass(frozen=True, eq=False)
class SourceConfusion:
    """Truth objects by the source's class, their own class, and the class that they were given.

    Attributes:
        sources: S class names, then `NO_ANNOTATION`.
        classes: C class names; what was given may be `NO_LABEL_GIVEN` besides.
        counts: int64 [S + 1, C, C + 1].
    """

    sources: tuple[str, ...]
    classes: tuple[str, ...]
    counts: np.ndarray

    def to_dict(self) -> dict[str, dict[str, dict[str, int]]]:
        """JSON-ready: counts above 0 by source class, true class, given class."""
        given = (*self.classes, NO_LABEL_GIVEN)
        found: dict[str, dict[str, dict[str, int]]] = {}
        for s, c, g in np.argwhere(self.counts).tolist():
            by_class = found.setdefault(self.sources[s], {}).setdefault(self.classes[c], {})
            by_class[given[g]] = int(self.counts[s, c, g])
        return found


def objects_of(annotations: Boxes, truth: Boxes) -> BoxPairs:
    """Each annotation's truth boxes, by the rule above: left annotations, right truth boxes."""
    pairs = overlapping(annotations.xyxy, annotations.image, truth.xyxy, truth.image, LOOSE_IOU)
    close = pairs.iou >= CLOSE_IOU
    has_close = np.zeros(len(annotations), bool)
    has_close[pairs.left[close]] = True
    centre = (truth.xyxy[:, :2] + truth.xyxy[:, 2:])[pairs.right] / 2
    around = annotations.xyxy[pairs.left]
    inside = ((centre >= around[:, :2]) & (centre <= around[:, 2:])).all(axis=1)
    return pairs.take(close | (inside & ~has_close[pairs.left]))


def annotations_kept(
    names: Sequence[str], annotations: Boxes, labels: Boxes, truth: Boxes, objects: BoxPairs
) -> AnnotationsKept:
    """Count the annotations that left a label, and those that did not.

    Args:
        names: S source classes.
        annotations, labels, truth: on the same images, without ignore regions.
        objects: see `objects_of`.
    """
    found = overlapping(labels.xyxy, labels.image, annotations.xyxy, annotations.image, LOOSE_IOU)
    at_truth = overlapping(labels.xyxy, labels.image, truth.xyxy, truth.image, LOOSE_IOU)
    has_label = np.zeros(len(annotations), bool)
    has_label[found.right[found.iou >= CLOSE_IOU]] = True
    labelled = np.zeros(len(truth), bool)
    labelled[at_truth.right[at_truth.iou >= CLOSE_IOU]] = True
    has_label[objects.left[labelled[objects.right]]] = True
    if labels.provenance is not None:
        named = np.asarray(labels.provenance.source_id)
        own = named[found.left] == annotations.id[found.right]
        has_label[found.right[own]] = True
        has_label[_named_through_truth(named, annotations.id, at_truth, objects)] = True
    there = np.zeros(len(annotations), bool)
    there[objects.left] = True

    def count(rows: np.ndarray) -> np.ndarray:
        return np.bincount(annotations.category[rows], minlength=len(names))

    return AnnotationsKept(
        tuple(names),
        count(np.ones(len(annotations), bool)),
        count(there),
        count(there & ~has_label),
        count(~there & has_label),
    )


def source_confusion(
    sources: Sequence[str],
    classes: Sequence[str],
    annotations: Boxes,
    truth: Boxes,
    objects: BoxPairs,
    given: np.ndarray,
) -> SourceConfusion:
    """Count the truth objects by source class, true class and given class.

    Args:
        sources, classes: S and C class names.
        objects: see `objects_of`; a truth box goes by the annotation that overlaps it most.
        given: int64 [m], class of the label matched to each truth box, -1 for none.
    """
    source = np.full(len(truth), len(sources))
    order = np.argsort(objects.iou, kind="stable")
    # The last writer of a row stays: the annotation that overlaps most.
    source[objects.right[order]] = annotations.category[objects.left[order]]
    counts = np.zeros((len(sources) + 1, len(classes), len(classes) + 1), np.int64)
    np.add.at(counts, (source, truth.category, given), 1)  # -1 is the last column
    return SourceConfusion((*sources, NO_ANNOTATION), tuple(classes), counts)


def _named_through_truth(
    named: np.ndarray, ids: np.ndarray, at_truth: BoxPairs, objects: BoxPairs
) -> np.ndarray:
    """Annotations that a label on one of their truth boxes names: rows, some perhaps twice."""
    by_truth: dict[int, set[int]] = {}
    for label, box in zip(at_truth.left.tolist(), at_truth.right.tolist(), strict=True):
        by_truth.setdefault(box, set()).add(int(named[label]))
    rows = [
        row
        for row, box in zip(objects.left.tolist(), objects.right.tolist(), strict=True)
        if int(ids[row]) in by_truth.get(box, ())
    ]
    return np.array(rows, np.int64)


def _row(total: int, in_truth: int, lost: int, absent_kept: int) -> dict[str, Any]:
    return {
        "annotations": total,
        "in_truth": in_truth,
        "lost": lost,
        "lost_share": lost / in_truth if in_truth else None,
        "absent": total - in_truth,
        "absent_kept": absent_kept,
    }
