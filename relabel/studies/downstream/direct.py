"""Direct and downstream quality side by side: do better labels make better detectors?

Direct quality is that of the labels an arm trains on, against the true labels of the sources where
those are known. It is only reported: nothing is chosen or trained by it. Correlations are over
arms, and over the comparisons of a protocol, with the change in test AP to the target alone, which
makes comparisons of different levels comparable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.evaluation.tables import NONE, Rows, percentage
from relabel.evaluation.transfer import TransferMetrics, compare_transfer
from relabel.studies.downstream.results import BASE, Comparison
from relabel.studies.means import Mean, mean_percentage

DIRECT = ("F1@0.5", "F1@0.75", "mean IoU", "LRP error", "label AP")
"""Of the labels, fractions; of all but the LRP error more is better."""
_LEAST_POINTS = 3
Quality = dict[str, float | None]


@dataclass(frozen=True)
class Point:
    """An arm of a comparison.

    Attributes:
        arm, comparison: names; a comparison on its own needs none.
        direct: of `DIRECT`, mean over the sources whose truth is known.
        downstream: change in test AP to the base arm, or AP where there is none; fraction.
    """

    arm: str
    comparison: str
    direct: Quality
    downstream: float


@dataclass(frozen=True)
class Correlation:
    """Of one measure of the labels with downstream AP; None with fewer than three points."""

    pearson: float | None
    spearman: float | None
    points: int


def direct_quality(
    labels: Mapping[str, Mapping[str, DetectionDataset]], truth: Mapping[str, Path]
) -> dict[str, dict[str, Quality]]:
    """By arm and source: `DIRECT` of the labels against the source's true labels.

    Args:
        labels: by arm and source, in the target's label space. Regions to leave out are no labels.
        truth: a COCO file in the target's label space, by source.

    Raises:
        DataError: a damaged file, no image in common, an unknown category.
    """
    found: dict[str, dict[str, Quality]] = {arm: {} for arm in labels}
    for source, file in truth.items():
        results = {arm: sets[source] for arm, sets in labels.items() if source in sets}
        for metrics in compare_transfer(str(file), None, results):
            found[metrics.name][source] = _quality(metrics)
    return {arm: sources for arm, sources in found.items() if sources}


def _quality(metrics: TransferMetrics) -> Quality:
    values = (
        metrics.at["0.5"].f1,
        metrics.at["0.75"].f1,
        metrics.mean_iou["after"],
        metrics.lrp.total,
        metrics.AP,
    )
    return dict(zip(DIRECT, values, strict=True))


def points_of(comparison: Comparison, name: str = "") -> list[Point]:
    """The arms of a comparison that have both qualities."""
    found = []
    measure = comparison.difference if comparison.relative else comparison.mean
    for arm, sources in comparison.about.get("direct", {}).items():
        mean = measure(arm) if arm in comparison.arms else None
        if mean is not None:
            direct = {key: _mean([q[key] for q in sources.values()]) for key in DIRECT}
            found.append(Point(arm, name, direct, mean.mean))
    return found


def correlations(points: Sequence[Point]) -> dict[str, Correlation]:
    """By measure of the labels, its correlation with downstream AP over the points."""
    from scipy.stats import rankdata

    found = {}
    for key in DIRECT:
        known = [(v, p.downstream) for p in points if (v := p.direct[key]) is not None]
        x, y = np.array(known, np.float64).reshape(-1, 2).T
        pearson = _pearson(x, y)
        spearman = _pearson(rankdata(x), rankdata(y)) if len(x) else None
        found[key] = Correlation(pearson, spearman, len(known))
    return found


def direct_rows(comparison: Comparison, *, brief: bool = False) -> Rows:
    """A row per arm and source: quality of the labels, then test AP of the arm.

    Args:
        brief: short names, and of test AP only the change, where there is one, as a mean.
    """

    def cell(value: Mean | None, *, signed: bool = False) -> str:
        if brief and value:
            value = replace(value, std=None)
        return mean_percentage(value, signed=signed)

    after = ["test AP"] if not (brief and comparison.relative) else []
    after += ["change" if brief else f"to {BASE}"] if comparison.relative else []
    rows = []
    for arm, sources in comparison.about.get("direct", {}).items():
        if arm not in comparison.arms:
            continue
        downstream = [cell(comparison.mean(arm))]
        if comparison.relative:
            downstream.append(cell(comparison.difference(arm), signed=True))
        for source, quality in sources.items():
            values = [percentage(quality[k]) for k in DIRECT]
            rows.append([arm, source, *values, *downstream[-len(after) :]])
    names = ("F1@.5", "F1@.75", "IoU", "LRP", "AP") if brief else DIRECT
    return ["arm", "source", *names, *after], rows


def quality_rows(direct: Mapping[str, Mapping[str, Quality]]) -> Rows:
    """A row per arm and source of `direct_quality`."""
    rows = [
        [arm, source, *(percentage(quality[k]) for k in DIRECT)]
        for arm, sources in direct.items()
        for source, quality in sources.items()
    ]
    return ["arm", "source", *DIRECT], rows


def correlation_rows(found: Mapping[str, Correlation]) -> Rows:
    """A row per measure of the labels."""
    rows = [
        [key, *(NONE if v is None else f"{v:+.2f}" for v in (c.pearson, c.spearman)), str(c.points)]
        for key, c in found.items()
    ]
    return ["labels", "Pearson", "Spearman", "points"], rows


def _pearson(x: np.ndarray, y: np.ndarray) -> float | None:
    if len(x) < _LEAST_POINTS or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
