"""What every reader shares: images and boxes checked and gathered as columns.

Shape legend: ``n`` boxes, ``I`` images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from relabel.datasets.dataset import Boxes, Images, make_boxes
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.pixels.placing import file_name_fault
from relabel.errors import Problems

CLIPPED = "partly outside their image: clipped"
OUTSIDE = "wholly outside their image: dropped"
EMPTY = "of zero area: dropped"
LEFT_OUT = "marked as ignored, which the format cannot express: left out"
SKIP = "Correct or remove it, or leave it out with --skip-bad."
AGAIN = "Download the file again, or leave it out with --skip-bad."

# A corner may pass the image's edge by rounding of the sum alone; such a box is inside.
_ROUNDING = 1e-6
# Image sizes are 32-bit numbers; products of larger coordinates would overflow.
_LARGEST = 2.0**31
# Sides of images are held in 32 bits.
_SIDES = 1 << 31


def numbered_images(
    names: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    *,
    id: Sequence[int] | None = None,
    location: Sequence[str] | None = None,
) -> Images:
    """Images of these file names and (width, height), with ids from 1 where none are given."""
    size = np.array(sizes, dtype=np.int32).reshape(-1, 2)
    return Images(
        id=np.arange(1, len(names) + 1) if id is None else np.array(id, dtype=np.int64),
        file_name=names,
        width=size[:, 0],
        height=size[:, 1],
        location=location,
    )


@dataclass
class ImageRows:
    """The images of a dataset as a reader finds them, one after the other.

    Attributes:
        name, size, location: columns, filled by `add`.
        row_of: row by file name.
    """

    problems: Problems
    name: list[str] = field(default_factory=list)
    size: list[tuple[int, int]] = field(default_factory=list)
    location: list[str] = field(default_factory=list)
    row_of: dict[str, int] = field(default_factory=dict)

    def add(
        self, name: str, size: tuple[float, float], *, file: Path, record: str, location: str = ""
    ) -> int | None:
        """Add an image of (width, height) and return its row.

        None where its name leads out of the root or was there before, or where no image can have
        the size: these are errors of ``record`` in ``file``.
        """
        if not check_file_name(name, problems=self.problems, file=file, record=record):
            return None
        fault = None
        if name in self.row_of:
            fault = f"image {name!r} appears twice"
        elif not all(0 < side < _SIDES and side == int(side) for side in size):
            fault = f"image size {size_text(size)} is not possible"
        if fault is not None:
            self.problems.error(fault, file=file, record=record, remedy=SKIP)
            return None
        self.row_of[name] = len(self.name)
        self.name.append(name)
        self.size.append((int(size[0]), int(size[1])))
        self.location.append(location)
        return len(self.name) - 1

    def images(self) -> Images:
        """The columns as `Images`, numbered from 1."""
        return numbered_images(
            self.name, self.size, location=self.location if any(self.location) else None
        )


def size_text(size: tuple[float, float]) -> str:
    """``1920x1080``; a side of hundreds of digits is not written out."""
    return "x".join(str(s) if abs(s) < 1 << 64 else f"{float(min(s, 1e308)):g}" for s in size)


def checked_boxes(
    image: Any,
    xywh: Any,
    category: Any,
    images: Images,
    space: LabelSpace,
    problems: Problems,
    file: str | Path,
    record_of: Callable[[int], str],
    *,
    ignore: Any = None,
    area: Any = None,
    extra: Sequence[bytes | None] | None = None,
    score: np.ndarray | None = None,
    id: np.ndarray | None = None,
) -> Boxes:
    """The boxes that pass `clean_boxes`; those of ignore categories are marked as such.

    Args:
        image: int [n], row of each box's image.
        xywh: float64 [n, 4].
        category: int [n], position in ``space``.
        record_of: names the box in a row, such as ``annotation 17``.
        ignore: bool [n], further boxes that are regions to leave out.
        area: float64 [n], the file's own areas; those of clipped boxes shrink with them.
        extra: n encoded objects of further fields.
        score, id: [n], see `make_boxes`.

    Raises:
        DataError: a bad box, unless problems are to be skipped.
    """
    image = np.asarray(image, dtype=np.int32)
    xywh = np.asarray(xywh, dtype=np.float64).reshape(-1, 4)
    category = np.asarray(category, dtype=np.int32)
    keep, clean = clean_boxes(image, xywh, images.width, images.height, problems, file, record_of)
    rows = np.flatnonzero(keep)
    marked = space.ignore_mask[category[rows]]
    if ignore is not None:
        marked = marked | np.asarray(ignore, dtype=bool)[rows]
    if area is not None:
        area = clipped_area(np.asarray(area, dtype=np.float64), xywh, clean)[rows]
    return make_boxes(
        image[rows],
        clean[rows],
        category[rows],
        ignore=marked,
        area=area,
        extra=None if extra is None else [extra[i] for i in rows.tolist()],
        score=None if score is None else score[rows],
        id=None if id is None else id[rows],
    )


def clean_boxes(
    image: np.ndarray,
    xywh: np.ndarray,
    widths: np.ndarray,
    heights: np.ndarray,
    problems: Problems,
    file: str | Path,
    record_of: Callable[[int], str],
) -> tuple[np.ndarray, np.ndarray]:
    """Check boxes against their images.

    A box that is not finite or has a negative size is an error. A box partly outside its image is
    clipped, one wholly outside or of zero area is dropped; both are counted. Boxes inside keep
    exactly their numbers. Images of unknown size (width or height 0) do not clip.

    Args:
        image: int [n], row of each box's image.
        xywh: float64 [n, 4].
        widths, heights: int [I], pixels.
        problems: where findings go.
        file: named in errors.
        record_of: names the box in a row, such as ``annotation 17``.

    Returns:
        keep: bool [n].
        xywh: float64 [n, 4], clipped; the input itself where nothing needed clipping.

    Raises:
        DataError: a bad box, unless problems are to be skipped.
    """
    keep = real_boxes(xywh, problems, file, record_of)
    if len(xywh) and not xywh[:, 2:].all():
        empty = keep & ((xywh[:, 2] == 0) | (xywh[:, 3] == 0))
        problems.count(EMPTY, int(empty.sum()), map(record_of, np.flatnonzero(empty).tolist()))
        keep &= ~empty

    width, height = _limits(widths, image), _limits(heights, image)
    # A NaN compares false everywhere, and is no longer kept anyway.
    with np.errstate(invalid="ignore"):
        sides = (
            (xywh[:, 0] < -_ROUNDING)
            | (xywh[:, 1] < -_ROUNDING)
            | (xywh[:, 0] + xywh[:, 2] > width + _ROUNDING)
            | (xywh[:, 1] + xywh[:, 3] > height + _ROUNDING)
        )
    rows = np.flatnonzero(keep & sides)
    if not len(rows):
        return keep, xywh

    box = xywh[rows]
    limit = np.stack([width[rows], height[rows]], axis=1)
    # With an unknown size the box is only cut at the known edges, left and top.
    known = np.isfinite(limit)
    low = np.maximum(box[:, :2], 0)
    high = np.where(known, np.minimum(box[:, :2] + box[:, 2:], limit), box[:, :2] + box[:, 2:])
    outside = (high <= low).any(axis=1)
    for kind, which in ((OUTSIDE, outside), (CLIPPED, ~outside)):
        problems.count(kind, int(which.sum()), map(record_of, rows[which].tolist()))
    keep[rows[outside]] = False
    clipped = xywh.copy()
    rows, low, high = rows[~outside], low[~outside], high[~outside]
    clipped[rows, :2] = low
    clipped[rows, 2:] = high - low
    return keep, clipped


def _limits(sides: np.ndarray, image: np.ndarray) -> np.ndarray:
    """float64 [n], a side of each box's image, infinite where it is not known."""
    if len(image) < len(sides):  # the boxes of one file of many
        sides = sides[image]
        return np.where(sides > 0, sides, np.inf)
    return np.where(sides > 0, sides, np.inf)[image]


