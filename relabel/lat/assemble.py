"""From predictions to a source's labels: decided, boxes in the target's style, with provenance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from relabel.crosslabel.pseudo import PseudoLabels
from relabel.datasets.alternatives import alternatives_field
from relabel.datasets.dataset import UNCERTAIN, DetectionDataset, Provenance, make_boxes
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.removed import Removed
from relabel.datasets.table import ImageTable
from relabel.detectors.base import ranked
from relabel.geometry import aligned_iou, iou_matrix, xyxy_to_xywh
from relabel.lat.boxes import restyle
from relabel.lat.calibrate import Predictions
from relabel.lat.checkpoint import TrainedTransfer
from relabel.lat.decide import Decided, decide
from relabel.lat.proposals import image_truth
from relabel.settings import Ranking
from relabel.workspace.columns import Shard, column, image_column

PROVENANCE_IOU = 0.5
SOURCE = "source"
# From this confidence a specialist's box takes part in measuring the style of boxes.
SEEN_SCORE = 0.2
UNREAD = "the image could not be read"


@dataclass(frozen=True, eq=False, kw_only=True)
class PredictionShard(Shard):
    """Predictions of images, before thresholds.

    Attributes:
        offsets: int64 [B + 1].
        boxes, scores, classes, place: see `Predictions`.
        space: int64 [n], position of the label space of the proposal behind it.
        source_row: int64 [n], box row of that proposal in the source, -1 for a pseudo-label.
    """

    offsets: np.ndarray
    boxes: np.ndarray = column("float32", "offsets", wide=True)
    scores: np.ndarray = column("float32", "offsets")
    classes: np.ndarray = column("int64", "offsets")
    space: np.ndarray = column("int64", "offsets")
    source_row: np.ndarray = column("int64", "offsets")
    place: np.ndarray = column("bool", "offsets")

    KIND: ClassVar[str] = "predictions"


@dataclass(frozen=True, eq=False)
class DraftLabels(ImageTable):
    """Labels of consecutive images in the making.

    Attributes:
        image: int [n], row of the image.
        boxes, classes, scores, others: see `Decided`.
        ignore: bool [n], regions to leave out.
        rows: int64 [n], box row of the source annotation each lies on, -1 where there is none.
        iou: float64 [n], with that annotation, NaN where there is none.
        origin: n strings, see `Provenance`.
    """

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    ignore: np.ndarray
    others: np.ndarray
    rows: np.ndarray
    iou: np.ndarray
    origin: list[str]


def assemble(
    found: PredictionShard,
    source: DetectionDataset,
    trained: TrainedTransfer,
    specialist: PseudoLabels | None,
    *,
    with_uncertain: bool,
) -> tuple[DetectionDataset, Removed]:
    """Decide per image, draw in the target's style, carry ignore regions over, add provenance.

    Args:
        found: predictions of all images of ``source`` that could be read.
        specialist: the target's specialist's labels on ``source``, which show its style.
        with_uncertain: see `relabel.lat.transfer.transfer`.

    Returns:
        See `relabel.lat.transfer.transfer`.
    """
    ends = np.searchsorted(image_column(found), np.arange(len(source) + 1))
    names = [s.name for s in trained.joint.spaces]
    first_class = trained.joint.slice(source.name).start
    parts, gone = [_no_labels(trained.space)], [Removed.none()]
    for row in range(len(source)):
        index = np.arange(ends[row], ends[row + 1])
        annotated = source.objects(row)
        if not len(index) and len(annotated):  # where it was read each has a prediction
            nothing = np.full(len(annotated), np.nan, np.float32)
            none = np.full(len(annotated), -1)
            gone.append(Removed(annotated, [UNREAD] * len(annotated), nothing, none, nothing))
            continue
        own = found.source_row[index]
        here = Predictions(
            found.boxes[index],
            found.scores[index],
            found.classes[index],
            index,
            np.where(own >= 0, np.searchsorted(annotated, own), -1),
            found.place[index],
        )
        boxes, classes, _ = image_truth(source, row)
        decided, left = decide(here, boxes, first_class + classes, trained.calibration)
        if not with_uncertain:
            decided = decided.take(~decided.uncertain)
        by = [f"pseudo:{names[s]}" for s in found.space[index[decided.rows]].tolist()]
        parts.append(_draft(row, decided, annotated, by, source))
        # One that a pseudo-label or a further class of its own was found on has a label.
        left = replace(left, row=annotated[left.row])
        gone.append(left.take(~np.isin(left.row, parts[-1].rows)))
    made = _restyled(DraftLabels.concatenate(parts), source, trained, specialist)
    made = DraftLabels.concatenate([made, _regions(source, made)])
    return _with_provenance(made, source, trained.space), Removed.concatenate(gone)


def _draft(
    row: int,
    decided: Decided,
    annotated: np.ndarray,
    by: Sequence[str],
    source: DetectionDataset,
) -> DraftLabels:
    """Labels of one image.

    Args:
        annotated: box rows of the image's annotations [A].
        by: origin of each label that is not an annotation.
    """
    own = np.full(len(decided), -1, np.int64)
    is_own = decided.annotation >= 0
    own[is_own] = annotated[decided.annotation[is_own]]
    linked, iou = link_to_source(decided.boxes, own, source, row)
    origin = np.where(decided.uncertain, UNCERTAIN, np.where(is_own, SOURCE, by)).tolist()
    # An annotation that the target leaves out has no box of the target's to learn a style from.
    linked[decided.uncertain] = -1
    iou[decided.uncertain] = np.nan
    return DraftLabels(
        np.full(len(decided), row),
        decided.boxes,
        decided.classes,
        decided.scores,
        decided.uncertain,
        decided.others,
        linked,
        iou,
        origin,
    )


def _no_labels(space: LabelSpace) -> DraftLabels:
    ints, floats = np.zeros(0, np.int64), np.zeros(0)
    others = np.zeros((0, space.num_classes), bool)
    return DraftLabels(
        ints, np.zeros((0, 4)), ints, floats, np.zeros(0, bool), others, ints, floats, []
    )


def _regions(source: DetectionDataset, made: DraftLabels) -> DraftLabels:
    """The source's ignore regions, under the class that their own mostly became."""
    at = np.flatnonzero(source.boxes.ignore)
    usual = usual_target(made.rows, made.classes, source)
    return DraftLabels(
        source.boxes.image[at],
        source.boxes.xyxy[at],
        usual[source.boxes.category[at]],
        np.full(len(at), np.nan),
        np.ones(len(at), bool),
        np.zeros((len(at), made.others.shape[1]), bool),
        at,
        np.ones(len(at)),
        [SOURCE] * len(at),
    )


