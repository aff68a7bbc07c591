"""Folds for cross-fitting: predictions on images whose labels the predictor never saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.errors import DataError

# Stretches shorter than this are little else than the gaps around them.
_SHORTEST = 8


@dataclass(frozen=True, eq=False)
class Fold:
    """Image rows of a dataset, ascending.

    Attributes:
        held_out: what the fold's models are not to see and predict on.
        rest: what they learn from; the images in the gaps are in neither.
    """

    held_out: np.ndarray
    rest: np.ndarray


def folds(dataset: DetectionDataset, k: int, *, stretches: int = 3, gap: int = 5) -> list[Fold]:
    """``k`` folds that together hold out every image once.

    The images, in file-name order, are cut into ``k * stretches`` stretches, and fold ``i`` holds
    out the stretches ``i, i + k, ...``. Stretches, since neighbouring frames of one video show the
    same objects and would leak their labels; several of them, since a fold that is one long
    stretch may hold out all there is of a class, a road or a weather, and what a specialist
    predicts there is not what it predicts on images like its own.

    Args:
        k: number of folds.
        stretches: of each fold; fewer where they would have less than eight images.
        gap: images before and behind a held-out stretch that are not learned from either; at most
            a quarter of a stretch.

    Raises:
        DataError: fewer images than folds.
    """
    n = len(dataset)
    if n < k:
        raise DataError(
            f"{n} images cannot make {k} folds",
            file=dataset.root,
            remedy="Use --set lat.folds=2, or lat.folds=1 for none.",
        )
    names = np.asarray(dataset.images.file_name, dtype=object)
    order = np.array(sorted(range(n), key=lambda i: names[i]), dtype=np.int64)
    parts = k * min(max(1, stretches), max(1, n // (k * _SHORTEST)))
    # Sizes as np.array_split makes them: the first ones are one longer where n does not divide.
    ends = np.cumsum([0] + [len(part) for part in np.array_split(order, parts)])
    margin = min(gap, n // parts // 4)
    found = []
    for fold in range(k):
        held, near = np.zeros(n, bool), np.zeros(n, bool)
        for part in range(fold, parts, k):
            held[ends[part] : ends[part + 1]] = True
            near[max(0, ends[part] - margin) : ends[part + 1] + margin] = True
        found.append(Fold(np.sort(order[held]), np.sort(order[~near])))
    return found
