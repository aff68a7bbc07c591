"""The result as a FiftyOne dataset folder: known and completed labels as classifications.

Written without a database and without importing fiftyone, as `relabel.datasets.formats.fiftyone`
does; `relabel view` shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from relabel.datasets.formats.fiftyone.documents import (
    classification_document,
    classifications_document,
    classifications_field,
    dataset_document,
    object_id,
    sample_document,
    schema_field,
    shortest_number,
    write_documents,
)
from relabel.datasets.partial.labels import PartialLabels
from relabel.datasets.pixels.location import is_packed, read_image_bytes
from relabel.datasets.pixels.placing import place_image
from relabel.errors import DataError
from relabel.partial.predict import SOURCES
from relabel.partial.result.parts import CompletedPart

FIELDS = ("present", "absent", "completed")


def write_fiftyone(
    out: Path, labels: PartialLabels, parts: Iterable[CompletedPart], *, split: str = "train"
) -> list[Path]:
    """Write a FiftyOne dataset folder.

    The fields ``present`` and ``absent`` are the known labels, ``completed`` the categories that
    the completed labels have, each with its confidence and source.

    Args:
        out: the folder to write; other files in it are left alone.
        labels: for the images, which are referred to where they are; those within archives are
            put into ``data/``.
        parts: see `relabel.partial.result.parts.completed_parts`.
        split: tag put on every sample.

    Returns:
        The paths of ``metadata.json`` and ``samples.json``.

    Raises:
        DataError: the labels have no pictures.
    """
    if labels.root is None and labels.locations is None:
        raise DataError(
            "labels without pictures have nothing to show",
            remedy="Leave --fiftyone out, or name the folder of the images.",
        )
    classes = list(labels.classes)
    metadata = dataset_document(labels.name, split, _schema(), dict.fromkeys(FIELDS, classes))
    return write_documents(out, _samples(out, labels, parts, split), metadata)


def _samples(
    out: Path, labels: PartialLabels, parts: Iterable[CompletedPart], split: str
) -> Iterator[dict[str, Any]]:
    for part in parts:
        for i, file_name in enumerate(part.file_names):
            sample = sample_document(
                object_id(labels.name, "sample", file_name),
                _file_path(out, labels, part.start + i),
                [split, labels.name],
                0,
                0,
            )
            sample["metadata"] = None  # FiftyOne measures sizes itself where it needs them
            for field, mask in zip(
                FIELDS, (part.known[i] > 0, part.known[i] < 0, part.present[i]), strict=True
            ):
                found = [
                    _classification(labels, field, part, i, c)
                    for c in np.flatnonzero(mask).tolist()
                ]
                found.sort(key=lambda document: -(document["confidence"] or 0.0))
                sample[field] = classifications_document(found)
            sample["num_added"] = int((part.present[i] & (part.known[i] == 0)).sum())
            yield sample


def _classification(
    labels: PartialLabels, field: str, part: CompletedPart, image: int, category: int
) -> dict[str, Any]:
    identity = object_id(labels.name, field, part.file_names[image], category)
    confidence = shortest_number(part.scores[image, category])
    return {
        **classification_document(identity, labels.classes[category], confidence),
        "source": SOURCES[part.source[image, category]],
    }


def _file_path(out: Path, labels: PartialLabels, row: int) -> str:
    """The sample's ``filepath``; an image within another file is put into ``data/``."""
    location = labels.location(row)
    if not is_packed(location):
        return str(Path(location).absolute())
    name = labels.file_names[row]
    suffix = Path(name).suffix or _suffix(read_image_bytes(location))
    target = out / "data" / f"{object_id(labels.name, 'image', name)['$oid']}{suffix}"
    place_image(location, target, "copy")
    return target.relative_to(out).as_posix()


def _suffix(data: bytes) -> str:
    return ".png" if data.startswith(b"\x89PNG") else ".jpg"


def _schema() -> list[dict[str, Any]]:
    source = schema_field("source", "String")
    fields = [classifications_field(name, source) for name in FIELDS]
    return [*fields, schema_field("num_added", "Int")]
