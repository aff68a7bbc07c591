"""COCO JSON record by record: names the bad ones, and takes what the strict way does not.

Files that went through pandas, a spreadsheet or a hand-written exporter hold ids as 7.0 or "7" and
NaN for what is absent, leave out boxes that the mask gives, or wrap their list in an object. All of
that has one meaning. What has none is an error of its record.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
from msgspec import Raw

from relabel.datasets.formats.coco.columns import (
    ANNOTATION_FIELDS,
    IMAGE_FIELDS,
    INTEGER_FIELDS,
    OPTIONAL_FIELDS,
    AnnotationBlocks,
    CocoFile,
    ImageBlocks,
    record_type,
)
from relabel.datasets.formats.coco.masks import box_around
from relabel.datasets.formats.coco.whole import whole_number
from relabel.errors import DataError, Problems
from relabel.files.json_text import kind_of, parse_json

_DECODED = frozenset((*IMAGE_FIELDS, *ANNOTATION_FIELDS, *OPTIONAL_FIELDS))
# A record that has one of these twice is looked at again, by a decoder that loses none.
_KEYS = tuple(f'"{name}"'.encode() for name in (*_DECODED, "segmentation"))
LISTS = ("images", "annotations", "categories")
FROM_MASK = "not stated in the file: taken from their masks"

_FLAGS = ("iscrowd", "ignore")
_REFERS = {
    "image": "Number the images 1, 2, ... and use the number in `image_id`.",
    "annotation": "Number the annotations 1, 2, ..., and use the ids of `images` and `categories`.",
    "result": "A result names image and category by their ids in the truth file, not by names.",
}


class Fault(ValueError):
    """What is wrong with a record, and what to do about it."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


def not_coco(path: str | Path, what: str, found: Any = None) -> DataError:
    keys = list(found)[:8] if isinstance(found, dict) else []
    shown = f", only {', '.join(map(repr, keys))}" if keys else ""
    return DataError(
        f"{what}{shown}: not a COCO instances file",
        file=path,
        remedy="It needs the lists images, annotations and categories in one object.",
    )


def decode_slowly(data: bytearray, path: str | Path, problems: Problems) -> CocoFile:
    """All records that are good, of a file in which something is not as msgspec expects it.

    Raises:
        DataError: not JSON, not a COCO file, or a bad record that is not to be skipped.
    """
    load: Callable[[Any], Any]
    try:
        top: Any = msgspec.json.decode(data, type=dict[str, Raw])
        lists: dict[str, Any] = {
            k: msgspec.json.decode(top[k], type=list[Raw]) for k in LISTS if k in top
        }
        fields = {k: msgspec.json.decode(v) for k, v in top.items() if k not in LISTS}
        load = _loaded
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        top = parse_json(data, path)
        if isinstance(top, list):
            raise DataError(
                "is a list, as of detection results, not a COCO dataset",
                file=path,
                remedy="Results go to `relabel evaluate detections --predictions`.",
            ) from None
        if not isinstance(top, dict):
            text = f"holds {kind_of(top)}, not an object: not a COCO file"
            raise DataError(text, file=path, remedy="Check that it is the right file.") from None
        lists = {k: top[k] for k in LISTS if k in top}
        load = _itself
        fields = {k: v for k, v in top.items() if k not in LISTS}
    for key in LISTS:
        if not isinstance(lists.get(key), list):
            if key in lists:
                raise not_coco(path, f"has {kind_of(lists[key])} for the list `{key}`") from None
            raise not_coco(path, f"has no list `{key}`", top) from None
    for key, value in fields.items():
        try:
            encoded(value)
        except ValueError as error:
            raise DataError(
                f"holds {error}", file=path, record=f"`{key}`", remedy="Remove or correct it."
            ) from None

    categories = []
    for i, raw in enumerate(lists["categories"]):
        try:
            row = load(raw)
        except ValueError as error:
            problems.error(str(error), file=path, record=f"categories[{i}]", remedy="Correct it.")
            continue
        if isinstance(row, dict):
            categories.append(row)
        else:
            problems.error(
                "is not an object", file=path, record=f"categories[{i}]", remedy="Correct it."
            )
    load = _loaded_in_part if load is _loaded else load
    images, blocks = ImageBlocks(), AnnotationBlocks()
    images.add(*checked_records(lists["images"], "image", path, problems, load))
    blocks.add(*checked_records(lists["annotations"], "annotation", path, problems, load))
    return CocoFile(images.columns(), blocks.columns(), categories, fields)


def _itself(value: Any) -> Any:
    return value


def _loaded(raw: Raw) -> Any:
    """One record that is still JSON.

    Raises:
        ValueError: it is no JSON, nested too deeply, or has a key twice.
    """
    try:
        return parse_json(bytes(raw), "")
    except DataError as error:
        raise ValueError(error.message) from None


def _loaded_in_part(raw: Raw) -> Any:
    """`_loaded`, with the fields that relabel does not work with left as they are."""
    text = bytes(raw)
    try:
        row = msgspec.json.decode(text, type=dict[str, Raw])
        # One colon a key; more stand in texts, in nested objects, or before what is there twice.
        if text.count(b":") == len(row) or all(text.count(key) < 2 for key in _KEYS):
            return {k: msgspec.json.decode(v) if k in _DECODED else v for k, v in row.items()}
    except (msgspec.DecodeError, RecursionError):
        pass  # the other way understands more, and says more
    return _loaded(raw)


