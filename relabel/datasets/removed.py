"""Source annotations that a relabelling left without a label of their own, and why.

Shape legend: ``n`` annotations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np

from relabel.datasets.dataset import Boxes, DetectionDataset
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.table import Table
from relabel.files.json_text import raw_fields
from relabel.geometry import overlapping

NO_LABEL = "no label reached its threshold"
MERGED = "merged into another label"
FIELD = "relabel_removed"
_MARK = f'"{FIELD}"'.encode()
_SAME_OBJECT_IOU = 0.5


@dataclass(frozen=True, eq=False)
class Removed(Table):
    """Annotations of a source that no label of the result names as its own.

    Attributes:
        row: int64 [n], box row in the source, rising; never an ignore region.
        reason: n strings, in the words that result and report show. Those that are `MERGED` have
            a label, which names another annotation.
        probability: float32 [n], that it is an object in the target's convention; NaN unknown.
        category: int64 [n], position of the best target class, -1 for none.
        score: float32 [n], of that class; NaN for none.
    """

    row: np.ndarray
    reason: Sequence[str]
    probability: np.ndarray
    category: np.ndarray
    score: np.ndarray

    @classmethod
    def none(cls) -> Removed:
        """No annotation."""
        ints, floats = np.zeros(0, np.int64), np.zeros(0, np.float32)
        return cls(ints, [], floats, ints, floats)

    @property
    def merged(self) -> np.ndarray:
        """bool [n], those that have a label, which names another annotation."""
        return np.array([reason == MERGED for reason in self.reason], bool)


def without_label(source: DetectionDataset, labelled: DetectionDataset) -> Removed:
    """The annotations whose id no label names in its provenance.

    The reason is `MERGED` where a label has IoU >= 0.5 with the annotation, else `NO_LABEL`.

    Args:
        source: as annotated.
        labelled: the same images relabelled; without provenance, no label names an annotation.
    """
    labels = labelled.boxes.take(~labelled.boxes.ignore)
    named = np.zeros(0, np.int64) if labels.provenance is None else labels.provenance.source_id
    rows = np.flatnonzero(~source.boxes.ignore & ~np.isin(source.boxes.id, named))
    gone = source.boxes.take(rows)
    file_names = {name: i for i, name in enumerate(source.images.file_name)}
    image = np.array([file_names.get(n, -1) for n in labelled.images.file_name], np.int64)
    near = overlapping(gone.xyxy, gone.image, labels.xyxy, image[labels.image], _SAME_OBJECT_IOU)
    merged = np.isin(np.arange(len(rows)), near.left).tolist()
    unknown = np.full(len(rows), np.nan, np.float32)
    return Removed(
        rows,
        [MERGED if there else NO_LABEL for there in merged],
        unknown,
        np.full(len(rows), -1, np.int64),
        unknown,
    )


def removed_annotations(
    source: DetectionDataset, removed: Removed, space: LabelSpace
) -> DetectionDataset:
    """The annotations as a dataset of the images that have any, in the source's label space.

    Their field `FIELD` holds ``reason``, ``probability``, ``category`` (the best class's name) and
    ``score``, the last three null where unknown.

    Args:
        space: the target's label space.
    """
    boxes = source.boxes.take(removed.row)
    before = [None] * len(boxes) if boxes.extra is None else boxes.extra
    fields = [
        {
            "reason": reason,
            "probability": _number(probability),
            "category": space.names[category] if category >= 0 else None,
            "score": _number(score),
        }
        for reason, probability, category, score in zip(
            removed.reason,
            removed.probability,
            removed.category.tolist(),
            removed.score,
            strict=True,
        )
    ]
    extra = [_with_field(old, new) for old, new in zip(before, fields, strict=True)]
    marked = source.with_boxes(replace(boxes, extra=extra))
    return marked.subset(np.unique(boxes.image))


def removed_from(
    annotations: DetectionDataset, source: DetectionDataset, space: LabelSpace
) -> Removed:
    """The table that `removed_annotations` wrote into a file; annotations go by their ids.

    Args:
        annotations: as read from the file.
        source: as annotated; what it has not is passed over.
        space: the target's label space.
    """
    classes = {name: c for c, name in enumerate(space.names)}
    rows = {int(id): row for row, id in enumerate(source.boxes.id)}
    found = []
    for k, id in enumerate(annotations.boxes.id.tolist()):
        told = removed_field(annotations.boxes, k)
        if told is not None and id in rows:
            values = (told.get(name) for name in ("probability", "score"))
            found.append(
                (
                    rows[id],
                    str(told.get("reason", "")),
                    classes.get(str(told.get("category")), -1),
                    *(v if isinstance(v, int | float) else np.nan for v in values),
                )
            )
    row, reason, category, probability, score = (
        zip(*sorted(found), strict=True) if found else ((),) * 5
    )
    return Removed(
        np.array(row, np.int64),
        list(reason),
        np.array(probability, np.float32),
        np.array(category, np.int64),
        np.array(score, np.float32),
    )


def removed_field(boxes: Boxes, row: int) -> dict[str, Any] | None:
    """What `removed_annotations` says of one box; None where it says nothing."""
    fields = None if boxes.extra is None else boxes.extra[row]
    if not fields or _MARK not in fields:
        return None
    try:
        found = msgspec.json.decode(raw_fields(fields).get(FIELD, b"null"))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return found if isinstance(found, dict) else None


def _with_field(fields: bytes | None, value: dict[str, Any]) -> bytes:
    return msgspec.json.encode({**raw_fields(fields), FIELD: value})


def _number(value: np.floating) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)
