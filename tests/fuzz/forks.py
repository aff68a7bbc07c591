"""Runs each command in a child process: its status, output, time and memory."""

from __future__ import annotations

import os
import resource
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
_LONGEST_PAUSE = 0.02


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


def run_forked(work: Callable[[], int], folder: Path, scratch: Path) -> Ran:
    """Run ``work`` in a child process whose current folder is ``folder``."""
    files = [scratch / "stdout", scratch / "stderr"]
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _child(work, folder, files)
    hung, pause, used, since = False, 0.0005, "", time.monotonic()
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if pause >= _LONGEST_PAUSE:
            state, now = _state(pid)
            if state != "S" or now != used:
                used, since = now, time.monotonic()
            elif time.monotonic() - since > ASLEEP_SECONDS and not hung:
                os.kill(pid, signal.SIGKILL)
                hung = True
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)
    code = os.waitstatus_to_exitcode(status)
    seconds = usage.ru_utime + usage.ru_stime
    hung = hung or code == -signal.SIGXCPU or seconds >= CPU_SECONDS
    out, err = (file.read_bytes() for file in files)
    memory = usage.ru_maxrss / 1024
    return Ran(code if code >= 0 else 128 - code, out, err, seconds, memory, hung)


def _child(work: Callable[[], int], folder: Path, files: list[Path]) -> None:
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
        os.chdir(folder)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        for limit, value in (
            (resource.RLIMIT_AS, used + _ADDRESS_SPACE),
            (resource.RLIMIT_FSIZE, _FILE_SIZE),
            (resource.RLIMIT_CPU, CPU_SECONDS),
            (resource.RLIMIT_CORE, 0),
        ):
            resource.setrlimit(limit, (value, value))
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


def _state(pid: int) -> tuple[str, str]:
    """Whether a process runs (R) or sleeps (S, D), and the processor time it has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], f"{fields[11]} {fields[12]}"
