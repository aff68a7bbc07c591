"""Places on an annotation where objects of the target usually lie.

They show how a source draws its boxes, see `relabel.lat.boxes`, and where else to look: a cyclist
has its rider above and its bicycle below; for a target that draws them apart, neither box nearly
shares the cyclist's, and the target's specialist may have missed both. So where images of the
target show that annotations of a class have an object elsewhere on them, the annotation's box,
moved as far as such objects usually lie off, is one more proposal.

Shape legend: ``M`` proposals of an image, ``C`` classes of the joint space, ``n`` places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from relabel.datasets.table import Table
from relabel.geometry import iou_matrix
from relabel.lat.boxes import apply, deltas
from relabel.lat.calibrate import LIES_IOU
from relabel.lat.proposals import MADE, NOBODY, PLACE, Proposals, sound

# An object lies elsewhere if a box moved to its place overlaps the annotation less than this.
_ELSEWHERE = 0.6
# It is usual if so many annotations of a class, and this share of them, have one.
_FEW = 10
_USUAL = 0.05


@dataclass(frozen=True, eq=False)
class Places(Table):
    """Places by class of the annotation and of the object.

    Attributes:
        of: int64 [n], class of the annotation in the joint space.
        to: int64 [n], class of the object, a position in the target space.
        moves: float64 [n, 4], delta from the annotation's box to the object's, see
            `relabel.lat.boxes`.
    """

    of: np.ndarray
    to: np.ndarray
    moves: np.ndarray

    @classmethod
    def none(cls) -> Places:
        return cls.from_list([])

    @cached_property
    def elsewhere(self) -> np.ndarray:
        """bool [n]: the object's box is not nearly the annotation's."""
        unit = np.array([[0.0, 0.0, 1.0, 1.0]])
        moved = apply(np.repeat(unit, len(self.of), axis=0), self.moves)
        return iou_matrix(moved, unit)[:, 0] < _ELSEWHERE

    def add_to(self, proposals: Proposals, rows: np.ndarray, classes: np.ndarray) -> Proposals:
        """The proposals, and behind them those at the places elsewhere on some of them.

        A place has the class scores and the ``source_row`` of its annotation.

        Args:
            rows: which are, or play, annotations.
            classes: their classes in the joint space [len(rows)].
        """
        elsewhere = np.flatnonzero(self.elsewhere)
        parent, place = np.nonzero(classes[:, None] == self.of[None, elsewhere])
        if not len(place):
            return proposals
        place = elsewhere[place]
        at, said = rows[parent], classes[parent]
        scores = np.zeros((len(at), proposals.scores.shape[1]), np.float32)
        scores[np.arange(len(at)), said] = 1.0
        boxes = sound(apply(proposals.boxes[at].astype(np.float64), self.moves[place]))
        made = Proposals.of(
            boxes, scores, proposals.space[at], PLACE, proposals.source_row[at], plays=said
        )
        return Proposals.concatenate([proposals, made])

    def to_list(self) -> list[list[float]]:
        """JSON-ready: both classes and the delta of each."""
        columns = zip(self.of.tolist(), self.to.tolist(), self.moves.tolist(), strict=True)
        return [[c, g, *move] for c, g, move in columns]

    @classmethod
    def from_list(cls, values: Sequence[Sequence[float]]) -> Places:
        """Inverse of `to_list`."""
        rows = np.array(values, dtype=np.float64).reshape(-1, 6)
        of, to = rows[:, :2].T.astype(np.int64)
        return cls(of, to, rows[:, 2:])


def players(p: Proposals, space: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of those that play a space's annotations, and as which class of the joint space."""
    rows = np.flatnonzero((p.space == space) & (p.plays != NOBODY) & (p.variant != PLACE))
    return rows, p.plays[rows].astype(np.int64)


def find_places(
    proposals: Sequence[Proposals], truth: Sequence[tuple[np.ndarray, np.ndarray]], space: int
) -> Places:
    """Where the images' objects lie on what plays annotations of a space.

    Args:
        proposals: of each image, with who plays annotations, see `relabel.lat.simulate`.
        truth: boxes [G, 4] and classes [G] of each image's own objects.
    """
    moves, pairs = [np.zeros((0, 4))], [np.zeros((0, 2), np.int64)]
    on_any = [np.zeros(0, np.int64)]
    for p, (boxes, classes) in zip(proposals, truth, strict=True):
        rows, said = players(p, space)
        found = p.variant[rows] != MADE  # a made one is drawn from the objects themselves
        rows, said = rows[found], said[found]
        lies = iou_matrix(p.boxes[rows], boxes) >= LIES_IOU
        on_any.append(said[lies.any(axis=1)])
        k, g = np.nonzero(lies)
        moves.append(deltas(p.boxes[rows[k]].astype(np.float64), boxes[g].astype(np.float64)))
        pairs.append(np.stack([said[k], classes[g]], axis=1))
    every, pair, total = (np.concatenate(c) for c in (moves, pairs, on_any))
    found = []
    for c, g in np.unique(pair, axis=0):
        alike = every[(pair == (c, g)).all(axis=1)]
        if len(alike) >= max(_FEW, _USUAL * (total == c).sum()):
            found.append([c, g, *np.median(alike, axis=0)])
    return Places.from_list(found)
