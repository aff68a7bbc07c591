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

from relabel.datasets.pixels.batches import ImageBatches
from relabel.datasets.pixels.image_folder import ImageSet, load_image
from relabel.errors import DataError, Problems
from relabel.multilabel.grid import mask_weights, square
from relabel.multilabel.scores.dense import DenseClassifier
from relabel.multilabel.scores.label_maps import (
    LabelMap,
    LabelMapFolder,
    axis_agreement,
    region_scores_batch,
)
from relabel.multilabel.scores.probe import Probe, train_probe
from relabel.multilabel.settings import LabelMapSettings
from relabel.multilabel.store import RegionShard, ScoreShard, read_regions
from relabel.settings import Runtime
from relabel.workspace.clock import Clock
from relabel.workspace.columns import iterate, write_shard
from relabel.workspace.cores import reading_threads
from relabel.workspace.parts import shard_progress
from relabel.workspace.progress import message
from relabel.workspace.stage import Shards

KEPT = 20
"""Classes kept per region."""

PROBE_IMAGES = 50_000
"""Maximum number of images the probe is trained on: it holds their features in double precision."""

_AXES_SHARDS, _AXES_IMAGES = 8, 25


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
    with shard_progress("Scoring regions", shards, todo, runtime) as bar:
        for i in todo:
            found = read_regions(regions.shard_path(i))
            assert found.features is not None
            with clock.spent("scoring"):
                probs = _softmax(probe, found.features)
            _write(shards.shard_path(i), found, images, run, probs)
            clock.images += len(found)
            bar.update(len(found))


def fit_probe(images: ImageSet, regions: Shards, seed: int) -> Probe:
    """The probe on all labelled images, from the features that stage 1 kept.

    Of more than `PROBE_IMAGES` it sees as many of each class, drawn by chance.

    Raises:
        DataError: no image has a label, or none with a label could be read.
    """
    wanted = probe_images(images.labels, seed)
    features, labels = [], []
    for shard in iterate(regions.paths, read_regions):
        assert shard.whole is not None
        usable = shard.readable & wanted[shard.row]
        features.append(shard.whole[usable])
        labels.append(images.labels[shard.row][usable])
    if bool(wanted.any()) and not any(map(len, labels)):
        raise DataError("no image with a label could be read", file=images.root)
    return train_probe(np.concatenate(features), np.concatenate(labels), images.num_classes, seed)


