"""What a person decided about a box, as fields of its annotation.

A label that somebody looked at has ``decided_by`` (``human``), ``decision`` (one of `DECISIONS`),
``decided_at`` (ISO 8601, UTC) and ``before``: class, box, score and origin that the model gave it.
They travel as other fields of an annotation do, through COCO files and into FiftyOne.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from relabel.datasets.dataset import Boxes

HUMAN = "human"
MODEL = "model"
ACCEPT, REJECT, RELABEL, RESHAPE, RESTORE, ADD = DECISIONS = (
    "accept",
    "reject",
    "relabel",
    "reshape",
    "restore",
    "add",
)
"""Right as it is; no label; another class; another box; a label for an annotation that the model
left without one; a label that the model did not have."""
Verdict = Literal["accept", "reject", "relabel", "reshape", "restore", "add"]
DECIDED_FIELDS = ("decided_by", "decision", "decided_at", "before")
_MARK = b'"decided_by"'


class Before(msgspec.Struct, frozen=True, omit_defaults=True):
    """A label as the model gave it.

    Attributes:
        category: name of its class; of a restored annotation that in the source.
        bbox: xywh in pixels.
        score: its confidence, None where it has none.
        origin: see `relabel.datasets.dataset.Provenance`.
    """

    category: str
    bbox: tuple[float, float, float, float]
    score: float | None = None
    origin: str | None = None


class Decided(msgspec.Struct, frozen=True, omit_defaults=True):
    """The fields of a decided annotation; what else it has is passed over."""

    decided_by: Literal["human", "model"]
    decision: Verdict
    decided_at: str
    before: Before | None = None


def decided_fields(decided: Decided) -> bytes:
    """A box's extra fields that hold the decision and nothing else."""
    return msgspec.json.encode(decided)


def decided_of(boxes: Boxes, row: int) -> Decided | None:
    """The decision about one box; None where nobody made one."""
    fields = None if boxes.extra is None else boxes.extra[row]
    if not fields or _MARK not in fields:
        return None
    try:
        found = msgspec.json.decode(fields, type=Decided)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return found if found.decided_by == HUMAN else None


def any_decided(extra: Sequence[bytes | None] | None) -> bool:
    """Whether any box has a decision."""
    return extra is not None and any(fields and _MARK in fields for fields in extra)
