"""What a transfer has to beat: ways to relabel a dataset without a trained transfer model.

- untouched boxes under a name map,
- the target specialist's pseudo-labels, filtered,
- of these, the ones that one of the source's boxes supports,
- the source's boxes, each with the class of the pseudo-label that overlaps it best,
- the source's boxes as the target specialist's box head classifies and refines them.

The second and fourth are baselines of "Label-Aligned Transfer" (arXiv 2506.04737), the last is
label-guided pseudo-labelling (Liao et al., ICLR 2024). All give datasets on the source's images,
which `relabel.evaluation.transfer.compare_transfer` scores beside others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from relabel.datasets.alternatives import renamed
from relabel.datasets.dataset import DetectionDataset, Provenance
from relabel.datasets.labelspace import LabelSpace
from relabel.errors import ConfigError, did_you_mean
from relabel.geometry import BoxPairs, overlapping, paired_iou, suppress

if TYPE_CHECKING:
    from relabel.crosslabel.given import GivenLabels
    from relabel.crosslabel.pseudo import PseudoLabels

TargetNames = Mapping[str, str | None]

# Chosen on held-back images of the demo's target, annotated as its sources would have: F1 and AP
# fall from 0 on, by 0.5 points to 0.05 and by 11 to 0.5, since nearly all annotations are objects;
# 0.05 is what is left to find those that are none of the target's, and filters pseudo-labels, too.
LGPL_THRESHOLD = 0.05


def untouched_with_map(
    source: DetectionDataset, target_space: LabelSpace, names: TargetNames
) -> DetectionDataset:
    """The source's own boxes with their categories renamed.

    Args:
        source: the dataset to relabel.
        target_space: the label space of the result.
        names: target name by source name; None, or no entry, drops the category. Names are
            those of the label spaces, or their aliases.

    Raises:
        ConfigError: a name that one of the label spaces does not have.
    """
    category = _renamed_categories(source, target_space, names)
    kept = np.flatnonzero(category >= 0)
    return _relabelled(source, target_space, kept, category[kept], source.boxes.score[kept])


def filtered_pseudo_labels(
    source: DetectionDataset,
    pseudo: PseudoLabels,
    threshold: float | Sequence[float] = 0.5,
) -> DetectionDataset:
    """The target specialist's pseudo-labels in place of the source's boxes, after NMS at IoU 0.5.

    Args:
        source: the dataset to relabel; only its images are used.
        pseudo: pseudo-labels on them; each box has its best class.
        threshold: minimum score, for all classes or for each of the C.

    Raises:
        ConfigError: thresholds for another number of classes.
    """
    boxes = _confident(source, pseudo, threshold)
    classes = max(pseudo.space.num_classes, 1)
    group = boxes.image.astype(np.int64) * classes + boxes.category
    boxes = boxes.take(suppress(boxes.boxes, boxes.score, group, 0.5))
    made = boxes.to_boxes(source.name, pseudo.space.name)
    return source.with_boxes(made, pseudo.space)


def supported_pseudo_labels(
    source: DetectionDataset,
    pseudo: PseudoLabels,
    threshold: float | Sequence[float] = 0.5,
    min_iou: float = 0.5,
) -> DetectionDataset:
    """`filtered_pseudo_labels` without those that no box of the source supports.

    A box of any class supports a label that it overlaps, a region to leave out does not. What the
    source never annotated has no label.

    Args:
        min_iou: minimum IoU of a label and a box that supports it.

    Raises:
        ConfigError: thresholds for another number of classes.
    """
    found = filtered_pseudo_labels(source, pseudo, threshold)
    real = source.boxes.take(~source.boxes.ignore)
    pairs = overlapping(found.boxes.xyxy, found.boxes.image, real.xyxy, real.image, min_iou)
    return found.with_boxes(found.boxes.take(np.unique(pairs.left)))


def best_overlap(
    source: DetectionDataset,
    pseudo: PseudoLabels,
    threshold: float | Sequence[float] = 0.5,
    min_iou: float = 0.5,
) -> DetectionDataset:
    """The source's boxes, each with class and score of the pseudo-label that overlaps it best.

    Boxes that no pseudo-label overlaps are dropped. Several source boxes may take their class from
    one pseudo-label. Between equal overlaps the higher score decides.

    Args:
        source: the dataset to relabel.
        pseudo: the target specialist's pseudo-labels on its images.
        threshold: minimum score of a pseudo-label, for all classes or for each of the C.
        min_iou: minimum IoU of box and pseudo-label.

    Raises:
        ConfigError: thresholds for another number of classes.
    """
    found = _confident(source, pseudo, threshold)
    pairs = _best_pairs(source, found, min_iou)
    n = len(source.boxes)
    category = np.full(n, -1, np.int64)
    score = np.full(n, np.nan, np.float32)
    category[pairs.left] = found.category[pairs.right]
    score[pairs.left] = found.score[pairs.right]
    kept = np.flatnonzero((category >= 0) & ~source.boxes.ignore)
    return _relabelled(source, pseudo.space, kept, category[kept], score[kept])


def label_guided(
    source: DetectionDataset, given: GivenLabels, threshold: float = LGPL_THRESHOLD
) -> DetectionDataset:
    """Label-guided pseudo-labels: the source's boxes, classified and refined by the target's head.

    Each annotation has the best class of its score vector and the coordinates that the box head
    gives it as one of that class; it goes where that score is below the threshold, where nothing
    is left of the box, and where a label of its class with a higher score overlaps it with IoU
    above 0.5. Nothing is added: what the source never annotated has no label. The filter and the
    NMS are our reading of Liao et al. (ICLR 2024), whose code is not public.

    Args:
        source: the dataset to relabel.
        given: its boxes through the box head (`relabel.crosslabel.given`).
        threshold: minimum score of the best class.

    Raises:
        DataError: ``given`` is of other annotations.
    """
    from relabel.crosslabel.given import rows_of_annotations

    given = given.for_images(source.images.file_name)
    rows = rows_of_annotations(given, source)
    sides = given.boxes[:, 2:] - given.boxes[:, :2]
    kept = np.flatnonzero((given.score >= np.float32(threshold)) & (sides > 0).all(axis=1))
    given, rows = given.take(kept), rows[kept]
    classes = max(given.space.num_classes, 1)
    group = given.image.astype(np.int64) * classes + given.category
    kept = suppress(given.boxes, given.score, group, 0.5)
    given, rows = given.take(kept), rows[kept]
    iou = paired_iou(given.boxes.astype(np.float64), source.boxes.xyxy[rows])
    origin = replace(
        Provenance.annotated(source, rows, "source"), source_iou=iou.astype(np.float32)
    )
    made = replace(given.to_boxes(source.name, given.space.name), provenance=origin)
    return source.with_boxes(made, given.space)


def derive_name_map(
    source: DetectionDataset,
    pseudo: PseudoLabels,
    threshold: float | Sequence[float] = 0.5,
    min_iou: float = 0.5,
) -> dict[str, str | None]:
    """A name map from the data: each source class goes to the class most of its boxes overlap.

    Equal names map to each other whatever the data say. Every other class goes to the target
    class that is most often its boxes' best-overlapping pseudo-label (the earlier class between
    equals), and to None where no box is overlapped. For `untouched_with_map` when no one wrote a
    map; a person's map may be better, and is then the baseline to report.
    """
    found = _confident(source, pseudo, threshold)
    pairs = _best_pairs(source, found, min_iou)
    real = ~source.boxes.ignore[pairs.left]
    mine, theirs = source.boxes.category[pairs.left][real], found.category[pairs.right][real]
    classes = max(pseudo.space.num_classes, 1)
    votes = np.bincount(
        mine.astype(np.int64) * classes + theirs, minlength=len(source.space) * classes
    ).reshape(len(source.space), classes)
    names: dict[str, str | None] = {}
    for category, counts in zip(source.space.categories, votes, strict=True):
        found_at = pseudo.space.get(category.name)
        if found_at is None and counts.any():
            found_at = int(counts.argmax())
        names[category.name] = None if found_at is None else pseudo.space.names[found_at]
    return names


def all_baselines(
    source: DetectionDataset,
    pseudo: PseudoLabels,
    names: TargetNames | None = None,
    threshold: float | Sequence[float] = 0.5,
    given: GivenLabels | None = None,
) -> dict[str, DetectionDataset]:
    """The baselines by name.

    Args:
        names: for untouched boxes; derived from the data where None.
        threshold: minimum score of a pseudo-label.
        given: the source's boxes through the target's box head; without it there are no
            label-guided labels, which have a threshold of their own.
    """
    table = derive_name_map(source, pseudo, threshold) if names is None else names
    unknown = [n for n in table if source.space.get(n) is None]
    if unknown:
        raise ConfigError(
            f"the name map names {unknown[0]!r}, which the source does not have",
            remedy=did_you_mean(unknown[0], source.space.names),
        )
    found = {
        "untouched boxes, name map": untouched_with_map(source, pseudo.space, table),
        "filtered pseudo-labels": filtered_pseudo_labels(source, pseudo, threshold),
        "supported pseudo-labels": supported_pseudo_labels(source, pseudo, threshold),
        "best-overlap relabelling": best_overlap(source, pseudo, threshold),
    }
    if given is not None:
        found["label-guided pseudo-labels"] = label_guided(source, given)
    return found


def _renamed_categories(
    source: DetectionDataset, space: LabelSpace, names: TargetNames
) -> np.ndarray:
    """int64 [n], each box's position in another label space, -1 where its category has none."""
    table = np.full(max(len(source.space), 1), -1, np.int64)
    for mine, theirs in names.items():
        table[source.space.index(mine)] = -1 if theirs is None else space.index(theirs)
    return table[source.boxes.category]


