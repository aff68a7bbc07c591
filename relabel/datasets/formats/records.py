"""Reading JSON annotation files as typed records, with the bad ones named.

The fast way decodes a whole file into msgspec structs. Only where that fails does the slow way
look at one record after the other, to say which is wrong and to go on past it.
"""

from __future__ import annotations

import gc
import json
import mmap
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from relabel.errors import DataError, Problems

T = TypeVar("T")

_CHUNK_BYTES = 16 << 20
# Where one record of a flat table ends and the next begins.
_BOUNDARY = re.compile(rb"\}\s*,\s*(?=\{)")


@contextmanager
def _opened(path: Path, remedy: str) -> Iterator[BufferedReader]:
    """An open file; what keeps it from being opened or read is a DataError."""
    try:
        with path.open("rb") as stream:
            yield stream
    except (FileNotFoundError, NotADirectoryError):
        raise DataError("file does not exist", file=path, remedy=remedy) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=path, remedy=remedy) from error


@contextmanager
def open_mapped(path: Path, *, remedy: str) -> Iterator[mmap.mmap]:
    """A file mapped into memory for reading.

    Raises:
        DataError: it is missing, empty, or cannot be read.
    """
    with _opened(path, remedy) as stream:
        if path.stat().st_size == 0:
            raise DataError("file is empty", file=path, remedy="Download the file again.")
        data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    with data:
        yield data


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep Python's cyclic collector from walking millions of new records over and over."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_file(path: Path, *, remedy: str = "Check the path.") -> bytearray:
    """The bytes of an annotation file, without a byte order mark.

    Raises:
        DataError: it is missing, empty, or cannot be read.
    """
    with _opened(path, remedy) as stream:
        data = bytearray(path.stat().st_size)
        del data[stream.readinto(data) :]
    if data.startswith(b"\xef\xbb\xbf"):
        del data[:3]
    if not data or (len(data) < 64 and not data.strip()):
        raise DataError("file is empty", file=path, remedy="Download the file again.")
    return data


def parse_json(data: bytes | bytearray, path: str | Path) -> Any:
    """Plain Python objects from JSON that may hold NaN and Infinity, as Python writes them.

    Raises:
        DataError: not JSON, not UTF-8, or cut off; the message tells where.
    """
    try:
        return json.loads(data)
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8 text at byte {error.start}",
            file=path,
            remedy="Save the file as UTF-8 JSON.",
        ) from error
    except RecursionError as error:
        raise DataError("not valid JSON: nested too deeply", file=path) from error
    except ValueError as error:
        at = getattr(error, "pos", None)
        cut = at is not None and not data[at:].strip()
        what = "it is cut off at its end" if cut else str(error)
        raise DataError(
            f"not valid JSON: {what}", file=path, remedy="Export or download the file again."
        ) from error


def convert_record(
    value: Any, type: type[T], *, path: Path, record: str, problems: Problems
) -> T | None:
    """One plain object as a typed record, or None where it does not fit and is to be skipped."""
    try:
        return msgspec.convert(value, type)
    except msgspec.ValidationError as error:
        problems.error(
            str(error),
            file=path,
            record=record,
            remedy="Correct the record, or leave it out with --skip-bad.",
        )
        return None


def read_table(path: Path, type: type[T], problems: Problems, *, remedy: str) -> Iterator[T]:
    """Stream the records of a file that is one JSON list of flat objects.

    The file is decoded piece by piece, so that a table of millions of rows does not have to be
    held in memory at once. Rows that do not fit ``type`` go to ``problems``.

    Raises:
        DataError: missing, empty or not a JSON list; or a bad row, unless those are skipped.
    """
    with open_mapped(path, remedy=remedy) as data:
        decoder = msgspec.json.Decoder(list[type])
        # A piece is handed out only when all of it is good; at the first that is not, the slow
        # way below takes over.
        done, start = 0, 0
        try:
            for piece, end in _pieces(data):
                rows = decoder.decode(piece)
                yield from rows
                done += len(rows)
                start = end
            return
        except msgspec.MsgspecError:
            rest = data[start:]
    rows = parse_json(rest if start == 0 else b"[" + rest, path)
    if not isinstance(rows, list):
        raise DataError("is not a JSON list of records", file=path, remedy=remedy)
    for i, row in enumerate(rows, start=done):
        token = row.get("token") if isinstance(row, dict) else None
        record = f"record {i}" + (f" (token {token})" if isinstance(token, str) else "")
        typed = convert_record(row, type, path=path, record=record, problems=problems)
        if typed is not None:
            yield typed


def _pieces(data: mmap.mmap) -> Iterator[tuple[bytes, int]]:
    """Cut a JSON list into smaller lists, each with the offset at which the next one begins."""
    start, total = 0, len(data)
    while True:
        found = _BOUNDARY.search(data, min(start + _CHUNK_BYTES, total))
        end = total if found is None else found.end()
        body = data[start : end if found is None else found.start() + 1]
        yield (b"[" if start else b"") + body + (b"]" if found is not None else b""), end
        if found is None:
            return
        start = end