def _with_provenance(
    made: DraftLabels, source: DetectionDataset, space: LabelSpace
) -> DetectionDataset:
    """The source's images with the labels as boxes of the target's space."""
    linked = made.rows >= 0
    ids = np.where(linked, source.boxes.id[made.rows] if len(source.boxes) else -1, -1)
    names = source.space.names
    categories = [names[source.boxes.category[r]] if r >= 0 else "" for r in made.rows.tolist()]
    boxes = make_boxes(
        made.image,
        np.round(xyxy_to_xywh(made.boxes.astype(np.float64)), 3),
        made.classes,
        score=np.round(made.scores.astype(np.float64), 6),
        ignore=made.ignore,
        extra=alternatives_field(made.others, space),
        provenance=Provenance(
            source.name, made.origin, ids, categories, made.iou.astype(np.float32)
        ),
    )
    # Numbered after sorting by image, so that ids rise through the file.
    boxes = replace(boxes, id=np.arange(1, len(boxes) + 1, dtype=np.int64))
    return source.with_boxes(boxes, space)


def _restyled(
    made: DraftLabels,
    source: DetectionDataset,
    trained: TrainedTransfer,
    specialist: PseudoLabels | None,
) -> DraftLabels:
    """The labels after `restyle`, with their boxes' IoU with the annotations.

    Those alone that are made of an annotation: one that a pseudo-label made on it, as a rider on a
    cyclist, may be a part of it.
    """
    error, places = trained.calibration.box_error, trained.places
    if error is None or not trained.settings.has("box-blending"):
        return made
    first_class = trained.joint.slice(source.name).start
    placed = {
        (int(c) - first_class, int(g)): move
        for c, g, move in zip(places.of, places.to, places.moves, strict=True)
    }
    at = np.flatnonzero(np.array([name == SOURCE for name in made.origin], bool))
    rows = made.rows[at]
    moved = restyle(
        made.boxes[at],
        made.classes[at],
        made.scores[at],
        rows,
        source.boxes.xyxy,
        source.boxes.category,
        error,
        _seen(made.take(at), specialist, trained.settings.confidence),
        placed,
    )
    limit = np.stack([source.images.width, source.images.height] * 2, axis=1)[made.image[at]]
    boxes, iou = made.boxes.astype(np.float64), made.iou.copy()
    boxes[at] = np.clip(moved, 0, limit)
    annotated = source.boxes.xyxy[rows].astype(np.float64)
    iou[at] = aligned_iou(torch.from_numpy(boxes[at]), torch.from_numpy(annotated)).numpy()
    return replace(made, boxes=boxes, iou=iou)


