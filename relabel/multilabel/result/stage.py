"""The result folder: labels as TSV and Parquet, confused classes, skipped images, the report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from relabel.multilabel.labels.confusion import confused_pairs
from relabel.multilabel.labels.stage import confusion_columns
from relabel.multilabel.result.export import (
    paired,
    write_confused,
    write_labels_parquet,
    write_labels_tsv,
)
from relabel.multilabel.store import LabelShard, RegionShard, read_labels
from relabel.workspace.atomic import atomic_write_bytes
from relabel.workspace.columns import iterate
from relabel.workspace.progress import message

if TYPE_CHECKING:
    from relabel.multilabel.plan import MultilabelPlan
    from relabel.settings import Runtime

TSV, PARQUET, CONFUSED, SKIPPED, REPORT = (
    "labels.tsv",
    "labels.parquet",
    "confused.json",
    "skipped.tsv",
    "report.html",
)


def write_result(plan: MultilabelPlan, out: Path, runtime: Runtime) -> dict[str, str | Path]:
    """Write all of it; returns the outputs by name, relative to ``out``."""
    from relabel.multilabel.result.report import write_result_report
    from relabel.reports.made import made_now

    images = plan.images
    regions, labels = plan.shards("regions").paths, plan.shards("labels").paths
    write_labels_tsv(out / TSV, labels)
    skipped: list[str] = []
    write_labels_parquet(out / PARQUET, images, _noting_skipped(paired(regions, labels), skipped))
    own, ids, probs = confusion_columns(iterate(labels, read_labels))
    pairs = confused_pairs(own, ids, probs, images.num_classes, plan.settings.aggregate.confusion)
    write_confused(out / CONFUSED, pairs, images)
    atomic_write_bytes(out / SKIPPED, "".join(skipped).encode())
    if skipped:
        message(
            f"{len(skipped)} images could not be read; {out / SKIPPED} lists them",
            quiet=runtime.quiet,
        )
    write_result_report(
        out / REPORT,
        images,
        regions,
        labels,
        title=f"Multi-labels of {images.name}",
        confused=pairs,
        settings={kind: stage.settings for kind, stage in plan.stages.items()},
        made=made_now(plan.seconds()),
    )
    return {name: name for name in (TSV, PARQUET, CONFUSED, SKIPPED, REPORT)}


def _noting_skipped(
    shards: Iterable[tuple[RegionShard, LabelShard]], skipped: list[str]
) -> Iterator[tuple[RegionShard, LabelShard]]:
    """The shards, while lines about the images that could not be read are gathered."""
    for regions, labels in shards:
        for i in np.flatnonzero(~regions.readable).tolist():
            skipped.append(f"{regions.file_name[i]}\t{' '.join(regions.reason[i].split())}\n")
        yield regions, labels
