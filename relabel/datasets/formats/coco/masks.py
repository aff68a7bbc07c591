"""The box around a COCO segmentation, found without decoding its mask.

A few bytes of run lengths may stand for a mask of terabytes: only the runs' ends are looked at.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_MOST_PIXELS = 2**48
# Six bits of a character are a piece of a number: five of value, one that says whether it goes on.
_MOST_PIECES = 12


def box_around(segmentation: Any) -> tuple[float, float, float, float]:
    """xywh of polygons or of run lengths (compressed or not).

    Raises:
        ValueError: it is neither, is empty, or contradicts itself; the message tells what.
    """
    if isinstance(segmentation, dict):
        return _box_of_runs(segmentation)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("is no polygon and no RLE")
    flat = all(isinstance(v, int | float) for v in segmentation)
    corners: list[np.ndarray] = []
    for polygon in [segmentation] if flat else segmentation:
        try:
            points = np.array(polygon, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            raise ValueError("has a polygon that is no list of numbers") from None
        if points.ndim != 1 or len(points) % 2 or len(points) < 4:
            raise ValueError("has a polygon that is no list of x, y, x, y, ...")
        if not np.isfinite(points).all():
            raise ValueError("has a coordinate that is not finite")
        corners.append(points.reshape(-1, 2))
    low = np.min([c.min(axis=0) for c in corners], axis=0)
    high = np.max([c.max(axis=0) for c in corners], axis=0)
    x, y, w, h = (*low.tolist(), *(high - low).tolist())
    return x, y, w, h


def _box_of_runs(segmentation: dict[str, Any]) -> tuple[float, float, float, float]:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    match size:
        case [int(height), int(width)] if 0 < height < 2**31 and 0 < width < 2**31:
            pass
        case _:
            raise ValueError("is an RLE without a `size` of [height, width]")
    if isinstance(counts, str):
        counts = _run_lengths(counts)
    if not isinstance(counts, list) or not all(isinstance(c, int) and c >= 0 for c in counts):
        raise ValueError("is an RLE whose `counts` are no run lengths")
    if height * width > _MOST_PIXELS or sum(counts) != height * width:
        raise ValueError("is an RLE whose `counts` do not add up to its `size`")
    ends = np.cumsum(np.array(counts, dtype=np.int64))
    start, stop = ends[:-1:2], ends[1::2]  # of every second run, which is inside the mask
    start, stop = start[stop > start], stop[stop > start]
    if not len(start):
        raise ValueError("is an RLE of an empty mask")
    # Runs go down the columns; one that goes on in the next column touches both edges.
    first, last = start // height, (stop - 1) // height
    spills = bool((first < last).any())
    top = 0 if spills else int((start % height).min())
    bottom = height - 1 if spills else int(((stop - 1) % height).max())
    left, right = int(first.min()), int(last.max())
    return float(left), float(top), float(right - left + 1), float(bottom - top + 1)


def _run_lengths(text: str) -> list[int]:
    """The numbers of COCO's compressed run lengths; after the third they are differences.

    Source: maskApi.c of https://github.com/cocodataset/cocoapi.
    """
    counts: list[int] = []
    value = pieces = 0
    for character in text:
        piece = ord(character) - 48
        if not 0 <= piece < 64 or pieces == _MOST_PIECES:
            raise ValueError("is an RLE whose `counts` are not COCO's compressed text")
        value |= (piece & 31) << (5 * pieces)
        pieces += 1
        if piece & 32:
            continue
        if piece & 16:
            value -= 1 << (5 * pieces)
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = pieces = 0
    if pieces:
        raise ValueError("is an RLE whose `counts` are cut off")
    return counts