def encoded(value: Any) -> bytes:
    """A value as JSON; half a surrogate pair stays the escape that it was, as does what is JSON.

    Raises:
        ValueError: it holds what no other JSON reader takes, such as a number of 40 digits.
    """
    if isinstance(value, Raw):
        return bytes(value)
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        try:
            return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
        except (ValueError, RecursionError):
            raise ValueError("text that is no Unicode") from None
    except OverflowError:
        raise ValueError("a whole number of more than 64 bits") from None
    except RecursionError:
        raise ValueError("lists or objects nested too deeply") from None


def checked_records(
    rows: list[Any],
    kind: str,
    path: str | Path,
    problems: Problems,
    load: Callable[[Any], Any] = _itself,
    remedy_of: Callable[[dict[str, Any]], str | None] | None = None,
) -> tuple[list[Any], list[str]]:
    """Checked records of the good rows, and the names of their further fields.

    Args:
        kind: ``image``, ``annotation`` or ``result``.
        load: gives the plain object of a row; raises ValueError where it cannot.
        remedy_of: what to do about a row whose ids are none, where more is known than here.
    """
    known = IMAGE_FIELDS if kind == "image" else ANNOTATION_FIELDS
    typed = known if kind == "image" else {**known, **OPTIONAL_FIELDS}
    core = record_type(typed, [])
    good: list[tuple[Any, dict[str, bytes]]] = []
    names: dict[str, None] = {}
    masks = 0
    for i, raw in enumerate(rows):
        row = None
        try:
            row = load(raw)
            if not isinstance(row, dict):
                raise ValueError(f"is not an object, but {kind_of(row)}")
            values = {k: v for k, v in row.items() if k in typed and not _absent(v)}
            boxed = kind == "image" or _has_box(values)
            if not boxed:
                values["bbox"] = _mask_box(row, kind)
            record = msgspec.convert(_whole_ids(values, kind), core)
            if kind == "image" and not _is_text(record.file_name or ""):
                raise ValueError("file_name is no Unicode text")
            if not all(map(_is_text, row)):
                raise ValueError("the name of a field is no Unicode text")
            further = {k: encoded(v) for k, v in row.items() if k not in known and not _absent(v)}
        except (msgspec.MsgspecError, ValueError, OverflowError) as error:
            remedy = f"Correct the {kind}, or leave it out with --skip-bad."
            if isinstance(error, Fault):
                own = remedy_of(row) if remedy_of is not None and row else None
                remedy = own or error.remedy
            problems.error(
                _plain(str(error)), file=path, record=_name_of(kind, i, row), remedy=remedy
            )
            continue
        masks += not boxed
        names.update(dict.fromkeys(further))
        good.append((record, further))
    problems.count(FROM_MASK, masks)

    order = list(names)
    records = []
    for record, further in good:
        values = {k: getattr(record, k) for k in typed}
        for j, name in enumerate(order):
            values[f"extra_{j}"] = further.get(name, b"")
        records.append(SimpleNamespace(**values))
    return records, order


def _is_text(value: str) -> bool:
    """False where there is half a surrogate pair, which UTF-8 has not."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _absent(value: Any) -> bool:
    """True of NaN, which tables have for what is not there."""
    return isinstance(value, float) and math.isnan(value)


def _has_box(values: dict[str, Any]) -> bool:
    return values.get("bbox") is not None and values["bbox"] != []


def _mask_box(row: dict[str, Any], kind: str) -> tuple[float, float, float, float]:
    mask = row.get("segmentation")
    if isinstance(mask, Raw):
        mask = _loaded(mask)
    if mask is None or mask == [] or _absent(mask):
        what = f"is {json.dumps(row['bbox'])}" if "bbox" in row else "is missing"
        raise ValueError(f"bbox {what}, and there is no segmentation to take it from")
    try:
        return box_around(mask)
    except ValueError as error:
        text = f"bbox is missing, and the segmentation {error}"
        raise Fault(text, f"Give the {kind} its bbox, [x, y, width, height].") from None


def _whole_ids(values: dict[str, Any], kind: str) -> dict[str, Any]:
    """The values with ids, sizes and flags as whole numbers."""
    out = dict(values)
    for key in values.keys() & INTEGER_FIELDS:
        value = out[key] = whole_number(values[key])
        if isinstance(value, str | float | list | dict | bool):
            shown = json.dumps(value)[:60]
            raise Fault(f"{key} {shown} is {kind_of(value)}, not a whole number", _REFERS[kind])
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            shown = str(value)[:60] if abs(value) < 10**60 else "of more than 60 digits"
            raise Fault(f"{key} {shown} is no whole number of 64 bits", _REFERS[kind])
    for key in _FLAGS:
        if key in values:
            out[key] = whole_number(values[key])
    return out


def _plain(message: str) -> str:
    """msgspec's message with the field first: ``bbox: expected `array` of length 4``."""
    text, _, where = message.partition(" - at `$")
    name = where.rstrip("`").lstrip(".")
    if not name:
        return text[:1].lower() + text[1:]
    return f"{name}: {text[:1].lower()}{text[1:]}"


def _name_of(kind: str, index: int, row: Any) -> str:
    """``annotation 17`` by its id where it has one, else by its place in the list."""
    if isinstance(row, dict) and isinstance(row.get("id"), int | str):
        return f"{kind} {str(row['id'])[:60]}"
    return f"{kind}s[{index}]"