def _confident(
    source: DetectionDataset, pseudo: PseudoLabels, threshold: float | Sequence[float]
) -> PseudoLabels:
    return pseudo.for_images(source.images.file_name).filter(threshold)


def _best_pairs(source: DetectionDataset, found: PseudoLabels, min_iou: float) -> BoxPairs:
    """For every source box that is overlapped, its pair with the best-overlapping pseudo-label."""
    pairs = overlapping(source.boxes.xyxy, source.boxes.image, found.boxes, found.image, min_iou)
    order = np.lexsort((-found.score[pairs.right], -pairs.iou, pairs.left))
    pairs = pairs.take(order)
    first = np.ones(len(pairs.left), bool)
    first[1:] = pairs.left[1:] != pairs.left[:-1]
    return pairs.take(first)


def _relabelled(
    source: DetectionDataset,
    space: LabelSpace,
    rows: np.ndarray,
    category: np.ndarray,
    score: np.ndarray,
) -> DetectionDataset:
    # Alternatives are classes of the source's label space.
    boxes = renamed(source.boxes.take(rows), {})
    boxes = replace(
        boxes,
        category=category.astype(np.int32),
        score=score.astype(np.float32),
        provenance=Provenance.annotated(source, rows, "source"),
    )
    return source.with_boxes(boxes, space)
