"""Folds of cross-fitting: stretches of a video, spread over it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from relabel.datasets.dataset import DetectionDataset
from relabel.errors import ConfigError, DataError
from relabel.lat.folds import folds
from relabel.lat.settings import LatSettings
from tests.builders.datasets import dataset_of


def video(frames: int, order: list[int] | None = None) -> DetectionDataset:
    """Images named by frame, stored in some order, without boxes."""
    numbers = list(range(frames)) if order is None else order
    return dataset_of("video", ["car"], [f"{i:03d}.jpg" for i in numbers], size=(64, 64))


def test_few_images_make_one_stretch_a_fold_and_no_gaps() -> None:
    parts = folds(video(7), 3)
    assert [p.held_out.tolist() for p in parts] == [[0, 1, 2], [3, 4], [5, 6]]
    assert [p.rest.tolist() for p in parts] == [[3, 4, 5, 6], [0, 1, 2, 5, 6], [0, 1, 2, 3, 4]]
    with pytest.raises(DataError, match="7 images cannot make 8 folds"):
        folds(video(7), 8)


def test_a_fold_holds_out_several_stretches_with_gaps() -> None:
    first, second = folds(video(32), 2, stretches=2, gap=1)
    assert first.held_out.tolist() == [*range(8), *range(16, 24)]
    assert first.rest.tolist() == [*range(9, 15), *range(25, 32)]
    assert second.held_out.tolist() == [*range(8, 16), *range(24, 32)]
    assert second.rest.tolist() == [*range(7), *range(17, 23)]


def test_stretches_follow_the_names_not_the_rows() -> None:
    order = np.random.default_rng(0).permutation(32).tolist()
    for shuffled, plain in zip(folds(video(32, order), 2), folds(video(32), 2), strict=True):
        assert sorted(order[r] for r in shuffled.held_out) == plain.held_out.tolist()
        assert sorted(order[r] for r in shuffled.rest) == plain.rest.tolist()
        assert np.all(np.diff(shuffled.held_out) > 0) and np.all(np.diff(shuffled.rest) > 0)


@given(st.integers(2, 80), st.integers(2, 4), st.integers(1, 6), st.integers(0, 9))
def test_every_image_is_held_out_once_and_never_learned_there(
    n: int, k: int, stretches: int, gap: int
) -> None:
    assume(n >= k)
    parts = folds(video(n), k, stretches=stretches, gap=gap)
    assert sorted(np.concatenate([p.held_out for p in parts])) == list(range(n))
    for part in parts:
        assert len(part.rest)
        distance = np.abs(part.rest[:, None] - part.held_out[None, :]).min()
        assert distance > min(gap, n // (k * stretches) // 4)


def test_a_negative_gap_would_learn_from_what_is_held_out_and_is_refused() -> None:
    with pytest.raises(ConfigError, match="fold_gap is -1"):
        LatSettings(fold_gap=-1)
    with pytest.raises(ConfigError, match="fold_stretches is 0"):
        LatSettings(fold_stretches=0)
