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

    In a run's dataset its labels are cut to the accused ones, and what is no label any more is left
    out: a review decides about all that a view shows.
    A dataset without suspects gets none of the views; earlier ones of kinds that are not there any
    more go.

    Args:
        fo: the fiftyone module.
        dataset: a FiftyOne dataset.
    """
    place = f"{_FIELD}.detections"
    schema = dataset.get_field_schema(flat=True)
    if f"{place}.kind" not in schema:
        return
    boxes = fo.ViewField
    surest = boxes(place).map(boxes("confidence")).max()
    kinds = dataset.distinct(f"{place}.kind")
    views = {"suspects": kinds} | {f"suspects: {kind}": [kind] for kind in kinds}
    for name in dataset.list_saved_views():
        if name.startswith("suspects: ") and name not in views:
            dataset.delete_saved_view(name)
    for name, chosen in views.items():
        view = dataset.filter_labels(_FIELD, boxes("kind").is_in(chosen))
        if "transferred.detections.suspect" in schema:
            accused = boxes("suspect").is_in(chosen)
            for field in ("transferred", "rejected"):
                view = view.filter_labels(field, accused, only_matches=False)
            if dataset.has_sample_field("removed"):
                view = view.exclude_fields("removed")
        dataset.save_view(name, view.sort_by(surest, reverse=True), overwrite=True)
