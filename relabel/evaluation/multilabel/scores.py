"""Scores over the classes, held as they come: a full row per image, or a few classes of it.

Shape legend: ``R`` records of the predictions, ``K`` classes they speak of, ``N`` evaluated images,
``C`` evaluated classes, ``n`` listed classes over all images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from relabel.evaluation.multilabel.classlists import offsets_of

_BLOCK_CELLS = 1 << 22


class Scores(Protocol):
    """What the metrics ask of scores, for N images and C classes."""

    @property
    def num_classes(self) -> int: ...

    def __len__(self) -> int: ...

    def block(self, first: int, last: int) -> np.ndarray:
        """float [last - first, C], a copy: the scores of images ``first:last``."""
        ...

    def columns(self, classes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        """Class by class: (scores, their images ascending, how many more images score 0)."""
        ...


@dataclass(frozen=True, eq=False)
class DenseScores:
    """A score for every class of every image.

    Attributes:
        values: float [R, K], finite.
        images: int64 [N], the record of each evaluated image, -1 for an image without one, which
            scores 0 everywhere. Default all records in their order.
        classes: int64 [C], the column of each evaluated class, -1 for one the predictions do not
            know, which scores below all others. Default all columns in their order.
    """

    values: np.ndarray
    images: np.ndarray | None = None
    classes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.values) if self.images is None else len(self.images)

    @property
    def num_classes(self) -> int:
        return self.values.shape[1] if self.classes is None else len(self.classes)

    def block(self, first: int, last: int) -> np.ndarray:
        if self.images is None:
            part = self.values[first:last]
        else:
            images = self.images[first:last]
            part = self.values[images]
            part[images < 0] = 0
        if self.classes is None:
            return part.copy() if self.images is None else part
        part = part[:, self.classes]
        part[:, self.classes < 0] = -np.inf
        return part

    def columns(self, classes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        # Rows lie one after the other: a column alone would touch every cache line of the matrix.
        known = classes if self.classes is None else self.classes[classes]
        everything = np.arange(len(self))
        width = max(1, _BLOCK_CELLS // max(1, len(self.values)))
        for start in range(0, len(known), width):
            wanted = known[start : start + width]
            part = np.ascontiguousarray(self.values[:, wanted].T)
            for column, position in zip(part, wanted.tolist(), strict=True):
                if position < 0:
                    yield np.full(len(self), -np.inf), everything, 0
                elif self.images is None:
                    yield column, everything, 0
                else:
                    values = column[self.images]
                    values[self.images < 0] = 0
                    yield values, everything, 0


@dataclass(frozen=True, eq=False)
class SparseScores:
    """Scores of the listed classes; every other class scores 0.

    Attributes:
        offsets: int64 [N + 1], where each image's classes begin.
        ids: int64 [n], below C, no class twice in an image.
        probs: float [n], finite and not negative.
        num_classes: C.
    """

    offsets: np.ndarray
    ids: np.ndarray
    probs: np.ndarray
    num_classes: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def rows(self) -> np.ndarray:
        """int64 [n], the image of each listed class."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def take(self, images: np.ndarray) -> SparseScores:
        """The scores of some records, in the order given; -1 for an image without one."""
        counts = np.where(images < 0, 0, np.diff(self.offsets, append=0)[images])
        offsets = offsets_of(counts)
        shift = np.repeat(self.offsets[np.maximum(images, 0)] - offsets[:-1], counts)
        at = np.arange(offsets[-1]) + shift
        return SparseScores(offsets, self.ids[at], self.probs[at], self.num_classes)

    def renamed(self, position: np.ndarray, num_classes: int) -> SparseScores:
        """With class ``k`` called ``position[k]``, or left out where that is -1."""
        ids = position[self.ids]
        keep = ids >= 0
        counts = np.bincount(self.rows[keep], minlength=len(self))
        return SparseScores(offsets_of(counts), ids[keep], self.probs[keep], num_classes)

    def block(self, first: int, last: int) -> np.ndarray:
        part = slice(int(self.offsets[first]), int(self.offsets[last]))
        values = np.zeros((last - first, self.num_classes), dtype=self.probs.dtype)
        values[self.rows[part] - first, self.ids[part]] = self.probs[part]
        return values

    def columns(self, classes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        order = np.argsort(self.ids, kind="stable")
        starts = np.searchsorted(self.ids[order], np.arange(self.num_classes + 1))
        for label in classes.tolist():
            mine = order[starts[label] : starts[label + 1]]
            yield self.probs[mine], self.rows[mine], len(self) - len(mine)
