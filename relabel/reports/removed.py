"""The report's part on a source's annotations: what became of them, and which have no label."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from relabel.datasets.changes import CHANGES, SAME_BOX_IOU, ChangeCounts
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.pixels.location import load_rgb
from relabel.datasets.removed import Removed
from relabel.errors import DataError
from relabel.reports import charts
from relabel.reports.page import Cell, embedded, note, table
from relabel.reports.pictures import Color, crop_around, draw_boxes
from relabel.reports.sides import removed_facts
from relabel.reports.style import escaped, named

_CROP_WIDTH = 320


def dropped_overview(sources: Sequence[tuple[str, DetectionDataset, Removed]]) -> str:
    """A section on the annotations of all sources that left no label: how many, and why.

    Args:
        sources: name, the annotations, and those without a label of their own.
    """
    rows: list[list[object]] = []
    for name, before, removed in sources:
        total = int((~before.boxes.ignore).sum())
        gone = removed.take(~removed.merged)
        rows += [
            [name, reason, _shared(n, total)]
            for reason, n in sorted(Counter(gone.reason).items(), key=_by_count)
        ]
        if not len(gone):
            rows.append([name, "nothing was dropped", _shared(0, total)])
    text = (
        "Annotations without a label in the result, as a share of all of their source. The section "
        "of a source has them by class, with pictures."
    )
    made = table(["source", "why", "annotations"], rows, words=2, kind="fates plain")
    return f'<section id="dropped"><h2>What was dropped, and why</h2>{made}{note(text)}</section>'


def changes_bar(found: ChangeCounts) -> str:
    """The annotations of a source by what became of them."""
    return charts.share_bar(dict(zip(CHANGES, found.counts.sum(axis=0).tolist(), strict=True)))


def changes_table(found: ChangeCounts) -> str:
    """A row per source class with annotations, one of all of them, and how many labels are new."""
    rows: list[list[object]] = []
    every = [*found.counts.tolist(), found.counts.sum(axis=0).tolist()]
    doubtful = [*found.doubtful.tolist(), int(found.doubtful.sum())]
    for name, counts, unsure in zip([*found.classes, "all"], every, doubtful, strict=True):
        total = sum(counts)
        if total:
            rows.append([name, total, *(_shared(n, total) for n in (*counts, unsure))])
    text = (
        "Kept: one label of the same class name in nearly the same box. Renamed: one of another "
        f"name. Reshaped: one in another box (IoU under {SAME_BOX_IOU}). Split: several labels."
        "  Merged: it shares a label with another annotation. Dropped: no label. "
        f"Doubtful: its label's class is one of several. {found.added:,} labels are of objects "
        "that have no annotation."
    )
    head = ["source class", "annotations", *CHANGES, "doubtful"]
    return table(head, rows, kind="fates") + note(text)


def removed_section(
    source: DetectionDataset,
    removed: Removed,
    space: LabelSpace,
    palette: Mapping[str, Color],
    count: int,
    seed: int,
) -> str:
    """Annotations without a label: by class and reason, and some of them in pictures.

    Args:
        source: as annotated.
        space: the target's label space.
        count: pictures, taken in turn from every class and reason, at random with ``seed``.
    """
    gone = removed.take(~removed.merged)
    title = "<h3>What was dropped, and why</h3>"
    if not len(gone):
        return f"{title}<p>None.</p>"
    return title + _reasons(source, gone) + _examples(source, gone, space, palette, count, seed)


def _reasons(source: DetectionDataset, gone: Removed) -> str:
    names = source.space.names
    total = np.bincount(source.boxes.category[~source.boxes.ignore], minlength=len(names))
    of = source.boxes.category[gone.row]
    frequent = [reason for reason, _ in sorted(Counter(gone.reason).items(), key=_by_count)]
    by_reason = np.array([frequent.index(reason) for reason in gone.reason])
    counts = np.zeros((len(names), len(frequent)), np.int64)
    np.add.at(counts, (of, by_reason), 1)
    sums = ["in all"] if len(frequent) > 1 else []
    every = [(names[c], counts[c], int(total[c])) for c in np.flatnonzero(counts.any(axis=1))]
    rows: list[list[object]] = []
    for name, by, of in [*every, ("all", counts.sum(axis=0), int(total.sum()))]:
        numbers = [*by.tolist(), int(by.sum())][: len(frequent) + len(sums)]
        rows.append([name, *(_shared(n, of) for n in numbers)])
    made = table(["source class", *frequent, *sums], rows, kind="fates")
    return made + note("Shares are of all annotations of the class. removed.json lists each one.")


def _examples(
    source: DetectionDataset,
    gone: Removed,
    space: LabelSpace,
    palette: Mapping[str, Color],
    count: int,
    seed: int,
) -> str:
    cards, unreadable = [], 0
    for k in _in_turn(source, gone, count, seed):
        row = int(gone.row[k])
        image, name = int(source.boxes.image[row]), source.space.names[source.boxes.category[row]]
        try:
            pixels = load_rgb(source, image)
        except DataError:
            unreadable += 1
            continue
        x1, y1, x2, y2 = source.boxes.xyxy[row].tolist()
        part, box = crop_around(pixels, (x1, y1, x2, y2))
        text = f"{name}: {gone.reason[k]}"
        picture = draw_boxes(
            part, np.array([box]), [name], colors=palette, width=_CROP_WIDTH, tags=False, line=4
        )
        lines = "".join(f"<p>{named(line)}</p>" for line in removed_facts(gone, k, space))
        cards.append(
            f"<figure>{embedded(picture, text)}<figcaption><strong>{named(name)}</strong>"
            f"<p>{escaped(gone.reason[k])}</p>{lines}"
            f"<p><small>{named(source.images.file_name[image])}</small></p></figcaption></figure>"
        )
    left_out = note(f"{unreadable} images could not be read.") if unreadable else ""
    return f'<div class="cards">{"".join(cards)}</div>{left_out}' if cards else left_out


def _in_turn(source: DetectionDataset, gone: Removed, count: int, seed: int) -> list[int]:
    """Rows of ``gone`` to show: one of each reason and class after the other."""
    groups: dict[tuple[str, int], list[int]] = defaultdict(list)
    order: list[int] = np.random.default_rng(seed).permutation(len(gone)).tolist()
    for k in order:
        groups[gone.reason[k], int(source.boxes.category[gone.row[k]])].append(k)
    ordered = sorted(groups.values(), key=lambda rows: (-len(rows), rows))
    turns = max(map(len, ordered))
    return [rows[t] for t in range(turns) for rows in ordered if t < len(rows)][:count]


def _by_count(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _shared(n: int, total: int) -> Cell:
    if not n:
        return Cell("·", "num empty")
    share = f"{n / total:.1%}" if total else ""
    return Cell(f"{n:,}<small>{share}</small>", "num")
