"""The result as a FiftyOne dataset folder: masks as detections, labels as classifications.

Written without a database and without importing fiftyone, as `relabel.datasets.formats.fiftyone`
does; `relabel view` shows it.
"""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from relabel.datasets.formats.fiftyone.documents import (
    LABELS,
    classification_document,
    classification_fields,
    classifications_document,
    classifications_field,
    dataset_document,
    detection_fields,
    object_id,
    sample_document,
    schema_field,
    shortest_number,
    write_documents,
)
from relabel.datasets.pixels.image_folder import ImageSet
from relabel.datasets.pixels.location import is_packed
from relabel.datasets.pixels.placing import CopyImages, place_image
from relabel.multilabel.result.export import label_origin_text, label_origins
from relabel.multilabel.store import LabelShard, RegionShard


def write_fiftyone(
    out: Path,
    images: ImageSet,
    shards: Iterable[tuple[RegionShard, LabelShard]],
    *,
    name: str,
    split: str = "train",
    min_prob: float = 0.1,
    copy_images: CopyImages = "none",
    limit: int | None = None,
) -> list[Path]:
    """Write a FiftyOne dataset folder with the fields ``original``, ``labels`` and ``regions``.

    Args:
        out: the folder to write; other files in it are left alone.
        images: for the image files and class names.
        shards: see `relabel.multilabel.result.export.paired`. Images that could not be read are
            left out.
        name: the dataset's name.
        split: tag put on every sample.
        min_prob: labels below this are left out.
        copy_images: see `relabel.datasets.formats.fiftyone.write`.
        limit: at most this many images, the first ones; a browser shows a few thousand well.

    Returns:
        The paths of ``metadata.json`` and ``samples.json``.

    Raises:
        DataError: an image that is to be linked or copied does not exist.
    """
    samples = islice(_samples(out, images, shards, name, split, min_prob, copy_images), limit)
    classes: dict[str, list[str]] = dict.fromkeys(
        ("original", "labels", "regions"), images.class_names
    )
    return write_documents(out, samples, dataset_document(name, split, _schema(), classes))


def _samples(
    out: Path,
    images: ImageSet,
    shards: Iterable[tuple[RegionShard, LabelShard]],
    name: str,
    split: str,
    min_prob: float,
    copy_images: CopyImages,
) -> Iterator[dict[str, Any]]:
    for regions, labels in shards:
        origins = label_origins(labels)
        for i in np.flatnonzero(regions.readable).tolist():
            file_name = labels.file_name[i]
            location = images.location(int(regions.row[i]))
            if stored := copy_images != "none" or is_packed(location):
                mode = "copy" if copy_images == "none" else copy_images
                place_image(location, out / "data" / file_name, mode)
            found = [
                {
                    **classification_document(
                        object_id(name, "label", file_name, labels.label_ids[k]),
                        images.class_names[labels.label_ids[k]],
                        shortest_number(labels.label_probs[k]),
                    ),
                    "origin": label_origin_text(int(origins[k])),
                }
                for k in range(*labels.label_offsets[i : i + 2])
                if labels.label_probs[k] >= min_prob
            ]
            yield {
                **sample_document(
                    object_id(name, "sample", file_name),
                    f"data/{file_name}" if stored else str(Path(location).absolute()),
                    [split],
                    int(regions.width[i]),
                    int(regions.height[i]),
                ),
                "original": _original(name, file_name, int(labels.gt[i]), images),
                "labels": classifications_document(found),
                "regions": {
                    "_cls": "Detections",
                    "detections": _detections(name, i, regions, labels, images),
                },
                "num_labels": len(found),
            }


def _original(name: str, file_name: str, gt: int, images: ImageSet) -> dict[str, Any] | None:
    if gt < 0:
        return None
    identity = object_id(name, "original", file_name)
    return classification_document(identity, images.class_names[gt], None)


def _detections(
    name: str, image: int, regions: RegionShard, labels: LabelShard, images: ImageSet
) -> list[dict[str, Any]]:
    """The regions with a pixel and a class, as Detection documents."""
    found = []
    for mask, r in zip(regions.masks(image), regions.regions(image), strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        top = int(labels.ids[r, 0])
        if not len(rows) or top < 0:
            continue
        height, width = mask.shape
        y1, y2 = int(rows[0]), int(rows[-1]) + 1
        x1, x2 = int(columns[0]), int(columns[-1]) + 1
        found.append(
            {
                "_id": object_id(
                    name, "region", labels.file_name[image], r - regions.offsets[image]
                ),
                "_cls": "Detection",
                "attributes": {},
                "tags": [],
                "label": images.class_names[top],
                "bounding_box": [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height],
                "mask": _array(mask[y1:y2, x1:x2]),
                "confidence": shortest_number(labels.probs[r, 0]),
                "round": int(regions.round[r]),
                "area": int(regions.area[r]),
            }
        )
    return found


def _array(mask: np.ndarray) -> dict[str, Any]:
    """An array as FiftyOne stores it: NumPy's file format, compressed, as binary data of BSON."""
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(mask), allow_pickle=False)
    data = base64.b64encode(zlib.compress(stream.getvalue())).decode()
    return {"$binary": {"base64": data, "subType": "00"}}


def _schema() -> list[dict[str, Any]]:
    f = schema_field
    detections = f(
        "detections",
        "List",
        document=f"{LABELS}Detection",
        subfield="EmbeddedDocument",
        fields=[*detection_fields(), f("round", "Int"), f("area", "Int")],
    )

    def field(name: str, kind: str, fields: list[dict[str, Any]]) -> dict[str, Any]:
        return f(name, "EmbeddedDocument", document=f"{LABELS}{kind}", fields=fields)

    return [
        field("original", "Classification", classification_fields()),
        classifications_field("labels", f("origin", "String")),
        field("regions", "Detections", [detections]),
        f("num_labels", "Int"),
    ]
