"""Waymo Open v2: Parquet files in ``{split}/camera_box/`` and ``{split}/camera_image/``.

Every row of ``camera_image`` is an image of the dataset, also where ``camera_box`` has no row for
it. Rows are joined on segment context, timestamp and camera, which some files hold as a number
and others as a name. Images stay in their file: a file holds about a thousand JPEGs, so only its
key columns are read whole. Its image column is read only as far as sizes are needed: all of it
where it is small, else one image per camera, since a camera keeps its resolution over a segment.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.box_checks import AGAIN, ImageRows
from relabel.datasets.formats.waymo.common import (
    FileBoxes,
    camera_id,
    file_name,
    jpeg_size,
    split_folder,
    waymo_boxes,
)
from relabel.datasets.labelspace import LabelSpace
from relabel.errors import DataError, Problems
from relabel.files.opening import check_regular
from relabel.files.parquet import cell_values, read_cells, reading_parquet
from relabel.files.walk import is_hidden

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_CONTEXT, _TIME, _CAMERA = (
    "key.segment_context_name",
    "key.frame_timestamp_micros",
    "key.camera_name",
)
_IMAGE = "[CameraImageComponent].image"
_BOX = tuple(
    f"[CameraBoxComponent].box.{part}" for part in ("center.x", "center.y", "size.x", "size.y")
)
_TYPE = "[CameraBoxComponent].type"
_DIFFICULTY = "[CameraBoxComponent].difficulty_level.detection"
# Below this size of a file's image column the size of every image is read.
_READ_ALL_BYTES = 64 << 20
# A context is a part of a file name.
_MOST_NAME = 255

Key = tuple[str, int, int]


@dataclass
class _Rows:
    """The images found so far, and the row of each (context, time, camera)."""

    found: ImageRows
    row_of: dict[Key, int] = field(default_factory=dict)
    # Images that were found but left out: their boxes are no second finding.
    left_out: set[Key] = field(default_factory=set)


def read(
    path: Path,
    *,
    name: str,
    split: str | None,
    problems: Problems,
    space: LabelSpace | None = None,
    annotations: str | None = None,
) -> DetectionDataset:
    """Read one split of Waymo Open v2.

    Args:
        path: the folder with one folder per split, or a split's folder.
        split: ``training`` (default), ``validation``, ``testing``, or their short names.
        annotations: the split's folder relative to ``path``, in place of ``split``.

    Raises:
        DataError: files are missing or damaged, a column is absent, or boxes have no image.
    """
    space = space or LabelSpace.load("waymo")
    folder = _split_folder(path, split, annotations)
    rows = _Rows(ImageRows(problems))
    parts: list[FileBoxes] = []
    for image_file, box_file in _pairs(folder, problems):
        # Boxes first: where they are damaged, their images must not pass for empty ones.
        with problems.catching(image_file):
            boxes = _box_table(box_file, problems)
            _read_images(image_file, rows, problems)
            parts.append(_located(boxes, rows, problems))
    images = rows.found.images()
    boxes = waymo_boxes(parts, images, space, problems)
    return DetectionDataset(name, space, images, boxes, path if path.is_dir() else path.parent)


def _split_folder(path: Path, split: str | None, annotations: str | None) -> Path:
    if annotations is not None:
        path, split = path / annotations, None
    return split_folder(path, split, _holds, "camera_box folder")[0]


def _holds(folder: Path) -> bool:
    return (folder / "camera_image").is_dir() or (folder / "camera_box").is_dir()


def _pairs(folder: Path, problems: Problems) -> list[tuple[Path, Path]]:
    """Image and box files of the same name; one without the other is reported."""
    names = {}
    for kind in ("camera_image", "camera_box"):
        here = (folder / kind).glob("*.parquet")
        names[kind] = {p.name for p in here if not is_hidden(p.name)}
    for have, lack in (("camera_image", "camera_box"), ("camera_box", "camera_image")):
        for missing in sorted(names[have] - names[lack]):
            problems.error(
                f"file does not exist, but {have}/{missing} does",
                file=folder / lack / missing,
                remedy="Download it too, or leave the segment out with --skip-bad.",
            )
    both = sorted(names["camera_image"] & names["camera_box"])
    if not both and problems.ok:
        raise DataError(
            "holds no Parquet files in camera_box/ and camera_image/",
            file=folder,
            remedy="Download the files of both.",
        )
    return [(folder / "camera_image" / n, folder / "camera_box" / n) for n in both]


@contextmanager
def _parquet(file: Path, columns: tuple[str, ...]) -> Iterator[pq.ParquetFile]:
    """An open Parquet file that has the columns; damage in it is reported as DataError."""
    if check_regular(file) == 0:
        raise DataError("file is empty", file=file, remedy="Download the file again.")
    with reading_parquet(file) as opened:
        missing = [c for c in columns if c not in opened.schema_arrow.names]
        if missing:
            raise DataError(
                f"has no column {missing[0]!r}",
                file=file,
                remedy="Download the file of Waymo Open v2 again.",
            )
        yield opened


def _keys(opened: pq.ParquetFile, file: Path, problems: Problems) -> list[Key | None]:
    """The key of each row; None, and reported, where it is not one."""
    columns: tuple[list[Any], ...] = ([], [], [])
    for group in range(opened.num_row_groups):
        for values, column in zip(columns, (_CONTEXT, _TIME, _CAMERA), strict=True):
            values += cell_values(read_cells(opened, file, group, column))
    cameras: dict[Any, int | None] = {}
    keys: list[Key | None] = []
    for row, (context, time, camera) in enumerate(zip(*columns, strict=True)):
        number = cameras.get(camera) if isinstance(camera, str | bytes | int) else None
        if number is None and isinstance(camera, str | bytes | int):
            number = cameras[camera] = camera_id(camera)
        is_name = isinstance(context, str) and len(context) <= _MOST_NAME
        if is_name and isinstance(time, int) and number is not None:
            keys.append((context, time, number))
            continue
        what = (
            f"no image key: context {context!r:.80}, timestamp {time!r:.80}, camera {camera!r:.80}"
        )
        problems.error(what, file=file, record=f"row {row}", remedy=AGAIN)
        keys.append(None)
    return keys


def _read_images(file: Path, rows: _Rows, problems: Problems) -> None:
    with _parquet(file, (_CONTEXT, _TIME, _CAMERA, _IMAGE)) as opened:
        keys = _keys(opened, file, problems)
        sizes = _sizes(opened, keys, file, problems)
    for row, key in enumerate(keys):
        if key is None:
            continue
        size = sizes[row]
        if size is None:
            rows.left_out.add(key)
            continue
        place = f"parquet:{file}!{_IMAGE}!{row}"
        title = file_name(*key)
        added = rows.found.add(title, size, file=file, record=f"row {row}", location=place)
        if added is not None:
            rows.row_of[key] = added
        elif key not in rows.row_of:
            rows.left_out.add(key)


def _sizes(
    opened: pq.ParquetFile, keys: list[Key | None], file: Path, problems: Problems
) -> list[tuple[int, int] | None]:
    """(width, height) of each row's image, None where it is damaged."""
    meta = opened.metadata
    column = opened.schema_arrow.names.index(_IMAGE)
    groups = range(meta.num_row_groups)
    whole = sum(meta.row_group(g).column(column).total_uncompressed_size for g in groups)
    sizes: list[tuple[int, int] | None] = [None] * len(keys)
    by_camera: dict[tuple[str, int], tuple[int, int]] = {}
    start = 0
    for group in groups:
        stop = start + meta.row_group(group).num_rows
        wanted = [
            row
            for row in range(start, stop)
            if (key := keys[row]) is not None
            and (whole <= _READ_ALL_BYTES or (key[0], key[2]) not in by_camera)
        ]
        values = read_cells(opened, file, group, _IMAGE) if wanted else None
        for row in wanted:
            key = keys[row]
            assert key is not None and values is not None
            camera = (key[0], key[2])
            if whole > _READ_ALL_BYTES and camera in by_camera:
                continue
            data = values[row - start].as_py()
            try:
                if not isinstance(data, bytes):
                    raise DataError("holds no image bytes")
                by_camera[camera] = sizes[row] = jpeg_size(data, 0, len(data))
            except DataError as error:
                problems.error(error.message, file=file, record=f"row {row}", remedy=AGAIN)
        start = stop
    if whole > _READ_ALL_BYTES:
        for row, key in enumerate(keys):
            if key is not None and sizes[row] is None:
                sizes[row] = by_camera.get((key[0], key[2]))
    return sizes


