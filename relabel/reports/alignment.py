"""The report of a relabelling: pictures before and after, where classes went, boxes, counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from relabel.datasets.alternatives import alternatives_of
from relabel.datasets.changes import ChangeCounts, change_counts, changes, pair_boxes
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.pixels.location import load_rgb
from relabel.datasets.removed import Removed, without_label
from relabel.errors import DataError
from relabel.reports import charts, statistics
from relabel.reports.page import Cell, details, embedded, nested, note, swatch, table, write_page
from relabel.reports.pictures import Color, class_palette, draw_boxes
from relabel.reports.removed import changes_bar, changes_table, removed_section
from relabel.reports.style import escaped

_PICTURE_WIDTH = 640


@dataclass(frozen=True, eq=False)
class SourceReport:
    """One relabelled source.

    Attributes:
        name: the source dataset's name.
        before: its own annotations, in its own label space.
        after: the relabelled dataset, in the target's label space, with provenance.
        pseudo: pseudo-labels on its images by the dataset whose specialist made them.
        removed: its annotations without a label of their own; by default as `without_label` finds
            them.
        counted: what became of its annotations, by class; by default counted anew.
    """

    name: str
    before: DetectionDataset
    after: DetectionDataset
    pseudo: Mapping[str, DetectionDataset] | None = None
    removed: Removed | None = None
    counted: ChangeCounts | None = None

    @property
    def gone(self) -> Removed:
        """``removed``, or what stands for it."""
        return without_label(self.before, self.after) if self.removed is None else self.removed

    @cached_property
    def changes(self) -> ChangeCounts:
        """``counted``, or what stands for it."""
        if self.counted is not None:
            return self.counted
        return change_counts(self.before, changes(self.before, self.after, self.gone))


def write_align_report(
    out: Path,
    *,
    title: str,
    target: DetectionDataset,
    sources: Sequence[SourceReport],
    settings: Mapping[str, Any],
    metrics: Mapping[str, Any] | None = None,
    pictures: int = 12,
    seed: int = 0,
) -> Path:
    """Write the report.

    Args:
        out: the HTML file.
        title: its heading.
        target: the target dataset, for comparison of class counts.
        sources: what became of each source.
        settings: settings of the run; tables may be nested.
        metrics: measured numbers, if any; tables may be nested.
        pictures: images to show per source, before and after; half are those that changed most,
            half are drawn with ``seed``. Images that cannot be read are left out and counted.

    Returns:
        ``out``.
    """
    names = {n for s in sources for d in (s.before, s.after) for n in d.space.names}
    palette = class_palette(names | set(target.space.names))
    contents = {f"source-{k}": s.name for k, s in enumerate(sources)}
    sections = [_overview(target, sources)]
    if metrics:
        sections.append(f"<section><h2>Measured</h2>{nested(metrics)}</section>")
    for k, source in enumerate(sources):
        sections.append(_source(k, source, target, palette, pictures, seed))
    return write_page(out, title, contents, sections, settings)


def _overview(target: DetectionDataset, sources: Sequence[SourceReport]) -> str:
    rows: list[list[object]] = []
    for s in sources:
        change = statistics.class_flow(s.before, s.after).counts
        style = statistics.box_style(s.before, s.after)
        rows.append(
            [
                s.name,
                len(s.after.images),
                int((~s.before.boxes.ignore).sum()),
                int((~s.after.boxes.ignore).sum()),
                int(change[:-1, :-1].sum()),
                int(change[-1].sum()),
                int(change[:, -1].sum()),
                float(style.iou.mean()) if len(style.iou) else None,
            ]
        )
    head = ["source", "images", "annotations", "labels", "from an annotation", "new"]
    head += ["annotations without a label of their own", "mean IoU with the annotation"]
    bars = "".join(
        f"<h4>The {s.changes.counts.sum():,} annotations of {escaped(s.name)}</h4>"
        f"{changes_bar(s.changes)}"
        for s in sources
    )
    return (
        f"<section><p>Target: <strong>{escaped(target.name)}</strong>, "
        f"{target.space.num_classes} classes, {len(target.images):,} images, "
        f"{int((~target.boxes.ignore).sum()):,} boxes. Counts leave ignored regions out.</p>"
        f"{bars}{table(head, rows)}</section>"
    )


def _source(
    k: int,
    source: SourceReport,
    target: DetectionDataset,
    palette: Mapping[str, Color],
    pictures: int,
    seed: int,
) -> str:
    before, after = source.before, source.after
    style, flow = statistics.box_style(before, after), statistics.class_flow(before, after)
    scores = after.boxes.score[~after.boxes.ignore]
    ratio: dict[str, Any] = {"low": 0, "high": 2, "mark": 1, "ticks": (0, 0.5, 1, 1.5, 2)}
    share: dict[str, Any] = {"low": 0, "high": 1, "ticks": (0, 0.25, 0.5, 0.75, 1)}
    percent: dict[str, Any] = {"low": 0, "high": 30, "ticks": (0, 10, 20, 30), "unit": "%"}
    shapes = (
        charts.histogram(style.width, title="Width, after / before", **ratio),
        charts.histogram(style.height, title="Height, after / before", **ratio),
        charts.histogram(style.shift * 100, title="Centre shift, share of diagonal", **percent),
        charts.histogram(style.iou, title="IoU with the source box", **share),
    )
    score_chart = charts.histogram(scores[~np.isnan(scores)], title="Score", **share)
    parts = [
        f'<section id="source-{k}"><h2>{escaped(source.name)}</h2>',
        "<h3>What became of the annotations</h3>",
        changes_table(source.changes),
        "<h3>Classes: source to target</h3>",
        note(
            "Labels by the class of the annotation that they come from, shaded by share of the "
            "row. The last row holds labels that come from no annotation, the last column "
            "annotations that no label names, those that were merged among them."
        ),
        _matrix(flow),
        _pictures(source, palette, pictures, seed),
        removed_section(before, source.gone, after.space, palette, pictures, seed),
        "<h3>Box style</h3>",
        note(
            "Boxes that come from a source annotation, compared with it. The dashed line is no "
            "change; the outermost bars hold everything beyond."
        ),
        f'<div class="charts">{"".join(shapes)}</div>',
        "<h3>Origin and score</h3>",
        charts.share_bar(statistics.origins(after)),
        f'<div class="charts">{score_chart}</div>',
        "<h3>Counts</h3>",
        _counts(source, target),
        "</section>",
    ]
    return "".join(parts)


def _counts(source: SourceReport, target: DetectionDataset) -> str:
    """Boxes per class before, after, in the target, and among the pseudo-labels."""
    before, after = (statistics.class_counts(d) for d in (source.before, source.after))
    wanted = statistics.class_counts(target)
    total_after, total_target = sum(after.values()), sum(wanted.values())

    def share(n: int | None, total: int) -> str:
        return "–" if n is None or not total else f"{n / total:.1%}"

    rows = [
        [name, n, share(n, total_after), wanted.get(name), share(wanted.get(name), total_target)]
        for name, n in after.items()
    ]
    pseudo = (source.pseudo or {}).items()
    regions = (("before", source.before), ("after", source.after))
    tables = [
        table(["class", "boxes"], list(before.items()), title="Before, in the source's classes"),
        table(
            ["class", "boxes after", "share", f"boxes in {target.name}", "share"],
            rows,
            title="After, beside the target's own",
        ),
        *(
            table(
                ["class", "boxes"],
                [[c, n] for c, n in statistics.class_counts(labels).items() if n],
                title=f"Pseudo-labels by {name}",
            )
            for name, labels in pseudo
        ),
        table(
            ["", "regions"],
            [[when, int(d.boxes.ignore.sum())] for when, d in regions],
            title="Ignored regions",
        ),
    ]
    return f'<div class="tables">{"".join(tables)}</div>'


def _matrix(flow: statistics.ClassFlow) -> str:
    """Source class to target class, shaded by the share of each row.

    Rows and columns that are empty are left out, and named below the table.
    """
    counts, total = flow.counts, flow.counts.sum(axis=1)
    new, dropped = len(flow.rows) - 1, len(flow.columns) - 1
    columns = [c for c in range(dropped + 1) if counts[:, c].any() or c == dropped]
    rows: list[int] = np.flatnonzero(total).tolist()
    if not rows:
        return "<p>No boxes.</p>"

    def cell(n: int, of: int) -> Cell:
        if not n:
            return Cell("·", "num empty")
        share = n / of
        return Cell(f"{n:,}<small>{share:.0%}</small>", "num heat", f"--p:{round(share * 100)}%")

    kind = "matrix" + " upright" * (len(columns) > 9) + " new" * (new in rows)
    made = table(
        ["source class", *(flow.columns[c] for c in columns), "total"],
        [
            [
                flow.rows[r],
                *(cell(int(counts[r, c]), int(total[r])) for c in columns),
                int(total[r]),
            ]
            for r in rows
        ],
        kind=kind,
    )
    unused = {
        "Target classes without a box": [n for c, n in enumerate(flow.columns) if c not in columns],
        "Source classes without a box": [
            n for r, n in enumerate(flow.rows) if r not in rows and r != new
        ],
    }
    return made + "".join(
        note(escaped(f"{text}: {', '.join(names)}.")) for text, names in unused.items() if names
    )


def _pictures(source: SourceReport, palette: Mapping[str, Color], count: int, seed: int) -> str:
    before, after = source.before, source.after
    joined = statistics.matching_images(before, after)
    lost = np.zeros(len(before.boxes), bool)
    lost[source.gone.row[~source.gone.merged]] = True
    new = ~after.boxes.ignore
    new[pair_boxes(before, after)[0]] = False
    dashed = (lost, new)
    figures, unreadable = [], 0
    seen: tuple[set[str], set[str]] = (set(), set())
    for row, reason in statistics.choose_images(before, after, count, seed):
        try:
            pixels = load_rgb(after, row)
        except DataError:
            unreadable += 1
            continue
        sides = []
        for k, (dataset, image) in enumerate(((before, int(joined[row])), (after, row))):
            rows = dataset.rows(image)
            labels = [dataset.space.names[c] for c in dataset.boxes.category[rows]]
            ignore = dataset.boxes.ignore[rows]
            seen[k].update(n for n, hidden in zip(labels, ignore, strict=True) if not hidden)
            picture = draw_boxes(
                pixels,
                dataset.boxes.xyxy[rows],
                labels,
                dataset.boxes.score[rows] if k else None,
                palette,
                ignore=ignore,
                dashed=dashed[k][rows],
                width=_PICTURE_WIDTH,
                # One class needs no name on every box.
                tags=dataset.space.num_classes > 1 or bool(k),
            )
            n = int((~ignore).sum())
            text = f"{('Before', 'After')[k]}: {n} box{'es' * (n != 1)}"
            if dashed[k][rows].any():
                text += f", {int(dashed[k][rows].sum())} {('without a label', 'new')[k]}"
            sides.append(f"<div><span>{text}</span>{embedded(picture, text)}</div>")
        name = escaped(after.images.file_name[row])
        figures.append(
            f"<figure><figcaption>{name} <small>{reason}</small></figcaption>"
            f'<div class="pair">{"".join(sides)}</div>'
            f"{details('Labels', _labels(after, row))}</figure>"
        )
    left_out = note(f"{unreadable} images could not be read.") if unreadable else ""
    if not figures:
        return left_out
    legends = "".join(
        f'<div><strong>{label}</strong><ul class="legend">'
        + "".join(f"<li>{swatch(palette[n])}{escaped(n)}</li>" for n in sorted(names))
        + "</ul></div>"
        for label, names in (("Before", seen[0]), ("After", seen[1]))
    )
    text = "Dashed: annotations that left no label, and labels that come from no annotation."
    keys = f'<div class="keys">{legends}</div>{note(text)}'
    return f"<h3>Pictures</h3>{keys}{''.join(figures)}{left_out}"


def _labels(after: DetectionDataset, image: int) -> str:
    """Score, origin and alternatives of each label of an image."""
    boxes, names = after.boxes, after.space.names
    rows: list[list[object]] = []
    for row in after.objects(image).tolist():
        origin, annotation = "–", "–"
        if boxes.provenance is not None:
            origin = boxes.provenance.origin[row]
            annotation = boxes.provenance.source_category[row] or "–"
        others = ", ".join(alternatives_of(boxes, row)) or "–"
        score = "–" if np.isnan(boxes.score[row]) else f"{boxes.score[row]:.2f}"
        rows.append([names[boxes.category[row]], origin, annotation, others, score])
    head = ["label", "origin", "annotation", "may also be", "score"]
    return table(head, rows, words=4) if rows else "<p>None.</p>"
