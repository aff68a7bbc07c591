"""How good pseudo-labels are where the true labels of their images are known.

What a student learns from them depends on which are kept, how they are ranked and whether their
confidence says what it claims: so precision and recall over IoU, AP by each ranking, the rank
correlation of each confidence with the true IoU, and reliability. Confidences are those of Li et
al. (arXiv 2106.00168): class score p, localisation quality v, p * v and sqrt(p * v).

A label is right at an IoU threshold if it is matched there: one to one within its class, greedy by
confidence, then IoU. One without a match that lies at least half inside an ignore region of its
class is neither right nor wrong.

Shape legend: ``n`` labels, ``m`` true boxes, ``T`` IoU thresholds (10), ``C`` classes, ``b`` bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import numpy as np

from relabel.detectors.base import ranked
from relabel.evaluation.detections import DetectionMetrics, average_precision
from relabel.evaluation.joined_labels import JoinedLabels
from relabel.evaluation.regions import inside_regions, objects_and_regions
from relabel.geometry import greedy_match, overlapping
from relabel.settings import Ranking

RANKINGS: tuple[Ranking, ...] = get_args(Ranking)
IOUS = tuple(k / 100 for k in range(50, 100, 5))
BINS = 10
MOST_RARE = 10  # of classes, where their number is not given
_IGNORE_IOA = 0.5


@dataclass(frozen=True, eq=False)
class Judged:
    """What the truth says of each label.

    Attributes:
        confidence: float64 [n], by which labels are matched.
        best_iou: float64 [n], the largest IoU with a true box of the label's class, 0 for none.
        right: bool [T, n], matched at each IoU threshold.
        counted: bool [T, n], right or wrong; the others are in ignore regions.
        truths: int64 [C], true boxes of each class.
        taken: int64 [n], which of the true boxes that are objects (`objects_and_regions`) is a
            label's at IoU 0.5; -1 for none.
    """

    confidence: np.ndarray
    best_iou: np.ndarray
    right: np.ndarray
    counted: np.ndarray
    truths: np.ndarray
    taken: np.ndarray


@dataclass(frozen=True)
class Rates:
    """Precision, recall and F1 of the labels from one confidence on; None where undefined.

    Attributes:
        threshold: minimum confidence.
        labels: how many there are.
        precision, recall, f1: at each of `IOUS`.
    """

    threshold: float
    labels: int
    precision: tuple[float | None, ...]
    recall: tuple[float | None, ...]
    f1: tuple[float | None, ...]

    def means(self) -> tuple[float | None, float | None, float | None]:
        """Of each over the IoU thresholds."""
        return _mean(self.precision), _mean(self.recall), _mean(self.f1)

    def to_dict(self) -> dict[str, Any]:
        mean = dict(zip(("precision", "recall", "f1"), self.means(), strict=True))
        columns = zip(IOUS, self.precision, self.recall, self.f1, strict=True)
        return {
            "threshold": self.threshold,
            "labels": self.labels,
            "mean": mean,
            "at": {f"{t:g}": {"precision": p, "recall": r, "f1": f} for t, p, r, f in columns},
        }


@dataclass(frozen=True, eq=False)
class Reliability:
    """What was claimed against what was seen, in `BINS` bins of equal width.

    Attributes:
        count: int64 [b].
        claimed, seen: float64 [b], means; NaN in an empty bin.
    """

    count: np.ndarray
    claimed: np.ndarray
    seen: np.ndarray

    @property
    def error(self) -> float | None:
        """Expected calibration error: the mean over labels of how far their bin's means differ."""
        total = int(self.count.sum())
        if not total:
            return None
        return float(np.nansum(self.count * np.abs(self.claimed - self.seen)) / total)

    def to_dict(self) -> dict[str, Any]:
        bins = zip(self.count.tolist(), self.claimed.tolist(), self.seen.tolist(), strict=True)
        return {
            "error": self.error,
            "bins": [
                {"labels": n, "claimed": c if n else None, "seen": s if n else None}
                for n, c, s in bins
            ],
        }


