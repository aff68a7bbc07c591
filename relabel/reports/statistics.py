"""What a relabelling did to a dataset, in numbers.

Shape legend: ``R`` source classes, ``C`` target classes, ``k`` pairs of a relabelled box and the
source box it comes from, ``I`` images of the relabelled dataset.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from relabel.datasets.changes import pair_boxes
from relabel.datasets.dataset import DetectionDataset
from relabel.geometry import paired_iou

NEW = "no source box (new)"
DROPPED = "no label of its own"


@dataclass(frozen=True)
class ClassFlow:
    """Where the source's boxes went.

    Attributes:
        rows: the R source classes, then `NEW`.
        columns: the C target classes, then `DROPPED`.
        counts: int64 [R + 1, C + 1].
    """

    rows: list[str]
    columns: list[str]
    counts: np.ndarray


@dataclass(frozen=True)
class BoxStyle:
    """How boxes differ from the source boxes they come from, float64 [k] each.

    Attributes:
        width, height: size after over size before.
        shift: distance of the centres as a share of the diagonal of the box before.
        iou: intersection over union of the two.
    """

    width: np.ndarray
    height: np.ndarray
    shift: np.ndarray
    iou: np.ndarray


def class_flow(before: DetectionDataset, after: DetectionDataset) -> ClassFlow:
    """Source class to target class over all boxes that are not ignored."""
    rows = [*before.space.class_names, NEW]
    columns = [*after.space.class_names, DROPPED]
    counts = np.zeros((len(rows), len(columns)), np.int64)
    to_rows, from_rows = pair_boxes(before, after)
    source_row = np.full(len(after.boxes), len(rows) - 1, np.int64)
    source_row[to_rows] = np.where(
        before.boxes.ignore[from_rows], len(rows) - 1, before.boxes.category[from_rows]
    )
    kept = ~after.boxes.ignore & (after.boxes.category < len(columns) - 1)
    np.add.at(counts, (source_row[kept], after.boxes.category[kept]), 1)
    lost = ~before.boxes.ignore & (before.boxes.category < len(rows) - 1)
    lost[from_rows] = False
    np.add.at(counts[:, -1], before.boxes.category[lost], 1)
    return ClassFlow(rows, columns, counts)


def box_style(before: DetectionDataset, after: DetectionDataset) -> BoxStyle:
    """The change of shape from each source box that has an area to the box made from it."""
    to_rows, from_rows = pair_boxes(before, after)
    old, new = before.boxes.xywh[from_rows], after.boxes.xywh[to_rows]
    usable = (old[:, 2] > 0) & (old[:, 3] > 0) & ~after.boxes.ignore[to_rows]
    old, new = old[usable], new[usable]
    centre = (new[:, :2] + new[:, 2:] / 2) - (old[:, :2] + old[:, 2:] / 2)
    return BoxStyle(
        width=new[:, 2] / old[:, 2],
        height=new[:, 3] / old[:, 3],
        shift=np.hypot(centre[:, 0], centre[:, 1]) / np.hypot(old[:, 2], old[:, 3]),
        iou=paired_iou(before.boxes.xyxy[from_rows][usable], after.boxes.xyxy[to_rows][usable]),
    )


@dataclass(frozen=True)
class ClassShape:
    """Width over height of the boxes of a target class, float64 [k] each.

    Attributes:
        before: of the annotations that labels of the class come from.
        after: of these labels.
        target: of the target's own boxes of the class.
    """

    before: np.ndarray
    after: np.ndarray
    target: np.ndarray


def class_shapes(
    before: DetectionDataset, after: DetectionDataset, target: DetectionDataset
) -> dict[str, ClassShape]:
    """By class of the target with labels that come from an annotation; boxes without area left out.

    Args:
        target: in the label space of ``after``.
    """
    to_rows, from_rows = pair_boxes(before, after)
    kept = ~after.boxes.ignore[to_rows]
    to_rows, from_rows = to_rows[kept], from_rows[kept]
    old, new = _ratios(before.boxes.xywh[from_rows]), _ratios(after.boxes.xywh[to_rows])
    usable = np.isfinite(old) & np.isfinite(new)
    of_label = after.boxes.category[to_rows]
    own = _ratios(target.boxes.xywh)
    own_kept = ~target.boxes.ignore & np.isfinite(own)
    return {
        name: ClassShape(
            old[usable & (of_label == c)],
            new[usable & (of_label == c)],
            own[own_kept & (target.boxes.category == c)],
        )
        for c, name in enumerate(after.space.class_names)
        if (usable & (of_label == c)).any()
    }


def relative_sizes(dataset: DetectionDataset) -> np.ndarray:
    """Side of a square as large as each box over that of its image, in percent: float64 [n].

    Ignored boxes and images without a size are left out.
    """
    boxes, images = dataset.boxes, dataset.images
    rows = np.flatnonzero(~boxes.ignore)
    area = np.prod(boxes.xywh[rows, 2:], axis=1)
    of_image = images.width.astype(np.float64) * images.height
    whole = of_image[boxes.image[rows]]
    return 100 * np.sqrt(area[whole > 0] / whole[whole > 0])


def _ratios(xywh: np.ndarray) -> np.ndarray:
    """Width over height, NaN without area."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = xywh[:, 2] / xywh[:, 3]
    return np.where((xywh[:, 2:] > 0).all(axis=1), ratio, np.nan)


