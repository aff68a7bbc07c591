"""Waymo Open v1: ``segment-*.tfrecord`` files of protobuf frames, images inside.

Every camera image in a frame is an image of the dataset, also where its label list is empty. A
frame that has no camera labels at all (the testing splits) was never labelled: its images are
kept, and one warning per file says so. Images stay in their file and are found by offset.

In the box message ``width`` is the extent along the image's y axis and ``length`` along x.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.box_checks import AGAIN, ImageRows
from relabel.datasets.formats.waymo import protowire as wire
from relabel.datasets.formats.waymo.common import (
    CAMERAS,
    FileBoxes,
    file_name,
    jpeg_size,
    split_folder,
    waymo_boxes,
)
from relabel.datasets.labelspace import LabelSpace
from relabel.errors import DataError, Problems
from relabel.files.opening import open_mapped
from relabel.files.walk import walk_files

# Field numbers of dataset.proto and label.proto.
_FRAME_CONTEXT, _FRAME_TIMESTAMP, _FRAME_IMAGES, _FRAME_CAMERA_LABELS = 1, 2, 4, 8
_CONTEXT_NAME = 1
_IMAGE_NAME, _IMAGE_JPEG = 1, 2
_LABELS_NAME, _LABELS_LABELS = 1, 2
_LABEL_BOX, _LABEL_TYPE, _LABEL_DIFFICULTY = 1, 3, 5
_BOX_PLACES = {1: 0, 2: 1, 5: 2, 4: 3}  # field number to place in (cx, cy, w, h)


@dataclass
class _Frame:
    """Camera number to JPEG offsets, and to label offsets."""

    context: str = ""
    timestamp: int = -1
    images: list[tuple[int, int, int]] = field(default_factory=list)
    labels: list[tuple[int, list[tuple[int, int]]]] = field(default_factory=list)


def read(
    path: Path,
    *,
    name: str,
    split: str | None,
    problems: Problems,
    space: LabelSpace | None = None,
    annotations: str | None = None,
) -> DetectionDataset:
    """Read TFRecord files of Waymo Open v1.

    Args:
        path: one file, a folder of files, or a folder with one folder per split.
        split: ``training`` (default), ``validation``, ``testing``, or their short names.
        annotations: a file or folder relative to ``path``, in place of ``split``.

    Raises:
        DataError: no files, a file cut off or damaged, or bad records in it.
    """
    space = space or LabelSpace.load("waymo")
    root = path if path.is_dir() else path.parent
    rows = ImageRows(problems)
    parts: list[FileBoxes] = []
    for file in _files(path if annotations is None else path / annotations, split):
        with problems.catching(file), open_mapped(file, remedy="Check the path.") as data:
            _read_segment(file, data, rows, parts, problems)
    images = rows.images()
    boxes = waymo_boxes(parts, images, space, problems)
    return DetectionDataset(name, space, images, boxes, root)


def _files(path: Path, split: str | None) -> list[Path]:
    if not path.is_dir():
        return [path]
    folder, _ = split_folder(path, split, lambda p: bool(_inside(p)), "*.tfrecord files")
    return [folder / name for name in _inside(folder)]


def _inside(folder: Path) -> list[str]:
    """Record files below a folder, as the release's archives are extracted."""
    return [name for name in walk_files(folder) if ".tfrecord" in name.rsplit("/", 1)[-1]]


def _read_segment(
    file: Path, data: mmap.mmap, rows: ImageRows, parts: list[FileBoxes], problems: Problems
) -> None:
    image: list[int] = []
    values: list[tuple[float, float, float, float, int, int]] = []
    unlabelled = 0
    try:
        for record, start, end in wire.tfrecord_payloads(data, file, problems):
            try:
                frame = _frame(data, start, end)
                labels = [(c, [_label(data, *at) for at in found]) for c, found in frame.labels]
            except wire.WireError as error:
                what = f"not a Waymo frame: {error}"
                problems.error(what, file=file, record=record, remedy=AGAIN)
                continue
            row_of = _add_images(file, data, frame, record, rows, problems)
            unlabelled += not labels
            for camera, found in labels:
                if camera in row_of:
                    image.extend([row_of[camera]] * len(found))
                    values.extend(found)
                elif found and camera not in {c for c, _, _ in frame.images}:
                    what = f"labels of camera {camera}, whose image is not in the frame"
                    problems.error(what, file=file, record=record, remedy=AGAIN)
    finally:
        # What was read before a damaged place is kept where bad records are skipped.
        boxes = np.array([v[:4] for v in values], dtype=np.float64).reshape(-1, 4)
        kind, level = np.array([v[4:] for v in values], dtype=np.int64).reshape(-1, 2).T
        parts.append(FileBoxes(file, np.array(image, np.int32), boxes, kind, level))
    if unlabelled:
        problems.warning(f"{unlabelled} frames have no camera labels", file=file)


