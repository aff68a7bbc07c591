"""Class-wise thresholds and weights against equation 6, worked out by hand and class by class."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relabel.detectors.semi.thresholds import RAREST, ClassStatistics
from relabel.errors import ConfigError


def counted(classes: int, *candidates: tuple[int, float], decay: float = 1.0) -> ClassStatistics:
    statistics = ClassStatistics(classes, decay)
    statistics.add(np.array([c for c, _ in candidates]), np.array([s for _, s in candidates]))
    return statistics


def test_numbers_worked_out_by_hand() -> None:
    # Three candidates of class 0, one of class 1: two on average; sums 2.4 and 0.2.
    statistics = counted(2, (0, 0.9), (0, 0.8), (0, 0.7), (1, 0.2))
    assert statistics.counts.tolist() == [3, 1]
    assert np.allclose(statistics.confidences, [2.4, 0.2])
    # 1.2 ** 0.05 * 0.7, and 0.1 ** 0.05 * 0.7
    assert np.allclose(statistics.thresholds(0.7), [0.706410, 0.623875], atol=1e-6)
    # 1.2 ** -0.6 and 0.1 ** -0.6
    assert np.allclose(statistics.weights(), [0.896375, 3.981072], atol=1e-6)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1)), max_size=40),
    st.floats(0.05, 1),
    st.floats(0, 2),
)
def test_agrees_with_a_loop_over_classes(
    candidates: list[tuple[int, float]], tau: float, gamma: float
) -> None:
    statistics = counted(5, *candidates)
    thresholds, weights = statistics.thresholds(tau, gamma), statistics.weights(gamma)
    mean = len(candidates) / 5
    for m in range(5):
        c = sum(s for k, s in candidates if k == m)
        if not candidates:
            assert thresholds[m] == tau and weights[m] == 1
            continue
        wanted = min(max((c / mean) ** gamma * tau, 0.4), 0.9)
        assert thresholds[m] == pytest.approx(wanted)
        assert weights[m] == pytest.approx((1 / max(c / mean, RAREST)) ** gamma)
    assert np.isfinite(weights).all() and (weights > 0).all()


def test_a_class_never_seen_has_the_lowest_threshold_and_the_largest_weight() -> None:
    statistics = counted(3, *[(0, 0.9)] * 100, (1, 0.5))
    assert statistics.thresholds(0.7)[2] == 0.4
    weights = statistics.weights()
    assert weights[2] == pytest.approx(100**0.6)
    assert weights[0] < weights[1] <= weights[2]


def test_gamma_0_turns_it_off() -> None:
    statistics = counted(3, (0, 0.9), (0, 0.9), (1, 0.1))
    assert statistics.thresholds(0.7, gamma=0).tolist() == [0.7] * 3
    assert statistics.weights(gamma=0).tolist() == [1] * 3


def test_the_clip_is_the_callers() -> None:
    statistics = counted(2, *[(0, 1.0)] * 9, (1, 0.01))
    assert statistics.thresholds(0.7, gamma=5).tolist() == [0.9, 0.4]
    assert statistics.thresholds(0.7, gamma=5, clip=(0.2, 0.95)).tolist() == [0.95, 0.2]


def test_calls_add_up_and_decay_forgets() -> None:
    parts, whole = ClassStatistics(3), ClassStatistics(3)
    for candidates in ([0, 0], [2], []):
        parts.add(np.array(candidates), np.full(len(candidates), 0.5))
    whole.add(np.array([0, 0, 2]), np.full(3, 0.5))
    assert parts.state_dict() == whole.state_dict()
    fading = ClassStatistics(2, decay=0.5)
    fading.add(np.array([0, 0]), np.array([1.0, 0.5]))
    fading.add(np.array([1]), np.array([0.25]))
    assert fading.counts.tolist() == [1, 1]
    assert fading.confidences.tolist() == [0.75, 0.25]


def test_the_state_goes_through_torch_and_json() -> None:
    statistics = counted(3, (0, 0.1), (2, 1 / 3), decay=0.9)
    file = io.BytesIO()
    torch.save(statistics.state_dict(), file)
    file.seek(0)
    for state in (
        torch.load(file, weights_only=True),
        json.loads(json.dumps(statistics.state_dict())),
    ):
        again = ClassStatistics(3, decay=0.9)
        again.load_state_dict(state)
        for one in (again, statistics):
            one.add(np.array([1]), np.array([0.7]))
        assert again.state_dict() == statistics.state_dict()
        statistics = counted(3, (0, 0.1), (2, 1 / 3), decay=0.9)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="of 2 classes, expected 3"):
        ClassStatistics(3).load_state_dict(ClassStatistics(2).state_dict())
    with pytest.raises(ConfigError, match="from 0 to 1"):
        ClassStatistics(3, decay=1.5)
