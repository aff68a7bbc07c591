"""From the shards of a result to its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relabel.datasets.pixels.image_folder import ImageSet, load_image
from relabel.errors import DataError
from relabel.multilabel.labels.confusion import ConfusedPair
from relabel.multilabel.result.export import paired
from relabel.multilabel.result.summary import BINS, Summary
from relabel.multilabel.store import LabelShard, RegionShard, read_labels, read_regions
from relabel.reports.made import Made
from relabel.reports.multilabel import Counts, Picture, write_multilabel_report

_SINGLE_SHOWN = 12


def write_result_report(
    out: Path,
    images: ImageSet,
    regions: Sequence[Path],
    labels: Sequence[Path],
    *,
    title: str,
    confused: Sequence[ConfusedPair] = (),
    settings: Mapping[str, Any] | None = None,
    made: Made | None = None,
    confident: float = 0.5,
    pictures: int = 24,
    seed: int = 0,
) -> Summary:
    """Write the report of a result; see `relabel.reports.multilabel.write_multilabel_report`.

    Args:
        out: the HTML file.
        images: the image set; its files are read for the pictures only. Those that are gone by now
            are left out.
        regions, labels: the shards of the two stages.
        title: the heading.
        confused: mutually confused classes.
        settings: settings of the run; tables may be nested.
        made: command, versions and times of the run.
        confident: labels from this probability on count.
        pictures: number of images to show.
        seed: draws the ones shown at random.

    Returns:
        The counts, for a message at the end of the run.

    Raises:
        DataError: a shard is missing or damaged.
    """
    summary = Summary(images.num_classes, confident=confident, pictures=pictures, seed=seed)
    for one, other in paired(regions, labels):
        summary.add(one, other)
    shown = _pictures(summary, images, regions, labels)
    counts = _counts(summary, images, confused)
    write_multilabel_report(out, counts, shown, title=title, settings=settings, made=made)
    return summary


def _counts(summary: Summary, images: ImageSet, confused: Sequence[ConfusedPair]) -> Counts:
    names = images.class_names
    # Of what was added to one image only, a few examples say as much as a long table.
    pairs, classes = summary.added(), summary.added_classes()
    pairs = [p for k, p in enumerate(pairs) if p[2] > 1 or k < _SINGLE_SHOWN]
    classes = [c for k, c in enumerate(classes) if c[1] > 1 or k < _SINGLE_SHOWN]
    last = len(summary.label_counts) - 1

    def numbered(counts: np.ndarray) -> dict[str, int]:
        found = {str(k) if k < last else f"{k}+": int(n) for k, n in enumerate(counts)}
        most = max((k for k, n in enumerate(counts) if n), default=0)
        return dict(list(found.items())[: max(most, 4) + 1])

    def binned(counts: np.ndarray) -> dict[str, int]:
        return {f"{k / BINS:g}": int(n) for k, n in enumerate(counts)}

    return Counts(
        numbers=summary.numbers(),
        labels=numbered(summary.label_counts),
        regions=numbered(summary.region_counts),
        probabilities=binned(summary.probabilities),
        areas=binned(summary.areas),
        added=[(names[a], names[b], n, share) for a, b, n, share in pairs],
        added_classes=[(names[c], n) for c, n in classes],
        confused=[(names[p.a], names[p.b], p.rate_ab, p.rate_ba) for p in confused],
        skipped=summary.skipped,
        skipped_total=summary.skipped_total,
        confident=summary.confident,
    )


def _pictures(
    summary: Summary, images: ImageSet, regions: Sequence[Path], labels: Sequence[Path]
) -> list[Picture]:
    """The chosen images, each shard read once."""
    picks = summary.picks()
    found: dict[int, Picture] = {}
    for shard in sorted({pick.shard for pick in picks}):
        one, other = read_regions(regions[shard], features=False), read_labels(labels[shard])
        for k, pick in enumerate(picks):
            if pick.shard == shard:
                picture = _picture(images, one, other, pick.group, pick.image)
                if picture is not None:
                    found[k] = picture
    return [found[k] for k in sorted(found)]


def _picture(
    images: ImageSet,
    regions: RegionShard,
    labels: LabelShard,
    group: str,
    image: int,
) -> Picture | None:
    try:
        pixels = load_image(images, int(regions.row[image]))
    except DataError:
        return None
    masks = regions.masks(image)
    if masks.shape[1:] != pixels.shape[:2]:
        return None
    names = images.class_names
    mine = [r for r in regions.regions(image) if labels.ids[r, 0] >= 0]
    first = int(regions.offsets[image])
    listed = range(*labels.label_offsets[image : image + 2])
    gt = int(labels.gt[image])
    return Picture(
        name=labels.file_name[image],
        group=group,
        pixels=pixels,
        masks=masks[[r - first for r in mine]],
        mask_labels=[(names[labels.ids[r, 0]], float(labels.probs[r, 0])) for r in mine],
        labels=[(names[labels.label_ids[k]], float(labels.label_probs[k])) for k in listed],
        original=names[gt] if gt >= 0 else None,
    )
