"""Multi-label predictions against the truth: bring both onto the same images and classes, measure.

Shape legend: ``N`` evaluated images, ``C`` classes, ``K`` classes of the predictions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.sparse import csr_array

from relabel.datasets.classes import MOST_CLASSES
from relabel.datasets.multilabels import label_matrix, label_rows, label_shape
from relabel.datasets.partial.files import read_partial
from relabel.errors import ConfigError, DataError, did_you_mean
from relabel.evaluation.multilabel.entries import THRESHOLD, EntryMetrics, measure_closed
from relabel.evaluation.multilabel.joining import join_images
from relabel.evaluation.multilabel.metrics import MultiLabelMetrics, measure_labels
from relabel.evaluation.multilabel.predictions import Predictions, read_predictions
from relabel.evaluation.multilabel.scores import DenseScores, Scores, SparseScores
from relabel.evaluation.multilabel.truths import IMAGENET_CLASSES, Truths, read_truths

ClassesBy = Literal["auto", "name", "position"]
_LISTED = 20


@dataclass(frozen=True, eq=False)
class MultiLabelResult:
    """Metrics and how they came about.

    Attributes:
        metrics: the numbers of the images that have a true class.
        recognition: mAP, CF1 and OF1 of all images whose classes are known.
        threshold: score from which a class counted as predicted.
        truth_format: how the truth was read.
        class_names: C names, or None where classes are numbers.
        missing: names of images that had no prediction and counted as empty ones.
        unknown: predictions for images that the truth does not have.
        warnings: what the user should know.
    """

    metrics: MultiLabelMetrics
    recognition: EntryMetrics
    threshold: float
    truth_format: str
    class_names: list[str] | None
    missing: list[str]
    unknown: int
    warnings: list[str] = field(default_factory=list)

    def class_aps(self) -> dict[str, float]:
        """AP of the classes that are in some image, by name or number."""
        values = self.metrics.class_AP
        found = np.flatnonzero(~np.isnan(values)).tolist()
        names = self.class_names or [str(i) for i in range(len(values))]
        return {names[i]: float(values[i]) for i in found}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; fractions, None where there is nothing to average."""
        metrics = self.metrics
        names = ("images", "top1", "example_mAP", "class_mAP", "buckets", "fine_buckets")
        return {
            **{name: getattr(metrics, name) for name in (*names, "bucket_images", "skipped")},
            "missing": len(self.missing),
            "missing_images": self.missing[:_LISTED],
            "unknown": self.unknown,
            "truth_format": self.truth_format,
            **self.recognition.to_dict(),
            "class_AP": self.class_aps(),
        }


