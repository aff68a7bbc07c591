"""Files that are either complete or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import itertools
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from relabel.errors import RelabelError

TEMP_PREFIX = ".tmp-"
_numbers = itertools.count()


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place when the block ends without an error.

    The file is synced before the rename and its folder after it, so that after a kill or a power
    cut ``path`` is the old file or the new one, never a part. The temporary name keeps the
    suffix, for writers that look at it. Missing parent folders are made.

    Raises:
        RelabelError: the disk is full.
    """
    path = Path(path)
    with disk_full_as_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temp = path.with_name(f"{TEMP_PREFIX}{os.getpid()}-{next(_numbers)}{path.suffix}")
        try:
            yield temp
            _sync(temp)
            temp.replace(path)
            _sync(path.parent)
        finally:
            temp.unlink(missing_ok=True)


def atomic_write_bytes(path: str | Path, data: bytes) -> None:
    """Write a whole file at once; see `atomic_path`."""
    with atomic_path(path) as temp:
        temp.write_bytes(data)


def atomic_write_json(path: str | Path, obj: Any, *, indent: int | None = None) -> None:
    """Write JSON whose bytes depend on ``obj`` only; keys stay in the order given."""
    text = json.dumps(obj, ensure_ascii=False, allow_nan=False, indent=indent)
    atomic_write_bytes(path, text.encode() + b"\n")


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in ``folder``."""
    for temp in folder.glob(f"{TEMP_PREFIX}*"):
        if temp.is_file():
            temp.unlink(missing_ok=True)


def is_disk_full(error: BaseException) -> bool:
    """True for the ways in which Python, Arrow, torch and safetensors say the disk is full."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    text = str(error)
    return "No space left on device" in text or "Disk quota exceeded" in text


def disk_full_error(path: str | Path | None) -> RelabelError:
    return RelabelError(
        "the disk is full or over its quota",
        file=path,
        remedy="Free some space and run the same command again; what is finished is kept.",
    )


@contextmanager
def disk_full_as_error(path: str | Path) -> Iterator[None]:
    try:
        yield
    except RelabelError:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise disk_full_error(path) from error
        raise


def _sync(path: Path) -> None:
    """Flush a file or a folder to the disk; some file systems cannot sync folders."""
    folder = path.is_dir()
    handle = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError) if folder else disk_full_as_error(path):
            os.fsync(handle)
    finally:
        os.close(handle)
