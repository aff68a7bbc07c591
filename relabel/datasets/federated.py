"""The fields by which LVIS says what an image tells of; see `relabel.evaluation.federated`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from relabel.errors import DataError
from relabel.files.json_text import raw_fields

NEGATIVE, NOT_EXHAUSTIVE = "neg_category_ids", "not_exhaustive_category_ids"
FEDERATED_FIELDS = (NEGATIVE, NOT_EXHAUSTIVE)

_IDS = msgspec.json.Decoder(list[int] | None)
_MARK = b"_category_ids"


def category_ids(raw: Any, name: str, file: str | Path, record: str) -> list[int]:
    """The category ids in an image's undecoded field; none where it is empty or null.

    Raises:
        DataError: it is no list of ids.
    """
    if not len(bytes(raw)):
        return []
    try:
        ids = _IDS.decode(raw) or []
    except msgspec.MsgspecError:
        ids = [2**63]
    if ids and not (min(ids) >= -(2**63) and max(ids) < 2**63):
        raise DataError(
            f"{name} is not a list of category ids",
            file=file,
            record=record,
            remedy="Correct the list; an image without such categories has an empty one.",
        )
    return ids


def federated_columns(extra: Sequence[bytes | None] | None) -> list[Sequence[Any]] | None:
    """`FEDERATED_FIELDS` of all images, undecoded; None where no image has either."""
    if extra is None:
        return None
    names, columns = getattr(extra, "names", None), getattr(extra, "columns", None)
    if names is None or columns is None:
        rows = [raw_fields(f) if f and _MARK in f else {} for f in extra]
        found = {n: [row.get(n, b"") for row in rows] for n in FEDERATED_FIELDS}
        found = {n: column for n, column in found.items() if any(map(len, map(bytes, column)))}
    else:
        found = {n: columns[names.index(n)] for n in FEDERATED_FIELDS if n in names}
    return [found.get(n, [b""] * len(extra)) for n in FEDERATED_FIELDS] if found else None


def without_federated(extra: Sequence[bytes | None] | None) -> Sequence[bytes | None] | None:
    """Images' further fields for boxes of other categories than the federated ones speak of."""
    if extra is None or federated_columns(extra) is None:
        return extra
    out: list[bytes | None] = []
    for fields in extra:
        if fields and _MARK in fields:
            kept = {k: v for k, v in raw_fields(fields).items() if k not in FEDERATED_FIELDS}
            fields = msgspec.json.encode(kept) if kept else None
        out.append(fields)
    return out
