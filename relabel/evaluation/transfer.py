"""Quality of relabelled boxes where the true target-space labels of the images are known.

Paired truth measures the transfer itself, before any detector is trained on its result
(precision, recall and F1 of the annotation set as it stands, class accuracy, and how close the
boxes are before and after); AP asks in addition how well the scores order the boxes. What became of
the source's annotations is in `relabel.evaluation.kept`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from relabel.datasets.dataset import Boxes, DetectionDataset
from relabel.datasets.formats.coco.as_written import (
    CocoSource,
    Strict,
    read_as_written,
    read_results,
)
from relabel.datasets.formats.coco.origins import with_provenance
from relabel.evaluation.detections import average_precision, told
from relabel.evaluation.federated import federated
from relabel.evaluation.joining import in_id_order, join_by_name
from relabel.evaluation.kept import (
    AnnotationsKept,
    SourceConfusion,
    annotations_kept,
    objects_of,
    source_confusion,
)
from relabel.evaluation.lrp import LrpError, lrp_error, optimal_lrp
from relabel.evaluation.regions import inside_regions, objects_and_regions
from relabel.geometry import BoxPairs, greedy_match, overlapping

THRESHOLDS = (0.5, 0.75)
_IGNORE_IOA = 0.5
Labels = DetectionDataset | CocoSource


@dataclass(frozen=True)
class MatchQuality:
    """Counts of one-to-one matches at one IoU threshold, and what follows from them.

    Attributes:
        true_positives: predictions matched to a truth box of their class.
        false_positives: the others, without those in ignore regions.
        false_negatives: truth boxes without a match of their class.
        same_class, matched: of the class-blind matches, those of equal class, and all.
    """

    true_positives: int
    false_positives: int
    false_negatives: int
    same_class: int
    matched: int

    @property
    def precision(self) -> float | None:
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float | None:
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float | None:
        wrong = self.false_positives + self.false_negatives
        return _ratio(2 * self.true_positives, 2 * self.true_positives + wrong)

    @property
    def class_accuracy(self) -> float | None:
        return _ratio(self.same_class, self.matched)

    def to_dict(self) -> dict[str, Any]:
        names = ("precision", "recall", "f1", "class_accuracy")
        counts = ("true_positives", "false_positives", "false_negatives", "matched")
        return {name: getattr(self, name) for name in (*names, *counts)}


@dataclass(frozen=True, eq=False)
class Transition:
    """How often an object of a source class is of a truth class: counts int64 [rows, columns]."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        return {
            "rows": list(self.rows),
            "columns": list(self.columns),
            "counts": self.counts.tolist(),
        }


@dataclass(frozen=True, eq=False)
class TransferMetrics:
    """Quality of one relabelled annotation set.

    Attributes:
        name: what was evaluated.
        AP, AP50, AP75: COCO's, in the target space.
        at: `MatchQuality` by IoU threshold, "0.5" and "0.75".
        mean_iou: mean IoU of class-blind matches at IoU >= 0.5: ``after`` of the predictions,
            ``before`` of the source's own boxes, and both over the truth objects matched in both
            (``after_common``, ``before_common``): the plain means are over different objects, as
            a set that finds more of the hard ones has the lower mean. None without source.
        lrp: the LRP error of the set as it stands, and where its boxes have scores, the least that
            leaving out low ones can have.
        annotations: the source's annotations that left a label, and those that did not; None
            without source.
        per_class: by truth class: AP, the LRP error, and precision, recall and F1 at IoU 0.5.
        transition: source class by truth class, through the source boxes' matches, or through
            the predictions' provenance where there is no source; else None.
        confusion: predicted class by truth class, through class-blind matches at IoU 0.5.
        by_source: the same for the objects of each source class, with those of no label and of no
            annotation; None without source.
        counts: images, boxes of truth and predictions, ignored and so on.
        warnings: what a reader of the numbers should know.
    """

    name: str
    AP: float | None
    AP50: float | None
    AP75: float | None
    at: dict[str, MatchQuality]
    mean_iou: dict[str, float | None]
    lrp: LrpError
    annotations: AnnotationsKept | None
    per_class: dict[str, dict[str, float | None]]
    transition: Transition | None
    confusion: Transition
    by_source: SourceConfusion | None
    counts: dict[str, int]
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        del values["name"], values["warnings"]
        return values | {
            "at": {key: quality.to_dict() for key, quality in self.at.items()},
            "transition": None if self.transition is None else self.transition.to_dict(),
            "confusion": self.confusion.to_dict(),
            "lrp": self.lrp.to_dict(),
            "annotations": None if self.annotations is None else self.annotations.to_dict(),
            "by_source": None if self.by_source is None else self.by_source.to_dict(),
        }


