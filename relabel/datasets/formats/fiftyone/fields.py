"""The fields of FiftyOne's documents: their types, and what is kept of those not worked with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from relabel.datasets.formats.fiftyone.documents import OTHER_FIELDS
from relabel.errors import DataError
from relabel.files.json_text import parse_json
from relabel.files.opening import foreign

_Id = Annotated[int, Meta(ge=-(2**53), le=2**53)]
_Pixels = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_NUMBERS = {"$numberDouble": float, "$numberLong": int, "$numberInt": int}
# Fields that a COCO record has from its columns, or FiftyOne for itself.
_BOX_FIELDS = frozenset(
    ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "score", "label", "bounding_box",
     "confidence", "annotation_id", "mask", "mask_path", "instance", OTHER_FIELDS)
)  # fmt: skip
_IMAGE_FIELDS = frozenset(("id", "file_name", "width", "height"))
_ORIGIN = {
    "source_dataset": "source_dataset",
    "source_annotation_id": "source_id",
    "source_category": "source_category",
    "origin": "origin",
    "score": "confidence",
    "source_iou": "source_iou",
}


class Metadata(msgspec.Struct):
    """Of an image; FiftyOne computes it on demand."""

    width: _Pixels | None = None
    height: _Pixels | None = None


class Sample(msgspec.Struct):
    """What every sample has, and what relabel adds."""

    filepath: str
    tags: list[str] = []
    metadata: Metadata | None = None
    media: str = msgspec.field(default="image", name="_media_type")
    image_id: _Id | None = None
    file_name: str | None = None
    other_fields: str | None = None


class Detection(msgspec.Struct):
    """A box with its label; ``bounding_box`` is x, y, width, height in fractions."""

    label: str
    bounding_box: tuple[float, float, float, float]
    confidence: float | None = None
    annotation_id: _Id | None = None
    ignore: bool | int | None = None
    iscrowd: bool | int | float | None = None
    area: float | None = None
    other_fields: str | None = None


def plain(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document whose numbers are numbers: MongoDB writes NaN as ``{"$numberDouble": "NaN"}``."""
    return {k: _number(v) if isinstance(v, dict) else v for k, v in document.items()}


def _number(value: dict[str, Any]) -> Any:
    if len(value) == 1:
        key, text = next(iter(value.items()))
        if key in _NUMBERS and isinstance(text, str):
            try:
                return _NUMBERS[key](text)
            except ValueError:
                return value
    return value


def further_fields(
    text: str | None, *, file: Path, record: str, image: bool = False
) -> bytes | None:
    """The JSON object in a record's `OTHER_FIELDS`, without fields that records have anyway."""
    if not text:
        return None
    fields = parse_json(text.encode(errors="surrogatepass"), file, record=record)
    if not isinstance(fields, dict):
        raise DataError(
            f"{OTHER_FIELDS} is not a JSON object",
            file=file,
            record=record,
            remedy="Correct it, or remove it.",
        )
    taken = _IMAGE_FIELDS if image else _BOX_FIELDS
    if taken.isdisjoint(fields):
        return text.encode()
    return _encoded({k: v for k, v in fields.items() if k not in taken}, file, record)


def stored_fields(
    detection: Detection, raw: Mapping[str, Any], *, file: Path, record: str
) -> bytes | None:
    """What else a detection has, as one JSON object: COCO's fields, and simple ones of FiftyOne."""
    kept = further_fields(detection.other_fields, file=file, record=record)
    more = _simple(raw)
    if isinstance(raw.get("origin"), str):
        more["relabel"] = {name: raw.get(field) for name, field in _ORIGIN.items()}
    if not more:
        return kept
    known = msgspec.json.decode(kept) if kept else {}
    return _encoded({**known, **{k: v for k, v in more.items() if k not in known}}, file, record)


def _simple(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes and further fields of simple values, as annotators add them in FiftyOne."""
    ours = {"ignore", "alternatives", "attributes", *_ORIGIN.values()}
    found: dict[str, Any] = {
        k: v
        for k, v in raw.items()
        if k not in _BOX_FIELDS
        and k not in ours
        and not k.startswith("_")
        and isinstance(v, str | int | float | list)
        and v != []
        and not (isinstance(v, list) and any(isinstance(item, dict | list) for item in v))
    }
    attributes = raw.get("attributes")
    if isinstance(attributes, dict) and attributes:
        values = {k: v.get("value") if isinstance(v, dict) else v for k, v in attributes.items()}
        found["attributes"] = values
    return found


def _encoded(fields: Mapping[str, Any], file: Path, record: str) -> bytes | None:
    if not fields:
        return None
    with foreign(file, "fields that JSON can hold", record=record, remedy="Remove them."):
        return msgspec.json.encode(fields)
    raise AssertionError  # unreachable: the block above returns or raises
