"""From predictions to labels: NMS, one class per object, thresholds calibrated per class.

Shape legend: ``k`` predictions of an image, ``Ct`` target classes, ``G`` annotations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torchvision.ops import batched_nms

from relabel.datasets.table import Table
from relabel.geometry import BoxPairs, greedy_match, iou_matrix
from relabel.lat.settings import LatSettings

FLOOR = 0.01
TOP = 300
FEW = 10
SPAN = 1.5
COVERED_IOU = 0.5
SAME_IOU = 0.5
OVERLAPS = (0.5, 0.6, 0.7, 0.8)
RARELY = 100


@dataclass(frozen=True, eq=False)
class Labels(Table):
    """Target-space predictions of one image, in order of falling score.

    Attributes:
        boxes: float32 [k, 4] xyxy.
        scores: float32 [k].
        classes: int64 [k], position in the target space.
        rows: int64 [k], the proposal each came from.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    rows: np.ndarray


def candidates(scores: torch.Tensor, boxes: torch.Tensor, settings: LatSettings) -> Labels:
    """All predictions of one image after class-wise NMS: scores [M, Ct], boxes [M, Ct, 4]."""
    rows, classes = (scores > FLOOR).nonzero(as_tuple=True)
    picked, values = boxes[rows, classes].float(), scores[rows, classes].float()
    keep = batched_nms(picked, values, classes, settings.nms_iou)[:TOP]
    return Labels(
        picked[keep].cpu().numpy(),
        values[keep].cpu().numpy(),
        classes[keep].cpu().numpy(),
        rows[keep].cpu().numpy(),
    )


def select_final(found: Labels, thresholds: np.ndarray, overlaps: np.ndarray) -> Labels:
    """Keep what reaches its class's threshold; of boxes on one object, the surest class.

    Args:
        thresholds: minimum score per class [Ct].
        overlaps: `class_overlaps`: boxes of two classes that overlap more are one object.
    """
    kept = found.take(found.scores >= thresholds[found.classes])
    if len(kept) < 2:
        return kept
    # Boxes come in order of falling score.
    clash = iou_matrix(kept.boxes, kept.boxes) > overlaps[kept.classes[:, None], kept.classes]
    alone = np.zeros(len(kept), bool)
    for i in range(len(kept)):
        alone[i] = not (clash[i, :i] & alone[:i]).any()
    return kept.take(np.flatnonzero(alone))


def class_overlaps(
    boxes: list[np.ndarray], classes: list[np.ndarray], count: int, limit: float
) -> np.ndarray:
    """The IoU above which boxes of two classes are one object, float64 [count, count].

    A rider and a bicycle overlap and are two objects; a small and a medium truck in one place are
    one. The target's own annotations show which: the limit of a pair is the smallest of `OVERLAPS`
    that at most one in `RARELY` of the rarer class's annotations exceeds with the other class.
    Boxes of one class are left to the class-wise NMS before.

    Args:
        boxes, classes: annotations per image, xyxy [G, 4] and [G].
        limit: the same limit for every pair instead; negative to learn it, 1 keeps all boxes.
    """
    table = np.full((count, count), float(limit))
    if limit < 0:
        total = np.zeros(count, np.int64)
        over = np.zeros((len(OVERLAPS), count, count), np.int64)
        for b, c in zip(boxes, classes, strict=True):
            total += np.bincount(c, minlength=count)
            i, j = np.triu_indices(len(b), 1)
            iou = iou_matrix(b, b)[i, j]
            for k, at in enumerate(OVERLAPS):
                far = iou > at
                np.add.at(over[k], (c[i[far]], c[j[far]]), 1)
        over = over + over.transpose(0, 2, 1)
        allowed = np.minimum(total[:, None], total[None, :]) / RARELY
        first = (over <= allowed).argmax(axis=0)
        first[~(over <= allowed).any(axis=0)] = len(OVERLAPS) - 1
        table = np.asarray(OVERLAPS)[first]
    np.fill_diagonal(table, 1.0)
    return table


