"""Label sets: objects of one of several classes.

A threshold on the best class drops what is a truck but maybe a small, maybe a medium one, and
where it keeps one, the best class may be wrong. Both are measured on images of the target whose
annotations were hidden: from which evidence over all classes on boxes are objects (the best F1),
and how far behind the best class the true one is.

Shape legend: ``k`` predictions of an image, ``o`` objects, ``Ct`` target classes, ``G``
annotations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from relabel.geometry import iou_matrix
from relabel.lat.select import FEW, SAME_IOU, Labels, calibrate, greedy_pairs

# A class with less of the best one's evidence is never an alternative.
LEAST_RATIO = 0.1
# Evidence ratios are stored as this many quantiles.
QUANTILES = 101


@dataclass(frozen=True, eq=False)
class LabelSets:
    """What held-back images show about objects whose class is in doubt.

    Attributes:
        object_score: evidence, summed over classes, from which boxes are taken for objects: that
            with the best F1 over all of an image's boxes, of whatever class.
        ratios: per target class, quantiles (smallest first) of the evidence for the true class
            over that for the best class; empty for classes with fewer than `FEW` found objects.
        shared: the same over all classes.
    """

    object_score: float
    ratios: list[np.ndarray]
    shared: np.ndarray

    def least(self, coverage: float) -> np.ndarray:
        """The ratio from which a class belongs to an object's set, float64 [Ct].

        As in class-conditional split conformal prediction (Vovk, 2012), ``coverage`` of the
        held-back objects of each class that were found have their class in their set; less where
        that would take ratios under `LEAST_RATIO`, which no set reaches down to. Classes with few
        objects share the ratios of all.
        """
        tables = [r if len(r) else self.shared for r in self.ratios]
        return np.array(
            [
                max(LEAST_RATIO, np.quantile(r, 1 - coverage, method="lower")) if len(r) else 1.0
                for r in tables
            ]
        )

    def to_dict(self, names: list[str]) -> dict[str, Any]:
        return {
            "object_score": round(self.object_score, 6),
            "shared": np.round(self.shared, 4).tolist(),
            "ratios": {n: np.round(r, 4).tolist() for n, r in zip(names, self.ratios, strict=True)},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], names: list[str]) -> LabelSets:
        ratios = [np.array(values["ratios"][n], dtype=np.float64) for n in names]
        return cls(float(values["object_score"]), ratios, np.array(values["shared"], np.float64))


def evidence(boxes: np.ndarray, found: Labels, classes: int) -> np.ndarray:
    """The best score per class of the predictions that overlap each box by half, [n, Ct]."""
    table = np.zeros((len(boxes), classes))
    if len(found):
        on = iou_matrix(boxes, found.boxes) >= SAME_IOU
        for c in np.unique(found.classes):
            of_class = found.classes == c
            table[:, c] = np.where(on[:, of_class], found.scores[of_class], 0.0).max(axis=1)
    return table


def leaders(found: Labels) -> np.ndarray:
    """Rows of the predictions that no surer one overlaps by half: one per object, int64 [o]."""
    iou = iou_matrix(found.boxes, found.boxes)
    picked: list[int] = []
    for i in range(len(found)):
        if not (iou[i, picked] >= SAME_IOU).any():
            picked.append(i)
    return np.array(picked, np.int64)


def label_sets(
    found: list[Labels], truth: list[tuple[np.ndarray, np.ndarray]], classes: int
) -> LabelSets:
    """Measure `LabelSets` on images with known annotations.

    The minimum evidence of an object is the one with the best F1 of boxes, of whatever class.

    Args:
        found: predictions per image, in order of falling score.
        truth: per image boxes xyxy [G, 4] and classes [G].
    """
    objects: list[Labels] = []
    ratios: list[list[float]] = [[] for _ in range(classes)]
    for labels, (boxes, wanted) in zip(found, truth, strict=True):
        first = labels.take(leaders(labels))
        table = evidence(first.boxes, labels, classes)
        order = np.argsort(-table.sum(axis=1), kind="stable")
        first, table = first.take(order), table[order]
        nothing = np.zeros(len(first), np.int64)
        objects.append(Labels(first.boxes, table.sum(axis=1), nothing, first.rows))
        pairs = greedy_pairs(iou_matrix(first.boxes, boxes), SAME_IOU)
        for row in np.flatnonzero(pairs >= 0):
            c = int(wanted[pairs[row]])
            ratios[c].append(float(table[row, c] / table[row].max()))
    of_objects = [(boxes, np.zeros(len(wanted), np.int64)) for boxes, wanted in truth]
    least = float(calibrate(objects, of_objects, 1)[0])
    every = [r for values in ratios for r in values]
    return LabelSets(
        least, [_quantiles(v) if len(v) >= FEW else np.zeros(0) for v in ratios], _quantiles(every)
    )


def alternatives(labels: Labels, table: np.ndarray, least: np.ndarray) -> np.ndarray:
    """The other classes that labels may be of, bool [k, Ct].

    Args:
        table: `evidence` of the image's other predictions, none of which is a label itself.
        least: see `LabelSets.least`.
    """
    table = table.copy()
    own = np.arange(len(labels)), labels.classes
    table[own] = np.maximum(table[own], labels.scores)
    other = (table > 0) & (table >= least * table.max(axis=1, initial=0, keepdims=True))
    other[own] = False
    return other


def _quantiles(values: list[float]) -> np.ndarray:
    if not values:
        return np.zeros(0)
    return np.quantile(values, np.linspace(0, 1, QUANTILES), method="lower")
