"""Which of a dataset's pseudo-labels are kept, by a threshold per class.

Shape legend: ``n`` boxes, ``C`` classes of the specialist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from relabel.crosslabel.pseudo import PseudoLabels
from relabel.datasets.labelspace import LabelSpace
from relabel.detectors.base import ranked
from relabel.detectors.semi.thresholds import ClassStatistics
from relabel.settings import Ranking


@dataclass(frozen=True, eq=False)
class Selection:
    """What was kept of each class.

    Attributes:
        candidates: int64 [C], pseudo-labels of each class in the shards.
        kept: int64 [C], of those, how many are above the class's threshold.
        thresholds: float64 [C]; None where nothing but min_score was asked for.
    """

    candidates: np.ndarray
    kept: np.ndarray
    thresholds: np.ndarray | None = None

    @classmethod
    def of_all(cls, labels: PseudoLabels) -> Selection:
        """Nothing was left out."""
        counts = _counts(labels)
        return cls(counts, counts)

    def by_class(self, space: LabelSpace, min_score: float) -> dict[str, dict[str, Any]]:
        """JSON-ready: candidates, kept and threshold of each class of ``space``.

        Args:
            min_score: the threshold where there is none per class.
        """
        limits = [min_score] * len(self.kept) if self.thresholds is None else self.thresholds
        return {
            name: {"candidates": int(n), "kept": int(k), "threshold": round(float(t), 6)}
            for name, n, k, t in zip(
                space.class_names, self.candidates, self.kept, limits, strict=True
            )
        }


def select_class_wise(
    labels: PseudoLabels, tau: float, on: Ranking = "score"
) -> tuple[PseudoLabels, Selection]:
    """The labels whose confidence is at least their class's threshold.

    Thresholds are those of Li et al. (arXiv 2106.00168, equation 6) for all of ``labels`` as
    candidates, see `relabel.detectors.semi.thresholds`: class statistics sum p * v, whatever ``on``
    says of the confidence that is compared.

    Args:
        tau: threshold of a class whose statistics are the mean.
        on: the confidence: p, v, p * v or sqrt(p * v).
    """
    statistics = ClassStatistics(labels.space.num_classes)
    statistics.add(labels.category, ranked(labels.score, labels.quality, "product"))
    thresholds = statistics.thresholds(tau)
    sure = ranked(labels.score, labels.quality, on)
    kept = labels.take(sure >= thresholds[labels.category])
    return kept, Selection(_counts(labels), _counts(kept), thresholds)


def _counts(labels: PseudoLabels) -> np.ndarray:
    return np.bincount(labels.category, minlength=labels.space.num_classes)
