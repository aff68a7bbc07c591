"""Building what is known from lists of class indices, as files give them.

Shape legend: ``n`` images of a block, ``C`` classes, ``L`` entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from relabel.datasets.classes import MOST_CLASSES
from relabel.datasets.partial.labels import ABSENT, PRESENT
from relabel.errors import DataError


@dataclass(frozen=True)
class Listed:
    """Class indices of the images of a block: ``ids`` int64 [L], ``counts`` int64 [n] of them."""

    ids: np.ndarray
    counts: np.ndarray


def known_of_lists(
    present: Listed, absent: Listed, names: Sequence[str], classes: int | None, file: Path
) -> csr_array:
    """int8 [n, C] of the classes that are listed as present and as absent.

    Args:
        names: n, for messages.
        classes: C; None where the file does not say: as many as the greatest index asks for.
        file: for messages.

    Raises:
        DataError: an index that is none of a class, or that is there twice.
    """
    rows = np.concatenate(
        [np.repeat(np.arange(len(names)), part.counts) for part in (present, absent)]
    )
    ids = np.concatenate([present.ids, absent.ids])
    values = np.repeat(np.array([PRESENT, ABSENT], np.int8), [len(present.ids), len(absent.ids)])
    most = MOST_CLASSES if classes is None else classes
    bad = np.flatnonzero((ids < 0) | (ids >= most))
    if len(bad):
        at = int(bad[0])
        raise DataError(
            f"class {ids[at]} is outside 0..{most - 1}",
            file=file,
            record=f"image {names[int(rows[at])]!r}",
            remedy="Class indices are positions in the list of classes, from 0 on.",
        )
    width = int(ids.max(initial=-1)) + 1 if classes is None else classes
    order = np.argsort(rows * np.int64(max(width, 1)) + ids, kind="stable")
    rows, ids, values = rows[order], ids[order], values[order]
    twice = np.flatnonzero((np.diff(rows) == 0) & (np.diff(ids) == 0))
    if len(twice):
        at = int(twice[0])
        both = values[at] != values[at + 1]
        raise DataError(
            f"class {ids[at]} is both present and absent"
            if both
            else f"class {ids[at]} is listed twice",
            file=file,
            record=f"image {names[int(rows[at])]!r}",
            remedy="Give each class once.",
        )
    ends = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(names)))])
    return csr_array((values, ids.astype(np.int32), ends), shape=(len(names), max(width, 1)))


def widened(known: csr_array, classes: int) -> csr_array:
    """The same entries over more classes."""
    parts = (known.data, known.indices, known.indptr)
    return csr_array(parts, shape=(len(known.indptr) - 1, classes))


def numbered_classes(count: int) -> tuple[str, ...]:
    """Names of classes that a file knows by number only: ``"0"``, ``"1"``, ..."""
    return tuple(map(str, range(count)))


def check_class_count(count: int, file: str | Path) -> None:
    """Refuse more classes than any set has, before memory is taken for them.

    Raises:
        DataError: there are more.
    """
    if count > MOST_CLASSES:
        raise DataError(
            f"has {count:,} classes; at most {MOST_CLASSES:,} are read",
            file=file,
            remedy="Check that it is the right file.",
        )