def real_boxes(
    xywh: np.ndarray, problems: Problems, file: str | Path, record_of: Callable[[int], str]
) -> np.ndarray:
    """bool [n], False on boxes that are not finite, have a negative size, or fit no image.

    Raises:
        DataError: there are such, unless problems are to be skipped.
    """
    # Without a copy where all is well, as it is in nearly every file; NaN compares false.
    if len(xywh) == 0 or (
        xywh.min() > -_LARGEST and xywh.max() < _LARGEST and xywh[:, 2:].min() >= 0
    ):
        return np.ones(len(xywh), bool)
    usable = np.asarray((np.abs(xywh) < _LARGEST).all(axis=1))  # False of NaN
    bad = ~usable | (xywh[:, 2] < 0) | (xywh[:, 3] < 0)
    for row in np.flatnonzero(bad).tolist():
        what = "a negative size"
        if not usable[row]:
            finite = bool(np.isfinite(xywh[row]).all())
            what = (
                "a number too large for any image" if finite else "a coordinate that is not finite"
            )
        numbers = ", ".join(f"{v:g}" for v in xywh[row])
        problems.error(
            f"bbox [{numbers}] has {what}",
            file=file,
            record=record_of(row),
            remedy="Correct or remove the box, or leave it out with --skip-bad.",
        )
    return ~bad


def clipped_area(area: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Areas that fit the clipped boxes: float64 [n], unchanged where the box is.

    A file's own area (a mask's, say) stays, but never exceeds the box that is left.
    """
    if before is after:
        return area
    changed = (before != after).any(axis=1)
    return np.where(changed, np.minimum(area, after[:, 2] * after[:, 3]), area)


def check_file_name(
    file_name: str, *, problems: Problems, file: str | Path, record: str = ""
) -> bool:
    """Whether a file name from an annotation file stays inside the dataset's root.

    Absolute paths, drive letters, ``..`` (with either separator), NUL bytes and the prefixes of
    `relabel.datasets.pixels.location` locations are reported as errors: a dataset must not make the
    program read a file elsewhere.

    Raises:
        DataError: the name leads outside, unless problems are to be skipped.
    """
    why = file_name_fault(file_name)
    if why is None:
        return True
    problems.error(
        f"file_name {file_name[:200]!r} {why}",
        file=file,
        record=record,
        remedy="Use a path relative to the dataset's root, or leave it out with --skip-bad.",
    )
    return False
