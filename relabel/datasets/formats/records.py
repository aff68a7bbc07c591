"""Reading JSON annotation files as typed records, with the bad ones named.

The fast way decodes a whole file into msgspec structs. Only where that fails does the slow way
look at one record after the other, to say which is wrong and to go on past it.
"""

from __future__ import annotations

import gc
import mmap
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import GenericAlias
from typing import Any, TypeVar

import msgspec

from relabel.errors import DataError, Problems
from relabel.files.json_text import parse_json
from relabel.files.opening import open_mapped

T = TypeVar("T")

_CHUNK_BYTES = 16 << 20
# Where one record of a flat table ends and the next begins.
_BOUNDARY = re.compile(rb"\}\s*,\s*(?=\{)")


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


def may_repeat(data: bytes | bytearray, keys: dict[str, int]) -> bool:
    """True where JSON holds a key more often than the decoded records account for.

    A typed decoder keeps the last of two equal keys. Counting costs little; where it finds too
    many (a value may read like a key), `parse_json` finds out whether an object holds one twice.

    Args:
        keys: how often each may appear.
    """
    return any(data.count(f'"{key}"'.encode()) > most for key, most in keys.items())


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
        kind: Any = GenericAlias(list, type)
        decoder = msgspec.json.Decoder(kind)
        names: tuple[str, ...] = getattr(type, "__struct_encode_fields__", ())
        # A piece is handed out only when all of it is good; at the first that is not, the slow
        # way below takes over.
        done, start = 0, 0
        try:
            for piece, end in _pieces(data):
                rows = decoder.decode(piece)
                if may_repeat(piece, dict.fromkeys(names, len(rows))):
                    parse_json(piece, path)
                yield from rows
                done += len(rows)
                start = end
            return
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
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
