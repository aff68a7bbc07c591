"""Suspects of every kind, scored: how likely each label is wrong, by predictions on unseen images.

Every score is the posterior of an error. Its odds are those with which labels are wrong at all,
`PRIOR`, times how much likelier what is predicted is with an error of the kind than without one:
that is read off the predictions' reliability and off how usual the same is among all labels of the
dataset, nearly all of which are right. So scores of different kinds can be put into one order, and
a weak detector accuses nobody. No truth is read, and nothing is fitted but to the dataset itself.

Only duplicates are told without predictions, by how much they overlap.

Shape legend: ``m`` annotations, ``n`` predictions, ``C`` classes, ``p`` pairs, ``k`` suspects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relabel.datasets.table import ImageTable
from relabel.geometry import BoxPairs, overlapping, paired_iou, suppress
from relabel.suspects.evidence import NEAR, ON_OBJECT, Evidence
from relabel.suspects.rates import density, fit_precision, share_at_most
from relabel.suspects.sides import other_side

MISSING, CLASS, BADLY_PLACED = "missing box", "wrong class", "badly placed"
DUPLICATE, SPURIOUS = "duplicate", "spurious box"
MIRRORED, SIDES = "mirrored box", "sides swapped"
SUSPECT_KINDS = (MISSING, CLASS, BADLY_PLACED, DUPLICATE, SPURIOUS, MIRRORED, SIDES)

PRIOR = 0.02
"""Share of labels that are wrong in one way before anything is looked at."""
# A box is badly placed if what it should be overlaps it less than this.
_WELL_PLACED = 0.7
# An annotation that a prediction of any class overlaps this much is not of nothing.
_SOMETHING = 0.3
# Boxes whose mirror image overlaps them more cannot be told from it.
_OFF_CENTRE = 0.5
# Nothing is surer than this to be no object of a class.
_FLOOR = 0.02
# Duplicates: IoU from which two boxes of one class, or of two, are looked at; the odds at 0.5 are
# 1 : 9, and 9 : 1 from about 0.84.
_DOUBLE, _DOUBLE_OTHER_CLASS = 0.5, 0.8
_DOUBLE_ODDS, _DOUBLE_SLOPE = 1 / 9, 13.0
_INSIDE = 0.8


@dataclass(frozen=True, eq=False)
class Suspects(ImageTable):
    """Suspect labels.

    Attributes:
        image: int64 [k], rows of images.
        kind: k of `SUSPECT_KINDS`.
        score: float64 [k], in [0, 1].
        annotation: int64 [k], row among the dataset's boxes; -1 of a missing box.
        box: float64 [k, 4], xyxy, the box that is proposed; NaN where that is the annotation's.
        category: int64 [k], the class that is proposed; -1 where the annotation should go.
        confidence: float64 [k], of what speaks for the proposal, or for the annotation where it
            should go.
        own: float64 [k], what speaks for the annotation as it is.
        iou: float64 [k], of the annotation with the box or the annotation that speaks against it.
        other: int64 [k], row of the other annotation of a duplicate, else -1.
    """

    image: np.ndarray
    kind: Sequence[str]
    score: np.ndarray
    annotation: np.ndarray
    box: np.ndarray
    category: np.ndarray
    confidence: np.ndarray
    own: np.ndarray
    iou: np.ndarray
    other: np.ndarray


@dataclass(frozen=True, eq=False)
class Accused:
    """One kind's odds of each annotation, and what they come from; columns as in `Suspects`.

    Attributes:
        kind: of `SUSPECT_KINDS`.
        odds: float64 [m], how much likelier what is seen is with an error; 0 where it cannot be.
        by: int64 [m], the prediction whose box is proposed, -1 for none.
    """

    kind: str
    odds: np.ndarray
    by: np.ndarray
    box: np.ndarray
    category: np.ndarray
    confidence: np.ndarray
    own: np.ndarray
    iou: np.ndarray
    other: np.ndarray


def posterior(odds: np.ndarray) -> np.ndarray:
    """Probability of an error whose signs are ``odds`` times likelier than without one."""
    weight = PRIOR * np.asarray(odds, np.float64)
    return weight / (weight + 1 - PRIOR)


def find_suspects(evidence: Evidence, names: Sequence[str] = ()) -> Suspects:
    """Suspects of all kinds, each annotation under its likeliest one, the surest first.

    The order is that of the score; what is equal goes by image, kind, annotation and box.

    Args:
        names: of the C classes, for those that differ in left and right.
    """
    accused = [
        wrong_class(evidence, names),
        wrong_class(evidence, names, sides=True),
        badly_placed(evidence),
        mirrored(evidence),
        duplicates(evidence),
        spurious(evidence),
    ]
    m = len(evidence.rows)
    odds = np.stack([a.odds for a in accused]) if m else np.zeros((len(accused), 0))
    best = odds.argmax(0)
    used = np.zeros(len(evidence.found_image), bool)
    parts = []
    for k, one in enumerate(accused):
        mine = np.flatnonzero((best == k) & (odds[k] > 0))
        convincing = mine[(odds[k, mine] > 1) & (one.by[mine] >= 0)]
        used[one.by[convincing]] = True
        parts.append(_of_annotations(evidence, one, mine))
    parts.append(missing(evidence, used))
    told = Suspects.concatenate(parts)
    kinds = np.array([SUSPECT_KINDS.index(kind) for kind in told.kind], np.int64)
    corners = np.nan_to_num(told.box, nan=-1.0)
    order = np.lexsort((*corners.T[::-1], told.annotation, kinds, told.image, -told.score))
    return told.take(order)


def _of_annotations(evidence: Evidence, one: Accused, of: np.ndarray) -> Suspects:
    return Suspects(
        evidence.image[of],
        [one.kind] * len(of),
        posterior(one.odds[of]),
        evidence.rows[of],
        one.box[of],
        one.category[of],
        one.confidence[of],
        one.own[of],
        one.iou[of],
        one.other[of],
    )


def missing(evidence: Evidence, used: np.ndarray) -> Suspects:
    """Confident predictions that lie on no annotation.

    Of overlapping ones the surest is one suspect. What lies in a region to ignore is none.

    Args:
        used: bool [n], predictions that tell of an annotation in some other way.
    """
    free = ~used & ~evidence.in_region
    on = evidence.pairs.iou >= ON_OBJECT
    free[evidence.pairs.right[on]] = False
    share = fit_precision(
        evidence.found_score[~evidence.in_region], evidence.hits[~evidence.in_region]
    )
    right = share(evidence.found_score)
    odds = right / (1 - right) * _part_of_another(evidence)
    rows = np.flatnonzero(free)
    # A stable order of equal scores that does not depend on the order of images.
    rows = rows[np.lexsort((*evidence.found_box[rows].T, -evidence.found_score[rows]))]
    group = evidence.found_image[rows]
    rows = rows[suppress(evidence.found_box[rows], evidence.found_score[rows], group, ON_OBJECT)]
    k, none = len(rows), np.full(len(rows), np.nan)
    return Suspects(
        evidence.found_image[rows],
        [MISSING] * k,
        posterior(odds[rows]),
        np.full(k, -1, np.int64),
        evidence.found_box[rows],
        evidence.found_category[rows],
        evidence.found_score[rows],
        none,
        none,
        np.full(k, -1, np.int64),
    )


def _part_of_another(evidence: Evidence) -> np.ndarray:
    """float64 [n]: 1, or less for a prediction that is a part of an annotated object or has it in
    it: then it is likelier another box for the same one."""
    factor = np.ones(len(evidence.found_image))
    pairs = evidence.pairs.take(evidence.same_class)
    a, b = evidence.box[pairs.left], evidence.found_box[pairs.right]
    inside = np.maximum(paired_iou(a, b, over_a=True), paired_iou(b, a, over_a=True)) >= _INSIDE
    factor[pairs.right[inside]] = 0.25
    return factor


def wrong_class(evidence: Evidence, names: Sequence[str] = (), *, sides: bool = False) -> Accused:
    """Annotations that look like another class.

    Args:
        names: of the C classes; those with left and right in them are a kind of their own.
        sides: look at them alone, and leave them out otherwise.
    """
    support, m = evidence.class_support.copy(), len(evidence.rows)
    every = np.arange(m)
    own = evidence.own_support
    if m:
        support[every, evidence.category] = -1.0
        support[_classes_beside(evidence)] = -1.0
        other = np.array([other_side(names, c) for c in range(support.shape[1])], np.int64)
        if len(names):
            opposite = np.zeros(support.shape, bool)
            has = other[evidence.category] >= 0
            opposite[every[has], other[evidence.category[has]]] = True
            support[opposite != sides] = -1.0
        elif sides:
            support[:] = -1.0
    category = support.argmax(1) if support.size else np.zeros(m, np.int64)
    best = np.maximum(support.max(1, initial=-1.0), 0.0)
    odds = np.clip(best - own, 0, 1) / share_at_most(-best / (own + _FLOOR))
    return _accused(
        evidence, SIDES if sides else CLASS, odds, category=category, confidence=best, own=own
    )


def _classes_beside(evidence: Evidence) -> np.ndarray:
    """bool [m, C]: another annotation of the class lies on each: what looks like it there is
    that one, in front of or behind it."""
    beside = np.zeros(evidence.class_support.shape, bool)
    pairs = overlapping(evidence.box, evidence.image, evidence.box, evidence.image, _SOMETHING)
    pairs = pairs.take(pairs.left != pairs.right)
    beside[pairs.left, evidence.category[pairs.right]] = True
    return beside


def badly_placed(evidence: Evidence) -> Accused:
    """Annotations beside the box that is predicted for an object of their class.

    The prediction must not lie on another annotation of the class, and there must be no other as
    sure that fits the annotation.
    """
    pairs, m = evidence.pairs, len(evidence.rows)
    free = ~_taken(evidence, pairs)
    score = np.where(free & evidence.same_class, evidence.own, 0.0)
    best = _best_of_each(pairs.left, score * pairs.iou, score, m)
    has = best >= 0
    at = best[has]
    iou, confidence = np.full(m, np.nan), np.zeros(m)
    iou[has], confidence[has] = pairs.iou[at], score[at]
    by = np.full(m, -1, np.int64)
    by[has] = pairs.right[at]
    fits = np.zeros(m)
    good = pairs.iou >= _WELL_PLACED
    np.maximum.at(fits, pairs.left[good], evidence.own[good])
    odds = confidence * np.clip(1 - fits / np.maximum(confidence, 1e-9), 0, 1)
    odds *= 1 - evidence.own_support
    # Boxes that are badly placed overlap what they should be by anything up to `_WELL_PLACED`.
    odds[has] /= (_WELL_PLACED - NEAR) * density(iou[has], confidence[has], NEAR, 1.0)
    odds[~(iou < _WELL_PLACED)] = 0.0
    # An annotation of nothing with a prediction beside it that nobody else explains has been
    # moved, rather than invented, where that prediction is likelier right than wrong.
    beside = 2 * confidence * spurious(evidence).odds
    odds = np.where(iou < _SOMETHING, np.maximum(odds, beside), odds)
    box = np.full((m, 4), np.nan)
    box[has] = evidence.found_box[by[has]]
    return _accused(
        evidence,
        BADLY_PLACED,
        odds,
        by=by,
        box=box,
        category=evidence.category,
        confidence=confidence,
        own=fits,
        iou=iou,
    )


def mirrored(evidence: Evidence) -> Accused:
    """Annotations whose mirror image is what is predicted, while they themselves are not."""
    m = len(evidence.rows)
    off_centre = paired_iou(evidence.box, evidence.mirrored) < _OFF_CENTRE
    own = evidence.own_support
    pairs = overlapping(
        evidence.mirrored,
        evidence.image,
        evidence.found_box,
        evidence.found_image,
        ON_OBJECT,
    )
    score = evidence.found_scores[pairs.right, evidence.category[pairs.left]]
    score = np.where(_taken(evidence, pairs), 0.0, score)
    best = _best_of_each(pairs.left, score, pairs.iou, m)
    has = best >= 0
    confidence, by = np.zeros(m), np.full(m, -1, np.int64)
    confidence[has], by[has] = score[best[has]], pairs.right[best[has]]
    unsupported = share_at_most(own, evidence.size)
    # How often chance lays an unexplained prediction on the mirror image of a good annotation.
    sound = np.sort(confidence[off_centre & (own > confidence)])
    above = len(sound) - np.searchsorted(sound, confidence, side="left")
    chance = (above + 1) / (len(sound) + 1)
    odds = confidence * np.clip(1 - own / np.maximum(confidence, 1e-9), 0, 1)
    odds = odds / (unsupported * chance)
    odds[~(has & off_centre)] = 0.0
    return _accused(
        evidence,
        MIRRORED,
        odds,
        by=by,
        box=evidence.mirrored,
        category=evidence.category,
        confidence=confidence,
        own=own,
    )


def duplicates(evidence: Evidence) -> Accused:
    """Annotations on an object that has one already; of the two, the one that fits less."""
    m = len(evidence.rows)
    pairs = overlapping(evidence.box, evidence.image, evidence.box, evidence.image, _DOUBLE)
    pairs = pairs.take(pairs.left < pairs.right)
    same = evidence.category[pairs.left] == evidence.category[pairs.right]
    keep = same | (pairs.iou >= _DOUBLE_OTHER_CLASS)
    pairs, same = pairs.take(keep), same[keep]
    fit = _fit(evidence)
    own = evidence.own_support
    quality = np.where(same[:, None], fit[_ends(pairs)], own[_ends(pairs)])
    # Of two that fit alike, the later annotation.
    later = evidence.rows[pairs.left] > evidence.rows[pairs.right]
    left_goes = np.where(quality[:, 0] == quality[:, 1], later, quality[:, 0] < quality[:, 1])
    goes = np.where(left_goes, pairs.left, pairs.right)
    stays = np.where(left_goes, pairs.right, pairs.left)
    # ``posterior`` multiplies by the prior; what is meant here are the odds themselves.
    odds = _DOUBLE_ODDS * np.exp(_DOUBLE_SLOPE * (pairs.iou - _DOUBLE)) * (1 - PRIOR) / PRIOR
    second = _second_prediction(evidence, pairs)
    worse, better = quality.min(1, initial=np.inf), quality.max(1, initial=0)
    doubt = np.where(same, 1 - second, 1 - worse / np.maximum(better, _FLOOR))
    odds = odds * np.clip(doubt, 0, 1)
    found = np.zeros(m)
    iou, other = np.full(m, np.nan), np.full(m, -1, np.int64)
    order = np.lexsort((stays, goes, -odds))
    for k in order.tolist():
        # A box that is a duplicate itself convicts no other: of three, two go.
        if not found[goes[k]] and not found[stays[k]]:
            found[goes[k]], iou[goes[k]] = odds[k], pairs.iou[k]
            other[goes[k]] = evidence.rows[stays[k]]
    return _accused(evidence, DUPLICATE, found, confidence=own, own=own, iou=iou, other=other)


def spurious(evidence: Evidence) -> Accused:
    """Annotations of which no prediction of any class knows."""
    m, pairs = len(evidence.rows), evidence.pairs
    near = pairs.iou >= _SOMETHING
    support = np.zeros(m)
    # A van that may be a car, a bus or a truck is an object all the same: scores add up.
    something = np.minimum(evidence.found_scores.sum(1), 1.0)
    np.maximum.at(support, pairs.left[near], something[pairs.right[near]])
    support = np.fmax(support, np.minimum(evidence.head.sum(1), 1.0))
    # The square: detectors rarely give much to nothing (chosen on photos of riders, see
    # benchmarks/check.md).
    odds = (1 - support) ** 2 / share_at_most(support, evidence.size)
    return _accused(evidence, SPURIOUS, odds, confidence=support, own=support)


def _taken(evidence: Evidence, pairs: BoxPairs) -> np.ndarray:
    """bool [p]: the prediction of a pair lies on another annotation of its class."""
    on = evidence.pairs.take(evidence.same_class & (evidence.pairs.iou >= ON_OBJECT))
    count = np.bincount(on.right, minlength=len(evidence.found_image))
    pair_key = pairs.left * max(len(evidence.found_image), 1) + pairs.right
    on_key = on.left * max(len(evidence.found_image), 1) + on.right
    return count[pairs.right] - np.isin(pair_key, on_key) > 0


def _best_of_each(left: np.ndarray, score: np.ndarray, iou: np.ndarray, m: int) -> np.ndarray:
    """int64 [m]: each annotation's pair of the highest score above 0, then IoU; -1 for none."""
    best = np.full(m, -1, np.int64)
    order = np.lexsort((iou, score))
    order = order[score[order] > 0]
    best[left[order]] = order  # the last one stays
    return best


