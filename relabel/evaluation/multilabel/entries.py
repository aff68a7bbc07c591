"""mAP, CF1 and OF1 over (image, class) entries: all that are known of a truth, or some of them.

These are the numbers that multi-label recognition on COCO, VOC, VG-200 and NUS-WIDE is reported
with. mAP is the mean over classes of the average precision of their ranking of images, images
without any class included. Of the classes predicted at a threshold, CP and CR are precision and
recall averaged over classes, OP and OR those of all entries together, CF1 and OF1 their harmonic
means. A class that is predicted nowhere has precision 0.

Source: the public code of SST, SARB and HST (HCP-MLR-PL, ``utils/metrics.py``), which the field
shares, with three departures. Equal scores are one step of the ranking, as in
`relabel.evaluation.multilabel.metrics`, where there the order of the images decides. A class
without a present entry, which there divides by zero, is left out of the means over classes; what
is predicted of it counts in OP. Where nothing is right CF1 and OF1 are 0.

Shape legend: ``N`` images, ``C`` classes, ``n`` counted images of a class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from relabel.datasets.multilabels import label_shape
from relabel.evaluation.multilabel.metrics import images_of, looked_up
from relabel.evaluation.multilabel.scores import DenseScores, Scores

THRESHOLD = 0.5
"""Score from which a class is predicted."""

NAMES = ("mAP", "CF1", "OF1", "CP", "CR", "OP", "OR")
Entries = Callable[[int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class EntryMetrics:
    """Fractions over the entries that count; None where none of them is present.

    Attributes:
        mAP, CF1, OF1, CP, CR, OP, OR: see the module.
        entries: how many entries count.
        present: how many of them are present.
        class_AP: float64 [C]; NaN for a class without a present entry.
    """

    mAP: float | None
    CF1: float | None
    OF1: float | None
    CP: float | None
    CR: float | None
    OP: float | None
    OR: float | None
    entries: int
    present: int
    class_AP: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the APs per class."""
        return {name: getattr(self, name) for name in (*NAMES, "entries", "present")}


def measure_entries(
    truth: csr_array,
    scores: Scores | np.ndarray,
    *,
    known: csr_array | None = None,
    threshold: float = THRESHOLD,
) -> EntryMetrics:
    """The metrics over what a truth knows.

    Args:
        truth: int8 [N, C], 1 present, -1 absent; entries that are not stored do not count.
        scores: of the same images and classes.
        known: [N, C]; entries that are stored here do not count either, so that with a truth and
            what is left of it after hiding, the hidden entries do.
        threshold: score from which a class is predicted.
    """
    of_class = truth.tocsc()
    hidden = None if known is None else known.tocsc()

    def entries(label: int) -> tuple[np.ndarray, np.ndarray]:
        mine = slice(int(of_class.indptr[label]), int(of_class.indptr[label + 1]))
        images, there = of_class.indices[mine], of_class.data[mine] > 0
        if hidden is not None:
            keep = ~np.isin(images, images_of(hidden, label))
            images, there = images[keep], there[keep]
        return images, there

    return _measured(entries, label_shape(truth), scores, threshold)


def measure_closed(
    present: csr_array,
    scores: Scores,
    *,
    ignored: csr_array | None = None,
    threshold: float = THRESHOLD,
) -> EntryMetrics:
    """The metrics where every class that is not present is absent, but for those ignored.

    Args:
        present, ignored: bool [N, C]; no entry in both.
        scores: of the same images and classes.
        threshold: score from which a class is predicted.
    """
    images = label_shape(present)[0]
    there, away = present.tocsc(), None if ignored is None else ignored.tocsc()

    def entries(label: int) -> tuple[np.ndarray, np.ndarray]:
        is_there = np.zeros(images, bool)
        is_there[images_of(there, label)] = True
        if away is None:
            return np.arange(images), is_there
        counted = np.ones(images, bool)
        counted[images_of(away, label)] = False
        return np.flatnonzero(counted), is_there[counted]

    return _measured(entries, label_shape(present), scores, threshold)


def _measured(
    entries: Entries, shape: tuple[int, int], scores: Scores | np.ndarray, threshold: float
) -> EntryMetrics:
    if isinstance(scores, np.ndarray):
        scores = DenseScores(scores)
    if (len(scores), scores.num_classes) != shape:
        raise ValueError(f"scores are {len(scores)} x {scores.num_classes}, the truth is {shape}")
    classes = shape[1]
    ap = np.full(classes, np.nan)
    counted, present, predicted, right = np.zeros((4, classes), np.int64)
    for label, (values, images, _) in enumerate(scores.columns(np.arange(classes))):
        wanted, there = entries(label)
        full = len(images) == shape[0]
        mine = values[wanted] if full else looked_up(values, images, wanted)
        positive = mine >= threshold
        counted[label], present[label] = len(wanted), np.count_nonzero(there)
        predicted[label] = np.count_nonzero(positive)
        right[label] = np.count_nonzero(positive & there)
        if present[label]:
            ap[label] = _average_precision(mine, mine[there])
    used = present > 0
    if not used.any():
        nothing = dict.fromkeys(NAMES)
        return EntryMetrics(**nothing, entries=int(counted.sum()), present=0, class_AP=ap)
    cp = float(np.mean(right[used] / np.maximum(predicted[used], 1)))
    cr = float(np.mean(right[used] / present[used]))
    op, whole = float(right.sum() / max(predicted.sum(), 1)), float(right.sum() / present.sum())
    return EntryMetrics(
        mAP=float(ap[used].mean()),
        CF1=_harmonic(cp, cr),
        OF1=_harmonic(op, whole),
        CP=cp,
        CR=cr,
        OP=op,
        OR=whole,
        entries=int(counted.sum()),
        present=int(present.sum()),
        class_AP=ap,
    )


def _average_precision(values: np.ndarray, true: np.ndarray) -> float:
    """AP of a ranking.

    Args:
        values: [n], all scores.
        true: those of the present entries, one or more.
    """
    values, true = np.sort(values), np.sort(true)
    higher = len(values) - np.searchsorted(values, true, side="left")
    true_higher = len(true) - np.searchsorted(true, true, side="left")
    return float(np.mean(true_higher / higher))


def _harmonic(precision: float, recall: float) -> float:
    total = precision + recall
    return 2 * precision * recall / total if total else 0.0
