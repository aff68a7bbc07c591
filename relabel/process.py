"""The process as a shell sees it: the signals that end it, and its standard streams.

Ctrl-C, SIGTERM and SIGHUP end the program with one line and status 130, at any moment: while Python
imports, in the midst of a callback, twice in a row. The command line therefore imports this module
before any other; it imports next to nothing itself. What cannot be written to a standard stream
never stops the work.
"""

from __future__ import annotations

import os
import sys

INTERRUPTED = 130
_LINE = b"relabel: interrupted; the same command resumes\n"
_told = False
_arguments: list[str] | None = None


def _is_program() -> bool:
    """True in `relabel` and `python -m relabel`, false where another program imports relabel."""
    folder, name = os.path.split(sys.argv[0] if sys.argv else "")
    module = name == "__main__.py" and os.path.basename(folder) == "relabel"  # noqa: PTH119
    return module or name in ("relabel", "relabel.exe", "relabel-script.py")


def _end_at_once(*_: object) -> None:
    try:
        if not _told:
            os.write(2, _LINE)
    finally:
        os._exit(INTERRUPTED)


def _uncaught(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Interrupts before `main` and after it leave no traceback either."""
    if not issubclass(kind, KeyboardInterrupt) or not _is_program():
        return sys.__excepthook__(kind, error, trace)
    return _end_at_once()


# The other imports come after, so that the time in which Ctrl-C leaves a traceback is short.
sys.excepthook = _uncaught

import atexit  # noqa: E402
import errno  # noqa: E402
import io  # noqa: E402
import signal  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from contextlib import contextmanager, suppress  # noqa: E402
from types import FrameType  # noqa: E402
from typing import Any  # noqa: E402

_SIGNALS = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
_PATIENCE = 1.0  # seconds in which a repeated signal does not disturb the cleaning up
_AGAIN = 0.05  # seconds after which an interrupt that a callback swallowed comes again
_interrupted_at: float | None = None
_ended_with: int | None = None


def _handle(handler: Any) -> dict[int, Any]:
    """Set the handler of the ending signals, but for those ignored; returns those before."""
    before: dict[int, Any] = {}
    with suppress(ValueError):  # not the main thread
        for number in _SIGNALS:
            # nohup and shells that start jobs in the background ignore some on purpose.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, handler)
    return before


if _is_program():
    # Of several processes (`relabel.workspace.ranks`) the first one tells; the others just end.
    _handle(_end_at_once if os.environ.get("RANK", "0") == "0" else signal.SIG_DFL)
    # The first registered is the last called: what is left then is Python's own end.
    atexit.register(_handle, signal.SIG_IGN)


class _Output(io.FileIO):
    """A standard stream that drops what cannot be written, and keeps why."""

    lost: OSError | None = None

    def write(self, data: Any, /) -> int:
        if self.lost is None:
            try:
                return super().write(data)
            except OSError as error:
                self.lost = error
        return memoryview(data).nbytes


@contextmanager
def in_charge() -> Iterator[None]:
    """Within the block signals raise KeyboardInterrupt, and the standard streams are as above.

    Where another program calls, everything is put back at the end.
    """
    global _interrupted_at, _told, _ended_with
    _interrupted_at, _told, _ended_with = None, False, None
    before = sys.stdin, sys.stdout, sys.stderr, sys.unraisablehook
    _open_streams()
    handlers = _handle(_raise)
    sys.unraisablehook = _unraisable
    try:
        yield
    finally:
        if not _is_program():
            for number, handler in handlers.items():
                signal.signal(number, handler)
            _flush(sys.stdout)
            sys.stdin, sys.stdout, sys.stderr, sys.unraisablehook = before


def interrupted() -> bool:
    """True once a signal has come, also if a library made another error of it."""
    return _interrupted_at is not None


def tell_interrupted() -> int:
    """Say so, once; returns the exit status."""
    global _told
    if not _told:
        _told = True
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(_LINE.decode())
            sys.stderr.flush()
    return INTERRUPTED


def take_output_failure() -> str | None:
    """Why standard output could not be written so far; None, also where its reader has left."""
    _flush(sys.stdout)
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if not isinstance(raw, _Output) or raw.lost is None:
        return None
    error, raw.lost = raw.lost, None
    return None if error.errno == errno.EPIPE else (error.strerror or str(error))


def leave(status: int) -> None:
    """End with this status; after an interrupt at once, without what libraries do at exit."""
    global _ended_with
    _ended_with = status
    if _is_program() and interrupted():
        _flush(sys.stdout)
        os._exit(status)
    sys.exit(status)


def _flush(stream: Any) -> None:
    with suppress(OSError, ValueError, AttributeError):
        stream.flush()


def _raise(number: int, frame: FrameType | None) -> None:
    global _interrupted_at
    if _ended_with is not None:
        os._exit(_ended_with)
    now = time.monotonic()
    if _interrupted_at is not None and now - _interrupted_at < _PATIENCE:
        return
    _interrupted_at = now
    raise KeyboardInterrupt


def _unraisable(info: Any) -> None:
    """Destructors and callbacks swallow an interrupt: it comes again, outside of them."""
    if not issubclass(info.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(info)
    elif hasattr(signal, "SIGALRM"):
        with suppress(ValueError):
            signal.signal(signal.SIGALRM, _come_again)
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)


def _come_again(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _open_streams() -> None:
    """Give every standard stream a file, and output streams that never raise.

    A closed one would otherwise be the number of the next file that is opened, into which
    libraries would print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream: Any = getattr(sys, name)
        if stream is not None and stream is not getattr(sys, f"__{name}__"):
            continue  # whoever replaced it wants to see what is written
        _flush(stream)
        # Files and class names may hold what the encoding lacks: written as \xNN then.
        opened = io.TextIOWrapper(
            io.BufferedWriter(_Output(number, "w", closefd=False)),
            encoding=getattr(stream, "encoding", None) or "utf-8",
            errors="backslashreplace",
            line_buffering=number == 2 or getattr(stream, "line_buffering", False),
        )
        setattr(sys, name, opened)


def remember_arguments(arguments: Sequence[str] | None) -> None:
    """Remember what the command line was called with; None are the program's own arguments."""
    global _arguments
    _arguments = None if arguments is None else list(arguments)


def command_line() -> str:
    """The command that runs, as a shell takes it."""
    import shlex

    return shlex.join(["relabel", *(sys.argv[1:] if _arguments is None else _arguments)])
