"""YOLO text labels, as Ultralytics lays them out: data.yaml, ``images/`` and ``labels/``.

Format: https://docs.ultralytics.com/datasets/detect/. One row per object, ``class cx cy w h`` as
fractions of the image, or a polygon, which counts by its bounds; see `rows`. Where images and
labels are looked for is in `layout` and `label_files`. Image sizes are read from headers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from relabel.datasets.dataset import DetectionDataset, Images
from relabel.datasets.formats.box_checks import checked_boxes, numbered_images
from relabel.datasets.formats.yolo.layout import Layout, find_layout
from relabel.datasets.formats.yolo.rows import boxes_of, read_rows
from relabel.datasets.labelspace import Category, LabelSpace
from relabel.datasets.namemap import into_space
from relabel.datasets.pixels.location import image_size
from relabel.errors import DataError, Problems

# Six decimals are usual in label files; a box may pass the edge by as much without being outside.
_ROUNDING = 2e-6
_BLOCK = 1 << 16


def read(
    path: Path,
    *,
    name: str,
    split: str | None,
    problems: Problems,
    space: LabelSpace | None = None,
    annotations: str | None = None,
) -> DetectionDataset:
    """Read a YOLO dataset.

    Args:
        path: data.yaml, obj.data, or the folder that holds it; without one a folder with
            ``classes.txt`` or ``obj.names`` beside ``images/`` and ``labels/``.
        split: such as ``train``, ``val`` or ``test``; default all of them.
        space: label space to read into; default the file's names with ids from 1.
        annotations: the data.yaml relative to ``path``, if it is called otherwise.

    Raises:
        DataError: no class names; hardly an image with labels; rows with a wrong number of columns,
            of unclear meaning, something that is not a number, an unknown class or a negative
            size; images that cannot be read.
    """
    layout = find_layout(path, split=split, annotations=annotations, problems=problems)
    own = _space(name, layout)
    rows, unread = read_rows(layout.labels, problems)
    row, table = boxes_of(
        rows, list(layout.names), layout.keypoints, problems, lambda i: str(layout.labels[i])
    )
    # Of a million label files only what is still asked for stays in memory.
    file, line = rows.file[row], rows.line[row]
    del rows, row
    names: list[str] = []
    sizes: list[tuple[int, int]] = []
    # Row of each image, -1 where it is left out: with unreadable labels it is no background.
    image_row = np.full(len(layout.images), -1, dtype=np.int32)
    left_out = set(unread)
    for i, image in enumerate(layout.images):
        if i in left_out:
            continue
        location = f"{layout.root}/{image}"
        with problems.catching(location):
            sizes.append(image_size(location))
            image_row[i] = len(names)
            names.append(image)
    there = image_row[file] >= 0
    if not there.all():
        file, line, table = file[there], line[there], table[there]
    of_image = image_row[file]

    images = numbered_images(names, sizes)
    numbers = np.array(sorted(layout.names), dtype=np.float64)
    position = np.array([own.index_by_id[int(i) + 1] for i in numbers], dtype=np.int32)
    category = position[np.searchsorted(numbers, table[:, 0])]
    keep = np.ones(len(table), dtype=bool)
    if space is not None:
        category = into_space(space, own, category, keep, layout.file, problems)
        keep &= category >= 0
    kept = np.flatnonzero(keep)
    used = space or own

    def record_of(i: int) -> str:
        at = int(kept[i])
        return f"{layout.labels[file[at]]}, line {line[at]}"

    boxes = checked_boxes(
        of_image[kept],
        _to_pixels(table, kept, of_image, images),
        category[kept],
        images,
        used,
        problems,
        layout.file,
        record_of,
        score=table[kept, 5],
        id=kept + 1,
    )
    return DetectionDataset(name, used, images, boxes, layout.root)


def _space(name: str, layout: Layout) -> LabelSpace:
    try:
        return LabelSpace(name, tuple(Category(i + 1, n) for i, n in layout.names.items()))
    except DataError as error:
        raise DataError(error.message, file=layout.file, remedy=error.remedy) from error


def _to_pixels(
    table: np.ndarray, rows: np.ndarray, image: np.ndarray, images: Images
) -> np.ndarray:
    """Pixel xywh [n, 4] of n rows of a table of boxes (see `boxes_of`), block by block."""
    size = np.stack([images.width, images.height] * 2, axis=1).astype(np.float64)
    out = np.empty((len(rows), 4))
    for start in range(0, len(rows), _BLOCK):
        part = rows[start : start + _BLOCK]
        out[start : start + _BLOCK] = _scaled(table[part, 1:5], size[image[part]])
    return out


def _scaled(box: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Fractions cx, cy, w, h to pixel xywh: [n, 4] -> [n, 4]."""
    low = box[:, :2] - box[:, 2:] / 2
    high = box[:, :2] + box[:, 2:] / 2
    low = np.where((low < 0) & (low >= -_ROUNDING), 0, low)
    high = np.where((high > 1) & (high <= 1 + _ROUNDING), 1, high)
    # Of a box that is no box the sign must stay, for the check that follows.
    size = np.where(box[:, 2:] > 0, high - low, box[:, 2:])
    # Digits below a billionth of a pixel are those of the fractions' rounding, not of the box.
    return np.round(np.concatenate([low, size], axis=1) * scale, 9)
