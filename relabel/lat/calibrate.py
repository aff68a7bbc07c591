"""What the target's held-back images show about predictions, with simulated sources.

Scores become probabilities (Platt, 1999), and the pairs of classes that stand for one object are
told from those that stand for two. Nothing of a real source's truth is read.

Shape legend: ``k`` predictions of an image, ``A`` its annotations (simulated or real), ``Ct``
target classes, ``G`` objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torchvision.ops import batched_nms

from relabel.datasets.table import Table
from relabel.geometry import BoxPairs, first_of_each, greedy_match, iou_matrix
from relabel.lat.boxes import BoxError, box_error

# Predictions below this score are not kept, but for an annotation's best class.
FLOOR = 0.01
TOP = 300
NMS_IOU = 0.6
SAME_IOU = 0.5
# An annotation lies on an object of the target that it overlaps this much: boxes of another style,
# or of a part (a rider in a cyclist), overlap less than those of one convention.
LIES_IOU = 0.3
# Classes with fewer examples share the calibration of all.
FEW = 10
_FLATTEST = 0.05  # slope
# Weight that draws what a source class adds to the logit towards 0, where classes do not differ.
_ALIKE = 0.1
OVERLAPS = (0.5, 0.6, 0.7, 0.8)
RARELY = 100


@dataclass(frozen=True, eq=False)
class Predictions(Table):
    """Target-space predictions of one image, in order of falling score.

    Attributes:
        boxes: float32 [k, 4] xyxy.
        scores: float32 [k].
        classes: int64 [k], position in the target space.
        rows: int64 [k], the proposal each came from.
        annotation: int64 [k], the annotation that this proposal is or is a place on, counted
            within the image, or -1 for a pseudo-label.
        place: bool [k], whether it is from a place on the annotation, see
            `relabel.lat.places`.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    rows: np.ndarray
    annotation: np.ndarray
    place: np.ndarray

    @classmethod
    def none(cls) -> Predictions:
        ints, floats = np.zeros(0, np.int64), np.zeros(0, np.float32)
        return cls(np.zeros((0, 4), np.float32), floats, ints, ints, ints, np.zeros(0, bool))


def candidates(
    scores: torch.Tensor, boxes: torch.Tensor, annotation: np.ndarray, place: np.ndarray
) -> Predictions:
    """Predictions of one image worth keeping.

    Every annotation keeps all its classes, the best one however low; of pseudo-labels remains what
    class-wise NMS leaves.

    Args:
        scores: [M, Ct].
        boxes: xyxy [M, Ct, 4].
        annotation, place: int64 [M], bool [M], see `Predictions`.
    """
    own = torch.from_numpy(annotation >= 0).to(scores.device)
    wanted = scores > FLOOR
    wanted[torch.arange(len(scores)), scores.argmax(dim=1)] |= own
    rows, classes = wanted.nonzero(as_tuple=True)
    picked, values = boxes[rows, classes].float(), scores[rows, classes].float()
    # In a group of its own, so that nothing suppresses an annotation's prediction.
    group = torch.where(own[rows], scores.shape[1] * (1 + rows) + classes, classes)
    keep = batched_nms(picked, values, group, NMS_IOU)
    others = torch.cumsum(~own[rows[keep]], dim=0)
    keep = keep[own[rows[keep]] | (others <= TOP)]
    of = rows[keep].cpu().numpy()
    return Predictions(
        picked[keep].cpu().numpy(),
        values[keep].cpu().numpy(),
        classes[keep].cpu().numpy(),
        of,
        annotation[of].astype(np.int64),
        place[of],
    )


def annotation_scores(found: Predictions, count: int, classes: int) -> np.ndarray:
    """The score of every annotation as every class, float64 [A, Ct]; 0 where it was not kept.

    That of places on it does not count: a rider there is no other class of a bicycle.
    """
    table = np.zeros((count, classes))
    own = (found.annotation >= 0) & ~found.place
    table[found.annotation[own], found.classes[own]] = found.scores[own]
    return table