def evaluate_transfer(
    truth: Labels,
    predictions: Labels | Sequence[Mapping[str, Any]],
    source: Labels | None = None,
    *,
    name: str | None = None,
) -> TransferMetrics:
    """Compare a relabelled annotation set with the truth in the target space.

    Images are joined by ``file_name``, categories by name. Matching is one-to-one, greedy by
    score, then IoU; boxes without a score count as 1. Precision, recall and F1 look at every box
    of the set and match within a class; class accuracy and mean IoU match across classes.
    Predictions left without a match that lie at least half inside an ignore region of their class
    count neither way; of federated truth (LVIS) neither do those of classes that their image does
    not tell of, or does not tell all of. Ignore regions among the predictions are no claims and are
    left out.

    Args:
        truth: the true labels: dataset, path of a COCO file, or its content.
        predictions: the relabelled set, likewise, or a results list in the truth's ids.
        source: the images' labels before relabelling, in their own space.
        name: what to call the result; default the predictions' name.

    Raises:
        DataError: a damaged file, no image in common, an unknown category.
    """
    problems = Strict()
    reference = _read(truth, problems)
    raw = _read(predictions, problems, reference)
    classes, names = reference.space.num_classes, tuple(reference.space.class_names)
    joined, warnings = join_by_name(raw, reference)
    made = every = _claims(joined, classes)
    have_scores = bool(np.isfinite(joined.score).any())
    average = average_precision(reference, every)
    rules = federated(reference)
    if rules is not None:
        boxes, made = rules.counted(reference.boxes, made)
        reference = reference.with_boxes(boxes)
        if len(every) > len(made):
            warnings.append(
                f"{len(every) - len(made)} boxes of {raw.name} are of classes that "
                f"{reference.name} does not tell of in their images; left out"
            )
    real, regions = objects_and_regions(reference)
    total = np.bincount(real.category, minlength=classes)
    blind = _pairs(made, real)
    at = {}
    ignored = inside_regions(made, regions, classes, _IGNORE_IOA)
    if rules is not None:
        ignored |= rules.forgiven(made)
    for threshold in THRESHOLDS:
        close = blind.take(blind.iou >= threshold)
        hits = _same_class(close, made, real)
        any_class = greedy_match(close, made.score, len(real))
        same = made.category[any_class.left] == real.category[any_class.right]
        wrong = _unmatched(hits, len(made)) & ~ignored
        at[f"{threshold:g}"] = MatchQuality(
            true_positives=len(hits.left),
            false_positives=int(wrong.sum()),
            false_negatives=len(real) - len(hits.left),
            same_class=int(same.sum()),
            matched=len(any_class.left),
        )
    half = greedy_match(blind, made.score, len(real))
    hits = _same_class(blind, made, real)
    wrong = _unmatched(hits, len(made)) & ~ignored
    judged = _judged(made, hits, wrong)
    optimal = optimal_lrp(total, *judged) if have_scores else None
    lrp = lrp_error(names, total, *judged[:2], optimal)
    before = None if source is None else _before(source, reference, real, problems)
    transition, kept, by_source = None, None, None
    if before is not None:
        pairs = before.matches
        transition = Transition(
            before.names,
            names,
            _count(
                before.boxes.category[pairs.left],
                real.category[pairs.right],
                len(before.names),
                classes,
            ),
        )
        objects = objects_of(before.boxes, real)
        kept = annotations_kept(before.names, before.boxes, every, real, objects)
        given = np.full(len(real), -1)
        given[half.right] = made.category[half.left]
        by_source = source_confusion(before.names, names, before.boxes, real, objects, given)
    elif made.provenance is not None:
        transition = _by_provenance(made.provenance.source_category, real, half, names)
    return TransferMetrics(
        name=name or raw.name,
        AP=average.AP,
        AP50=average.AP50,
        AP75=average.AP75,
        at=at,
        mean_iou=_mean_iou(before, half, len(real)),
        lrp=lrp,
        annotations=kept,
        per_class=_per_class(names, total, made, hits, wrong, average.per_class, lrp),
        transition=transition,
        confusion=Transition(
            names,
            names,
            _count(made.category[half.left], real.category[half.right], classes, classes),
        ),
        by_source=by_source,
        counts={
            "images": len(reference),
            "truth": len(real),
            "ignore_regions": len(regions),
            "predictions": len(made),
            "predictions_ignored": int((ignored & _unmatched(half, len(made))).sum()),
            "source": 0 if before is None else len(before.boxes),
        },
        warnings=tuple(
            dict.fromkeys(
                (
                    *told(problems),
                    *warnings,
                    *([] if before is None else before.warnings),
                    *average.warnings,
                )
            )
        ),
    )


