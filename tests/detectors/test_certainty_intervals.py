"""Sides as intervals: coordinates survive, losses agree with loops, quality stays in [0, 1]."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from relabel.detectors.certainty.intervals import (
    BETA,
    chosen,
    decode,
    encode,
    interval_loss,
    nearest,
    offset_loss,
    quality,
    reach,
    segments,
)
from relabel.detectors.settings import Quality

COUNTS = st.integers(1, 60)
SCALES = st.floats(1.0, 4.0)
SEEDS = st.integers(0, 2**31)
# One proposal 20 wide and 40 high about (50, 60).
PROPOSAL = torch.tensor([[40.0, 40, 60, 80]])


def proposals_of(rng: np.random.Generator, n: int = 8) -> Tensor:
    corner = rng.uniform(0, 1000, (n, 2))
    size = np.exp(rng.uniform(0, 7, (n, 2)))
    return torch.from_numpy(np.hstack([corner, corner + size])).float()


def through_the_head(positions: Tensor, count: int) -> Tensor:
    """The positions that a head without error would give."""
    best = nearest(positions, count)
    scores = torch.nn.functional.one_hot(best, count) * 10.0 - 5
    centres = torch.arange(count) + 0.5
    return chosen(scores, positions[..., None] - centres)


def test_segments_reach_from_the_centre_to_the_scaled_box() -> None:
    start, unit = segments(PROPOSAL, 1.5, 10)
    assert start.tolist() == [[35.0, 30, 50, 60]]
    assert unit.tolist() == [[1.5, 3, 1.5, 3]]
    assert reach(PROPOSAL, 1.5).tolist() == [[35.0, 30, 65, 90]]
    # A left side at 44 is six intervals from 35; a right one at 50 is at its segment's start.
    assert encode(torch.tensor([[44.0, 30, 50, 90]]), PROPOSAL, 1.5, 10).tolist() == [[6, 0, 0, 10]]


@given(COUNTS, SCALES, SEEDS)
def test_boxes_inside_the_segments_come_back(count: int, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    proposals = proposals_of(rng)
    start, unit = segments(proposals, scale, count)
    truth = start + torch.from_numpy(rng.uniform(0, count, start.shape)).float() * unit
    positions = encode(truth, proposals, scale, count)
    assert positions.min() >= -1e-2 and positions.max() <= count + 1e-2
    found = decode(through_the_head(positions, count), proposals, scale, count)
    torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-3)


@given(COUNTS, SCALES, SEEDS)
def test_boxes_beyond_the_segments_come_back_from_the_last_interval(
    count: int, scale: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    proposals = proposals_of(rng)
    size = (proposals[:, 2:] - proposals[:, :2]) * scale
    truth = proposals + torch.cat([-size, size], dim=1)
    positions = encode(truth, proposals, scale, count)
    assert nearest(positions, count).tolist() == [[0, 0, count - 1, count - 1]] * len(truth)
    found = decode(through_the_head(positions, count), proposals, scale, count)
    torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-2)


def test_proposals_without_a_size_count_as_one_pixel() -> None:
    point = torch.tensor([[5.0, 6, 5, 6]])
    truth = torch.tensor([[4.8, 5.9, 5.3, 6.4]])
    positions = encode(truth, point, 2.0, 10)
    assert positions.isfinite().all()
    torch.testing.assert_close(decode(positions, point, 2.0, 10), truth)


def bce(score: float, right: bool) -> float:
    p = 1 / (1 + math.exp(-score))
    return -math.log(p if right else 1 - p)


def smooth_l1(error: float) -> float:
    error = abs(error)
    return error * error / 2 / BETA if error < BETA else error - BETA / 2


@given(st.integers(1, 12), SEEDS)
def test_losses_agree_with_direct_loops(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 2, (3, 4, count))
    offsets = rng.normal(0, 1, (3, 4, count))
    positions = rng.uniform(-2, count + 2, (3, 4))
    for i in range(3):
        for s in range(4):
            at = positions[i, s]
            right = min(max(math.floor(at), 0), count - 1)
            parts, fine = [], []
            for k in range(count):
                near = abs(at - (k + 0.5)) < 1
                if k == right or not near:
                    parts.append(bce(scores[i, s, k], k == right))
                if k == right or near:
                    fine.append(smooth_l1(offsets[i, s, k] - (at - (k + 0.5))))
            given = torch.from_numpy(positions)
            got = interval_loss(torch.from_numpy(scores), given)[i, s]
            assert float(got) == pytest.approx(sum(parts), rel=1e-6, abs=1e-9)
            got = offset_loss(torch.from_numpy(offsets), given)[i, s]
            assert float(got) == pytest.approx(sum(fine) / len(fine), rel=1e-6, abs=1e-9)


def test_high_scores_everywhere_are_no_answer() -> None:
    """Of equation 3 as printed, with terms of the right interval only, they are the minimum."""
    positions = torch.full((1, 4), 4.5)
    right = torch.full((1, 4, 10), -8.0)
    right[:, :, 4] = 8
    everywhere = torch.full((1, 4, 10), 8.0)
    assert interval_loss(right, positions).sum() < 0.1 < interval_loss(everywhere, positions).sum()


def test_neighbours_of_a_side_on_a_border_are_not_wrong() -> None:
    positions = torch.full((1, 4), 4.9)  # intervals 4 and 5 have centres within one
    scores = torch.full((1, 4, 10), -8.0)
    scores[:, :, 4] = 8
    beside = scores.clone()
    beside[:, :, 5] = 8
    apart = scores.clone()
    apart[:, :, 3] = 8
    assert torch.equal(interval_loss(scores, positions), interval_loss(beside, positions))
    assert (interval_loss(apart, positions) > 7).all()


@given(COUNTS, SEEDS, st.sampled_from(get_args(Quality)), st.sampled_from([0.1, 3.0, 200.0]))
def test_quality_is_between_zero_and_one(
    count: int, seed: int, how: Quality, spread: float
) -> None:
    rng = np.random.default_rng(seed)
    v = quality(torch.from_numpy(rng.normal(0, spread, (20, 4, count))).float(), how)
    assert v.shape == (20,)
    assert v.isfinite().all() and v.min() >= 0 and v.max() <= 1
    for constant in (-1e4, 1e4):
        v = quality(torch.full((1, 4, count), constant), how)
        assert v.isfinite().all() and 0 <= v.item() <= 1


def test_quality_by_hand() -> None:
    p = torch.tensor([0.1, 0.6, 0.3, 0.2, 0.05]).expand(1, 4, 5)
    scores = torch.logit(p)
    assert quality(scores, "max").item() == pytest.approx(0.6)
    assert quality(scores, "adjacent").item() == pytest.approx(0.9)
    assert quality(scores, "alone").item() == pytest.approx(0.9 * 0.9 / 1.25)
    # The best interval is the last: its only neighbour is before it.
    p = torch.tensor([0.1, 0.2, 0.9]).expand(1, 4, 3)
    assert quality(torch.logit(p), "adjacent").item() == 1.0
    assert quality(torch.logit(p), "alone").item() == pytest.approx(1.1 / 1.2)
