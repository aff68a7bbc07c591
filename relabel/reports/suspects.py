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
from relabel.reports import charts
from relabel.reports.made import Made
from relabel.reports.page import (
    embedded,
    note,
    picture_section,
    swatch,
    table,
    tiles,
    write_page,
)
from relabel.reports.pictures import Color, crop_around, draw_boxes
from relabel.reports.style import escaped

_PICTURE_WIDTH = 420
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
        f'<section id="overview">{note(told)}{tiles(numbers)}{charts.share_bar(kinds)}'
        f"{made}{more}</section>"
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


def _card(dataset: DetectionDataset, pixels: np.ndarray, row: SuspectRow, rank: int) -> str:
    own = [box for box in (row.box, row.proposed_box) if box is not None]
    around = np.concatenate([np.min(own, axis=0)[:2], np.max(own, axis=0)[2:]])
    part, placed = crop_around(pixels, tuple(around.tolist()), context=0.6, least=120)
    move = np.array([around[0] - placed[0], around[1] - placed[1]] * 2)
    boxes, labels = [], []
    others = dataset.rows(row.image)
    for box, id in zip(dataset.boxes.xyxy[others], dataset.boxes.id[others].tolist(), strict=True):
        if id != row.annotation_id:
            boxes.append(box)
            labels.append(_AROUND)
    for box, name in ((row.box, _ANNOTATED), (row.proposed_box, _PROPOSED)):
        if box is not None:
            boxes.append(box)
            labels.append(name)
    xyxy = np.array(boxes) - move
    proposed = np.array([name == _PROPOSED for name in labels])
    clipped = np.clip(xyxy, 0, np.array([part.shape[1], part.shape[0]] * 2))
    seen = np.flatnonzero((clipped[:, 2:] > clipped[:, :2]).all(axis=1))
    picture = draw_boxes(
        part,
        clipped[seen],
        [labels[k] for k in seen.tolist()],
        colors=_COLORS,
        dashed=proposed[seen],
        width=_PICTURE_WIDTH,
        tags=False,
    )
    file = dataset.images.file_name[row.image]
    what = row.category if row.category is not None else row.proposed_category
    text = f"{row.kind}: {what} in {file}"
    title = row.proposal if row.proposal != "remove" else f"remove {row.category}"
    annotation = "" if row.annotation_id is None else f", annotation {row.annotation_id}"
    return (
        f"<figure>{embedded(picture, text)}<figcaption><strong>{escaped(title)}</strong> "
        f"<small>{row.score:.2f}, rank {rank}</small><p>{escaped(row.reason)}</p>"
        f"<p>{escaped(file)}{annotation}</p></figcaption></figure>"
    )


def _key() -> str:
    items = "".join(f"<li>{swatch(color)}{name}</li>" for name, color in _COLORS.items())
    return f'<ul class="legend">{items}</ul>{note("Dashed: what is proposed.")}'


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
    body = [
        [
            str(rank),
            f"{row.score:.3f}",
            row.kind,
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