@dataclass(frozen=True, eq=False)
class PseudoLabelMetrics:
    """Quality of pseudo-labels.

    Attributes:
        counts: images, true boxes, ignore regions, labels, labels in ignore regions.
        on: the confidence that thresholds, matching and reliability go by.
        rates: by threshold.
        correlation: Spearman's of each ranking with the true IoU (`Judged.best_iou`), by the labels
            it is over: ``all`` that count at IoU 0.5, and of these such as ``overlap`` a true box
            of their class at all. With ``labels``, how many these are.
        average: COCO's AP of all labels, by what they are ranked by.
        rare: the classes with the fewest true boxes, and at least one.
        reliability: confidence against the share right at IoU 0.5, over labels that count.
        localisation: v against the true IoU, over labels that overlap; None without v.
        per_class: by name: ``truth``, ``labels``, ``precision``, ``recall`` and ``mean_iou`` (of
            those that overlap), ``AP`` by ranking, ``reliability`` and ``localisation``.
        judged: of each label.
    """

    counts: dict[str, int]
    on: Ranking
    rates: tuple[Rates, ...]
    correlation: dict[str, dict[str, float | None]]
    average: dict[Ranking, DetectionMetrics]
    rare: tuple[str, ...]
    reliability: Reliability
    localisation: Reliability | None
    per_class: dict[str, dict[str, Any]]
    judged: Judged = field(repr=False)
    warnings: tuple[str, ...] = ()

    def rare_ap(self, ranking: Ranking) -> float | None:
        """Mean AP of the rare classes."""
        return _mean([self.average[ranking].per_class[name] for name in self.rare])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "counts": dict(self.counts),
            "confidence": self.on,
            "rates": [rates.to_dict() for rates in self.rates],
            "spearman": self.correlation,
            "AP": {
                ranking: {"AP": m.AP, "AP50": m.AP50, "AP75": m.AP75, "rare": self.rare_ap(ranking)}
                for ranking, m in self.average.items()
            },
            "rare_classes": list(self.rare),
            "reliability": self.reliability.to_dict(),
            "localisation": None if self.localisation is None else self.localisation.to_dict(),
            "per_class": {
                name: {k: v.to_dict() if isinstance(v, Reliability) else v for k, v in row.items()}
                for name, row in self.per_class.items()
            },
        }