def existence_score(table: np.ndarray) -> np.ndarray:
    """How surely each annotation is an object of any class, [A] in [0, 1]: scores add up.

    A van that may be a car, a bus or a truck is an object all the same.
    """
    return np.minimum(table.sum(axis=1), 1.0)


@dataclass(frozen=True)
class Platt:
    """Probability of being right: the logistic function of ``slope * logit(score) + offset``."""

    slope: float = 1.0
    offset: float = 0.0

    def __call__(self, scores: np.ndarray, more: np.ndarray | float = 0.0) -> np.ndarray:
        return 1 / (1 + np.exp(-(self.slope * _logit(scores) + self.offset + more)))


def fit_platt(scores: np.ndarray, right: np.ndarray) -> Platt:
    """Fit to scores [n] and whether each was right, bool [n], by Newton's method.

    As in Platt (1999), targets keep off 0 and 1 by the rule of succession; the slope is drawn
    towards 1 by the weight of one example, so that a handful of scores cannot turn it round, and
    a surer score is never less likely right.
    """
    return _fit(scores, right, np.zeros((len(scores), 0)))[0]


@dataclass(frozen=True, eq=False)
class Existence:
    """Probability that an annotation is an object in the target's convention.

    A convention leaves out whole classes (traffic cones) or nothing of one (cyclists, of which
    each has a rider), however sure the network is: so every source class has an offset of its own.

    Attributes:
        platt: for classes of which nothing is known.
        classes: float64 [C], what each class of the joint space adds to its offset.
    """

    platt: Platt
    classes: np.ndarray

    def __call__(self, scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Of `existence_score` [A] and the annotations' classes in the joint space [A]."""
        return self.platt(scores, self.classes[classes])


def fit_existence(
    scores: np.ndarray, exists: np.ndarray, classes: np.ndarray, count: int
) -> Existence:
    """Fit to scores [n], whether each was an object, bool [n], and classes [n] of ``count``."""
    known, of = np.unique(classes, return_inverse=True)
    platt, added = _fit(scores, exists, np.eye(len(known))[of])
    offsets = np.zeros(count)
    offsets[known] = added
    return Existence(platt, offsets)


def _fit(scores: np.ndarray, right: np.ndarray, groups: np.ndarray) -> tuple[Platt, np.ndarray]:
    """Platt's fit to scores [n], and what each of the groups, one-hot [n, g], adds to it [g]."""
    n, hits, g = len(scores), int(right.sum()), groups.shape[1]
    if not n:
        return Platt(), np.zeros(g)
    goal = np.where(right, (hits + 1) / (hits + 2), 1 / (n - hits + 2))
    x = np.concatenate([_logit(scores)[:, None], np.ones((n, 1)), groups], axis=1)
    prior = np.concatenate([[1.0, 0.0], np.zeros(g)])
    pull = np.concatenate([[1.0, 1e-3], np.full(g, _ALIKE)])
    slope, *offsets = _fit_logistic(x, np.zeros(n), goal, prior, pull)
    if slope < _FLATTEST:
        slope = _FLATTEST
        offsets = _fit_logistic(x[:, 1:], slope * x[:, 0], goal, prior[1:], pull[1:])
    return Platt(float(slope), float(offsets[0])), np.asarray(offsets[1:])


def _fit_logistic(
    x: np.ndarray, fixed: np.ndarray, goal: np.ndarray, prior: np.ndarray, pull: np.ndarray
) -> np.ndarray:
    """Weights [d] of inputs [n, d] beside fixed logits [n] for goals [n], drawn to ``prior`` [d].

    Newton's steps are halved until they lead downhill: whole ones go round in circles where the
    curve is flat.
    """

    def loss(weights: np.ndarray) -> float:
        z = x @ weights + fixed
        drawn = (pull * (weights - prior) ** 2).sum() / 2
        return float((np.logaddexp(0, z) - goal * z).sum() + drawn)

    weights, before = prior, loss(prior)
    for _ in range(50):
        p = (1 + np.tanh((x @ weights + fixed) / 2)) / 2
        gradient = x.T @ (p - goal) + pull * (weights - prior)
        curve = (x * (p * (1 - p))[:, None]).T @ x + np.diag(pull)
        step = np.linalg.solve(curve, gradient)
        while (after := loss(weights - step)) > before and np.abs(step).max() >= 1e-8:
            step = step / 2
        if np.abs(step).max() < 1e-8:
            break
        weights, before = weights - step, after
    return weights


@dataclass(frozen=True, eq=False)
class Calibration:
    """What turns predictions into labels.

    Attributes:
        existence: from `existence_score` and source class to the probability that an annotation
            is an object in the target's convention.
        classes: per target class, from the score of a prediction that is no annotation's best
            class to the probability that it is an object of its own.
        overlaps: float64 [Ct, Ct], IoU above which boxes of two classes are one object.
        smallest: pixels; the longer sides of the target's objects are hardly ever below.
        box_error: how predicted boxes deviate from the target's annotations; None if unknown.
    """

    existence: Existence
    classes: list[Platt]
    overlaps: np.ndarray
    smallest: float
    box_error: BoxError | None

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        return {
            "existence": _numbers(self.existence.platt),
            "existence_classes": np.round(self.existence.classes, 6).tolist(),
            "classes": {n: _numbers(p) for n, p in zip(names, self.classes, strict=True)},
            "overlaps": self.overlaps.tolist(),
            "smallest": round(self.smallest, 3),
            "box_error": self.box_error and self.box_error.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], names: Sequence[str]) -> Calibration:
        """Raises ValueError where it does not fit the classes ``names``."""
        overlaps = np.array(values["overlaps"], dtype=np.float64)
        if overlaps.shape != (len(names), len(names)):
            raise ValueError("overlaps do not fit the classes")
        return cls(
            Existence(Platt(*values["existence"]), np.array(values["existence_classes"])),
            [Platt(*values["classes"][n]) for n in names],
            overlaps,
            float(values["smallest"]),
            values["box_error"] and BoxError.from_dict(values["box_error"]),
        )


