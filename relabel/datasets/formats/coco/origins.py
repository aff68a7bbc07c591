"""Where relabelled boxes come from, read back from the ``relabel`` objects of a COCO file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from relabel.datasets.dataset import DetectionDataset, Provenance
from relabel.errors import DataError
from relabel.files.json_text import raw_fields

_MARK = b'"relabel"'


class _Origin(msgspec.Struct, gc=False):
    """As `relabel.datasets.formats.coco.write` writes it; of other programs anything."""

    source_dataset: Any = None
    source_annotation_id: Any = None
    source_category: str | None = None
    origin: Any = None
    source_iou: Any = None


def provenance_of(values: Iterable[Any], file: str | Path) -> Provenance | None:
    """The ``relabel`` objects as columns; None where there are none.

    Args:
        values: one a box, undecoded; empty where a box has none.

    Raises:
        DataError: one is no object, or its source's category no text.
    """
    decoder = msgspec.json.Decoder(_Origin | None)
    found: list[_Origin] = []
    known = False
    for row, value in enumerate(values):
        try:
            origin = decoder.decode(value) if len(bytes(value)) else None
        except msgspec.MsgspecError as error:
            raise DataError(
                f"relabel: {error}", file=file, record=f"annotations[{row}]", remedy="Correct it."
            ) from error
        known |= origin is not None
        found.append(origin or _Origin())
    if not known:
        return None
    names = (o.source_dataset for o in found if isinstance(o.source_dataset, str))
    return Provenance(
        dataset=next(names, ""),
        origin=[o.origin if isinstance(o.origin, str) else "" for o in found],
        source_id=np.array([_id(o.source_annotation_id) for o in found], np.int64),
        source_category=[o.source_category or "" for o in found],
        source_iou=np.array([_number(o.source_iou) for o in found], np.float32),
    )


def with_provenance(dataset: DetectionDataset) -> DetectionDataset:
    """A dataset that was read from a COCO file, with the provenance that its boxes' fields hold.

    Raises:
        DataError: see `provenance_of`.
    """
    boxes = dataset.boxes
    if boxes.provenance is not None or boxes.extra is None:
        return dataset
    raw = (raw_fields(f).get("relabel", b"") if f and _MARK in f else b"" for f in boxes.extra)
    found = provenance_of(raw, dataset.source or dataset.name)
    return dataset if found is None else dataset.with_boxes(replace(boxes, provenance=found))


def _id(value: Any) -> int:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value < 2**63 else -1


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and abs(value) < 1e30 else float("nan")
