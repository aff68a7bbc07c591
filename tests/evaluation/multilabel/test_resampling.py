"""mAP over resampled images equals measuring the resampled set itself."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

from relabel.evaluation.multilabel import resampling
from relabel.evaluation.multilabel.entries import measure_entries
from relabel.evaluation.multilabel.resampling import weighted_map
from relabel.evaluation.resampling import resamples


def measured(truth: np.ndarray, scores: np.ndarray) -> float:
    found = measure_entries(csr_array(truth), scores).mAP
    return np.nan if found is None else found


@pytest.mark.parametrize("seed", range(5))
def test_a_drawn_image_counts_as_often_as_it_is_drawn(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resampling, "_CELLS", 60)  # two resamples at a time
    rng = np.random.default_rng(seed)
    truth = rng.choice([-1, 0, 1], (30, 4)).astype(np.int8)
    truth[:, 3] = -1  # a class that is nowhere
    scores = rng.integers(0, 6, (30, 4)) / 6  # with many equal ones
    weights = np.vstack([np.ones((1, 30)), resamples(30, seed, 6)])
    found = weighted_map(truth, scores, weights)
    for weight, value in zip(weights.astype(int), found, strict=True):
        rows = np.repeat(np.arange(30), weight)
        assert value == pytest.approx(measured(truth[rows], scores[rows]), abs=1e-12)


def test_a_class_that_is_not_drawn_is_left_out() -> None:
    truth = np.array([[1, -1], [-1, 1], [-1, -1]], np.int8)
    scores = np.array([[0.1, 0.5], [0.9, 0.4], [0.2, 0.3]])
    found = weighted_map(truth, scores, np.array([[1, 0, 1], [0, 0, 2], [1, 1, 1]]))
    assert found[0] == 0.5  # the first class alone: its image is second of two
    assert np.isnan(found[1])
    assert found[2] == pytest.approx((1 / 3 + 1 / 2) / 2)
