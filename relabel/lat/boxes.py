"""Boxes of labels that lie on a source annotation: how much of the annotation's own box to keep.

An annotator's box has another style than the target's, but a steady one; a transferred box has the
target's style, but the error of a network. Both errors are measured without any truth of the
source, and the boxes are averaged accordingly.

Shape legend: ``k`` boxes, xyxy in pixels; deltas are (dx / w, dy / h, log of w, log of h) [k, 4].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from relabel.lat.model import DELTA_SCALE, decode_deltas, encode_deltas

# Pairs of a source and a target class from which their style is measured.
LEAST = 20
# Two styles lie this many standard deviations apart; a normal distribution cut in two has halves
# that are some two and a half of their own apart.
_TWO_STYLES = 4.5


@dataclass(frozen=True, eq=False)
class BoxError:
    """How transferred boxes deviate from annotations of the target, as deltas; float64 [4] each.

    Attributes:
        bias: median.
        spread: robust standard deviation (median absolute deviation times 1.4826).
    """

    bias: np.ndarray
    spread: np.ndarray

    def to_dict(self) -> dict[str, list[float]]:
        return {f.name: np.round(getattr(self, f.name), 6).tolist() for f in fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Sequence[float]]) -> BoxError:
        return cls(*(np.array(values[f.name], dtype=np.float64) for f in fields(cls)))


def box_error(boxes: np.ndarray, goals: np.ndarray) -> BoxError | None:
    """Error of predicted boxes [k, 4] on the objects that they found; None below `LEAST`."""
    every = deltas(boxes.astype(np.float64), goals.astype(np.float64))
    if len(every) < LEAST:
        return None
    return BoxError(np.median(every, axis=0), _spread(every))


def restyle(
    boxes: np.ndarray,
    classes: np.ndarray,
    scores: np.ndarray,
    rows: np.ndarray,
    source_boxes: np.ndarray,
    source_classes: np.ndarray,
    error: BoxError,
    seen: np.ndarray,
    placed: Mapping[tuple[int, int], np.ndarray] | None = None,
) -> np.ndarray:
    """Labels' boxes averaged with those of the annotations they lie on.

    For every source and target class that meet at least `LEAST` times, the median delta from
    annotation to label is their difference in style, and the spread around it comes from both
    boxes: ``var = var(annotation) + var(label)``. The label's part is known from images of the
    target, so the annotation, in the target's style, gets the weight
    ``var(label) / var``, at most one, that makes the mean of two measurements most precise.
    Of several labels of one class on one annotation only the surest is moved.

    A network also errs in the same direction for a whole class. So the style is measured twice,
    from the labels and from the target's specialist, and how the two differ shows how far such
    errors go. An edge that they may explain, see `moves_surely`, stays where the annotator drew
    it; the others go half way between the two. Both networks err alike on images unlike the
    target's; so an edge stays, too, where the source's specialist, on images of the target, draws
    none that it would have to move.

    Args:
        boxes, classes, scores: labels, xyxy [k, 4], [k], [k].
        rows: box row of the annotation each label lies on, int64 [k], -1 where there is none.
        source_boxes, source_classes: annotations by box row, xyxy [n, 4] and [n].
        seen: the target's specialist's box of each label, xyxy [k, 4]; NaN where it has none.
        placed: delta [4] from what plays an annotation to the object, by their classes.

    Returns:
        float64 [k, 4].
    """
    out = boxes.astype(np.float64)
    at = np.flatnonzero(rows >= 0)
    at = at[np.argsort(-scores[at], kind="stable")]
    _, first = np.unique(np.stack([rows[at], classes[at]]), axis=1, return_index=True)
    at = at[np.sort(first)]
    pairs, of = np.unique(
        np.stack([source_classes[rows[at]], classes[at]], axis=1), axis=0, return_inverse=True
    )
    groups, measured, measures = [], [], []
    unknown = np.full(4, np.nan)
    for pair, here in ((pairs[k], at[of == k]) for k in range(len(pairs))):
        annotated = source_boxes[rows[here]].astype(np.float64)
        moved = deltas(annotated, boxes[here].astype(np.float64))
        parts = [part for part in styles(moved) if part.sum() >= LEAST]
        move = (placed or {}).get((int(pair[0]), int(pair[1]))) if len(parts) == 1 else None
        for part in parts:
            groups.append((here[part], annotated[part], moved[part]))
            has = part & ~np.isnan(seen[here, 0])
            measured.append(has.sum())
            other = unknown
            if has.sum() >= LEAST / 2:
                by = deltas(annotated[has], seen[here[has]].astype(np.float64))
                other = edges(np.median(by, axis=0))
            style = edges(np.median(moved[part], axis=0) + error.bias)
            measures.append([style, other, unknown if move is None else edges(move)])
    style, other, third = np.array(measures).reshape(-1, 3, 4).transpose(1, 0, 2)
    apart = (style - other)[np.array(measured, int) >= LEAST]
    other = np.where(np.isnan(other), _usual_style(style, other), other)
    third = np.where(np.isnan(third), style, third)
    least = np.abs([style, other, third]).min(axis=0) * (style * other > 0) * (style * third > 0)
    error_of_one = float(np.sqrt(np.mean(apart**2) / 2)) if len(apart) else 0.0
    goals = np.where(moves_surely(least, error_of_one), (style + other) / 2, 0.0)
    for (here, annotated, moved), by in zip(groups, goals, strict=True):
        goal = from_edges(by)
        spread = np.maximum(_spread(moved), 1e-6)
        weight = np.minimum((error.spread / spread) ** 2, 1.0)
        out[here] = apply(annotated, moved + weight * (goal - moved))
    return out


def _usual_style(style: np.ndarray, other: np.ndarray) -> np.ndarray:
    """What stands for a second measurement of a style [p, 4] where ``other`` lacks it (NaN).

    A convention draws most classes alike: the median of those that were measured twice; the style
    itself where none was.
    """
    twice = ~np.isnan(other).any(axis=1)
    return np.median(style[twice], axis=0) if twice.any() else style


def styles(moved: np.ndarray) -> list[np.ndarray]:
    """Deltas of a pair of classes [k, 4] by style, bool [k] each: one style or two.

    A source may draw a class in two ways where the target has one, such as bicycles, with their
    riders or parked. Then one of the deltas has two groups, cut where their variances are least
    (Otsu, 1979), that lie far apart.
    """
    every = [np.ones(len(moved), bool)]
    best, apart = every, _TWO_STYLES
    for values in moved.T if len(moved) >= 2 * LEAST else ():
        order = np.sort(values - np.median(values))
        sizes = np.arange(LEAST, len(order) - LEAST + 1)
        sums = np.cumsum(order)
        # The least variance within is the largest between: the squares' sum is the same.
        between = sums**2 / np.arange(1, len(order) + 1)
        between[:-1] += (sums[-1] - sums[:-1]) ** 2 / np.arange(len(order) - 1, 0, -1)
        cut = int(sizes[np.argmax(between[sizes - 1])])
        low = values - np.median(values) < order[cut]
        parts = [low, ~low]
        if min(part.sum() for part in parts) < LEAST:
            continue
        noise = max(float(_spread(values[part, None])[0]) for part in parts)
        far = abs(np.median(values[~low]) - np.median(values[low])) / max(noise, 1e-6)
        if far > apart:
            best, apart = parts, far
    return best


def moves_surely(sizes: np.ndarray, error: float) -> np.ndarray:
    """Which of several measured sizes (any shape) are no mere errors, bool.

    Sizes are errors, of standard deviation ``error``, or true ones with that error on top: two
    zero-mean normal distributions, whose shares and the second's width are fitted (EM), so that
    where most are true also those are that one alone would be taken for an error.
    """
    square, noise = sizes**2, max(error, 1e-6) ** 2
    share, wide = 0.5, max(float(square.mean()) if sizes.size else 0.0, 2 * noise)
    true = np.zeros(sizes.shape)
    for _ in range(100):
        far = share * np.exp(-square / (2 * wide)) / np.sqrt(wide)
        near = (1 - share) * np.exp(-square / (2 * noise)) / np.sqrt(noise)
        true = far / np.maximum(far + near, 1e-300)
        share = float(np.clip(true.mean(), 0.01, 0.99)) if sizes.size else share
        wide = max(float((true * square).sum() / max(true.sum(), 1e-9)), 2 * noise)
    return true > 0.5


def edges(by: np.ndarray) -> np.ndarray:
    """How far a delta [4] moves each edge: (x0, y0, x1, y1) in units of the box's size."""
    half = (np.exp(by[2:]) - 1) / 2
    return np.concatenate([by[:2] - half, by[:2] + half])


def from_edges(by: np.ndarray) -> np.ndarray:
    """Inverse of `edges`."""
    return np.concatenate([(by[:2] + by[2:]) / 2, np.log1p(by[2:] - by[:2])])


def deltas(boxes: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """Deltas from boxes to goals, both xyxy [k, 4]; `encode_deltas` without its units."""
    found = encode_deltas(torch.from_numpy(boxes), torch.from_numpy(goals))
    return (found * found.new_tensor(DELTA_SCALE)).numpy()


def apply(boxes: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Boxes xyxy [k, 4] moved by deltas; inverse of `deltas`."""
    moves = torch.from_numpy(by)
    return decode_deltas(torch.from_numpy(boxes), moves / moves.new_tensor(DELTA_SCALE)).numpy()


def _spread(values: np.ndarray) -> np.ndarray:
    return 1.4826 * np.median(np.abs(values - np.median(values, axis=0)), axis=0)
