"""What the source images would be labelled in the Cityscapes convention: the demo's paired truth.

It comes from the scenes themselves and is for evaluation only; nothing that learns reads it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from relabel.datasets.labelspace import LabelSpace
from relabel.demo.world import Scene

INFO = {"description": "Paired truth of the relabel demo world in the Cityscapes convention"}


def cityscapes_boxes(scene: Scene) -> list[tuple[str, np.ndarray, bool]]:
    """(category, xyxy float64 [4], group) of everything Cityscapes boxes, far to near."""
    rows = zip(scene.parts, scene.part_boxes(), strict=True)
    return [
        (part.label.removesuffix("group"), box, part.label.endswith("group"))
        for part, box in rows
        if part.label != "static"
    ]


def truth_coco(images: Iterable[tuple[str, Scene]]) -> dict[str, Any]:
    """A COCO instances dictionary; groups are ``iscrowd``.

    Args:
        images: file name, as the source's reader gives it, and scene of every image.
    """
    space = LabelSpace.load("cityscapes")
    ids = {c.name: c.id for c in space.categories}
    image_rows: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (file_name, scene) in enumerate(images, start=1):
        image_rows.append(
            {
                "id": number,
                "file_name": file_name,
                "width": scene.camera.width,
                "height": scene.camera.height,
            }
        )
        for category, (x0, y0, x1, y1), group in cityscapes_boxes(scene):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": ids[category],
                    "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
                    "area": float((x1 - x0) * (y1 - y0)),
                    "iscrowd": int(group),
                }
            )
    categories = [
        row for row, c in zip(space.to_coco(), space.categories, strict=True) if not c.ignore
    ]
    return {
        "info": INFO,
        "images": image_rows,
        "annotations": annotations,
        "categories": categories,
    }
