"""mAP over resampled images, for bootstrap intervals of multi-label scores.

An image that a resample draws ``w`` times counts with weight ``w``: equal to measuring a set that
holds the image ``w`` times, since equal scores are one step of the ranking.

Shape legend: ``I`` images, ``C`` classes, ``B`` resamples, ``n`` images whose label is counted.
"""

from __future__ import annotations

import numpy as np

# Cells of a resampled ranking at a time, so that many images need no gigabytes.
_CELLS = 1 << 23


def weighted_map(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over classes of the average precision of their ranking of images, float64 [B].

    Average precision is that of `relabel.evaluation.multilabel.metrics`. Classes without a
    positive image in a resample are left out of its mean; NaN where none has any.

    Args:
        truth: int8 [I, C]: 1 present, -1 absent, 0 left out.
        scores: float [I, C].
        weights: [B, I], how often each image counts; ones give the plain mAP.
    """
    weights = np.asarray(weights, np.float32)
    total, counted = np.zeros((2, len(weights)))
    for c in range(truth.shape[1]):
        rows = np.flatnonzero(truth[:, c])
        if not (truth[rows, c] > 0).any():
            continue
        rows = rows[np.argsort(-scores[rows, c], kind="stable")]
        positive, values = truth[rows, c] > 0, scores[rows, c]
        step = max(1, _CELLS // len(rows))
        for start in range(0, len(weights), step):
            part = slice(start, start + step)
            ap = _class_ap(positive, values, weights[part][:, rows])
            known = ~np.isnan(ap)
            total[part] += np.where(known, ap, 0.0)
            counted[part] += known
    return np.where(counted > 0, total / np.maximum(counted, 1), np.nan)


def _class_ap(positive: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AP of one class, float64 [B]; NaN without a positive image.

    Args:
        positive: bool [n], best score first.
        values: float [n], the scores.
        weights: float32 [B, n].
    """
    hits = np.flatnonzero(positive)
    # Equal scores share the step of their last one.
    ends = np.searchsorted(-values, -values[hits], side="right") - 1
    seen = np.cumsum(weights, axis=1, dtype=np.float64)[:, ends]
    drawn = weights[:, hits].astype(np.float64)
    last_hit = np.searchsorted(hits, ends, side="right") - 1
    right = np.cumsum(drawn, axis=1)[:, last_hit]
    total = drawn.sum(axis=1)
    # Where nothing up to a hit was drawn, neither was the hit.
    precision = right / np.maximum(seen, 1e-12)
    return np.where(total > 0, (precision * drawn).sum(axis=1) / np.maximum(total, 1e-12), np.nan)
