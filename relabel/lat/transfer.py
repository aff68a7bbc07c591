"""Transfer: a source dataset's images, annotations and pseudo-labels into target-space boxes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from relabel.crosslabel.pseudo import PseudoLabels
from relabel.datasets.alternatives import alternatives_field
from relabel.datasets.dataset import UNCERTAIN, DetectionDataset, Provenance, make_boxes
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.pixels.batches import ImageBatches
from relabel.errors import DataError
from relabel.geometry import iou_matrix, xyxy_to_xywh
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
        labels: pseudo-labels on ``source`` by the name of their label space.
        with_uncertain: add what is neither surely an object nor surely background as ignore
            regions of origin `UNCERTAIN`, or, where there is an object of doubtful class,
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


@dataclass(frozen=True, eq=False)
class _Made:
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

    @classmethod
    def joined(cls, parts: Sequence[_Made]) -> _Made:
        names = [name for name in cls.__dataclass_fields__ if name != "origin"]
        columns = {n: np.concatenate([getattr(part, n) for part in parts]) for n in names}
        return cls(**columns, origin=[o for part in parts for o in part.origin])


def _assemble(
    found: _Shard,
    source: DetectionDataset,
    space: LabelSpace,
    trained: TrainedTransfer,
    settings: LatSettings,
) -> DetectionDataset:
    """Decide per image, carry ignore regions over, add provenance."""
    ends = np.searchsorted(found.image, np.arange(len(source) + 1))
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
    least = None
    object_score = math.inf
    if trained.sets is not None and settings.label_sets > 0:
        least = trained.sets.least(settings.label_sets)
        # What lowers scores on unlike images lowers evidence as well.
        factor = thresholds.sum() / max(float(trained.thresholds.sum()), 1e-9)
        object_score = trained.sets.object_score * float(factor)
    parts = []
    for row, here in enumerate(predictions):
        kept = decide(here, thresholds, trained.overlaps)
        rest = here.take(~np.isin(here.rows, kept.rows))
        others = _no_others(kept, space)
        if least is not None:
            others = alternatives(kept, evidence(kept.boxes, rest, len(least)), least)
        parts.append(_sure(row, kept, others, found, source, trained))
        if settings.uncertain > 0:
            annotated = image_truth(source, row)[0]
            doubtful = uncertain(here, kept, annotated, thresholds, settings.uncertain)
            others, present = _no_others(doubtful, space), np.zeros(len(doubtful), bool)
            if least is not None:
                table = evidence(doubtful.boxes, rest, len(least))
                present = table.sum(axis=1) >= object_score
                others = alternatives(doubtful, table, least) & present[:, None]
            parts.append(_doubtful(row, doubtful, others, present, source))
    made = _Made.joined(parts)
    if settings.annotated_boxes and trained.box_error is not None:
        made = _restyled(made, source, trained.box_error)
    made = _Made.joined([made, _regions(source, made)])
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


def _sure(
    row: int,
    kept: Labels,
    others: np.ndarray,
    found: _Shard,
    source: DetectionDataset,
    trained: TrainedTransfer,
) -> _Made:
    """The labels of one image: what reaches the threshold of its class."""
    linked, iou = link_to_source(kept.boxes, found.source_row[kept.rows], source, row)
    names = [space.name for space in trained.joint.spaces]
    own, by = found.source_row[kept.rows].tolist(), found.space[kept.rows].tolist()
    return _Made(
        np.full(len(kept), row),
        kept.boxes,
        kept.classes,
        kept.scores,
        np.zeros(len(kept), bool),
        others,
        linked,
        iou,
        ["source" if r >= 0 else f"pseudo:{names[s]}" for r, s in zip(own, by, strict=True)],
    )


def _doubtful(
    row: int,
    doubtful: Labels,
    others: np.ndarray,
    present: np.ndarray,
    source: DetectionDataset,
) -> _Made:
    """The rest of one image, for training: objects of one of several classes, or ignore regions.

    Args:
        present: bool [k], which of them are taken for objects.
    """
    linked, iou = link_to_source(doubtful.boxes, np.full(len(doubtful), -1, np.int64), source, row)
    return _Made(
        np.full(len(doubtful), row),
        doubtful.boxes,
        doubtful.classes,
        doubtful.scores,
        ~present,
        others,
        linked,
        iou,
        [UNCERTAIN] * len(doubtful),
    )


def _no_others(labels: Labels, space: LabelSpace) -> np.ndarray:
    return np.zeros((len(labels), space.num_classes), bool)


def _regions(source: DetectionDataset, made: _Made) -> _Made:
    """The source's ignore regions, under the class that their own mostly became."""
    at = np.flatnonzero(source.boxes.ignore)
    usual = usual_target(made.rows, made.classes, source)
    return _Made(
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


def _restyled(made: _Made, source: DetectionDataset, error: BoxError) -> _Made:
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
    iou[at] = paired_iou(torch.from_numpy(boxes[at]), torch.from_numpy(annotated)).numpy()
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
