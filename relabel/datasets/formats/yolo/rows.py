"""What the rows of YOLO label files mean: boxes, polygons, keypoints, confidences, tracks.

The number of columns alone does not say it (seven may be a triangle, or a box with a confidence
and a track), so it is decided for all files of a dataset together. Rows are read in blocks of
files and summed up at once; a polygon takes no more memory than a box.

Ultralytics writes predictions as ``class cx cy w h [keypoints] [confidence] [track]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate

import numpy as np

from relabel.datasets.table import ColumnParts
from relabel.errors import DataError, Problems
from relabel.files.opening import read_text

# Beyond this a number is a pixel, not a fraction.
_NOT_A_FRACTION = 2.0
_BLOCK = 256
_HEAD, _SHORT = 5, 7  # numbers that are kept, and of rows that are looked at at once
# Fewer polygons of one length may lie as keypoints do by chance.
_ENOUGH = 3
_SLACK = 0.01
_ROW = "Rows are `class cx cy w h`, in fractions of the image."
_TRACKS = "with a track number in the last column, which is not kept"


@dataclass
class Rows:
    """Rows of numbers, summed up: ``n`` rows of several files, in their order.

    Attributes:
        file: int [n], which of the files.
        line: int [n], from 1.
        count: int [n], numbers in the row.
        head: float64 [n, 5], the first numbers, NaN where there are fewer.
        tail: float64 [n, 2], the last two.
        low, high: float64 [n, 2], bounds of the points after the first five numbers, from rows of
            more than six; infinite elsewhere.
        reach: float64 [n], the largest absolute number after the class.
        flags: bool [n], whether every third number from the eighth on is 0, 1 or 2.
    """

    file: np.ndarray
    line: np.ndarray
    count: np.ndarray
    head: np.ndarray
    tail: np.ndarray
    low: np.ndarray
    high: np.ndarray
    reach: np.ndarray
    flags: np.ndarray

    def __len__(self) -> int:
        return len(self.count)


def read_rows(files: Sequence[str | None], problems: Problems) -> tuple[Rows, list[int]]:
    """The rows of label files, and which files could not be read.

    Args:
        files: None for an image without a label file.
        problems: receives rows that are not numbers, and files that are not text.

    Raises:
        DataError: there are such, unless problems are to be skipped.
    """
    parts, unread = ColumnParts(), []

    def add(rows: Rows) -> None:
        parts.add(*(getattr(rows, f.name) for f in fields(Rows)))

    add(_summed_up(np.zeros(0), *[np.zeros(0, dtype=np.int64)] * 3))
    for start in range(0, len(files), _BLOCK):
        texts: list[str] = []
        for number, file in enumerate(files[start : start + _BLOCK], start):
            text = ""
            if file is not None:
                try:
                    text = read_text(file, remedy="Replace the label file.")
                except DataError as error:
                    problems.report(error, file)
                    unread.append(number)
            texts.append(text)
        block = _numbers("\n".join(texts))
        if block is None:
            for number, text in enumerate(texts, start):
                name = files[number]
                if text and name is not None:
                    add(_slowly(text, name, number, problems))
        else:
            values, count, line = block
            # Lines of the block to lines of each file.
            first = list(accumulate((t.count("\n") + 1 for t in texts), initial=0))
            file = np.searchsorted(first, line, side="right") - 1
            add(_summed_up(values, count, file + start, line - np.array(first)[file] + 1))
    return Rows(*parts.joined()), unread


def _numbers(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """All numbers, how many a line that has some holds, and its index; None where not numbers."""
    data = text.encode("utf-8", "surrogatepass")
    if b"_" in data:  # Python takes 1_0 for a number
        return None
    try:
        values = np.array(list(map(float, data.split())), dtype=np.float64)
    except ValueError:
        return None
    raw = np.frombuffer(data, dtype=np.uint8)
    blank = (raw == ord(" ")) | ((raw >= ord("\t")) & (raw <= ord("\r")))
    begins = ~blank
    begins[1:] &= blank[:-1]
    line = np.searchsorted(np.flatnonzero(raw == ord("\n")), np.flatnonzero(begins))
    count = np.bincount(line)
    lines = np.flatnonzero(count)
    return values, count[lines], lines


def _slowly(text: str, file: str, number: int, problems: Problems) -> Rows:
    """One file, line by line, so that what is no number is named."""
    values, count, lines = [], [], []
    for at, line in enumerate(text.split("\n"), 1):
        row = []
        for word in line.split():
            try:
                row.append(float(word.replace("_", "?")))
            except ValueError:
                problems.error(
                    f"{word[:40]!r} is not a number", file=file, record=f"line {at}", remedy=_ROW
                )
                break
        else:
            if row:
                values += row
                count.append(len(row))
                lines.append(at)
    return _summed_up(
        np.array(values, dtype=np.float64),
        np.array(count, dtype=np.int64),
        np.full(len(count), number, dtype=np.int64),
        np.array(lines, dtype=np.int64),
    )


def _summed_up(values: np.ndarray, count: np.ndarray, file: np.ndarray, line: np.ndarray) -> Rows:
    """Rows of ``count`` numbers each, one after the other in ``values``."""
    n = len(count)
    start = np.cumsum(count) - count
    place = np.arange(_SHORT)
    held = place < count[:, None]
    head = np.full((n, _SHORT), np.nan)
    head[held] = values[(start[:, None] + place)[held]]
    last = start + count - 1
    tail = np.stack([values[np.maximum(last - 1, start)], values[last]], axis=1)
    low, high = np.full((n, 2), np.inf), np.full((n, 2), -np.inf)
    # A NaN that was written must show.
    reach = np.where(held[:, 1:], np.abs(head[:, 1:]), 0).max(axis=1, initial=0)
    flags = np.zeros(n, dtype=bool)
    long = np.flatnonzero(count > 6)
    if len(long):
        # Only the long rows, one after the other.
        size = count[long]
        begin = np.cumsum(size) - size
        offset = np.arange(size.sum()) - np.repeat(begin, size)
        value = values[offset + np.repeat(start[long], size)]
        reach[long] = np.maximum.reduceat(np.where(offset > 0, np.abs(value), 0), begin)
        for axis in (0, 1):
            of_axis = (offset >= 5) & (offset % 2 == 1 - axis)
            low[long, axis] = np.minimum.reduceat(np.where(of_axis, value, np.inf), begin)
            high[long, axis] = np.maximum.reduceat(np.where(of_axis, value, -np.inf), begin)
        third = (offset >= 7) & ((offset - 7) % 3 == 0)
        other = third & (value != 0) & (value != 1) & (value != 2)
        flags[long] = ~np.logical_or.reduceat(other, begin)
    return Rows(file, line, count, head[:, :_HEAD].copy(), tail, low, high, reach, flags)


def boxes_of(
    rows: Rows,
    classes: Sequence[int],
    keypoints: tuple[int, int] | None,
    problems: Problems,
    file_of: Callable[[int], str],
) -> tuple[np.ndarray, np.ndarray]:
    """The good rows as boxes.

    Args:
        classes: class numbers that there are.
        keypoints: ``kpt_shape`` of data.yaml: how many keypoints, and 2 or 3 numbers for each.
        file_of: the label file of a row's ``file``.

    Returns:
        row: int [n], the good ones.
        table: float64 [n, 6], class, cx, cy, w, h as fractions, and score or NaN.

    Raises:
        DataError: a bad row, or one that may mean several things, unless problems are to be
            skipped.
    """
    faults: dict[int, tuple[str, str]] = {}

    def fault(which: np.ndarray, text: Callable[[int], str], remedy: str = _ROW) -> None:
        for row in np.flatnonzero(which).tolist():
            faults.setdefault(row, (text(row), remedy))

    box, polygon, extra = _meaning(rows, keypoints, fault)
    head, known = rows.head, np.array(sorted(classes), dtype=np.float64)
    unreal = ~np.isfinite(head[:, 0]) | ~np.isfinite(rows.reach)
    fault(unreal, lambda i: "has a number that is not finite")
    fault(
        ~np.isin(head[:, 0], known),
        lambda i: f"class {head[i, 0]:.10g} is not one of the {len(known)} classes",
        f"{_ROW} Classes are numbered from 0, as in the list of names.",
    )
    far = np.abs(head[:, 1:5]).max(axis=1, initial=0) > _NOT_A_FRACTION
    fault(
        (box & far) | (polygon & (rows.reach >= _NOT_A_FRACTION)),
        lambda i: "has coordinates that are not fractions of the image",
    )
    fault(box & (head[:, 3:5] < 0).any(axis=1), lambda i: "has a negative size")
    score, tracked = _scores(rows, extra, fault)
    for row in sorted(faults):
        text, remedy = faults[row]
        record = f"line {rows.line[row]}"
        problems.error(text, file=file_of(int(rows.file[row])), record=record, remedy=remedy)

    good = np.ones(len(rows), dtype=bool)
    good[list(faults)] = False
    problems.count(_TRACKS, int((good & tracked).sum()))
    row = np.flatnonzero(good)
    table = np.empty((len(row), 6))
    table[:, :5] = head[row, :5]
    table[:, 5] = score[row]
    at = np.flatnonzero(polygon[row])
    points = head[row[at], 1:5].reshape(-1, 2, 2)
    low = np.minimum(points.min(axis=1), rows.low[row[at]])
    high = np.maximum(points.max(axis=1), rows.high[row[at]])
    table[at, 1:5] = np.concatenate([(low + high) / 2, high - low], axis=1)
    return row, table


def _meaning(
    rows: Rows, keypoints: tuple[int, int] | None, fault: Callable[..., None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which rows are boxes, which polygons, and how many numbers follow a box: all [n]."""
    count = rows.count
    if keypoints is not None:
        wide = 5 + keypoints[0] * keypoints[1]
        extra = np.where(count == 5, 0, count - wide)
        box = (extra >= 0) & (extra <= 2)
        shape = list(keypoints)
        fault(
            ~box,
            lambda i: f"has {count[i]} columns; with kpt_shape {shape} a row has {wide}",
            "Correct kpt_shape in data.yaml, or the row.",
        )
        return box, np.zeros_like(box), np.where(box, extra, 0)

    tracks = _seven_are_tracks(rows, fault)
    box = (count == 5) | (count == 6) | ((count == 7) & tracks)
    polygon = (count >= 7) & (count % 2 == 1) & ~box
    _check_keypoints(rows, polygon, fault)
    fault(
        ~box & ~polygon,
        lambda i: f"has {count[i]} columns",
        f"{_ROW} A polygon has an odd number of columns; keypoints need kpt_shape in data.yaml.",
    )
    return box, polygon, np.where(box, count - 5, 0)


