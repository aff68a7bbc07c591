"""Transfer: a source dataset's images, annotations and pseudo-labels into target-space boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from relabel.crosslabel.pseudo import PseudoLabels
from relabel.datasets.alternatives import alternatives_field
from relabel.datasets.dataset import UNCERTAIN, DetectionDataset, Provenance, make_boxes
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.pixels.batches import ImageBatches
from relabel.datasets.removed import Removed
from relabel.datasets.table import ImageTable
from relabel.errors import DataError, Problems
from relabel.geometry import aligned_iou, iou_matrix, xyxy_to_xywh
from relabel.lat.boxes import BoxError, restyle
from relabel.lat.calibrate import Predictions, candidates
from relabel.lat.checkpoint import TrainedTransfer
from relabel.lat.decide import Decided, decide
from relabel.lat.model import ProposalBatch
from relabel.lat.proposals import (
    PLACE,
    Proposals,
    annotation_numbers,
    image_proposals,
    image_truth,
)
from relabel.settings import Runtime
from relabel.training.loop import resolve_device
from relabel.workspace.columns import (
    AGAIN,
    Shard,
    column,
    image_column,
    iterate,
    join,
    read_shard,
    write_shard,
)
from relabel.workspace.progress import Progress, progress
from relabel.workspace.stage import Shards

SHARD_IMAGES = 256
IMAGES_PER_BATCH = 4
PROVENANCE_IOU = 0.5
SOURCE = "source"
# From this confidence a specialist's box takes part in measuring the style of boxes.
SEEN_SCORE = 0.2
UNREAD = "the image could not be read"
_NONE = Predictions(
    np.zeros((0, 4), np.float32),
    np.zeros(0, np.float32),
    np.zeros(0, np.int64),
    np.zeros(0, np.int64),
    np.zeros(0, np.int64),
    np.zeros(0, bool),
)


@dataclass(frozen=True, eq=False, kw_only=True)
class PredictionShard(Shard):
    """Predictions of images, before thresholds.

    Attributes:
        offsets: int64 [B + 1].
        boxes: float32 [n, 4] xyxy.
        scores: float32 [n], falling within an image.
        classes: int64 [n], position in the target space.
        space: int64 [n], position of the label space of the proposal behind it.
        source_row: int64 [n], box row of that proposal in the source, -1 for a pseudo-label.
        place: bool [n], see `Predictions`.
    """

    offsets: np.ndarray
    boxes: np.ndarray = column("float32", "offsets", wide=True)
    scores: np.ndarray = column("float32", "offsets")
    classes: np.ndarray = column("int64", "offsets")
    space: np.ndarray = column("int64", "offsets")
    source_row: np.ndarray = column("int64", "offsets")
    place: np.ndarray = column("bool", "offsets")

    KIND: ClassVar[str] = "predictions"


def transfer(
    model: Path,
    source: DetectionDataset,
    labels: Mapping[str, PseudoLabels],
    out: Path,
    runtime: Runtime,
    *,
    with_uncertain: bool = False,
) -> tuple[DetectionDataset, Removed]:
    """Rewrite one source dataset into the model's target space.

    Proposals are the source's annotations and every other space's pseudo-labels. The finished
    shards in ``out`` are reused. What becomes a label is decided in `relabel.lat.decide`.

    Args:
        model: folder that `train_lat` wrote.
        labels: pseudo-labels on ``source`` by the name of their label space.
        with_uncertain: add what is neither surely an object nor surely background as ignore
            regions of origin `UNCERTAIN`, for a detector's training.

    Returns:
        The source's images with target-space boxes, scores, alternatives and provenance, and the
        annotations that left no label. Scores are probabilities of being right. Ignore regions of
        the source stay ignore regions, under the target class that their source class mostly
        became.

    Raises:
        DataError: a damaged model or shard, shards of another transfer, or an image that cannot
            be read (unless ``skip_bad``).
    """
    device = resolve_device(runtime.device)
    trained = TrainedTransfer.load(model, device)
    shards = Shards(out, total=max(1, len(source)), size=SHARD_IMAGES)
    run = {"source": source.name, "images": len(source), "target": trained.target}
    title = f"Transferring {source.name} into {trained.target}"
    with progress(title, total=len(source), unit="img", quiet=runtime.quiet) as bar:
        for number, file in enumerate(shards.paths):
            at = shards.items(number)
            rows = np.arange(at.start, min(at.stop, len(source)))
            if file.is_file():
                bar.update(len(rows))
            else:
                write_shard(file, _transfer_rows(trained, source, labels, rows, run, runtime, bar))
    found = join(list(iterate(shards.paths, partial(read_shard, kind=PredictionShard))))
    if found.run != run:
        raise DataError("holds shards of another transfer", file=out, remedy=AGAIN)
    space = trained.joint.spaces[trained.joint.position(trained.target)]
    return _assemble(found, source, space, trained, labels.get(trained.target), with_uncertain)


def _transfer_rows(
    trained: TrainedTransfer,
    source: DetectionDataset,
    labels: Mapping[str, PseudoLabels],
    rows: np.ndarray,
    run: Mapping[str, Any],
    runtime: Runtime,
    bar: Progress,
) -> PredictionShard:
    nothing = np.zeros(0, np.int64)
    parts = [_shard(run, nothing, _NONE, nothing, nothing)]
    with ImageBatches(
        source,
        rows=rows,
        batch_size=IMAGES_PER_BATCH,
        workers=runtime.workers,
        problems=Problems(runtime.skip_bad),
    ) as batches:
        for found_rows, images in batches:
            proposals = [_proposals(trained, source, int(r), labels) for r in found_rows]
            regions = trained.features.pool(images, [p.boxes for p in proposals])
            for row, p, region in zip(found_rows, proposals, regions, strict=True):
                size = int(source.images.width[row]), int(source.images.height[row])
                found = _predict(trained, p, region, size)
                of = found.rows
                parts.append(_shard(run, np.array([row]), found, p.space[of], p.source_row[of]))
            bar.update(len(found_rows))
    return join(parts)


def _proposals(
    trained: TrainedTransfer, source: DetectionDataset, row: int, labels: Mapping[str, PseudoLabels]
) -> Proposals:
    found = image_proposals(source, row, trained.joint, labels, trained.settings)
    annotated = np.flatnonzero(found.variant > 0)
    return trained.places.add_to(found, annotated, found.scores[annotated].argmax(axis=1))


def _shard(
    run: Mapping[str, Any],
    row: np.ndarray,
    found: Predictions,
    space: np.ndarray,
    source_row: np.ndarray,
) -> PredictionShard:
    """The predictions of one image, or of none."""
    return PredictionShard(
        run=run,
        row=row.astype(np.int32),
        offsets=np.array([0, len(found)] if len(row) else [0]),
        boxes=found.boxes.astype(np.float32),
        scores=found.scores.astype(np.float32),
        classes=found.classes.astype(np.int64),
        space=space.astype(np.int64),
        source_row=source_row,
        place=found.place,
    )


def _predict(
    trained: TrainedTransfer, p: Proposals, region: np.ndarray, size: tuple[int, int]
) -> Predictions:
    if len(p) == 0:
        return _NONE
    confidence = np.where(p.variant > 0, 1.0, p.scores.max(axis=1)).astype(np.float32)
    t = torch.from_numpy
    batch = ProposalBatch(
        t(region.astype(np.float32))[None],
        t(p.boxes)[None],
        t(p.scores)[None],
        t(confidence)[None],
        torch.ones(1, len(p), dtype=torch.bool),
        torch.tensor([size], dtype=torch.float32),
    ).to(trained.features.device)
    scores, boxes = trained.predict(batch)
    annotation = annotation_numbers(p, p.variant > 0)
    return candidates(scores[0], boxes[0], annotation, p.variant == PLACE)


@dataclass(frozen=True, eq=False)
class DraftLabels(ImageTable):
    """Labels of consecutive images in the making; columns of equal length ``n``.

    Attributes:
        others: bool [n, Ct], classes that a label may be of as well.
        rows: box row of the source annotation each label lies on, -1 where there is none.
        iou: with that annotation, NaN where there is none.
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


