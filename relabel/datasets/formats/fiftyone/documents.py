"""The documents of a FiftyOne dataset folder, as MongoDB's extended JSON writes them."""

from __future__ import annotations

import hashlib
import mimetypes
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from relabel.workspace.atomic import atomic_path, atomic_write_bytes

FORMAT_VERSION = "1.22.0"
"""The FiftyOne revision the documents follow; later ones migrate them on import."""

OTHER_FIELDS = "other_fields"
"""Field with what relabel keeps of a COCO record but does not work with: a JSON object, as text."""

# The importer replaces every date by the time of the import.
_DATE = {"$date": "2020-01-01T00:00:00Z"}
_FIELDS = "fiftyone.core.fields."
LABELS = "fiftyone.core.labels."
"""The module of FiftyOne's label classes, as schemas name them."""


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


def object_id(*parts: object) -> dict[str, str]:
    """Twelve bytes that depend on the parts only, as MongoDB's extended JSON writes an id."""
    text = "\0".join(str(p) for p in parts)
    return {"$oid": hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:24]}


def field_name(name: str) -> str:
    """A name usable as a FiftyOne field: letters, digits and ``_``, starting with a letter."""
    clean = re.sub(r"\W", "_", name, flags=re.ASCII).lstrip("_")
    return clean if clean[:1].isalpha() else f"field_{clean}"


def shortest_number(value: Any) -> float | None:
    """A JSON number with the float32's own shortest digits, None for NaN."""
    return None if np.isnan(value) else float(str(value))


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


def classification_document(
    identity: Mapping[str, str], label: str, confidence: float | None
) -> dict[str, Any]:
    """A FiftyOne classification, to which further fields are added; ``identity`` of `object_id`."""
    return {
        "_id": identity,
        "_cls": "Classification",
        "tags": [],
        "label": label,
        "confidence": confidence,
    }


def classifications_document(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The value of a field of classifications."""
    return {"_cls": "Classifications", "classifications": found, "logits": None}


def classification_fields() -> list[dict[str, Any]]:
    """The fields that every FiftyOne classification has."""
    f = schema_field
    return [
        f("id", "ObjectId", db_field="_id"),
        f("tags", "List", subfield="String"),
        f("label", "String"),
        f("confidence", "Float"),
        f("logits", "Vector"),
    ]


def classifications_field(name: str, more: dict[str, Any]) -> dict[str, Any]:
    """A sample's field of classifications that each have a further field ``more``."""
    found = schema_field(
        "classifications",
        "List",
        document=f"{LABELS}Classification",
        subfield="EmbeddedDocument",
        fields=[*classification_fields(), more],
    )
    return schema_field(
        name,
        "EmbeddedDocument",
        document=f"{LABELS}Classifications",
        fields=[found, schema_field("logits", "Vector")],
    )


def dataset_document(
    name: str,
    split: str,
    fields: list[dict[str, Any]],
    classes: Mapping[str, list[str]],
    info: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The content of ``metadata.json``; on import FiftyOne keeps its own name, ids and dates.

    Args:
        name: the dataset's name.
        split: its split; with the name it makes the dataset's id.
        fields: `schema_field` of each field beside those that every sample has.
        classes: class names by label field.
        info: what else is kept with the dataset.
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
        "info": dict(info or {}),
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