@dataclass(frozen=True, eq=False)
class HeldBack:
    """A held-back image of the target with one simulated source.

    Attributes:
        found: predictions that never saw the image's annotations.
        annotations: xyxy [A, 4], the simulated source's.
        annotated: int64 [A], their classes in the joint space.
        boxes, classes: the true objects, xyxy [G, 4] and [G].
    """

    found: Predictions
    annotations: np.ndarray
    annotated: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray


def calibrate(
    held_back: Sequence[HeldBack],
    annotated: Sequence[tuple[np.ndarray, np.ndarray]],
    classes: int,
    joint: int,
) -> Calibration:
    """Measure `Calibration`.

    Args:
        annotated: boxes [G, 4] and classes [G] of all of the target's training images.
        classes: Ct.
        joint: number of classes of the joint space.
    """
    overlaps = class_overlaps(annotated, classes)
    scores, hits, labels = np.zeros(0), np.zeros(0, bool), np.zeros(0, np.int64)
    annotations, others = [(scores, hits, labels)], [(scores, hits, labels)]
    boxes = [(np.zeros((0, 4)), np.zeros((0, 4)))]
    for one in held_back:
        found = one.found
        table = annotation_scores(found, len(one.annotations), classes)
        lies = iou_matrix(one.annotations, one.boxes).max(axis=1, initial=0) >= LIES_IOU
        annotations.append((existence_score(table), lies, one.annotated))
        # What is left of the rest may only take objects that no annotation's best class takes.
        first, other = best_and_others(found, table)
        first = first[np.argsort(-found.scores[first], kind="stable")]
        rest = not_taken(found, first, np.where(other, found.scores, -1.0), 0.0, overlaps)
        objects = matches(found.take(np.concatenate([first, rest])), one.boxes, one.classes)
        of_first, of_rest = np.split(objects, [len(first)])
        near = of_first >= 0
        boxes.append((found.boxes[first[near]], one.boxes[of_first[near]]))
        others.append((found.scores[rest], of_rest >= 0, found.classes[rest]))
    scores, hits, labels = _columns(others)
    shared = fit_platt(scores, hits)
    of_class = [
        fit_platt(scores[labels == c], hits[labels == c])
        if hits[labels == c].sum() >= FEW
        else shared
        for c in range(classes)
    ]
    sides = [(b[:, 2:] - b[:, :2]).max(axis=1) for b, _ in annotated if len(b)]
    return Calibration(
        fit_existence(*_columns(annotations), count=joint),
        of_class,
        overlaps,
        float(np.quantile(np.concatenate(sides), 0.01)) if sides else 0.0,
        box_error(*_columns(boxes)),
    )