@dataclass
class _BoxTable:
    """The rows of a ``camera_box`` file: key, centre and size [n, 4], type [n], level [n]."""

    file: Path
    keys: list[Key | None]
    cxcywh: np.ndarray
    kind: np.ndarray
    level: np.ndarray


def _box_table(file: Path, problems: Problems) -> _BoxTable:
    with _parquet(file, (_CONTEXT, _TIME, _CAMERA, *_BOX, _TYPE)) as opened:
        optional = [_DIFFICULTY] if _DIFFICULTY in opened.schema_arrow.names else []
        table = opened.read(columns=[*_BOX, _TYPE, *optional])
        keys = _keys(opened, file, problems)
    cxcywh = np.stack([_numbers(table, c, file) for c in _BOX], axis=1)
    kind = _whole(_numbers(table, _TYPE, file), absent=-1)
    level = np.zeros(len(kind), dtype=np.int64)
    if optional:
        level = _whole(_numbers(table, _DIFFICULTY, file), absent=0)
    return _BoxTable(file, keys, cxcywh, kind, level)


def _located(boxes: _BoxTable, rows: _Rows, problems: Problems) -> FileBoxes:
    """The boxes whose image was read."""
    image = np.full(len(boxes.keys), -1, dtype=np.int32)
    for row, key in enumerate(boxes.keys):
        found = None if key is None else rows.row_of.get(key)
        if found is not None:
            image[row] = found
        elif key is not None and key not in rows.left_out:
            problems.error(
                f"box of image {file_name(*key)}, which camera_image does not hold",
                file=boxes.file,
                record=f"row {row}",
                remedy="Download both files again, or leave the box out with --skip-bad.",
            )
    keep = image >= 0
    return FileBoxes(
        boxes.file, image[keep], boxes.cxcywh[keep], boxes.kind[keep], boxes.level[keep]
    )


def _whole(values: np.ndarray, *, absent: int) -> np.ndarray:
    """int64 [n]; what is no small whole number becomes one that is none of the format's."""
    small = np.abs(values) < 1 << 31
    whole = np.where(small, values, -1).astype(np.int64)
    whole[small & (whole != values)] = -1
    whole[np.isnan(values)] = absent
    return whole


def _numbers(table: pa.Table, column: str, file: Path) -> np.ndarray:
    """A column as float64 [n], nulls as NaN."""
    import pyarrow as pa

    values = table.column(column)
    kind = values.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        raise DataError(
            f"column {column!r} holds {kind}, expected numbers",
            file=file,
            remedy="Download the file of Waymo Open v2 again.",
        )
    return np.asarray(values.cast(pa.float64()).to_numpy(), dtype=np.float64)
