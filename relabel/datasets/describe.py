"""What a dataset holds, in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from relabel.datasets.dataset import DetectionDataset


def describe(dataset: DetectionDataset) -> dict[str, Any]:
    """Counts of a dataset.

    Returns:
        ``images``; ``boxes`` without the ignored ones; ``ignored`` (crowd, difficult, group, and
        categories to ignore); ``categories``, the boxes of every category that is not to be
        ignored, in the order of the label space, zeros included.
    """
    space, boxes = dataset.space, dataset.boxes
    counted = ~boxes.ignore & ~space.ignore_mask[boxes.category] if len(space) else ~boxes.ignore
    counts = np.bincount(boxes.category[counted], minlength=len(space)).tolist()
    return {
        "images": len(dataset),
        "boxes": int(counted.sum()),
        "ignored": int((~counted).sum()),
        "categories": {
            c.name: n for c, n in zip(space.categories, counts, strict=True) if not c.ignore
        },
    }
