"""YOLO text labels, as Ultralytics lays them out: data.yaml, ``images/`` and ``labels/``.

Format: https://docs.ultralytics.com/datasets/detect/. One row per object, ``class cx cy w h`` as
fractions of the image; rows with three or more points after the class are polygons and count by
their bounds. Image sizes are read from the images' headers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.box_checks import checked_boxes, numbered_images
from relabel.datasets.formats.yolo.layout import Layout, find_layout, label_path
from relabel.datasets.labelspace import Category, LabelSpace
from relabel.datasets.namemap import into_space
from relabel.datasets.pixels.location import image_size
from relabel.errors import DataError, Problems

# Six decimals are usual in label files; a box may pass the edge by as much without being outside.
_ROUNDING = 2e-6
# Beyond this a number is a pixel, not a fraction.
_NOT_A_FRACTION = 2.0


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
        path: data.yaml, or the folder that holds it; without one a folder with ``classes.txt`` or
            ``obj.names`` beside ``images/`` and ``labels/``.
        split: ``train``, ``val`` or ``test``; default all of them.
        space: label space to read into; default the file's names with ids from 1.
        annotations: the data.yaml relative to ``path``, if it is called otherwise.

    Raises:
        DataError: no class names; rows with a wrong number of columns, something that is not a
            number, an unknown class or a negative size; images that cannot be read.
    """
    layout = find_layout(path, split=split, annotations=annotations, problems=problems)
    own = _space(name, layout)
    names: list[str] = []
    sizes: list[tuple[int, int]] = []
    tables: list[np.ndarray] = []
    lines: list[tuple[Path, int]] = []
    for image in layout.images:
        with problems.catching(image):
            sizes.append(image_size(str(image)))
            names.append(image.relative_to(layout.root).as_posix())
            labels = label_path(image, layout)
            table, numbers = _rows(labels, layout, problems)
            tables.append(table)
            lines += [(labels, n) for n in numbers]

    images = numbered_images(names, sizes)
    table = np.concatenate(tables) if tables else np.zeros((0, 6))
    row = np.repeat(np.arange(len(names), dtype=np.int32), [len(t) for t in tables])
    position = np.array([own.index_by_id[i + 1] for i in layout.names], dtype=np.int32)
    lookup = np.zeros(max(layout.names, default=0) + 1, dtype=np.int32)
    lookup[list(layout.names)] = position
    category = lookup[table[:, 0].astype(np.int64)]
    keep = np.ones(len(table), dtype=bool)
    if space is not None:
        category = into_space(space, own, category, keep, layout.file or layout.root, problems)
        keep &= category >= 0
    rows = np.flatnonzero(keep)
    scale = np.stack([images.width, images.height] * 2, axis=1).astype(np.float64)[row[rows]]
    xywh = _to_pixels(table[rows, 1:5], scale)
    used = space or own
    boxes = checked_boxes(
        row[rows],
        xywh,
        category[rows],
        images,
        used,
        problems,
        layout.file or layout.root,
        lambda i: "{}, line {}".format(*lines[rows[i]]),
        score=table[rows, 5],
        id=rows + 1,
    )
    return DetectionDataset(name, used, images, boxes, layout.root)


def _space(name: str, layout: Layout) -> LabelSpace:
    try:
        return LabelSpace(name, tuple(Category(i + 1, n) for i, n in layout.names.items()))
    except DataError as error:
        raise DataError(error.message, file=layout.file, remedy=error.remedy) from error


def _to_pixels(box: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Fractions cx, cy, w, h to pixel xywh: [n, 4] -> [n, 4]."""
    low = box[:, :2] - box[:, 2:] / 2
    high = box[:, :2] + box[:, 2:] / 2
    low = np.where((low < 0) & (low >= -_ROUNDING), 0, low)
    high = np.where((high > 1) & (high <= 1 + _ROUNDING), 1, high)
    # Of a box that is no box the sign must stay, for the check that follows.
    size = np.where(box[:, 2:] > 0, high - low, box[:, 2:])
    return np.concatenate([low, size], axis=1) * scale


def _rows(file: Path, layout: Layout, problems: Problems) -> tuple[np.ndarray, list[int]]:
    """The good rows of one label file: class, cx, cy, w, h, score or NaN; and their lines.

    A missing or empty file is an image without objects.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return np.zeros((0, 6)), []
    except (OSError, UnicodeDecodeError) as error:
        problems.error(f"cannot be read: {error}", file=file, remedy="Replace the label file.")
        return np.zeros((0, 6)), []
    rows, lines = [], []
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split()
        if not parts:
            continue
        try:
            rows.append(_row(parts, layout))
            lines.append(number)
        except ValueError as error:
            problems.error(
                str(error),
                file=file,
                record=f"line {number}",
                remedy="Rows are `class cx cy w h`, in fractions of the image.",
            )
    return np.array(rows, dtype=np.float64).reshape(-1, 6), lines


def _row(parts: Sequence[str], layout: Layout) -> list[float]:
    values = []
    for part in parts:
        try:
            values.append(float(part))
        except ValueError:
            raise ValueError(f"{part[:40]!r} is not a number") from None
    count = len(values)
    if count < 5 or (count > 6 and count % 2 == 0):
        raise ValueError(f"has {count} columns")
    if not np.isfinite(values).all():
        raise ValueError("has a number that is not finite")
    label = values[0]
    if label != int(label) or int(label) not in layout.names:
        raise ValueError(f"class {parts[0]} is not one of the {len(layout.names)} classes")
    if max(map(abs, values[1:])) > _NOT_A_FRACTION:
        raise ValueError("has coordinates that are not fractions of the image")
    if count > 6:
        x, y = values[1::2], values[2::2]
        low, high = (min(x), min(y)), (max(x), max(y))
        box = [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, high[0] - low[0], high[1] - low[1]]
        return [label, *box, np.nan]
    if values[3] < 0 or values[4] < 0:
        raise ValueError("has a negative size")
    score = values[5] if count == 6 else np.nan
    if score < 0 or score > 1:
        raise ValueError(f"has a score of {score:g}, outside 0 to 1")
    return [*values[:5], score]
