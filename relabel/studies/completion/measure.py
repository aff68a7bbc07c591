"""Completed labels against the truth: mAP, CF1 and OF1 of hidden labels and of test images."""

from __future__ import annotations

import numpy as np

from relabel.datasets.partial.labels import PartialLabels
from relabel.evaluation.multilabel.entries import EntryMetrics, measure_entries
from relabel.partial.job import Completion, Measured

SHOWN = ("mAP", "CF1", "OF1", "CP", "CR", "OP", "OR")


def measure_completion(
    completion: Completion, scores: np.ndarray | None, tested: np.ndarray | None
) -> Measured:
    """What `relabel complete` prints: see `relabel.partial.job.Measure`.

    ``unknown_mAP``, ``CF1`` and ``OF1`` are over the labels that were hidden, ``test_mAP``,
    ``test_CF1`` and ``test_OF1`` over the test images' known labels.
    """
    labels, threshold = completion.labels, completion.threshold
    hidden = test = None
    if completion.truth is not None and scores is not None:
        hidden = measure_entries(
            completion.truth.known, scores, known=labels.known, threshold=threshold
        )
    if completion.test is not None and tested is not None:
        test = measure_entries(completion.test.known, tested, threshold=threshold)
    numbers = {
        "unknown_mAP": hidden and hidden.mAP,
        "test_mAP": test and test.mAP,
        "CF1": hidden and hidden.CF1,
        "OF1": hidden and hidden.OF1,
        "test_CF1": test and test.CF1,
        "test_OF1": test and test.OF1,
    }
    rows = [
        (name, of, getattr(metrics, name))
        for metrics, of in ((hidden, "hidden labels"), (test, "test images"))
        if metrics is not None
        for name in SHOWN
    ]
    class_ap = {} if hidden is None else _by_name(hidden, labels.classes)
    return Measured(numbers, rows, class_ap)


def _by_name(metrics: EntryMetrics, classes: tuple[str, ...]) -> dict[str, float]:
    return {
        name: float(ap)
        for name, ap in zip(classes, metrics.class_AP, strict=True)
        if not np.isnan(ap)
    }


def measure_scores(
    truth: PartialLabels, scores: np.ndarray, known: PartialLabels | None = None
) -> dict[str, float | None]:
    """mAP, CF1 and OF1 over what ``truth`` knows and ``known`` does not; scores float [N, C]."""
    found = measure_entries(truth.known, scores, known=None if known is None else known.known)
    return {name: getattr(found, name) for name in ("mAP", "CF1", "OF1")}
