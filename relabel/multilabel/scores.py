"""Stage 2: what the label maps say about every region.

Maps come from files, from a classifier's dense pass over the images, or from the probe. The probe
is linear in the features, so its mask-weighted mean of cells is the probe on the pooled feature of
stage 1, and no image is read again.

Shape legend: ``R`` regions of a shard, ``B`` images, ``C`` classes, ``g`` cells per side, ``k``
classes kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relabel.datasets.imagenet import ImageSet, load_image
from relabel.datasets.loading import ImageBatches, decoding_workers
from relabel.errors import DataError, Problems
from relabel.multilabel.clock import Clock
from relabel.multilabel.dense import MapMaker
from relabel.multilabel.features import square
from relabel.multilabel.label_maps import LabelMapFolder, mask_weights, region_scores_batch
from relabel.multilabel.probe import Probe, train_probe
from relabel.multilabel.settings import LabelMapSettings
from relabel.multilabel.store import (
    RegionShard,
    ScoreShard,
    iterate,
    read_regions,
    write_shard,
)
from relabel.settings import Runtime
from relabel.workspace.progress import progress
from relabel.workspace.stage import Shards

KEPT = 20
"""Classes kept per region and per image."""


def top(probs: np.ndarray, count: int = KEPT) -> tuple[np.ndarray, np.ndarray]:
    """(classes int32, probabilities float32) of the greatest entries of [n, C]; ties by class."""
    count = min(count, probs.shape[1])
    order = np.argsort(-probs, axis=1, kind="stable")[:, :count]
    return order.astype(np.int32), np.take_along_axis(probs, order, 1).astype(np.float32)


def own_scores(probs: np.ndarray, offsets: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float32 [R]: each region's score for its image's own label; NaN where there is none."""
    mine = np.repeat(labels, np.diff(offsets))
    own = probs[np.arange(len(probs)), np.maximum(mine, 0)].astype(np.float32)
    return np.where(mine >= 0, own, np.float32(np.nan))


def score_with_probe(
    images: ImageSet,
    regions: Shards,
    shards: Shards,
    todo: Sequence[int],
    run: Mapping[str, Any],
    probe: Probe,
    runtime: Runtime,
    clock: Clock,
) -> None:
    """Scores by the probe, from the pooled features of the regions."""
    done = len(images) - sum(len(shards.items(i)) for i in todo)
    with progress(
        "Scoring regions", len(images), unit="img", initial=done, quiet=runtime.quiet
    ) as bar:
        for i in todo:
            found = read_regions(regions.shard_path(i))
            assert found.features is not None and found.whole is not None
            with clock.spent("scoring"):
                probs = _softmax(probe, found.features)
                whole = _softmax(probe, found.whole)
            _write(shards.shard_path(i), found, images, run, probs, whole)
            clock.images += len(found)
            bar.update(len(found))


def fit_probe(images: ImageSet, regions: Shards, seed: int) -> Probe:
    """The probe on all labelled images, from the features that stage 1 kept.

    Raises:
        DataError: no image has a label.
    """
    features, labels = [], []
    for shard in iterate(regions.paths, read_regions):
        assert shard.whole is not None
        usable = shard.readable & (images.labels[shard.row] >= 0)
        features.append(shard.whole[usable])
        labels.append(images.labels[shard.row][usable])
    return train_probe(np.concatenate(features), np.concatenate(labels), images.num_classes, seed)


def score_with_maps(
    images: ImageSet,
    regions: Shards,
    shards: Shards,
    todo: Sequence[int],
    run: Mapping[str, Any],
    maps: LabelMapFolder,
    settings: LabelMapSettings,
    runtime: Runtime,
    clock: Clock,
) -> None:
    """Scores under label maps from files, read ahead in threads.

    Raises:
        DataError: an image with regions has no map, or a map is damaged.
    """
    classes = images.num_classes
    done = len(images) - sum(len(shards.items(i)) for i in todo)
    workers = max(1, decoding_workers(runtime.workers))
    with (
        progress(
            "Scoring regions", len(images), unit="img", initial=done, quiet=runtime.quiet
        ) as bar,
        ThreadPoolExecutor(workers, "relabel-maps") as pool,
    ):
        for i in todo:
            found = read_regions(regions.shard_path(i), features=False)

            def scores(at: int, found: RegionShard = found) -> np.ndarray:
                if not len(found.regions(at)):
                    return np.zeros((0, classes), np.float32)
                name = found.file_name[at]
                label_map = maps.read(name, settings.transpose, classes)
                weights = mask_weights(torch.from_numpy(found.masks(at)), label_map.grid)
                rows = torch.zeros(len(weights), dtype=torch.long)
                return region_scores_batch(
                    label_map.stacked()[None], rows, weights, classes
                ).numpy()

            with clock.spent("reading maps and scoring"):
                parts = list(pool.map(scores, range(len(found))))
            probs = np.concatenate([np.zeros((0, classes), np.float32), *parts])
            _write(shards.shard_path(i), found, images, run, probs, None)
            clock.images += len(found)
            bar.update(len(found))


