"""Zip archives of unknown origin: what a member says of its size is not believed."""

from __future__ import annotations

import zipfile
from pathlib import Path

from relabel.errors import DataError
from relabel.files.opening import check_regular, foreign

MOST_MEMBER = 1 << 29
"""Bytes of the largest member that is read by default: larger than any image of a dataset."""
_DAMAGED = "Download the archive again."


def open_archive(path: str | Path) -> zipfile.ZipFile:
    """A zip archive, open for reading.

    Raises:
        DataError: missing, not a regular file, or not a zip archive.
    """
    check_regular(path, remedy="Check the dataset's root.")
    with foreign(path, "a readable zip archive", remedy=_DAMAGED):
        return zipfile.ZipFile(path)
    raise AssertionError  # unreachable: the block above returns or raises


def read_member(
    archive: zipfile.ZipFile, name: str, *, path: str | Path, most: int = MOST_MEMBER
) -> bytes:
    """The bytes of one member.

    Raises:
        DataError: no such member; it is encrypted, compressed in a way Python cannot read, damaged,
            or larger than ``most``.
    """
    record = f"member {name}"
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise DataError(
            "no such member in the archive", file=path, record=record, remedy=_DAMAGED
        ) from None
    if info.flag_bits & 1:
        raise DataError(
            "is encrypted",
            file=path,
            record=record,
            remedy="Unpack the archive with its password, and pack it again without one.",
        )
    if info.file_size > most:
        raise DataError(
            f"says it holds {info.file_size:,} bytes; at most {most:,} are read",
            file=path,
            record=record,
            remedy=_DAMAGED,
        )
    with foreign(path, "readable in the archive", record=record, remedy=_DAMAGED):
        with archive.open(info) as stream:
            data = stream.read(most + 1)
        if len(data) > most:
            raise ValueError(f"it holds more than {most:,} bytes")
        return data
    raise AssertionError  # unreachable: the block above returns or raises
