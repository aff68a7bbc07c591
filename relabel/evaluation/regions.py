"""What of a truth is to be found, and what is to be left out.

Regions are boxes with ``ignore`` (COCO's crowds) and those of ``ignore`` categories; the latter
concern every class.

Shape legend: ``n`` boxes, ``C`` classes.
"""

from __future__ import annotations

import numpy as np

from relabel.datasets.dataset import Boxes, DetectionDataset
from relabel.geometry import overlapping


def objects_and_regions(dataset: DetectionDataset) -> tuple[Boxes, Boxes]:
    """The boxes that are objects, and those that are regions to leave out."""
    boxes = dataset.boxes
    left_out = boxes.ignore | (boxes.category >= dataset.space.num_classes)
    if not left_out.any():
        return boxes, boxes.take(np.zeros(0, np.int64))
    return boxes.take(np.flatnonzero(~left_out)), boxes.take(np.flatnonzero(left_out))


def inside_regions(boxes: Boxes, regions: Boxes, classes: int, share: float) -> np.ndarray:
    """bool [n]: at least that share of the box lies in a region of its class, or of every class.

    Args:
        boxes, regions: on the same images; regions of a category from ``classes`` on concern every
            class.
        classes: C.
        share: of the box's area, above 0.
    """
    inside = np.zeros(len(boxes), bool)
    pairs = overlapping(boxes.xyxy, boxes.image, regions.xyxy, regions.image, share, over_left=True)
    category = regions.category[pairs.right]
    inside[pairs.left[(category >= classes) | (category == boxes.category[pairs.left])]] = True
    return inside