def score_with_classifier(
    images: ImageSet,
    regions: Shards,
    shards: Shards,
    todo: Sequence[int],
    run: Mapping[str, Any],
    maker: MapMaker,
    batch_size: int,
    device: torch.device,
    runtime: Runtime,
    clock: Clock,
) -> None:
    """Scores under the maps of a classifier's dense pass over the images."""
    done = len(images) - sum(len(shards.items(i)) for i in todo)

    def load(source: ImageSet, row: int) -> Any:
        return square(load_image(source, row), maker.image_size)

    with (
        progress(
            "Scoring regions", len(images), unit="img", initial=done, quiet=runtime.quiet
        ) as bar,
        ImageBatches(
            images,
            batches=_all_batches(regions, todo, batch_size),
            workers=runtime.workers,
            problems=Problems(skip_bad=True),
            keep_empty=True,
            load=load,
        ) as loader,
    ):
        stream = iter(loader)
        for i in todo:
            shard = read_regions(regions.shard_path(i), features=False)
            at = {int(row): position for position, row in enumerate(shard.row)}
            probs = np.zeros((len(shard.rle), images.num_classes), np.float32)
            whole = np.zeros((len(shard), images.num_classes), np.float32)
            for batch in _readable_batches(shard, batch_size):
                with clock.spent("waiting for images"):
                    read, pixels = next(stream)
                if len(read) != len(batch):
                    missing = sorted(set(batch) - set(read.tolist()))[0]
                    raise DataError(
                        "could be read when its regions were found, and cannot now",
                        file=images.location(missing),
                        remedy="Restore the file, or start again with --overwrite.",
                    )
                here = [at[int(row)] for row in read]
                with clock.spent("classifier"):
                    x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
                    maps, logits = maker.maps_and_logits(x)
                    whole[here] = logits.float().softmax(1).cpu().numpy()
                with clock.spent("scoring"):
                    _score_batch(shard, here, maps, probs, device)
            _write(shards.shard_path(i), shard, images, run, probs, whole)
            clock.images += len(shard)
            bar.update(len(shard))


def _score_batch(
    shard: RegionShard, here: Sequence[int], maps: Tensor, probs: np.ndarray, device: torch.device
) -> None:
    """Fill in the scores of the regions of a batch's images."""
    rows, weights, regions = [], [], []
    for k, position in enumerate(here):
        own = shard.regions(position)
        if not len(own):
            continue
        masks = torch.from_numpy(shard.masks(position)).to(device)
        weights.append(mask_weights(masks, maps.shape[-1]))
        rows += [k] * len(own)
        regions += list(own)
    if regions:
        scores = region_scores_batch(maps, torch.tensor(rows), torch.cat(weights), probs.shape[1])
        probs[regions] = scores.cpu().numpy()


def _all_batches(regions: Shards, todo: Sequence[int], size: int) -> Iterator[list[int]]:
    """The batches of all shards, one shard in memory at a time."""
    for i in todo:
        yield from _readable_batches(read_regions(regions.shard_path(i), features=False), size)


def _readable_batches(shard: RegionShard, size: int) -> Iterator[list[int]]:
    rows = shard.row[shard.readable].tolist()
    for at in range(0, len(rows), size):
        yield rows[at : at + size]


def _softmax(probe: Probe, features: np.ndarray) -> np.ndarray:
    x = torch.from_numpy(np.asarray(features, dtype=np.float32))
    return probe.logits(x).double().softmax(1).float().numpy()


def _write(
    path: Path,
    found: RegionShard,
    images: ImageSet,
    run: Mapping[str, Any],
    probs: np.ndarray,
    whole: np.ndarray | None,
) -> None:
    ids, values = top(probs)
    more: dict[str, Any] = {}
    if whole is not None:
        more["global_ids"], more["global_probs"] = top(whole)
    shard = ScoreShard(
        run=run,
        row=found.row,
        offsets=found.offsets,
        own=own_scores(probs, found.offsets, images.labels[found.row]),
        ids=ids,
        probs=values,
        **more,
    )
    write_shard(path, shard)
