"""Sources in the target's label space, for the arms that need no training of their own.

Naive merge, statistical box normalisation, filtered pseudo-labels and best-overlap relabelling:
the baselines of "Label-Aligned Transfer" (arXiv 2506.04737) and of Liao et al., "Translating
labels to solve annotation mismatches across object detection datasets" (ICLR 2024), whose own
method is label-guided pseudo-labelling. They are the
baselines of `relabel.evaluation.baselines`, made fit for training: what a source marks as a region
to leave out stays one, under every arm.

Shape legend: ``n`` boxes, ``C`` classes of the target.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from relabel.crosslabel.given import GivenLabels
from relabel.crosslabel.pseudo import PseudoLabels
from relabel.datasets.dataset import UNCERTAIN, Boxes, DetectionDataset, Provenance
from relabel.datasets.labelspace import LabelSpace
from relabel.errors import ConfigError, did_you_mean
from relabel.evaluation.baselines import (
    LGPL_THRESHOLD,
    TargetNames,
    best_overlap,
    derive_name_map,
    filtered_pseudo_labels,
    label_guided,
    supported_pseudo_labels,
    untouched_with_map,
)
from relabel.geometry import xyxy_to_xywh
from relabel.reports.statistics import class_counts
from relabel.studies.downstream.settings import DownstreamSettings

LABEL_ARMS = ("naive", "normalized", "pseudo", "pseudo-supported", "overlap")

# A source class maps to nothing where less than this share of its boxes has a counterpart: a few
# chance overlaps must not turn every traffic light into a car.
_LEAST_SHARE = 0.05


def label_source(
    arm: str,
    source: DetectionDataset,
    target: DetectionDataset,
    pseudo: PseudoLabels,
    names: TargetNames,
    settings: DownstreamSettings,
) -> DetectionDataset:
    """A source as an arm of `LABEL_ARMS` sees it.

    Args:
        target: training images of the target; read by ``normalized``.
        pseudo: the target specialist's labels on the source; read by ``pseudo``,
            ``pseudo-supported`` and ``overlap``.
        names: see `name_map_of`; read by ``naive`` and ``normalized``.

    Raises:
        ConfigError: another arm, or a name the label spaces do not have.
    """
    if arm == "naive":
        return naive(source, target.space, names)
    if arm == "normalized":
        return normalized(source, target, names, settings.normalize_min_boxes)
    if arm == "pseudo":
        return pseudo_labelled(source, pseudo, settings.pseudo_threshold, settings.ignore_band)
    if arm == "pseudo-supported":
        return pseudo_labelled(
            source,
            pseudo,
            settings.pseudo_threshold,
            settings.ignore_band,
            supported_by=settings.overlap_iou,
        )
    if arm == "overlap":
        return overlapped(
            source,
            pseudo,
            settings.pseudo_threshold,
            settings.overlap_iou,
            unmatched_ignored=settings.ignore_band > 0,
        )
    raise ConfigError(
        f"arm {arm!r} is not made of name maps and pseudo-labels",
        remedy=did_you_mean(arm, LABEL_ARMS),
    )


def name_map_of(
    source: DetectionDataset,
    pseudo: PseudoLabels,
    given: TargetNames | None,
    settings: DownstreamSettings,
) -> dict[str, str | None]:
    """The name map of a source: a person's where there is one, else from names and data.

    Without a person's map, names that agree map to each other, and every other class goes to the
    target class that overlaps its boxes most often (`derive_name_map`); to None where fewer than
    one in twenty of its boxes are overlapped at all.

    Args:
        given: target name or None by source name; must name every class with boxes.

    Returns:
        Target name, or None for classes to drop, by source name, in the source's order.

    Raises:
        ConfigError: a name one of the spaces does not have, or a class the map does not name.
    """
    if given is not None:
        return checked_name_map(source, pseudo.space, given)
    found = derive_name_map(source, pseudo, settings.pseudo_threshold, settings.overlap_iou)
    matched = best_overlap(source, pseudo, settings.pseudo_threshold, settings.overlap_iou)
    origins = matched.boxes.provenance
    overlapped_names = [] if origins is None else list(origins.source_category)
    total = class_counts(source)
    for name in found:
        share = overlapped_names.count(name) / max(total[name], 1)
        if share < _LEAST_SHARE and pseudo.space.get(name) is None:
            found[name] = None
    return found


def checked_name_map(
    source: DetectionDataset, target_space: LabelSpace, given: TargetNames
) -> dict[str, str | None]:
    """A person's name map in the spaces' own names, in the source's order.

    Raises:
        ConfigError: a name one of the spaces does not have, or a class the map does not name.
    """
    by_class: dict[str, str | None] = {}
    for mine, theirs in given.items():
        name = source.space.names[source.space.index(mine)]
        goal = None if theirs is None else target_space.names[target_space.index(theirs)]
        # A category's own name counts before an alias of it.
        if name not in by_class or name == mine:
            by_class[name] = goal
    missing = [n for n, count in class_counts(source).items() if count and n not in by_class]
    if missing:
        shown = ", ".join(map(repr, missing[:20])) + (", ..." if missing[20:] else "")
        raise ConfigError(
            f"the name map of {source.name!r} does not name {shown}",
            remedy="Map each class to a name of the target, or to null to leave it out.",
        )
    return {n: by_class[n] for n in source.space.names if n in by_class}


def naive(
    source: DetectionDataset, target_space: LabelSpace, names: TargetNames
) -> DetectionDataset:
    """The source's own boxes under the target's names; classes mapped to None are dropped.

    Boxes whose target category is one to ignore become regions to leave out.

    Raises:
        ConfigError: a name that one of the label spaces does not have.
    """
    found = untouched_with_map(source, target_space, names)
    boxes = found.boxes
    if len(boxes):
        ignore = boxes.ignore | target_space.ignore_mask[boxes.category]
        found = replace(found, boxes=replace(boxes, ignore=ignore))
    mapped = {source.space.index(n) for n, goal in names.items() if goal is not None}
    dropped = ~np.isin(source.boxes.category, sorted(mapped))
    return _with_regions(found, source, np.flatnonzero(source.boxes.ignore & dropped))


def normalized(
    source: DetectionDataset, target: DetectionDataset, names: TargetNames, min_boxes: int = 20
) -> DetectionDataset:
    """Boxes resized to the target's statistics per class, under the target's names.

    Statistical normalisation, as Liao et al. compare with: with ``x = log(width / image width)``,
    and likewise for the height, a box of target class ``c`` gets

        x' = mean_t(c) + (x - mean_s(c)) * std_t(c) / std_s(c)

    about its own centre, and is then clipped to its image. ``mean_t, std_t`` are those of the
    target's training boxes of class ``c``, ``mean_s, std_s`` those of the source's boxes that map
    to ``c``. No code of the paper is public: the logarithm, which keeps sizes positive, and the
    unmoved centre (where in an object the other protocol would put a box is not known) are our
    reading. Where either side has fewer than ``min_boxes`` boxes of a class, the statistics over
    all classes stand in; where those are too few as well, the box stays as it is. A side without
    spread only shifts.

    Args:
        target: training images of the target.
        min_boxes: minimum number of boxes to take mean and standard deviation of.

    Raises:
        ConfigError: a name that one of the label spaces does not have.
    """
    found = naive(source, target.space, names)
    boxes = found.boxes
    real = np.flatnonzero(~boxes.ignore)
    goal = np.flatnonzero(~target.boxes.ignore)
    mine, theirs = _log_sizes(found, real), _log_sizes(target, goal)
    new = mine.copy()
    enough = max(min_boxes, 2)
    if len(mine) >= enough and len(theirs) >= enough:
        new = _matched(mine, theirs)
    for c in range(target.space.num_classes):
        at = boxes.category[real] == c
        like = theirs[target.boxes.category[goal] == c]
        if at.sum() >= enough and len(like) >= enough:
            new[at] = _matched(mine[at], like)
    image = boxes.image[real]
    frame = np.stack([found.images.width[image], found.images.height[image]], axis=1)
    size = np.exp(new) * frame
    centre = boxes.xywh[real, :2] + boxes.xywh[real, 2:] / 2
    corners = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    corners = np.clip(corners, 0, np.concatenate([frame, frame], axis=1))
    xywh = boxes.xywh.copy()
    xywh[real] = xyxy_to_xywh(corners)
    area = boxes.area.copy()
    area[real] = xywh[real, 2] * xywh[real, 3]
    # Masks and other fields of the file are those of the old box.
    boxes = replace(boxes, xywh=xywh, area=area, extra=None)
    kept = np.flatnonzero((xywh[:, 2] > 0) & (xywh[:, 3] > 0))
    return found.with_boxes(boxes if len(kept) == len(boxes) else boxes.take(kept))


def pseudo_labelled(
    source: DetectionDataset,
    pseudo: PseudoLabels,
    threshold: float = 0.5,
    ignore_band: float = 0.0,
    *,
    supported_by: float | None = None,
) -> DetectionDataset:
    """The target specialist's labels in place of the source's boxes.

    Images that were not labelled (broken ones passed over with ``--skip-bad``) are left out.

    Args:
        threshold: minimum score of a label.
        ignore_band: labels that reach this share of the threshold are regions to leave out rather
            than background; 0 makes them background.
        supported_by: minimum IoU with a source box of any class; labels without one, sure or in
            doubt, are background. None keeps them.
    """
    source = _covered(source, pseudo)
    least = _least(threshold, ignore_band)
    if supported_by is None:
        found = filtered_pseudo_labels(source, pseudo, least)
    else:
        found = supported_pseudo_labels(source, pseudo, least, supported_by)
    found = _doubted(found, threshold)
    return _with_regions(found, source, np.flatnonzero(source.boxes.ignore))


def guided(
    source: DetectionDataset,
    given: GivenLabels,
    threshold: float = LGPL_THRESHOLD,
    ignore_band: float = 0.0,
) -> DetectionDataset:
    """The source's boxes as the target specialist's box head classifies and refines them.

    Images whose boxes were not given to it are left out.

    Args:
        threshold, ignore_band: as in `pseudo_labelled`.
    """
    source = _covered(source, given)
    found = _doubted(label_guided(source, given, _least(threshold, ignore_band)), threshold)
    return _with_regions(found, source, np.flatnonzero(source.boxes.ignore))


def _least(threshold: float, ignore_band: float) -> float:
    return threshold * ignore_band if ignore_band > 0 else threshold


def _doubted(found: DetectionDataset, threshold: float) -> DetectionDataset:
    """Labels below the threshold become regions to leave out."""
    boxes = found.boxes
    doubtful = boxes.score < np.float32(threshold)
    origins = boxes.provenance
    if origins is not None and doubtful.any():
        names = np.where(doubtful, UNCERTAIN, np.asarray(origins.origin, object)).tolist()
        boxes = replace(boxes, ignore=doubtful, provenance=replace(origins, origin=names))
        found = replace(found, boxes=boxes)
    return found


def overlapped(
    source: DetectionDataset,
    pseudo: PseudoLabels,
    threshold: float = 0.5,
    min_iou: float = 0.5,
    *,
    unmatched_ignored: bool = False,
) -> DetectionDataset:
    """The source's boxes with the class of the target specialist's label that overlaps them best.

    Images that were not labelled are left out.

    Args:
        threshold: minimum score of a label.
        min_iou: minimum IoU of box and label.
        unmatched_ignored: boxes that no label overlaps are regions to leave out; else they are
            dropped, and their objects become background.
    """
    source = _covered(source, pseudo)
    found = best_overlap(source, pseudo, threshold, min_iou)
    regions = np.flatnonzero(source.boxes.ignore)
    if unmatched_ignored:
        unmatched = ~np.isin(source.boxes.id, found.boxes.id) & ~source.boxes.ignore
        found = _with_regions(found, source, np.flatnonzero(unmatched), UNCERTAIN)
    return _with_regions(found, source, regions)


def _covered(source: DetectionDataset, pseudo: PseudoLabels) -> DetectionDataset:
    covered = pseudo.for_images(source.images.file_name).coverage
    return source if covered.all() else source.subset(np.flatnonzero(covered))


def _log_sizes(dataset: DetectionDataset, rows: np.ndarray) -> np.ndarray:
    """float64 [n, 2]: log of width and height relative to the image."""
    image = dataset.boxes.image[rows]
    frame = np.stack([dataset.images.width[image], dataset.images.height[image]], axis=1)
    return np.log(dataset.boxes.xywh[rows, 2:] / frame)


def _matched(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """``mine`` [n, 2] with the mean and spread of ``theirs``."""
    spread, goal = mine.std(axis=0), theirs.std(axis=0)
    tiny = (spread < 1e-9) | (goal < 1e-9)
    scale = np.where(tiny, 1.0, goal / np.where(tiny, 1.0, spread))
    return theirs.mean(axis=0) + (mine - mine.mean(axis=0)) * scale


def _with_regions(
    dataset: DetectionDataset, source: DetectionDataset, rows: np.ndarray, origin: str = "source"
) -> DetectionDataset:
    """``dataset`` with some boxes of the source as regions to leave out.

    They get the first class, which says nothing: training leaves them out for all classes.
    """
    if not len(rows):
        return dataset
    boxes, n = dataset.boxes, len(rows)
    if boxes.provenance is None:
        raise ValueError("relabelled boxes carry their provenance")
    regions = replace(
        source.boxes.take(rows),
        category=np.zeros(n, np.int32),
        score=np.full(n, np.nan, np.float32),
        ignore=np.ones(n, bool),
        provenance=Provenance.annotated(source, rows, origin),
    )
    both = Boxes.concatenate([replace(boxes, extra=None), replace(regions, extra=None)])
    both = replace(both, id=np.arange(1, len(both) + 1, dtype=np.int64))
    return dataset.with_boxes(both.sorted_by_image())
