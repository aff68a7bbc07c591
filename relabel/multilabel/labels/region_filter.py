"""Which regions the region classifier learns from, and with which label.

Shape legend: ``R`` regions of many images, ``S`` selected unions, ``d`` channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from relabel.errors import ConfigError

RULES = ("original", "top1")


@dataclass(frozen=True)
class RegionUnions:
    """Training examples of the region classifier: unions of regions of one image with one label.

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


def select_columns(
    *,
    images: np.ndarray,
    labels: np.ndarray,
    own: np.ndarray,
    top_class: np.ndarray,
    top_score: np.ndarray,
    rule: str,
    threshold: float,
) -> RegionUnions:
    """The selected regions of many images, united by image and label.

    Args:
        images: int [R], the row of each region's image.
        labels: int [R], that image's own class y, negative where it has none.
        own: float [R], s_P(y), the region's score for it; see `label_maps.region_scores_batch`.
        top_class, top_score: [R], the most probable class, negative where there is none, and its
            probability.
        rule: ``original``: every region with s_P(y) > threshold gets y (the paper's rule).
            ``top1``: every region whose most probable class has p >= threshold gets that class,
            whatever the image's own label is, as the authors' public code does.
        threshold: tau_sel.

    Returns:
        Unions in order of image and class, their regions ascending.

    Raises:
        ConfigError: there is no such rule.
    """
    if rule not in RULES:
        raise ConfigError(
            f"no filter rule called {rule!r}", remedy=f"Choose one of {', '.join(RULES)}."
        )
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
    return RegionUnions(
        images=rows[starts].astype(np.int64),
        classes=classes[starts].astype(np.int64),
        offsets=np.append(starts, len(chosen)).astype(np.int64),
        regions=chosen.astype(np.int64),
    )


def union_features(features: np.ndarray, areas: np.ndarray, selection: RegionUnions) -> np.ndarray:
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
