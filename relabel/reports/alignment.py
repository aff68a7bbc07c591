"""The report of a relabelling: what was dropped and why, where classes went, pictures, boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from relabel.datasets.changes import ChangeCounts, Changes, change_counts, changes
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.removed import Removed, without_label
from relabel.reports import charts, statistics
from relabel.reports.distributions import outlines, quartiles
from relabel.reports.flow import class_flow_section
from relabel.reports.made import Made
from relabel.reports.page import nested, note, table, write_page
from relabel.reports.pictures import Color, class_palette
from relabel.reports.pseudo_labels import Bars, reliability_chart
from relabel.reports.removed import (
    changes_bar,
    changes_table,
    dropped_overview,
    removed_section,
)
from relabel.reports.sides import Story, pictures_before_after, worst_cases
from relabel.reports.style import escaped, named

_SHAPES = 20  # classes whose box style is drawn
# Sides of boxes in percent of their image's: each step but the last is √2.
_EDGES = np.append(2.0 ** np.arange(0, 7, 0.5), 100)


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of labels beyond themselves, where there is truth.

    Attributes:
        bars: reliability diagrams.
        note: what they are of, in a sentence or two.
        per_class: by source a header and a row per class, against the baselines.
    """

    bars: Sequence[Bars] = ()
    note: str = ""
    per_class: Mapping[str, tuple[Sequence[str], Sequence[Sequence[str]]]] = field(
        default_factory=dict
    )


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
        return change_counts(self.before, self.each)

    @cached_property
    def each(self) -> Changes:
        """What became of every annotation."""
        return changes(self.before, self.after, self.gone)


def write_align_report(
    out: Path,
    *,
    title: str,
    target: DetectionDataset,
    sources: Sequence[SourceReport],
    settings: Mapping[str, Any],
    metrics: Mapping[str, Any] | None = None,
    known: Known | None = None,
    made: Made | None = None,
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
        known: reliability, and quality by class, where there is truth.
        made: command, versions and times of the run.
        pictures: images to show per source, before and after; half are those that changed most,
            half are drawn with ``seed``. Images that cannot be read are left out and counted.

    Returns:
        ``out``.
    """
    names = {n for s in sources for d in (s.before, s.after) for n in d.space.names}
    palette = class_palette(names | set(target.space.names))
    contents = {"dropped": "What was dropped", "overview": "Overview"}
    contents |= {f"source-{k}": s.name for k, s in enumerate(sources)}
    sections = [dropped_overview([(s.name, s.before, s.gone) for s in sources])]
    sections.append(_overview(target, sources))
    for k, source in enumerate(sources):
        sections.append(_source(k, source, target, palette, pictures, seed))
    if known is not None and known.bars:
        contents["reliability"] = "Reliability"
        sections.append(
            f'<section id="reliability"><h2>Reliability</h2>{note(escaped(known.note))}'
            f'<div class="charts">{"".join(map(reliability_chart, known.bars))}</div></section>'
        )
    by_class = {} if known is None else known.per_class
    if metrics or by_class:
        contents["measured"] = "Measured"
        parts = [nested(metrics)] if metrics else []
        parts += [
            table(head, rows, title=f"{name}, by class, in percent")
            for name, (head, rows) in by_class.items()
        ]
        sections.append(f'<section id="measured"><h2>Measured</h2>{"".join(parts)}</section>')
    return write_page(out, title, contents, sections, settings, made)


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
        f"<h3>The {s.changes.counts.sum():,} annotations of {named(s.name)}</h3>"
        f"{changes_bar(s.changes)}"
        for s in sources
    )
    return (
        '<section id="overview"><h2>Overview</h2>'
        f"<p>Target: <strong>{named(target.name)}</strong>, "
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
    story = Story(before, after, source.gone, source.each)
    sizes = {
        "before": statistics.relative_sizes(before),
        "after": statistics.relative_sizes(after),
        f"{target.name}, the target": statistics.relative_sizes(target),
    }
    ticks = {float(k): f"{_EDGES[k]:.3g}%" for k in range(0, len(_EDGES), 2)}
    size_chart = outlines(
        sizes,
        _EDGES,
        title="Size of boxes",
        note="side of a square as large as the box, in percent of that of its image",
        ticks=ticks,
    )
    shown = pictures_before_after(f"p{k}", story, palette, pictures, seed)
    worst = worst_cases(story, palette) if pictures else ""
    parts = [
        f'<section id="source-{k}"><h2>{named(source.name)}</h2>',
        removed_section(before, source.gone, after.space, palette, pictures, seed),
        "<h3>What became of the annotations</h3>",
        changes_table(source.changes),
        "<h3>Classes: source to target</h3>",
        class_flow_section(flow),
        f"<h3>Before and after</h3>{shown}" if shown else "",
        f"<h3>Worst cases</h3>{worst}" if worst else "",
        "<h3>Box style</h3>",
        note(
            "Boxes that come from a source annotation, compared with it. The dashed line is no "
            "change; the outermost bars hold everything beyond."
        ),
        f'<div class="charts">{"".join(shapes)}</div>',
        f'<div class="charts two">{_class_shapes(source, target)}{size_chart}</div>',
        "<h3>Origin and score</h3>",
        charts.share_bar(statistics.origins(after)),
        f'<div class="charts">{score_chart}</div>',
        "<h3>Counts</h3>",
        _counts(source, target),
        "</section>",
    ]
    return "".join(parts)


def _class_shapes(source: SourceReport, target: DetectionDataset) -> str:
    """Width over height by class: of the annotations, of their labels, and of the target."""
    found = statistics.class_shapes(source.before, source.after, target)
    frequent = sorted(found, key=lambda name: -len(found[name].after))
    chosen = [name for name in found if name in frequent[:_SHAPES]]
    more = len(found) - len(chosen)
    left = f"; {more:,} classes with fewer labels left out" if more else ""
    return quartiles(
        {
            name: {
                "annotations": found[name].before,
                "their labels": found[name].after,
                f"{target.name}, the target": found[name].target,
            }
            for name in chosen
        },
        title="Width over height by class",
        note=f"median and quartiles{left}",
    )


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