def compare_transfer(
    truth: Labels, source: Labels | None, results: Mapping[str, Labels]
) -> list[TransferMetrics]:
    """`evaluate_transfer` of several annotation sets of the same images, in the order given."""
    reference = _read(truth, Strict())
    before = None if source is None else _read(source, Strict())
    return [evaluate_transfer(reference, r, before, name=n) for n, r in results.items()]


def _pairs(boxes: Boxes, real: Boxes) -> BoxPairs:
    """Overlaps with the truth, class-blind."""
    return overlapping(boxes.xyxy, boxes.image, real.xyxy, real.image, min(THRESHOLDS))


def _read(labels: Any, problems: Strict, truth: DetectionDataset | None = None) -> DetectionDataset:
    if isinstance(labels, DetectionDataset):
        return in_id_order(with_provenance(labels))
    if truth is None:
        return read_as_written(labels, problems)
    return read_results(labels, truth, problems)


def _claims(boxes: Boxes, classes: int) -> Boxes:
    """The boxes that claim an object, with a score each."""
    kept = boxes.take(np.flatnonzero(~boxes.ignore & (boxes.category < classes)))
    return replace(kept, score=np.where(np.isnan(kept.score), 1.0, kept.score))


@dataclass(frozen=True, eq=False)
class _Before:
    """A source's boxes on the truth's images, their class names, and their matches with it."""

    boxes: Boxes
    names: tuple[str, ...]
    matches: BoxPairs
    warnings: list[str]


def _before(source: Labels, truth: DetectionDataset, real: Boxes, problems: Strict) -> _Before:
    labels = _read(source, problems)
    joined, warnings = join_by_name(labels, truth, categories=False)
    boxes = _claims(joined, labels.space.num_classes)
    matches = greedy_match(_pairs(boxes, real), np.ones(len(boxes)), len(real))
    return _Before(boxes, tuple(labels.space.class_names), matches, warnings)


def _same_class(close: BoxPairs, made: Boxes, real: Boxes) -> BoxPairs:
    """Matches within a class."""
    within = close.take(made.category[close.left] == real.category[close.right])
    return greedy_match(within, made.score, len(real))


def _judged(
    boxes: Boxes, hits: BoxPairs, wrong: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class, IoU (0 if wrong) and score of the boxes that count."""
    iou = np.zeros(len(boxes))
    iou[hits.left] = hits.iou
    rows = np.flatnonzero((iou > 0) | wrong)
    return boxes.category[rows], iou[rows], boxes.score[rows]


def _by_provenance(
    names: Sequence[str], real: Boxes, matches: BoxPairs, columns: tuple[str, ...]
) -> Transition:
    rows = tuple(sorted({n for n in names if n}))
    position = {n: i for i, n in enumerate(rows)}
    sources = np.array([position.get(names[int(i)], -1) for i in matches.left], dtype=np.int64)
    known = sources >= 0
    counts = _count(sources[known], real.category[matches.right][known], len(rows), len(columns))
    return Transition(rows, columns, counts)


def _mean_iou(before: _Before | None, after: BoxPairs, n: int) -> dict[str, float | None]:
    names = ("before", "after", "before_common", "after_common", "common")
    if before is None:
        return dict.fromkeys(names) | {"after": _mean(after.iou)}
    old, new = np.full(n, np.nan), np.full(n, np.nan)
    old[before.matches.right] = before.matches.iou
    new[after.right] = after.iou
    both = ~np.isnan(old) & ~np.isnan(new)
    means = map(_mean, (before.matches.iou, after.iou, old[both], new[both]))
    return dict(zip(names, (*means, int(both.sum())), strict=True))


def _per_class(
    names: Sequence[str],
    total: np.ndarray,
    made: Boxes,
    hits: BoxPairs,
    wrong: np.ndarray,
    average: Mapping[str, float | None],
    lrp: LrpError,
) -> dict[str, dict[str, float | None]]:
    k = len(names)
    found = np.bincount(made.category[hits.left], minlength=k)
    false = np.bincount(made.category[wrong], minlength=k)
    return {
        name: {
            "AP": average[name],
            "lrp": lrp.per_class[name],
            "precision": _ratio(int(found[c]), int(found[c] + false[c])),
            "recall": _ratio(int(found[c]), int(total[c])),
            "f1": _ratio(2 * int(found[c]), int(found[c] + false[c] + total[c])),
            "truth": int(total[c]),
            "predictions": int(found[c] + false[c]),
        }
        for c, name in enumerate(names)
    }


def _unmatched(matches: BoxPairs, n: int) -> np.ndarray:
    free = np.ones(n, bool)
    free[matches.left] = False
    return free


def _count(rows: np.ndarray, columns: np.ndarray, m: int, n: int) -> np.ndarray:
    return np.bincount(rows.astype(np.int64) * n + columns, minlength=m * n).reshape(m, n)


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
