"""FiftyOne datasets on disk, written without a database and without importing fiftyone.

The layout is that of ``fiftyone.types.FiftyOneDataset`` (FiftyOne 1.22): ``metadata.json`` holds
the dataset document with the schema of every field, ``samples.json`` one document per image,
``data/`` the images that are stored with it. It loads with

    fo.Dataset.from_dir(dataset_dir=out, dataset_type=fo.types.FiftyOneDataset)

Object ids are hashes of names and dates are fixed, so the same dataset gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import numpy as np

from relabel.datasets.alternatives import alternatives_of
from relabel.datasets.dataset import Boxes, DetectionDataset
from relabel.datasets.decisions import DECIDED_FIELDS, any_decided, decided_of
from relabel.datasets.formats.coco.write import category_rows, file_fields
from relabel.datasets.formats.fiftyone.documents import (
    OTHER_FIELDS,
    dataset_document,
    detection_fields,
    field_name,
    object_id,
    sample_document,
    schema_field,
    shortest_number,
    write_documents,
)
from relabel.datasets.formats.output import Plan, output
from relabel.datasets.formats.write_checks import (
    check_classes,
    check_files,
    check_images,
    check_info,
    check_split,
    cleaned,
    with_small_ids,
)
from relabel.datasets.pixels.location import image_location, is_packed, read_image_bytes
from relabel.datasets.pixels.placing import CopyImages, place_image
from relabel.datasets.removed import removed_field
from relabel.errors import ConfigError, Problems

Value = str | int | float | None
Attributes = Mapping[str, Sequence[Value]]

_RESERVED = {"id", "filepath", "tags", "metadata", "created_at", "last_modified_at"}
_RESERVED |= {"image_id", "file_name", OTHER_FIELDS}
# By field, the key in `relabel_removed` and the type.
_REMOVED_FIELDS = {
    "removed_because": ("reason", "String"),
    "probability": ("probability", "Float"),
    "best_class": ("category", "String"),
    "best_score": ("score", "Float"),
}
_ATTRIBUTE_TYPES = {int: "Int", float: "Float"}
_IMAGE_SUFFIXES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"BM": ".bmp"}


def write(
    dataset: DetectionDataset,
    out: Path,
    *,
    split: str = "train",
    copy_images: CopyImages = "none",
    extra_fields: Mapping[str, DetectionDataset] | None = None,
    field: str | None = None,
    attributes: Mapping[str, Attributes] | None = None,
    problems: Problems | None = None,
) -> list[Path]:
    """Write a dataset as a FiftyOne dataset folder.

    Ids, file names, areas and what else a COCO file has stay beside FiftyOne's own fields, so that
    `relabel.datasets.formats.fiftyone.read` gives them back.

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
        attributes: by label field, further attributes of its boxes by name, each with a text, a
            number or None per box; they win over those that a field has otherwise.
        problems: receives ids that are renumbered, and boxes that are clipped.

    Returns:
        The paths of ``metadata.json`` and ``samples.json``.

    Raises:
        ConfigError: two fields get the same name, or a name FiftyOne keeps for itself.
        DataError: an image has no size, or cannot be read where it must be; a class or file name
            that no text file can hold, two images of one name.
    """
    check_split(split)
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
    given, main = dataset, field_name(main)
    check_info(dataset)
    check_images(dataset)
    for layer in layers.values():
        check_classes(layer)
        check_images(layer)
    if copy_images != "none":
        check_files(dataset, dataset.images.file_name, out / "data", problems, seen=False)
    clean = cleaned(dataset, problems, out)
    dataset = with_small_ids(clean, problems, out)
    told = {field_name(name): dict(values) for name, values in (attributes or {}).items()}
    for name, layer in layers.items():
        left = clean if layer is given else cleaned(layer, None, out)
        for attribute, values in told.get(name, {}).items():
            told[name][attribute] = _of_those_left(values, layer.boxes, left.boxes)
        layers[name] = dataset if layer is given else left

    samples = _samples(dataset, out, layers, told, split, copy_images)
    fields = [schema_field("image_id", "Int"), schema_field("file_name", "String")]
    if dataset.images.extra is not None:
        fields.append(schema_field(OTHER_FIELDS, "String"))
    fields += [
        _label_schema(name, layer, own=name == main, attributes=told.get(name, {}))
        for name, layer in layers.items()
    ]
    classes = {name: layer.space.names for name, layer in layers.items()}
    info = {"relabel": _ours(dataset, main, layers)}
    metadata = dataset_document(dataset.name, split, fields, classes, info)
    files: dict[str, bytes | None] = {"samples.json": None, "metadata.json": None}
    stored = [_stored(dataset, row, copy_images) for row in range(len(dataset))]
    images = [f"data/{name}" if name and PurePosixPath(name).suffix else "" for name in stored]
    plan = Plan(out, "fiftyone", split, copy_images, files, images=images)
    with output(plan, dataset):
        return write_documents(out, samples, metadata)


def _ours(dataset: DetectionDataset, main: str, layers: Mapping[str, DetectionDataset]) -> str:
    """What FiftyOne has no place for, as text: MongoDB has rules for the keys of objects."""
    known = {
        "label_field": main,
        "categories": {name: category_rows(layer) for name, layer in layers.items()},
        "fields": file_fields(dataset),
    }
    return msgspec.json.encode(known).decode()


def _of_those_left(values: Sequence[Value], boxes: Boxes, left: Boxes) -> Sequence[Value]:
    """The values of the boxes that cleaning left, which keep their ids."""
    if len(left) == len(boxes):
        return values
    by_id = dict(zip(boxes.id.tolist(), values, strict=True))
    return [by_id[i] for i in left.id.tolist()]


def _samples(
    dataset: DetectionDataset,
    out: Path,
    layers: Mapping[str, DetectionDataset],
    attributes: Mapping[str, Attributes],
    split: str,
    copy_images: CopyImages,
) -> Iterator[dict[str, Any]]:
    detections = {
        name: _detections(dataset, name, layer, attributes.get(name, {}))
        for name, layer in layers.items()
    }
    extra = dataset.images.extra
    rows = {
        name: {file_name: i for i, file_name in enumerate(layer.images.file_name)}
        for name, layer in layers.items()
        if layer is not dataset
    }
    tags = list(dict.fromkeys([split, dataset.name]))
    for i, file_name in enumerate(dataset.images.file_name):
        identity = object_id(dataset.name, "sample", file_name)
        filepath = _place_image(dataset, i, out, copy_images)
        size = int(dataset.images.width[i]), int(dataset.images.height[i])
        sample = sample_document(identity, filepath, tags, *size)
        sample["image_id"] = int(dataset.images.id[i])
        sample["file_name"] = file_name
        if extra is not None:
            sample[OTHER_FIELDS] = _text(extra[i])
        for name, layer in layers.items():
            row = i if layer is dataset else rows[name].get(file_name)
            found = [] if row is None else detections[name](row)
            sample[name] = {"_cls": "Detections", "detections": found}
        yield sample


def _detections(
    dataset: DetectionDataset,
    field: str,
    layer: DetectionDataset,
    attributes: Attributes,
) -> Callable[[int], list[dict[str, Any]]]:
    """A function from an image row of ``layer`` to its Detection documents."""
    boxes, images, names = layer.boxes, layer.images, layer.space.names
    size = np.stack([images.width, images.height] * 2, axis=1).astype(np.float64)
    # Only the main field's: it is the one that is read back.
    extra = boxes.extra if layer is dataset else None
    decided = any_decided(boxes.extra)

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
                "area": float(boxes.area[k]),
            }
            if extra is not None:
                document[OTHER_FIELDS] = _text(extra[k])
            if boxes.provenance is not None:
                origin = boxes.provenance
                source_id = int(origin.source_id[k])
                document["origin"] = origin.origin[k]
                document["source_dataset"] = origin.dataset
                document["source_category"] = origin.source_category[k] or None
                document["source_id"] = source_id if source_id >= 0 else None
                document["source_iou"] = shortest_number(origin.source_iou[k])
                document["alternatives"] = alternatives_of(boxes, k)
            if decided:
                document |= _decision(boxes, k)
            if layer is not dataset and (why := removed_field(boxes, k)) is not None:
                document |= {field: why[key] for field, (key, _) in _REMOVED_FIELDS.items()}
            document |= {key: values[k] for key, values in attributes.items()}
            found.append(document)
        return found

    return documents


def _decision(boxes: Boxes, row: int) -> dict[str, str | None]:
    """What a person decided about a box; ``before`` is JSON, as text."""
    found = decided_of(boxes, row)
    if found is None:
        return dict.fromkeys(DECIDED_FIELDS)
    before = None if found.before is None else msgspec.json.encode(found.before).decode()
    return dict(
        zip(
            DECIDED_FIELDS,
            (found.decided_by, found.decision, found.decided_at, before),
            strict=True,
        )
    )


def _text(fields: bytes | None) -> str | None:
    return None if not fields or fields == b"{}" else fields.decode()


def _stored(dataset: DetectionDataset, row: int, copy_images: CopyImages) -> str:
    """The name below ``data/`` of an image that is put there, else ""; one may lack its suffix."""
    if copy_images == "none" and not is_packed(image_location(dataset, row)):
        return ""
    name = dataset.images.file_name[row]
    if ".." in PurePosixPath(name).parts or name.startswith("/") or "\\" in name or ":" in name:
        identity = object_id(dataset.name, "sample", name)["$oid"]
        return identity + PurePosixPath(name).suffix
    return name


def _place_image(dataset: DetectionDataset, row: int, out: Path, copy_images: CopyImages) -> str:
    """Put the image where the sample can refer to it; returns the sample's ``filepath``.

    The importer prepends the dataset folder to relative paths, so results can be moved together
    with images stored in them.
    """
    location = image_location(dataset, row)
    name = _stored(dataset, row, copy_images)
    if not name:
        return str(Path(location).absolute())
    target = out / "data" / name
    if is_packed(location) and not target.suffix:
        data = read_image_bytes(location)
        kind = next((s for magic, s in _IMAGE_SUFFIXES.items() if data.startswith(magic)), "")
        target = target.with_name(target.name + kind)
    place_image(location, target, "copy" if copy_images == "none" else copy_images)
    return target.relative_to(out).as_posix()


def _attribute_type(values: Sequence[Value]) -> str:
    first = next((value for value in values if value is not None), None)
    return _ATTRIBUTE_TYPES.get(type(first), "String")


def _label_schema(
    name: str, layer: DetectionDataset, *, own: bool, attributes: Attributes
) -> dict[str, Any]:
    f = schema_field
    fields = [
        *detection_fields(),
        f("annotation_id", "Int"),
        f("ignore", "Boolean"),
        f("iscrowd", "Int"),
        f("area", "Float"),
    ]
    if own and layer.boxes.extra is not None:
        fields.append(f(OTHER_FIELDS, "String"))
    if layer.boxes.provenance is not None:
        fields += [
            f("origin", "String"),
            f("source_dataset", "String"),
            f("source_category", "String"),
            f("source_id", "Int"),
            f("source_iou", "Float"),
            f("alternatives", "List", subfield="String"),
        ]
    if any_decided(layer.boxes.extra):
        fields += [f(field, "String") for field in DECIDED_FIELDS]
    if not own and len(layer.boxes) and removed_field(layer.boxes, 0) is not None:
        fields += [f(field, kind) for field, (_, kind) in _REMOVED_FIELDS.items()]
    known = {field["name"] for field in fields}
    fields += [f(k, _attribute_type(v)) for k, v in attributes.items() if k not in known]
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
