"""Files that are either complete or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import itertools
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from relabel.errors import MIRROR, RelabelError
from relabel.files.remote import upload

TEMP_PREFIX = ".tmp-"
_HOST = f"{zlib.crc32(os.uname().nodename.encode() if hasattr(os, 'uname') else b''):08x}"
_numbers = itertools.count()
_cleaned: set[str] = set()


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place when the block ends without an error.

    The file is synced before the rename and its folder after it, so that after a kill or a power
    cut ``path`` is the old file or the new one, never a part. The temporary name keeps the
    suffix, for writers that look at it. Missing parent folders are made. What killed processes
    left in the folder is removed when a process first writes there. Where ``path`` stands for a
    URL, the file is put into its store before the rename: a file that is here is there too.

    Raises:
        RelabelError: the disk is full, or the store cannot be reached.
    """
    path = Path(path)
    with disk_full_as_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if str(path.parent) not in _cleaned:
            _cleaned.add(str(path.parent))
            remove_dead(path.parent)
        temp = path.with_name(temporary_name(path.suffix))
        try:
            yield temp
            sync(temp)
            url = url_of(path)
            if url is not None:
                upload(temp, url)
            temp.replace(path)
            sync(path.parent)
        finally:
            temp.unlink(missing_ok=True)


def url_of(path: str | Path) -> str | None:
    """The URL that a path stands for; see `relabel.workspace.mirror`.

    >>> url_of("/tmp/relabel-mirror-1-2-0/s3/bucket/run"), url_of("/data/run")
    ('s3://bucket/run', None)
    """
    _, mark, rest = str(path).partition(f"/{MIRROR}")
    _, _, inside = rest.partition("/")
    scheme, _, place = inside.partition("/")
    return f"{scheme}://{place}" if mark and place else None


def atomic_write_bytes(path: str | Path, data: bytes) -> None:
    """Write a whole file at once; see `atomic_path`."""
    with atomic_path(path) as temp:
        temp.write_bytes(data)


def atomic_write_json(path: str | Path, obj: Any, *, indent: int | None = None) -> None:
    """Write JSON whose bytes depend on ``obj`` only; keys stay in the order given."""
    text = json.dumps(obj, ensure_ascii=False, allow_nan=False, indent=indent)
    atomic_write_bytes(path, text.encode() + b"\n")


def temporary_name(suffix: str = "") -> str:
    """A hidden name that no other process uses, and that says which one does."""
    return f"{TEMP_PREFIX}{_HOST}-{os.getpid()}-{next(_numbers)}{suffix}"


def remove_leftovers(folder: Path) -> None:
    """Remove all temporary files in ``folder``: for whoever has it to himself."""
    for temp in folder.glob(f"{TEMP_PREFIX}*"):
        if temp.is_symlink() or temp.is_file():
            temp.unlink(missing_ok=True)


def remove_dead(folder: str | Path) -> None:
    """Remove the temporary files in ``folder`` whose process is known to be gone.

    Others may be at work in the folder, on this machine or on another that shares the disk.
    """
    try:
        with os.scandir(folder) as entries:
            found = [entry.path for entry in entries if entry.name.startswith(TEMP_PREFIX)]
    except OSError:
        return
    for temp in found:
        if is_of_dead(os.path.basename(temp)):  # noqa: PTH119
            Path(temp).unlink(missing_ok=True)


def is_of_dead(name: str) -> bool:
    """Whether a `temporary_name` is of a process of this machine that is gone."""
    host, _, rest = name.removeprefix(TEMP_PREFIX).partition("-")
    pid = rest.partition("-")[0]
    return host == _HOST and pid.isdecimal() and not _is_alive(int(pid))


def _is_alive(pid: int) -> bool:
    if os.name != "posix":  # elsewhere there is no harmless signal
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


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


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk; some file systems cannot sync folders."""
    folder = path.is_dir()
    handle = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError) if folder else disk_full_as_error(path):
            os.fsync(handle)
    finally:
        os.close(handle)
