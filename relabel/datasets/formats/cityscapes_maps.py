"""Maps of instances as Cityscapes has them, read from PNG or drawn from polygons, and their boxes.

Every pixel holds ``label id * 1000 + instance``, or the bare label id where objects of a group are
not told apart or the class has no instances.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from relabel.datasets.formats.box_checks import SKIP, size_text
from relabel.datasets.formats.records import convert_record, may_repeat
from relabel.errors import DataError, Problems, did_you_mean
from relabel.files.images import open_image
from relabel.files.json_text import parse_json
from relabel.files.opening import open_file, read_bytes

# Every label an annotation file may name. Label -1 is part of the car it is mounted on and is not
# drawn into the instance maps.
LABELS: dict[str, int] = {
    name: i
    for i, name in enumerate(
        (
            *("unlabeled", "ego vehicle", "rectification border", "out of roi", "static"),
            *("dynamic", "ground", "road", "sidewalk", "parking", "rail track", "building"),
            *("wall", "fence", "guard rail", "bridge", "tunnel", "pole", "polegroup"),
            *("traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider"),
            *("car", "truck", "bus", "caravan", "trailer", "train", "motorcycle", "bicycle"),
        )
    )
} | {"license plate": -1}
FIRST_BOXED, LAST_LABEL = 24, 33
_INSTANCES = 1000
# Eight times as large as the benchmark's images; a map of 2^30 pixels takes gigabytes.
_MOST_PIXELS = 1 << 24
# Maps from this size on are decoded one at a time, whatever the number of threads.
_LARGE_PIXELS = 1 << 22
_large_map = threading.Lock()
# Vertices beyond this are a mistake, and Pillow's drawing counts in 32 bits.
_FAR_PIXELS = 1e6


@dataclass(frozen=True)
class MapBoxes:
    """What one map holds.

    Attributes:
        size: (width, height) in pixels.
        xyxy: float64 [n, 4], visible extents.
        label: int64 [n], Cityscapes label ids.
        group: bool [n], a region of objects not told apart.
    """

    size: tuple[int, int]
    xyxy: np.ndarray
    label: np.ndarray
    group: np.ndarray


class _Object(msgspec.Struct, gc=False):
    label: str
    polygon: list[tuple[float, float]]
    deleted: Any = 0


class _Annotation(msgspec.Struct, gc=False):
    imgHeight: int
    imgWidth: int
    objects: list[_Object]


class _LooseAnnotation(msgspec.Struct):
    imgHeight: int
    imgWidth: int
    objects: list[Any]


def png_boxes(file: Path, check: Callable[[tuple[int, int]], None], problems: Problems) -> MapBoxes:
    """The boxes in an ``instanceIds.png``.

    Args:
        check: receives (width, height) before pixels are decoded, and raises if it does not fit.

    Raises:
        DataError: not an instance map, or too large.
    """
    with open_file(file) as stream, open_image(stream, file) as image:
        if image.mode not in ("I;16", "I;16B", "I", "L"):
            raise DataError(
                f"has pixel mode {image.mode}, expected 16-bit grey",
                file=file,
                remedy="Use gtFine's instanceIds.png, not a coloured picture of it.",
            )
        with _room_for(image.size, file):
            check(image.size)
            ids = np.asarray(image)
            return MapBoxes(image.size, *instance_boxes(ids, problems, file))


def polygon_boxes(
    file: Path, check: Callable[[tuple[int, int]], None], problems: Problems
) -> MapBoxes:
    """The boxes in a ``polygons.json``; as `png_boxes`."""
    annotation = _read_annotation(file, problems)
    size = (annotation.imgWidth, annotation.imgHeight)
    with _room_for(size, file):
        check(size)
        ids = _draw_polygons(annotation, file, problems)
        return MapBoxes(size, *instance_boxes(ids, problems, file))


@contextmanager
def _room_for(size: tuple[int, int], file: Path) -> Iterator[None]:
    """Keep maps of (width, height) from filling the memory: by their size, and by their number."""
    width, height = size
    if not (0 < width <= _MOST_PIXELS and 0 < height <= _MOST_PIXELS // width):
        raise DataError(
            f"image size {size_text(size)} is not possible: at most {_MOST_PIXELS:,} pixels",
            file=file,
            remedy="Download it again, or leave it out with --skip-bad.",
        )
    with _large_map if width * height > _LARGE_PIXELS else nullcontext():
        yield


def instance_boxes(
    ids: np.ndarray, problems: Problems, file: Path
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The visible extents in an instance map, integers [H, W].

    Returns:
        xyxy: float64 [n, 4]; the last pixel's right and bottom edges are included.
        label: int64 [n], Cityscapes label ids.
        group: bool [n], a region of objects not distinguished.
    """
    if ids.size and int(ids.min()) < 0:
        raise DataError("holds negative instance ids", file=file, remedy="Download it again.")
    # Row by row: the whole map at once would be copied as 64-bit numbers.
    counts = np.zeros(int(ids.max(initial=0)) + 1, dtype=bool)
    for rows in np.array_split(ids, max(1, len(ids) // 64)):
        counts[rows] = True
    present = np.flatnonzero(counts)
    labels = np.where(present >= _INSTANCES, present // _INSTANCES, present)
    for value in present[labels > LAST_LABEL]:
        problems.error(
            f"instance id {value} belongs to no Cityscapes label",
            file=file,
            record=f"instance {value}",
            remedy="Use instanceIds.png, not a map of training ids.",
        )
    boxed = present[(labels >= FIRST_BOXED) & (labels <= LAST_LABEL)]
    number = np.zeros(len(counts), dtype=np.int16)
    number[boxed] = np.arange(1, len(boxed) + 1)
    found = ndimage.find_objects(number[ids], len(boxed)) if len(boxed) else []
    places = dict(zip(boxed.tolist(), found, strict=True))
    regions: list[tuple[Any, int, bool]] = [
        (place, value // _INSTANCES, False)
        for value, place in places.items()
        if value >= _INSTANCES
    ]
    for value, (rows, columns) in places.items():
        if value < _INSTANCES:
            parts, _ = ndimage.label(ids[rows, columns] == value, structure=np.ones((3, 3)))  # type: ignore[misc]
            for y, x in ndimage.find_objects(parts):
                regions.append(((_moved(y, rows), _moved(x, columns)), value, True))
    xyxy = [(x.start, y.start, x.stop, y.stop) for (y, x), _, _ in regions]
    return (
        np.array(xyxy, dtype=np.float64).reshape(-1, 4),
        np.array([label for _, label, _ in regions], dtype=np.int64),
        np.array([group for _, _, group in regions], dtype=bool),
    )


def _moved(part: slice, whole: slice) -> slice:
    """A slice of a slice, as one of what that is cut from."""
    return slice(part.start + whole.start, part.stop + whole.start)


def _draw_polygons(
    annotation: _Annotation | _LooseAnnotation, file: Path, problems: Problems
) -> np.ndarray:
    """The instance map uint16 [H, W] that the polygons of one file describe."""
    width, height = annotation.imgWidth, annotation.imgHeight
    canvas = Image.new("I", (width, height), 0)
    draw = ImageDraw.Draw(canvas)
    counts: dict[int, int] = {}
    for i, item in _objects(annotation, file, problems):
        label = _label_id(item.label)
        if label is None:
            problems.error(
                f"unknown label {item.label!r}",
                file=file,
                record=f"object {i}",
                remedy=did_you_mean(item.label, LABELS),
            )
            continue
        value, group = label
        if value < 0:
            continue
        if value >= FIRST_BOXED and not group:
            number = counts.get(value, 0)
            if number == _INSTANCES:
                raise DataError(f"more than {_INSTANCES} objects labelled {item.label}", file=file)
            counts[value] = number + 1
            value = value * _INSTANCES + number
        draw.polygon([(x, y) for x, y in item.polygon], fill=value)
    return np.asarray(canvas).astype(np.uint16)


def _label_id(label: str) -> tuple[int, bool] | None:
    """Label id and whether the polygon is a group; None for an unknown label."""
    if label in LABELS:
        return LABELS[label], False
    single = label.removesuffix("group")
    if single != label and single in LABELS:
        return LABELS[single], True
    return None


def _read_annotation(file: Path, problems: Problems) -> _Annotation | _LooseAnnotation:
    data = read_bytes(file, remedy="Download the annotations again.")
    try:
        found = msgspec.json.decode(data, type=_Annotation)
        objects = len(found.objects)
        if may_repeat(data, {"objects": 1, "label": objects, "polygon": objects}):
            parse_json(data, file)
        return found
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        loose = convert_record(
            parse_json(data, file),
            _LooseAnnotation,
            path=file,
            record="",
            problems=Problems(),
        )
        assert loose is not None  # a collector that does not skip raises
        return loose


def _objects(
    annotation: _Annotation | _LooseAnnotation, file: Path, problems: Problems
) -> Iterator[tuple[int, _Object]]:
    """The objects that are not deleted and fit the format, with their places in the file."""
    for i, raw in enumerate(annotation.objects):
        item = (
            raw
            if isinstance(raw, _Object)
            else convert_record(raw, _Object, path=file, record=f"object {i}", problems=problems)
        )
        if item is None or item.deleted:
            continue
        far = len(item.polygon) < 2 or not (np.abs(item.polygon) < _FAR_PIXELS).all()
        if far:
            problems.error(
                "polygon has fewer than two vertices, or one that is not finite or far outside",
                file=file,
                record=f"object {i}",
                remedy=SKIP,
            )
            continue
        yield i, item
