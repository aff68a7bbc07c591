"""Tables: what there is per image, box or proposal, as columns of equal length.

Shape legend: ``n`` rows, ``I`` images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any, ClassVar, Self

import numpy as np


@dataclass(frozen=True, eq=False)
class Table:
    """The base of frozen dataclasses whose fields are columns.

    A column is an array [n, ...], a table of n rows, a sequence of n values, or None.

    Attributes:
        SHARED: fields that are no columns but are said of the table as a whole.
    """

    SHARED: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def columns(cls) -> list[str]:
        """Names of the columns; the first is never None."""
        return [f.name for f in fields(cls) if f.name not in cls.SHARED]

    def __len__(self) -> int:
        return len(getattr(self, self.columns()[0]))

    def take(self, rows: np.ndarray) -> Self:
        """The rows of the numbers given, in their order, or of a bool [n] mask."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        taken = {name: _take(getattr(self, name), rows) for name in self.columns()}
        return replace(self, **taken)

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, one part after the other; what is shared is the first part's.

        Parts without rows do not say whether a column is None.

        Raises:
            ValueError: no parts, or a column of arrays is None in some of them.
        """
        if not parts:
            raise ValueError("nothing to concatenate")
        told = [part for part in parts if len(part)] or parts[:1]
        joined = {name: _joined(name, told) for name in cls.columns()}
        return replace(parts[0], **joined)


class ImageTable(Table):
    """A table with a column ``image``, int [n], the row of the image that each row is of.

    In order, as `sorted_by_image` makes it, ``image`` never decreases.
    """

    image: np.ndarray

    def sorted_by_image(self) -> Self:
        """The rows grouped by image, stably, so that their order survives within each image."""
        if len(self) > 1 and bool(np.any(self.image[1:] < self.image[:-1])):
            return self.take(np.argsort(self.image, kind="stable"))
        return self

    def offsets_of(self, images: int) -> np.ndarray:
        """int64 [I + 1]; image ``i`` has the rows ``offsets[i]:offsets[i + 1]``, sorted."""
        return np.searchsorted(self.image, np.arange(images + 1))

    def of_images(self, images: np.ndarray, offsets: np.ndarray) -> Self:
        """The rows of some images in the order given, the images renumbered from 0.

        Args:
            images: int64, rows of images; -1 for an image that has no rows.
            offsets: see `offsets_of`.
        """
        starts = offsets[images]
        counts = np.where(images < 0, 0, offsets[images + 1] - starts)
        before = np.cumsum(counts) - counts
        rows = np.repeat(starts - before, counts) + np.arange(counts.sum())
        image = np.repeat(np.arange(len(images), dtype=np.int32), counts)
        return replace(self.take(rows), image=image)


class ColumnParts:
    """Columns that are read block by block, a part of each for every block."""

    def __init__(self) -> None:
        self.columns: list[list[np.ndarray]] = []

    def add(self, *parts: np.ndarray) -> None:
        if not self.columns:
            self.columns = [[] for _ in parts]
        for column, part in zip(self.columns, parts, strict=True):
            column.append(part)

    def joined(self) -> list[np.ndarray]:
        """Each column as one; its parts go before the next is joined."""
        whole = []
        for column in self.columns:
            whole.append(np.concatenate(column))
            column.clear()
        return whole


def _take(values: Any, rows: np.ndarray) -> Any:
    if values is None:
        return None
    if isinstance(values, np.ndarray):
        return values[rows]
    if hasattr(values, "take"):
        return values.take(rows)
    return [values[i] for i in rows.tolist()]


def _joined(name: str, parts: Sequence[Table]) -> Any:
    values = [getattr(part, name) for part in parts]
    first = next((value for value in values if value is not None), None)
    if first is None:
        return None
    if isinstance(first, np.ndarray | Table) and any(value is None for value in values):
        raise ValueError(f"column {name} is missing in a part")
    if isinstance(first, np.ndarray):
        return np.concatenate(values)
    if isinstance(first, Table):
        return type(first).concatenate(values)
    lengths = map(len, parts)
    rows = ([None] * n if v is None else v for v, n in zip(values, lengths, strict=True))
    return list(chain.from_iterable(rows))
