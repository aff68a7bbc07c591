"""COCO JSON to columns, with every field of the file kept.

The file is decoded into typed msgspec structs, block by block, so that a block's records are
turned into columns while they are in the processor's cache and never are in memory all at once.
Only where that fails is the file taken apart record by record, to say which one is bad and to go
on without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
from msgspec import Raw

from relabel.datasets.formats.coco.columns import (
    ANNOTATION_FIELDS,
    IMAGE_FIELDS,
    INTEGER_FIELDS,
    OPTIONAL_FIELDS,
    AnnotationBlocks,
    AnnotationColumns,
    CocoFile,
    image_columns,
    record_type,
)
from relabel.datasets.formats.records import collector_paused
from relabel.errors import DataError, Problems
from relabel.files.json_text import parse_json
from relabel.files.opening import read_bytes

_LISTS = ("images", "annotations", "categories")
_UNKNOWN_FIELD = re.compile(r"unknown field `(.*)` - at `\$\[", re.DOTALL)
_USABLE_NAME = re.compile(r'[^\\"\x00-\x1f]*')
_MOST_FURTHER_FIELDS = 256
_BLOCK_BYTES = 2 << 20
# Where one record may end and the next begin; inside a record it may also be part of a list.
_BOUNDARY = re.compile(rb"\}\s*(,)\s*\{")
_MOST_TRIES = 100


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
    with collector_paused():
        try:
            return _decode_fast(data, path)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return decode_slowly(data, path, problems)


def decode_results(path: str | Path, problems: Problems, data: bytearray) -> AnnotationColumns:
    """Decode a list of detection results; its records are called ``result``.

    Args:
        path: a name for messages.
        problems: receives bad records.
        data: the file's bytes, which begin with ``[``.

    Raises:
        DataError: not JSON, not a list, or a record of the wrong shape or type.
    """
    results = AnnotationBlocks()
    end = data.rfind(b"]") + 1
    with collector_paused():
        try:
            if data[end:].strip():
                raise msgspec.DecodeError("goes on after the list, or is cut off")
            for records, further in _annotation_blocks(data, data.index(b"["), end, ["score"]):
                results.add(records, further)
        except (msgspec.DecodeError, UnicodeDecodeError):
            results = AnnotationBlocks()
            rows = parse_json(data, path)
            results.add(*_records(rows, _itself, "result", path, problems))
    return results.columns()


def _decode_fast(data: bytearray, path: str | Path) -> CocoFile:
    """All records typed and good, or msgspec's error."""
    top = msgspec.json.decode(data, type=dict[str, Raw])
    for key in _LISTS:
        if key not in top:
            raise _not_coco(path, f"has no list `{key}`")
    images, names = _typed(memoryview(top["images"]), IMAGE_FIELDS, [])
    annotations = AnnotationBlocks()
    start = _offset(data, top["annotations"])
    end = start + len(memoryview(top["annotations"]))
    for records, further in _annotation_blocks(data, start, end, []):
        annotations.add(records, further)
    categories = msgspec.json.decode(top["categories"], type=list[dict[str, Any]])
    return CocoFile(
        image_columns(images, names), annotations.columns(), categories, _file_fields(top)
    )


def _annotation_blocks(
    data: bytearray, start: int, stop: int, names: list[str]
) -> Iterator[tuple[list[Any], list[str]]]:
    """The records of the list at ``data[start:stop]``, about 2 MB at a time.

    The commas before and after a block become brackets for the time of its decoding. A block that
    decodes did end between two records: a prefix of a JSON list has one reading only. One that
    does not, since its end lies in a list inside a record, is tried with the next boundary.
    """
    view = memoryview(data)
    first, end = start, stop - 1
    while first < end:
        last, tries = _boundary(data, first + _BLOCK_BYTES, end), 0
        while True:
            before = data[first], data[last]
            data[first], data[last] = b"[]"
            try:
                records, names = _typed(view[first : last + 1], ANNOTATION_FIELDS, names)
                break
            except msgspec.DecodeError as error:
                if isinstance(error, msgspec.ValidationError) or last == end:
                    raise
                tries += 1
            finally:
                data[first], data[last] = before
            last = _boundary(data, last + 1, end) if tries < _MOST_TRIES else end
        yield records, names
        first = last


def _boundary(data: bytearray, start: int, end: int) -> int:
    found = _BOUNDARY.search(data, start, end) if start < end else None
    return found.start(1) if found else end


def _typed(
    data: memoryview, known: dict[str, tuple[Any, Any]], names: list[str]
) -> tuple[list[Any], list[str]]:
    """A list of records, and ``names`` with the further fields met in them."""
    while True:
        try:
            return msgspec.json.decode(data, type=list[record_type(known, names)]), names
        except msgspec.ValidationError as error:
            unknown = _UNKNOWN_FIELD.search(str(error))
            if unknown is None or len(names) >= _MOST_FURTHER_FIELDS:
                raise
            if not _USABLE_NAME.fullmatch(unknown[1]):  # msgspec has no such field names
                raise
            names = [*names, unknown[1]]


