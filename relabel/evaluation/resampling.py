"""AP over resampled test images, for bootstrap intervals, without evaluating again.

What a detection is matched to depends on its own image alone. So every image is matched once, and
an image that a resample draws ``w`` times counts with weight ``w``: equal to COCO's evaluation of a
set that holds the image ``w`` times, since the copies of a detection stand together in the order of
the scores and precision is the greatest at that recall or beyond.

Shape legend: ``n`` detections, ``T`` IoU thresholds (10), ``K`` classes, ``I`` images, ``B``
resamples, ``U`` detections that are a true positive at some threshold.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse

from relabel.datasets.dataset import Boxes, DetectionDataset
from relabel.errors import DataError
from relabel.evaluation.detections import RECALLS, new_engine
from relabel.evaluation.federated import federated
from relabel.evaluation.joining import in_id_order
from relabel.workspace.atomic import atomic_write_bytes

RESAMPLES = 1000
_ALL_SIZES = (0.0, 1e10)
_WRONG, _RIGHT, _LEFT_OUT = 0, 1, 2
# Resamples at a time, so that a class of ten thousand boxes needs no gigabytes.
_CHUNK = 250


@dataclass(frozen=True, eq=False)
class Matches:
    """What became of every detection of a test set, boxes of all sizes.

    Attributes:
        image: int32 [n], row of the image, in the order of the images' ids.
        category: int32 [n], position of the class.
        score: float64 [n]; of each image and class the best come first.
        state: uint8 [n, T]: 0 for a false positive, 1 for a true one, 2 for one left out (in a
            crowd region), at IoU 0.5, 0.55, ..., 0.95.
        truths: int32 [I, K], boxes to be found.
    """

    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    state: np.ndarray
    truths: np.ndarray

    def save(self, file: Path) -> None:
        """Write an ``.npz`` file, whole or not at all; the same matches give the same bytes."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **vars(self))
        atomic_write_bytes(file, buffer.getvalue())

    @classmethod
    def load(cls, file: Path) -> Matches:
        """Read what `save` wrote.

        Raises:
            DataError: a damaged file.
        """
        try:
            with np.load(file, allow_pickle=False) as arrays:
                found = cls(**{name: arrays[name] for name in arrays.files})
            n = len(found.image)
            whole = found.state.shape == (n, 10) and found.truths.ndim == 2
            if not whole or not len(found.category) == len(found.score) == n:
                raise ValueError("its arrays do not belong together")
        except Exception as error:  # a cut zip, a missing array: all have one remedy
            raise DataError(
                f"is damaged: {error}",
                file=file,
                remedy="Delete the file's folder and run the comparison again; the rest is kept.",
            ) from error
        return found


def match_detections(truth: DetectionDataset, found: Boxes) -> Matches:
    """Match detections as AP does.

    Args:
        found: boxes with scores on the rows of the truth's images in the order of their ids, as
            `relabel.evaluation.detections.DetectionMetrics.found`.

    Raises:
        DataError: the truth's federated fields are damaged.
    """
    truth = in_id_order(truth)
    images, classes = len(truth), truth.space.num_classes
    truths = np.zeros((images, classes), np.int32)
    made = new_engine(truth, found, federated(truth))
    parts: list[tuple[int, int, np.ndarray, np.ndarray]] = []
    if made is not None:
        engine = made[0]
        engine.evaluate()
        cells = [c for c in engine.eval_imgs if c is not None and tuple(c["aRng"]) == _ALL_SIZES]
        for cell in sorted(cells, key=lambda c: (c["category_id"], c["image_id"])):
            image, category = cell["image_id"] - 1, cell["category_id"] - 1
            truths[image, category] = np.count_nonzero(~np.asarray(cell["gtIgnore"], bool))
            score = np.asarray(cell["dtScores"], np.float64)
            shape = (10, len(score))
            hit = np.asarray(cell["dtMatches"], np.int64).reshape(shape) > 0
            skip = np.asarray(cell["dtIgnore"], bool).reshape(shape)
            state = np.where(skip, _LEFT_OUT, np.where(hit, _RIGHT, _WRONG)).astype(np.uint8)
            parts.append((image, category, score, state.T))
    counts = [len(score) for _, _, score, _ in parts]
    return Matches(
        image=np.repeat(np.array([p[0] for p in parts], np.int32), counts),
        category=np.repeat(np.array([p[1] for p in parts], np.int32), counts),
        score=np.concatenate([np.zeros(0), *(p[2] for p in parts)]),
        state=np.concatenate([np.zeros((0, 10), np.uint8), *(p[3] for p in parts)]),
        truths=truths,
    )


