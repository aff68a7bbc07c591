"""Small datasets: in memory, and as COCO files with their images."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from relabel.datasets.dataset import Boxes, DetectionDataset, Images, make_boxes
from relabel.datasets.labelspace import LabelSpace


def images_of(
    names: Sequence[str], size: tuple[int, int] = (100, 100), ids: Sequence[int] | None = None
) -> Images:
    """Images of one (width, height), with ids from 1."""
    n = len(names)
    ids = range(1, n + 1) if ids is None else ids
    width, height = np.full(n, size[0], np.int32), np.full(n, size[1], np.int32)
    return Images(np.array(ids, np.int64), list(names), width, height)


def dataset_of(
    name: str,
    space: LabelSpace | Sequence[str],
    images: Images | Sequence[str],
    boxes: Boxes | Sequence[Any] = (),
    *,
    root: Path = Path(),
    size: tuple[int, int] = (100, 100),
) -> DetectionDataset:
    """A dataset in memory.

    Args:
        space: the label space, or its class names.
        images: `Images`, or file names of images of ``size``.
        boxes: `Boxes`, or rows (image, xywh, category).
    """
    if not isinstance(space, LabelSpace):
        space = LabelSpace.from_names(name, list(space))
    if not isinstance(images, Images):
        images = images_of(images, size)
    if not isinstance(boxes, Boxes):
        image, xywh, category = zip(*boxes, strict=True) if boxes else ([], [], [])
        boxes = make_boxes(image, xywh, category)
    return DetectionDataset(name, space, images, boxes, root)


def coco_set(folder: Path, name: str, classes: Sequence[str], images: int = 4) -> Path:
    """Write a COCO dataset of small images to ``folder / name`` and return its root.

    Image ``i`` is 64 x 48 and holds a box of 8 x 6 per class ``c`` at (4 + 10 c, 5 + i % 30).
    """
    root = folder / name
    rng = np.random.default_rng(len(name))
    records, annotations = [], []
    for i in range(images):
        file_name = f"images/{i:03d}.png"
        write_pixels(root / file_name, rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
        records.append({"id": i + 1, "file_name": file_name, "width": 64, "height": 48})
        for c in range(len(classes)):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": c + 1,
                    "bbox": [4.0 + 10 * c, 5.0 + i % 30, 8.0, 6.0],
                    "area": 48.0,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": c + 1, "name": label} for c, label in enumerate(classes)]
    data = {"images": records, "annotations": annotations, "categories": categories}
    write_json(root / "train.json", data)
    return root


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def edit_json(path: Path, change: Any) -> None:
    """Load a file, let ``change`` alter the object in place, and write it back."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def write_pixels(path: Path, pixels: np.ndarray) -> Path:
    """Write uint8 [H, W, 3] pixels, in the format that the suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_image(
    path: Path, width: int, height: int, colour: tuple[int, int, int] = (90, 40, 110)
) -> Path:
    """Write an image of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), colour).save(path)
    return path


def jpeg(width: int, height: int, shade: int = 90) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (shade, 40, 200 - shade)).save(out, "JPEG")
    return out.getvalue()
