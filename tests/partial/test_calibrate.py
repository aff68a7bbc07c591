"""Logits into probabilities on known labels that were held back."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from relabel.partial.calibrate import Calibration, fit_calibration, hold_back
from tests.builders.partial import labels_of


def entries(
    classes: list[tuple[float, float, int]], seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, presence and class of entries made with a slope and an offset per class."""
    rng = np.random.default_rng(seed)
    logits, present, ids = [], [], []
    for c, (slope, offset, count) in enumerate(classes):
        z = rng.normal(0, 3, count)
        logits.append(z)
        present.append(rng.random(count) < expit(slope * z + offset))
        ids.append(np.full(count, c))
    return np.concatenate(logits), np.concatenate(present), np.concatenate(ids)


def test_a_class_with_many_labels_gets_its_own_line() -> None:
    z, present, ids = entries([(2.0, -1.0, 4000), (0.5, 1.0, 4000)])
    found = fit_calibration(z, present, ids, 2)
    np.testing.assert_allclose(found.slope, [2.0, 0.5], atol=0.2)
    np.testing.assert_allclose(found.offset, [-1.0, 1.0], atol=0.2)


def test_a_rare_class_keeps_what_all_share() -> None:
    z, present, ids = entries([(0.5, -1.0, 3000)])
    z, ids = np.append(z, [0.1]), np.append(ids, [1])
    found = fit_calibration(z, np.append(present, [True]), ids, 3)
    assert found.slope[1] == pytest.approx(0.5, abs=0.1)
    assert found.slope[2] == pytest.approx(found.slope[0], abs=0.1)
    assert -1.1 < found.offset[1] < -0.7


def test_the_fit_is_the_minimum_of_its_cost() -> None:
    z, present, ids = entries([(1.0, 0.5, 40), (2.0, -0.5, 15)])
    found = fit_calibration(z, present, ids, 2)

    yes, no = present.sum(), (~present).sum()
    target = np.where(present, (yes + 1) / (yes + 2), 1 / (no + 2))

    def loss(v: np.ndarray, chosen: np.ndarray) -> float:
        line = v[0] * z[chosen] + v[1]
        t = target[chosen]
        return float(-(t * log_expit(line) + (1 - t) * log_expit(-line)).sum())

    identity = np.array([1.0, 0.0])
    shared = minimize(lambda v: loss(v, ids >= 0) + float(((v - identity) ** 2).sum()), identity).x
    for c in range(2):
        own = minimize(
            lambda v, c=c: loss(v, ids == c) + 2.5 * float(((v - shared) ** 2).sum()), shared
        ).x
        np.testing.assert_allclose([found.slope[c], found.offset[c]], own, atol=1e-3)


@pytest.mark.parametrize("present", [[True, True], [False] * 6, [True, False, False, False]])
def test_too_few_labels_leave_scores_as_they_are(present: list[bool]) -> None:
    z = np.linspace(-1, 1, len(present))
    found = fit_calibration(z, np.array(present), np.zeros(len(z), int), 2)
    np.testing.assert_array_equal(found.slope, [1, 1])
    np.testing.assert_array_equal(found.offset, [0, 0])


def test_separated_and_reversed_labels_stay_finite_and_in_order() -> None:
    z = np.linspace(-3, 3, 20)
    for present in (z > 0, z < 0):
        found = fit_calibration(z, present, np.zeros(20, int), 1)
        scores = found.probabilities(z[:, None])[:, 0]
        assert np.isfinite(scores).all() and (np.diff(scores) > 0).all() and scores.max() < 1


def test_calibrations_are_read_back() -> None:
    one = Calibration(np.array([1.5, 0.25]), np.array([0.0, -2.0]))
    two = Calibration.from_json(one.to_json())
    np.testing.assert_array_equal(two.slope, one.slope)
    np.testing.assert_array_equal(two.offset, one.offset)


def test_a_share_of_each_class_is_held_back_and_a_present_label_stays() -> None:
    rng = np.random.default_rng(1)
    known = np.where(rng.random((2000, 4)) < 0.3, 1, -1)
    known[:, 1] = -1
    known[7, 1] = 1  # one present label
    known[:, 2] = 0
    known[:3, 2] = [1, 1, -1]
    known[:, 3] = -1  # none
    labels = labels_of(known)
    part = hold_back(labels, 0.25, seed=3)
    left, all_ = part.left.dense(), labels.dense()
    assert ((left == all_) | (left == 0)).all()
    assert part.held.sum() == (left != all_).sum()
    for value in (1, -1):
        gone = ((all_[:, 0] == value) & (left[:, 0] == 0)).sum() / (all_[:, 0] == value).sum()
        assert gone == pytest.approx(0.25, abs=0.05)
    assert left[7, 1] == 1 and (left[:, 2] == 1).any()
    total = (all_ == 1).sum()
    assert part.weight == pytest.approx(total / (total - 1))  # but for class 1's single one
    np.testing.assert_array_equal(hold_back(labels, 0.25, seed=3).left.dense(), left)
    assert (hold_back(labels, 0.25, seed=4).left.dense() != left).any()


def test_a_class_without_a_held_back_present_label_keeps_what_all_share() -> None:
    z, present, ids = entries([(1.0, 0.0, 200)])
    absent = np.full(50, -0.5)
    found = fit_calibration(
        np.append(z, absent), np.append(present, np.zeros(50, bool)), np.append(ids, [1] * 50), 3
    )
    assert (found.slope[1], found.offset[1]) == (found.slope[2], found.offset[2])
