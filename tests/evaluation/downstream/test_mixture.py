"""Which images a batch has."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from relabel.evaluation.downstream.mixture import Mixture
from relabel.evaluation.downstream.settings import DownstreamSettings


def mixture(sizes: list[int], steps: int, batch: int = 4, **settings: Any) -> Mixture:
    return Mixture(sizes, steps, batch, seed=0, settings=DownstreamSettings(**settings))


def test_the_last_quarter_sees_the_target_alone() -> None:
    m = mixture([10, 30], steps=40)
    assert m.target_from == 30
    assert all(part == 0 for step in range(30, 40) for part, _ in m.rows(step))
    assert any(part == 1 for step in range(30) for part, _ in m.rows(step))


def test_mixed_batches_draw_evenly_from_all_images() -> None:
    # 30 mixed steps of 4 images are three passes over 40 images.
    m = mixture([10, 20, 10], steps=40)
    seen = Counter(pair for step in range(30) for pair in m.rows(step))
    assert set(seen.values()) == {3}
    assert Counter(p for p, _ in seen) == {0: 10, 1: 20, 2: 10}


def test_a_share_of_the_target_is_kept_in_every_batch() -> None:
    m = mixture([10, 30], steps=40, target_share=0.5)
    for step in range(30):
        assert [part for part, _ in m.rows(step)] == [0, 0, 1, 1]
    rows = [row for step in range(15) for part, row in m.rows(step) if part == 1]
    assert sorted(rows) == list(range(30))


def test_without_sources_it_is_the_target_in_a_fresh_order_every_pass() -> None:
    m = mixture([8], steps=40)
    passes = [[row for s in range(2 * e, 2 * e + 2) for _, row in m.rows(s)] for e in range(5)]
    assert all(sorted(p) == list(range(8)) for p in passes)
    assert len({tuple(p) for p in passes}) > 1


def test_the_last_quarter_does_not_depend_on_the_sources() -> None:
    alone, mixed = mixture([10], 40), mixture([10, 30], 40)
    for step in range(30, 40):
        assert alone.rows(step) == mixed.rows(step)
    assert np.array_equal(alone.sizes, [10])
