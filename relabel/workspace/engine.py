"""Where the items of a stage are made: in this process, or by actors on a Ray cluster.

A stage says how its work is opened: a function that loads the model and returns another, which
makes items one after the other. Here it is called once with all of them; on Ray every actor opens
it once and is given an item at a time. Either way it writes the same files. What it needs must
survive pickling, and what the actors are to do alike must depend on the item alone.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from relabel.errors import ConfigError
from relabel.settings import Runtime
from relabel.workspace.atomic import remove_leftovers
from relabel.workspace.cores import usable_cores
from relabel.workspace.parts import Make, Open, shard_progress
from relabel.workspace.progress import progress
from relabel.workspace.stage import Shards

__all__ = [
    "Make",
    "Open",
    "Workers",
    "driver_device",
    "make_in_order",
    "make_shards",
    "require_engine",
    "workers",
]

R = TypeVar("R")


def require_engine(runtime: Runtime) -> None:
    """Say before any work that the engine is not installed.

    Raises:
        ConfigError: it is not.
    """
    if runtime.engine == "ray" and importlib.util.find_spec("ray") is None:
        raise ConfigError(
            "--engine ray needs Ray, which is not installed",
            remedy="pip install 'relabel[ray]', or leave --engine ray out.",
        )


@dataclass(frozen=True)
class Workers:
    """Who makes shards.

    Attributes:
        count: how many at a time.
        cores: of all of them.
        where: in words.
        shared: they may be on other machines, which share a disk with this one.
    """

    count: int
    cores: float
    where: str
    shared: bool = False


def workers(runtime: Runtime, device: str) -> Workers:
    """Who will make shards, with this engine; joins or starts the cluster.

    Args:
        device: type of torch device that works here.
    """
    require_engine(runtime)
    if runtime.engine == "local":
        cores = usable_cores()
        where = f"{cores} core{'s' * (cores != 1)}" if device == "cpu" else device
        return Workers(1, cores, where)
    from relabel.workspace.ray_engine import crew_size

    count, cpus, gpus = crew_size(runtime)
    has = f"{gpus:g} GPU{'s' * (gpus != 1)}" if gpus else f"{cpus:g} core{'s' * (cpus != 1)}"
    each = "each with " if count != 1 else "with "
    where = f"{count} worker{'s' * (count != 1)} on Ray, {each}{has}"
    return Workers(count, count * cpus, where, shared=True)


def driver_device(runtime: Runtime) -> str:
    """Where this process loads a model: it only has to know it where actors do the work."""
    return runtime.device if runtime.engine == "local" else "cpu"


def make_shards(
    open: Open[R],
    shards: Shards,
    todo: Sequence[int],
    runtime: Runtime,
    *,
    title: str,
    alone: bool = True,
) -> Iterator[R]:
    """Make shards; yields the result of each as it is there, in no order.

    Args:
        open: see `Open`; what it returns writes the shards, and draws a bar unless it is told to
            be quiet.
        todo: numbers of the shards to make.
        title: of the bar that is drawn for the actors.
        alone: no other process makes shards of the same folder.

    Raises:
        ConfigError: the engine is not installed.
        RelabelError: what the work raises; actors die of one shard again and again, or the
            cluster has no room for any.
    """
    if not todo:
        return
    if runtime.engine == "local":
        yield from open(runtime)(todo)
        return
    with shard_progress(title, shards, todo, runtime) as bar:
        for i, result in _on_ray(open, todo, runtime, _images(shards), ordered=False):
            bar.update(len(shards.items(i)))
            yield result
    if alone:  # what actors left that died while they wrote
        remove_leftovers(shards.folder)


def make_in_order(
    open: Open[R], items: Sequence[int], runtime: Runtime, *, title: str, unit: str, what: str
) -> Iterator[R]:
    """Make items whose results come back, in their order; few are in memory at a time.

    Args:
        open: see `make_shards`.
        items: their numbers.
        title, unit: of the bar that is drawn for the actors.
        what: what an item is called in messages.

    Raises:
        ConfigError, RelabelError: see `make_shards`.
    """
    if not items:
        return
    if runtime.engine == "local":
        yield from open(runtime)(items)
        return
    with progress(title, len(items), unit=unit, quiet=runtime.quiet) as bar:
        for _, result in _on_ray(open, items, runtime, lambda i: f"{what} {i}", ordered=True):
            bar.update()
            yield result


def _images(shards: Shards) -> Callable[[int], str]:
    def told(i: int) -> str:
        items = shards.items(i)
        return f"{shards.shard_path(i).name} (images {items.start} to {items.stop - 1})"

    return told


def _on_ray(
    open: Open[R],
    items: Sequence[int],
    runtime: Runtime,
    told: Callable[[int], str],
    *,
    ordered: bool,
) -> Iterator[tuple[int, R]]:
    require_engine(runtime)
    from relabel.workspace.ray_engine import run

    return run(open, items, runtime, told, ordered=ordered)