def class_counts(dataset: DetectionDataset) -> dict[str, int]:
    """Boxes per class in the order of the label space, ignored boxes left out."""
    names = dataset.space.names
    kept = dataset.boxes.category[~dataset.boxes.ignore]
    counts = np.bincount(kept, minlength=len(names))
    return {name: int(n) for name, n in zip(names, counts, strict=True)}


def origins(after: DetectionDataset) -> dict[str, int]:
    """Boxes by origin, ``source`` first, ignored boxes left out."""
    provenance = after.boxes.provenance
    if provenance is None:
        return {}
    kept = np.flatnonzero(~after.boxes.ignore)
    counts = Counter(provenance.origin[i] for i in kept.tolist())
    return {name: counts[name] for name in sorted(counts, key=lambda n: (n != "source", n))}


def matching_images(before: DetectionDataset, after: DetectionDataset) -> np.ndarray:
    """Row in ``before`` of each image of ``after`` by file name, -1 where absent: int64 [I]."""
    rows = {name: i for i, name in enumerate(before.images.file_name)}
    return np.array([rows.get(name, -1) for name in after.images.file_name], dtype=np.int64)


def change_per_image(before: DetectionDataset, after: DetectionDataset) -> np.ndarray:
    """How much each image's boxes changed: new ones, dropped ones, and 1 - IoU of moved ones.

    Returns:
        float64 [I], one number for each image of ``after``.
    """
    change = np.zeros(len(after.images))
    to_rows, from_rows = pair_boxes(before, after)
    new = ~after.boxes.ignore
    new[to_rows] = False
    np.add.at(change, after.boxes.image[new], 1.0)
    old, now = before.boxes.xyxy[from_rows], after.boxes.xyxy[to_rows]
    moved = (old != now).any(axis=1)  # boxes without area have no IoU
    np.add.at(change, after.boxes.image[to_rows], moved * (1.0 - paired_iou(old, now)))
    lost = ~before.boxes.ignore
    lost[from_rows] = False
    after_row = np.full(len(before.images), -1, np.int64)
    joined = matching_images(before, after)
    after_row[joined[joined >= 0]] = np.flatnonzero(joined >= 0)
    image = after_row[before.boxes.image[lost]]
    np.add.at(change, image[image >= 0], 1.0)
    return change


def choose_images(
    before: DetectionDataset, after: DetectionDataset, count: int, seed: int
) -> list[tuple[int, str]]:
    """Rows of ``after`` to show: half those that changed most, half at random.

    Only images with boxes before or after are shown. Each row comes with the reason it was chosen,
    ``most change`` or ``at random``.
    """
    change = change_per_image(before, after)
    joined = matching_images(before, after)
    sizes = np.diff(after.offsets)
    before_sizes = np.where(joined >= 0, np.diff(before.offsets)[joined], 0) if len(before) else 0
    candidates = np.flatnonzero((joined >= 0) & (sizes + before_sizes > 0))
    by_change = candidates[np.argsort(-change[candidates], kind="stable")]
    most = by_change[: (count + 1) // 2].tolist()
    rest = np.setdiff1d(candidates, most)
    rng = np.random.default_rng(seed)
    picked = rng.choice(rest, size=min(count - len(most), len(rest)), replace=False)
    return [(i, "most change") for i in most] + [(int(i), "at random") for i in np.sort(picked)]
