"""FiftyOne datasets on disk, written without a database and without importing fiftyone.

The layout is that of ``fiftyone.types.FiftyOneDataset`` (FiftyOne 1.22): ``metadata.json`` holds
the dataset document with the schema of every field, ``samples.json`` one document per image,
``data/`` the images that are stored with it. It loads with

    fo.Dataset.from_dir(dataset_dir=out, dataset_type=fo.types.FiftyOneDataset)

Object ids are hashes of names and dates are fixed, so the same dataset gives the same bytes.
"""

from __future__ import annotations

import hashlib
import mimetypes
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import orjson

from relabel.datasets.alternatives import alternatives_of
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.pixels.location import image_location, is_packed, read_image_bytes
from relabel.datasets.pixels.placing import CopyImages, place_image
from relabel.errors import ConfigError, DataError
from relabel.workspace.atomic import atomic_path, atomic_write_bytes

FORMAT_VERSION = "1.22.0"
"""The FiftyOne revision the documents follow; later ones migrate them on import."""

# The importer replaces every date by the time of the import.
_DATE = {"$date": "2020-01-01T00:00:00Z"}
_FIELDS = "fiftyone.core.fields."
_RESERVED = {"id", "filepath", "tags", "metadata", "created_at", "last_modified_at", "image_id"}
_IMAGE_SUFFIXES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"BM": ".bmp"}


def write(
    dataset: DetectionDataset,
    out: Path,
    *,
    split: str = "train",
    copy_images: CopyImages = "none",
    extra_fields: Mapping[str, DetectionDataset] | None = None,
    field: str | None = None,
) -> list[Path]:
    """Write a dataset as a FiftyOne dataset folder.

    Args:
        dataset: its images become the samples, its boxes the label field ``field``.
        out: the folder to write; other files in it are left alone.
        split: tag put on every sample, beside the dataset's name.
        copy_images: ``none`` refers to image files by absolute path, ``link`` puts symbolic links
            into ``data/``, ``copy`` copies. Images inside archives, TFRecord or Parquet files are
            always extracted into ``data/``.
        extra_fields: further label fields by name, such as ``source`` or ``pseudo_waymo``; their
            images are joined by ``file_name``, and those the main dataset lacks are left out.
        field: name of the main label field; default ``transferred`` for boxes with provenance,
            ``ground_truth`` for others.

    Returns:
        The paths of ``metadata.json`` and ``samples.json``.

    Raises:
        ConfigError: two fields get the same name, or a name FiftyOne keeps for itself.
        DataError: an image has no size, or cannot be read where it must be.
    """
    main = field or ("transferred" if dataset.boxes.provenance is not None else "ground_truth")
    layers: dict[str, DetectionDataset] = {}
    for name, layer in ((main, dataset), *(extra_fields or {}).items()):
        key = field_name(name)
        if key in layers or key in _RESERVED:
            raise ConfigError(
                f"FiftyOne label field {name!r} is taken",
                remedy="Give each label field a name of its own.",
            )
        layers[key] = layer
    _check_sizes(dataset)

    samples = _samples(dataset, out, layers, split, copy_images)
    fields = [schema_field("image_id", "Int"), *(_label_schema(*item) for item in layers.items())]
    classes = {name: layer.space.names for name, layer in layers.items()}
    return write_documents(out, samples, dataset_document(dataset.name, split, fields, classes))


def write_documents(
    out: Path, samples: Iterable[Mapping[str, Any]], metadata: Mapping[str, Any]
) -> list[Path]:
    """Write a dataset folder of sample documents and a `dataset_document`.

    Returns:
        The paths of ``metadata.json`` and ``samples.json``.
    """
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / "samples.json") as temporary, Path(temporary).open("wb") as stream:
        stream.write(b'{"samples": [')
        for i, sample in enumerate(samples):
            stream.write(b",\n" if i else b"\n")
            stream.write(orjson.dumps(sample))
        stream.write(b"\n]}\n")
    # The metadata comes last: a folder that has it is complete.
    atomic_write_bytes(out / "metadata.json", orjson.dumps(metadata) + b"\n")
    return [out / "metadata.json", out / "samples.json"]


def sample_document(
    identity: Mapping[str, str], filepath: str, tags: Sequence[str], width: int, height: int
) -> dict[str, Any]:
    """What every sample has; label fields are added to it.

    Args:
        identity: see `object_id`.
        filepath: of the image, absolute or relative to the dataset's folder.
        width, height: in pixels.
    """
    return {
        "_id": identity,
        "filepath": filepath,
        "tags": list(tags),
        "metadata": {
            "_cls": "ImageMetadata",
            "mime_type": mimetypes.guess_type(filepath)[0] or "image/jpeg",
            "width": width,
            "height": height,
        },
        "_media_type": "image",
        # FiftyOne draws random subsets by this number in [0, 1).
        "_rand": int(identity["$oid"][:8], 16) / 2**32,
    }


