"""COCO files as plain columns for evaluation, exactly as written.

The dataset reader clips boxes to their image, drops empty ones and rounds scores to float32. Any of
that would change AP, so evaluation reads truth and predictions here: nothing clipped, nothing
dropped, float64 throughout, file order kept (it decides between equal scores).

Shape legend: ``I`` images, ``K`` categories, ``n`` boxes.
"""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from relabel.errors import DataError
from relabel.evaluation.annotations import Annotations

T = TypeVar("T")
Source = Path | str | Mapping[str, Any]


class _Image(msgspec.Struct, gc=False):
    id: int
    file_name: str | None = None


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str | None = None


class _Origin(msgspec.Struct, gc=False):
    source_category: str | None = None


class _Annotation(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    id: int | None = None
    area: float | None = None
    iscrowd: int | bool | None = None
    score: float | None = None
    relabel: _Origin | None = None


class _Result(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


class _File(msgspec.Struct, gc=False):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Annotation]


def read_annotations(source: Source) -> Annotations:
    """Read a COCO file, or take its decoded content.

    Raises:
        DataError: missing, empty or truncated file, wrong types or shapes, values that are not
            finite, negative sizes, duplicate ids, annotations of absent images or categories.
    """
    return _read_file(*_content(source, "the annotations given"))


def _read_file(name: str, content: Any) -> Annotations:
    if isinstance(content, bytes) and _opens_with(content, name) != b"{":
        raise DataError(
            "is not a COCO annotation file: it holds a list",
            file=name,
            remedy="Give the file with images, categories and annotations.",
        )
    with _no_gc():
        file = _typed(content, _File, name)
        images, file_name = _images(file.images, name)
        categories, category_name = _categories(file.categories, name)
        columns = _columns(file.annotations, name, "annotations")
        n = len(file.annotations)
        width_height = columns["xywh"][:, 2] * columns["xywh"][:, 3]
        area = np.fromiter((_number(a.area) for a in file.annotations), np.float64, n)
        score = np.fromiter((_number(a.score) for a in file.annotations), np.float64, n)
        crowd = np.fromiter((bool(a.iscrowd) for a in file.annotations), bool, n)
        given = [a.id for a in file.annotations]
        source_category = None
        if any(a.relabel is not None for a in file.annotations):
            source_category = [
                (a.relabel.source_category or "") if a.relabel else "" for a in file.annotations
            ]
    missing = sum(i is None for i in given)
    if missing and missing < n:
        raise DataError(
            "annotation without an id",
            file=name,
            record=f"annotations[{given.index(None)}]",
            remedy="Give every annotation an id, or none of them.",
        )
    ids = np.arange(1, n + 1) if missing else np.array(given, dtype=np.int64)
    _unique(ids, "annotation", name)
    return Annotations(
        name=name,
        image_id=images,
        file_name=file_name,
        category_id=categories,
        category_name=category_name,
        image=_lookup(columns["image_id"], images, "image", name, "annotations"),
        category=_lookup(columns["category_id"], categories, "category", name, "annotations"),
        xywh=columns["xywh"],
        area=np.where(np.isnan(area), width_height, area),
        crowd=crowd,
        score=score,
        id=ids,
        source_category=source_category,
    )


def read_predictions(
    source: Source | Sequence[Mapping[str, Any]], truth: Annotations
) -> Annotations:
    """Read predictions: a COCO results list, or a COCO file whose annotations carry ``score``.

    A results list has the truth's image and category ids, so it comes back with the truth's
    images and categories. A COCO file comes back with its own; `relabel.evaluation.joining`
    brings it onto the truth's.

    Raises:
        DataError: as `read_annotations`; a result without a score; ids the truth does not have.
    """
    name, content = _content(source, "the predictions given")
    is_list = (
        _opens_with(content, name) == b"["
        if isinstance(content, bytes)
        else not isinstance(content, Mapping)
    )
    if not is_list:
        return _read_file(name, content)
    with _no_gc():
        results = _typed(content, list[_Result], name)
        n = len(results)
        columns = _columns(results, name, "")
        score = np.fromiter((r.score for r in results), np.float64, n)
    _finite(score[:, None], "score", name, "")
    return Annotations(
        name=name,
        image_id=truth.image_id,
        file_name=truth.file_name,
        category_id=truth.category_id,
        category_name=truth.category_name,
        image=_lookup(columns["image_id"], truth.image_id, "image", name, "", truth.name),
        category=_lookup(
            columns["category_id"], truth.category_id, "category", name, "", truth.name
        ),
        xywh=columns["xywh"],
        area=columns["xywh"][:, 2] * columns["xywh"][:, 3],
        crowd=np.zeros(n, bool),
        score=score,
        id=np.arange(1, n + 1),
    )


def _content(source: Any, name: str) -> tuple[str, Any]:
    if not isinstance(source, (str, Path)):
        return name, source
    path = Path(source)
    try:
        return str(path), path.read_bytes()
    except FileNotFoundError as error:
        raise DataError("file does not exist", file=path, remedy="Check the path.") from error
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror}", file=path, remedy="Give a readable JSON file."
        ) from error


