"""Batches prepared in threads ahead of the step that needs them, in a fixed order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetch(make: Callable[[int], T], start: int, stop: int, *, workers: int) -> Iterator[T]:
    """Yield ``make(start) .. make(stop - 1)`` in order, computed up to ``2 * workers`` ahead.

    ``make`` must depend on its argument alone, which is what makes a resumed training see the
    batches it would have seen. With ``workers`` of 0 it runs in line.
    """
    if workers <= 0:
        for i in range(start, stop):
            yield make(i)
        return
    pending: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prefetch")
    try:
        for i in range(start, min(stop, start + 2 * workers)):
            pending.append(pool.submit(make, i))
        for i in range(start, stop):
            value = pending.popleft().result()
            ahead = i + 2 * workers
            if ahead < stop:
                pending.append(pool.submit(make, ahead))
            yield value
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
