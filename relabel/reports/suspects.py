"""The report of a check: suspect labels by kind and class, the surest as pictures, the ranking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.pixels.location import load_rgb
from relabel.errors import DataError
from relabel.geometry import xywh_to_xyxy
from relabel.reports import charts
from relabel.reports.compare import DrawnBox, Side, compared
from relabel.reports.made import Made
from relabel.reports.page import (
    Cell,
    note,
    picture_section,
    swatch,
    table,
    tiles,
    write_page,
)
from relabel.reports.pictures import Color, crop_around
from relabel.reports.style import escaped, named

_WIDTH, _ASPECT = 320, 4 / 3  # of pictures, as cards show them
_MOST_ROWS = 500
_MOST_CLASSES = 40
# Apart for most kinds of colour vision, and on most photos.
_ANNOTATED, _PROPOSED, _AROUND = "annotated", "proposed", "other annotations"
_COLORS: dict[str, Color] = {
    _ANNOTATED: (230, 159, 0),
    _PROPOSED: (86, 180, 233),
    _AROUND: (190, 190, 190),
}


@dataclass(frozen=True, eq=False)
class SuspectRow:
    """A suspect label.

    Attributes:
        kind: what is wrong with it.
        score: how likely, in [0, 1].
        image: row of its image.
        annotation_id, category, box: the annotation as it is, its box as xyxy [4]; None for an
            object that has none.
        proposed_category, proposed_box: what it should be; None for what stays, or where the
            annotation should go.
        proposal: the same in words.
        reason: why.
    """

    kind: str
    score: float
    image: int
    annotation_id: int | None
    category: str | None
    proposed_category: str | None
    box: np.ndarray | None
    proposed_box: np.ndarray | None
    proposal: str
    reason: str


@dataclass(frozen=True)
class SplitRow:
    """A pair of classes that annotators split differently.

    Attributes:
        classes: their names.
        confused, share: annotations of the first that look like the second, and the other way;
            how many, and of all that look like one of the two.
        reason: what is odd about it.
        groups: by annotator, sequence or folder, annotations of the first and the second class.
    """

    classes: tuple[str, str]
    confused: tuple[int, int]
    share: tuple[float, float]
    reason: str
    groups: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, eq=False)
class _Picture:
    group: str
    row: SuspectRow
    rank: int
    html: str


def write_suspect_report(
    out: Path,
    dataset: DetectionDataset,
    rows: Sequence[SuspectRow],
    splits: Sequence[SplitRow],
    *,
    annotations: int,
    predictions_by: str,
    pictures: int,
    settings: Mapping[str, Any],
    made: Made | None = None,
) -> Path:
    """Write the report.

    Args:
        out: the HTML file.
        dataset: as annotated.
        rows: suspects, the surest first.
        splits: pairs of classes.
        annotations: number of those that were checked.
        predictions_by: whose predictions the suspects are told by.
        pictures: of each kind, the surest; images that cannot be read are left out and counted.
        settings: settings of the run; tables may be nested.
        made: command, versions and times of the run.

    Returns:
        ``out``.
    """
    shown, unreadable = _pictures(dataset, rows, pictures)
    contents = {"overview": "Overview"}
    sections = [_overview(dataset, rows, annotations, predictions_by)]
    if shown:
        contents["pictures"] = "Pictures"
        sections.append(picture_section(shown, _key(), lambda picture: picture.html))
    if unreadable:
        sections.append(note(f"{unreadable} images could not be read."))
    if splits:
        contents["splits"] = "Classes split differently"
        sections.append(_splits(splits))
    contents["ranking"] = "Ranking"
    sections.append(_ranking(dataset, rows))
    return write_page(out, f"Suspect labels of {dataset.name}", contents, sections, settings, made)


def _overview(
    dataset: DetectionDataset, rows: Sequence[SuspectRow], annotations: int, predictions_by: str
) -> str:
    kinds = Counter(row.kind for row in rows)
    accused = len({row.annotation_id for row in rows if row.annotation_id is not None})
    numbers = {
        "images": len(dataset),
        "annotations checked": annotations,
        "suspect annotations": accused,
        "objects that may lack a box": sum(row.annotation_id is None for row in rows),
    }
    by_class = Counter((row.category or row.proposed_category or "", row.kind) for row in rows)
    classes = [name for name, _ in _totals(by_class).most_common(_MOST_CLASSES)]
    body = [
        [name, *(by_class[name, kind] for kind in kinds), _totals(by_class)[name]]
        for name in classes
    ]
    left_out = len(_totals(by_class)) - len(classes)
    more = note(f"{left_out} classes with fewer are not shown.") if left_out else ""
    told = (
        f"By {escaped(predictions_by)}, each on images that it has not seen. A score is how likely "
        "the label is wrong; scores of different kinds can be compared."
    )
    made = table(["class", *kinds, "all"], body) if body else "<p>No suspects.</p>"
    return (
        f'<section id="overview"><h2>Overview</h2>{note(told)}{tiles(numbers)}'
        f"{charts.share_bar(kinds)}{made}{more}</section>"
    )


def _totals(by_class: Mapping[tuple[str, str], int]) -> Counter[str]:
    totals: Counter[str] = Counter()
    for (name, _), count in by_class.items():
        totals[name] += count
    return totals


def _pictures(
    dataset: DetectionDataset, rows: Sequence[SuspectRow], most: int
) -> tuple[list[_Picture], int]:
    left: Counter[str] = Counter()
    found, unreadable = [], set()
    for rank, row in enumerate(rows, 1):
        if left[row.kind] >= most or row.image in unreadable:
            continue
        try:
            pixels = load_rgb(dataset, row.image)
        except DataError:
            unreadable.add(row.image)
            continue
        left[row.kind] += 1
        found.append(_Picture(row.kind, row, rank, _card(dataset, pixels, row, rank)))
    return found, len(unreadable)


class _Part:
    """The part of an image around a suspect, and how the image's boxes lie on it."""

    def __init__(self, image: np.ndarray, own: np.ndarray) -> None:
        x1, y1 = own[:, :2].min(axis=0).tolist()
        x2, y2 = own[:, 2:].max(axis=0).tolist()
        box = (x1, y1, x2, y2)
        self.pixels, placed = crop_around(image, box, context=0.6, least=120, aspect=_ASPECT)
        self._move = np.tile(np.array(box[:2]) - placed[:2], 2)
        self._size = np.array([self.pixels.shape[1], self.pixels.shape[0]] * 2)

    def draw(
        self, xyxy: np.ndarray, name: str, color: Color, text: str, kind: str = ""
    ) -> list[DrawnBox]:
        """A box of the image; none where it lies beside the part."""
        x1, y1, x2, y2 = np.clip(xyxy - self._move, 0, self._size).tolist()
        return [DrawnBox((x1, y1, x2, y2), name, color, text, kind)] if x2 > x1 and y2 > y1 else []