def probe_images(labels: np.ndarray, seed: int, most: int = PROBE_IMAGES) -> np.ndarray:
    """bool [N]: the labelled images, or about ``most`` of them, alike for every class."""
    wanted = labels >= 0
    if int(wanted.sum()) <= most:
        return wanted
    order = np.random.default_rng(seed).permutation(np.flatnonzero(wanted))
    order = order[np.argsort(labels[order], kind="stable")]
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(starts, counts)
    wanted[order[place >= max(1, most // len(counts))]] = False
    return wanted


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

    With ``runtime.skip_bad`` the regions of an image without a readable map have no scores.

    Raises:
        DataError: an image with regions has no map, or a map is damaged.
    """
    classes = images.num_classes
    without = 0
    example = ""
    workers = max(1, reading_threads(runtime.workers))
    with (
        shard_progress("Scoring regions", shards, todo, runtime) as bar,
        ThreadPoolExecutor(workers, "relabel-maps") as pool,
    ):
        for i in todo:
            found = read_regions(regions.shard_path(i), features=False)

            bad: list[str] = []

            def scores(at: int, found: RegionShard = found, bad: list[str] = bad) -> np.ndarray:
                if not len(found.regions(at)):
                    return np.zeros((0, classes), np.float32)
                try:
                    label_map = maps.read(found.file_name[at], settings.transpose, classes)
                except DataError as error:
                    if not runtime.skip_bad:
                        raise
                    bad.append(str(error))
                    return np.full((len(found.regions(at)), classes), np.nan, np.float32)
                weights = mask_weights(torch.from_numpy(found.masks(at)), label_map.grid)
                rows = torch.zeros(len(weights), dtype=torch.long)
                return region_scores_batch(
                    label_map.stacked()[None], rows, weights, classes
                ).numpy()

            with clock.spent("reading maps and scoring"):
                parts = list(pool.map(scores, range(len(found))))
            probs = np.concatenate([np.zeros((0, classes), np.float32), *parts])
            without += len(bad)
            example = example or min(bad, default="")
            _write(shards.shard_path(i), found, images, run, probs)
            clock.images += len(found)
            bar.update(len(found))
    if without:
        message(
            f"{without} images have regions, but no readable label map: the region classifier does "
            f"not learn from them. The first: {example}",
            quiet=runtime.quiet,
        )


def check_axes(
    images: ImageSet,
    regions: Shards,
    maps: LabelMapFolder,
    settings: LabelMapSettings,
    runtime: Runtime,
) -> None:
    """Look at some images, and say so if their maps fit the regions better with swapped axes."""
    found: list[tuple[LabelMap, Tensor, int]] = []
    for i in np.unique(np.linspace(0, len(regions) - 1, _AXES_SHARDS).astype(int)).tolist():
        shard = read_regions(regions.shard_path(i), features=False)
        usable = (np.diff(shard.offsets) > 0) & (images.labels[shard.row] >= 0)
        for at in map(int, np.flatnonzero(usable)[:_AXES_IMAGES]):
            try:
                label_map = maps.read(shard.file_name[at], settings.transpose, images.num_classes)
            except DataError:
                continue  # reported when it is scored
            whole = torch.from_numpy(shard.masks(at)).any(0, keepdim=True)
            found.append((label_map, whole, int(images.labels[shard.row[at]])))
    if not found:
        return
    agreement = axis_agreement(
        [one for one, _, _ in found], [one for _, one, _ in found], [one for _, _, one in found]
    )
    if agreement.transpose:
        option = "--no-transpose-maps" if settings.transpose else "--transpose-maps"
        message(
            f"the label maps of {agreement.images} images fit the regions better with their axes "
            f"swapped (correlation {agreement.transposed:.2f}, now {agreement.plain:.2f}): "
            f"consider {option}",
            quiet=runtime.quiet,
        )


def score_with_classifier(
    images: ImageSet,
    regions: Shards,
    shards: Shards,
    todo: Sequence[int],
    run: Mapping[str, Any],
    maker: DenseClassifier,
    batch_size: int,
    runtime: Runtime,
    clock: Clock,
) -> None:
    """Scores under the maps of a classifier's dense pass over the images."""

    def load(source: ImageSet, row: int) -> Any:
        return square(load_image(source, row), maker.image_size)

    with (
        shard_progress("Scoring regions", shards, todo, runtime) as bar,
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
                    maps = maker.maps(x)
                with clock.spent("scoring"):
                    _score_batch(shard, here, maps, probs)
            _write(shards.shard_path(i), shard, images, run, probs)
            clock.images += len(shard)
            bar.update(len(shard))


def _score_batch(shard: RegionShard, here: Sequence[int], maps: Tensor, probs: np.ndarray) -> None:
    """Fill in the scores of the regions of a batch's images."""
    if not maps.is_cuda:  # Apple's GPUs have no double precision
        maps = maps.cpu()
    rows, weights, regions = [], [], []
    for k, position in enumerate(here):
        own = shard.regions(position)
        if not len(own):
            continue
        masks = torch.from_numpy(shard.masks(position)).to(maps.device)
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
) -> None:
    ids, values = top(probs)
    unscored = np.isnan(values)
    ids[unscored], values[unscored] = -1, 0
    shard = ScoreShard(
        run=run,
        row=found.row,
        offsets=found.offsets,
        own=own_scores(probs, found.offsets, images.labels[found.row]),
        ids=ids,
        probs=values,
    )
    write_shard(path, shard)
