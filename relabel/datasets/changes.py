"""What a relabelling did to every annotation, and which labels it added.

Shape legend: ``n`` annotations, ``m`` labels, ``k`` pairs of the two, ``R`` source classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from relabel.datasets.alternatives import alternatives_of
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.removed import Removed
from relabel.geometry import paired_iou

BOTH = "renamed and reshaped"
CHANGES = ("kept", "renamed", "reshaped", BOTH, "split", "merged", "dropped")
"""Of an annotation: one label of the same class name in nearly the same box; one of another name;
one in another box; both; several labels; a label that names another annotation; none."""
SAME_BOX_IOU = 0.9
_KEPT, _RENAMED, _RESHAPED, _BOTH, _SPLIT, _MERGED, _DROPPED = range(len(CHANGES))
ADDED = len(CHANGES)
"""Of a label that comes from no annotation."""
assert _KEPT + _RENAMED + _RESHAPED == _BOTH
_NONE = -1


@dataclass(frozen=True, eq=False)
class Changes:
    """Annotations and labels of a relabelled dataset, ignore regions left out.

    Attributes:
        annotation: int8 [n], position in `CHANGES`, -1 of ignore regions and of classes to ignore.
        annotation_doubtful: bool [n], those with a label of which the class is one of several.
        label: int8 [m], of the annotation that a label comes from; `ADDED` without one, -1 as
            above.
    """

    annotation: np.ndarray
    annotation_doubtful: np.ndarray
    label: np.ndarray

    @property
    def added(self) -> np.ndarray:
        """bool [m], labels that come from no annotation."""
        return self.label == ADDED

    def words(self) -> tuple[list[str | None], list[str | None]]:
        """The change of every annotation and every label as a word, None for ignore regions."""
        words = [*CHANGES, "added", None]  # the last by -1
        return (
            [words[c] for c in self.annotation.tolist()],
            [words[c] for c in self.label.tolist()],
        )


@dataclass(frozen=True, eq=False)
class ChangeCounts:
    """How many annotations of each source class changed in which way.

    Attributes:
        classes: the R source classes.
        counts: int64 [R, 7], annotations by `CHANGES`.
        doubtful: int64 [R].
        added: labels that come from no annotation.
    """

    classes: list[str]
    counts: np.ndarray
    doubtful: np.ndarray
    added: int

    def to_dict(self) -> dict[str, dict[str, int]]:
        """By class with annotations; JSON-ready."""
        rows = zip(self.classes, self.counts.tolist(), self.doubtful.tolist(), strict=True)
        return {
            name: {**dict(zip(CHANGES, counts, strict=True)), "doubtful": doubtful}
            for name, counts, doubtful in rows
            if sum(counts)
        }


def pair_boxes(before: DetectionDataset, after: DetectionDataset) -> tuple[np.ndarray, np.ndarray]:
    """Rows [k] in ``after`` and in ``before`` of boxes joined by the source annotation's id."""
    provenance = after.boxes.provenance
    if provenance is None or not len(before.boxes) or not len(after.boxes):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    order = np.argsort(before.boxes.id, kind="stable")
    ids = before.boxes.id[order]
    wanted = np.asarray(provenance.source_id, dtype=np.int64)
    position = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    found = (wanted >= 0) & (ids[position] == wanted)
    return np.flatnonzero(found), order[position[found]]


def changes(before: DetectionDataset, after: DetectionDataset, removed: Removed) -> Changes:
    """Tell kept, renamed, reshaped, split, merged and dropped annotations, and added labels.

    A label of another class name is renamed; one whose IoU with the annotation is below
    `SAME_BOX_IOU` is reshaped.

    Args:
        before: as annotated.
        after: the same images relabelled, with provenance.
        removed: the annotations without a label of their own.
    """
    boxes = before.boxes
    to_rows, from_rows = pair_boxes(before, after)
    added = ~after.boxes.ignore
    added[to_rows] = False
    label = ~after.boxes.ignore[to_rows]
    to_rows, from_rows = to_rows[label], from_rows[label]
    labels = np.bincount(from_rows, minlength=len(boxes))
    merged = np.zeros(len(boxes), bool)
    merged[removed.row[removed.merged]] = True
    old, new = np.array(before.space.names), np.array(after.space.names)
    named = np.zeros(len(boxes), bool)
    named[from_rows[old[boxes.category[from_rows]] == new[after.boxes.category[to_rows]]]] = True
    same_box = np.zeros(len(boxes), bool)
    there, here = boxes.xyxy[from_rows], after.boxes.xyxy[to_rows]
    same = (there == here).all(axis=1) | (paired_iou(there, here) >= SAME_BOX_IOU)
    same_box[from_rows[same]] = True
    doubtful = np.zeros(len(boxes), bool)
    if after.boxes.extra is not None:
        several = [bool(alternatives_of(after.boxes, row)) for row in to_rows.tolist()]
        doubtful[from_rows[several]] = True
    change = np.select(
        [labels > 1, labels == 1, merged],
        [_SPLIT, _KEPT + ~named * _RENAMED + ~same_box * _RESHAPED, _MERGED],
        _DROPPED,
    ).astype(np.int8)
    change[boxes.ignore | (boxes.category >= before.space.num_classes)] = _NONE
    of_label = np.where(added, ADDED, _NONE).astype(np.int8)
    of_label[to_rows] = change[from_rows]
    return Changes(change, doubtful & (change != _NONE), of_label)


def change_counts(before: DetectionDataset, found: Changes) -> ChangeCounts:
    """The changes by source class."""
    classes = before.space.class_names
    counts = np.zeros((len(classes), len(CHANGES)), np.int64)
    real = found.annotation != _NONE
    np.add.at(counts, (before.boxes.category[real], found.annotation[real]), 1)
    of = before.boxes.category[found.annotation_doubtful]
    doubtful = np.bincount(of, minlength=len(classes))
    return ChangeCounts(list(classes), counts, doubtful, int(found.added.sum()))
