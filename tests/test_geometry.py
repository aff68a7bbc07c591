"""Matching and suppression against plain loops and torchvision."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relabel.geometry import (
    aligned_iou,
    batched_iou,
    greedy_match,
    group_pairs,
    inside_ignored,
    iou_matrix,
    overlapping,
    paired_iou,
    suppress,
)


def world(seed: int, n: int, groups: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 12, (n, 2)).astype(float)
    boxes = np.concatenate([corner, corner + rng.integers(0, 9, (n, 2))], axis=1)
    return boxes, rng.integers(0, groups, n)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 25), st.integers(0, 25), st.integers(1, 40))
def test_group_pairs_are_all_pairs_of_equal_groups(seed: int, m: int, n: int, block: int) -> None:
    left, right = world(seed, m, 4)[1], world(seed + 1, n, 5)[1]
    made = [
        pair
        for i, j in group_pairs(left, right, block)
        for pair in zip(i.tolist(), j.tolist(), strict=True)
    ]
    expected = {(i, j) for i in range(m) for j in range(n) if left[i] == right[j]}
    assert set(made) == expected
    assert len(made) == len(expected)


def test_paired_iou_by_hand() -> None:
    a = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [5, 5, 5, 5]], float)
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 0, 30, 10], [0, 0, 10, 10]], float)
    assert paired_iou(a, b) == pytest.approx([1, 1 / 3, 0, 0])
    assert paired_iou(a[1:2], np.array([[5.0, 0, 100, 100]]), over_a=True) == pytest.approx([0.5])


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 20), st.integers(0, 15), st.booleans())
def test_matching_is_the_plain_greedy_loop(seed: int, m: int, n: int, ties: bool) -> None:
    boxes, group = world(seed, m, 2)
    truth, truth_group = world(seed + 1, n, 2)
    rng = np.random.default_rng(seed)
    score = rng.integers(0, 3, m) / 2 if ties else rng.permutation(m) / max(m, 1)
    pairs = overlapping(boxes, group, truth, truth_group, 0.3)
    found = greedy_match(pairs, score, n)
    iou = iou_matrix(boxes, truth)
    every = sorted(
        (-score[i], -iou[i, j], i, j)
        for i in range(m)
        for j in range(n)
        if group[i] == truth_group[j] and iou[i, j] >= 0.3
    )
    used_left: set[int] = set()
    used_right: set[int] = set()
    expected = {}
    for _, _, i, j in every:
        if i not in used_left and j not in used_right:
            expected[i] = j
            used_left.add(i)
            used_right.add(j)
    assert dict(zip(found.left.tolist(), found.right.tolist(), strict=True)) == expected
    assert found.iou == pytest.approx(iou[found.left, found.right])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 30))
def test_suppression_is_torchvisions(seed: int, n: int) -> None:
    torch = pytest.importorskip("torch")
    from torchvision.ops import batched_nms

    boxes, group = world(seed, n, 3)
    score = np.random.default_rng(seed).permutation(n) / max(n, 1)
    kept = batched_nms(torch.as_tensor(boxes), torch.as_tensor(score), torch.as_tensor(group), 0.5)
    assert np.flatnonzero(suppress(boxes, score, group, 0.5)).tolist() == sorted(kept.tolist())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 12), st.integers(0, 9))
def test_tensors_have_torchvisions_overlaps(seed: int, m: int, n: int) -> None:
    import torch
    from torchvision.ops import box_iou

    a, b = (
        torch.as_tensor(np.stack([world(seed + k, size, 1)[0] + [0, 0, 1, 1] for k in (0, 10)]))
        for seed, size in ((seed, m), (seed + 1, n))
    )
    expected = torch.stack([box_iou(x, y) for x, y in zip(a, b, strict=True)])
    assert torch.allclose(batched_iou(a, b), expected)
    assert torch.allclose(batched_iou(a[0], b[0]), expected[0])
    both = min(m, n)
    rows = aligned_iou(a[0, :both], b[0, :both])
    assert torch.allclose(rows, expected[0, :both, :both].diagonal())
    inside = inside_ignored(a, b)
    assert inside.shape == (2, m)
    share = [
        [[paired_iou(x[None], y[None], over_a=True)[0] for y in ys] for x in xs]
        for xs, ys in zip(a.numpy(), b.numpy(), strict=True)
    ]
    wanted = np.array(share).reshape(2, m, n).max(axis=2, initial=0) >= 0.5
    assert inside.tolist() == wanted.tolist()


def test_suppression_frees_what_a_dropped_box_overlaps() -> None:
    # 1 is dropped by 0, so 2, which overlaps only 1, stays.
    boxes = np.array([[0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]], float)
    kept = suppress(boxes, np.array([0.9, 0.8, 0.7]), np.zeros(3, int), 0.5)
    assert kept.tolist() == [True, False, True]
