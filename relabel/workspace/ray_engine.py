"""Items of a stage on Ray: actors that hold the model, each with one item at a time.

Ray Core, not Ray Data: the unit is a shard, which is there or not, so there is nothing to plan or
to shuffle; what a lost worker costs is its shard. The driver hands out items and writes nothing of
them. Dead actors are replaced and their items handed out again; whoever writes an item twice
writes the same file twice, each time whole. Actors stay for a few seconds after their last item:
a job labels one dataset after the other, and a process that has loaded torch is worth keeping.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from relabel.errors import ConfigError, RelabelError
from relabel.settings import Runtime
from relabel.workspace.cores import limit_cores
from relabel.workspace.parts import Make, Open
from relabel.workspace.progress import message

R = TypeVar("R")
_QUEUED = 2  # items that an actor has: one in work and the next
_AHEAD = 4  # results per actor that may wait for an earlier one
_MOST_DEATHS = 25  # of actors at one item
_TELL_DEATHS = 3
_KEPT_FOR = 10.0  # seconds that actors wait for other work
_PATIENCE = 60.0  # seconds without an actor until the user is told


def run(
    open: Open[R],
    items: Sequence[int],
    runtime: Runtime,
    told: Callable[[int], str],
    *,
    ordered: bool,
) -> Iterator[tuple[int, R]]:
    """Make items on the cluster; yields each with its result.

    Args:
        told: what an item is called in messages.
        ordered: in the order of ``items``, else as they come.

    Raises:
        ConfigError: no cluster at the address.
        RelabelError: see `relabel.workspace.engine.make_shards`.
    """
    connect(runtime)
    crew = _hire(runtime)
    crew.begin(open, min(len(items), _wanted_actors(runtime)))
    left, done, at = deque(items), dict[int, Any](), 0
    deaths: Counter[int] = Counter()
    try:
        while at < len(items):
            room = len(crew) * _AHEAD if ordered else len(items)
            while left and crew.has_room and len(done) < room:
                crew.give(left.popleft())
            for item, outcome in crew.wait():
                if isinstance(outcome, _Died):
                    deaths[item] += 1
                    _tell_death(told(item), deaths[item], outcome.why, quiet=runtime.quiet)
                    left.appendleft(item)
                elif ordered:
                    done[item] = outcome
                else:
                    at += 1
                    yield item, outcome
            while ordered and at < len(items) and items[at] in done:
                yield items[at], done.pop(items[at])
                at += 1
    finally:
        _release(crew, finished=at == len(items))


def connect(runtime: Runtime) -> None:
    """Join the cluster at ``runtime.ray_address``, or start one on this machine; once.

    Raises:
        ConfigError: none answers there.
    """
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)  # what it says of a cluster of a moment
    address = runtime.ray_address
    # What is registered last runs first: before Ray's own end.
    atexit.register(dismiss_kept)
    try:
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
    except (ConnectionError, ValueError, TimeoutError, RuntimeError) as error:
        raise ConfigError(
            f"no Ray cluster at {address!r}: {error}"
            if address
            else f"Ray does not start here: {error}",
            remedy="Start one with `ray start --head`, or leave runtime.ray_address out."
            if address
            else "Try `ray start --head`, or --engine local.",
        ) from error


def _resources(runtime: Runtime) -> tuple[float, float]:
    """Cores and GPUs of an actor."""
    import ray

    has = ray.cluster_resources()
    gpus = has.get("GPU", 0.0)
    on_gpu = runtime.device.startswith("cuda") or (runtime.device == "auto" and gpus > 0)
    gpu = runtime.ray_gpus if on_gpu else 0.0
    if runtime.ray_cpus:
        return runtime.ray_cpus, gpu
    # The cores of a node are shared among its GPUs: they read images.
    share = has.get("CPU", 1.0) * gpu / gpus if gpu and gpus else 1.0
    return max(1.0, float(int(share))), gpu


def _wanted_actors(runtime: Runtime) -> int:
    """As many as were asked for, else as fit on the cluster as it is."""
    import ray

    if runtime.ray_actors:
        return runtime.ray_actors
    cpus, gpus = _resources(runtime)
    has = ray.cluster_resources()
    fit = [has.get("CPU", 0.0) // cpus] + ([has.get("GPU", 0.0) // gpus] if gpus else [])
    return max(1, int(min(fit)))


def crew_size(runtime: Runtime) -> tuple[int, float, float]:
    """Actors that would work, cores of each and GPUs of each."""
    connect(runtime)
    return _wanted_actors(runtime), *_resources(runtime)


class _Died:
    """An item whose actor was lost."""

    def __init__(self, why: str) -> None:
        self.why = why


class _Actor:
    """What runs on the cluster: the opened work."""

    def __init__(self, runtime: Runtime, folder: str, cores: int, busy: bool) -> None:
        # Paths of the driver hold here: the folder is shared, or the machine is the same.
        with suppress(OSError):
            os.chdir(folder)
        limit_cores(cores, busy=busy)
        self.runtime = runtime
        self.opened: int | None = None
        self.make: Make[Any] | None = None

    def work(self, number: int, open: Sequence[Any], item: int) -> Any:
        """Make an item.

        Args:
            number: of the work, which is opened when its first item comes.
            open: a list of the reference to it, which Ray would otherwise fetch for every item.
        """
        import ray

        if self.opened != number:
            self.make = None  # the model before goes first
            _free_memory()
            opens: Any = ray.get(open[0])
            self.make, self.opened = opens(self.runtime), number
        assert self.make is not None
        (result,) = self.make([item])
        return result


def _free_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


class _Crew:
    """The actors, and what each has to do."""

    def __init__(self, runtime: Runtime) -> None:
        import ray

        cpus, gpus = _resources(runtime)
        threads = max(1, int(cpus))
        self._made_of = (_there(runtime, gpus), str(Path.cwd()), threads, not gpus)
        context = ray.get_runtime_context()
        self.key = (*self._made_of, gpus, context.gcs_address, context.get_job_id())
        self._class = ray.remote(_Actor).options(
            num_cpus=cpus,
            num_gpus=gpus,
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(threads)}},
        )
        self._quiet, self._waited = runtime.quiet, False
        self._number, self._size, self._open = 0, 1, []
        self._actors: list[Any] = []
        self._works: dict[Any, tuple[Any, int]] = {}  # by reference: actor and item

    def begin(self, open: Open[Any], size: int) -> None:
        """Take up other work, with so many actors."""
        import ray

        self._number, self._size, self._open = self._number + 1, size, [ray.put(open)]
        for actor in self._actors[size:]:
            ray.kill(actor)
        del self._actors[size:]

    def __len__(self) -> int:
        return self._size

    @property
    def has_room(self) -> bool:
        return len(self._works) < self._size * _QUEUED

    def give(self, item: int) -> None:
        """Hand an item to the actor that has least to do, a new one where there are too few."""
        load = Counter(id(actor) for actor, _ in self._works.values())
        idle = [actor for actor in self._actors if not load[id(actor)]]
        if not idle and len(self._actors) < self._size:
            idle = [self._class.remote(*self._made_of)]
            self._actors += idle
        actor = idle[0] if idle else min(self._actors, key=lambda a: load[id(a)])
        work = actor.work.remote(self._number, self._open, item)
        self._works[work] = (actor, item)

    def wait(self) -> list[tuple[int, Any]]:
        """Items that are done or whose actor is lost; waits for one.

        Raises:
            RelabelError: what the work raised.
        """
        import ray
        from ray.exceptions import RayError, RayTaskError

        patience = None if self._waited else _PATIENCE
        ready, _ = ray.wait(list(self._works), num_returns=1, timeout=patience)
        if not ready:
            self._waited = True
            message(
                "Ray: no result yet; actors wait for free cores or GPUs, or the first item is "
                "long. `ray status` tells.",
                quiet=self._quiet,
            )
        found = []
        for reference in ready:
            actor, item = self._works.pop(reference)
            try:
                found.append((item, ray.get(reference)))
            except RayTaskError as error:
                raise _cause(error) from error
            except RayError as error:
                if actor in self._actors:
                    self._actors.remove(actor)
                found.append((item, _Died(type(error).__name__)))
        return found

    def dismiss(self) -> None:
        import ray

        actors, self._actors, self._open = self._actors, [], []
        if not ray.is_initialized():  # they are gone; Ray ends the process that asks it now
            return
        for actor in actors:
            with suppress(Exception):
                ray.kill(actor)


# The actors of the work before, and what sends them away if no other follows soon.
_kept: tuple[_Crew, threading.Timer] | None = None
_lock = threading.Lock()


def _hire(runtime: Runtime) -> _Crew:
    global _kept
    crew = _Crew(runtime)
    with _lock:
        kept, _kept = _kept, None
    if kept is None:
        return crew
    kept[1].cancel()
    if kept[0].key == crew.key:
        return kept[0]
    kept[0].dismiss()
    return crew


def _release(crew: _Crew, *, finished: bool) -> None:
    global _kept
    if not finished:
        crew.dismiss()
        return
    timer = threading.Timer(_KEPT_FOR, dismiss_kept)
    timer.daemon = True
    with _lock:
        _kept = crew, timer
    timer.start()


def dismiss_kept() -> None:
    """Send the actors away that wait for other work."""
    global _kept
    with _lock:
        kept, _kept = _kept, None
    if kept is not None:
        kept[1].cancel()
        kept[0].dismiss()


def _there(runtime: Runtime, gpus: float) -> Runtime:
    """How an actor works."""
    there = replace(runtime, engine="local", quiet=True)
    # Ray shows an actor its own GPUs only.
    return replace(there, device="cuda") if gpus else there


def _cause(error: Any) -> BaseException:
    """What the work raised, as it would have been raised here."""
    cause = error.cause if isinstance(error.cause, BaseException) else None
    if isinstance(cause, RelabelError):
        return cause
    return RelabelError(
        f"the work on Ray failed: {str(error).strip().splitlines()[-1]}",
        remedy="Run with --debug for the whole message.",
    )


def _tell_death(what: str, deaths: int, why: str, *, quiet: bool) -> None:
    if deaths >= _MOST_DEATHS:
        raise RelabelError(
            f"{deaths} workers died at {what}, the last of {why}",
            remedy="Make it with --engine local to see why; what is finished is kept.",
        )
    if deaths >= _TELL_DEATHS:
        message(f"{what} has lost {deaths} workers ({why}); it is tried again", quiet=quiet)
