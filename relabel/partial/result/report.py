"""From the counts of completed labels to their report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relabel.datasets.partial.labels import PartialLabels
from relabel.datasets.pixels.location import read_rgb
from relabel.errors import DataError
from relabel.partial.predict import SOURCES
from relabel.partial.result.summary import BINS, CompletionSummary, Shown
from relabel.reports.completion import (
    CompletedPicture,
    CompletionCounts,
    Label,
    write_completion_report,
)
from relabel.reports.made import Made

_ORDER = ("ist", "cst", "classifier")
_COMPLETED = "of the completed labels, weighted by their confidence"


def write_result_report(
    out: Path,
    labels: PartialLabels,
    summary: CompletionSummary,
    *,
    title: str,
    threshold: float,
    learned: np.ndarray | None = None,
    metrics: Sequence[tuple[str, str, float | None]] = (),
    class_ap: Mapping[str, float] | None = None,
    settings: Mapping[str, Any] | None = None,
    made: Made | None = None,
) -> Path:
    """Write the report; see `relabel.reports.completion.write_completion_report`.

    Args:
        out: the HTML file.
        labels: what was known; its images are read for the pictures only, and those that cannot be
            read are left out.
        summary: all parts, counted.
        threshold: confidence from which unknown labels count as present.
        learned: float [C, C], the model's own co-occurrence; None takes that of the completed
            labels.
        metrics: measures (what, of what, value), where the truth is at hand.
        class_ap: AP of the categories over hidden labels, likewise.
        made: command, versions and times of the run.
    """
    reliability = summary.reliability()
    counts = CompletionCounts(
        numbers=_numbers(labels, summary),
        classes=labels.classes,
        present=summary.present,
        absent=summary.absent,
        unknown=summary.unknown,
        added={name: summary.added[SOURCES.index(name)] for name in _ORDER},
        before=_numbered(summary.before),
        after=_numbered(summary.after),
        confidences={f"{k / (2 * BINS):g}": int(n) for k, n in enumerate(summary.confidences)},
        pairs=summary.pairs,
        statistical=summary.statistical(),
        told=summary.told(),
        learned=summary.completed() if learned is None else learned,
        learned_is=_COMPLETED if learned is None else "the network's own transfer between labels",
        bins=(reliability.count, reliability.confidence, reliability.share),
        error=reliability.error,
        metrics=metrics,
        class_ap=class_ap or {},
        threshold=threshold,
    )
    shown = [picture for pick in summary.picks() if (picture := _picture(labels, pick)) is not None]
    return write_completion_report(out, counts, shown, title=title, settings=settings, made=made)


def _numbers(labels: PartialLabels, summary: CompletionSummary) -> dict[str, object]:
    images, entries = max(summary.images, 1), max(summary.images * summary.num_classes, 1)
    known, added = int(summary.present.sum()), int(summary.added.sum())
    return {
        "images": summary.images,
        "categories": labels.num_classes,
        "of the labels known": f"{1 - int(summary.unknown.sum()) / entries:.1%}",
        "known present labels per image": f"{known / images:.2f}",
        "after completion": f"{(known + added) / images:.2f}",
        "present labels added": added,
    }


def _numbered(counts: np.ndarray) -> dict[str, int]:
    last = len(counts) - 1
    found = {str(k) if k < last else f"{k}+": int(n) for k, n in enumerate(counts)}
    most = max((k for k, n in enumerate(counts) if n), default=0)
    return dict(list(found.items())[: max(most, 4) + 1])


def _picture(labels: PartialLabels, pick: Shown) -> CompletedPicture | None:
    try:
        pixels = read_rgb(labels.location(pick.row))
    except DataError:
        return None
    found = [
        Label(
            labels.classes[c],
            float(pick.scores[c]),
            SOURCES[pick.source[c]],
            bool(pick.present[c]),
            None if pick.truth is None or not pick.truth[c] else bool(pick.truth[c] > 0),
        )
        for c in range(labels.num_classes)
    ]
    return CompletedPicture(pick.file_name, pick.group, pixels, found)
