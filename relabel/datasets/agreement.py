"""How far the detectors that labelled a source's images disagree about its labels.

Shape legend: ``m`` labels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.geometry import overlapping

SAME_OBJECT_IOU = 0.5


def disagreement(
    labels: DetectionDataset, found: Mapping[str, DetectionDataset], target: str
) -> list[float | None]:
    """The share of detectors that do not see what a label says, for m labels.

    A detector sees it with a box of IoU >= 0.5; the target's own, which knows its classes, with
    one of the label's class. None for ignore regions, and where no detector looked.

    Args:
        labels: in the target's label space.
        found: what each detector found on the same images, in its own label space.
        target: the name of the target's own detector.
    """
    if not found:
        return [None] * len(labels.boxes)
    boxes = labels.boxes
    seen = np.zeros(len(boxes), np.int64)
    names = np.array(labels.space.names)[boxes.category] if len(boxes) else np.zeros(0, str)
    for by, data in found.items():
        near = overlapping(
            boxes.xyxy, boxes.image, data.boxes.xyxy, data.boxes.image, SAME_OBJECT_IOU
        )
        hit = near.left
        if by == target and len(hit):
            of = np.array(data.space.names)[data.boxes.category[near.right]]
            hit = hit[of == names[hit]]
        seen += np.isin(np.arange(len(boxes)), hit)
    share = np.round(1 - seen / len(found), 3).tolist()
    return [None if region else s for s, region in zip(share, boxes.ignore.tolist(), strict=True)]
