"""Which images a batch has."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from relabel.detectors.semi.settings import SemiSettings
from relabel.detectors.settings import SpecialistSettings
from relabel.studies.downstream.mixture import MixedBatches, Mixture, passes
from relabel.studies.downstream.settings import DownstreamSettings
from tests.builders.blocks import World


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


def test_a_share_that_is_no_whole_number_of_images_is_rounded() -> None:
    m = mixture([10, 30], steps=40, batch=5, target_share=0.36)
    assert [part for part, _ in m.rows(0)] == [0, 0, 1, 1, 1]


def test_batches_follow_the_seed_and_the_scale(world: World, detector: SpecialistSettings) -> None:
    """Order and augmentation by seed; a source without images is none."""
    sources = {"empty": world.source.subset([]), "loose": world.source}
    plain = replace(detector, flip=0.0, scale_jitter=(2.0, 2.0), color_jitter=0.0)

    def batches(**more: Any) -> MixedBatches:
        settings = DownstreamSettings(target_share=0.5)
        return MixedBatches(world.target, sources, replace(plain, steps=8, **more), settings, 32)

    first = batches()
    assert len(first.parts) == 2
    assert {part for step in range(6) for part, _ in first.mixture.rows(step)} == {0, 1}
    pixels, sizes, _ = first(0)
    assert (
        isinstance(pixels, torch.Tensor)
        and pixels.shape == (4, 3, 192, 192)
        and sizes == [(192, 192)] * 4
    )
    orders = [[batches(seed=k).mixture.rows(step) for step in range(6)] for k in (0, 1)]
    assert orders[0] != orders[1]
    # The same image with other colours.
    one, two = batches(color_jitter=0.5), batches(color_jitter=0.5, seed=1)
    two.mixture = one.mixture
    drawn: list[Any] = [one(0)[0], one(0)[0], two(0)[0]]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


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


@pytest.mark.parametrize("settings", [{}, {"target_share": 0.5}, {"target_only_last": 0.0}])
@pytest.mark.parametrize("sizes", [[10], [10, 30], [8, 20, 20]])
def test_passes_are_those_of_the_batches(sizes: list[int], settings: dict[str, Any]) -> None:
    m = mixture(sizes, 80, **settings)
    drawn = Counter(part > 0 for step in range(80) for part, _ in m.rows(step))
    assert m.drawn(80) == pytest.approx((drawn[False], drawn[True]), abs=sum(sizes) / 4)
    assert sum(m.drawn(80)) == 320


def test_passes_over_the_union_are_the_same_for_every_arm(detector: SpecialistSettings) -> None:
    detector = replace(detector, steps=80, batch_size=4)
    shared = (40, detector, DownstreamSettings(), SemiSettings(burn_in=0.2))
    alone = passes("labels", [10], *shared)
    assert alone == {"union": 8.0, "target": 32.0, "sources": 0.0}
    # Three quarters of 320 images are drawn evenly from all 40.
    mixed = {"union": 8.0, "target": 14.0, "sources": 6.0}
    assert passes("labels", [10, 30], *shared) == mixed
    assert passes("unified", [10, 10, 20], *shared) == mixed
    # A fifth burns in on the target, and half of what follows is the target's.
    taught = passes("semi", [10, 30], *shared)
    assert taught["sources"] == pytest.approx((60 - 16) * 2 / 30)