def _add_images(
    file: Path, data: mmap.mmap, frame: _Frame, record: str, rows: ImageRows, problems: Problems
) -> dict[int, int]:
    """Append a frame's images; returns the row of each camera."""
    row_of: dict[int, int] = {}
    for camera, start, end in frame.images:
        what = f"{record}, camera {camera}"
        try:
            if camera not in CAMERAS:
                raise DataError(f"unknown camera {camera}")
            size = jpeg_size(data, start, end)
        except DataError as error:
            problems.error(error.message, file=file, record=what, remedy=AGAIN)
            continue
        title = file_name(frame.context, frame.timestamp, camera)
        place = f"bytes:{file}!{start}!{end - start}"
        row = rows.add(title, size, file=file, record=what, location=place)
        if row is not None:
            row_of[camera] = row
    return row_of


def _frame(data: mmap.mmap, start: int, end: int) -> _Frame:
    frame = _Frame()
    for number, kind, a, b in wire.fields(data, start, end):
        if number == _FRAME_CONTEXT:
            wire.expect(kind, wire.BYTES, "context", a)
            for inner, inner_kind, c, d in wire.fields(data, a, b):
                if inner == _CONTEXT_NAME:
                    wire.expect(inner_kind, wire.BYTES, "context name", c)
                    frame.context = wire.text(data, c, d)
        elif number == _FRAME_TIMESTAMP:
            wire.expect(kind, wire.VARINT, "timestamp", b)
            frame.timestamp = a
        elif number == _FRAME_IMAGES:
            wire.expect(kind, wire.BYTES, "image", a)
            frame.images.append(_image(data, a, b))
        elif number == _FRAME_CAMERA_LABELS:
            wire.expect(kind, wire.BYTES, "camera labels", a)
            frame.labels.append(_camera_labels(data, a, b))
    if not frame.context or frame.timestamp < 0:
        raise wire.WireError("it lacks a context name or a timestamp")
    return frame


def _image(data: mmap.mmap, start: int, end: int) -> tuple[int, int, int]:
    camera, jpeg = 0, (start, start)
    for number, kind, a, b in wire.fields(data, start, end):
        if number == _IMAGE_NAME:
            wire.expect(kind, wire.VARINT, "camera name", b)
            camera = a
        elif number == _IMAGE_JPEG:
            wire.expect(kind, wire.BYTES, "JPEG", a)
            jpeg = (a, b)
    return camera, *jpeg


def _camera_labels(data: mmap.mmap, start: int, end: int) -> tuple[int, list[tuple[int, int]]]:
    camera, labels = 0, []
    for number, kind, a, b in wire.fields(data, start, end):
        if number == _LABELS_NAME:
            wire.expect(kind, wire.VARINT, "camera name", b)
            camera = a
        elif number == _LABELS_LABELS:
            wire.expect(kind, wire.BYTES, "label", a)
            labels.append((a, b))
    return camera, labels


def _label(data: mmap.mmap, start: int, end: int) -> tuple[float, float, float, float, int, int]:
    """(cx, cy, w, h, type, difficulty level); a number the box lacks is NaN."""
    box = [math.nan] * 4
    kind_of = difficulty = 0
    for number, kind, a, b in wire.fields(data, start, end):
        if number == _LABEL_BOX:
            wire.expect(kind, wire.BYTES, "box", a)
            for place, value in _box(data, a, b):
                box[place] = value
        elif number == _LABEL_TYPE:
            wire.expect(kind, wire.VARINT, "type", b)
            kind_of = a
        elif number == _LABEL_DIFFICULTY:
            wire.expect(kind, wire.VARINT, "difficulty level", b)
            difficulty = a
    return box[0], box[1], box[2], box[3], kind_of, difficulty


def _box(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, float]]:
    for number, kind, a, _ in wire.fields(data, start, end):
        if number in _BOX_PLACES:
            wire.expect(kind, wire.FIXED64, "box number", a)
            yield _BOX_PLACES[number], wire.double(data, a)
