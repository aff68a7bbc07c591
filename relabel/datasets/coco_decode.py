"""COCO JSON to typed records, with every field of the file kept.

The whole file is decoded at once into msgspec structs. Fields that relabel does not work with
(segmentation, attributes, whatever a tool added) are found out while decoding and stay as the
undecoded bytes of the file. Only where that fails is the file taken apart record by record, to
say which one is bad and to go on without it.
"""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Raw

from relabel.errors import DataError, Problems

_Int64: Any = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Pixels: Any = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Flag = int | bool | None

_IMAGE_FIELDS: dict[str, tuple[Any, Any]] = {
    "id": (_Int64, msgspec.NODEFAULT),
    "file_name": (str | None, None),
    "width": (_Pixels | None, None),
    "height": (_Pixels | None, None),
}
_ANNOTATION_FIELDS: dict[str, tuple[Any, Any]] = {
    "id": (_Int64 | None, None),
    "image_id": (_Int64, msgspec.NODEFAULT),
    "category_id": (_Int64, msgspec.NODEFAULT),
    "bbox": (tuple[float, float, float, float], msgspec.NODEFAULT),
    "area": (float | None, None),
    "iscrowd": (_Flag, None),
    "ignore": (_Flag, None),
    "score": (float | None, None),
}
_INTEGERS = {"id", "image_id", "category_id", "width", "height"}
_UNKNOWN_FIELD = re.compile(r"unknown field `(.*)` - at `\$\.(images|annotations)\[", re.DOTALL)
_MOST_EXTRA_FIELDS = 256


class RawFields(Sequence[bytes | None]):
    """Undecoded JSON fields of records, column by column: ``names`` by rows.

    Item ``i`` is the JSON object of the fields that record ``i`` has, or None. The values are
    views into the file's bytes, so that 860,000 segmentations need no second copy.
    """

    def __init__(self, names: Sequence[str], columns: Sequence[list[Any]]) -> None:
        self.names = list(names)
        self.columns = list(columns)
        self._keys = [msgspec.json.encode(name) + b":" for name in self.names]

    def __len__(self) -> int:
        return len(self.columns[0]) if self.columns else 0

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        parts = []
        for key, column in zip(self._keys, self.columns, strict=True):
            value = bytes(column[index])
            if value:
                parts.append(key + value)
        return b"{" + b",".join(parts) + b"}" if parts else None

    def take(self, rows: np.ndarray) -> RawFields:
        order = rows.tolist()
        return RawFields(self.names, [[column[i] for i in order] for column in self.columns])


@dataclass
class CocoFile:
    """A decoded COCO file: records in file order, and the file-level fields."""

    images: list[Any]
    annotations: list[Any]
    categories: list[dict[str, Any]]
    image_extra: list[str]
    annotation_extra: list[str]
    fields: dict[str, Any] = field(default_factory=dict)


@contextmanager
def collector_off() -> Iterator[None]:
    """Without Python's cyclic collector, which would walk the new objects again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_bytes(path: Path) -> bytes:
    """The bytes of an annotation file, without a byte order mark.

    Raises:
        DataError: the file is missing, unreadable or empty.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError("no such file", file=path, remedy="Check the path.") from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=path) from error
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
    if not data or (len(data) < 64 and not data.strip()):
        raise DataError("the file is empty", file=path, remedy="Export or download it again.")
    return data


def decode(path: Path, problems: Problems) -> CocoFile:
    """Decode a COCO file.

    Raises:
        DataError: not JSON, not a COCO file, or a record of the wrong shape or type.
    """
    data = read_bytes(path)
    extra: dict[str, list[str]] = {"images": [], "annotations": []}
    with collector_off():
        while True:
            types = _types(extra)
            try:
                top = msgspec.json.decode(data, type=_top_type(types))
                break
            except msgspec.ValidationError as error:
                unknown = _UNKNOWN_FIELD.search(str(error))
                if unknown and sum(map(len, extra.values())) < _MOST_EXTRA_FIELDS:
                    extra[unknown[2]].append(unknown[1])
                    continue
                return _decode_slowly(data, path, problems)
            except (msgspec.DecodeError, UnicodeDecodeError):
                return _decode_slowly(data, path, problems)
    _require(path, images=top.images, annotations=top.annotations, categories=top.categories)
    return CocoFile(
        images=top.images,
        annotations=top.annotations,
        categories=top.categories,
        image_extra=extra["images"],
        annotation_extra=extra["annotations"],
        fields=_file_fields(msgspec.json.decode(data, type=dict[str, Raw]), path),
    )


def extra_fields(records: list[Any], names: list[str]) -> RawFields | None:
    """The undecoded fields of the records, one row per record; None where there are none.

    COCO's ``ignore`` is worked with and yet kept as it stands: on disk only iscrowd is ours.
    """
    names = list(names)
    columns: list[list[Any]] = [
        [getattr(r, attribute) for r in records]
        for attribute in (f"extra_{i}" for i in range(len(names)))
    ]
    if records and hasattr(records[0], "ignore"):
        flags = [r.ignore for r in records]
        if any(flag is not None for flag in flags):
            names.append("ignore")
            columns.append([b"" if f is None else msgspec.json.encode(f) for f in flags])
    return RawFields(names, columns) if names else None


def _types(extra: dict[str, list[str]]) -> dict[str, Any]:
    return {
        "images": _record_type("Image", _IMAGE_FIELDS, extra["images"]),
        "annotations": _record_type("Annotation", _ANNOTATION_FIELDS, extra["annotations"]),
    }


