"""Source annotations that a relabelling left without a label, and why.

Shape legend: ``n`` annotations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.table import Table

NO_LABEL = "no label reached its threshold"


@dataclass(frozen=True, eq=False)
class Removed(Table):
    """Annotations of a source that no label of the result carries on.

    Attributes:
        row: int64 [n], box row in the source, rising; never an ignore region.
        reason: n strings, in the words that result and report show.
        probability: float32 [n], that it is an object in the target's convention; NaN unknown.
        category: int64 [n], position of the best target class, -1 for none.
        score: float32 [n], of that class; NaN for none.
    """

    row: np.ndarray
    reason: Sequence[str]
    probability: np.ndarray
    category: np.ndarray
    score: np.ndarray


def without_label(source: DetectionDataset, labelled: DetectionDataset) -> Removed:
    """The annotations whose id no label names in its provenance, for `NO_LABEL`.

    Args:
        source: as annotated.
        labelled: the same images relabelled; without provenance, every annotation left no label.
    """
    origin, real = labelled.boxes.provenance, ~labelled.boxes.ignore
    named = np.zeros(0, np.int64) if origin is None else origin.source_id[real]
    rows = np.flatnonzero(~source.boxes.ignore & ~np.isin(source.boxes.id, named))
    unknown = np.full(len(rows), np.nan, np.float32)
    return Removed(rows, [NO_LABEL] * len(rows), unknown, np.full(len(rows), -1, np.int64), unknown)