def resamples(images: int, seed: int = 0, count: int = RESAMPLES) -> np.ndarray:
    """float64 [B, I]: how often each image is drawn, with replacement, in each resample.

    The same arguments give the same draws, so that differences between detectors are paired.
    """
    chances = np.full(images, 1 / max(images, 1))
    return np.random.default_rng(seed).multinomial(images, chances, size=count).astype(float)


def weighted_ap(matches: Matches, weights: np.ndarray) -> np.ndarray:
    """AP, AP50 and AP75, float64 [B, 3], with each image counted as often as ``weights`` says.

    Classes without truth in a resample are left out of its mean; NaN where none has any.

    Args:
        weights: [B, I], numbers of at least 0; ones give the plain AP.
    """
    weights = np.asarray(weights, np.float64)
    found = np.full((matches.truths.shape[1], len(weights), 3), np.nan)
    for k, image, state, truths in _classes(matches):
        for start in range(0, len(weights), _CHUNK):
            part = slice(start, start + _CHUNK)
            ap = _class_ap(image, state, truths, weights[part])
            found[k, part] = np.stack([ap.mean(axis=0), ap[0], ap[5]], axis=1)
    measured = ~np.isnan(found)
    total = np.where(measured, found, 0.0).sum(axis=0)
    counts = measured.sum(axis=0)
    return np.where(counts > 0, total / np.maximum(counts, 1), np.nan)


def ap_by_iou(matches: Matches) -> np.ndarray:
    """AP at each IoU threshold, 0.5, 0.55, ..., 0.95, float64 [T]; NaN without truth."""
    alike = np.ones((1, len(matches.truths)))
    found = [
        _class_ap(image, state, truths, alike)[:, 0]
        for _, image, state, truths in _classes(matches)
    ]
    return np.mean(found, axis=0) if found else np.full(10, np.nan)


def _classes(matches: Matches) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Of each class with truth: its position, and what `_class_ap` takes, detections best first."""
    for k in np.flatnonzero(matches.truths.sum(axis=0)).tolist():
        mine = np.flatnonzero(matches.category == k)
        order = mine[np.argsort(-matches.score[mine], kind="stable")]
        yield k, matches.image[order], matches.state[order], matches.truths[:, k]


def _class_ap(
    image: np.ndarray, state: np.ndarray, truths: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """AP of one class at each threshold, float64 [T, B], detections best first; NaN without truth.

    Precision is greatest, and recall changes, at true positives alone: only those are looked at.
    """
    total = weights @ truths
    ap = np.zeros((10, len(weights)))
    hits = np.flatnonzero((state == _RIGHT).any(axis=1))
    if len(hits):
        drawn = weights[:, image[hits]]
        # Without regions to leave out, the detections that count are the same at every threshold.
        regions = bool((state == _LEFT_OUT).any())
        seen = None if regions else _seen(image, np.ones(len(image), bool), hits, weights)
        for t in range(10):
            if t and np.array_equal(state[:, t], state[:, t - 1]):
                ap[t] = ap[t - 1]
                continue
            right = np.cumsum(drawn * (state[hits, t] == _RIGHT), axis=1)
            counted = seen
            if counted is None:
                counted = _seen(image, state[:, t] != _LEFT_OUT, hits, weights)
            precision = right / (counted + np.spacing(1))
            precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            recall = right / np.maximum(total, np.spacing(1))[:, None]
            # The recall levels that are reached at a hit, and at none before it.
            reached = np.searchsorted(RECALLS, recall, side="right")
            levels = np.diff(reached, axis=1, prepend=0)
            ap[t] = (precision * levels).sum(axis=1) / len(RECALLS)
    return np.where(total > 0, ap, np.nan)


def _seen(
    image: np.ndarray, counted: np.ndarray, hits: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """[B, U]: weight of the counted detections up to each of ``hits``, itself among them."""
    rows = np.flatnonzero(counted[: hits[-1] + 1])
    segment = np.searchsorted(hits, rows)
    table = sparse.csr_matrix(
        (np.ones(len(rows)), (segment, image[rows])), shape=(len(hits), weights.shape[1])
    )
    return np.cumsum((table @ weights.T).T, axis=1)
