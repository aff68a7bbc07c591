"""Decisions put into the labels of a later run, whose model may have been trained anew.

Labels have no identity that outlives a run. A decision finds its label again by the annotation it
comes from, its class and its box; each label answers to one decision at most, the best pairs first.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from relabel.datasets.changes import pair_boxes
from relabel.datasets.dataset import Boxes, DetectionDataset, Provenance, make_boxes
from relabel.datasets.decisions import (
    ADD,
    HUMAN,
    REJECT,
    RESTORE,
    Before,
    Decided,
    decided_fields,
)
from relabel.datasets.removed import Removed
from relabel.geometry import iou_matrix, xywh_to_xyxy
from relabel.review.decisions import Decision, Review

REJECTED = "rejected in review"
SAME_IOU = 0.5
"""Overlap from which a label of the same class, or from the same annotation, is the decided one."""
SAME_PLACE_IOU = 0.7
"""Overlap from which it is whatever its class and origin are."""


@dataclass(frozen=True)
class Lost:
    """A decision that cannot be applied, and why."""

    decision: Decision
    why: str


@dataclass(frozen=True, eq=False)
class Reviewed:
    """A source's labels with the decisions in them.

    Attributes:
        after: as decided. Decided labels have score 1 and the fields of `Decided`, and no
            alternatives.
        removed: annotations without a label; those of rejected labels are `REJECTED`.
        rejected: labels that were turned down, on the same images: those that the run has, else as
            they were when they were turned down.
        counts: decisions that were applied, by verdict.
        lost: decisions whose image, annotation or class is no longer there.
    """

    after: DetectionDataset
    removed: Removed
    rejected: DetectionDataset
    counts: dict[str, int]
    lost: list[Lost]


def apply_all(
    before: DetectionDataset,
    after: DetectionDataset,
    removed: Removed,
    files: Sequence[Review],
) -> Reviewed:
    """`apply_decisions` of several files, one after the other: a later one has the last word."""
    none = after.boxes.take(np.zeros(0, np.int64))
    done = Reviewed(after, removed, replace(after, boxes=none), {}, [])
    for review in files:
        last = done
        done = apply_decisions(before, last.after, last.removed, review)
        boxes = Boxes.concatenate([last.rejected.boxes, done.rejected.boxes]).sorted_by_image()
        done = replace(
            done,
            rejected=replace(done.rejected, boxes=boxes),
            counts=dict(Counter(last.counts) + Counter(done.counts)),
            lost=[*last.lost, *done.lost],
        )
    return done


def told(reviewed: Reviewed) -> dict[str, Any]:
    """What became of the decisions, JSON-ready: how many by verdict, and those that are lost."""
    lost = [
        {
            "decision": one.decision.verdict,
            "file_name": one.decision.file_name,
            "category": one.decision.category,
            "bbox": one.decision.bbox,
            "decided_at": one.decision.decided_at,
            "why": one.why,
        }
        for one in reviewed.lost
    ]
    return {"applied": reviewed.counts, "lost": lost}


def apply_decisions(
    before: DetectionDataset,
    after: DetectionDataset,
    removed: Removed,
    review: Review,
) -> Reviewed:
    """Respect what was decided about a source's labels.

    A label that was accepted, changed, restored or added is in the result with the class and box
    decided on, in place of the model's for the same object, or beside the model's where it has none
    for it. A label like one that was rejected is taken out; where there is none, the rejection
    holds already.

    Args:
        before: the source as annotated.
        after: the same images relabelled, with provenance.
        removed: the annotations without a label of their own.
        review: of this source, or of several; decisions about others are passed over.
    """
    rows = {name: row for row, name in enumerate(before.images.file_name)}
    classes = {name: c for c, name in enumerate(after.space.names)}
    of_image: dict[int, list[Decision]] = defaultdict(list)
    lost = []
    for one in review.decisions:
        if one.dataset != before.name:
            continue
        if one.file_name not in rows:
            lost.append(Lost(one, "the image is gone"))
        elif one.category not in classes and one.verdict != REJECT:
            lost.append(Lost(one, f"the target has no class {one.category!r}"))
        else:
            of_image[rows[one.file_name]].append(one)
    left: dict[int, list[Decision]] = defaultdict(list)
    for one in review.left:
        if one.dataset == before.name and one.file_name in rows:
            left[rows[one.file_name]].append(one)
    edit = _Edit(before, after, classes)
    for row, here in sorted(of_image.items()):
        lost += edit.decide(row, here, left[row])
    done = edit.labels()
    return Reviewed(
        done,
        _still_removed(before, done, removed, edit.annotations_rejected),
        edit.rejected(),
        dict(Counter(one.verdict for one in edit.applied)),
        lost,
    )


class _Edit:
    """The labels of a source while decisions are put in."""

    def __init__(
        self, before: DetectionDataset, after: DetectionDataset, classes: dict[str, int]
    ) -> None:
        self.before, self.after, self.classes = before, after, classes
        origin = after.boxes.provenance
        self.origin = origin or Provenance.made(before.name, "source", len(after.boxes))
        self.keep = np.ones(len(after.boxes), bool)
        self.xyxy = after.boxes.xyxy
        self.made: list[tuple[int, Decision, str, int, str, float]] = []
        self.turned_down: list[tuple[int, Decision, int]] = []
        self.applied: list[Decision] = []
        self.annotations_rejected: set[int] = set()

    def decide(
        self, row: int, decisions: Sequence[Decision], left: Sequence[Decision]
    ) -> list[Lost]:
        """Put in the decisions about one image; returns those whose annotation is gone."""
        labels = self.after.objects(row)
        # Labels that were left alone take theirs, too, so that no decision about another does.
        found = self._find([*decisions, *left], labels)[: len(decisions)]
        lost = []
        for one, label in zip(decisions, found, strict=True):
            if one.verdict == REJECT:
                self._reject(row, one, label)
                continue
            annotation = self._annotation(row, one)
            if label is None and annotation is None and _names_one(one):
                lost.append(Lost(one, "the annotation it was made from is gone"))
                continue
            if label is not None:
                self.keep[label] = False
            self._put(row, one, label, annotation)
        return lost

    def _reject(self, row: int, one: Decision, label: int | None) -> None:
        if label is not None:
            self.keep[label] = False
            source = int(self.origin.source_id[label])
        else:
            annotation = self._annotation(row, one)
            source = -1 if annotation is None else int(self.before.boxes.id[annotation])
        if source >= 0:
            self.annotations_rejected.add(source)
        self.turned_down.append((row, one, source))
        self.applied.append(one)

    def _find(self, decisions: Sequence[Decision], labels: np.ndarray) -> list[int | None]:
        """The label of each decision, one-to-one, best pairs first."""
        found: list[int | None] = [None] * len(decisions)
        if not decisions or not len(labels):
            return found
        ids = self.origin.source_id[labels]
        wanted = [one.origin.source_annotation_id for one in decisions]
        same_source = np.array([[w is not None and w == i for i in ids] for w in wanted])
        then = [one.before or Before(one.category, one.bbox) for one in decisions]
        now = [Before(one.category, one.bbox) for one in decisions]
        # What the model gave says best which label is meant; one that it did not give, least.
        new = np.array([one.verdict in (ADD, RESTORE) for one in decisions])
        value = np.maximum(
            self._likeness(then, labels, same_source) * np.where(new, 0.5, 1.0)[:, None],
            self._likeness(now, labels, same_source) * 0.5,
        )
        for k in np.argsort(-value, axis=None, kind="stable"):
            d, at = np.unravel_index(k, value.shape)
            if value[d, at] <= 0:
                break
            if found[d] is None and int(labels[at]) not in found:
                found[d] = int(labels[at])
        return found

    def _likeness(
        self, wanted: Sequence[Before], labels: np.ndarray, same_source: np.ndarray
    ) -> np.ndarray:
        """How surely each label [n] is the one wanted [k]: [k, n], 0 where it is not."""
        iou = _overlap([one.bbox for one in wanted], self.xyxy[labels])
        classes = np.array([self.classes.get(one.category, -1) for one in wanted])
        same_class = classes[:, None] == self.after.boxes.category[labels][None, :]
        same = (iou >= SAME_IOU) & (same_class | same_source) | (iou >= SAME_PLACE_IOU)
        return np.where(same, iou + same_class + same_source, 0.0)

    def _annotation(self, row: int, one: Decision) -> int | None:
        """The box row of the annotation that a decision's label comes from."""
        source, box = one.origin.source_annotation_id, one.origin.source_bbox
        annotated = self.before.objects(row)
        if source is None or not len(annotated):
            return None
        boxes = self.before.boxes
        near = np.ones(len(annotated))
        if box is not None:
            near = _overlap([box], boxes.xyxy[annotated])[0]
        same_id = boxes.id[annotated] == source
        names = self.before.space.names
        same_class = np.array(
            [names[c] == one.origin.source_category for c in boxes.category[annotated]], bool
        )
        # Its id, where it still lies there; else one of its class in its place, numbered anew.
        fits = same_id & (near >= SAME_IOU)
        if box is not None:
            fits |= same_class & (near >= SAME_PLACE_IOU)
        if not fits.any():
            return None
        return int(annotated[np.where(fits, near + same_id, -1.0).argmax()])

    def _put(self, row: int, one: Decision, label: int | None, annotation: int | None) -> None:
        if label is not None:
            origin = self.origin.origin[label]
            source = int(self.origin.source_id[label])
            of_class = self.origin.source_category[label]
        else:
            origin, source, of_class = one.origin.origin or HUMAN, -1, ""
        if one.verdict in (ADD, RESTORE):
            origin = HUMAN if one.verdict == ADD else "source"
        if annotation is not None:
            boxes = self.before.boxes
            source = int(boxes.id[annotation])
            of_class = self.before.space.names[boxes.category[annotation]]
        self.made.append((row, one, origin, source, of_class, self._iou(one, row, source)))
        self.applied.append(one)

    def _iou(self, one: Decision, row: int, source: int) -> float:
        at = self.before.rows(row)
        here = np.flatnonzero(self.before.boxes.id[at] == source)
        if source < 0 or not len(here):
            return float("nan")
        return float(_overlap([one.bbox], self.before.boxes.xyxy[at][here[:1]])[0, 0])

    def labels(self) -> DetectionDataset:
        """The dataset as decided, its labels numbered anew."""
        if not self.made and self.keep.all():
            return self.after
        parts = [replace(self.after.boxes.take(self.keep), provenance=self.origin.take(self.keep))]
        if self.made:
            rows, decisions, origins, sources, of_classes, ious = zip(*self.made, strict=True)
            provenance = Provenance(
                self.origin.dataset,
                list(origins),
                np.array(sources, np.int64),
                list(of_classes),
                np.array(ious, np.float32),
            )
            category = [self.classes[one.category] for one in decisions]
            parts.append(_boxes(rows, decisions, category, provenance))
        if any(part.extra is not None for part in parts):
            parts = [
                part if part.extra is not None else replace(part, extra=[None] * len(part))
                for part in parts
            ]
        boxes = Boxes.concatenate(parts).sorted_by_image()
        boxes = replace(boxes, id=np.arange(1, len(boxes) + 1, dtype=np.int64))
        return replace(self.after, boxes=boxes)

    def rejected(self) -> DetectionDataset:
        """The labels that were turned down; of a class that the target lacks none is shown."""
        shown = [entry for entry in self.turned_down if entry[1].category in self.classes]
        rows = [row for row, _, _ in shown]
        decisions = [one for _, one, _ in shown]
        sources = np.array([source for _, _, source in shown], np.int64)
        of_class = [one.origin.source_category or "" for one in decisions]
        provenance = Provenance(
            self.origin.dataset,
            [one.origin.origin or HUMAN for one in decisions],
            sources,
            of_class,
            np.array([self._iou(one, row, source) for row, one, source in shown], np.float32),
        )
        category = [self.classes[one.category] for one in decisions]
        return replace(self.after, boxes=_boxes(rows, decisions, category, provenance))