def _record_type(name: str, known: dict[str, tuple[Any, Any]], extra: list[str]) -> Any:
    fields = [
        (key, kind) if default is msgspec.NODEFAULT else (key, kind, default)
        for key, (kind, default) in known.items()
    ]
    fields += [(f"extra_{i}", Raw, Raw()) for i in range(len(extra))]
    return msgspec.defstruct(
        name,
        fields,
        rename={f"extra_{i}": key for i, key in enumerate(extra)},
        forbid_unknown_fields=True,
        kw_only=True,
        gc=False,
    )


def _top_type(types: dict[str, Any]) -> Any:
    image, annotation = types["images"], types["annotations"]
    return msgspec.defstruct(
        "CocoTop",
        [
            ("images", list[image] | None, None),
            ("annotations", list[annotation] | None, None),
            ("categories", list[dict[str, Any]] | None, None),
        ],
    )


def _file_fields(top: dict[str, Raw], path: Path) -> dict[str, Any]:
    return {
        key: msgspec.json.decode(value)
        for key, value in top.items()
        if key not in ("images", "annotations", "categories")
    }


def _require(path: Path, **lists: Any) -> None:
    for key, value in lists.items():
        if not isinstance(value, list):
            what = "has no list" if value is None else "has something else than a list as"
            raise DataError(
                f"{what} `{key}`: not a COCO instances file",
                file=path,
                remedy="It needs the lists images, annotations and categories.",
            )


def _decode_slowly(data: bytes, path: Path, problems: Problems) -> CocoFile:
    """Record by record: names the bad ones, and accepts what the strict way does not.

    NaN and Infinity, which Python's json writes and JSON does not have, are read here so that the
    box with them can be named; so are integers written as 1.0.
    """
    try:
        top: Any = msgspec.json.decode(data, type=dict[str, Raw])
        lists = {
            key: msgspec.json.decode(top[key], type=list[Raw])
            for key in ("images", "annotations", "categories")
            if key in top
        }
        load: Callable[[Any], Any] = msgspec.json.decode
        fields = _file_fields(top, path)
    except (msgspec.DecodeError, UnicodeDecodeError):
        top = _python_json(data, path)
        lists = {key: top.get(key) for key in ("images", "annotations", "categories")}
        load = _itself
        fields = {key: value for key, value in top.items() if key not in lists}
    _require(path, **{k: lists.get(k) for k in ("images", "annotations", "categories")})

    categories = []
    for i, raw in enumerate(lists["categories"]):
        row = load(raw)
        if isinstance(row, dict):
            categories.append(row)
        else:
            problems.error("is not an object", file=path, record=f"categories[{i}]")
    images, image_extra = _records(lists["images"], load, "image", _IMAGE_FIELDS, path, problems)
    annotations, annotation_extra = _records(
        lists["annotations"], load, "annotation", _ANNOTATION_FIELDS, path, problems
    )
    return CocoFile(images, annotations, categories, image_extra, annotation_extra, fields)


def _itself(value: Any) -> Any:
    return value


def _python_json(data: bytes, path: Path) -> dict[str, Any]:
    try:
        top = json.loads(data)
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8 text at byte {error.start}",
            file=path,
            remedy="Save the file as UTF-8 JSON.",
        ) from error
    except RecursionError as error:
        raise DataError("nested too deeply to be a COCO file", file=path) from error
    except ValueError as error:
        at = getattr(error, "pos", None)
        cut = at is not None and not data[at:].strip()
        what = "the JSON is cut off at its end" if cut else f"not valid JSON: {error}"
        raise DataError(what, file=path, remedy="Export or download the file again.") from error
    if isinstance(top, list):
        raise DataError(
            "is a list, as of detection results, not a COCO dataset",
            file=path,
            remedy="Results go to `relabel evaluate detections --predictions`.",
        )
    if not isinstance(top, dict):
        raise DataError("is not a JSON object: not a COCO file", file=path)
    return top


def _records(
    rows: list[Any],
    load: Callable[[Any], Any],
    kind: str,
    known: dict[str, tuple[Any, Any]],
    path: Path,
    problems: Problems,
) -> tuple[list[Any], list[str]]:
    """Typed records of the good rows, and the names of their extra fields."""
    core = _record_type(kind, known, [])
    good: list[tuple[Any, dict[str, Any]]] = []
    extra: dict[str, None] = {}
    for i, raw in enumerate(rows):
        try:
            row = load(raw)
            if not isinstance(row, dict):
                raise TypeError("is not an object")
            values = {k: _as_integer(k, v) for k, v in row.items() if k in known}
            record = msgspec.convert(values, core)
        except (msgspec.DecodeError, UnicodeDecodeError, TypeError) as error:
            problems.error(
                _plain(str(error)),
                file=path,
                record=_name_of(kind, i, raw),
                remedy=f"Correct the {kind}, or leave it out with --skip-bad.",
            )
            continue
        others = {k: v for k, v in row.items() if k not in known}
        extra.update(dict.fromkeys(others))
        good.append((record, others))

    names = list(extra)
    full = _record_type(kind, known, names)
    records = []
    for record, others in good:
        raws = {
            f"extra_{j}": Raw(msgspec.json.encode(others[name]))
            for j, name in enumerate(names)
            if name in others
        }
        records.append(full(**{k: getattr(record, k) for k in known}, **raws))
    return records, names


def _as_integer(key: str, value: Any) -> Any:
    if key in _INTEGERS and isinstance(value, float) and value.is_integer():
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
