"""Which regions the labeler learns from, and with which label.

Shape legend: ``R`` regions of many images, ``S`` selected unions, ``n`` regions of one image, ``C``
classes, ``d`` channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from relabel.errors import ConfigError

RULES = ("original", "top1")


@dataclass(frozen=True)
class Selection:
    """Training examples of the labeler: unions of regions of one image with one label.

    Attributes:
        images: int64 [S], the image's row.
        classes: int64 [S].
        offsets: int64 [S + 1] into ``regions``.
        regions: int64, rows of the regions of each union, ascending.
    """

    images: np.ndarray
    classes: np.ndarray
    offsets: np.ndarray
    regions: np.ndarray

    def __len__(self) -> int:
        return len(self.images)


def select_regions(
    scores: np.ndarray, image_label: int, rule: str, threshold: float
) -> list[tuple[int, list[int]]]:
    """The selected regions of one image, united by label: [(class, region indices)].

    Args:
        scores: float [n, C], s_P of each region; see `label_maps.region_scores`.
        image_label: the image's own class y; negative where it has none.
        rule: ``original``: every region with s_P(y) > threshold gets y (the paper's rule).
            ``top1``: every region whose most probable class has p >= threshold gets that class,
            whatever the image's own label is, as the authors' public code does.
        threshold: tau_sel.

    Classes come in ascending order, indices too.
    """
    scores = np.asarray(scores)
    n = len(scores)
    if not n:
        _check_rule(rule)
        return []
    labels = np.full(n, image_label)
    own = scores[:, image_label] if image_label >= 0 else np.zeros(n)
    top = scores.argmax(1)
    found = select_columns(
        images=np.zeros(n, dtype=np.int64),
        labels=labels,
        own=own,
        top_class=top,
        top_score=scores[np.arange(n), top],
        rule=rule,
        threshold=threshold,
    )
    bounds = zip(found.offsets[:-1], found.offsets[1:], strict=True)
    return [
        (int(c), found.regions[start:stop].tolist())
        for c, (start, stop) in zip(found.classes, bounds, strict=True)
    ]


def select_columns(
    *,
    images: np.ndarray,
    labels: np.ndarray,
    own: np.ndarray,
    top_class: np.ndarray,
    top_score: np.ndarray,
    rule: str,
    threshold: float,
) -> Selection:
    """`select_regions` for the regions of many images, from columns.

    Args:
        images: int [R], the row of each region's image.
        labels: int [R], that image's own class y, negative where it has none.
        own: float [R], s_P(y).
        top_class, top_score: [R], the most probable class, negative where there is none, and its
            probability.

    Returns:
        Unions in order of image and class.
    """
    _check_rule(rule)
    if rule == "original":
        chosen = np.flatnonzero((np.asarray(own) > threshold) & (np.asarray(labels) >= 0))
        classes = np.asarray(labels)[chosen]
    else:
        chosen = np.flatnonzero((np.asarray(top_score) >= threshold) & (np.asarray(top_class) >= 0))
        classes = np.asarray(top_class)[chosen]
    rows = np.asarray(images)[chosen]
    order = np.lexsort((chosen, classes, rows))
    chosen, classes, rows = chosen[order], classes[order], rows[order]
    new = np.ones(len(chosen), dtype=bool)
    new[1:] = (rows[1:] != rows[:-1]) | (classes[1:] != classes[:-1])
    starts = np.flatnonzero(new)
    return Selection(
        images=rows[starts].astype(np.int64),
        classes=classes[starts].astype(np.int64),
        offsets=np.append(starts, len(chosen)).astype(np.int64),
        regions=chosen.astype(np.int64),
    )


def union_features(features: np.ndarray, areas: np.ndarray, selection: Selection) -> np.ndarray:
    """float32 [S, d]: the pooled feature of each union of regions.

    The mean over a union of disjoint masks is the mean of the masks' means weighted by their
    areas, so nothing needs to be pooled again.

    Args:
        features: [R, d], z_P of each region (masked means of patch features).
        areas: [R], the weights they were pooled with: each region's area in patches, positive.
        selection: the unions.
    """
    rows = selection.regions
    if not len(selection):
        return np.zeros((0, features.shape[1]), dtype=np.float32)
    weight = np.asarray(areas)[rows].astype(np.float64)[:, None]
    starts = selection.offsets[:-1]
    sums = np.add.reduceat(features[rows].astype(np.float64) * weight, starts, axis=0)
    return (sums / np.add.reduceat(weight, starts, axis=0)).astype(np.float32)


def _check_rule(rule: str) -> None:
    if rule not in RULES:
        raise ConfigError(
            f"no filter rule called {rule!r}", remedy=f"Choose one of {', '.join(RULES)}."
        )