def _fit(evidence: Evidence) -> np.ndarray:
    """float64 [m]: score times IoU of the prediction of its class that fits each best."""
    fit = np.zeros(len(evidence.rows))
    np.maximum.at(fit, evidence.pairs.left, evidence.own * evidence.pairs.iou)
    return fit


def _ends(pairs: BoxPairs) -> np.ndarray:
    return np.stack([pairs.left, pairs.right], axis=1)


def _second_prediction(evidence: Evidence, pairs: BoxPairs) -> np.ndarray:
    """float64 [p]: how sure a second prediction is, where two annotations have one each.

    Each annotation has the prediction of its class that overlaps it most; where both have the same
    one there is no second.
    """
    on = evidence.pairs.take(evidence.same_class & (evidence.pairs.iou >= ON_OBJECT))
    score = evidence.found_score[on.right]
    nearest = _best_of_each(on.left, on.iou, score, len(evidence.rows))
    first, other = nearest[pairs.left], nearest[pairs.right]
    both = (first >= 0) & (other >= 0)
    both[both] = on.right[first[both]] != on.right[other[both]]
    second = np.zeros(len(pairs.left))
    second[both] = np.minimum(score[first[both]], score[other[both]])
    return second


def _accused(
    evidence: Evidence,
    kind: str,
    odds: np.ndarray,
    *,
    by: np.ndarray | None = None,
    box: np.ndarray | None = None,
    category: np.ndarray | None = None,
    confidence: np.ndarray,
    own: np.ndarray,
    iou: np.ndarray | None = None,
    other: np.ndarray | None = None,
) -> Accused:
    """Fill in what a kind does not have."""
    m = len(evidence.rows)
    none = np.full(m, -1, np.int64)
    return Accused(
        kind,
        odds,
        none if by is None else by,
        np.full((m, 4), np.nan) if box is None else box,
        none if category is None else category,
        confidence,
        own,
        np.full(m, np.nan) if iou is None else iou,
        none if other is None else other,
    )


def above(suspects: Suspects, least: float) -> Suspects:
    """The suspects whose score is at least ``least``, in their order."""
    return suspects.take(np.flatnonzero(suspects.score >= least))
