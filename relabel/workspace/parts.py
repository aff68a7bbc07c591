"""Stages made of shards that several processes, on one machine or many, can share.

A finished shard is never made again. Processes with different parts of one run work in the same
folders; none of them holds a lock while it works, see `relabel.workspace.pipeline`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from relabel.errors import ConfigError, DataError
from relabel.settings import Runtime
from relabel.workspace.atomic import remove_leftovers
from relabel.workspace.progress import Progress, message, progress
from relabel.workspace.stage import Shards

SHARDS = "shards"
R = TypeVar("R")
# From how to run to what makes items: their numbers in, one result for each in their order.
Make = Callable[[Sequence[int]], Iterator[R]]
Open = Callable[[Runtime], Make[R]]


@dataclass(frozen=True)
class WorkerShare:
    """The shards of one process: every ``count``-th, from ``index`` on.

    >>> WorkerShare.parse("1/4"), WorkerShare.parse("4/4")
    (WorkerShare(index=1, count=4), WorkerShare(index=0, count=4))
    """

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> WorkerShare:
        """From ``i/n``; 1/n to n/n and 0/n to (n-1)/n name the same n parts.

        Raises:
            ConfigError: not of that form.
        """
        first, _, second = text.partition("/")
        if not (first.strip().isdecimal() and second.strip().isdecimal()):
            raise ConfigError(f"part {text!r} is not i/n", remedy="Write --shard 1/4, for example.")
        index, count = int(first), int(second)
        if not 0 <= index <= count or count < 1:
            raise ConfigError(f"there is no part {text}", remedy=f"Use 1/{count} to {text}.")
        return cls(index % count, count)

    def has(self, shard: int) -> bool:
        return shard % self.count == self.index


def pending(
    shards: Shards, part: WorkerShare, readable: Callable[[Path], object], *, quiet: bool
) -> list[int]:
    """The shards this process has to make: those missing, damaged or of another run.

    Args:
        readable: reads a shard, raising DataError where it is not to be kept.
    """
    shards.folder.mkdir(parents=True, exist_ok=True)
    if part.count == 1:
        remove_leftovers(shards.folder)
    found = []
    for i in range(len(shards)):
        if not part.has(i):
            continue
        path = shards.shard_path(i)
        if path.is_file():
            try:
                readable(path)
                continue
            except DataError as error:
                message(f"{path} is made again: {error.message}", quiet=quiet)
        found.append(i)
    return found


def shard_progress(
    title: str, shards: Shards, todo: Sequence[int], runtime: Runtime
) -> AbstractContextManager[Progress]:
    """A bar over all images, of which those of the shards not to do are done."""
    left = sum(len(shards.items(i)) for i in todo)
    initial = shards.total - left
    return progress(title, shards.total, unit="img", initial=initial, quiet=runtime.quiet)
