"""Transferred boxes on disk, exactly as they were in memory.

The boxes' columns go into one NumPy archive and the names into JSON beside them; images and
the label space come from the datasets, which are read again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from relabel.datasets.alternatives import alternatives_field, possible_classes
from relabel.datasets.dataset import UNCERTAIN, Boxes, DetectionDataset, Provenance
from relabel.datasets.labelspace import LabelSpace
from relabel.errors import DataError
from relabel.workspace.atomic import atomic_path, atomic_write_json

BOXES_FILE = "boxes.npz"
NAMES_FILE = "names.json"
_COLUMNS = ("image", "xywh", "category", "score", "ignore", "id", "area")


def write_transferred(
    dataset: DetectionDataset, folder: Path, *, sure: np.ndarray | None = None
) -> dict[str, str]:
    """Write the boxes of a transferred dataset; returns the files by name.

    Args:
        sure: per class, the score below which a label is not sure enough to train on.

    Raises:
        ValueError: the boxes carry no provenance.
    """
    boxes = dataset.boxes
    origin = boxes.provenance
    if origin is None:
        raise ValueError("transferred boxes need provenance")
    columns = {name: getattr(boxes, name) for name in _COLUMNS}
    columns |= {"source_id": origin.source_id, "source_iou": origin.source_iou}
    possible = possible_classes(dataset, slice(0, len(boxes)))
    if possible is not None:
        row, of = np.nonzero(possible)
        columns["alternatives"] = np.stack([row, of], axis=1)[of != boxes.category[row]]
    with atomic_path(folder / BOXES_FILE) as temp:
        np.savez(temp, **columns)
    names = {
        "dataset": origin.dataset,
        "origin": list(origin.origin),
        "source_category": list(origin.source_category),
        "sure": [] if sure is None else np.round(sure, 6).tolist(),
    }
    atomic_write_json(folder / NAMES_FILE, names)
    return {"boxes": BOXES_FILE, "names": NAMES_FILE}


def read_transferred(
    folder: Path, source: DetectionDataset, space: LabelSpace, *, uncertain: bool = False
) -> DetectionDataset:
    """The transferred boxes on the images of ``source``, in the target's label space.

    Args:
        uncertain: for training: with the objects of doubtful class, with the regions that are
            neither surely objects nor surely background, and with the labels that are not sure
            enough to train on as ignore regions.

    Raises:
        DataError: the files are missing or damaged.
    """
    try:
        names = json.loads((folder / NAMES_FILE).read_text(encoding="utf-8"))
        with np.load(folder / BOXES_FILE, allow_pickle=False) as archive:
            columns = {name: archive[name] for name in archive.files}
        provenance = Provenance(
            names["dataset"],
            names["origin"],
            columns.pop("source_id"),
            names["source_category"],
            columns.pop("source_iou"),
        )
        others = columns.pop("alternatives", None)
        boxes = Boxes(**columns, provenance=provenance)
        if others is not None:
            table = np.zeros((len(boxes), space.num_classes), bool)
            table[others[:, 0], others[:, 1]] = True
            boxes = replace(boxes, extra=alternatives_field(table, space))
        least = np.array(names.get("sure", []))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(
            f"transferred boxes cannot be read: {error}",
            file=folder,
            remedy="Remove the folder and run align again.",
        ) from error
    if not uncertain:
        sure = [origin != UNCERTAIN for origin in provenance.origin]
        if not all(sure):
            boxes = boxes.take(np.flatnonzero(sure))
            boxes = replace(boxes, id=np.arange(1, len(boxes) + 1, dtype=np.int64))
    elif len(least):
        boxes = replace(boxes, ignore=boxes.ignore | (boxes.score < least[boxes.category]))
    return replace(source, boxes=boxes, space=space)
