"""Transfer: a source dataset's images, annotations and pseudo-labels into target-space boxes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from relabel.crosslabel.pseudo import PseudoLabels
from relabel.datasets.alternatives import alternatives_field
from relabel.datasets.dataset import (
    UNCERTAIN,
    DetectionDataset,
    Provenance,
    iou_matrix,
    make_boxes,
    xyxy_to_xywh,
)
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.loading import ImageBatches
from relabel.errors import DataError
from relabel.lat.boxes import BoxError, restyle
from relabel.lat.checkpoint import TrainedTransfer
from relabel.lat.model import ProposalBatch, paired_iou
from relabel.lat.proposals import Proposals, image_proposals, image_truth
from relabel.lat.select import Labels, candidates, decide, match_coverage, uncertain
from relabel.lat.sets import alternatives, evidence
from relabel.lat.settings import LatSettings
from relabel.settings import Runtime
from relabel.training.loop import resolve_device
from relabel.workspace.atomic import atomic_path, atomic_write_bytes
from relabel.workspace.progress import progress

SHARD_IMAGES = 256
IMAGES_PER_BATCH = 4
PROVENANCE_IOU = 0.5
SCORED = "scored.json"


@dataclass(frozen=True, eq=False)
class _Shard:
    """Predictions of consecutive images, before thresholds; columns of equal length."""

    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    space: np.ndarray
    source_row: np.ndarray


def transfer(
    model: Path,
    source: DetectionDataset,
    labels: Mapping[str, PseudoLabels],
    out: Path,
    settings: LatSettings,
    runtime: Runtime,
    *,
    with_uncertain: bool = False,
) -> DetectionDataset:
    """Rewrite one source dataset into the model's target space.

    Proposals are the source's annotations and every other space's pseudo-labels. The finished
    shards in ``out`` are reused. ``out/scored.json`` receives all predictions with their scores,
    as a COCO results list, for measuring AP without a threshold.

    Args:
        model: folder that `train_lat` wrote.
        labels: pseudo-labels on ``source`` by the name of the space they speak.
        with_uncertain: add what is neither surely an object nor surely background as ignore
            regions of origin `UNCERTAIN`, or, where there is surely an object of doubtful class,
            as labels of that origin; see ``settings.uncertain`` and ``settings.label_sets``.

    Returns:
        The source's images with target-space boxes, scores and provenance. Ignore regions of the
        source stay ignore regions, under the target class that their source class mostly became.

    Raises:
        DataError: a damaged model, or an image that cannot be read (unless ``skip_bad``).
    """
    device = resolve_device(runtime.device)
    settings = settings.resolved()
    trained = TrainedTransfer.load(model, device)
    # Thresholds and NMS of the settings in force may differ from those at training.
    out.mkdir(parents=True, exist_ok=True)
    shards = []
    starts = range(0, max(1, len(source)), SHARD_IMAGES)
    title = f"Transferring {source.name} into {trained.target}"
    with progress(title, total=len(source), unit="img", quiet=runtime.quiet) as bar:
        for number, start in enumerate(starts):
            rows = np.arange(start, min(len(source), start + SHARD_IMAGES))
            file = out / f"shard-{number:05d}.npz"
            shard = _read_shard(file)
            if shard is None:
                shard = _transfer_rows(trained, source, labels, rows, runtime, bar)
                with atomic_path(file) as temporary, temporary.open("wb") as stream:
                    np.savez(stream, **shard.__dict__)
            else:
                bar.update(len(rows))
            shards.append(shard)
    space = trained.joint.spaces[trained.joint.position(trained.target)]
    merged = _Shard(
        *(np.concatenate([getattr(s, f) for s in shards]) for f in _Shard.__dataclass_fields__)
    )
    _write_scored(out / SCORED, merged, source, space)
    if not with_uncertain:
        settings = replace(settings, uncertain=0.0)
    return _assemble(merged, source, space, trained, settings)


def _transfer_rows(
    trained: TrainedTransfer,
    source: DetectionDataset,
    labels: Mapping[str, PseudoLabels],
    rows: np.ndarray,
    runtime: Runtime,
    bar: object,
) -> _Shard:
    columns: dict[str, list[np.ndarray]] = {f: [] for f in _Shard.__dataclass_fields__}
    with ImageBatches(
        source,
        rows=rows,
        batch_size=IMAGES_PER_BATCH,
        workers=runtime.workers,
        skip_bad=runtime.skip_bad,
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
                columns["image"].append(np.full(len(found), row, np.int64))
                columns["boxes"].append(found.boxes.astype(np.float32))
                columns["scores"].append(found.scores.astype(np.float32))
                columns["classes"].append(found.classes.astype(np.int64))
                columns["space"].append(p.space[found.rows].astype(np.int64))
                columns["source_row"].append(p.source_row[found.rows])
            bar.update(len(found_rows))  # type: ignore[attr-defined]
    empty = {"boxes": np.zeros((0, 4), np.float32), "scores": np.zeros(0, np.float32)}
    return _Shard(
        **{
            name: np.concatenate(parts) if parts else empty.get(name, np.zeros(0, np.int64))
            for name, parts in columns.items()
        }
    )


def _predict(
    trained: TrainedTransfer, p: Proposals, region: np.ndarray, size: tuple[int, int]
) -> Labels:
    if len(p) == 0:
        none = np.zeros(0, np.int64)
        return Labels(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), none, none)
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


def _assemble(
    found: _Shard,
    source: DetectionDataset,
    space: LabelSpace,
    trained: TrainedTransfer,
    settings: LatSettings,
) -> DetectionDataset:
    """Decide per image, add provenance, carry ignore regions over."""
    ends = np.searchsorted(found.image, np.arange(len(source) + 1))
    image, boxes, classes, scores, ignore = [], [], [], [], []
    origin: list[str] = []
    source_row: list[np.ndarray] = []
    overlap: list[np.ndarray] = []
    others: list[np.ndarray] = []
    predictions = []
    for row in range(len(source)):
        index = np.arange(ends[row], ends[row + 1])
        predictions.append(
            Labels(found.boxes[index], found.scores[index], found.classes[index], index)
        )
    thresholds = trained.thresholds
    if trained.coverage > 0:
        real = [image_truth(source, row)[0] for row in range(len(source))]
        thresholds = match_coverage(
            predictions, real, thresholds, trained.coverage, trained.overlaps
        )
    sets = trained.sets if settings.label_sets > 0 else None
    if sets is not None:
        least = sets.least(settings.label_sets)
        # What lowers scores on unlike images lowers evidence as well.
        object_score = sets.object_score * float(
            thresholds.sum() / max(trained.thresholds.sum(), 1e-9)
        )
    for row, candidates_here in enumerate(predictions):
        kept = decide(candidates_here, thresholds, trained.overlaps)
        linked, iou = link_to_source(kept.boxes, found.source_row[kept.rows], source, row)
        image.append(np.full(len(kept), row))
        boxes.append(kept.boxes)
        classes.append(kept.classes)
        scores.append(kept.scores)
        ignore.append(np.zeros(len(kept), bool))
        rest = candidates_here.take(~np.isin(candidates_here.rows, kept.rows))
        nothing = np.zeros((len(kept), space.num_classes), bool)
        others.append(nothing if sets is None else alternatives(kept, rest, least))
        source_row.append(linked)
        overlap.append(iou)
        names = [s.name for s in trained.joint.spaces]
        origin.extend(
            "source" if r >= 0 else f"pseudo:{names[s]}"
            for r, s in zip(
                found.source_row[kept.rows].tolist(), found.space[kept.rows].tolist(), strict=True
            )
        )
        if settings.uncertain > 0:
            annotated = image_truth(source, row)[0]
            doubtful = uncertain(candidates_here, kept, annotated, thresholds, settings.uncertain)
            present = np.zeros(len(doubtful), bool)
            possible = np.zeros((len(doubtful), space.num_classes), bool)
            if sets is not None:
                total = evidence(doubtful.boxes, rest, space.num_classes).sum(axis=1)
                present = total >= object_score
                possible[present] = alternatives(doubtful.take(present), rest, least)
            linked, iou = link_to_source(
                doubtful.boxes, np.full(len(doubtful), -1, np.int64), source, row
            )
            image.append(np.full(len(doubtful), row))
            boxes.append(doubtful.boxes)
            classes.append(doubtful.classes)
            scores.append(doubtful.scores)
            ignore.append(~present)
            others.append(possible)
            source_row.append(linked)
            overlap.append(iou)
            origin.extend([UNCERTAIN] * len(doubtful))
    columns = [np.concatenate(c) for c in (image, boxes, classes, scores, ignore)]
    other_classes = np.concatenate(others)
    rows, iou = np.concatenate(source_row), np.concatenate(overlap)
    if settings.annotated_boxes and trained.box_error is not None:
        columns[1], iou = _restyled(columns, rows, iou, source, trained.box_error)
    kept_regions = np.flatnonzero(source.boxes.ignore)
    if len(kept_regions):
        usual = usual_target(rows, columns[2], source)
        regions = (
            source.boxes.image[kept_regions],
            source.boxes.xyxy[kept_regions],
            usual[source.boxes.category[kept_regions]],
            np.full(len(kept_regions), np.nan),
            np.ones(len(kept_regions), bool),
        )
        columns = [np.concatenate([a, b]) for a, b in zip(columns, regions, strict=True)]
        rows = np.concatenate([rows, kept_regions])
        iou = np.concatenate([iou, np.ones(len(kept_regions))])
        nothing = np.zeros((len(kept_regions), space.num_classes), bool)
        other_classes = np.concatenate([other_classes, nothing])
        origin += ["source"] * len(kept_regions)
    linked = rows >= 0
    ids = np.where(linked, source.boxes.id[rows] if len(source.boxes) else -1, -1)
    names = source.space.names
    categories = [names[source.boxes.category[r]] if r >= 0 else "" for r in rows.tolist()]
    provenance = Provenance(source.name, origin, ids, categories, iou.astype(np.float32))
    xywh = np.round(xyxy_to_xywh(columns[1].astype(np.float64)), 3)
    made = make_boxes(
        columns[0],
        xywh,
        columns[2],
        score=np.round(columns[3].astype(np.float64), 6),
        ignore=columns[4],
        extra=alternatives_field(other_classes, space),
        provenance=provenance,
    )
    # Numbered after sorting by image, so that ids rise through the file.
    made = replace(made, id=np.arange(1, len(made) + 1, dtype=np.int64))
    return source.with_boxes(made, space)


def _restyled(
    columns: list[np.ndarray],
    rows: np.ndarray,
    iou: np.ndarray,
    source: DetectionDataset,
    error: BoxError,
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [k, 4] and their IoU with the annotation, after `restyle`; doubtful ones stay."""
    image, boxes, classes, scores, ignore = columns
    at = np.flatnonzero(~ignore & (rows >= 0))
    moved = restyle(
        boxes[at],
        classes[at],
        scores[at],
        rows[at],
        source.boxes.xyxy,
        source.boxes.category,
        error,
    )
    limit = np.stack([source.images.width, source.images.height] * 2, axis=1)[image[at]]
    boxes, iou = boxes.astype(np.float64), iou.copy()
    boxes[at] = np.clip(moved, 0, limit)
    iou[at] = paired_iou(
        torch.from_numpy(boxes[at]),
        torch.from_numpy(source.boxes.xyxy[rows[at]].astype(np.float64)),
    ).numpy()
    return boxes, iou


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


def _write_scored(file: Path, found: _Shard, source: DetectionDataset, space: LabelSpace) -> None:
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
            found.image.tolist(), found.classes.tolist(), xywh, found.scores.tolist(), strict=True
        )
    ]
    atomic_write_bytes(file, json.dumps(rows, separators=(",", ":")).encode())


def _read_shard(file: Path) -> _Shard | None:
    if not file.exists():
        return None
    try:
        with np.load(file, allow_pickle=False) as data:
            return _Shard(**{name: data[name] for name in _Shard.__dataclass_fields__})
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(
            f"shard cannot be read: {error}",
            file=file,
            remedy="Delete the file and run the same command again.",
        ) from error