def _card(dataset: DetectionDataset, pixels: np.ndarray, row: SuspectRow, rank: int) -> str:
    part = _Part(pixels, np.array([b for b in (row.box, row.proposed_box) if b is not None]))
    as_is = _others(dataset, row, part)
    proposed = list(as_is)
    own, new = row.category or "", row.proposed_category
    annotation = f"annotation {row.annotation_id}"
    if row.box is not None:
        color = _COLORS[_ANNOTATED]
        as_is += part.draw(row.box, own, color, f"{own}: {annotation}, as it is")
        if new is None or row.proposed_box is not None:
            # Where the object stays, its new box has the name.
            text = f"{own}: {annotation}, which would go from here"
            proposed += part.draw(row.box, "" if new else own, color, text, "dashed")
    there = row.box if row.proposed_box is None else row.proposed_box
    if new is not None and there is not None:
        proposed += part.draw(there, new, _COLORS[_PROPOSED], f"{new}: {row.proposal}")
    file = dataset.images.file_name[row.image]
    what = f"{row.kind} in {file}"
    before = Side("Annotated", f"{what}, as annotated: {row.category or 'nothing'}", as_is)
    after = Side("Proposed", f"{what}, as proposed: {row.proposal}", proposed)
    # Cards are 4:3: a tall part is made narrower, so that its names come out equally large.
    height, width = part.pixels.shape[:2]
    fitted = min(_WIDTH, max(1, round(_WIDTH / _ASPECT * width / height)))
    picture = compared(f"suspect-{rank}", part.pixels, before, after, width=fitted, chosen="two")
    title = row.proposal if row.proposal != "remove" else f"remove {row.category}"
    of = "" if row.annotation_id is None else f", {annotation}"
    return (
        f'<figure class="ba">{picture}<figcaption><strong>{named(title)}</strong> '
        f"<small>{row.score:.2f}, rank {rank}</small><p>{named(row.reason)}</p>"
        f"<p>{named(file)}{of}</p></figcaption></figure>"
    )


