"""Decoded images of a dataset in batches, read ahead while the previous batch is in use.

Shape legend: ``B`` images of a batch; images are uint8 [H, W, 3] RGB, sizes may differ.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any
from weakref import WeakSet

import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.pixels.image_folder import ImageSet, load_image
from relabel.datasets.pixels.location import image_location, load_rgb
from relabel.errors import ConfigError, DataError, Problems
from relabel.files.remote import is_url
from relabel.workspace.cores import reading_threads

Batch = tuple[np.ndarray, list[np.ndarray]]
_AHEAD = 2
Load = Callable[[Any, int], np.ndarray]


class ImageBatches:
    """Iterates over ``(rows, images)`` batches in the given order.

    Threads decode the next two batches (more if they hold too few images to keep every thread
    busy) while the caller uses the current one; Pillow releases the
    interpreter lock while it decodes. Each iteration starts a fresh pool and ends it, also on an
    exception, on Ctrl-C, and when the caller stops early; inside a ``with`` block the pool is
    gone when the block ends.

    >>> with ImageBatches(dataset, batch_size=16) as batches:  # doctest: +SKIP
    ...     for rows, images in batches:
    ...         detections = detector.predict(images)

    Args:
        dataset: the images' dataset, or images without boxes.
        rows: image rows in the order wanted; all images if None.
        batch_size: images per batch; the last one may be smaller.
        batches: instead of ``rows`` and ``batch_size``, the rows of each batch. Any iterable,
            consumed as it is needed, so a sampler without an end will do.
        workers: decoding threads; -1 chooses from the cores, 16 where images are behind a URL; 0
            decodes in the calling thread.
        keep_empty: yield a batch without a readable image too, with no rows.
        problems: receives images that cannot be read or decoded; default raises on the first.
            Where they are skipped, batch boundaries do not move: the batch is smaller, and a batch
            without a readable image is left out.
        load: how an image of ``dataset`` is read; for preprocessing that should also run in the
            threads. Default `load_rgb`, or `load_image` for an `ImageSet`.

    Raises:
        DataError: while iterating, an image is missing or damaged and bad ones are not skipped.
        ConfigError: batch_size below 1, workers below -1.
    """

    def __init__(
        self,
        dataset: DetectionDataset | ImageSet,
        rows: np.ndarray | Sequence[int] | None = None,
        *,
        batch_size: int = 8,
        batches: Iterable[np.ndarray | Sequence[int]] | None = None,
        workers: int = -1,
        keep_empty: bool = False,
        problems: Problems | None = None,
        load: Load | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}", remedy="Use 1 or more.")
        if batches is None:
            order = np.arange(len(dataset)) if rows is None else np.asarray(rows, dtype=np.int64)
            batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        elif rows is not None:
            raise ConfigError("rows and batches are both given", remedy="Give one of them.")
        self.dataset = dataset
        self.problems = Problems() if problems is None else problems
        self._batches = batches
        if workers < -1:
            raise ConfigError(
                f"workers is {workers}",
                remedy="Use -1 (chosen from the cores), 0 (in-line) or more.",
            )
        first = len(dataset) > 0 and (
            dataset.location(0) if isinstance(dataset, ImageSet) else image_location(dataset, 0)
        )
        self._workers = reading_threads(workers, waiting=is_url(first))
        self._load: Load = load or (load_image if isinstance(dataset, ImageSet) else load_rgb)
        self._keep_empty = keep_empty
        self._running: WeakSet[Generator[Batch, None, None]] = WeakSet()

    def __len__(self) -> int:
        """Number of batches, those without a readable image included."""
        if not isinstance(self._batches, Sized):
            raise TypeError("these batches come from an iterator without a length")
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        run = self._threaded() if self._workers else self._inline()
        self._running.add(run)
        return run

    def __enter__(self) -> ImageBatches:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop iterations under way and their threads; decoding that has started is finished."""
        for run in list(self._running):
            run.close()
        self._running.clear()

    def _inline(self) -> Generator[Batch, None, None]:
        for batch in self._batches:
            rows = np.asarray(batch, dtype=np.int64)
            calls = [partial(self._load, self.dataset, row) for row in rows.tolist()]
            loaded = self._collect(rows, calls)
            if loaded is not None:
                yield loaded

    def _threaded(self) -> Generator[Batch, None, None]:
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="relabel-decode")
        source = iter(self._batches)
        waiting: deque[tuple[np.ndarray, list[Future[np.ndarray]]]] = deque()
        ended = False
        try:
            while True:
                while not ended and (
                    len(waiting) <= _AHEAD
                    or sum(len(futures) for _, futures in waiting) < 2 * self._workers
                ):
                    batch = next(source, None)
                    if batch is None:
                        ended = True
                        break
                    rows = np.asarray(batch, dtype=np.int64)
                    futures = [pool.submit(self._load, self.dataset, r) for r in rows.tolist()]
                    waiting.append((rows, futures))
                if not waiting:
                    return
                rows, futures = waiting.popleft()
                loaded = self._collect(rows, [future.result for future in futures])
                del futures  # the pixels must not live on while the caller works
                if loaded is not None:
                    yield loaded
                del loaded
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _collect(self, rows: np.ndarray, calls: list[Callable[[], Any]]) -> Batch | None:
        """Images of one batch; bad ones go to ``problems``, always from the caller's thread."""
        images: list[np.ndarray] = []
        kept = np.ones(len(rows), dtype=bool)
        for i, call in enumerate(calls):
            try:
                images.append(call())
            except DataError as error:
                kept[i] = False
                self._report(int(rows[i]), error)
        return (rows[kept], images) if images or self._keep_empty else None

    def _report(self, row: int, error: DataError) -> None:
        if isinstance(self.dataset, ImageSet):  # its images have names only
            self.problems.report(error, self.dataset.location(row))
        else:
            record = f"image {int(self.dataset.images.id[row])}"
            self.problems.report(error, image_location(self.dataset, row), record)
