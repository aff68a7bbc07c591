"""Where a box's sides lie, as classes: segments in K intervals, targets, losses, quality.

Each side of a proposal is searched on a segment perpendicular to it, from the proposal's centre
out to the side of the proposal scaled about its centre, in K equal intervals (Li et al., 2021,
"Rethinking pseudo labels for semi-supervised object detection", arXiv 2106.00168, section 2.2; the
segments are those of side-aware boundary localisation, Wang et al., ECCV 2020). A position on a
segment is counted in intervals from its end with the smaller coordinate.

Shape legend: ``n`` boxes, 4 sides (left, top, right, bottom), ``K`` intervals.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from relabel.detectors.settings import Quality

# Of the smooth L1 loss, in intervals, as in side-aware boundary localisation.
BETA = 0.1
# Proposals count as this wide and high at least, in pixels; RoIAlign has a minimum as well.
MIN_SIZE = 1.0


def segments(proposals: Tensor, scale: float, intervals: int) -> tuple[Tensor, Tensor]:
    """Start of each side's segment and length of one of its intervals, both [n, 4] in pixels.

    Args:
        proposals: [n, 4] xyxy.
        scale: size of the box whose sides are the segments' outer ends, relative to a proposal.
        intervals: K.
    """
    centre = (proposals[:, :2] + proposals[:, 2:]) / 2
    half = (proposals[:, 2:] - proposals[:, :2]).clamp(min=MIN_SIZE) * (scale / 2)
    return torch.cat([centre - half, centre], dim=1), (half / intervals).repeat(1, 2)


def reach(proposals: Tensor, scale: float) -> Tensor:
    """The boxes [n, 4] that the segments of proposals [n, 4] reach to from their centres."""
    start, length = segments(proposals, scale, 1)
    return torch.cat([start[:, :2], start[:, 2:] + length[:, 2:]], dim=1)


def encode(boxes: Tensor, proposals: Tensor, scale: float, intervals: int) -> Tensor:
    """Positions [n, 4] of the sides of boxes [n, 4] on their proposals' segments, in intervals.

    They are in [0, K] for sides that lie on the segments, and below or above for others.
    """
    start, unit = segments(proposals, scale, intervals)
    return (boxes - start) / unit


def decode(positions: Tensor, proposals: Tensor, scale: float, intervals: int) -> Tensor:
    """The boxes [n, 4] whose sides have these positions [n, 4]: the inverse of `encode`."""
    start, unit = segments(proposals, scale, intervals)
    return start + positions * unit


def nearest(positions: Tensor, intervals: int) -> Tensor:
    """The interval [n, 4] that each side lies in; beyond the segment its last one."""
    return positions.floor().long().clamp(0, intervals - 1)


def distances(positions: Tensor, intervals: int) -> Tensor:
    """How far each side lies above each interval's centre, [n, 4, K] in intervals."""
    centres = torch.arange(intervals, device=positions.device) + 0.5
    return positions[..., None] - centres


def chosen(scores: Tensor, offsets: Tensor) -> Tensor:
    """Positions [n, 4] of the best interval of each side, moved by its offset.

    Args:
        scores: logits [n, 4, K].
        offsets: [n, 4, K], in intervals from each interval's centre.
    """
    best = scores.argmax(dim=2, keepdim=True)
    return (best + 0.5 + offsets.gather(2, best)).squeeze(2)


def interval_loss(scores: Tensor, positions: Tensor) -> Tensor:
    """Binary cross entropy of every side's intervals, summed over them: [n, 4].

    Equation 3 of the paper has terms of the right interval only, which are smallest where all
    scores are high; here the others are wrong answers, as in side-aware boundary localisation.
    The neighbour whose centre is less than an interval from the side is neither.

    Args:
        scores: logits [n, 4, K].
        positions: [n, 4], of `encode`.
    """
    count = scores.shape[2]
    right = F.one_hot(nearest(positions, count), count).to(scores)
    near = distances(positions, count).abs() < 1
    loss = F.binary_cross_entropy_with_logits(scores, right, reduction="none")
    return (loss * (right.bool() | ~near)).sum(dim=2)


def offset_loss(offsets: Tensor, positions: Tensor) -> Tensor:
    """Smooth L1 from interval centres to the sides (equation 5), [n, 4].

    The mean over the right interval and the neighbour whose centre is less than an interval from
    the side, either of which may be chosen.

    Args:
        offsets: [n, 4, K], in intervals.
        positions: [n, 4], of `encode`.
    """
    count = offsets.shape[2]
    wanted = distances(positions, count)
    right = F.one_hot(nearest(positions, count), count).bool()
    taught = right | (wanted.abs() < 1)
    loss = F.smooth_l1_loss(offsets, wanted, reduction="none", beta=BETA) * taught
    return loss.sum(dim=2) / taught.sum(dim=2)


def quality(scores: Tensor, how: Quality) -> Tensor:
    """Localisation quality v [n] in [0, 1], the mean over the sides (equation 4).

    Args:
        scores: logits [n, 4, K]; the equation's scores are probabilities here.
        how: ``max``, the best interval's score, as published; ``adjacent``, with that of its
            better neighbour, at most 1, as a side on a border has two intervals; ``alone``, this
            times these two's share of the scores of all intervals, which is small where the side
            may as well be elsewhere.
    """
    p = scores.float().sigmoid()
    best, at = p.max(dim=2)
    if how == "max":
        return best.mean(dim=1)
    padded = F.pad(p, (1, 1))  # the neighbours of interval k are at k and k + 2
    beside = torch.stack([padded.gather(2, (at + k)[..., None]) for k in (0, 2)]).amax(dim=0)
    both = best + beside.squeeze(2)
    v = both.clamp(max=1)
    if how == "alone":
        share = both / p.sum(dim=2).clamp(min=torch.finfo(p.dtype).tiny)
        v = v * share.clamp(max=1)
    return v.mean(dim=1)