def field_name(name: str) -> str:
    """A name usable as a FiftyOne field: letters, digits and ``_``, starting with a letter."""
    clean = re.sub(r"\W", "_", name, flags=re.ASCII).lstrip("_")
    return clean if clean[:1].isalpha() else f"field_{clean}"


def _check_sizes(dataset: DetectionDataset) -> None:
    bad = np.flatnonzero((dataset.images.width <= 0) | (dataset.images.height <= 0))
    if len(bad):
        raise DataError(
            "image has no width or height, so that relative boxes cannot be written",
            file=dataset.images.file_name[int(bad[0])],
            record=f"image {int(dataset.images.id[bad[0]])}",
            remedy="Correct the size in the annotation file.",
        )


def object_id(*parts: object) -> dict[str, str]:
    """Twelve bytes that depend on the parts only, as MongoDB's extended JSON writes an id."""
    text = "\0".join(str(p) for p in parts)
    return {"$oid": hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:24]}


def _samples(
    dataset: DetectionDataset,
    out: Path,
    layers: Mapping[str, DetectionDataset],
    split: str,
    copy_images: CopyImages,
) -> Iterator[dict[str, Any]]:
    detections = {name: _detections(dataset, name, layer) for name, layer in layers.items()}
    rows = {
        name: {file_name: i for i, file_name in enumerate(layer.images.file_name)}
        for name, layer in layers.items()
        if layer is not dataset
    }
    tags = list(dict.fromkeys([split, dataset.name]))
    for i, file_name in enumerate(dataset.images.file_name):
        identity = object_id(dataset.name, "sample", file_name)
        filepath = _place_image(dataset, i, out, identity["$oid"], copy_images)
        size = int(dataset.images.width[i]), int(dataset.images.height[i])
        sample = sample_document(identity, filepath, tags, *size)
        sample["image_id"] = int(dataset.images.id[i])
        for name, layer in layers.items():
            row = i if layer is dataset else rows[name].get(file_name)
            found = [] if row is None else detections[name](row)
            sample[name] = {"_cls": "Detections", "detections": found}
        yield sample


def _detections(
    dataset: DetectionDataset, field: str, layer: DetectionDataset
) -> Callable[[int], list[dict[str, Any]]]:
    """A function from an image row of ``layer`` to its Detection documents."""
    boxes, images, names = layer.boxes, layer.images, layer.space.names
    size = np.stack([images.width, images.height] * 2, axis=1).astype(np.float64)
    _check_sizes(layer)

    def documents(image: int) -> list[dict[str, Any]]:
        rows = layer.rows(image)
        relative = (boxes.xywh[rows] / size[image]).tolist()
        found = []
        for k, box in zip(range(rows.start, rows.stop), relative, strict=True):
            ignore = bool(boxes.ignore[k])
            document: dict[str, Any] = {
                "_id": object_id(dataset.name, field, images.file_name[image], boxes.id[k]),
                "_cls": "Detection",
                "attributes": {},
                "tags": [],
                "label": names[boxes.category[k]],
                "bounding_box": box,
                "confidence": shortest_number(boxes.score[k]),
                "annotation_id": int(boxes.id[k]),
                "ignore": ignore,
                # FiftyOne's COCO evaluation looks for crowd regions under this name.
                "iscrowd": int(ignore),
            }
            if boxes.provenance is not None:
                origin = boxes.provenance
                source_id = int(origin.source_id[k])
                document["origin"] = origin.origin[k]
                document["source_dataset"] = origin.dataset
                document["source_category"] = origin.source_category[k] or None
                document["source_id"] = source_id if source_id >= 0 else None
                document["source_iou"] = shortest_number(origin.source_iou[k])
                document["alternatives"] = alternatives_of(boxes, k)
            found.append(document)
        return found

    return documents


def shortest_number(value: Any) -> float | None:
    """A JSON number with the float32's own shortest digits, None for NaN."""
    return None if np.isnan(value) else float(str(value))


def _place_image(
    dataset: DetectionDataset, row: int, out: Path, identity: str, copy_images: CopyImages
) -> str:
    """Put the image where the sample can refer to it; returns the sample's ``filepath``.

    The importer prepends the dataset folder to relative paths, so results can be moved together
    with images stored in them.
    """
    location = image_location(dataset, row)
    if copy_images == "none" and not is_packed(location):
        return str(Path(location).absolute())

    name = dataset.images.file_name[row]
    parts = PurePosixPath(name).parts
    if ".." in parts or name.startswith("/") or "\\" in name or ":" in name:
        name = identity + PurePosixPath(name).suffix
    target = out / "data" / name
    if is_packed(location) and not target.suffix:
        data = read_image_bytes(location)
        kind = next((s for magic, s in _IMAGE_SUFFIXES.items() if data.startswith(magic)), "")
        target = target.with_name(target.name + kind)
    place_image(location, target, "copy" if copy_images == "none" else copy_images)
    return target.relative_to(out).as_posix()


