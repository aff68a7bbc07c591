"""Stage 1: the regions of every image, and their pooled features.

Images are decoded in threads ahead of the backbone; while it works on one batch, the cuts and the
refinement of the batches before run in threads of their own.

Shape legend: ``B`` images of a batch, ``S`` pixels per side, ``h, w`` patch grid, ``d`` channels,
``n`` masks of an image, ``H, W`` its own pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relabel.datasets.imagenet import ImageSet, load_image
from relabel.datasets.loading import ImageBatches, decoding_workers
from relabel.errors import Problems
from relabel.multilabel.clock import Clock
from relabel.multilabel.features import PatchFeatures, square
from relabel.multilabel.label_maps import mask_weights
from relabel.multilabel.maskcut import discover_batch
from relabel.multilabel.refine import refine_batch
from relabel.multilabel.settings import MaskCutSettings
from relabel.multilabel.store import RegionBuilder, write_shard
from relabel.settings import Runtime
from relabel.workspace.progress import progress
from relabel.workspace.stage import Shards

_AHEAD = 3  # batches whose cuts may wait for a thread


@dataclass(frozen=True)
class Loaded:
    """One image: what the backbone sees [S, S, 3] and what masks are refined on [H, W, 3]."""

    square: np.ndarray
    image: np.ndarray


@dataclass(frozen=True)
class Found:
    """The regions of one image.

    Attributes:
        masks: bool [n, H, W].
        round: int [n].
        patch_area: float32 [n].
        features: float32 [n, d].
        whole: float32 [d], the mean of all patch features.
    """

    masks: np.ndarray
    round: np.ndarray
    patch_area: np.ndarray
    features: np.ndarray
    whole: np.ndarray


def find_regions(
    images: ImageSet,
    shards: Shards,
    todo: Sequence[int],
    run: Mapping[str, Any],
    extractor: PatchFeatures,
    settings: MaskCutSettings,
    runtime: Runtime,
    clock: Clock,
) -> None:
    """Make the shards ``todo``; images that cannot be read stand in them with the reason.

    A shard's batches are the same whichever shards were there before, and so are its bytes.
    """
    plan = {i: _batches(shards.items(i), settings.batch_size) for i in todo}
    done = len(images) - sum(len(shards.items(i)) for i in todo)
    problems = Problems(skip_bad=True)

    def load(source: ImageSet, row: int) -> Any:
        image = load_image(source, row)
        return Loaded(square(image, settings.image_size), image)

    cores = decoding_workers()
    with (
        progress(
            "Finding regions", len(images), unit="img", initial=done, quiet=runtime.quiet
        ) as bar,
        ImageBatches(
            images,
            batches=[batch for batches in plan.values() for batch in batches],
            workers=runtime.workers,
            problems=problems,
            keep_empty=True,
            load=load,
        ) as loader,
        ThreadPoolExecutor(cores, "relabel-cut", initializer=_one_thread) as pool,
    ):
        stream = iter(loader)
        for i, batches in plan.items():
            builder = RegionBuilder(run, extractor.dim)
            waiting: deque[_Batch] = deque()
            for rows in batches:
                with clock.spent("waiting for images"):
                    read, loaded = next(stream)
                waiting.append(
                    _submit(pool, rows, read.tolist(), loaded, extractor, settings, clock)
                )
                while len(waiting) > _AHEAD:
                    bar.update(_collect(images, builder, waiting.popleft(), problems, clock))
            while waiting:
                bar.update(_collect(images, builder, waiting.popleft(), problems, clock))
            with clock.spent("writing"):
                write_shard(shards.shard_path(i), builder.build())


def cut_features(
    images: ImageSet, extractor: PatchFeatures, settings: MaskCutSettings, runtime: Runtime
) -> Iterator[Tensor]:
    """What MaskCut would see of each image that can be read, [h, w, dk], one after the other."""

    def load(source: ImageSet, row: int) -> Any:
        return square(load_image(source, row), settings.image_size)

    with (
        progress("Looking at images", len(images), unit="img", quiet=runtime.quiet) as bar,
        ImageBatches(
            images,
            batch_size=settings.batch_size,
            workers=runtime.workers,
            problems=Problems(skip_bad=True),
            load=load,
        ) as loader,
    ):
        for rows, squares in loader:
            pixels = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
            yield from extractor(pixels).cut
            bar.update(len(rows))


@dataclass(frozen=True)
class _Batch:
    """A batch under way: all its rows, those that could be read, and one or all their results."""

    rows: Sequence[int]
    read: Sequence[int]
    results: Sequence[Future[Any]]


def _submit(
    pool: ThreadPoolExecutor,
    rows: Sequence[int],
    read: Sequence[int],
    loaded: Sequence[Any],
    extractor: PatchFeatures,
    settings: MaskCutSettings,
    clock: Clock,
) -> _Batch:
    if not loaded:
        return _Batch(rows, read, [])
    with clock.spent("backbone"):
        pixels = torch.from_numpy(np.stack([one.square for one in loaded])).permute(0, 3, 1, 2)
        maps = extractor(pixels)
        if maps.cut.is_cuda:
            torch.cuda.synchronize(maps.cut.device)
    pictures = [one.image for one in loaded]
    # On a GPU the images of a batch are cut together, on the CPU one per thread.
    size = len(loaded) if maps.cut.is_cuda else 1
    results = [
        pool.submit(
            regions_of,
            pictures[at : at + size],
            maps.cut[at : at + size],
            maps.pooled[at : at + size],
            settings,
            clock,
        )
        for at in range(0, len(loaded), size)
    ]
    return _Batch(rows, read, results)


def _collect(
    images: ImageSet, builder: RegionBuilder, batch: _Batch, problems: Problems, clock: Clock
) -> int:
    with clock.spent("waiting for cuts"):
        found = [one for future in batch.results for one in future.result()]
    ready = dict(zip(batch.read, found, strict=True))
    reasons = {problem.file: problem.message for problem in problems.errors}
    for row in batch.rows:
        name = images.file_names[row]
        if row not in ready:
            builder.skip(row, name, reasons.get(images.location(row), "cannot be read"))
            continue
        one = ready[row]
        builder.add(
            row,
            name,
            one.masks,
            patch_area=one.patch_area,
            round=one.round,
            features=one.features,
            whole=one.whole,
        )
    clock.images += len(batch.rows)
    return len(batch.rows)


def regions_of(
    images: Sequence[np.ndarray],
    cut: Tensor,
    pooled: Tensor,
    settings: MaskCutSettings,
    clock: Clock,
) -> list[Found]:
    """The regions of some images.

    Args:
        images: uint8 [H, W, 3] each.
        cut: [B, h, w, dk], what is cut.
        pooled: [B, h, w, d], what regions are pooled from.
    """
    with clock.spent("cutting"):
        coarse = discover_batch(cut, settings.tau, settings.max_masks)
    with clock.spent("refining"):
        refined = refine_batch(images, coarse, settings.refine, settings.refine_size, cut.device)
    results = []
    for (fine, kept), features in zip(refined, pooled, strict=True):
        weights = mask_weights(torch.from_numpy(fine), (features.shape[0], features.shape[1]))
        results.append(_pooled(fine, kept, weights.to(features.device), features))
    return results


def _pooled(fine: np.ndarray, kept: np.ndarray, weights: Tensor, features: Tensor) -> Found:
    area = weights.sum((1, 2))
    mean = torch.einsum("nhw,hwd->nd", weights, features) / area.clamp_min(1e-12)[:, None]
    return Found(
        masks=fine,
        round=kept,
        patch_area=area.cpu().numpy(),
        features=mean.float().cpu().numpy(),
        whole=features.float().mean((0, 1)).cpu().numpy(),
    )


def _one_thread() -> None:
    """Threads that cut run beside one another; a BLAS with more threads than cores crawls."""
    torch.set_num_threads(1)


def _batches(rows: range, size: int) -> list[list[int]]:
    listed = list(rows)
    return [listed[i : i + size] for i in range(0, len(listed), size)]


def skipped_images(paths: Sequence[Path]) -> list[tuple[str, str]]:
    """(file name, reason) of the images that could not be read, over all shards."""
    from relabel.multilabel.store import iterate, read_regions

    found = []
    for shard in iterate(paths, lambda path: read_regions(path, features=False)):
        for i in np.flatnonzero(~shard.readable):
            found.append((shard.file_name[i], shard.reason[i]))
    return found