def evaluate_multilabel(
    truth: str | Path,
    predictions: str | Path,
    *,
    truth_format: str | None = None,
    truth_threshold: float = 0.5,
    classes: int | None = None,
    classes_by: ClassesBy = "auto",
    allow_missing: bool = False,
    known: str | Path | None = None,
    threshold: float = THRESHOLD,
) -> MultiLabelResult:
    """Evaluate a file of predictions.

    Args:
        truth, predictions: files, see `read_truths` and `read_predictions`.
        truth_format: default found out from the content.
        truth_threshold: of a TSV as truth.
        classes: number of classes, where neither file says.
        classes_by: how classes correspond; ``auto`` takes names where both sides have them.
        allow_missing: images without a prediction count as images for which nothing is predicted.
        known: a label file; only entries about which it says nothing count.
        threshold: score from which a class is predicted, for CF1 and OF1.

    Raises:
        ConfigError: settings that do not fit the files.
        DataError: files that are damaged or do not fit each other; images without prediction.
    """
    if classes is not None and classes > MOST_CLASSES:
        raise ConfigError(f"--classes is {classes}; at most {MOST_CLASSES} can be measured")
    if not math.isfinite(threshold):
        raise ConfigError(f"--threshold is {threshold}", remedy="Give a number.")
    true = read_truths(truth, truth_format, threshold=truth_threshold)
    given = read_predictions(predictions)
    warnings = list(true.notes)
    if known is not None:
        true = _unknown_alone(true, Path(known).expanduser(), classes_by, warnings)

    record, unknown = join_images(
        true.file_names, given.file_names, truth_file=true.file, predictions_file=given.file
    )
    kept = np.flatnonzero(np.diff(true.labels.indptr))
    if not len(kept):
        raise DataError(
            "no image has a label" if known is None else f"has no label that {known} does not know",
            file=true.file,
        )
    missing = [true.file_names[int(i)] for i in kept[record[kept] < 0]]
    if len(missing) == len(kept):
        raise DataError(
            f"has no image in common with {true.file}; its first is "
            f"{given.file_names[0]!r}, there it is {missing[0]!r}"
            if given.file_names
            else "holds no predictions",
            file=given.file,
            remedy="Images are joined by file name.",
        )
    if missing and not allow_missing:
        raise DataError(
            f"has no prediction for {len(missing)} of {len(kept)} images of {true.file}; "
            f"the first is {missing[0]!r}",
            file=given.file,
            remedy="Predict them, or count them as empty predictions with --allow-missing.",
        )
    if missing:
        warnings.append(
            f"{len(missing)} of {len(kept)} images have no prediction and count as empty ones; "
            f"the first is {missing[0]!r}"
        )
    if unknown:
        warnings.append(
            f"{len(unknown)} predictions are for images that {true.file} does not have and "
            f"are left out; the first is {given.file_names[unknown[0]]!r}"
        )

    scores, count = _scores(true, given, record[kept], classes, classes_by, warnings)
    remedy = "Give predictions over all classes, or --classes if there are more."
    _check_ids(true.labels, count, true.file, true.file_names, remedy)
    metrics = measure_labels(
        _over(true.labels[kept], count),
        scores,
        ignored=None if true.ignored is None else _over(true.ignored[kept], count),
        skipped=len(true.file_names) - len(kept),
    )
    # An image without a class is one more that may be ranked above those with it.
    judged = np.flatnonzero((np.diff(true.labels.indptr) > 0) | (true.tells_empty & (record >= 0)))
    if len(judged) > len(kept):
        scores, _ = _scores(true, given, record[judged], classes, classes_by, warnings)
    recognition = measure_closed(
        _over(true.labels[judged], count),
        scores,
        ignored=None if true.ignored is None else _over(true.ignored[judged], count),
        threshold=threshold,
    )
    names = true.space.class_names if true.space is not None else None
    return MultiLabelResult(
        metrics,
        recognition,
        threshold,
        true.format,
        names,
        missing,
        len(unknown),
        list(dict.fromkeys(warnings)),
    )


def _scores(
    true: Truths,
    given: Predictions,
    record: np.ndarray,
    classes: int | None,
    classes_by: ClassesBy,
    warnings: list[str],
) -> tuple[Scores, int]:
    """The scores of the evaluated images over the truth's classes, and how many those are."""
    named = true.space is not None and given.class_names is not None
    if classes_by == "name" and not named:
        raise ConfigError(
            "classes cannot be joined by name: "
            + ("the truth" if true.space is None else "the predictions")
            + " has no class names",
            remedy="Use --classes-by position.",
        )
    position = None
    if true.space is not None:
        count = true.space.num_classes
        if named and classes_by != "position":
            position = _positions(true, given, warnings)
        elif classes is not None and classes != count:
            raise ConfigError(f"--classes is {classes}, but {true.file} has {count} classes")
    else:
        count = classes or given.num_classes or IMAGENET_CLASSES
    if position is None:
        _check_count(true, given, count, warnings)
        position = np.arange(given.scores.num_classes)
        if isinstance(given.scores, SparseScores):
            remedy = "Class ids are positions from 0 on; give --classes if there are more."
            _check_ids(given.scores.values, count, given.file, given.file_names, remedy)
    if isinstance(given.scores, DenseScores):
        columns = np.full(count, -1, dtype=np.int64)
        known = np.flatnonzero(position >= 0)
        columns[position[known]] = known
        return DenseScores(given.scores.values, record, columns), count
    return given.scores.renamed(position, count).take(record), count