def schema_field(
    name: str,
    kind: str,
    *,
    document: str | None = None,
    subfield: str | None = None,
    fields: list[dict[str, Any]] | None = None,
    db_field: str | None = None,
    read_only: bool = False,
) -> dict[str, Any]:
    """One entry of the dataset document's ``sample_fields``."""
    return {
        "name": name,
        "ftype": f"{_FIELDS}{kind}Field",
        "embedded_doc_type": document,
        "subfield": subfield and f"{_FIELDS}{subfield}Field",
        "fields": fields or [],
        "db_field": db_field or name,
        "description": None,
        "info": None,
        "read_only": read_only,
        "created_at": _DATE,
    }


def detection_fields() -> list[dict[str, Any]]:
    """The fields that every FiftyOne detection has."""
    f = schema_field
    return [
        f("id", "ObjectId", db_field="_id"),
        f("tags", "List", subfield="String"),
        f(
            "attributes",
            "Dict",
            document="fiftyone.core.labels.Attribute",
            subfield="EmbeddedDocument",
        ),
        f("label", "String"),
        f("bounding_box", "List", subfield="Float"),
        f("mask", "Array"),
        f("mask_path", "String"),
        f("confidence", "Float"),
        f("index", "Int"),
    ]


def _label_schema(name: str, layer: DetectionDataset) -> dict[str, Any]:
    f = schema_field
    fields = [
        *detection_fields(),
        f("annotation_id", "Int"),
        f("ignore", "Boolean"),
        f("iscrowd", "Int"),
    ]
    if layer.boxes.provenance is not None:
        fields += [
            f("origin", "String"),
            f("source_dataset", "String"),
            f("source_category", "String"),
            f("source_id", "Int"),
            f("source_iou", "Float"),
            f("alternatives", "List", subfield="String"),
        ]
    detections = f(
        "detections",
        "List",
        document="fiftyone.core.labels.Detection",
        subfield="EmbeddedDocument",
        fields=fields,
    )
    return f(
        name, "EmbeddedDocument", document="fiftyone.core.labels.Detections", fields=[detections]
    )


def dataset_document(
    name: str, split: str, fields: list[dict[str, Any]], classes: Mapping[str, list[str]]
) -> dict[str, Any]:
    """The content of ``metadata.json``; on import FiftyOne keeps its own name, ids and dates.

    Args:
        name: the dataset's name.
        split: its split; with the name it makes the dataset's id.
        fields: `schema_field` of each field beside those that every sample has.
        classes: class names by label field.
    """
    f = schema_field
    identity = object_id(name, "dataset", split)
    image_metadata = [
        f("size_bytes", "Int"),
        f("mime_type", "String"),
        f("width", "Int"),
        f("height", "Int"),
        f("num_channels", "Int"),
    ]
    fields = [
        f("_media_type", "String"),
        f("_rand", "Float"),
        f("last_modified_at", "DateTime", read_only=True),
        f("created_at", "DateTime", read_only=True),
        f("filepath", "String"),
        f(
            "metadata",
            "EmbeddedDocument",
            document="fiftyone.core.metadata.ImageMetadata",
            fields=image_metadata,
        ),
        f("_dataset_id", "ObjectId"),
        f("tags", "List", subfield="String"),
        f("id", "ObjectId", db_field="_id"),
        *fields,
    ]
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "dataset"
    return {
        "_id": identity,
        "name": name,
        "slug": slug,
        "version": FORMAT_VERSION,
        "created_at": _DATE,
        "last_modified_at": _DATE,
        "last_deletion_at": None,
        "last_loaded_at": _DATE,
        "sample_collection_name": f"samples.{identity['$oid']}",
        "persistent": False,
        "media_type": "image",
        "group_media_types": {},
        "tags": [],
        "info": {},
        "app_config": {
            "grid_media_field": "filepath",
            "media_fallback": False,
            "media_fields": ["filepath"],
            "modal_media_field": "filepath",
            "plugins": {},
        },
        "classes": dict(classes),
        "default_classes": [],
        "mask_targets": {},
        "default_mask_targets": {},
        "skeletons": {},
        "sample_fields": fields,
        "frame_fields": [],
        "saved_views": [],
        "workspaces": [],
        "annotation_runs": {},
        "brain_methods": {},
        "evaluations": {},
        "runs": {},
    }
