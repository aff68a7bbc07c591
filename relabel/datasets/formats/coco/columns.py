"""The records of a COCO file: their types, and the columns they become.

Records are msgspec structs with the fields relabel works with. A field it does not work with
(segmentation, attributes, whatever a tool added) stays as the undecoded bytes of the file.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Raw

from relabel.datasets.table import ColumnParts

_Int64: Any = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Pixels: Any = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Flag = int | bool | None

IMAGE_FIELDS: dict[str, tuple[Any, Any]] = {
    "id": (_Int64, msgspec.NODEFAULT),
    "file_name": (str | None, None),
    "width": (_Pixels | None, None),
    "height": (_Pixels | None, None),
}
ANNOTATION_FIELDS: dict[str, tuple[Any, Any]] = {
    "id": (_Int64 | None, None),
    "image_id": (_Int64, msgspec.NODEFAULT),
    "category_id": (_Int64, msgspec.NODEFAULT),
    "bbox": (tuple[float, float, float, float], msgspec.NODEFAULT),
    "area": (float | None, None),
    "iscrowd": (_Flag, None),
}
# Fields most files do without; a record type has them where the file does.
OPTIONAL_FIELDS: dict[str, tuple[Any, Any]] = {
    "ignore": (_Flag, None),
    "score": (float | None, None),
}
# Bytes of a field's value up to which it is copied, rather than the file kept for it.
_SHORT = 32
_ABSENT = Raw()  # of a record without the field
INTEGER_FIELDS = {"id", "image_id", "category_id", "width", "height"}


def record_type(known: dict[str, tuple[Any, Any]], names: Sequence[str]) -> Any:
    """A struct type with the ``known`` fields and further ones by name.

    An annotation's optional fields keep their names; the others, whose names may be no
    identifiers, are ``extra_0``, ``extra_1``, ... by their place in ``names``, undecoded.
    """
    fields: list[Any] = []
    rename: dict[str, str] = {}
    everything = dict(known)
    for i, name in enumerate(names):
        if name in OPTIONAL_FIELDS and known is ANNOTATION_FIELDS:
            everything[name] = OPTIONAL_FIELDS[name]
        else:
            everything[f"extra_{i}"] = (Raw, _ABSENT)
            rename[f"extra_{i}"] = name
    for key, (kind, default) in everything.items():
        fields.append((key, kind) if default is msgspec.NODEFAULT else (key, kind, default))
    return msgspec.defstruct(
        "Record", fields, rename=rename, forbid_unknown_fields=True, kw_only=True, gc=False
    )


class RawFields(Sequence[bytes | None]):
    """Undecoded JSON fields of records, column by column: ``names`` by rows.

    Item ``i`` is the JSON object of the fields that record ``i`` has, or None. Long values are
    views into the file's bytes, so that 860,000 segmentations need no second copy; short ones are
    not, so that a licence's number does not keep the file in memory.
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