def _unknown_alone(true: Truths, file: Path, classes_by: ClassesBy, warnings: list[str]) -> Truths:
    """The truth without what a label file knows: those entries are ignored.

    Raises:
        DataError: the file is damaged, or has no image or class in common with the truth.
    """
    known = read_partial(file)
    record, left = join_images(
        true.file_names, known.file_names, truth_file=true.file, predictions_file=file
    )
    if len(left) == len(known) > 0:
        raise DataError(
            f"has no image in common with {true.file}; its first is {known.file_names[0]!r}",
            file=file,
            remedy="Images are joined by file name.",
        )
    images, count = label_shape(true.labels)
    place = np.arange(known.num_classes)
    if true.space is not None:
        count = max(count, true.space.num_classes)
        numbered = known.classes == tuple(map(str, range(known.num_classes)))
        if classes_by == "name" or (classes_by == "auto" and not numbered):
            found = [true.space.get(name) for name in known.classes]
            place = np.array([count if k is None else k for k in found], np.int64)
    else:
        count = max(count, known.num_classes)
    place = np.where(place < count, place, -1)
    if (place < 0).all():
        raise DataError(
            f"has no class in common with {true.file}; its first is {known.classes[0]!r}",
            file=file,
            remedy="Take labels of the same classes.",
        )
    if (place < 0).any():
        warnings.append(
            f"{int((place < 0).sum())} of {known.num_classes} classes of {file} are not among "
            f"those of {true.file} and are left out"
        )
    row = np.full(len(known), -1, np.int64)
    row[record[record >= 0]] = np.flatnonzero(record >= 0)
    rows, labels = row[label_rows(known.known)], place[known.known.indices]
    keep = (rows >= 0) & (labels >= 0)
    away = label_matrix(rows[keep], labels[keep], (images, count))
    labels = _over(true.labels, count)
    ignored = away if true.ignored is None else csr_array(_over(true.ignored, count) + away)
    return replace(true, labels=csr_array(labels > labels.multiply(away)), ignored=ignored)


def _positions(true: Truths, given: Predictions, warnings: list[str]) -> np.ndarray:
    """int64 [K]: each predicted class's position in the truth's classes, -1 where it has none.

    Raises:
        DataError: a class that some image has is not predicted, or is predicted twice.
    """
    space, names = true.space, given.class_names
    assert space is not None
    assert names is not None
    found = [space.get(name) for name in names]
    position = np.array(
        [-1 if k is None or k >= space.num_classes else k for k in found], dtype=np.int64
    )
    known = position[position >= 0]
    labels, counts = np.unique(known, return_counts=True)
    if (counts > 1).any():
        name = space.names[int(labels[counts > 1][0])]
        raise DataError(f"two of the class names are {name!r} of {true.file}", file=given.file)
    lacking = np.setdiff1d(true.labels.indices, known)
    if len(lacking):
        name = space.names[int(lacking[0])]
        raise DataError(
            f"does not predict {len(lacking)} classes of {true.file}, such as {name!r}",
            file=given.file,
            remedy=f"{did_you_mean(name, names)} Or use --classes-by position.",
        )
    if len(known) < len(names):
        warnings.append(
            f"{len(names) - len(known)} of {len(names)} predicted classes are not among the "
            f"{space.num_classes} of {true.file} and are left out"
        )
    return position


def _check_count(true: Truths, given: Predictions, count: int, warnings: list[str]) -> None:
    """Whether predictions that say how many classes they have can mean these."""
    if given.num_classes is not None and given.num_classes != count:
        raise DataError(
            f"has scores for {given.num_classes} classes, expected {count}",
            file=given.file,
            remedy="A background class must be left out; class ids are positions from 0 on.",
        )
    if not true.imagenet or count == IMAGENET_CLASSES:
        return
    if count > IMAGENET_CLASSES:
        raise DataError(
            f"has scores for {count} classes, ImageNet has {IMAGENET_CLASSES}",
            file=given.file,
            remedy="A background class must be left out, so that class 0 is the tench.",
        )
    warnings.append(f"scores are over {count} classes; ImageNet has {IMAGENET_CLASSES}")


def _check_ids(
    labels: csr_array, count: int, file: Path, file_names: list[str], remedy: str
) -> None:
    bad = np.flatnonzero(labels.indices >= count)
    if len(bad):
        image = file_names[int(label_rows(labels)[bad[0]])]
        raise DataError(
            f"class id {labels.indices[bad[0]]} is out of range: there are {count} classes",
            file=file,
            record=f"image {image!r}",
            remedy=remedy,
        )


def _over(labels: csr_array, count: int) -> csr_array:
    """The same entries over ``count`` classes, without those of classes beyond."""
    if bool((labels.indices >= count).any()):
        labels = csr_array(labels[:, :count])
    parts = (labels.data, labels.indices, labels.indptr)
    return csr_array(parts, shape=(len(labels.indptr) - 1, count))
