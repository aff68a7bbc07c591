"""Stage 2: what the label maps say about every region.

Maps come from files, from a classifier's dense pass over the images, or from the probe. The probe
is linear in the features, so its mask-weighted mean of cells is the probe on the pooled feature of
stage 1, and no image is read again.

Shape legend: ``R`` regions of a shard, ``B`` images, ``C`` classes, ``g`` cells per side, ``k``
classes kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from relabel.multilabel.work import ShardWork
from relabel.training.threads import one_thread_if_few
from relabel.workspace.columns import iterate
from relabel.workspace.cores import reading_threads
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


def score_with_probe(work: ShardWork, probe: Probe) -> None:
    """Scores by the probe, from the pooled features of the regions."""

    def make(found: RegionShard) -> ScoreShard:
        with work.clock.spent("scoring"):
            x = torch.from_numpy(np.asarray(found.features, dtype=np.float32))
            with one_thread_if_few(len(x)):
                probs = probe.logits(x).double().softmax(1).float().numpy()
        return _shard(work, found, probs)

    work.from_regions("Scoring regions", make)


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


def score_with_maps(work: ShardWork, maps: LabelMapFolder, settings: LabelMapSettings) -> None:
    """Scores under label maps from files, read ahead in threads.

    With ``skip_bad`` the regions of an image without a readable map have no scores.

    Raises:
        DataError: an image with regions has no map, or a map is damaged.
    """
    classes, runtime = work.images.num_classes, work.runtime
    without, example = 0, ""

    def make(found: RegionShard) -> ScoreShard:
        nonlocal without, example
        bad: list[str] = []

        def scores(at: int) -> np.ndarray:
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
            return region_scores_batch(label_map.stacked()[None], rows, weights, classes).numpy()

        with work.clock.spent("reading maps and scoring"):
            parts = list(pool.map(scores, range(len(found))))
        without += len(bad)
        example = example or min(bad, default="")
        return _shard(work, found, np.concatenate([np.zeros((0, classes), np.float32), *parts]))

    workers = max(1, reading_threads(runtime.workers))
    with ThreadPoolExecutor(workers, "relabel-maps") as pool:
        work.from_regions("Scoring regions", make, features=False)
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
    *,
    quiet: bool,
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
    agreement = axis_agreement(*zip(*found, strict=True))
    if agreement.transpose:
        option = "--no-transpose-maps" if settings.transpose else "--transpose-maps"
        message(
            f"the label maps of {agreement.images} images fit the regions better with their axes "
            f"swapped (correlation {agreement.transposed:.2f}, now {agreement.plain:.2f}): "
            f"consider {option}",
            quiet=quiet,
        )


def score_with_classifier(work: ShardWork, maker: DenseClassifier, batch_size: int) -> None:
    """Scores under the maps of a classifier's dense pass over the images."""

    def load(source: ImageSet, row: int) -> Any:
        return square(load_image(source, row), maker.image_size)

    def make(shard: RegionShard) -> ScoreShard:
        at = {int(row): position for position, row in enumerate(shard.row)}
        probs = np.zeros((len(shard.rle), work.images.num_classes), np.float32)
        for batch in _readable_batches(shard, batch_size):
            with work.clock.spent("waiting for images"):
                read, pixels = next(stream)
            if len(read) != len(batch):
                missing = sorted(set(batch) - set(read.tolist()))[0]
                raise DataError(
                    "could be read when its regions were found, and cannot now",
                    file=work.images.location(missing),
                    remedy="Restore the file, or start again with --overwrite.",
                )
            with work.clock.spent("classifier"):
                maps = maker.maps(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2))
            with work.clock.spent("scoring"):
                _score_batch(shard, [at[int(row)] for row in read], maps, probs)
        return _shard(work, shard, probs)

    with ImageBatches(
        work.images,
        batches=_all_batches(work, batch_size),
        workers=work.runtime.workers,
        problems=Problems(skip_bad=True),
        keep_empty=True,
        load=load,
    ) as loader:
        stream = iter(loader)
        work.from_regions("Scoring regions", make, features=False)


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


def _all_batches(work: ShardWork, size: int) -> Iterator[list[int]]:
    """The batches of all shards, one shard in memory at a time."""
    for i in work.todo:
        shard = read_regions(work.regions.shard_path(i), features=False)
        yield from _readable_batches(shard, size)


def _readable_batches(shard: RegionShard, size: int) -> Iterator[list[int]]:
    rows = shard.row[shard.readable].tolist()
    for at in range(0, len(rows), size):
        yield rows[at : at + size]


def _shard(work: ShardWork, found: RegionShard, probs: np.ndarray) -> ScoreShard:
    ids, values = top(probs)
    unscored = np.isnan(values)
    ids[unscored], values[unscored] = -1, 0
    return ScoreShard(
        run=work.run,
        row=found.row,
        offsets=found.offsets,
        own=own_scores(probs, found.offsets, work.images.labels[found.row]),
        ids=ids,
        probs=values,
    )
