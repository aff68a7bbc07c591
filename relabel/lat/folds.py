"""Folds for cross-fitting: predictions on images whose labels the predictor never saw."""

from __future__ import annotations

import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.errors import DataError


def folds(dataset: DetectionDataset, k: int, seed: int = 0) -> list[np.ndarray]:
    """Image rows held out by each of ``k`` folds, together every image once.

    Folds are contiguous in file-name order, since neighbouring frames of one video show the same
    objects and would leak their labels. ``seed`` is kept for folds that draw; blocks do not.

    Raises:
        DataError: fewer images than folds.
    """
    if len(dataset) < k:
        raise DataError(
            f"{len(dataset)} images cannot make {k} folds",
            file=dataset.root,
            remedy="Set --lat-crossfit-folds lower, or --lat-crossfit none.",
        )
    names = np.asarray(dataset.images.file_name, dtype=object)
    order = np.array(sorted(range(len(names)), key=lambda i: names[i]), dtype=np.int64)
    return [np.sort(part) for part in np.array_split(order, k)]
