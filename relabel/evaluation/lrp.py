"""The LRP error of a labelled set: how many boxes are wrong or missing, and how loose the rest are.

After "One Metric to Measure Them All: Localisation Recall Precision (LRP) for Evaluating Visual
Detection Tasks" (Oksuz et al., TPAMI 2021). Of one class, with true positives matched at IoU >= tau
(0.5), ``Z = TP + FP + FN`` and ``loc`` the sum over true positives of 1 - IoU:

    LRP = (loc / (1 - tau) + FP + FN) / Z

from 0 (every object has its exact box and nothing else is there) to 1 (no match). Its components
are the mean 1 - IoU of true positives, the share of boxes that are wrong (1 - precision) and the
share of objects that are missed (1 - recall). Unlike AP it needs no scores and no ranking, hence it
measures annotations as they stand. With scores, the optimal LRP is the least error that keeping
only the boxes from some score on can have.

Shape legend: ``n`` boxes, ``K`` classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

TAU = 0.5


@dataclass(frozen=True)
class LrpError:
    """Means over the classes that the truth has; None where no class has a value.

    Attributes:
        total: the LRP error.
        localisation: mean 1 - IoU of true positives, over classes that have any.
        false_positive: share of wrong boxes, over classes that have boxes.
        false_negative: share of missed objects.
        optimal: the total at each class's best score; None where boxes have no scores.
        per_class: the total by class, None without truth.
    """

    total: float | None
    localisation: float | None
    false_positive: float | None
    false_negative: float | None
    optimal: float | None
    per_class: Mapping[str, float | None]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the classes."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "per_class"}


def lrp_error(
    names: Sequence[str],
    truth: np.ndarray,
    category: np.ndarray,
    iou: np.ndarray,
    optimal: float | None = None,
) -> LrpError:
    """The error of a set as it stands.

    Args:
        names: K class names.
        truth: int64 [K], objects per class.
        category: int [n], class of each box that counts: matched, or wrong.
        iou: float [n], with the object of its class that it is matched to, 0 where it is wrong.
        optimal: see `optimal_lrp`.
    """
    classes, hit = len(names), iou > 0
    found = np.bincount(category[hit], minlength=classes)
    false = np.bincount(category[~hit], minlength=classes)
    loose = np.bincount(category[hit], weights=1 - iou[hit], minlength=classes)
    missed, measured = truth - found, truth > 0
    total = _lrp(loose, false, missed, found)
    return LrpError(
        total=_mean(total[measured]),
        localisation=_mean((loose / np.maximum(found, 1))[measured & (found > 0)]),
        false_positive=_mean(
            (false / np.maximum(found + false, 1))[measured & (found + false > 0)]
        ),
        false_negative=_mean((missed / np.maximum(truth, 1))[measured]),
        optimal=optimal,
        per_class={n: float(total[c]) if measured[c] else None for c, n in enumerate(names)},
    )


def optimal_lrp(
    truth: np.ndarray, category: np.ndarray, iou: np.ndarray, score: np.ndarray
) -> float | None:
    """Mean over classes of the least LRP error among all cuts by score; None without truth.

    Matches are greedy by score, so that those of any cut are those of all boxes that reach it.

    Args:
        score: float [n].
        truth, category, iou: see `lrp_error`.
    """
    order = np.argsort(-score, kind="stable")
    category, iou, score = category[order], iou[order], score[order]
    best = []
    for c in np.flatnonzero(truth).tolist():
        mine = category == c
        of, at = iou[mine], score[mine]
        found, false = np.cumsum(of > 0), np.cumsum(of == 0)
        loose = np.cumsum(np.where(of > 0, 1 - of, 0))
        # Equal scores fall together; keeping nothing has an error of 1.
        last = np.append(at[1:] != at[:-1], True) if len(at) else np.zeros(0, bool)
        errors = _lrp(loose, false, truth[c] - found, found)[last]
        best.append(min(1.0, errors.min(initial=1.0)))
    return _mean(np.array(best))


def _lrp(loose: np.ndarray, false: np.ndarray, missed: np.ndarray, found: np.ndarray) -> np.ndarray:
    every = np.maximum(found + false + missed, 1)
    return (loose / (1 - TAU) + false + missed) / every


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
