"""What the two releases of Waymo Open share: cameras, types, splits, and checked boxes.

Boxes are the visible extent in pixels, stored as centre and size. Types 1, 2 and 4 (vehicle,
pedestrian, cyclist) have 2D boxes; boxes of other types are left out and counted.

Source: Sun et al., Scalability in Perception for Autonomous Driving, CVPR 2020, and the
published ``label.proto`` and ``dataset.proto``.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from relabel.datasets.dataset import Boxes, Images, make_boxes
from relabel.datasets.formats.box_checks import checked_boxes
from relabel.datasets.formats.splits import find_split, split_kind
from relabel.datasets.formats.waymo.protowire import Buffer
from relabel.datasets.labelspace import LabelSpace
from relabel.errors import DataError, Problems
from relabel.files.images import read_header
from relabel.files.walk import is_hidden

CAMERAS = {1: "FRONT", 2: "FRONT_LEFT", 3: "FRONT_RIGHT", 4: "SIDE_LEFT", 5: "SIDE_RIGHT"}
TYPES = {1: "vehicle", 2: "pedestrian", 4: "cyclist"}
# Types the releases define without 2D boxes.
_OTHER_TYPES = (0, 3)

# A JPEG names its size within the first kilobytes, unless metadata comes before.
_JPEG_HEAD = 1 << 14
_DIFFICULTY = {
    level: msgspec.json.encode({"attributes": {"difficulty_level": level}}) for level in (1, 2)
}


def split_folder(
    path: Path, split: str | None, holds: Callable[[Path], bool], what: str
) -> tuple[Path, bool]:
    """The folder of a split, and whether it is ``path`` itself.

    Args:
        path: the folder of a release, or of a split of it.
        holds: whether a folder holds data, itself or further down.
        what: the data, for the error.

    Raises:
        DataError: there is none.
    """
    inside = {p.name for p in path.glob("*") if p.is_dir() and not is_hidden(p.name) and holds(p)}
    splits = {name for name in inside if split_kind(name) in ("train", "val", "test")}
    wanted = split or "training"
    try:
        return path / find_split(wanted, inside, file=path), False
    except DataError:
        own = split_kind(path.absolute().name) == split_kind(wanted)
        if (own or (split is None and not splits)) and holds(path):
            return path, True
        raise DataError(
            f"holds no {what}" + (f" of split {wanted!r}" if split or splits else ""),
            file=path,
            remedy=f"Splits here: {', '.join(sorted(splits or inside))}."
            if inside
            else "Point at the folder of the release, or of one split of it.",
        ) from None


def file_name(context: str, timestamp: int, camera: int) -> str:
    """The logical file name of an image that lies inside a record."""
    return f"{context}/{timestamp}_{CAMERAS[camera]}.jpg"


def jpeg_size(data: Buffer, start: int, end: int) -> tuple[int, int]:
    """(width, height) of the JPEG in ``data[start:end]``, from its header.

    Raises:
        DataError: not an image.
    """
    for stop in (min(start + _JPEG_HEAD, end), end):
        with suppress(DataError):
            return read_header(io.BytesIO(data[start:stop]), "image").size
    raise DataError("image cannot be decoded: not a JPEG, or cut off")


class FileBoxes(NamedTuple):
    """Boxes of one file: image rows [n], centre and size [n, 4], types [n], levels [n]."""

    file: Path
    image: np.ndarray
    cxcywh: np.ndarray
    type: np.ndarray
    difficulty: np.ndarray


def waymo_boxes(
    parts: list[FileBoxes], images: Images, space: LabelSpace, problems: Problems
) -> Boxes:
    """Check the boxes against their images and turn types into positions of ``space``."""
    made, count = [make_boxes([], [], [])], 0
    for part in parts:
        category = _categories(part, images, space, problems)
        rows = np.flatnonzero(category >= 0)
        # Infinities would only raise NumPy's own warnings on their way to being reported.
        cxcywh = np.where(np.isfinite(part.cxcywh), part.cxcywh, np.nan)[rows]
        image = part.image[rows]
        boxes = checked_boxes(
            image,
            np.concatenate([cxcywh[:, :2] - cxcywh[:, 2:] / 2, cxcywh[:, 2:]], axis=1),
            category[rows],
            images,
            space,
            problems,
            part.file,
            lambda row, image=image: f"box in {images.file_name[image[row]]}",
            extra=[_DIFFICULTY.get(int(level)) for level in part.difficulty[rows]],
        )
        made.append(replace(boxes, id=boxes.id + count))
        count += len(boxes)
    return Boxes.concatenate(made).sorted_by_image()


def _categories(
    part: FileBoxes, images: Images, space: LabelSpace, problems: Problems
) -> np.ndarray:
    category = np.full(len(part.type), -1, dtype=np.int32)
    known = np.isin(part.type, _OTHER_TYPES)
    problems.count("of a type without 2D boxes (unknown or sign): left out", int(known.sum()))
    for value, label in TYPES.items():
        position = space.get(label)
        here = part.type == value
        known |= here
        if position is None:
            problems.count(f"of type {label}, not in the label space: left out", here.sum())
        else:
            category[here] = position
    for row in np.flatnonzero(~known):
        problems.error(
            f"unknown type {part.type[row]}",
            file=part.file,
            record=f"box in {images.file_name[part.image[row]]}",
            remedy="Known types: 0 to 4. Leave it out with --skip-bad.",
        )
    return category


def camera_id(value: object) -> int | None:
    """A camera's number from the number, its text, or its name; None if it is no camera."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        text = value.strip().upper()
        for number, label in CAMERAS.items():
            if text in (label, str(number)):
                return number
        return None
    return value if isinstance(value, int) and value in CAMERAS else None
