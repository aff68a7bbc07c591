"""The result as a FiftyOne dataset folder: masks as detections, labels as classifications.

Written without a database and without importing fiftyone, as `relabel.datasets.formats.fiftyone`
does; `relabel view` shows it.
"""

from __future__ import annotations

import base64
import io
import mimetypes
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from relabel.datasets.formats.fiftyone import (
    dataset_document,
    detection_fields,
    object_id,
    schema_field,
)
from relabel.datasets.pixels.image_folder import ImageSet
from relabel.datasets.pixels.placing import CopyImages, place_image
from relabel.multilabel.result.export import label_order, label_origin_text, label_origins
from relabel.multilabel.store import LabelShard, RegionShard
from relabel.workspace.atomic import atomic_path, atomic_write_bytes


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
    out.mkdir(parents=True, exist_ok=True)
    samples, metadata = out / "samples.json", out / "metadata.json"
    with atomic_path(samples) as temporary, temporary.open("wb") as stream:
        stream.write(b'{"samples": [')
        for count, sample in enumerate(
            _samples(out, images, shards, name, split, min_prob, copy_images)
        ):
            if limit is not None and count >= limit:
                break
            stream.write(b",\n" if count else b"\n")
            stream.write(orjson.dumps(sample))
        stream.write(b"\n]}\n")
    classes: dict[str, list[str]] = dict.fromkeys(
        ("original", "labels", "regions"), images.class_names
    )
    document = dataset_document(name, split, _schema(), classes)
    # The metadata comes last: a folder that has it is complete.
    atomic_write_bytes(metadata, orjson.dumps(document) + b"\n")
    return [metadata, samples]


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
        order, origins = label_order(labels), label_origins(labels)
        for i in np.flatnonzero(regions.readable).tolist():
            file_name = labels.file_name[i]
            identity = object_id(name, "sample", file_name)
            path = images.root.absolute() / file_name
            if copy_images != "none":
                place_image(str(path), out / "data" / file_name, copy_images)
            chosen = order[labels.label_offsets[i] : labels.label_offsets[i + 1]]
            found = [
                {
                    "_id": object_id(name, "label", file_name, labels.label_ids[k]),
                    "_cls": "Classification",
                    "tags": [],
                    "label": images.class_names[labels.label_ids[k]],
                    "confidence": _number(labels.label_probs[k]),
                    "origin": label_origin_text(int(origins[k])),
                }
                for k in chosen.tolist()
                if labels.label_probs[k] >= min_prob
            ]
            sample: dict[str, Any] = {
                "_id": identity,
                "filepath": str(path) if copy_images == "none" else f"data/{file_name}",
                "tags": [split],
                "metadata": {
                    "_cls": "ImageMetadata",
                    "mime_type": mimetypes.guess_type(file_name)[0] or "image/jpeg",
                    "width": int(regions.width[i]),
                    "height": int(regions.height[i]),
                },
                "_media_type": "image",
                # FiftyOne draws random subsets by this number in [0, 1).
                "_rand": int(identity["$oid"][:8], 16) / 2**32,
                "original": _original(name, file_name, int(labels.gt[i]), images),
                "labels": {"_cls": "Classifications", "classifications": found, "logits": None},
                "regions": {
                    "_cls": "Detections",
                    "detections": _detections(name, i, regions, labels, images),
                },
                "num_labels": len(found),
            }
            yield sample


def _original(name: str, file_name: str, gt: int, images: ImageSet) -> dict[str, Any] | None:
    if gt < 0:
        return None
    return {
        "_id": object_id(name, "original", file_name),
        "_cls": "Classification",
        "tags": [],
        "label": images.class_names[gt],
        "confidence": None,
    }


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
                "confidence": _number(labels.probs[r, 0]),
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


def _number(value: Any) -> float:
    """A JSON number with the float32's own shortest digits."""
    return float(str(value))


def _schema() -> list[dict[str, Any]]:
    f = schema_field
    classification = [
        f("id", "ObjectId", db_field="_id"),
        f("tags", "List", subfield="String"),
        f("label", "String"),
        f("confidence", "Float"),
        f("logits", "Vector"),
    ]
    classifications = f(
        "classifications",
        "List",
        document="fiftyone.core.labels.Classification",
        subfield="EmbeddedDocument",
        fields=[*classification, f("origin", "String")],
    )
    detections = f(
        "detections",
        "List",
        document="fiftyone.core.labels.Detection",
        subfield="EmbeddedDocument",
        fields=[*detection_fields(), f("round", "Int"), f("area", "Int")],
    )

    def field(name: str, kind: str, fields: list[dict[str, Any]]) -> dict[str, Any]:
        document = f"fiftyone.core.labels.{kind}"
        return f(name, "EmbeddedDocument", document=document, fields=fields)

    return [
        field("original", "Classification", classification),
        field("labels", "Classifications", [classifications, f("logits", "Vector")]),
        field("regions", "Detections", [detections]),
        f("num_labels", "Int"),
    ]