def _boxes(
    rows: Sequence[int],
    decisions: Sequence[Decision],
    category: Sequence[int],
    provenance: Provenance,
) -> Boxes:
    fields = [
        decided_fields(Decided(HUMAN, one.verdict, one.decided_at, one.before)) for one in decisions
    ]
    return make_boxes(
        rows,
        [one.bbox for one in decisions],
        category,
        score=np.ones(len(rows)),
        extra=fields,
        provenance=provenance,
    )


def _names_one(one: Decision) -> bool:
    return one.origin.source_annotation_id is not None


def _overlap(xywh: Sequence[Sequence[float]], xyxy: np.ndarray) -> np.ndarray:
    """IoU [k, n] of k boxes xywh with n boxes xyxy."""
    return iou_matrix(xywh_to_xyxy(np.asarray(xywh, np.float64).reshape(-1, 4)), xyxy)


def _still_removed(
    before: DetectionDataset, after: DetectionDataset, removed: Removed, rejected: set[int]
) -> Removed:
    """The annotations without a label of their own, now that labels came and went."""
    labelled = np.zeros(len(before.boxes), bool)
    labelled[pair_boxes(before, replace(after, boxes=after.boxes.take(~after.boxes.ignore)))[1]] = (
        True
    )
    left = removed.take(~labelled[removed.row])
    gone = np.isin(before.boxes.id, list(rejected)) & ~labelled & ~before.boxes.ignore
    gone[left.row] = False
    rows = np.flatnonzero(gone)
    unknown = np.full(len(rows), np.nan, np.float32)
    new = Removed(rows, [REJECTED] * len(rows), unknown, np.full(len(rows), -1, np.int64), unknown)
    joined = Removed.concatenate([left, new])
    return joined.take(np.argsort(joined.row, kind="stable"))