def ignore_band(
    found: Labels, kept: Labels, source: np.ndarray, thresholds: np.ndarray, share: float
) -> Labels:
    """What is neither surely an object of its class nor surely background.

    Predictions that reach ``share`` of their class's threshold, and source annotations (xyxy
    [G, 4]) whose best prediction does not reach its threshold, unless a kept box or a better one
    of these overlaps them by half. A source annotation takes the class of that prediction.
    """
    doubtful = found.take(found.scores >= share * thresholds[found.classes])
    iou = iou_matrix(source, found.boxes)
    lost = np.flatnonzero(
        (iou_matrix(source, kept.boxes).max(axis=1, initial=0) < COVERED_IOU)
        & (iou.max(axis=1, initial=0) >= COVERED_IOU)
    )
    near = np.where(iou[lost] >= COVERED_IOU, found.scores, -1.0)
    named = found.take(near.argmax(axis=1) if len(lost) else np.zeros(0, np.int64))
    named = replace(named, boxes=source[lost].astype(np.float32))
    both = Labels.concatenate([doubtful, named])
    taken = list(kept.boxes)
    picked = []
    for i in np.argsort(-both.scores, kind="stable").tolist():
        others = np.array(taken).reshape(-1, 4)
        if iou_matrix(both.boxes[i : i + 1], others).max(initial=0) < COVERED_IOU:
            picked.append(i)
            taken.append(both.boxes[i])
    return both.take(np.array(picked, np.int64))


