"""Why each label is suspect, in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from relabel.datasets.dataset import DetectionDataset
from relabel.suspects.score import (
    BADLY_PLACED,
    CLASS,
    DUPLICATE,
    MIRRORED,
    MISSING,
    SIDES,
    SPURIOUS,
    Suspects,
)


def reasons(suspects: Suspects, dataset: DetectionDataset) -> list[str]:
    """One sentence each; class names are as the label space has them."""
    return [_reason(suspects, k, dataset) for k in range(len(suspects))]


def _reason(suspects: Suspects, k: int, dataset: DetectionDataset) -> str:
    kind, names = suspects.kind[k], dataset.space.names
    row = int(suspects.annotation[k])
    own = names[dataset.boxes.category[row]] if row >= 0 else ""
    proposed = names[suspects.category[k]] if suspects.category[k] >= 0 else ""
    sure, as_is, iou = suspects.confidence[k], suspects.own[k], suspects.iou[k]
    if kind == MISSING:
        return f"{proposed} predicted at {sure:.2f} where nothing is annotated"
    if kind in (CLASS, SIDES):
        return f"looks like {proposed} ({sure:.2f}), as {own} {as_is:.2f}"
    if kind == BADLY_PLACED:
        return f"{own} predicted at {sure:.2f} with an IoU of {iou:.2f}"
    if kind == MIRRORED:
        return f"{own} predicted at {sure:.2f} in the mirror image of this place, here {as_is:.2f}"
    if kind == DUPLICATE:
        other = int(suspects.other[k])
        same = dataset.boxes.category[other] == dataset.boxes.category[row]
        of = "" if same else f", a {names[dataset.boxes.category[other]]},"
        return f"annotation {int(dataset.boxes.id[other])}{of} is there with an IoU of {iou:.2f}"
    assert kind == SPURIOUS
    return f"nothing is predicted here above {sure:.2f}"


def proposals(suspects: Suspects, dataset: DetectionDataset) -> Sequence[str]:
    """What is proposed, in a word or two: a class, another box, or to remove it."""
    names = dataset.space.names
    return [
        {MISSING: f"add {names[c]}", DUPLICATE: "remove", SPURIOUS: "remove"}.get(
            kind, "move" if kind in (BADLY_PLACED, MIRRORED) else f"rename to {names[c]}"
        )
        for kind, c in zip(suspects.kind, suspects.category.tolist(), strict=True)
    ]
