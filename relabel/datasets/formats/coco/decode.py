"""COCO JSON to columns, with every field of the file kept.

The file is decoded into typed msgspec structs, block by block, so that a block's records are
turned into columns while they are in the processor's cache and never are in memory all at once.
Only where that fails is the file taken apart record by record (`slowly`), to say which one is bad,
to go on without it, and to understand what other tools write otherwise.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import GenericAlias
from typing import Any

import msgspec
import numpy as np
from msgspec import Raw

from relabel.datasets.formats.coco.columns import (
    ANNOTATION_FIELDS,
    IMAGE_FIELDS,
    AnnotationBlocks,
    AnnotationColumns,
    CocoFile,
    ImageBlocks,
    record_type,
)
from relabel.datasets.formats.coco.slowly import LISTS, checked_records, decode_slowly, not_coco
from relabel.datasets.formats.records import collector_paused
from relabel.errors import DataError, Problems
from relabel.files.json_text import kind_of, parse_json
from relabel.files.opening import not_utf8, read_bytes

# What a list of results is called where a tool wraps it in an object.
_WRAPPERS = ("predictions", "results", "detections", "annotations")
_UNKNOWN_FIELD = re.compile(r"unknown field `(.*)` - at `\$\[", re.DOTALL)
_USABLE_NAME = re.compile(r'[^\\"\x00-\x1f]*')
_MOST_FURTHER_FIELDS = 256
_BLOCK_BYTES = 2 << 20
# Where one record may end and the next begin; inside a record it may also be part of a list.
_BOUNDARY = re.compile(rb"\}\s*(,)\s*\{")
_MOST_TRIES = 100
# Between two values of an object: one key, or more where a key appears twice.
_KEY = re.compile(rb'[{,\s]*"((?:[^"\\]|\\.)*)"\s*:\s*')
# A key twice in a record is looked for in all blocks of a small file and in some of a large one,
# since that takes a third of the time of decoding; it comes from a writer that does it always.
_ALL_CHECKED_BYTES = 16 << 20
_CHECKED_BLOCKS = 64
_IMAGE_KEYS = (b'"file_name"',)
_ANNOTATION_KEYS = tuple(f'"{name}"'.encode() for name in (*ANNOTATION_FIELDS, "score"))
_NOT_TYPED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError)


def decode(path: str | Path, problems: Problems, data: bytearray | None = None) -> CocoFile:
    """Decode a COCO file.

    Args:
        path: the file.
        problems: receives bad records.
        data: the file's bytes where they are at hand; ``path`` is a name for messages then.

    Raises:
        DataError: not JSON, not a COCO file, or a record of the wrong shape or type.
    """
    data = read_bytes(Path(path)) if data is None else data
    _check_text(data, path)
    with collector_paused():
        try:
            return _decode_fast(data, path)
        except _NOT_TYPED:
            return decode_slowly(data, path, problems)


def _check_text(data: bytearray, path: str | Path) -> None:
    """Refuse bytes that are no UTF-8: fields that stay undecoded would pass unseen.

    Raises:
        DataError: they are not.
    """
    if data.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(data)
    try:
        for start in range(0, len(data), _BLOCK_BYTES):
            decoder.decode(view[start : start + _BLOCK_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise not_utf8(data, path) or error from None


def unwrapped(data: bytearray) -> bytearray | None:
    """The list of results in a file's bytes, also where an object wraps it; None where none is."""
    start = data[:64].lstrip()[:1]
    if start != b"{" or b'"images"' in data:
        return data if start == b"[" else None
    try:
        top = msgspec.json.decode(data, type=dict[str, Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    lists = [bytes(v) for k, v in top.items() if k in _WRAPPERS and bytes(v)[:1] == b"["]
    if len(lists) != 1 or "images" in top or "categories" in top:
        return None
    return bytearray(lists[0])


def decode_results(
    path: str | Path,
    problems: Problems,
    data: bytearray,
    remedy_of: Callable[[dict[str, Any]], str | None] | None = None,
) -> AnnotationColumns:
    """Decode a list of detection results; its records are called ``result``.

    Args:
        path: a name for messages.
        problems: receives bad records.
        data: the list's bytes.
        remedy_of: what to do about a result whose ids are none.

    Raises:
        DataError: not JSON, not a list, or a record of the wrong shape or type.
    """
    _check_text(data, path)
    results = AnnotationBlocks()
    end = data.rfind(b"]") + 1
    with collector_paused():
        try:
            if data[end:].strip():
                raise msgspec.DecodeError("goes on after the list, or is cut off")
            for records, further in _blocks(
                data, data.index(b"["), end, ANNOTATION_FIELDS, ["score"]
            ):
                results.add(records, further)
        except _NOT_TYPED:
            results = AnnotationBlocks()
            rows = parse_json(data, path)
            if not isinstance(rows, list):
                text = f"holds {kind_of(rows)}, not a list of results"
                raise DataError(
                    text, file=path, remedy="Check that it is the right file."
                ) from None
            results.add(*checked_records(rows, "result", path, problems, remedy_of=remedy_of))
    return results.columns()


def _decode_fast(data: bytearray, path: str | Path) -> CocoFile:
    """All records typed and good, or msgspec's error."""
    top = msgspec.json.decode(data, type=dict[str, Raw])
    _check_keys(data, list(top.values()), path)
    for key in LISTS:
        if key not in top:
            raise not_coco(path, f"has no list `{key}`", top)
    images, annotations = ImageBlocks(), AnnotationBlocks()
    for key, blocks in (("images", images), ("annotations", annotations)):
        start = _offset(data, top[key])
        end = start + len(memoryview(top[key]))
        known = IMAGE_FIELDS if key == "images" else ANNOTATION_FIELDS
        for records, further in _blocks(data, start, end, known, []):
            blocks.add(records, further)
    categories = parse_json(bytes(top["categories"]), path)
    if not isinstance(categories, list) or not all(isinstance(c, dict) for c in categories):
        raise msgspec.ValidationError("categories are no list of objects")
    fields = {k: msgspec.json.decode(v) for k, v in top.items() if k not in LISTS}
    return CocoFile(images.columns(), annotations.columns(), categories, fields)


def _check_keys(data: bytearray, values: list[Raw], path: str | Path) -> None:
    """Refuse an object that has a key twice, of which a decoder would lose the first.

    Args:
        data: the whole object.
        values: its undecoded values, parts of ``data``, each key's last.
    """
    end = 0
    for start, length in sorted((_offset(data, v), len(memoryview(v))) for v in values):
        key = _KEY.match(data, end, start)
        if key is not None and key.end() < start:
            name = key[1].decode("utf-8", "replace")
            raise DataError(
                f"the key {name!r} appears twice in one object, of which one would be lost",
                file=path,
                remedy="Merge or rename the two.",
            )
        end = start + length


def _check_once(data: bytearray, start: int, stop: int, records: int, *keys: bytes) -> None:
    """Send a list to the slow way if one of its records has a key twice.

    Raises:
        ValidationError: one has.
    """
    if stop - start > _ALL_CHECKED_BYTES or all(
        data.count(key, start, stop) <= records for key in keys
    ):
        return
    # It may stand in a nested object or in a text as well.
    try:
        parse_json(data[start:stop], "")
    except DataError as error:
        raise msgspec.ValidationError(error.message) from None


def _blocks(
    data: bytearray, start: int, stop: int, known: dict[str, tuple[Any, Any]], names: list[str]
) -> Iterator[tuple[list[Any], list[str]]]:
    """The records of the list at ``data[start:stop]``, about 2 MB at a time.

    The commas before and after a block become brackets for the time of its decoding. A block that
    decodes did end between two records: a prefix of a JSON list has one reading only. One that
    does not, since its end lies in a list inside a record, is tried with the next boundary.
    """
    view = memoryview(data)
    first, end, blocks = start, stop - 1, 0
    every = 1 if stop - start <= _ALL_CHECKED_BYTES else _CHECKED_BLOCKS
    keys = _IMAGE_KEYS if known is IMAGE_FIELDS else _ANNOTATION_KEYS
    while first < end:
        last, tries = _boundary(data, first + _BLOCK_BYTES, end), 0
        while True:
            before = data[first], data[last]
            data[first], data[last] = b"[]"
            try:
                records, names = _typed(view[first : last + 1], known, names)
                if blocks % every == 0:
                    _check_once(data, first, last + 1, len(records), *keys)
                break
            except msgspec.DecodeError as error:
                if isinstance(error, msgspec.ValidationError) or last == end:
                    raise
                tries += 1
            finally:
                data[first], data[last] = before
            last = _boundary(data, last + 1, end) if tries < _MOST_TRIES else end
        yield records, names
        first, blocks = last, blocks + 1


def _boundary(data: bytearray, start: int, end: int) -> int:
    found = _BOUNDARY.search(data, start, end) if start < end else None
    return found.start(1) if found else end


def _typed(
    data: memoryview, known: dict[str, tuple[Any, Any]], names: list[str]
) -> tuple[list[Any], list[str]]:
    """A list of records, and ``names`` with the further fields met in them.

    What fields there are is asked for once, at the first that is new: the list is decoded three
    times then, however many there are.
    """
    try:
        return _of_type(data, known, names), names
    except msgspec.ValidationError as error:
        if _UNKNOWN_FIELD.search(str(error)) is None:
            raise
        further = _further_fields(data, known, names)
        if further is None:
            raise
    return _of_type(data, known, further), further


def _of_type(data: memoryview, known: dict[str, tuple[Any, Any]], names: list[str]) -> list[Any]:
    kind: Any = GenericAlias(list, record_type(known, names))
    return msgspec.json.decode(data, type=kind)


def _further_fields(
    data: memoryview, known: dict[str, tuple[Any, Any]], names: list[str]
) -> list[str] | None:
    """``names``, then the other fields of the records in the order in which they appear.

    None where these are too many, or one has a name that no type can have.
    """
    found = dict.fromkeys(names)
    for row in msgspec.json.decode(data, type=list[dict[str, Raw]]):
        found.update((name, None) for name in row if name not in known)
    # msgspec has no field names with quotes, backslashes or control characters.
    usable = len(found) <= _MOST_FURTHER_FIELDS and all(map(_USABLE_NAME.fullmatch, found))
    return list(found) if usable else None


def _offset(data: bytearray, part: Raw) -> int:
    """Where in ``data`` the undecoded value ``part`` begins."""
    address = [np.frombuffer(b, dtype=np.uint8).ctypes.data for b in (data, part)]
    return address[1] - address[0]