def _opens_with(data: bytes, name: str) -> bytes:
    head = data[:64].lstrip() or data.lstrip()
    if not head:
        raise DataError("file is empty", file=name, remedy="Write it again.")
    return head[:1]


@contextmanager
def _no_gc() -> Iterator[None]:
    # The cyclic collector scans every object made so far again and again while millions are
    # being built; switched off, decoding takes half the time or less.
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _typed(content: Any, kind: type[T], name: str) -> T:
    try:
        if not isinstance(content, bytes):
            return _from_objects(content, kind)
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.ValidationError:
            raise
        except (msgspec.DecodeError, UnicodeDecodeError):
            # Python's json reads NaN and Infinity, which other tools write; with them decoded the
            # record at fault can be named. A damaged file fails here too, with its position.
            return msgspec.convert(json.loads(content), kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at ")
        record = path.strip("`").removeprefix("$").removeprefix(".")
        raise DataError(
            re.sub(r"`", "'", message[:1].lower() + message[1:]),
            file=name,
            record=record or None,
            remedy="Correct the record; boxes are [x, y, width, height] in pixels.",
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"is not valid JSON: {error}",
            file=name,
            remedy="The file may be cut off; write or download it again.",
        ) from error


def _from_objects(content: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError:
        # NumPy scalars and arrays are not what msgspec takes for numbers and lists.
        return msgspec.convert(msgspec.to_builtins(content, enc_hook=_plain), kind)


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise ValueError(f"cannot use a {type(value).__name__}")


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _columns(records: Sequence[Any], name: str, where: str) -> dict[str, np.ndarray]:
    n = len(records)
    columns = {
        "image_id": _integers(lambda r: r.image_id, records, name, where, "image_id"),
        "category_id": _integers(lambda r: r.category_id, records, name, where, "category_id"),
        "xywh": np.fromiter(
            chain.from_iterable(r.bbox for r in records), np.float64, 4 * n
        ).reshape(n, 4),
    }
    _finite(columns["xywh"], "bbox", name, where)
    negative = np.flatnonzero((columns["xywh"][:, 2:] < 0).any(axis=1))
    if len(negative):
        row = int(negative[0])
        raise DataError(
            f"bbox {columns['xywh'][row].tolist()} has a negative size",
            file=name,
            record=f"{where}[{row}]",
            remedy="Boxes are [x, y, width, height].",
        )
    return columns


def _integers(
    get: Callable[[Any], int], records: Sequence[Any], name: str, where: str, field: str
) -> np.ndarray:
    try:
        return np.fromiter((get(r) for r in records), np.int64, len(records))
    except OverflowError as error:
        row = next(i for i, r in enumerate(records) if abs(get(r)) >= 2**63)
        raise DataError(
            f"{field} is too large",
            file=name,
            record=f"{where}[{row}]",
            remedy="Ids must fit 64 bits.",
        ) from error


def _finite(values: np.ndarray, what: str, name: str, where: str) -> None:
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        row = int(bad[0])
        raise DataError(
            f"{what} {values[row].tolist()} is not finite",
            file=name,
            record=f"{where}[{row}]",
            remedy="Remove or correct it.",
        )


def _images(images: Sequence[_Image], name: str) -> tuple[np.ndarray, list[str] | None]:
    ids = _integers(lambda i: i.id, images, name, "images", "id")
    _unique(ids, "image", name)
    order = np.argsort(ids, kind="stable")
    names = [images[i].file_name for i in order]
    known = [n for n in names if n is not None]
    return ids[order], known if len(known) == len(names) else None


def _categories(categories: Sequence[_Category], name: str) -> tuple[np.ndarray, list[str]]:
    ids = _integers(lambda c: c.id, categories, name, "categories", "id")
    _unique(ids, "category", name)
    return ids, [str(c.id) if c.name is None else c.name for c in categories]


def _unique(ids: np.ndarray, what: str, name: str) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if len(values) < len(ids):
        raise DataError(
            f"{what} id {int(values[counts > 1][0])} is used more than once",
            file=name,
            remedy=f"Give every {what} its own id.",
        )


def _lookup(
    values: np.ndarray,
    known: np.ndarray,
    what: str,
    name: str,
    where: str,
    owner: str | None = None,
) -> np.ndarray:
    """Positions of ``values`` [n] in ``known`` [m]; both hold ids."""
    if not len(values):
        return np.zeros(0, np.int64)
    order = np.argsort(known, kind="stable")
    at = np.minimum(np.searchsorted(known[order], values), max(len(known) - 1, 0))
    found = known[order][at] == values if len(known) else np.zeros(len(values), bool)
    if not found.all():
        row = int(np.flatnonzero(~found)[0])
        place = f"in {owner}" if owner else "in the file"
        raise DataError(
            f"{what}_id {int(values[row])} does not exist {place}",
            file=name,
            record=f"{where}[{row}]",
            remedy=f"Use the {what} ids of the truth file." if owner else f"Add the {what}.",
        )
    return order[at]
