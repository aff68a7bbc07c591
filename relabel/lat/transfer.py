"""Transfer: a source dataset's images, annotations and pseudo-labels into target-space boxes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
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
from relabel.datasets.table import ImageTable
from relabel.errors import DataError, Problems
from relabel.geometry import aligned_iou, iou_matrix, xyxy_to_xywh
from relabel.lat.boxes import BoxError, restyle
from relabel.lat.checkpoint import TrainedTransfer
from relabel.lat.class_sets import alternatives, evidence
from relabel.lat.model import ProposalBatch
from relabel.lat.proposals import Proposals, image_proposals, image_truth
from relabel.lat.select import Labels, adapt_thresholds, candidates, ignore_band, select_final
from relabel.lat.settings import LatSettings
from relabel.settings import Runtime
from relabel.training.loop import resolve_device
from relabel.workspace.atomic import atomic_write_bytes
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
SCORED = "scored.json"
_NONE = Labels(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), *(np.zeros(0, np.int64),) * 2)


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
    """

    offsets: np.ndarray
    boxes: np.ndarray = column("float32", "offsets", wide=True)
    scores: np.ndarray = column("float32", "offsets")
    classes: np.ndarray = column("int64", "offsets")
    space: np.ndarray = column("int64", "offsets")
    source_row: np.ndarray = column("int64", "offsets")

    KIND: ClassVar[str] = "predictions"


def transfer(
    model: Path,
    source: DetectionDataset,
    labels: Mapping[str, PseudoLabels],
    out: Path,
    settings: LatSettings,
    runtime: Runtime,
    *,
    with_ignore_band: bool = False,
) -> DetectionDataset:
    """Rewrite one source dataset into the model's target space.

    Proposals are the source's annotations and every other space's pseudo-labels. The finished
    shards in ``out`` are reused. ``out/scored.json`` receives all predictions with their scores,
    as a COCO results list, for measuring AP without a threshold.

    Args:
        model: folder that `train_lat` wrote.
        labels: pseudo-labels on ``source`` by the name of their label space.
        with_ignore_band: add what is neither surely an object nor surely background as ignore
            regions of origin `UNCERTAIN`, or, where there is an object of doubtful class,
            as labels of that origin; see ``settings.ignore_band`` and ``settings.label_sets``.

    Returns:
        The source's images with target-space boxes, scores and provenance. Ignore regions of the
        source stay ignore regions, under the target class that their source class mostly became.

    Raises:
        DataError: a damaged model or shard, shards of another transfer, or an image that cannot
            be read (unless ``skip_bad``).
    """
    device = resolve_device(runtime.device)
    settings = settings.resolved()
    trained = TrainedTransfer.load(model, device)
    # Thresholds and NMS of the settings in force may differ from those at training.
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
    _write_scored(out / SCORED, found, source, space)
    if not with_ignore_band:
        settings = replace(settings, ignore_band=0.0)
    return _assemble(found, source, space, trained, settings)


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
            proposals = [
                image_proposals(source, int(r), trained.joint, labels, trained.settings)
                for r in found_rows
            ]
            regions = trained.features.pool(images, [p.boxes for p in proposals])
            for row, p, region in zip(found_rows, proposals, regions, strict=True):
                size = int(source.images.width[row]), int(source.images.height[row])
                found = _predict(trained, p, region, size)
                of = found.rows
                parts.append(_shard(run, np.array([row]), found, p.space[of], p.source_row[of]))
            bar.update(len(found_rows))
    return join(parts)


def _shard(
    run: Mapping[str, Any],
    row: np.ndarray,
    found: Labels,
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
    )