def _assemble(
    found: PredictionShard,
    source: DetectionDataset,
    space: LabelSpace,
    trained: TrainedTransfer,
    specialist: PseudoLabels | None,
    with_uncertain: bool,
) -> tuple[DetectionDataset, Removed]:
    """Decide per image, carry ignore regions over, add provenance."""
    ends = np.searchsorted(image_column(found), np.arange(len(source) + 1))
    names = [s.name for s in trained.joint.spaces]
    first_class = trained.joint.slice(source.name).start
    parts, gone = [], [Removed.none()]
    for row in range(len(source)):
        index = np.arange(ends[row], ends[row + 1])
        annotated = source.objects(row)
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
        if not len(here) and len(boxes):  # every annotation has a prediction where it was read
            nothing = np.full(len(annotated), np.nan, np.float32)
            none = np.full(len(annotated), -1)
            gone.append(Removed(annotated, [UNREAD] * len(annotated), nothing, none, nothing))
            continue
        decided, left = decide(here, boxes, first_class + classes, trained.calibration)
        if not with_uncertain:
            decided = decided.take(~decided.uncertain)
        by = [f"pseudo:{names[s]}" for s in found.space[index[decided.rows]].tolist()]
        parts.append(_made(row, decided, annotated, by, source))
        # One that a pseudo-label or a further class of its own was found on has a label.
        left = left.take(~np.isin(annotated[left.annotation], parts[-1].rows))
        gone.append(
            Removed(
                annotated[left.annotation],
                left.reason,
                left.probability.astype(np.float32),
                left.category,
                left.score.astype(np.float32),
            )
        )
    made = DraftLabels.concatenate([_no_labels(space), *parts])
    if trained.calibration.box_error is not None and trained.settings.has("box-blending"):
        error, places = trained.calibration.box_error, trained.places
        placed = {
            (int(c) - first_class, int(g)): move
            for c, g, move in zip(places.of, places.to, places.moves, strict=True)
        }
        made = _restyled(made, source, error, specialist, placed)
    made = DraftLabels.concatenate([made, _regions(source, made)])
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
    return source.with_boxes(boxes, space), Removed.concatenate(gone)