def measure_pseudo_labels(
    joined: JoinedLabels,
    *,
    thresholds: Sequence[float] = (0.0,),
    rare: int | None = None,
    on: Ranking = "score",
) -> PseudoLabelMetrics:
    """Every measure of pseudo-labels.

    Args:
        joined: labels and truth.
        thresholds: minimum confidences of `Rates`; all other measures look at every label.
        rare: number of classes in the AP of rare ones; default a third of those with true boxes,
            `MOST_RARE` at most.
        on: the confidence of thresholds, matching and reliability; p where there is no v.
    """
    names = joined.truth.space.class_names
    judged = judge(joined, on)
    found, quality = joined.found, joined.quality
    shown: tuple[Ranking, ...] = RANKINGS if quality is not None else ("score",)
    sure = {ranking: ranked(found.score, quality, ranking) for ranking in shown}
    average: dict[Ranking, DetectionMetrics] = {}
    for ranking in shown:
        average[ranking] = average_precision(joined.truth, replace(found, score=sure[ranking]))
    counted = judged.counted[0]
    overlaps = counted & (judged.best_iou > 0)
    correlation: dict[str, dict[str, float | None]] = {}
    for what, rows in {"all": counted, "overlap": overlaps}.items():
        correlation[what] = {"labels": int(rows.sum())}
        for ranking, values in sure.items():
            correlation[what][ranking] = spearman(values[rows], judged.best_iou[rows])
    present = np.flatnonzero(judged.truths)
    few = present[np.argsort(judged.truths[present], kind="stable")]
    few = few[: min(MOST_RARE, -(-len(few) // 3)) if rare is None else rare]
    _, regions = objects_and_regions(joined.truth)
    return PseudoLabelMetrics(
        counts={
            "images": len(joined.truth),
            "truth": int(judged.truths.sum()),
            "ignore_regions": len(regions),
            "labels": len(found),
            "labels_ignored": int((~counted).sum()),
        },
        on=on if quality is not None else "score",
        rates=tuple(rates(judged, threshold) for threshold in thresholds),
        correlation=correlation,
        average=average,
        rare=tuple(names[c] for c in few.tolist()),
        reliability=reliability(judged.confidence[counted], judged.right[0][counted]),
        localisation=(
            None if quality is None else reliability(quality[overlaps], judged.best_iou[overlaps])
        ),
        per_class={
            name: _of_class(c, name, joined, judged, average) for c, name in enumerate(names)
        },
        judged=judged,
        warnings=(*joined.warnings, *average["score"].warnings),
    )


def judge(joined: JoinedLabels, on: Ranking) -> Judged:
    """Match labels with the truth at every IoU threshold."""
    found, classes = joined.found, joined.truth.space.num_classes
    real, regions = objects_and_regions(joined.truth)
    confidence = np.asarray(ranked(found.score, joined.quality, on), np.float64)

    def cells(boxes: Any) -> np.ndarray:
        return boxes.image.astype(np.int64) * max(classes, 1) + boxes.category

    pairs = overlapping(found.xyxy, cells(found), real.xyxy, cells(real), 0.0)
    best = np.zeros(len(found))
    np.maximum.at(best, pairs.left, pairs.iou)
    right = np.zeros((len(IOUS), len(found)), bool)
    taken = np.full(len(found), -1)
    for t, iou in enumerate(IOUS):
        matched = greedy_match(pairs.take(pairs.iou >= iou), confidence, len(real))
        right[t, matched.left] = True
        if t == 0:
            taken[matched.left] = matched.right
    aside = inside_regions(found, regions, classes, _IGNORE_IOA) | joined.forgiven
    truths = np.bincount(real.category, minlength=classes)
    return Judged(confidence, best, right, right | ~aside, truths, taken)


def rates(judged: Judged, threshold: float) -> Rates:
    """Precision, recall and F1 of the labels from a confidence on.

    Matching is greedy by confidence: what is below the threshold takes no true box from what is
    above, so the matches of all labels are those of a part, too.
    """
    kept = judged.confidence >= threshold
    hits = (judged.right & kept).sum(axis=1).tolist()
    wrong = (judged.counted & ~judged.right & kept).sum(axis=1).tolist()
    truths = int(judged.truths.sum())
    return Rates(
        threshold,
        int(kept.sum()),
        tuple(_ratio(h, h + w) for h, w in zip(hits, wrong, strict=True)),
        tuple(_ratio(h, truths) for h in hits),
        tuple(_ratio(2 * h, h + w + truths) for h, w in zip(hits, wrong, strict=True)),
    )


def reliability(claimed: np.ndarray, seen: np.ndarray, bins: int = BINS) -> Reliability:
    """Bin labels by what is claimed of them.

    Args:
        claimed: float [n] in [0, 1]; 1 is in the last bin.
        seen: bool or float [n], what is true: right or not, or an IoU.
    """
    place = np.minimum((np.asarray(claimed, np.float64) * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [
            np.bincount(place, np.asarray(v, np.float64), bins) / count for v in (claimed, seen)
        ]
    return Reliability(count, *means)


def reliability_of(joined: JoinedLabels, on: Ranking = "score") -> Reliability:
    """How often labels of a confidence are right at IoU 0.5; those in ignore regions left out."""
    judged = judge(joined, on)
    counted = judged.counted[0]
    return reliability(judged.confidence[counted], judged.right[0][counted])


def spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None where one does not vary."""
    from scipy.stats import rankdata

    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def _of_class(
    c: int,
    name: str,
    joined: JoinedLabels,
    judged: Judged,
    average: dict[Ranking, DetectionMetrics],
) -> dict[str, Any]:
    own = joined.found.category == c
    counted = own & judged.counted[0]
    overlaps = counted & (judged.best_iou > 0)
    hits = int((judged.right[0] & own).sum())
    quality = joined.quality
    return {
        "truth": int(judged.truths[c]),
        "labels": int(own.sum()),
        "precision": _ratio(hits, int(counted.sum())),
        "recall": _ratio(hits, int(judged.truths[c])),
        "mean_iou": _mean(judged.best_iou[overlaps].tolist()),
        "AP": {ranking: m.per_class[name] for ranking, m in average.items()},
        "reliability": reliability(judged.confidence[counted], judged.right[0][counted]),
        "localisation": (
            None if quality is None else reliability(quality[overlaps], judged.best_iou[overlaps])
        ),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