def _seen(made: DraftLabels, specialist: PseudoLabels | None, confidence: Ranking) -> np.ndarray:
    """The target's specialist's box of each label, xyxy [k, 4]: of its class, nearest, or NaN."""
    seen = np.full((len(made), 4), np.nan)
    if specialist is None:
        return seen
    sure = ranked(specialist.score, specialist.quality, confidence)
    labels = specialist.take(sure >= np.float32(SEEN_SCORE))
    rows, start = np.unique(made.image, return_index=True)
    for row, at in zip(rows.tolist(), np.split(np.arange(len(made)), start[1:]), strict=False):
        of = labels.rows(row)
        iou = iou_matrix(made.boxes[at], labels.boxes[of])
        iou[made.classes[at][:, None] != labels.category[of][None, :]] = 0
        hit = iou.max(axis=1, initial=0) >= PROVENANCE_IOU
        if hit.any():
            seen[at[hit]] = labels.boxes[of][iou[hit].argmax(axis=1)]
    return seen


def link_to_source(
    boxes: np.ndarray, own: np.ndarray, source: DetectionDataset, row: int
) -> tuple[np.ndarray, np.ndarray]:
    """The source annotation behind each new box: its own proposal's, or the one it lies on.

    Returns:
        box rows of the source int64 [k], -1 where none overlaps by half; IoU with it (NaN there).
    """
    at = source.rows(row)
    iou = iou_matrix(boxes, source.boxes.xyxy[at])
    linked = own.astype(np.int64).copy()
    values = np.full(len(boxes), np.nan)
    if iou.shape[1]:
        best = iou.argmax(axis=1)
        lies = (linked < 0) & (iou[np.arange(len(boxes)), best] >= PROVENANCE_IOU)
        linked[lies] = at.start + best[lies]
        has = linked >= 0
        values[has] = iou[np.flatnonzero(has), linked[has] - at.start]
    return linked, values


def usual_target(rows: np.ndarray, classes: np.ndarray, source: DetectionDataset) -> np.ndarray:
    """The target class each source class mostly became, int64 [len(source.space)]."""
    table = np.zeros((len(source.space), int(classes.max(initial=0)) + 1), np.int64)
    linked = rows >= 0
    np.add.at(table, (source.boxes.category[rows[linked]], classes[linked]), 1)
    # A class that became nothing takes what was most frequent over all.
    return np.where(table.sum(axis=1) > 0, table.argmax(axis=1), table.sum(axis=0).argmax())
