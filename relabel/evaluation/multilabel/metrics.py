"""Top-1, example-based mAP and class-wise mAP of multi-label predictions.

Average precision is that of ranked retrieval without interpolation, with equal scores taken as one
step of the ranking, as scikit-learn's ``average_precision_score`` defines it: the precision at a
positive counts everything that scores as high as it or higher. The order of the classes or images
therefore never decides, and nothing is gained by giving everything the same score.

Images without a true class are skipped throughout. A class that is ignored in an image (see
`relabel.evaluation.multilabel.truths`) is neither right nor wrong there: it is taken out of that
image's ranking, and the image out of the class's ranking.

Shape legend: ``N`` images, ``C`` classes, ``p`` true (image, class) pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csc_array, csr_array

from relabel.datasets.multilabels import label_matrix, label_rows, label_shape
from relabel.errors import DataError
from relabel.evaluation.multilabel.scores import DenseScores, Scores

_CELLS = 1 << 22
BUCKETS: tuple[tuple[str, int, int | None], ...] = (("1", 1, 1), ("2", 2, 2), (">=3", 3, None))
FINE_BUCKETS = (*BUCKETS[:2], ("3", 3, 3), (">=4", 4, None))


@dataclass(frozen=True)
class MultiLabelMetrics:
    """Fractions over the images that have a true class.

    Attributes:
        images: how many those are.
        skipped: images without a true class.
        top1: share of images whose highest-scored class is true. Of equal scores the lowest class
            id counts; where all classes score the same, no class does.
        example_mAP: mean over images of the AP of their ranking of classes.
        class_mAP: mean over classes with a true image of the AP of their ranking of images.
        buckets: mean AP of the images with 1, 2 and at least 3 true classes; None without any.
        fine_buckets: the same for 1, 2, 3 and at least 4.
        bucket_images: images per bucket, of both partitions.
        class_AP: float64 [C]; NaN for a class that is in no image.
        class_images: int64 [C], images that a class is in.
        image_AP: float64 [images], in the truth's order.
    """

    images: int
    skipped: int
    top1: float
    example_mAP: float
    class_mAP: float
    buckets: dict[str, float | None]
    fine_buckets: dict[str, float | None]
    bucket_images: dict[str, int]
    class_AP: np.ndarray
    class_images: np.ndarray
    image_AP: np.ndarray


def score_matrix(truth: Sequence[Sequence[int]], scores: np.ndarray) -> MultiLabelMetrics:
    """The metrics of a matrix of scores.

    Args:
        truth: the true classes of each of N images, 0-based; images with none are skipped.
        scores: float [N, C].

    Raises:
        DataError: scores that are not finite, a class out of range, no image with a true class.
    """
    if scores.ndim != 2 or len(scores) != len(truth):
        raise DataError(f"scores are {list(scores.shape)}, expected [{len(truth)}, classes]")
    for image, labels in enumerate(truth):
        if any(not 0 <= label < scores.shape[1] for label in labels):
            raise DataError(
                f"classes {list(labels)} are not all within 0 to {scores.shape[1] - 1}",
                record=f"image {image}",
            )
    if not np.isfinite(scores).all():
        raise DataError("scores are not finite")
    counts = np.array([len(labels) for labels in truth])
    rows = np.repeat(np.arange(len(truth)), counts)
    ids = np.array([label for labels in truth for label in labels], np.int64)
    labels, kept = label_matrix(rows, ids, scores.shape), np.flatnonzero(counts)
    return measure_labels(labels[kept], DenseScores(scores, kept), skipped=len(truth) - len(kept))


def measure_labels(
    truth: csr_array, scores: Scores, *, ignored: csr_array | None = None, skipped: int = 0
) -> MultiLabelMetrics:
    """The metrics of images that all have a true class.

    Args:
        truth: bool [N, C], the true classes of each image, at least one.
        scores: scores of the same images and classes.
        ignored: bool [N, C], classes that are neither true nor false in an image; none of them is
            true there.
        skipped: images without a true class, only handed on.

    Raises:
        DataError: no image at all.
    """
    images, classes = label_shape(truth)
    if not images:
        raise DataError("no image has a true class", remedy="There is nothing to measure.")
    if ignored is None:
        ignored = csr_array((images, classes), dtype=bool)
    best, image_ap = _per_image(truth, scores, ignored)
    class_images = np.bincount(truth.indices, minlength=classes)
    used = np.flatnonzero(class_images)
    class_ap = np.full(classes, np.nan)
    class_ap[used] = list(_per_class(truth, scores, ignored, used))
    counts = np.diff(truth.indptr)
    buckets, sizes = _bucketed(image_ap, counts, BUCKETS)
    fine, fine_sizes = _bucketed(image_ap, counts, FINE_BUCKETS)
    return MultiLabelMetrics(
        images=images,
        skipped=skipped,
        top1=float(best.mean()),
        example_mAP=float(image_ap.mean()),
        class_mAP=float(class_ap[used].mean()),
        buckets=buckets,
        fine_buckets=fine,
        bucket_images=sizes | fine_sizes,
        class_AP=class_ap,
        class_images=class_images,
        image_AP=image_ap,
    )


def _per_image(
    truth: csr_array, scores: Scores, ignored: csr_array
) -> tuple[np.ndarray, np.ndarray]:
    """Whether the highest-scored class is true, bool [N], and AP, float64 [N]."""
    images, classes = label_shape(truth)
    best = np.zeros(images, dtype=bool)
    ap = np.zeros(images)
    step = max(1, _CELLS // classes)
    for first in range(0, images, step):
        last = min(first + step, images)
        n = last - first
        true, left_out = truth[first:last], ignored[first:last]
        block = scores.block(first, last)
        away = label_rows(left_out), left_out.indices
        block[away] = np.inf
        lowest = block.min(axis=1)
        block[away] = -np.inf
        top = block.argmax(axis=1)
        choice = classes - np.diff(left_out.indptr) > 1
        undecided = choice & (block.max(axis=1) == lowest)
        rows, ids = label_rows(true), true.indices
        values = block[rows, ids]
        best[first:last] = np.bincount(rows[ids == top[rows]], minlength=n) > 0
        best[first:last] &= ~undecided
        precision = _true_as_high(rows, values) / _any_as_high(block, rows, values)
        ap[first:last] = np.bincount(rows, weights=precision, minlength=n) / np.diff(true.indptr)
    return best, ap


def _any_as_high(block: np.ndarray, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """int64 [p]: how many classes of its image score as high as each true pair, or higher."""
    found = np.empty(len(rows), dtype=np.int64)
    step = max(1, _CELLS // block.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        found[part] = np.count_nonzero(block[rows[part]] >= values[part, None], axis=1)
    return found


def _true_as_high(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """int64 [p]: how many true classes of its image score as high as each pair, or higher."""
    order = np.lexsort((-values, rows))
    rows, values = rows[order], values[order]
    place = np.arange(1, len(rows) + 1)
    opens = np.r_[True, rows[1:] != rows[:-1]]
    place -= np.maximum.accumulate(np.where(opens, place - 1, 0))
    # Equal scores share the place of their last one.
    closes = np.flatnonzero(np.r_[(rows[1:] != rows[:-1]) | (values[1:] != values[:-1]), True])
    shared = place[closes[np.searchsorted(closes, np.arange(len(rows)))]]
    result = np.empty(len(rows), dtype=np.int64)
    result[order] = shared
    return result


def _per_class(
    truth: csr_array, scores: Scores, ignored: csr_array, classes: np.ndarray
) -> Iterator[float]:
    """AP of each of the classes over the images."""
    of_class, left_out = truth.tocsc(), ignored.tocsc()
    for label, (values, images, zeros) in zip(
        classes.tolist(), scores.columns(classes), strict=True
    ):
        true = looked_up(values, images, images_of(of_class, label))
        away = images_of(left_out, label)
        if len(away):
            keep = ~np.isin(images, away)
            zeros -= len(away) - int((~keep).sum())
            values = values[keep]
        ordered, ordered_true = np.sort(values), np.sort(true)
        higher = len(ordered) - np.searchsorted(ordered, true, side="left")
        higher += np.where(true <= 0, zeros, 0)
        true_higher = len(true) - np.searchsorted(ordered_true, true, side="left")
        yield float(np.mean(true_higher / higher))


def images_of(by_class: csc_array, label: int) -> np.ndarray:
    """Images of a class, ascending."""
    return by_class.indices[by_class.indptr[label] : by_class.indptr[label + 1]]


def looked_up(values: np.ndarray, images: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Scores of the images ``wanted``; 0 for those not among ``images``, which ascend."""
    if not len(images):
        return np.zeros(len(wanted), dtype=values.dtype)
    at = np.minimum(np.searchsorted(images, wanted), len(images) - 1)
    return np.where(images[at] == wanted, values[at], 0)


def _bucketed(
    ap: np.ndarray, counts: np.ndarray, buckets: tuple[tuple[str, int, int | None], ...]
) -> tuple[dict[str, float | None], dict[str, int]]:
    means: dict[str, float | None] = {}
    sizes: dict[str, int] = {}
    for name, least, most in buckets:
        inside = (counts >= least) & (counts <= (counts.max() if most is None else most))
        sizes[name] = int(inside.sum())
        means[name] = float(ap[inside].mean()) if sizes[name] else None
    return means, sizes
