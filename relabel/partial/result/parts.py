"""Completed labels, a part of the images at a time.

A completed label is the known one where there is one, else the model's: its confidence is the
calibrated probability that the category is present, and its source says what gave it. Known labels
have confidence 1 or 0, whatever the model thinks of them.

Shape legend: ``n`` images of a part, ``C`` categories.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from relabel.datasets.partial.labels import PartialLabels, row_blocks

SOURCES = ("known", "ist", "cst", "classifier")
"""What a label is from, by its code; see `relabel.partial.predict`."""
KNOWN = 0


class Predicted(Protocol):
    """What a model says: float32 [N, C] calibrated probabilities and uint8 [N, C] sources.

    Arrays may be memory-mapped: they are read a part of the rows at a time.
    """

    @property
    def scores(self) -> np.ndarray: ...

    @property
    def source(self) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class CompletedPart:
    """The completed labels of some images that follow each other.

    Attributes:
        start: row of the first image.
        file_names: n names.
        known: int8 [n, C] in {-1, 0, 1}, what was known; 0 is unknown.
        scores: float32 [n, C], confidence that the category is present; 1 and 0 where known.
        source: uint8 [n, C], positions in `SOURCES`.
        present: bool [n, C], the completed hard labels.
    """

    start: int
    file_names: list[str]
    known: np.ndarray
    scores: np.ndarray
    source: np.ndarray
    present: np.ndarray

    def __len__(self) -> int:
        return len(self.file_names)

    @property
    def unknown(self) -> np.ndarray:
        """bool [n, C], what the model had to say."""
        return self.known == 0


def completed_parts(
    labels: PartialLabels, predicted: Predicted, threshold: float
) -> Iterator[CompletedPart]:
    """The completed labels of all images, in order.

    Args:
        labels: what is known.
        predicted: what the model says of the same images and categories.
        threshold: unknown labels count as present from this confidence on.

    Raises:
        ValueError: the model speaks of other images or categories.
    """
    shape = (len(labels), labels.num_classes)
    if predicted.scores.shape != shape or predicted.source.shape != shape:
        raise ValueError(
            f"labels are {shape}, scores {predicted.scores.shape}, sources {predicted.source.shape}"
        )
    for rows in row_blocks(*shape):
        known = labels.dense(rows)
        scores = np.array(predicted.scores[rows], np.float32)
        source = np.array(predicted.source[rows], np.uint8)
        given = known != 0
        scores[given] = known[given] > 0
        source[given] = KNOWN
        present = np.where(given, known > 0, scores >= np.float32(threshold))
        yield CompletedPart(rows.start, labels.file_names[rows], known, scores, source, present)
