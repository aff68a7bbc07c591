"""Several processes of one command, as ``torchrun`` and ``accelerate launch`` start them.

Only trainings use them all. When they have met, rank 0 runs the command as if it were alone: it
alone reads settings, holds locks, writes and prints. The other ranks wait, for hours where need be,
until it calls a function that `on_all_ranks` marks; they call the same function with the same
arguments, and wait again. Any other training runs in rank 0 alone. Where one rank fails or dies,
the connections to it break, and all others end.
"""

from __future__ import annotations

import functools
import importlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from relabel.errors import ConfigError, StageError

P = ParamSpec("P")
R = TypeVar("R")

# What says that a process is one of several. Libraries act on it wherever they find it.
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_MAIN = ("MASTER_ADDR", "MASTER_PORT")
_MEETING = timedelta(minutes=10)
# Once they have met, a rank that died is noticed; none is ever given up for being slow.
_TIMEOUT = timedelta(days=14)
_PATIENCE = 5.0  # seconds in which the launcher ends a rank whose error is rank 0's as well


@dataclass(frozen=True)
class _Launch:
    rank: int
    world: int
    local_rank: int
    local_world: int


_launch: _Launch | None = None
_together = False


def enter() -> int:
    """Take the launcher's variables out of the environment; the rank of this process."""
    global _launch
    found = [os.environ.get(name, "") for name in _VARIABLES]
    numbers = [int(text) if text.isdecimal() else -1 for text in found]
    complete = all(os.environ.get(name) for name in _MAIN) and min(numbers[:3]) >= 0
    if complete:
        for name in _VARIABLES:
            os.environ.pop(name, None)
    if complete and numbers[1] > 1:
        _launch = _Launch(numbers[0], numbers[1], numbers[2], max(1, numbers[3]))
    return 0 if _launch is None else _launch.rank


def join() -> None:
    """Meet the other ranks, before anything else is done; from then on each sees another's end.

    Raises:
        StageError: they have not come in 10 minutes.
    """
    if _launch is None:
        return
    import torch
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if _launch.local_rank < gpus:
        torch.cuda.set_device(_launch.local_rank)
    try:
        store = next(rendezvous("env://", _launch.rank, _launch.world, timeout=_MEETING))[0]
        store.set(f"relabel{_launch.rank}", "here")
        store.wait([f"relabel{i}" for i in range(_launch.world)], _MEETING)
        store.set_timeout(_TIMEOUT)
    except RuntimeError as error:
        raise StageError(
            f"the {_launch.world} processes of the command did not meet: "
            f"{str(error).splitlines()[0]}",
            remedy="Check that all were started, and that every machine reaches "
            f"{os.environ['MASTER_ADDR']}.",
        ) from error
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if gpus and distributed.is_nccl_available() else "gloo",
        store=store,
        rank=_launch.rank,
        world_size=_launch.world,
        timeout=_TIMEOUT,
    )


def rank() -> int:
    """The rank of this process in the training that runs; 0 where it runs alone."""
    return _launch.rank if _launch is not None and _together else 0


def world() -> int:
    """Number of processes of the training that runs."""
    return _launch.world if _launch is not None and _together else 1


def processes_here() -> int:
    """How many of them share this machine."""
    return _launch.local_world if _launch is not None and _together else 1


def launched() -> int:
    """Number of processes that the command was started in, whatever they do now."""
    return 1 if _launch is None else _launch.world


def check_batch(size: int, section: str = "", key: str = "batch_size") -> None:
    """Refuse a global batch that the processes of the command cannot share evenly.

    Raises:
        ConfigError: it is no multiple of their number.
    """
    count = launched()
    if size % count:
        name = f"{section}.{key}" if section else key
        more = size + count - size % count
        raise ConfigError(
            f"{name} is {size}, which {count} processes cannot share evenly",
            remedy=f"Use a multiple of {count}, such as {more}, or start another number of "
            "processes.",
        )


def on_all_ranks(*first_only: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a function of a module as a training that all ranks take part in.

    Args:
        first_only: keyword arguments that only rank 0 receives; the others get None.
    """

    def mark(train: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(train)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            if _launch is None or _together:
                return train(*args, **kwargs)
            theirs = {k: None if k in first_only else v for k, v in kwargs.items()}
            _broadcast((train.__module__, train.__qualname__, args, theirs))
            return _call(train, *args, **kwargs)

        return run

    return mark


def serve() -> Exception | None:
    """Take part in the trainings of rank 0, silently, until it ends.

    Returns:
        What went wrong here and nowhere else.
    """
    try:
        with (
            Path(os.devnull).open("w") as nowhere,
            redirect_stdout(nowhere),
            redirect_stderr(nowhere),
        ):
            join()
            while (call := _broadcast(None)) is not None:
                module, name, args, kwargs = call
                _call(getattr(importlib.import_module(module), name), *args, **kwargs)
            _leave()
    except Exception as error:
        time.sleep(_PATIENCE)
        return error
    return None


def release() -> None:
    """Let the other ranks end; rank 0 does so when all went well."""
    if _launch is not None:
        with suppress(StageError):
            _broadcast(None)
            _leave()


def _leave() -> None:
    from torch import distributed

    distributed.destroy_process_group()


def _broadcast(value: Any) -> Any:
    """What rank 0 says."""
    import torch
    from torch import distributed

    box = [value]
    with _all_alive():
        distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def _call(train: Callable[..., R], *args: Any, **kwargs: Any) -> R:
    global _together
    _together = True
    try:
        with _all_alive():
            return train(*args, **kwargs)
    finally:
        _together = False


@contextmanager
def _all_alive() -> Iterator[None]:
    """Within the block, what libraries say when another rank is gone becomes one line."""
    from torch import distributed

    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        raise StageError(
            "another process of the command ended",
            remedy="The same command resumes, also with another number of processes.",
        ) from error