def _made(
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
        ["source"] * len(at),
    )


def _restyled(
    made: DraftLabels,
    source: DetectionDataset,
    error: BoxError,
    specialist: PseudoLabels | None,
    placed: Mapping[tuple[int, int], np.ndarray],
) -> DraftLabels:
    """The labels after `restyle`, with their boxes' IoU with the annotations.

    Those alone that are made of an annotation: one that a pseudo-label made on it, as a rider on a
    cyclist, may be a part of it.
    """
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
        _seen(made.take(at), source, specialist),
        placed,
    )
    limit = np.stack([source.images.width, source.images.height] * 2, axis=1)[made.image[at]]
    boxes, iou = made.boxes.astype(np.float64), made.iou.copy()
    boxes[at] = np.clip(moved, 0, limit)
    annotated = source.boxes.xyxy[rows].astype(np.float64)
    iou[at] = aligned_iou(torch.from_numpy(boxes[at]), torch.from_numpy(annotated)).numpy()
    return replace(made, boxes=boxes, iou=iou)


def _seen(
    made: DraftLabels, source: DetectionDataset, specialist: PseudoLabels | None
) -> np.ndarray:
    """The target's specialist's box of each label, xyxy [k, 4]: of its class, nearest, or NaN."""
    seen = np.full((len(made), 4), np.nan)
    if specialist is None:
        return seen
    labels = specialist.filter(SEEN_SCORE)
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
