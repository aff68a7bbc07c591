"""Classes per image as two arrays.

Shape legend: ``N`` images, ``n`` classes over all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np


@dataclass(frozen=True, eq=False)
class ClassLists:
    """A set of classes per image.

    Attributes:
        offsets: int64 [N + 1]; the classes of image ``i`` are ``ids[offsets[i]:offsets[i + 1]]``.
        ids: int64 [n], ascending within an image and without repetition.
    """

    offsets: np.ndarray
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def counts(self) -> np.ndarray:
        """int64 [N], classes per image."""
        return np.diff(self.offsets)

    @cached_property
    def rows(self) -> np.ndarray:
        """int64 [n], the image of each class."""
        return np.repeat(np.arange(len(self)), self.counts)

    def of(self, image: int) -> list[int]:
        return self.ids[self.offsets[image] : self.offsets[image + 1]].tolist()

    def between(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Images (counted from ``first``) and ids of the classes of images ``first:last``."""
        part = slice(int(self.offsets[first]), int(self.offsets[last]))
        return self.rows[part] - first, self.ids[part]

    def take(self, images: np.ndarray) -> ClassLists:
        """The lists of some images, in the order given."""
        counts = self.counts[images]
        offsets = offsets_of(counts)
        shift = np.repeat(self.offsets[:-1][images] - offsets[:-1], counts)
        return ClassLists(offsets, self.ids[np.arange(offsets[-1]) + shift])

    @classmethod
    def from_lists(cls, lists: Sequence[Sequence[int]]) -> ClassLists:
        counts = np.fromiter(map(len, lists), np.int64, len(lists))
        ids = np.fromiter(chain.from_iterable(lists), np.int64, int(counts.sum()))
        return cls.from_pairs(np.repeat(np.arange(len(lists)), counts), ids, len(lists))

    @classmethod
    def from_pairs(cls, rows: np.ndarray, ids: np.ndarray, images: int) -> ClassLists:
        """From (image, class) pairs in any order, with repetitions.

        Args:
            rows: int [n], image of each class.
            ids: int [n], not negative.
            images: N.
        """
        width = int(ids.max(initial=0)) + 1
        pairs = np.unique(rows.astype(np.int64) * width + ids.astype(np.int64))
        counts = np.bincount(pairs // width, minlength=images)
        return cls(offsets_of(counts), pairs % width)

    def without(self, other: ClassLists) -> ClassLists:
        """The classes that are not in ``other``, which has the same images."""
        width = int(max(self.ids.max(initial=0), other.ids.max(initial=0))) + 1
        keep = ~np.isin(self.rows * width + self.ids, other.rows * width + other.ids)
        return ClassLists.from_pairs(self.rows[keep], self.ids[keep], len(self))


def offsets_of(counts: np.ndarray) -> np.ndarray:
    """int64 [N + 1] from the sizes of N lists."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
