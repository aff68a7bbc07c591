"""How usual what is seen of a label is among all labels of the dataset: nearly all are right.

Pure functions; the order of what they are given does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

# Bins of sizes have at least this many annotations.
_ENOUGH = 50
_MOST_BINS = 5
_DENSITY_BINS = 18


@dataclass(frozen=True, eq=False)
class PrecisionCurve:
    """Share of predictions that are right, by score: never falls, linear between its points.

    Attributes:
        score, share: float64 [b], ascending.
    """

    score: np.ndarray
    share: np.ndarray

    def __call__(self, score: np.ndarray) -> np.ndarray:
        return np.interp(score, self.score, self.share)


def fit_precision(score: np.ndarray, right: np.ndarray) -> PrecisionCurve:
    """Isotonic regression of whether predictions are right on their scores.

    Each level counts half a right and half a wrong prediction more than were seen, so that none
    is certain.

    Args:
        score: [n] in [0, 1].
        right: bool [n].
    """
    if not len(score):
        return PrecisionCurve(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    values, where = np.unique(score, return_inverse=True)
    count = np.bincount(where).astype(np.float64)
    hits = np.bincount(where, right.astype(np.float64))
    fitted = isotonic_regression(hits / count, weights=count)
    ends = np.asarray(fitted.blocks)
    levels = np.add.reduceat(hits, ends[:-1]), np.add.reduceat(count, ends[:-1])
    share = (levels[0] + 0.5) / (levels[1] + 1)
    centre = np.add.reduceat(values * count, ends[:-1]) / levels[1]
    # The prior of single predictions can turn neighbours round.
    return PrecisionCurve(centre, np.maximum.accumulate(share))


def share_at_most(value: np.ndarray, size: np.ndarray | None = None) -> np.ndarray:
    """Of each annotation, the share of annotations whose value is at most as large, [m] in (0, 1].

    Args:
        value: [m].
        size: [m], compare within bins of like size, where there are enough annotations.
    """
    m = len(value)
    if not m:
        return np.zeros(0)
    bins = np.zeros(m, np.int64)
    count = min(_MOST_BINS, m // _ENOUGH)
    if size is not None and count > 1:
        edges = np.quantile(size, np.linspace(0, 1, count + 1)[1:-1])
        bins = np.searchsorted(edges, size, side="right")
    share = np.empty(m)
    for b in np.unique(bins).tolist():
        own = bins == b
        ordered = np.sort(value[own])
        share[own] = np.searchsorted(ordered, value[own], side="right") / len(ordered)
    return share


def density(value: np.ndarray, weight: np.ndarray, low: float, high: float) -> np.ndarray:
    """Probability density of weighted values [m] in an interval, at each of them, [m], above 0.

    Each value is looked at beside all others, to which one is added that is anywhere in the
    interval: a histogram, linear between the centres of its bins.
    """
    edges = np.linspace(low, high, _DENSITY_BINS + 1)
    width = edges[1] - edges[0]
    value = np.clip(value, low, high)
    count = np.histogram(value, edges, weights=weight)[0] + 1 / _DENSITY_BINS
    centres = (edges[:-1] + edges[1:]) / 2
    own = np.minimum(((value - low) / width).astype(np.int64), _DENSITY_BINS - 1)
    inside = np.clip(value, centres[0], centres[-1])
    mine = weight * (1 - np.abs(inside - centres[own]) / width)
    return (np.interp(value, centres, count) - mine) / ((count.sum() - weight) * width)