@dataclass(frozen=True, eq=False)
class Reliability:
    """How often predictions of a class are right, by their score.

    Attributes:
        scores: float64 [k], rising; the lowest score of each step.
        precision: float64 [k], rising; share of right predictions from there to the next step.
    """

    scores: np.ndarray
    precision: np.ndarray

    def score_at(self, precision: float) -> float:
        """The minimum score from which predictions are right this often; above 1 if none are."""
        reached = np.flatnonzero(self.precision >= precision)
        return float(self.scores[reached[0]]) if len(reached) else 2.0

    def to_dict(self) -> dict[str, list[float]]:
        return {
            "scores": np.round(self.scores, 6).tolist(),
            "precision": np.round(self.precision, 4).tolist(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Reliability:
        return cls(np.array(values["scores"]), np.array(values["precision"]))


def reliability(
    found: list[Labels], truth: list[tuple[np.ndarray, np.ndarray]], classes: int
) -> list[Reliability]:
    """Reliability per class on images with known annotations, by isotonic regression.

    A prediction is right if it has the class of an annotation that it overlaps by half and that
    no surer one has taken. Classes with fewer than `FEW` annotations share that of all classes.

    Args:
        found: predictions per image.
        truth: per image boxes xyxy [G, 4] and classes [G].
    """
    scores, labels, hits, total = _joined(found, truth, classes, (0.5,))
    shared = _isotonic(scores, hits[0])
    return [
        _isotonic(scores[labels == c], hits[0][labels == c]) if total[c] >= FEW else shared
        for c in range(classes)
    ]


def _isotonic(scores: np.ndarray, hits: np.ndarray) -> Reliability:
    from scipy.optimize import isotonic_regression

    order = np.argsort(scores, kind="stable")
    if not len(order):
        return Reliability(np.zeros(0), np.zeros(0))
    fit = isotonic_regression(hits[order].astype(np.float64))
    starts = np.asarray(fit.blocks[:-1], dtype=np.int64)
    return Reliability(scores[order][starts].astype(np.float64), np.asarray(fit.x)[starts])


def calibrate(
    found: list[Labels], truth: list[tuple[np.ndarray, np.ndarray]], classes: int
) -> np.ndarray:
    """Score thresholds per class that give the best F1 on images with known annotations.

    F1 is averaged over matching at IoU 0.5 and 0.75. Classes with fewer than `FEW` annotations
    take the threshold that is best over all classes together; the others stay within `SPAN` of
    it, since a rare or hard class can otherwise ask for nearly everything or nothing.

    Args:
        found: predictions per image.
        truth: per image boxes xyxy [G, 4] and classes [G].

    Returns:
        float64 [classes].
    """
    score, label, hit, total = _joined(found, truth, classes, (0.5, 0.75))
    shared = _best_threshold(score, hit, int(total.sum()))
    thresholds = np.full(classes, shared)
    for c in np.flatnonzero(total >= FEW):
        of_class = label == c
        best = _best_threshold(score[of_class], [h[of_class] for h in hit], int(total[c]))
        thresholds[c] = np.clip(best, shared / SPAN, shared * SPAN)
    return thresholds


def _joined(
    found: list[Labels],
    truth: list[tuple[np.ndarray, np.ndarray]],
    classes: int,
    ious: tuple[float, ...],
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], np.ndarray]:
    """All predictions' scores and classes, whether they are right at each IoU; annotations."""
    scores, labels = [], []
    hits: list[list[np.ndarray]] = [[] for _ in ious]
    total = np.zeros(classes)
    for predictions, (boxes, wanted) in zip(found, truth, strict=True):
        scores.append(predictions.scores)
        labels.append(predictions.classes)
        iou = iou_matrix(predictions.boxes, boxes)
        iou[predictions.classes[:, None] != wanted[None, :]] = 0
        for column, at in zip(hits, ious, strict=True):
            column.append(greedy_matches(iou, at))
        total += np.bincount(wanted, minlength=classes)[:classes]
    joined = [np.concatenate(column) for column in hits]
    return np.concatenate(scores), np.concatenate(labels), joined, total


def coverage(kept: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """Share of ``wanted`` boxes that overlap a kept one by half; xyxy, one array per image."""
    hit = total = 0
    for boxes, goal in zip(kept, wanted, strict=True):
        hit += int((iou_matrix(goal, boxes).max(axis=1, initial=0) >= COVERED_IOU).sum())
        total += len(goal)
    return hit / total if total else 0.0


def adapt_thresholds(
    found: list[Labels],
    wanted: list[np.ndarray],
    thresholds: np.ndarray,
    share: float,
    overlaps: np.ndarray,
) -> np.ndarray:
    """Thresholds lowered by one factor until ``share`` of the wanted boxes are covered.

    A specialist finds less on images unlike its own, so that scores there are lower throughout;
    a source's annotations tell, without any truth, by how much. Thresholds never rise, and fall
    to a twentieth at most.
    """
    for factor in np.geomspace(1.0, 0.05, 31):
        lowered = thresholds * factor
        kept = [select_final(f, lowered, overlaps).boxes for f in found]
        if coverage(kept, wanted) >= share:
            break
    return lowered


def greedy_matches(iou: np.ndarray, at: float) -> np.ndarray:
    """bool [k]: which predictions, taken in order, get an unmatched annotation; iou [k, G]."""
    return greedy_pairs(iou, at) >= 0


def greedy_pairs(iou: np.ndarray, at: float) -> np.ndarray:
    """int64 [k]: the unmatched annotation that each prediction, in order, gets; -1 for none."""
    left, right = np.nonzero(iou >= at)
    in_order = -np.arange(len(iou), dtype=np.float64)
    found = greedy_match(BoxPairs(left, right, iou[left, right]), in_order, iou.shape[1])
    pairs = np.full(len(iou), -1, np.int64)
    pairs[found.left] = found.right
    return pairs


def _best_threshold(score: np.ndarray, hits: list[np.ndarray], total: int) -> float:
    if total == 0 or len(score) == 0:
        return 0.5
    order = np.argsort(-score, kind="stable")
    ranked = score[order].astype(np.float64)
    kept = np.arange(1, len(ranked) + 1)
    f1 = np.mean([2 * np.cumsum(h[order]) / (kept + total) for h in hits], axis=0)
    # Ties in score are kept or dropped together.
    f1[:-1][ranked[:-1] == ranked[1:]] = -1
    return float(ranked[int(np.argmax(f1))])
