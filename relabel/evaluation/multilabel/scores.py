"""Scores over the classes, held as they come: a full row per image, or a few classes of it.

Shape legend: ``R`` records of the predictions, ``K`` classes they have, ``N`` evaluated images,
``C`` evaluated classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from relabel.datasets.multilabels import label_matrix, label_rows, label_shape

_BLOCK_CELLS = 1 << 22


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
    images: np.ndarray = None  # type: ignore[assignment]
    classes: np.ndarray = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        for axis, name in enumerate(("images", "classes")):
            if getattr(self, name) is None:
                object.__setattr__(self, name, np.arange(self.values.shape[axis]))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def block(self, first: int, last: int) -> np.ndarray:
        """float [last - first, C], a copy: the scores of images ``first:last``."""
        images = self.images[first:last]
        part = self.values[images].take(self.classes, axis=1)
        part[images < 0] = 0
        part[:, self.classes < 0] = -np.inf
        return part

    def columns(self, classes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        """Class by class: (scores, their images ascending, how many more images score 0)."""
        # Rows lie one after the other: a column alone would touch every cache line of the matrix.
        known = self.classes[classes]
        everything = np.arange(len(self))
        width = max(1, _BLOCK_CELLS // max(1, len(self.values)))
        for start in range(0, len(known), width):
            wanted = known[start : start + width]
            part = np.ascontiguousarray(self.values[:, wanted].T)
            for column, position in zip(part, wanted.tolist(), strict=True):
                values = column[self.images]
                values[self.images < 0] = 0
                yield values if position >= 0 else np.full(len(self), -np.inf), everything, 0


@dataclass(frozen=True, eq=False)
class SparseScores:
    """Scores of the listed classes; every other class scores 0.

    Attributes:
        values: csr_array [N, C], finite and not negative, no class twice in an image.
    """

    values: csr_array

    def __len__(self) -> int:
        return label_shape(self.values)[0]

    @property
    def num_classes(self) -> int:
        return label_shape(self.values)[1]

    def take(self, images: np.ndarray) -> SparseScores:
        """The scores of some records, in the order given; -1 for an image without one."""
        v, n = self.values, len(self)
        ends = np.append(v.indptr, v.indptr[-1])  # one more row, which lists nothing
        wide = csr_array((v.data, v.indices, ends), shape=(n + 1, self.num_classes))
        return SparseScores(wide[np.where(images < 0, n, images)])

    def renamed(self, position: np.ndarray, num_classes: int) -> SparseScores:
        """With class ``k`` called ``position[k]``, or left out where that is -1."""
        ids = position[self.values.indices]
        keep = ids >= 0
        rows = label_rows(self.values)[keep]
        shape = (len(self), num_classes)
        return SparseScores(label_matrix(rows, ids[keep], shape, self.values.data[keep]))

    def block(self, first: int, last: int) -> np.ndarray:
        """As of `DenseScores`."""
        return self.values[first:last].toarray()

    def columns(self, classes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        """As of `DenseScores`."""
        by_class = self.values.tocsc()
        for label in classes.tolist():
            mine = slice(int(by_class.indptr[label]), int(by_class.indptr[label + 1]))
            yield by_class.data[mine], by_class.indices[mine], len(self) - (mine.stop - mine.start)


Scores = DenseScores | SparseScores
