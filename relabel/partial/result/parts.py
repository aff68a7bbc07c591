"""Completed labels, a part of the images at a time.

A completed label is the known one where there is one, else the model's: its confidence is the
calibrated probability that the category is present, and its source says what gave it. Known labels
have confidence 1 or 0, whatever the model thinks of them.

Shape legend: ``n`` images of a part, ``C`` categories.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from relabel.datasets.partial.labels import PRESENT, UNKNOWN, PartialLabels, row_blocks


class Predicted(Protocol):
    """What a model says of n images: a `relabel.partial.predict.Prediction`."""

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
        known: int8 [n, C], what was known: `PRESENT`, `ABSENT` or `UNKNOWN`.
        scores: float32 [n, C], confidence that the category is present; 1 and 0 where known.
        source: uint8 [n, C], positions in `relabel.partial.predict.SOURCES`.
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
        return self.known == UNKNOWN


def completed_parts(
    labels: PartialLabels, batches: Iterable[tuple[np.ndarray, Predicted]], threshold: float
) -> Iterator[CompletedPart]:
    """The completed labels of all images, in order, as many at a time as take a few megabytes.

    Args:
        labels: what is known.
        batches: rows and what the model says of them, as `relabel.partial.predict.predict_batches`
            gives them: all rows in order.
        threshold: unknown labels count as present from this confidence on.

    Raises:
        ValueError: the model speaks of other images or categories.
    """
    waiting: list[Predicted] = []
    found = iter(batches)
    have = 0
    for block in row_blocks(len(labels), labels.num_classes):
        wanted = block.stop - block.start
        while have < wanted:
            rows, prediction = next(found, (None, None))
            expected = block.start + have
            if rows is None or prediction is None or rows[0] != expected:
                raise ValueError(f"the predictions lack image {expected}")
            waiting.append(prediction)
            have += len(rows)
        scores = np.concatenate([p.scores for p in waiting])
        source = np.concatenate([p.source for p in waiting])
        rest = _Rest(scores[wanted:].copy(), source[wanted:].copy())
        yield _part(labels, block, scores[:wanted], source[:wanted], threshold)
        have -= wanted
        waiting = [rest] if have else []
    if have or next(found, None) is not None:
        raise ValueError(f"there are predictions for more than {len(labels)} images")


@dataclass(frozen=True, eq=False)
class _Rest:
    scores: np.ndarray
    source: np.ndarray


def _part(
    labels: PartialLabels, rows: slice, scores: np.ndarray, source: np.ndarray, threshold: float
) -> CompletedPart:
    known = labels.dense(rows)
    if scores.shape != known.shape or source.shape != known.shape:
        raise ValueError(f"labels are {known.shape}, scores {scores.shape}, sources {source.shape}")
    present = np.where(known != UNKNOWN, known == PRESENT, scores >= np.float32(threshold))
    names: Sequence[str] = labels.file_names[rows]
    return CompletedPart(rows.start, list(names), known, scores, source, present)
