"""The LRP error against numbers worked out by hand, and its optimum against every cut."""

from __future__ import annotations

import numpy as np
import pytest

from relabel.evaluation.lrp import lrp_error, optimal_lrp

NAMES = ("car", "bus", "van")
TRUTH = np.array([3, 1, 0])


def test_components_by_hand() -> None:
    # Cars: two matches of IoU 0.9 and 0.6, one wrong box, one car missed; the bus is missed; boxes
    # of a class without truth are in no mean.
    error = lrp_error(NAMES, TRUTH, np.array([0, 0, 0, 2]), np.array([0.9, 0.6, 0, 0]))
    car = ((0.1 + 0.4) / 0.5 + 1 + 1) / 4
    assert error.per_class == {"car": pytest.approx(car), "bus": 1.0, "van": None}
    assert error.total == pytest.approx((car + 1) / 2)
    assert error.localisation == pytest.approx(0.25)  # of cars alone: no bus was found
    assert error.false_positive == pytest.approx(1 / 3)  # of cars alone: no box says bus
    assert error.false_negative == pytest.approx((1 / 3 + 1) / 2)
    assert error.optimal is None


def test_perfect_and_empty_sets() -> None:
    perfect = lrp_error(NAMES, TRUTH, np.array([0, 0, 0, 1]), np.ones(4))
    assert (perfect.total, perfect.localisation, perfect.false_positive) == (0, 0, 0)
    empty = lrp_error(NAMES, TRUTH, np.zeros(0, int), np.zeros(0))
    assert (empty.total, empty.localisation, empty.false_positive) == (1, None, None)
    assert lrp_error(NAMES, np.zeros(3, int), np.zeros(1, int), np.zeros(1)).total is None
    assert optimal_lrp(TRUTH, np.zeros(0, int), np.zeros(0), np.zeros(0)) == 1.0
    assert optimal_lrp(np.zeros(3, int), np.zeros(1, int), np.zeros(1), np.ones(1)) is None


def test_optimum_is_the_best_of_all_cuts() -> None:
    rng = np.random.default_rng(3)
    category = rng.integers(0, 2, 40)
    score = rng.choice([0.1, 0.3, 0.5, 0.7, 0.9], 40)  # many ties, which fall together
    iou = np.where(rng.random(40) < 0.3 + 0.6 * score, rng.uniform(0.5, 1, 40), 0)
    truth = np.array([25, 22, 0])
    cuts = np.unique(score)
    best = []
    for name in NAMES[:2]:
        errors = [1.0]
        for cut in cuts:
            kept = score >= cut
            found = lrp_error(NAMES, truth, category[kept], iou[kept]).per_class[name]
            assert found is not None
            errors.append(found)
        best.append(min(errors))
    assert optimal_lrp(truth, category, iou, score) == pytest.approx(np.mean(best))
    whole = lrp_error(NAMES, truth, category, iou).total
    assert whole is not None and np.mean(best) < whole
