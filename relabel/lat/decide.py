"""Three decisions about every source annotation: is it an object of the target, of which class or
classes, with which box; and which objects the source has not annotated.

What annotators saw is evidence: an annotation goes only if the target leaves it out more likely
than not, never because no single class is sure.

Shape legend: ``k`` predictions of an image, ``A`` its source annotations, ``Ct`` target classes,
``n`` labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from relabel.datasets.removed import MERGED, Removed
from relabel.datasets.table import Table
from relabel.geometry import first_of_each, iou_matrix
from relabel.lat.calibrate import (
    NMS_IOU,
    Calibration,
    Predictions,
    annotation_scores,
    best_and_others,
    existence_score,
    not_taken,
)

LEFT_OUT = "the target leaves it out"
TOO_SMALL = "too small for the target"

LIKELY = 0.5
"""Probability from which an annotation stays, and from which a prediction becomes a label."""
POSSIBLE = 0.15
"""Probability from which what is no label is no background either where a detector is trained."""
# Another class is an alternative from this share of the best one's probability.
_ALTERNATIVE = 0.2
# Two annotations whose labels of one class overlap more than this are one object, unless the
# source gave both one class: then only copies are.
_COPY_IOU = 0.9


@dataclass(frozen=True, eq=False)
class Decided(Table):
    """Labels of one image, the surest first.

    Attributes:
        boxes: float32 [n, 4] xyxy.
        classes: int64 [n], position in the target space.
        scores: float64 [n], probability of being right, see `Calibration`.
        rows: int64 [n], position among the predictions.
        annotation: int64 [n], the annotation that each is made of, -1 for none.
        others: bool [n, Ct], further classes that each may be of.
        uncertain: bool [n], neither surely an object nor surely background.
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    rows: np.ndarray
    annotation: np.ndarray
    others: np.ndarray
    uncertain: np.ndarray


def decide(
    found: Predictions,
    annotations: np.ndarray,
    source_classes: np.ndarray,
    calibration: Calibration,
) -> tuple[Decided, Removed]:
    """The labels of one image, and the annotations that leave none, counted within the image.

    Args:
        annotations: the source's boxes, xyxy [A, 4].
        source_classes: their classes [A] in the joint space: what the target leaves out is told
            by class, and so are two objects from one annotated twice.
    """
    count, classes = len(annotations), len(calibration.classes)
    table = annotation_scores(found, count, classes)
    exists = calibration.existence(existence_score(table), source_classes)
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1e-9)
    best = table.argmax(axis=1)
    first, other = best_and_others(found, table)
    sure = exists * share[np.arange(count), best]
    gone = exists < LIKELY
    merged = _merged(found, first, best, annotations, source_classes, np.where(gone, -1.0, sure))
    kept = np.flatnonzero(~gone & ~merged)
    kept = kept[np.argsort(-sure[kept], kind="stable")]
    possible = share >= _ALTERNATIVE * share.max(axis=1, initial=0, keepdims=True)
    possible[np.arange(count), best] = False

    chance = np.zeros(len(found))
    for c in np.unique(found.classes):
        at = found.classes == c
        chance[at] = calibration.classes[c](found.scores[at])
    chance[~other] = -1.0  # decided above
    taken = not_taken(found, first[kept], chance, POSSIBLE, calibration.overlaps)
    labels, doubtful = taken[chance[taken] >= LIKELY], taken[chance[taken] < LIKELY]
    doubtful_own = np.flatnonzero(gone & (exists >= POSSIBLE))

    rows = np.concatenate([first[kept], labels, doubtful, first[doubtful_own]])
    scores = np.concatenate([sure[kept], chance[labels], chance[doubtful], sure[doubtful_own]])
    others = np.zeros((len(rows), classes), bool)
    others[: len(kept)] = possible[kept]
    uncertain = np.arange(len(rows)) >= len(kept) + len(labels)
    decided = Decided(
        found.boxes[rows],
        found.classes[rows],
        scores,
        rows,
        found.annotation[rows],
        others,
        uncertain,
    )
    left = np.flatnonzero(gone | merged)
    side = (annotations[left, 2:] - annotations[left, :2]).max(axis=1, initial=0)
    reason = np.where(side < calibration.smallest, TOO_SMALL, LEFT_OUT)
    reason = np.where(merged[left], MERGED, reason)
    exists, sure = exists.astype(np.float32), sure.astype(np.float32)
    return decided, Removed(left, reason.tolist(), exists[left], best[left], sure[left])


def _merged(
    found: Predictions,
    first: np.ndarray,
    best: np.ndarray,
    annotations: np.ndarray,
    source_classes: np.ndarray,
    sure: np.ndarray,
) -> np.ndarray:
    """bool [A]: annotations whose label is that of a surer one; those with sure < 0 take no part.

    A source's rider and bicycle become one cyclist: their predictions meet, though their boxes do
    not. Two of one source class are two objects, as near as they are, unless they are copies.
    """
    merged = np.zeros(len(first), bool)
    if len(first) < 2:
        return merged
    boxes = found.boxes[first]
    limit = np.where(source_classes[:, None] == source_classes[None, :], _COPY_IOU, NMS_IOU)
    limit = np.where(best[:, None] == best[None, :], limit, np.inf)
    same = iou_matrix(boxes, boxes) > limit
    order = np.argsort(-sure, kind="stable")
    order = order[sure[order] >= 0]
    merged[order] = ~first_of_each(same[order][:, order])
    return merged
