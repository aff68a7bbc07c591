"""Stages made of shards that several processes, on one machine or many, can share.

A finished shard is never made again. Processes with different parts of one run work in the same
folders; none of them holds a lock while it works, and the stage is finished by whoever finds all
shards there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from relabel.errors import BusyError, ConfigError, DataError
from relabel.settings import Runtime
from relabel.workspace.atomic import remove_leftovers
from relabel.workspace.progress import Progress, message, progress
from relabel.workspace.stage import Shards, Stage

SHARDS = "shards"
_PATIENCE = 60.0  # seconds; the lock is only held to read and write a manifest


@dataclass(frozen=True)
class Part:
    """The shards of one process: every ``count``-th, from ``index`` on.

    >>> Part.parse("1/4"), Part.parse("4/4")
    (Part(index=1, count=4), Part(index=0, count=4))
    """

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Part:
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


def shards_of(stage: Stage, images: int, size: int) -> Shards:
    """The stage's shards over all images; they lie in a folder of their own."""
    return Shards(stage.folder / SHARDS, total=images, size=size)


@contextmanager
def entered(stage: Stage, *, overwrite: bool = False) -> Iterator[None]:
    """Hold the stage's lock, waiting for another process that has it for a moment.

    Raises:
        StageError: the stage was started with different settings and ``overwrite`` is not given.
        BusyError: the lock is held for longer than reading and writing a manifest takes.
    """
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            stage.begin(overwrite=overwrite)
            break
        except BusyError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
    try:
        yield
    finally:
        stage.release()


def pending(
    shards: Shards, part: Part, readable: Callable[[Path], object], *, quiet: bool
) -> list[int]:
    """The shards this process has to make: those missing, and those found damaged.

    Args:
        readable: reads a shard, raising DataError where it is damaged.
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
                message(f"{path}: damaged, is made again ({error.message})", quiet=quiet)
        found.append(i)
    return found


def shard_progress(
    title: str, shards: Shards, todo: Sequence[int], runtime: Runtime
) -> AbstractContextManager[Progress]:
    """A bar over all images, of which those of the shards not to do are done."""
    left = sum(len(shards.items(i)) for i in todo)
    initial = shards.total - left
    return progress(title, shards.total, unit="img", initial=initial, quiet=runtime.quiet)


def finished(stage: Stage, shards: Shards) -> bool:
    """Mark the stage as done if every shard is there; False if other processes still work."""
    if any(True for _ in shards.missing()):
        return False
    with entered(stage):
        if stage.status() != "done":
            remove_leftovers(shards.folder)
            stage.finish({SHARDS: SHARDS})
    return True
