"""Stages 3 and 4: the region classifier's training regions, and the labels of all regions and
images.

Shape legend: ``S`` selected unions of regions, ``R`` regions of a shard, ``B`` images, ``C``
classes, ``d`` channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array

from relabel.datasets.multilabels import greatest
from relabel.datasets.pixels.image_folder import ImageSet
from relabel.errors import DataError
from relabel.multilabel.labels.aggregate import final, local_hard, local_soft
from relabel.multilabel.labels.region_classifier import RegionClassifier, train_region_classifier
from relabel.multilabel.labels.region_filter import RegionUnions, select_columns, union_features
from relabel.multilabel.scores.stage import top
from relabel.multilabel.settings import AggregateSettings, FilterSettings
from relabel.multilabel.store import (
    LabelShard,
    RegionShard,
    ScoreShard,
    read_regions,
    read_scores,
)
from relabel.multilabel.work import ShardWork
from relabel.settings import Runtime
from relabel.workspace.atomic import atomic_write_json
from relabel.workspace.clock import Clock
from relabel.workspace.columns import iterate

if TYPE_CHECKING:
    from relabel.multilabel.plan import MultilabelPlan

FEATURES = "features.npy"


def selected(images: ImageSet, scores: ScoreShard, settings: FilterSettings) -> RegionUnions:
    """A shard's unions that the region classifier learns from; images are rows of the set."""
    rows = np.repeat(scores.row, np.diff(scores.offsets)).astype(np.int64)
    return select_columns(
        images=rows,
        labels=images.labels[rows],
        own=np.nan_to_num(scores.own, nan=-1.0),
        top_class=scores.ids[:, 0],
        top_score=scores.probs[:, 0],
        rule=settings.rule,
        threshold=settings.threshold,
    )


def fit_region_classifier(
    plan: MultilabelPlan, out: Path, runtime: Runtime, clock: Clock
) -> dict[str, Any]:
    """Gather the selected regions' features into one memory-mapped file and train on them.

    Returns:
        The region classifier's metrics, with the numbers of regions and images before the filter.

    Raises:
        DataError: the filter leaves no region.
    """
    images, settings = plan.images, plan.settings
    with clock.spent("gathering"):
        labels, image_ids, total = _targets(plan)
        if not total:
            raise DataError(
                f"none of {len(images)} images has a region, so there is nothing to label",
                file=images.root,
                remedy="The regions' shards say which images could not be read; if all could, "
                "try other values of --tau with --calibrate.",
            )
        if not len(labels):
            raise DataError(
                f"the filter selected none of {total} regions, so there is nothing to train the "
                "region classifier on",
                remedy="Lower --filter-threshold, or check the label maps and their axes "
                "(--transpose-maps).",
            )
        features = _gather(plan, out, len(labels))
    with clock.spent("training"):
        metrics = train_region_classifier(
            features,
            labels,
            image_ids,
            images.num_classes,
            out,
            settings.region_classifier,
            runtime,
        )
    clock.images += len(images)
    found = {"regions_before_filter": total, "unions_selected": len(labels), **metrics}
    atomic_write_json(out / "selection.json", found, indent=1)
    del features  # the map must be closed before its file goes
    (out / FEATURES).unlink(missing_ok=True)
    return found


def _targets(plan: MultilabelPlan) -> tuple[np.ndarray, np.ndarray, int]:
    """(class int64 [S], image row int64 [S], number of regions before the filter)."""
    classes, rows, total = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    for shard in iterate(plan.shards("scores").paths, read_scores):
        found = selected(plan.images, shard, plan.settings.filter)
        classes.append(found.classes)
        rows.append(found.images)
        total += len(shard.own)
    return np.concatenate(classes), np.concatenate(rows), total


def _gather(plan: MultilabelPlan, out: Path, count: int) -> np.ndarray:
    """float32 [S, d], memory-mapped, so that more regions than fit into memory can be learned."""
    file, partial = out / FEATURES, out / f"partial.{FEATURES}"
    if not file.is_file():
        target: Any = None
        at = 0
        shards = zip(
            iterate(plan.shards("regions").paths, read_regions),
            iterate(plan.shards("scores").paths, read_scores),
            strict=True,
        )
        for found, scores in shards:
            assert found.features is not None
            chosen = selected(plan.images, scores, plan.settings.filter)
            unions = union_features(found.features, found.patch_area, chosen)
            if target is None:
                target = np.lib.format.open_memmap(
                    partial, mode="w+", dtype=np.float32, shape=(count, unions.shape[1])
                )
            target[at : at + len(unions)] = unions
            at += len(unions)
        assert target is not None and at == count
        target.flush()
        del target
        partial.replace(file)
    return np.load(file, mmap_mode="r")


def label_regions(
    work: ShardWork, region_classifier: RegionClassifier, settings: AggregateSettings
) -> None:
    """Make the shards of labels: classify every region, then label every image."""

    def make(found: RegionShard) -> LabelShard:
        assert found.features is not None
        with work.clock.spent("region_classifier"):
            probs = region_classifier.predict(found.features)
        gt = work.images.labels[found.row]
        labels = listed(aggregated(probs, found.offsets, gt, settings), settings)
        ids, values = top(probs)
        return LabelShard(
            run=work.run,
            row=found.row,
            file_name=found.file_name,
            gt=gt.astype(np.int32),
            offsets=found.offsets,
            ids=ids,
            probs=values,
            label_offsets=labels.indptr,
            label_ids=labels.indices,
            label_probs=labels.data,
        )

    work.from_regions("Labelling images", make)


def aggregated(
    probs: np.ndarray, offsets: np.ndarray, gt: np.ndarray, settings: AggregateSettings
) -> np.ndarray:
    """float32 [B, C]: the labels of the images from the probabilities of their regions [R, C]."""
    if settings.mode == "hard":
        local = local_hard(probs, settings.threshold, offsets).astype(np.float32)
    else:
        local = local_soft(probs, offsets)
    return final(local, gt if settings.original else None)


def listed(whole: np.ndarray, settings: AggregateSettings) -> csr_array:
    """float32 [B, C]: what the files list of the labels [B, C]; see `greatest`."""
    # A class that no region has is no label, however small min_score is.
    above_zero = np.nextafter(np.float32(0), np.float32(1))
    return greatest(whole, settings.max_labels, max(np.float32(settings.min_score), above_zero))


def confusion_columns(shards: Iterator[LabelShard]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(original label [R], classes [R, 5], probabilities [R, 5]) over all regions."""
    labels, ids, probs = [np.zeros(0, np.int32)], [], []
    for shard in shards:
        labels.append(np.repeat(shard.gt, np.diff(shard.offsets)))
        ids.append(shard.ids[:, :5])
        probs.append(shard.probs[:, :5])
    return np.concatenate(labels), np.concatenate(ids), np.concatenate(probs)