def _columns(parts: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def best_and_others(found: Predictions, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The prediction of every annotation as its best class, and the others.

    Of an annotation and the places on it only the surest speaks for a class.

    Args:
        table: from `annotation_scores`.

    Returns:
        rows int64 [A]; bool [k].
    """
    count, classes = table.shape
    own = np.flatnonzero(found.annotation >= 0)  # the surest first
    key = found.annotation[own] * classes + found.classes[own]
    of, first = np.unique(key, return_index=True)
    surest = np.full(count * classes, -1, np.int64)
    surest[of] = own[first]
    surest = surest.reshape(count, classes)
    best = surest[np.arange(count), table.argmax(axis=1)]
    other = found.annotation < 0
    other[surest[surest >= 0]] = True
    other[best] = False
    return best, other


def matches(found: Predictions, boxes: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """int64 [k]: the unmatched object of its class that each prediction, in order, gets; or -1."""
    iou = iou_matrix(found.boxes, boxes)
    iou[found.classes[:, None] != classes[None, :]] = 0
    left, right = np.nonzero(iou >= SAME_IOU)
    in_order = -np.arange(len(iou), dtype=np.float64)
    pairs = greedy_match(BoxPairs(left, right, iou[left, right]), in_order, iou.shape[1])
    objects = np.full(len(found), -1, np.int64)
    objects[pairs.left] = pairs.right
    return objects


def not_taken(
    found: Predictions, taken: np.ndarray, chance: np.ndarray, least: float, overlaps: np.ndarray
) -> np.ndarray:
    """Further predictions that are no object of a surer one, int64 rows, the likeliest first.

    Args:
        taken: rows that are labels already.
        chance: float64 [k], how likely each is an object of its own; below ``least`` none is.
        overlaps: see `Calibration`.
    """
    order = np.flatnonzero(chance >= least)
    order = order[np.argsort(-chance[order], kind="stable")]
    every = np.concatenate([taken, order]).astype(np.int64)
    boxes, classes = found.boxes[every], found.classes[every]
    clash = iou_matrix(boxes, boxes) > one_object_above(overlaps, classes)
    return every[len(taken) :][first_of_each(clash, len(taken))[len(taken) :]]


def one_object_above(overlaps: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The IoU above which each two boxes of these classes [k] are one object, float64 [k, k].

    Args:
        overlaps: see `class_overlaps`; within a class it is `SAME_IOU`.
    """
    limit = overlaps.copy()
    np.fill_diagonal(limit, SAME_IOU)
    return limit[classes[:, None], classes[None, :]]


def class_overlaps(annotated: Sequence[tuple[np.ndarray, np.ndarray]], count: int) -> np.ndarray:
    """The IoU above which boxes of two classes are one object, float64 [count, count].

    A rider and a bicycle overlap and are two objects; a small and a medium truck in one place are
    one. The target's own annotations show which: the limit of a pair is the smallest of `OVERLAPS`
    that at most one in `RARELY` of the rarer class's annotations exceeds with the other class.
    Boxes of one class are left to NMS.

    Args:
        annotated: boxes xyxy [G, 4] and classes [G] per image.
    """
    total = np.zeros(count, np.int64)
    over = np.zeros((len(OVERLAPS), count, count), np.int64)
    for b, c in annotated:
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


def _logit(scores: np.ndarray) -> np.ndarray:
    s = np.clip(np.asarray(scores, dtype=np.float64), 1e-4, 1 - 1e-4)
    return np.log(s / (1 - s))


def _numbers(p: Platt) -> list[float]:
    return [round(p.slope, 6), round(p.offset, 6)]