def _others(dataset: DetectionDataset, row: SuspectRow, part: _Part) -> list[DrawnBox]:
    """The other annotations of the image."""
    rows, boxes, found = dataset.rows(row.image), dataset.boxes, []
    for k, xyxy in zip(range(rows.start, rows.stop), xywh_to_xyxy(boxes.xywh[rows]), strict=True):
        if int(boxes.id[k]) != row.annotation_id:
            text = f"{dataset.space.names[boxes.category[k]]}: annotation {boxes.id[k]}"
            kind = "ignored" if boxes.ignore[k] else ""
            found += part.draw(xyxy, "", _COLORS[_AROUND], text, kind)
    return found


def _key() -> str:
    items = "".join(f"<li>{swatch(color)}{name}</li>" for name, color in _COLORS.items())
    text = (
        "The switch shows a part of the image as it is annotated and as proposed, or both with a "
        "border to move. Dashed: an annotation that would go, or be moved. A box says what it is "
        "where the pointer rests, and when it has the focus."
    )
    return f'<ul class="legend">{items}</ul>{note(text)}'


def _splits(splits: Sequence[SplitRow]) -> str:
    head = ["classes", "looks like the other", "looks like the first", "why"]
    rows = [
        [
            " / ".join(split.classes),
            f"{split.confused[0]:,} ({split.share[0]:.0%})",
            f"{split.confused[1]:,} ({split.share[1]:.0%})",
            split.reason,
        ]
        for split in splits
    ]
    parts = [table(head, rows, words=4)]
    for split in splits:
        if split.groups:
            first, second = split.classes
            counts = [[name, *pair] for name, pair in split.groups.items()]
            parts.append(table(["", first, second], counts, title=" / ".join(split.classes)))
    told = (
        "Pairs that predictions on unseen images confuse in both directions, or that groups of "
        "images name differently where the same is predicted: agree on a rule first, then correct."
    )
    return (
        f'<section id="splits"><h2>Classes split differently</h2>{note(told)}'
        f'<div class="tables">{"".join(parts)}</div></section>'
    )


def _ranking(dataset: DetectionDataset, rows: Sequence[SuspectRow]) -> str:
    head = ["rank", "score", "kind", "image", "annotation", "class", "proposal", "why"]
    body: list[list[object]] = [
        [
            str(rank),
            f"{row.score:.3f}",
            Cell(escaped(row.kind), "", "white-space:nowrap"),
            dataset.images.file_name[row.image],
            "–" if row.annotation_id is None else str(row.annotation_id),
            row.category or "–",
            row.proposal,
            row.reason,
        ]
        for rank, row in enumerate(rows[:_MOST_ROWS], 1)
    ]
    more = ""
    if len(rows) > _MOST_ROWS:
        more = note(f"The first {_MOST_ROWS:,} of {len(rows):,}; suspects.json has all.")
    made = table(head, body, words=len(head)) if body else "<p>No suspects.</p>"
    return f'<section id="ranking"><h2>Ranking</h2>{made}{more}</section>'
