"""Checks every reader shares: boxes against their images, and file names against their root.

Shape legend: ``n`` boxes, ``I`` images.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from relabel.datasets.pixels.placing import file_name_fault
from relabel.errors import Problems

CLIPPED = "partly outside their image: clipped"
OUTSIDE = "wholly outside their image: dropped"
EMPTY = "of zero area: dropped"

# A corner may pass the image's edge by rounding of the sum alone; such a box is inside.
_ROUNDING = 1e-6


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
    finite = np.asarray(np.isfinite(xywh).all(axis=1))
    bad = ~finite | (xywh[:, 2] < 0) | (xywh[:, 3] < 0)
    for row in np.flatnonzero(bad).tolist():
        what = "a negative size" if finite[row] else "a coordinate that is not finite"
        numbers = ", ".join(f"{v:g}" for v in xywh[row])
        problems.error(
            f"bbox [{numbers}] has {what}",
            file=file,
            record=record_of(row),
            remedy="Correct or remove the box, or leave it out with --skip-bad.",
        )
    keep = ~bad

    empty = keep & ((xywh[:, 2] == 0) | (xywh[:, 3] == 0))
    problems.count(EMPTY, int(empty.sum()))
    keep &= ~empty

    width, height = widths[image], heights[image]
    width = np.where(width > 0, width, np.inf)
    height = np.where(height > 0, height, np.inf)
    # A NaN compares false everywhere, and is no longer kept anyway.
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
    problems.count(OUTSIDE, int(outside.sum()))
    problems.count(CLIPPED, int((~outside).sum()))
    keep[rows[outside]] = False
    clipped = xywh.copy()
    rows, low, high = rows[~outside], low[~outside], high[~outside]
    clipped[rows, :2] = low
    clipped[rows, 2:] = high - low
    return keep, clipped


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
