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
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relabel.datasets.pixels.batches import ImageBatches
from relabel.datasets.pixels.image_folder import ImageSet, load_image
from relabel.errors import DataError, Problems
from relabel.multilabel.grid import mask_weights, square
from relabel.multilabel.regions.features import PatchFeatures
from relabel.multilabel.regions.maskcut import discover_batch
from relabel.multilabel.regions.refine import refine_batch
from relabel.multilabel.settings import MaskCutSettings
from relabel.multilabel.store import Found, region_shard
from relabel.multilabel.work import ShardWork
from relabel.settings import Runtime
from relabel.workspace.clock import Clock
from relabel.workspace.columns import write_shard
from relabel.workspace.cores import reading_threads
from relabel.workspace.parts import shard_progress
from relabel.workspace.progress import progress

_REFINE_SIDE = 320  # longest side in pixels at which masks are refined
_AHEAD = 3  # batches whose cuts may wait for a thread


@dataclass(frozen=True)
class Loaded:
    """One image: what the backbone sees [S, S, 3] and what masks are refined on [H, W, 3]."""

    square: np.ndarray
    image: np.ndarray


def find_regions(work: ShardWork, extractor: PatchFeatures, settings: MaskCutSettings) -> None:
    """Make the shards of regions; images that cannot be read stand in them with the reason.

    A shard's batches are the same whichever shards were there before, and so are its bytes.
    """
    size, shards, clock = settings.batch_size, work.shards, work.clock

    def load(source: ImageSet, row: int) -> Any:
        try:
            image = load_image(source, row)
        except DataError as error:
            return error.message
        return Loaded(square(image, settings.image_size), image)

    cores = max(1, reading_threads())
    with (
        shard_progress("Finding regions", shards, work.todo, work.runtime) as bar,
        ImageBatches(
            work.images,
            batches=(rows for i in work.todo for rows in _batches(shards.items(i), size)),
            workers=work.runtime.workers,
            load=load,
        ) as loader,
        ThreadPoolExecutor(
            cores, "relabel-cut", initializer=_start_thread, initargs=(extractor.device,)
        ) as pool,
    ):
        stream = iter(loader)
        for i in work.todo:
            done: list[tuple[int, str, Found | str]] = []
            waiting: deque[_Batch] = deque()
            for _ in range(0, len(shards.items(i)), size):
                with clock.spent("waiting for images"):
                    rows, loaded = next(stream)
                waiting.append(_submit(pool, rows.tolist(), loaded, extractor, settings, clock))
                while len(waiting) > _AHEAD:
                    bar.update(_collect(work.images, done, waiting.popleft(), clock))
            while waiting:
                bar.update(_collect(work.images, done, waiting.popleft(), clock))
            with clock.spent("writing"):
                write_shard(shards.shard_path(i), region_shard(work.run, extractor.dim, done))


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
    """A batch under way: its rows, why some could not be read, and the results of the others."""

    rows: Sequence[int]
    reasons: Mapping[int, str]
    results: Sequence[Future[list[Found]]]


def _submit(
    pool: ThreadPoolExecutor,
    rows: Sequence[int],
    loaded: Sequence[Any],
    extractor: PatchFeatures,
    settings: MaskCutSettings,
    clock: Clock,
) -> _Batch:
    """Run the backbone on a batch, and leave the rest to the threads.

    ``loaded`` holds a `Loaded` for each row, or the reason why it could not be read.
    """
    reasons = {
        row: one for row, one in zip(rows, loaded, strict=True) if not isinstance(one, Loaded)
    }
    read = [one for one in loaded if isinstance(one, Loaded)]
    if not read:
        return _Batch(rows, reasons, [])
    with clock.spent("backbone"):
        pixels = torch.from_numpy(np.stack([one.square for one in read])).permute(0, 3, 1, 2)
        maps = extractor(pixels)
        if maps.cut.is_cuda:
            # Of this thread's stream only: the cuts of earlier batches go on in their own.
            torch.cuda.current_stream(maps.cut.device).synchronize()
    pictures = [one.image for one in read]
    # On a GPU the images of a batch are cut together, on the CPU one per thread.
    size = len(read) if maps.cut.is_cuda else 1
    results = [
        pool.submit(
            regions_of,
            pictures[at : at + size],
            maps.cut[at : at + size],
            maps.pooled[at : at + size],
            settings,
            clock,
        )
        for at in range(0, len(read), size)
    ]
    return _Batch(rows, reasons, results)


def _collect(
    images: ImageSet, done: list[tuple[int, str, Found | str]], batch: _Batch, clock: Clock
) -> int:
    with clock.spent("waiting for cuts"):
        found = iter([one for future in batch.results for one in future.result()])
    for row in batch.rows:
        reason = batch.reasons.get(row)
        done.append((row, images.file_names[row], next(found) if reason is None else reason))
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
        refined = refine_batch(images, coarse, settings.refine, _REFINE_SIDE, cut.device)
    results = []
    for (fine, kept), features in zip(refined, pooled, strict=True):
        weights = mask_weights(torch.from_numpy(fine), (features.shape[0], features.shape[1]))
        weights = weights.to(features.device)
        area = weights.sum((1, 2))
        mean = torch.einsum("nhw,hwd->nd", weights, features) / area.clamp_min(1e-12)[:, None]
        whole = features.float().mean((0, 1))
        numbers = (x.cpu().numpy() for x in (mean.float(), whole))
        results.append(Found.of(fine, area.cpu().numpy(), kept, *numbers))
    return results


def _start_thread(device: torch.device) -> None:
    """Threads that cut run beside one another; a BLAS with more threads than cores crawls.

    On a GPU each has a stream of its own, so that its cuts need not queue behind the backbone.
    What it is given is complete by then, and it has copied its results to the CPU before it lets
    go of it.
    """
    torch.set_num_threads(1)
    if device.type == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream(device))


def _batches(rows: range, size: int) -> Iterator[list[int]]:
    listed = list(rows)
    for i in range(0, len(listed), size):
        yield listed[i : i + size]
