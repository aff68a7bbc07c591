"""A lock on a folder, so that two processes do not write into it at once."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from relabel.errors import BusyError

LOCK_FILE = ".lock"
_PAUSE = 0.2  # seconds between two tries


class FolderLock:
    """An advisory lock on a folder; the operating system gives it back when the process dies.

    Args:
        folder: it must exist when the lock is taken.
        what: what is going on there, for the message of the process that comes second.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self.folder = folder
        self.what = what
        self._stream: IO[str] | None = None

    def acquire(self, patience: float = 0.0) -> None:
        """Take the lock; nothing happens if this object already has it.

        Args:
            patience: seconds for which another process that has it is waited for.

        Raises:
            BusyError: another process has it.
        """
        until = time.monotonic() + patience
        while time.monotonic() < until:
            with suppress(BusyError):
                return self._try()
            time.sleep(_PAUSE)
        return self._try()

    def _try(self) -> None:
        if self._stream is not None:
            return
        try:
            import fcntl
        except ImportError:  # not a POSIX system: go without
            return
        stream = (self.folder / LOCK_FILE).open("a+", encoding="utf-8")
        try:
            # A record lock, not flock: worker processes must not inherit it, or it would
            # outlive a killed parent.
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            stream.seek(0)
            owner = stream.read().strip() or "unknown"
            stream.close()
            raise BusyError(
                f"another process (pid {owner}) is working on {self.what}",
                file=self.folder,
                remedy="Wait for it or stop it, or choose another --out.",
            ) from error
        except OSError:  # a file system without locks: go without
            stream.close()
            return
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        self._stream = stream

    def release(self) -> None:
        if self._stream is not None:
            # The file stays, as others may wait for it, but says nothing of this process.
            with suppress(OSError):
                self._stream.truncate(0)
            self._stream.close()
            self._stream = None


@contextmanager
def folder_to_itself(folder: Path) -> Iterator[None]:
    """For short work in a folder: others who do this wait. It leaves no file behind.

    Where the system or the file system has no such locks, nobody waits.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
