"""The fingerprint of a dataset: what a stage that reads it depends on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.pixels.location import image_sizes, relative_location
from relabel.files.remote import is_url
from relabel.workspace.fingerprint import fingerprint


def dataset_fingerprint(dataset: DetectionDataset, *, boxes: bool = True) -> str:
    """SHA-256 (hex) of a dataset: its label space, columns, file names and image file sizes.

    Sizes stand for the pixels: reading every image would take minutes, and modification times
    change whenever a dataset is copied. The root's own place on the disk does not count. A set of
    one million boxes takes well under a second, and images a few microseconds each.

    Args:
        boxes: False takes the images only, for what does not depend on the annotations.
    """
    digest = hashlib.sha256()

    def column(name: str, values: Any) -> None:
        array = np.ascontiguousarray(values)
        digest.update(f"{name}:{array.dtype.str}:{array.shape}:".encode())
        digest.update(array.data if array.size else b"")

    def strings(name: str, values: Sequence[str | bytes | None]) -> None:
        digest.update(f"{name}:{len(values)}:".encode())
        digest.update("\0".join(v if isinstance(v, str) else repr(v) for v in values).encode())

    images = dataset.images
    for name in ("id", "width", "height"):
        column(name, getattr(images, name))
    strings("file_name", images.file_name)
    # Images below a URL are the same as below a folder: where that is does not count.
    if images.location is not None and not all(
        is_url(place) and place.endswith(f"/{name}")
        for place, name in zip(images.location, images.file_name, strict=True)
    ):
        root = str(dataset.root)
        strings("location", [relative_location(text or "", root) for text in images.location])
    column("size", np.array(image_sizes(dataset), dtype=np.int64))
    if not boxes:
        return digest.hexdigest()
    digest.update(fingerprint([dataset.name, dataset.space.to_dict()]).encode())
    rows = dataset.boxes
    for name in ("image", "xywh", "category", "score", "ignore", "id", "area"):
        column(f"box {name}", getattr(rows, name))
    if rows.extra is not None:
        strings("extra", rows.extra)
    if rows.provenance is not None:
        strings("origin", rows.provenance.origin)
        strings("source category", rows.provenance.source_category)
        column("source id", rows.provenance.source_id)
        column("source iou", rows.provenance.source_iou)
    return digest.hexdigest()