class _ExtraColumns:
    """The undecoded fields of all records, gathered block by block; b"" where one is lacking."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {}

    def add(self, start: int, name: str, values: list[Any]) -> None:
        column = self.columns.setdefault(name, [])
        column += [b""] * (start - len(column))
        known: dict[bytes, bytes] = {}  # equal ones of a block are one object
        column += [
            b""
            if value is _ABSENT
            else known.setdefault(short, short)
            if len(short := bytes(value)) <= _SHORT
            else value
            for value in values
        ]

    def fields(self, n: int) -> RawFields | None:
        for name in self.columns:
            self.add(n, name, [])
        return RawFields(list(self.columns), list(self.columns.values())) if self.columns else None


@dataclass
class ImageColumns:
    """The images of a file: id int64 [I], width and height int32 [I], 0 where not given."""

    id: np.ndarray
    file_name: list[str | None]
    width: np.ndarray
    height: np.ndarray
    extra: RawFields | None


@dataclass
class AnnotationColumns:
    """The annotations of a file in file order.

    id int64 [n] with ``numbered`` bool [n] where the file has one; image_id, category_id int64
    [n]; xywh float64 [n, 4]; area float64 [n], NaN where not given; crowd and ignore bool [n],
    of the fields ``iscrowd`` and ``ignore``; score float64 [n], NaN where not given.
    """

    id: np.ndarray
    numbered: np.ndarray
    image_id: np.ndarray
    category_id: np.ndarray
    xywh: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    ignore: np.ndarray
    score: np.ndarray
    extra: RawFields | None


@dataclass
class CocoFile:
    """A decoded COCO file: columns in file order, and the file-level fields."""

    images: ImageColumns
    annotations: AnnotationColumns
    categories: list[dict[str, Any]]
    fields: dict[str, Any] = field(default_factory=dict)


class ImageBlocks:
    """Image records to columns, block by block: a million of them are never there at once."""

    def __init__(self) -> None:
        self.file_name: list[str | None] = []
        self.parts = ColumnParts()
        self.extra = _ExtraColumns()

    def add(self, records: list[Any], names: list[str]) -> None:
        """Add records of a type with the further fields ``names`` (see `record_type`)."""
        for i, name in enumerate(names):
            values = [getattr(r, f"extra_{i}") for r in records]
            self.extra.add(len(self.file_name), name, values)
        self.file_name += [r.file_name for r in records]
        self.parts.add(
            np.array([r.id for r in records], dtype=np.int64),
            np.array([r.width or 0 for r in records], dtype=np.int32),
            np.array([r.height or 0 for r in records], dtype=np.int32),
        )

    def columns(self) -> ImageColumns:
        if not self.parts.columns:
            self.add([], [])
        id, width, height = self.parts.joined()
        extra = self.extra.fields(len(self.file_name))
        return ImageColumns(id, self.file_name, width, height, extra)


class AnnotationBlocks:
    """Annotation records to columns, block by block, while they are in the processor's cache."""

    def __init__(self) -> None:
        self.count = 0
        self.parts = ColumnParts()
        self.extra = _ExtraColumns()

    def add(self, records: list[Any], names: list[str]) -> None:
        """Add records of a type with the further fields ``names`` (see `record_type`)."""
        n = len(records)
        ids = [r.id for r in records]
        numbered = np.ones(n, dtype=bool)
        if None in ids:
            numbered = np.array([i is not None for i in ids], dtype=bool)
            ids = [0 if i is None else i for i in ids]
        boxes = list(chain.from_iterable([r.bbox for r in records]))
        # None becomes False in flags and NaN in numbers.
        crowd, ignore = np.array([r.iscrowd for r in records], dtype=bool), np.zeros(n, bool)
        score = np.full(n, np.nan)
        if "score" in names:
            score = np.array([r.score for r in records], dtype=np.float64)
        if "ignore" in names:
            flags = [r.ignore for r in records]
            ignore = np.array(flags, dtype=bool)
            # Worked with and yet kept as it stands: on disk only iscrowd is ours.
            kept = [b"" if f is None else msgspec.json.encode(f) for f in flags]
            self.extra.add(self.count, "ignore", kept)
        for i, name in enumerate(names):
            if name not in OPTIONAL_FIELDS:
                self.extra.add(self.count, name, [getattr(r, f"extra_{i}") for r in records])
        self.parts.add(
            _column(ids, np.int64),
            numbered,
            _column([r.image_id for r in records], np.int64),
            _column([r.category_id for r in records], np.int64),
            _column(boxes, np.float64).reshape(n, 4),
            _column([r.area for r in records], np.float64),
            crowd,
            ignore,
            score,
        )
        self.count += n

    def columns(self) -> AnnotationColumns:
        if not self.parts.columns:
            self.add([], [])
        return AnnotationColumns(*self.parts.joined(), extra=self.extra.fields(self.count))


def _column(values: list[Any], dtype: type[np.int64] | type[np.float64]) -> np.ndarray:
    """``np.array(values, dtype)`` of [n] numbers, in half the time where all are numbers."""
    try:
        packed = struct.pack(f"{len(values)}{'q' if dtype is np.int64 else 'd'}", *values)
    except (struct.error, OverflowError):  # None among them, or too large a number
        return np.array(values, dtype=dtype)
    return np.frombuffer(packed, dtype=dtype)