def _predict(
    trained: TrainedTransfer, p: Proposals, region: np.ndarray, size: tuple[int, int]
) -> Labels:
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
    return candidates(scores[0], boxes[0], trained.settings)


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
    settings: LatSettings,
) -> DetectionDataset:
    """Decide per image, carry ignore regions over, add provenance."""
    ends = np.searchsorted(image_column(found), np.arange(len(source) + 1))
    predictions = []
    for row in range(len(source)):
        index = np.arange(ends[row], ends[row + 1])
        predictions.append(
            Labels(found.boxes[index], found.scores[index], found.classes[index], index)
        )
    thresholds = trained.thresholds
    if trained.coverage > 0:
        real = [image_truth(source, row)[0] for row in range(len(source))]
        thresholds = adapt_thresholds(
            predictions, real, thresholds, trained.coverage, trained.overlaps
        )
    least = None
    object_score = math.inf
    if trained.sets is not None and settings.label_sets > 0:
        least = trained.sets.least(settings.label_sets)
        # What lowers scores on unlike images lowers evidence as well.
        factor = thresholds.sum() / max(float(trained.thresholds.sum()), 1e-9)
        object_score = trained.sets.object_score * float(factor)
    names = [space.name for space in trained.joint.spaces]
    parts = []
    for row, here in enumerate(predictions):
        kept = select_final(here, thresholds, trained.overlaps)
        rest = here.take(~np.isin(here.rows, kept.rows))
        others = _no_others(kept, space)
        if least is not None:
            others = alternatives(kept, evidence(kept.boxes, rest, len(least)), least)
        own, by = found.source_row[kept.rows], found.space[kept.rows].tolist()
        by = [f"pseudo:{names[s]}" for s in by]
        origin = ["source" if r >= 0 else b for r, b in zip(own.tolist(), by, strict=True)]
        parts.append(_made(row, kept, others, own, np.zeros(len(kept), bool), origin, source))
        if settings.ignore_band > 0:
            annotated = image_truth(source, row)[0]
            doubtful = ignore_band(here, kept, annotated, thresholds, settings.ignore_band)
            others, present = _no_others(doubtful, space), np.zeros(len(doubtful), bool)
            if least is not None:
                table = evidence(doubtful.boxes, rest, len(least))
                present = table.sum(axis=1) >= object_score
                others = alternatives(doubtful, table, least) & present[:, None]
            own, origin = np.full(len(doubtful), -1, np.int64), [UNCERTAIN] * len(doubtful)
            parts.append(_made(row, doubtful, others, own, ~present, origin, source))
    made = DraftLabels.concatenate(parts)
    if settings.blend_source_boxes and trained.box_error is not None:
        made = _restyled(made, source, trained.box_error)
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
    return source.with_boxes(boxes, space)


def _made(
    row: int,
    labels: Labels,
    others: np.ndarray,
    own: np.ndarray,
    ignore: np.ndarray,
    origin: list[str],
    source: DetectionDataset,
) -> DraftLabels:
    """Labels of one image: what reaches the threshold of its class, or, for training, the rest.

    Args:
        own: see `link_to_source`.
        ignore: bool [k], which of them are ignore regions, not objects.
    """
    linked, iou = link_to_source(labels.boxes, own, source, row)
    image = np.full(len(labels), row)
    columns = (labels.boxes, labels.classes, labels.scores)
    return DraftLabels(image, *columns, ignore, others, linked, iou, origin)


def _no_others(labels: Labels, space: LabelSpace) -> np.ndarray:
    return np.zeros((len(labels), space.num_classes), bool)


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


def _restyled(made: DraftLabels, source: DetectionDataset, error: BoxError) -> DraftLabels:
    """The labels after `restyle`, with their boxes' IoU with the annotations; regions stay."""
    at = np.flatnonzero(~made.ignore & (made.rows >= 0))
    rows = made.rows[at]
    moved = restyle(
        made.boxes[at],
        made.classes[at],
        made.scores[at],
        rows,
        source.boxes.xyxy,
        source.boxes.category,
        error,
        np.array([made.origin[i] != UNCERTAIN for i in at.tolist()], bool),
    )
    limit = np.stack([source.images.width, source.images.height] * 2, axis=1)[made.image[at]]
    boxes, iou = made.boxes.astype(np.float64), made.iou.copy()
    boxes[at] = np.clip(moved, 0, limit)
    annotated = source.boxes.xyxy[rows].astype(np.float64)
    iou[at] = aligned_iou(torch.from_numpy(boxes[at]), torch.from_numpy(annotated)).numpy()
    return replace(made, boxes=boxes, iou=iou)


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


def _write_scored(
    file: Path, found: PredictionShard, source: DetectionDataset, space: LabelSpace
) -> None:
    xywh = np.round(xyxy_to_xywh(found.boxes.astype(np.float64)), 2).tolist()
    ids = source.images.id
    rows = [
        {
            "image_id": int(ids[i]),
            "category_id": int(space.ids[c]),
            "bbox": box,
            "score": round(float(s), 5),
        }
        for i, c, box, s in zip(
            image_column(found).tolist(),
            found.classes.tolist(),
            xywh,
            found.scores.tolist(),
            strict=True,
        )
    ]
    atomic_write_bytes(file, json.dumps(rows, separators=(",", ":")).encode())
