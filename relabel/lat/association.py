"""Which classes of different label spaces lie on the same objects.

A class with a few dozen annotations gives a network too few steps to learn that another space's
class means it; counting needs no steps. The counts become the initial weights of class logits.

Shape legend: ``C`` classes of the joint space.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from relabel.datasets.labelspace import JointLabelSpace
from relabel.geometry import iou_matrix
from relabel.lat.calibrate import SAME_IOU
from relabel.lat.proposals import image_truth

if TYPE_CHECKING:
    from relabel.lat.bank import ProposalBank

# As many objects of average company are added to each class's own.
SMOOTHING = 5.0
# And as many as names with words in common stand for.
NAMED = 5.0
LIMITS = (-2.0, 4.0)


def cooccurrence(banks: Sequence[ProposalBank], joint: JointLabelSpace) -> np.ndarray:
    """How often a pseudo-label's class lies on an annotation's class, float64 [C, C].

    Row: the class that a specialist gives, column: the class of the annotation. Of each space
    the surest pseudo-label that overlaps an annotation by half counts, by its score. The
    pseudo-labels of an annotation's own space are out-of-fold predictions.
    """
    counts = np.zeros((joint.num_classes, joint.num_classes))
    for bank in banks:
        start = joint.slice(bank.position).start
        for row, proposals in zip(bank.image_rows, bank.proposals, strict=True):
            boxes, classes, _ = image_truth(bank.dataset, int(row))
            labels = proposals.take(proposals.variant == 0)
            if not len(boxes) or not len(labels):
                continue
            score = labels.scores.max(axis=1)
            said = labels.scores.argmax(axis=1)
            lies = iou_matrix(boxes, labels.boxes) >= SAME_IOU
            for space in np.unique(labels.space):
                sure = np.where(lies & (labels.space == space), score, 0.0)
                best = sure.argmax(axis=1)
                weight = sure[np.arange(len(boxes)), best]
                np.add.at(counts, (said[best], start + classes), weight)
    return counts


def association(counts: np.ndarray, joint: JointLabelSpace) -> np.ndarray:
    """Pointwise mutual information of `cooccurrence`, float32 [C, C], smoothed and bounded.

    ``log P(column | row) / P(column)``, within the annotations' label space: how much surer an
    annotation's class becomes by what a specialist says of the place. Zero where nothing is known.
    Names that have words in common count as `NAMED` objects, see `named`.
    """
    table = np.zeros_like(counts)
    by_name = named(joint)
    for position in range(len(joint.spaces)):
        at = joint.slice(position)
        here = counts[:, at] + NAMED * by_name[:, at]
        share = counts[:, at].sum(axis=0) + 0.5
        share = share / share.sum()
        given = (here + SMOOTHING * share) / (here.sum(axis=1, keepdims=True) + SMOOTHING)
        table[:, at] = np.log(given / share)
    return np.clip(table, *LIMITS).astype(np.float32)


def named(joint: JointLabelSpace) -> np.ndarray:
    """What class names let expect: share per row class of another space's classes, float64 [C, C].

    Classes with words in common are candidates, the more so the rarer the words are in their own
    space: of `vehicle.car` and `vehicle.bus.rigid` it is `bus` that points to `bus`. Rows without
    any, and a space's own classes, are zero.
    """
    words = [[_words(name) for name in space.class_names] for space in joint.spaces]
    found = np.zeros((joint.num_classes, joint.num_classes))
    for a, mine in enumerate(words):
        for b, theirs in enumerate(words):
            if a == b:
                continue
            shared = np.array(
                [
                    [sum(_rarity(w, mine) * _rarity(w, theirs) for w in m & t) for t in theirs]
                    for m in mine
                ],
                dtype=np.float64,
            ).reshape(len(mine), len(theirs))
            total = shared.sum(axis=1, keepdims=True)
            share = np.divide(shared, total, out=np.zeros_like(shared), where=total > 0)
            found[joint.slice(a), joint.slice(b)] = share
    return found


def _words(name: str) -> frozenset[str]:
    return frozenset(word for word in re.split(r"[^a-z0-9]+", name.lower()) if len(word) > 1)


def _rarity(word: str, names: Sequence[frozenset[str]]) -> float:
    """1 for a word of one name of a space, 0 for a word that all of several names have."""
    if len(names) < 2:
        return 1.0
    return 1 - (sum(word in name for name in names) - 1) / (len(names) - 1)
