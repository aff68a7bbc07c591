"""Box geometry: conversions, overlaps, one-to-one matching and non-maximum suppression.

The NumPy part works on whole datasets without a loop over images: boxes carry a group number (the
image, or image and class together) and only boxes of one group meet. BoxPairs are made in blocks of
bounded size; the greedy choices are then made for all groups at once, in rounds. Torch is imported
only by the functions that take tensors.

Shape legend: ``m`` and ``n`` boxes of the two sides, ``p`` pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def xywh_to_xyxy(xywh: np.ndarray) -> np.ndarray:
    """[..., 4] corner + size to two corners."""
    out = np.array(xywh, copy=True)
    out[..., 2:] += out[..., :2]
    return out


def xyxy_to_xywh(xyxy: np.ndarray) -> np.ndarray:
    """[..., 4] two corners to corner + size."""
    out = np.array(xyxy, copy=True)
    out[..., 2:] -= out[..., :2]
    return out


def iou_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pairwise intersection over union of xyxy boxes: [m, 4] x [n, 4] -> [m, n]."""
    a = np.asarray(a, dtype=np.float64).reshape(-1, 4)
    b = np.asarray(b, dtype=np.float64).reshape(-1, 4)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = np.prod(np.clip(high - low, 0, None), axis=2)
    area_a = np.prod(a[:, 2:] - a[:, :2], axis=1)
    area_b = np.prod(b[:, 2:] - b[:, :2], axis=1)
    union = area_a[:, None] + area_b[None, :] - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


IGNORE_OVERLAP = 0.5


def box_areas(boxes: Tensor) -> Tensor:
    """Areas of xyxy boxes: [..., 4] -> [...]."""
    return (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)


def shared_areas(a: Tensor, b: Tensor) -> Tensor:
    """Intersections of all pairs of xyxy boxes: [..., m, 4] x [..., n, 4] -> [..., m, n]."""
    import torch

    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    return (high - low).clamp(min=0).prod(dim=-1)


def batched_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of all pairs of xyxy boxes: [..., m, 4] x [..., n, 4] -> [..., m, n]."""
    inter = shared_areas(a, b)
    total = box_areas(a)[..., :, None] + box_areas(b)[..., None, :]
    return inter / (total - inter).clamp(min=1e-6)


def aligned_iou(a: Tensor, b: Tensor, least: float = 1e-6) -> Tensor:
    """IoU of xyxy boxes row by row: [n, 4] and [n, 4] -> [n].

    Args:
        least: what a union is divided by at least; boxes in parts of an image need a smaller one.
    """
    import torch

    sides = torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])
    inter = sides.clamp(min=0).prod(dim=1)
    return inter / (box_areas(a) + box_areas(b) - inter).clamp(min=least)


def inside_ignored(boxes: Tensor, ignored: Tensor) -> Tensor:
    """bool [..., n]: at least half of the box lies inside one of the regions [..., k, 4]."""
    if 0 in (boxes.shape[-2], ignored.shape[-2]):
        return boxes.new_zeros(boxes.shape[:-1]).bool()
    inter = shared_areas(boxes, ignored)
    area = box_areas(boxes).clamp(min=1e-6)
    return (inter / area[..., None]).amax(dim=-1) >= IGNORE_OVERLAP


_BLOCK = 2_000_000


@dataclass(frozen=True, eq=False)
class BoxPairs:
    """Overlapping boxes of two sides: row on the left, row on the right, IoU; each [p]."""

    left: np.ndarray
    right: np.ndarray
    iou: np.ndarray

    def take(self, keep: np.ndarray) -> BoxPairs:
        return BoxPairs(self.left[keep], self.right[keep], self.iou[keep])


def group_pairs(
    left: np.ndarray, right: np.ndarray, block: int = _BLOCK
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All (left row, right row) with equal group number, in blocks of about ``block`` pairs.

    Args:
        left: int [m] group numbers.
        right: int [n] group numbers.
        block: maximum number of pairs at a time (a left box and its partners are never split).
    """
    left_order = np.argsort(left, kind="stable")
    right_order = np.argsort(right, kind="stable")
    ordered = right[right_order]
    start = np.searchsorted(ordered, left[left_order], side="left")
    count = np.searchsorted(ordered, left[left_order], side="right") - start
    total = np.concatenate([[0], np.cumsum(count)])
    first = 0
    while first < len(left):
        last = int(np.searchsorted(total, total[first] + block, side="right")) - 1
        last = min(max(last, first + 1), len(left))
        n = count[first:last]
        rows = np.repeat(np.arange(first, last), n)
        within = np.arange(len(rows)) - np.repeat(total[first:last] - total[first], n)
        if len(rows):
            yield left_order[rows], right_order[start[rows] + within]
        first = last