def _offset(data: bytearray, part: Raw) -> int:
    """Where in ``data`` the undecoded value ``part`` begins."""
    address = [np.frombuffer(b, dtype=np.uint8).ctypes.data for b in (data, part)]
    return address[1] - address[0]


def _file_fields(top: dict[str, Raw]) -> dict[str, Any]:
    return {k: msgspec.json.decode(v) for k, v in top.items() if k not in _LISTS}


def _not_coco(path: str | Path, what: str) -> DataError:
    return DataError(
        f"{what}: not a COCO instances file",
        file=path,
        remedy="It needs the lists images, annotations and categories.",
    )


def decode_slowly(data: bytearray, path: str | Path, problems: Problems) -> CocoFile:
    """Record by record: names the bad ones, and accepts what the strict way does not.

    NaN and Infinity, which Python's json writes and JSON does not have, are read here so that the
    box with them can be named; so are integers written as 1.0.

    Raises:
        DataError: not JSON, not a COCO file, or a bad record that is not to be skipped.
    """
    try:
        top: Any = msgspec.json.decode(data, type=dict[str, Raw])
        lists: dict[str, Any] = {
            k: msgspec.json.decode(top[k]) for k in ("categories",) if k in top
        }
        for key in ("images", "annotations"):
            if key in top:
                lists[key] = msgspec.json.decode(top[key], type=list[Raw])
        load: Callable[[Any], Any] = msgspec.json.decode
        fields = _file_fields(top)
    except (msgspec.DecodeError, UnicodeDecodeError):
        top = parse_json(data, path)
        if isinstance(top, list):
            raise DataError(
                "is a list, as of detection results, not a COCO dataset",
                file=path,
                remedy="Results go to `relabel evaluate detections --predictions`.",
            ) from None
        if not isinstance(top, dict):
            raise DataError("is not a JSON object: not a COCO file", file=path) from None
        lists = {k: top[k] for k in _LISTS if k in top}
        load = _itself
        fields = {k: v for k, v in top.items() if k not in _LISTS}
    for key in _LISTS:
        if not isinstance(lists.get(key), list):
            what = "has something else than a list as" if key in lists else "has no list"
            raise _not_coco(path, f"{what} `{key}`")

    categories = []
    for i, row in enumerate(lists["categories"]):
        if isinstance(row, dict):
            categories.append(row)
        else:
            problems.error("is not an object", file=path, record=f"categories[{i}]")
    images = image_columns(*_records(lists["images"], load, "image", path, problems))
    blocks = AnnotationBlocks()
    blocks.add(*_records(lists["annotations"], load, "annotation", path, problems))
    return CocoFile(images, blocks.columns(), categories, fields)


def _itself(value: Any) -> Any:
    return value


def _records(
    rows: list[Any],
    load: Callable[[Any], Any],
    kind: str,
    path: str | Path,
    problems: Problems,
) -> tuple[list[Any], list[str]]:
    """Checked records of the good rows, and the names of their further fields."""
    known = IMAGE_FIELDS if kind == "image" else ANNOTATION_FIELDS
    typed = known if kind == "image" else {**known, **OPTIONAL_FIELDS}
    core = record_type(typed, [])
    good: list[tuple[Any, dict[str, Any]]] = []
    names: dict[str, None] = {}
    for i, raw in enumerate(rows):
        try:
            row = load(raw)
            if not isinstance(row, dict):
                raise TypeError("is not an object")
            values = {k: _as_integer(k, v) for k, v in row.items() if k in typed}
            record = msgspec.convert(values, core)
        except (msgspec.DecodeError, UnicodeDecodeError, TypeError) as error:
            problems.error(
                _plain(str(error)),
                file=path,
                record=_name_of(kind, i, raw),
                remedy=f"Correct the {kind}, or leave it out with --skip-bad.",
            )
            continue
        further = {k: v for k, v in row.items() if k not in known}
        names.update(dict.fromkeys(further))
        good.append((record, further))

    order = list(names)
    records = []
    for record, further in good:
        values = {k: getattr(record, k) for k in typed}
        for j, name in enumerate(order):
            values[f"extra_{j}"] = msgspec.json.encode(further[name]) if name in further else b""
        records.append(SimpleNamespace(**values))
    return records, order


def _as_integer(key: str, value: Any) -> Any:
    if key in INTEGER_FIELDS and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _plain(message: str) -> str:
    """msgspec's message with the field first: ``bbox: expected `array` of length 4``."""
    text, _, where = message.partition(" - at `$")
    name = where.rstrip("`").lstrip(".")
    if not name:
        return text[:1].lower() + text[1:]
    return f"{name}: {text[:1].lower()}{text[1:]}"


def _name_of(kind: str, index: int, raw: Any) -> str:
    """``annotation 17`` by its id where it has one, else by its place in the list."""
    row = raw
    if isinstance(raw, Raw):
        try:
            row = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            row = None
    if isinstance(row, dict) and isinstance(row.get("id"), int | str):
        return f"{kind} {row['id']}"
    return f"{kind}s[{index}]"