def _seven_are_tracks(rows: Rows, fault: Callable[..., None]) -> bool:
    """Whether rows of seven columns are boxes with confidence and track, not triangles."""
    seven = rows.count == 7
    if not seven.any() or ((rows.count >= 9) & (rows.count % 2 == 1)).any():
        return False
    confidence, track = rows.tail[seven].T
    as_tracks = (confidence >= 0) & (confidence <= 1) & (track >= 0) & (track == np.rint(track))
    if not as_tracks.all():
        return False
    if (track >= _NOT_A_FRACTION).any() or (rows.count == 6).any():
        return True
    fault(
        seven,
        lambda i: "has 7 columns: a box with confidence and track, or a triangle",
        "Delete the last two columns of a box, or repeat a triangle's first point at its end.",
    )
    return True


def _check_keypoints(rows: Rows, polygon: np.ndarray, fault: Callable[..., None]) -> None:
    """Rows without kpt_shape that lie as keypoints do, in every file, are no polygons."""
    found = np.flatnonzero(polygon)
    if len(found) == 0 or rows.count[found].min() < 11 or np.ptp(rows.count[found]) > 0:
        return
    more = int(rows.count[found[0]]) - 5
    center, half = rows.head[found, 1:3], rows.head[found, 3:5] / 2
    start, end = center - half - _SLACK, center + half + _SLACK
    within = (start <= rows.low[found]) & (rows.high[found] <= end)
    within &= (start >= -2 * _SLACK) & (end <= 1 + 2 * _SLACK)
    if more % 3 == 0 and rows.flags[found].all():
        shape = [more // 3, 3]
    elif len(found) >= _ENOUGH and within.all():
        shape = [more // 2, 2]
    else:
        return
    fault(
        polygon,
        lambda i: f"has {rows.count[i]} columns, as a box with {shape[0]} keypoints has",
        f"Add `kpt_shape: {shape}` to data.yaml.",
    )


def _scores(
    rows: Rows, extra: np.ndarray, fault: Callable[..., None]
) -> tuple[np.ndarray, np.ndarray]:
    """Scores or NaN of all rows, and which have a track: [n]."""
    score = np.where(extra == 1, rows.tail[:, 1], np.where(extra == 2, rows.tail[:, 0], np.nan))
    tracked = extra == 2
    one = extra == 1
    # A tracker's output without confidences ends in whole numbers.
    if (score[one] > 1).any() and (score[one] >= 0).all() and (score[one] % 1 == 0).all():
        tracked, score = tracked | one, np.where(one, np.nan, score)
    fault((score < 0) | (score > 1), lambda i: f"has a score of {score[i]:g}, outside 0 to 1")
    return score, tracked
