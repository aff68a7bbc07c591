"""Runs each command in a child process: its status, output, time and memory."""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# A hang is 10 s of processor time, or to sleep for long without any; a busy machine is neither.
CPU_SECONDS, ASLEEP_SECONDS = 10, 5.0
_ADDRESS_SPACE = 6 << 30  # stops what would take the whole machine
_FILE_SIZE = 200 << 20
_LOOK_EVERY = 0.5  # seconds


@dataclass(frozen=True)
class Ran:
    """How a command ended.

    Attributes:
        status: exit status; 128 + the signal where one ended it.
        out, err: what it printed.
        seconds: processor time.
        memory: MiB that it held at most, with what it had from its parent.
        hung: it was stopped.
    """

    status: int
    out: bytes
    err: bytes
    seconds: float
    memory: float
    hung: bool


def run_forked(
    work: Callable[[], int], folder: Path, scratch: Path, *, limited: bool = True
) -> Ran:
    """Run ``work`` in a child process whose current folder is ``folder``.

    Args:
        scratch: gets the output.
        limited: whether its time, memory and files are limited.
    """
    files = [scratch / "stdout", scratch / "stderr"]
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _child(work, folder, files, limited)
    hung = limited and _wait(pid)
    _, status, usage = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    seconds = usage.ru_utime + usage.ru_stime
    hung = hung or (limited and seconds >= CPU_SECONDS)
    out, err = (file.read_bytes() for file in files)
    memory = usage.ru_maxrss / 1024
    return Ran(code if code >= 0 else 128 - code, out, err, seconds, memory, hung)


def _wait(pid: int) -> bool:
    """Wait for a process to end; one that sleeps for long is stopped, and is said to hang."""
    handle = os.pidfd_open(pid)
    try:
        ended = select.poll()
        ended.register(handle, select.POLLIN)
        used, since = "", time.monotonic()
        while not ended.poll(_LOOK_EVERY * 1000):
            state, now = _state(pid)
            if state != "S" or now != used:
                used, since = now, time.monotonic()
            elif time.monotonic() - since > ASLEEP_SECONDS:
                os.kill(pid, signal.SIGKILL)
                return True
    finally:
        os.close(handle)
    return False


def _child(work: Callable[[], int], folder: Path, files: list[Path], limited: bool) -> None:
    code = 70
    try:
        os.setpgid(0, 0)
        for number, file in enumerate(files, 1):
            opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(opened, number)
            os.close(opened)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        # As an interpreter begins, whatever pytest has put there.
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(  # noqa: SIM115
            2, "w", encoding="utf-8", errors="backslashreplace", closefd=False
        )
        os.chdir(folder)
        if limited:
            _limit()
        code = work()
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 70
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _limit() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for limit, value in (
        (resource.RLIMIT_AS, used + _ADDRESS_SPACE),
        (resource.RLIMIT_FSIZE, _FILE_SIZE),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))


def _state(pid: int) -> tuple[str, str]:
    """Whether a process runs (R) or sleeps (S, D), and the processor time it has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], f"{fields[11]} {fields[12]}"
