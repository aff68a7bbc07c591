"""Saved views of suspect labels in the FiftyOne App, one per kind."""

from __future__ import annotations

from typing import Any

_FIELD = "suspects"


def save_suspect_views(fo: Any, dataset: Any) -> None:
    """Save a view of all suspects and one of each kind, the surest first, with those boxes alone.

    A dataset that `relabel check` did not write has no such field and gets none.

    Args:
        fo: the fiftyone module.
        dataset: a FiftyOne dataset.
    """
    place = f"{_FIELD}.detections"
    if f"{place}.kind" not in dataset.get_field_schema(flat=True):
        return
    boxes = fo.ViewField
    surest = boxes(place).map(boxes("confidence")).max()
    found = dataset.match(boxes(place).length() > 0)
    dataset.save_view("suspects", found.sort_by(surest, reverse=True), overwrite=True)
    for kind in dataset.distinct(f"{place}.kind"):
        view = dataset.filter_labels(_FIELD, boxes("kind") == kind)
        dataset.save_view(f"suspects: {kind}", view.sort_by(surest, reverse=True), overwrite=True)
