"""Logits into probabilities, on known labels that a training did without.

Shape legend: ``N`` held-back entries, ``C`` classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit, log_expit

from relabel.datasets.partial.labels import PRESENT, PartialLabels, kept_entries

_SHRINK, _SHRINK_ALL = 5.0, 2.0
"""Precision of the normal priors: of a class's line about the shared one, of that about (1, 0)."""
_FEWEST = 3
"""Held-back labels of each kind below which scores stay as they are."""
_MOST_IMAGES = 20_000
_ROUNDS, _TINY, _FLATTEST = 50, 1e-9, 0.05


@dataclass(frozen=True, eq=False)
class Calibration:
    """Platt scaling of each class: ``p = sigmoid(slope_c * logit + offset_c)``.

    Attributes:
        slope, offset: float64 [C]; slopes are above 0, so that the order within a class stays.
    """

    slope: np.ndarray
    offset: np.ndarray

    @classmethod
    def none(cls, classes: int) -> Calibration:
        """Leaves probabilities as the network gives them."""
        return cls(np.ones(classes), np.zeros(classes))

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """float32 [n, C] of logits [n, C]."""
        return expit(logits * self.slope + self.offset).astype(np.float32)

    def to_json(self) -> dict[str, list[float]]:
        return {"slope": self.slope.tolist(), "offset": self.offset.tolist()}

    @classmethod
    def from_json(cls, row: dict[str, list[float]]) -> Calibration:
        return cls(np.array(row["slope"], float), np.array(row["offset"], float))


def fit_calibration(
    logits: np.ndarray,
    present: np.ndarray,
    classes: np.ndarray,
    count: int,
    weight: float = 1.0,
) -> Calibration:
    """Platt scaling (Platt, 1999) that classes share as far as they are rare.

    Entries count as present with a probability of ``(n + 1) / (n + 2)`` or of ``1 / (n + 2)``, n
    their number, as there: where logits tell all apart, slopes stay finite. First one line is
    fitted to all entries, with scores as they are as the mean of a normal prior; then each class's
    own to its entries, with the shared one as the mean: a class with few entries keeps that.

    Args:
        logits: float [N].
        present: bool [N].
        classes: int [N], each entry's class.
        count: C.
        weight: of entries that are present, see `hold_back`.

    Returns:
        What `Calibration.none` gives where fewer than three entries are present, or absent.
    """
    yes, no = int(present.sum()), int((~present).sum())
    if min(yes, no) < _FEWEST:
        return Calibration.none(count)
    target = np.where(present, (yes + 1) / (yes + 2), 1 / (no + 2))
    weights = np.where(present, weight, 1.0)
    classes = np.asarray(classes, np.int64)
    one = np.zeros(len(logits), np.int64)
    shared = _fit(logits, target, weights, one, 1, np.array([[1.0, 0.0]]), _SHRINK_ALL)
    shared[:, 0] = np.maximum(shared[:, 0], _FLATTEST)
    own = np.repeat(shared, count, axis=0)
    # A class without a present entry would learn that it is never there.
    some = np.bincount(classes, present, minlength=count) > 0
    mine = some[classes]
    fitted = _fit(logits[mine], target[mine], weights[mine], classes[mine], count, own, _SHRINK)
    own[some] = fitted[some]
    return Calibration(np.maximum(own[:, 0], _FLATTEST), own[:, 1])


def _fit(
    logits: np.ndarray,
    target: np.ndarray,
    weights: np.ndarray,
    groups: np.ndarray,
    count: int,
    prior: np.ndarray,
    strength: float,
) -> np.ndarray:
    """float64 [count, 2], slope and offset of each group, by Newton steps that never climb."""
    x = np.asarray(logits, np.float64)
    values = prior.copy()

    def cost(v: np.ndarray) -> np.ndarray:
        z = v[groups, 0] * x + v[groups, 1]
        losses = -target * log_expit(z) - (1 - target) * log_expit(-z)
        each = np.bincount(groups, weights * losses, minlength=count)
        return each + strength / 2 * ((v - prior) ** 2).sum(1)

    now = cost(values)
    for _ in range(_ROUNDS):
        p = expit(values[groups, 0] * x + values[groups, 1])
        error, weight = weights * (p - target), weights * p * (1 - p)
        gradient = strength * (values - prior)
        gradient[:, 0] += np.bincount(groups, error * x, minlength=count)
        gradient[:, 1] += np.bincount(groups, error, minlength=count)
        hessian = np.zeros((count, 2, 2))
        hessian[:, 0, 0] = np.bincount(groups, weight * x * x, minlength=count)
        hessian[:, 1, 1] = np.bincount(groups, weight, minlength=count)
        off = np.bincount(groups, weight * x, minlength=count)
        hessian[:, 0, 1] = hessian[:, 1, 0] = off
        hessian += (strength + _TINY) * np.eye(2)
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        size = np.ones((count, 1))
        for _ in range(30):
            tried = cost(values - size * step)
            worse = tried > now + _TINY
            if not worse.any():
                break
            size[worse] /= 2
        values = values - np.where(worse[:, None], 0.0, size) * step
        now = cost(values)
        if np.abs(size * step).max() < 1e-8:
            break
    return values


@dataclass(frozen=True, eq=False)
class HeldBack:
    """Known labels without some of them.

    Attributes:
        left: the labels that stay.
        held: bool [L], which of the stored entries of all labels do not.
        weight: how much a held-back present entry stands for, 1 or more: one of each class stays.
    """

    left: PartialLabels
    held: np.ndarray
    weight: float


def hold_back(labels: PartialLabels, share: float, seed: int) -> HeldBack:
    """Leave out each known entry with probability ``share``, but one present one of each class.

    Only entries of the first `_MOST_IMAGES` of the images in random order are left out: more are
    not needed to calibrate by.
    """
    known = labels.known
    rng = np.random.default_rng([seed, 7])
    chosen = np.zeros(len(labels), bool)
    chosen[rng.permutation(len(labels))[:_MOST_IMAGES]] = True
    totals, _ = labels.counts()
    held = np.zeros(len(known.data), bool)
    still = totals.copy()
    for row in np.flatnonzero(chosen).tolist():
        part = slice(int(known.indptr[row]), int(known.indptr[row + 1]))
        ids, present = known.indices[part], known.data[part] == PRESENT
        take = (rng.random(len(ids)) < share) & (~present | (still[ids] > 1))
        still[ids[take & present]] -= 1
        held[part] = take
    free = int(totals[totals > 1].sum())
    weight = float(totals.sum()) / free if free else 1.0
    return HeldBack(replace(labels, known=kept_entries(known, ~held)), held, weight)
