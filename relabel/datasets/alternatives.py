"""Boxes whose class is known only to be one of several.

A relabelled box may be surely a truck and yet a small or a medium one. The other classes it may be
of stand beside its category, as names in the annotation's field `FIELD`; a detector's training then
asks for one of them (learning from partial labels: Cour et al., JMLR 2011).

Shape legend: ``n`` boxes, ``C`` classes of the label space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from relabel.datasets.dataset import Boxes, DetectionDataset
from relabel.datasets.labelspace import LabelSpace
from relabel.files.json_text import raw_fields

FIELD = "relabel_alternatives"
_MARK = f'"{FIELD}"'.encode()


def alternatives_field(others: np.ndarray, space: LabelSpace) -> list[bytes | None] | None:
    """The extra fields of boxes that may be of ``others`` [n, C] beside their category.

    None where no box has any.
    """
    if not others.any():
        return None
    names = space.names
    fields: list[bytes | None] = [None] * len(others)
    for row in np.flatnonzero(others.any(axis=1)).tolist():
        fields[row] = msgspec.json.encode({FIELD: [names[c] for c in np.flatnonzero(others[row])]})
    return fields


def alternatives_of(boxes: Boxes, row: int) -> list[str]:
    """The names of the other classes that one box may be of."""
    fields = None if boxes.extra is None else boxes.extra[row]
    if not fields or _MARK not in fields:
        return []
    found = raw_fields(fields).get(FIELD, b"[]")
    try:
        names = msgspec.json.decode(found)
    except (msgspec.DecodeError, UnicodeDecodeError):  # half a character is no class's name
        return []
    return [n for n in names if isinstance(n, str)] if isinstance(names, list) else []


def told_of_all(boxes: Boxes) -> Boxes:
    """The boxes with the field for each that is no ignore region, empty where there are none."""
    extra: list[bytes | None] = [None] * len(boxes) if boxes.extra is None else list(boxes.extra)
    empty = msgspec.json.encode({FIELD: []})
    for row in np.flatnonzero(~boxes.ignore).tolist():
        fields = extra[row]
        if not fields or fields == b"{}":
            extra[row] = empty
        elif _MARK not in fields:
            extra[row] = fields[:-1] + b"," + empty[1:]
    return replace(boxes, extra=extra)


def possible_classes(dataset: DetectionDataset, rows: slice) -> np.ndarray | None:
    """Which classes each box may be of, bool [n, C]; None where every box is of its category.

    Names that the label space does not have, and classes to ignore, are passed over.
    """
    if dataset.boxes.extra is None:
        return None
    found = None
    places: dict[str, int] = {}
    for i, row in enumerate(range(rows.start, rows.stop)):
        names = alternatives_of(dataset.boxes, row)
        if not names:
            continue
        if found is None:
            places = {name: c for c, name in enumerate(dataset.space.class_names)}
            found = np.zeros((rows.stop - rows.start, len(places)), bool)
            real = dataset.boxes.category[rows]
            of_class = np.flatnonzero(real < len(places))
            found[of_class, real[of_class]] = True
        found[i, [places[name] for name in names if name in places]] = True
    return found


def renamed(boxes: Boxes, names: Mapping[str, str]) -> Boxes:
    """The boxes with alternatives by other names, in a label space that has other names.

    Alternatives without a new name are dropped.
    """
    if boxes.extra is None:
        return boxes
    extra: list[bytes | None] = list(boxes.extra)
    for row, fields in enumerate(extra):
        if fields and _MARK in fields:
            values: dict[str, Any] = {**raw_fields(fields)}
            new = [names[n] for n in alternatives_of(boxes, row) if n in names]
            values.pop(FIELD, None)
            rest = {**values, FIELD: new} if new else values
            extra[row] = msgspec.json.encode(rest) if rest else None
    return replace(boxes, extra=extra)