def paired_iou(a: np.ndarray, b: np.ndarray, *, over_a: bool = False) -> np.ndarray:
    """IoU of boxes row by row: xyxy [p, 4] and [p, 4] -> [p]; 0 where there is no area.

    With ``over_a`` the intersection is divided by the area of ``a`` alone, as COCO does for crowd
    regions.
    """
    width = np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0])
    height = np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1])
    both = np.clip(width, 0, None) * np.clip(height, 0, None)
    area = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
    if not over_a:
        area = area + (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) - both
    return np.divide(both, area, out=np.zeros_like(both), where=area > 0)


def overlapping(
    left: np.ndarray,
    left_group: np.ndarray,
    right: np.ndarray,
    right_group: np.ndarray,
    min_iou: float,
    *,
    over_left: bool = False,
) -> BoxPairs:
    """BoxPairs of one group with IoU >= ``min_iou`` (> 0): xyxy [m, 4] and [n, 4] -> p pairs."""
    parts: list[BoxPairs] = []
    left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
    for i, j in group_pairs(left_group, right_group):
        iou = paired_iou(left[i], right[j], over_a=over_left)
        keep = (iou >= min_iou) & (iou > 0)
        parts.append(BoxPairs(i[keep], j[keep], iou[keep]))
    if not parts:
        return BoxPairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    return BoxPairs(
        np.concatenate([p.left for p in parts]),
        np.concatenate([p.right for p in parts]),
        np.concatenate([p.iou for p in parts]),
    )


def greedy_match(pairs: BoxPairs, score: np.ndarray, num_right: int) -> BoxPairs:
    """One-to-one matches, greedy by score, then IoU.

    BoxPairs are taken in order of decreasing score of the left box, then decreasing IoU, then file
    order, each if both its boxes are still free. With distinct scores this is: every prediction
    in order of score takes the free truth box it overlaps most.

    A pair that comes first among all remaining pairs of both its boxes is certain to be taken, so
    all such pairs are taken together, round by round.

    Args:
        pairs: candidate pairs.
        score: float [m], of the left boxes.
        num_right: number of right boxes n.
    """
    order = np.lexsort((pairs.right, pairs.left, -pairs.iou, -score[pairs.left]))
    left, right = pairs.left[order], pairs.right[order]
    open_pairs = np.arange(len(order))
    first_left = np.empty(len(score), np.int64)
    first_right = np.empty(num_right, np.int64)
    free_left = np.ones(len(score), bool)
    free_right = np.ones(num_right, bool)
    taken: list[np.ndarray] = []
    while len(open_pairs):
        # Written from last to first, so that the first pair of each box stays.
        backwards = open_pairs[::-1]
        first_left[left[backwards]] = backwards
        first_right[right[backwards]] = backwards
        mutual = (first_left[left[open_pairs]] == open_pairs) & (
            first_right[right[open_pairs]] == open_pairs
        )
        chosen = open_pairs[mutual]
        taken.append(chosen)
        free_left[left[chosen]] = False
        free_right[right[chosen]] = False
        open_pairs = open_pairs[free_left[left[open_pairs]] & free_right[right[open_pairs]]]
    rows = np.sort(np.concatenate(taken)) if taken else np.zeros(0, np.int64)
    return pairs.take(order[rows])


def first_of_each(clash: np.ndarray, taken: int = 0) -> np.ndarray:
    """bool [n]: which of n things, in order of preference, clash with none that is kept before.

    Args:
        clash: bool [n, n].
        taken: the first so many are kept whatever they clash with.
    """
    kept = np.arange(len(clash)) < taken
    for i in range(taken, len(clash)):
        kept[i] = not (clash[i, :i] & kept[:i]).any()
    return kept


def suppress(boxes: np.ndarray, score: np.ndarray, group: np.ndarray, iou: float) -> np.ndarray:
    """Greedy non-maximum suppression within groups; the same boxes as torchvision's.

    Args:
        boxes: xyxy [n, 4].
        score: [n]; between equal scores the earlier box wins.
        group: int [n]; boxes of different groups never suppress each other.
        iou: a box is dropped if its IoU with a kept better one is above this.

    Returns:
        bool [n], True on the boxes to keep.
    """
    rank = np.empty(len(score), np.int64)
    rank[np.argsort(-score, kind="stable")] = np.arange(len(score))
    better, worse = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    boxes = np.asarray(boxes, np.float64)
    for i, j in group_pairs(group, group):
        ahead = rank[i] < rank[j]
        i, j = i[ahead], j[ahead]
        near = paired_iou(boxes[i], boxes[j]) > iou
        better.append(i[near])
        worse.append(j[near])
    source, target = np.concatenate(better), np.concatenate(worse)
    kept = np.ones(len(score), bool)
    settled = np.ones(len(score), bool)
    settled[target] = False
    while len(source):
        # A box all of whose better neighbours are settled and dropped is kept; a box next to a
        # kept one is dropped.
        hit = target[settled[source] & kept[source]]
        kept[hit] = False
        settled[hit] = True
        live = ~settled[target] & kept[source]
        source, target = source[live], target[live]
        waiting = np.zeros(len(score), bool)
        waiting[target] = True
        settled |= ~waiting
    return kept
