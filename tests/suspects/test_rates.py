from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relabel.suspects.rates import density, fit_precision, share_at_most
from relabel.suspects.sides import other_side


def test_reliability_is_the_share_that_is_right_and_never_falls() -> None:
    score = np.array([0.1] * 10 + [0.5] * 10 + [0.9] * 10)
    right = np.array([False] * 9 + [True] + [True] * 5 + [False] * 5 + [True] * 9 + [False])
    fitted = fit_precision(score, right)
    # Half a right and half a wrong prediction more than the ten that were seen.
    assert fitted(np.array([0.1, 0.5, 0.9])) == pytest.approx([1.5 / 11, 5.5 / 11, 9.5 / 11])
    assert fitted(np.array([0.3])) == pytest.approx([3.5 / 11])
    assert fitted(np.array([0.0, 1.0])) == pytest.approx([1.5 / 11, 9.5 / 11])


@given(st.lists(st.tuples(st.sampled_from(np.linspace(0, 1, 21).tolist()), st.booleans())))
def test_reliability_of_anything_is_monotone_and_certain_of_nothing(
    seen: list[tuple[float, bool]],
) -> None:
    score, right = np.array([s for s, _ in seen]), np.array([r for _, r in seen], bool)
    values = fit_precision(score, right)(np.linspace(0, 1, 50))
    assert (np.diff(values) >= -1e-12).all()
    if seen:
        assert ((values > 0) & (values < 1)).all()


def test_share_at_most_counts_all_that_are_not_larger() -> None:
    assert share_at_most(np.array([3.0, 1.0, 1.0, 2.0])).tolist() == [1.0, 0.5, 0.5, 0.75]


def test_share_at_most_compares_like_sizes_where_there_are_many() -> None:
    size = np.repeat([1.0, 10.0], 100)
    value = np.concatenate([np.arange(100), np.arange(100) + 1000])
    share = share_at_most(value, size)
    assert share[0] == share[100] == 0.01
    assert share_at_most(value)[100] == 0.505


def test_density_integrates_to_one_and_is_nowhere_zero() -> None:
    at = np.linspace(0, 1, 2001)
    value = np.concatenate([np.full(50, 0.9), at])
    weight = np.concatenate([np.ones(50), np.zeros(len(at))])
    height = density(value, weight, 0.0, 1.0)[50:]  # of those without a weight of their own
    assert height.min() > 0
    assert np.trapezoid(height, at) == pytest.approx(1, abs=0.02)
    assert at[height.argmax()] == pytest.approx(0.9, abs=0.05)


def test_density_looks_at_a_value_beside_the_others_alone() -> None:
    value = np.array([0.31, 0.9, 0.9, 0.9])
    alone = density(value, np.ones(4), 0.0, 1.0)[0]
    # One anywhere among four: the others are at 0.9.
    assert alone == pytest.approx(1 / 4)


def test_the_other_side_is_found_by_whole_words() -> None:
    names = ["Left Hand", "right hand", "bright hand", "leftover", "shoe_left", "shoe_right"]
    assert [other_side(names, k) for k in range(6)] == [1, 0, -1, -1, 5, 4]
