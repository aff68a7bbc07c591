"""Error types of a detector: what is wrong with each false positive and each missed object.

After "TIDE: A General Toolbox for Identifying Object Detection Errors" (Bolya et al., ECCV 2020).
Detections are matched to the truth as for COCO's AP at the foreground IoU. Every false positive
then has one type, the first that fits:

- ``localization``: its best IoU with a truth box of its class is at least the background IoU and
  below the foreground IoU;
- ``classification``: its IoU with a truth box of another class is at least the foreground IoU;
- ``duplicate``: its IoU with a truth box of its class is at least the foreground IoU, and a better
  detection has that box;
- ``background``: its IoU with every truth box is below the background IoU;
- ``both``: none of these, hence the wrong class and a poor box.

``missed`` is a truth box without a match that no classification or localization error is about.

The importance of a type, dAP, is the AP gained when its errors alone are repaired. An unmatched
truth box belongs to the best of the classification and localization errors about it: that one
becomes a true positive when its type is repaired, and the type's others vanish. Duplicates,
background and both vanish, and missed boxes leave the truth. The numbers are those of the authors'
tool at one IoU, except that detections in ignore regions are no errors, those on images without
truth count, and classes without truth have no AP. Of federated truth (LVIS) the detections are left
out that AP leaves out: of classes that their image does not tell of, or without a match and of
classes that were not boxed exhaustively there.

hotcoco's ``tide_errors`` has neither counts nor dAP by class and takes crowd regions for objects
that a detection may be about; its confusion matrix counts detections in crowd regions as false and
duplicates as background. The types are therefore found here; without crowds both agree.

Shape legend: ``n`` detections, ``m`` truth boxes, ``K`` classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from relabel.datasets.dataset import Boxes
from relabel.datasets.formats.coco.as_written import CocoSource, Strict
from relabel.errors import DataError
from relabel.evaluation.detections import (
    MAX_DETECTIONS,
    precision_at_recalls,
    read_scored,
    told,
)
from relabel.evaluation.federated import MAX_FEDERATED, federated
from relabel.evaluation.regions import inside_regions, objects_and_regions
from relabel.evaluation.transfer import Transition
from relabel.geometry import BoxPairs, greedy_match, overlapping

FOREGROUND, BACKGROUND = 0.5, 0.1
ERROR_TYPES = ("classification", "localization", "both", "duplicate", "background", "missed")
_CLS, _LOC, _BOTH, _DUPE, _BKG, _MISS = range(6)
_HIT, _IGNORED = -1, -2
BACKGROUND_NAME, MISSED_NAME = "(background)", "(missed)"


@dataclass(frozen=True, eq=False)
class ErrorAnalysis:
    """Counts and importance of the error types.

    Attributes:
        AP50: AP at the foreground IoU, fraction; None without truth. COCO's AP50 at 0.5.
        counts: errors by type.
        dAP: AP gained by repairing one type, by type; and for ``false_positive`` (all of them
            ranked below every true positive) and ``false_negative`` (all unmatched truth boxes
            taken out). None without truth.
        per_class: by class: ``AP50``, ``truth``, ``counts`` by type (of the detection's class, of
            the truth's for missed), ``dAP`` by type.
        confusion: true class (rows, then background) by predicted class (columns, then missed),
            through class-blind matches at the foreground IoU of detections with ``min_score``.
        duplicates: by predicted class, detections with ``min_score`` left without a match although
            they overlap a truth box; they are in no row of ``confusion``.
        min_score: minimum score in ``confusion``; AP and the error types look at every detection.
        warnings: what the numbers do not show.
    """

    AP50: float | None
    counts: dict[str, int]
    dAP: dict[str, float | None]
    per_class: dict[str, dict[str, Any]]
    confusion: Transition
    duplicates: dict[str, int]
    min_score: float
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "AP50": self.AP50,
            "iou": {"foreground": FOREGROUND, "background": BACKGROUND},
            "counts": dict(self.counts),
            "dAP": dict(self.dAP),
            "per_class": {name: dict(values) for name, values in self.per_class.items()},
            "confusion": {
                **self.confusion.to_dict(),
                "min_score": self.min_score,
                "duplicates": dict(self.duplicates),
            },
        }


def evaluate_errors(
    truth: CocoSource,
    predictions: CocoSource | Sequence[Mapping[str, Any]],
    *,
    min_score: float = 0.3,
) -> ErrorAnalysis:
    """Error types of a results list, or of a COCO file with scores, against a COCO truth file.

    Args:
        truth, predictions: as for `relabel.evaluation.detections.evaluate_detections`.
        min_score: minimum score of the detections in the confusion table.

    Raises:
        DataError: a damaged file; predictions without a score, on unknown images, or of unknown
            categories.
    """
    problems = Strict()
    reference, detections = read_scored(truth, predictions, problems)
    if len(detections) and detections.score.max() > 1:
        raise DataError(
            f"scores go up to {detections.score.max():g}, and the least score of the confusion "
            "table is a fraction",
            file=predictions if isinstance(predictions, str | Path) else "the predictions given",
            remedy="Divide the scores by 100 if they are percent.",
        )
    names = tuple(reference.space.class_names)
    classes = len(names)
    rules = federated(reference)
    if rules is None:
        found = _best_of_each_cell(detections, classes)
    else:
        boxes, detections = rules.counted(reference.boxes, rules.best(detections))
        reference = reference.with_boxes(boxes)
        found = _best_of_each_cell(detections, classes, MAX_FEDERATED)
    real, regions = objects_and_regions(reference)
    pairs = overlapping(found.xyxy, found.image, real.xyxy, real.image, BACKGROUND)
    ignored = inside_regions(found, regions, classes, FOREGROUND)
    if rules is not None:
        ignored |= rules.forgiven(found)
    kind, about, matched = _types(found, real, pairs, ignored)
    usable = np.zeros(len(real), bool)
    usable[about[(kind == _CLS) | (kind == _LOC)]] = True
    missed = ~matched & ~usable
    curves = _Repairs(found, real, kind, about, matched, missed, classes)
    base = curves.base()
    change = {name: curves.repaired(t) - base for t, name in enumerate(ERROR_TYPES)}
    change["false_positive"] = curves.without_false_positives() - base
    change["false_negative"] = curves.without_truth(~matched) - base
    measured = np.bincount(real.category, minlength=classes) > 0
    per_type = [np.bincount(found.category[kind == t], minlength=classes) for t in range(_MISS)]
    per_type.append(np.bincount(real.category[missed], minlength=classes))
    confusion, duplicates = _confusion(names, found, real, pairs, ignored, min_score)
    return ErrorAnalysis(
        AP50=_mean(base, measured),
        counts={name: int(per_type[t].sum()) for t, name in enumerate(ERROR_TYPES)},
        dAP={name: _mean(values, measured) for name, values in change.items()},
        per_class={
            name: {
                "AP50": float(base[c]) if measured[c] else None,
                "truth": int(np.count_nonzero(real.category == c)),
                "counts": {kind: int(per_type[t][c]) for t, kind in enumerate(ERROR_TYPES)},
                "dAP": {
                    kind: float(change[kind][c]) if measured[c] else None for kind in ERROR_TYPES
                },
            }
            for c, name in enumerate(names)
        },
        confusion=confusion,
        duplicates=duplicates,
        min_score=min_score,
        warnings=told(problems),
    )


def _best_of_each_cell(detections: Boxes, classes: int, most: int = MAX_DETECTIONS[-1]) -> Boxes:
    """In COCO's order of equal scores, at most so many detections of an image and class."""
    order = np.lexsort((np.arange(len(detections)), detections.image, -detections.score))
    ordered = detections.take(order)
    cell = ordered.image.astype(np.int64) * max(classes, 1) + ordered.category
    by_cell = np.argsort(cell, kind="stable")
    place = np.arange(len(cell)) - np.searchsorted(cell[by_cell], cell[by_cell])
    kept = np.sort(by_cell[place < most])
    return ordered.take(kept)


def _types(
    found: Boxes, real: Boxes, pairs: BoxPairs, ignored: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Type [n] of each detection, the truth box it is about [n] or -1, and matched truth [m]."""
    n, m = len(found), len(real)
    # Detections come best first; their negative row numbers are scores without ties. Of truth
    # boxes with equal IoU pycocotools takes the last, `greedy_match` the first.
    same = found.category[pairs.left] == real.category[pairs.right]
    close = pairs.take(same & (pairs.iou >= FOREGROUND))
    turned = BoxPairs(close.left, m - 1 - close.right, close.iou)
    hits = greedy_match(turned, -np.arange(n, dtype=np.float64), m)
    matched = np.zeros(m, bool)
    matched[m - 1 - hits.right] = True
    own, own_box = _best(pairs.take(same), n)
    other, other_box = _best(pairs.take(~same), n)
    kind = np.full(n, _BOTH)
    # From the last test to the first: the first that fits decides.
    kind[(own == 0) & (other == 0)] = _BKG
    kind[own >= FOREGROUND] = _DUPE
    kind[other >= FOREGROUND] = _CLS
    kind[(own > 0) & (own < FOREGROUND)] = _LOC
    kind[ignored] = _IGNORED
    kind[hits.left] = _HIT
    about = np.full(n, -1)
    about[kind == _CLS] = other_box[kind == _CLS]
    about[kind == _LOC] = own_box[kind == _LOC]
    return kind, about, matched


def _best(pairs: BoxPairs, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Greatest IoU of each of n left boxes, 0 without a pair, and its right box, -1 without."""
    iou, right = np.zeros(n), np.full(n, -1)
    order = np.lexsort((-pairs.right, pairs.iou))
    # The last writer of a row stays.
    iou[pairs.left[order]] = pairs.iou[order]
    right[pairs.left[order]] = pairs.right[order]
    return iou, right


class _Repairs:
    """AP of each class, float [K], as it is and with errors repaired; 0 without truth."""

    def __init__(
        self,
        found: Boxes,
        real: Boxes,
        kind: np.ndarray,
        about: np.ndarray,
        matched: np.ndarray,
        missed: np.ndarray,
        classes: int,
    ) -> None:
        self.found, self.real, self.kind, self.about = found, real, kind, about
        self.matched, self.missed, self.classes = matched, missed, classes
        self.total = np.bincount(real.category, minlength=classes)

    def base(self) -> np.ndarray:
        return self._precision(self.found.category, self.kind == _HIT, self.kind != _IGNORED)

    def repaired(self, error: int) -> np.ndarray:
        if error == _MISS:
            return self.without_truth(self.missed)
        hit, counted = self.kind == _HIT, self.kind != _IGNORED
        mine = np.flatnonzero(self.kind == error)
        counted[mine] = False
        category = self.found.category.copy()
        if error in (_CLS, _LOC):
            rows = np.flatnonzero((self.kind == _CLS) | (self.kind == _LOC))
            rows = rows[~self.matched[self.about[rows]]]
            # Rows ascend from the best score: the first about a truth box is the best.
            _, first = np.unique(self.about[rows], return_index=True)
            best = rows[first]
            best = best[self.kind[best] == error]
            hit[best] = counted[best] = True
            category[best] = self.real.category[self.about[best]]
        return self._precision(category, hit, counted)

    def without_false_positives(self) -> np.ndarray:
        hit = self.kind == _HIT
        return self._precision(self.found.category, hit, hit)

    def without_truth(self, gone: np.ndarray) -> np.ndarray:
        total = self.total - np.bincount(self.real.category[gone], minlength=self.classes)
        counted = self.kind != _IGNORED
        values = self._precision(self.found.category, self.kind == _HIT, counted, total)
        # With no truth left, a class is perfect if nothing of it was detected either.
        detected = np.bincount(self.found.category[counted], minlength=self.classes)
        return np.where((total == 0) & (self.total > 0), detected == 0, values)

    def _precision(
        self,
        category: np.ndarray,
        hit: np.ndarray,
        counted: np.ndarray,
        total: np.ndarray | None = None,
    ) -> np.ndarray:
        total = self.total if total is None else total
        values = np.zeros(self.classes)
        for c in np.flatnonzero(total):
            values[c] = precision_at_recalls(hit[counted & (category == c)], int(total[c])).mean()
        return values


def _confusion(
    names: tuple[str, ...],
    found: Boxes,
    real: Boxes,
    pairs: BoxPairs,
    ignored: np.ndarray,
    min_score: float,
) -> tuple[Transition, dict[str, int]]:
    k = len(names)
    close = pairs.take((pairs.iou >= FOREGROUND) & (found.score >= min_score)[pairs.left])
    matches = greedy_match(close, found.score, len(real))
    counts = np.zeros((k + 1, k + 1), np.int64)
    np.add.at(counts, (real.category[matches.right], found.category[matches.left]), 1)
    free = np.ones(len(real), bool)
    free[matches.right] = False
    counts[:k, k] = np.bincount(real.category[free], minlength=k)
    rest = (found.score >= min_score) & ~ignored
    rest[matches.left] = False
    overlaps = np.zeros(len(found), bool)
    overlaps[close.left] = True
    counts[k, :k] = np.bincount(found.category[rest & ~overlaps], minlength=k)
    twice = np.bincount(found.category[rest & overlaps], minlength=k)
    return (
        Transition((*names, BACKGROUND_NAME), (*names, MISSED_NAME), counts),
        {name: int(twice[c]) for c, name in enumerate(names)},
    )


def _mean(values: np.ndarray, measured: np.ndarray) -> float | None:
    return float(values[measured].mean()) if measured.any() else None
