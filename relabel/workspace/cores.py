"""How many threads: one rule for everything that reads images."""

from __future__ import annotations

import os

from relabel.workspace.ranks import processes_here

_MAX_THREADS = 16
_limit: int | None = None
_busy = False


def limit_cores(count: int, *, busy: bool) -> None:
    """Of the cores of the machine this process shall use so many, as others have the rest.

    Args:
        busy: networks run on them, so that a single core reads when it needs an image.
    """
    global _limit, _busy
    _limit, _busy = count, busy


def usable_cores() -> int:
    """The cores that this process may use."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no affinity masks
        count = os.cpu_count() or 1
    return count if _limit is None else min(count, _limit)


def reading_threads(workers: int = -1, *, waiting: bool = False) -> int:
    """The threads that read images: ``workers``, or for -1 one per usable core, at most 16.

    Processes that train together share the cores. With 0, images are read in the calling thread.

    Args:
        waiting: the images lie behind a network, for which threads wait: -1 is 16.
    """
    if workers >= 0:
        return workers
    if waiting:
        return _MAX_THREADS
    if _limit == 1 and _busy:
        return 0
    return min(_MAX_THREADS, max(1, usable_cores() // processes_here()))
