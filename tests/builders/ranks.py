"""This process as one of several, without the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from relabel.workspace import ranks


@contextmanager
def as_rank(rank: int, world: int, here: int = 0) -> Iterator[None]:
    """Within the block this process is one of a shared training; ``here`` are on this machine."""
    before = ranks._launch, ranks._together
    ranks._launch = ranks._Launch(rank, world, rank, here or world)
    ranks._together = True
    try:
        yield
    finally:
        ranks._launch, ranks._together = before
