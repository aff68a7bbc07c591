"""Saved views in the FiftyOne App: of what a relabelling changed, and of suspect labels."""

from __future__ import annotations

from typing import Any

from relabel.datasets.changes import BOTH

_FIELD = "suspects"
_LOW_CONFIDENCE = 0.5


def save_change_views(fo: Any, dataset: Any) -> None:
    """Views of what a relabelling changed, each with the boxes it is named after.

    A result without the attribute ``change`` has those on confidence alone.
    """
    has = dataset.get_field_schema(flat=True)
    if "transferred.detections.confidence" not in has:
        return
    boxes = fo.ViewField
    if "transferred.detections.change" in has:
        for field, changed, name in (
            ("source", ["dropped"], "dropped annotations"),
            ("source", ["merged"], "merged annotations"),
            ("transferred", ["renamed", BOTH], "class changes"),
            ("transferred", ["split"], "split annotations"),
            ("transferred", ["added"], "additions"),
        ):
            view = dataset.filter_labels(field, boxes("change").is_in(changed))
            dataset.save_view(name, view, overwrite=True)
        reshaped = boxes("change").is_in(["reshaped", BOTH])
        moved = dataset.filter_labels("transferred", reshaped)
        least = boxes("transferred.detections").map(boxes("source_iou")).min()
        dataset.save_view("largest box changes", moved.sort_by(least), overwrite=True)
        several = dataset.filter_labels("transferred", boxes("alternatives").length() > 0)
        dataset.save_view("doubtful classes", several, overwrite=True)
    if "transferred.detections.disagreement" in has:
        some = dataset.filter_labels("transferred", boxes("disagreement") > 0)
        most = boxes("transferred.detections").map(boxes("disagreement")).max()
        view = some.sort_by(most, reverse=True)
        dataset.save_view("specialists disagree", view, overwrite=True)
    # Ignore regions have none, which a database takes for less than any number.
    low = (boxes("confidence") >= 0) & (boxes("confidence") < _LOW_CONFIDENCE)
    unsure = dataset.filter_labels("transferred", low)
    least = boxes("transferred.detections").map(boxes("confidence")).min()
    dataset.save_view("low confidence", unsure.sort_by(least), overwrite=True)


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
