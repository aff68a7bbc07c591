"""The report of a relabelling: one HTML file with everything in it.

No scripts, no network, pictures embedded as JPEG; the same inputs give the same bytes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.pixels.location import load_rgb
from relabel.errors import DataError
from relabel.reports import charts, statistics
from relabel.reports.pictures import Color, class_palette, draw_boxes
from relabel.reports.style import CSS
from relabel.workspace.atomic import atomic_write_bytes

_PICTURE_WIDTH = 640
_JPEG_QUALITY = 82


@dataclass(frozen=True, eq=False)
class SourceReport:
    """One relabelled source.

    Attributes:
        name: the source dataset's name.
        before: its own annotations, in its own label space.
        after: the relabelled dataset, in the target's label space, with provenance.
        pseudo: pseudo-labels on its images by the dataset whose specialist made them.
    """

    name: str
    before: DetectionDataset
    after: DetectionDataset
    pseudo: Mapping[str, DetectionDataset] | None = None


def write_report(
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
    contents = "".join(
        f'<li><a href="#source-{k}">{escape(s.name)}</a></li>' for k, s in enumerate(sources)
    )
    sections = [_overview(target, sources)]
    if metrics:
        sections.append(f"<section><h2>Measured</h2>{nested(metrics)}</section>")
    for k, source in enumerate(sources):
        sections.append(_source(k, source, target, palette, pictures, seed))
    if settings:
        sections.append(
            f"<section><details><summary>Settings</summary>{nested(settings)}</details></section>"
        )
    return write_page(out, title, contents, sections)


def write_page(
    out: Path, title: str, contents: str, sections: Sequence[str], *, css: str = CSS
) -> Path:
    """Write one HTML file from its parts, all of which are HTML except the title.

    Args:
        contents: items of the navigation list.
        sections: what the page holds, in order.
        css: its whole style sheet.

    Returns:
        ``out``.
    """
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{css}</style></head><body><header>"
        f"<h1>{escape(title)}</h1><nav><ul>{contents}</ul></nav></header><main>"
        f"{''.join(sections)}</main></body></html>\n"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(out, page.encode())
    return out


def _overview(target: DetectionDataset, sources: Sequence[SourceReport]) -> str:
    rows: list[list[object]] = []
    for s in sources:
        change = statistics.transition(s.before, s.after).counts
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
    head = ["source", "images", "boxes before", "boxes after", "from a source box", "new"]
    head += ["dropped", "mean IoU with source box"]
    return (
        f"<section><p>Target: <strong>{escape(target.name)}</strong>, "
        f"{target.space.num_classes} classes, {len(target.images):,} images, "
        f"{int((~target.boxes.ignore).sum()):,} boxes. Counts leave ignored regions out.</p>"
        f"{charts.table(head, rows)}</section>"
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
    style = statistics.box_style(before, after)
    scores = after.boxes.score[~after.boxes.ignore]
    hist = charts.histogram
    ratio_ticks = (0, 0.5, 1, 1.5, 2)
    shapes = (
        hist(style.width, title="Width, after / before", low=0, high=2, mark=1, ticks=ratio_ticks),
        hist(
            style.height, title="Height, after / before", low=0, high=2, mark=1, ticks=ratio_ticks
        ),
        hist(
            style.shift * 100,
            title="Centre shift, share of diagonal",
            low=0,
            high=30,
            ticks=(0, 10, 20, 30),
            unit="%",
        ),
        hist(
            style.iou, title="IoU with the source box", low=0, high=1, ticks=(0, 0.25, 0.5, 0.75, 1)
        ),
    )
    score_chart = hist(
        scores[~np.isnan(scores)], title="Score", low=0, high=1, ticks=(0, 0.25, 0.5, 0.75, 1)
    )
    parts = [
        f'<section id="source-{k}"><h2>{escape(source.name)}</h2>',
        _pictures(source, palette, pictures, seed),
        "<h3>Classes: source to target</h3>",
        '<p class="note">Each row is shaded by where its boxes went. The last row holds boxes that '
        "come from no source annotation, the last column source annotations left out.</p>",
        charts.transition_table(statistics.transition(before, after)),
        "<h3>Box style</h3>",
        '<p class="note">Boxes that come from a source annotation, compared with it. The dashed '
        "line is no change; the outermost bars hold everything beyond.</p>",
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
    tables = [
        _captioned("Before, in the source's classes", ["class", "boxes"], list(before.items())),
        _captioned(
            "After, beside the target's own",
            ["class", "boxes after", "share", f"boxes in {target.name}", "share"],
            rows,
        ),
    ]
    for name, labels in (source.pseudo or {}).items():
        counts = [[c, n] for c, n in statistics.class_counts(labels).items() if n]
        tables.append(_captioned(f"Pseudo-labels by {name}", ["class", "boxes"], counts))
    regions = (("before", source.before), ("after", source.after))
    ignored = [[when, int(d.boxes.ignore.sum())] for when, d in regions]
    tables.append(_captioned("Ignored regions", ["", "regions"], ignored))
    return f'<div class="tables">{"".join(tables)}</div>'


def _captioned(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return f"<div><h4>{escape(title)}</h4>{charts.table(head, rows)}</div>"


def _pictures(source: SourceReport, palette: Mapping[str, Color], count: int, seed: int) -> str:
    before, after = source.before, source.after
    joined = statistics.join_images(before, after)
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
                width=_PICTURE_WIDTH,
                # One class needs no name on every box.
                tags=dataset.space.num_classes > 1 or bool(k),
            )
            text = f"{('Before', 'After')[k]}: {int((~ignore).sum())} boxes"
            sides.append(f"<div><span>{text}</span>{embedded(picture, text)}</div>")
        name = escape(after.images.file_name[row])
        figures.append(
            f"<figure><figcaption>{name} <small>{reason}</small></figcaption>"
            f'<div class="pair">{"".join(sides)}</div></figure>'
        )
    note = f'<p class="note">{unreadable} images could not be read.</p>' if unreadable else ""
    if not figures:
        return note
    legends = "".join(
        f"<div><strong>{label}</strong>{_legend(names, palette)}</div>"
        for label, names in (("Before", seen[0]), ("After", seen[1]))
    )
    return f'<h3>Pictures</h3><div class="keys">{legends}</div>{"".join(figures)}{note}'


def _legend(names: set[str], palette: Mapping[str, Color]) -> str:
    items = "".join(
        f'<li><i style="background:rgb{palette[n]}"></i>{escape(n)}</li>' for n in sorted(names)
    )
    return f'<ul class="legend">{items}</ul>'


def embedded(picture: Image.Image, text: str) -> str:
    """A picture as an image element that holds its own data; ``text`` describes it."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    data = base64.b64encode(stream.getvalue()).decode()
    return (
        f'<img alt="{escape(text)}" width="{picture.width}" height="{picture.height}" '
        f'loading="lazy" src="data:image/jpeg;base64,{data}">'
    )


def nested(values: Mapping[str, Any]) -> str:
    """Tables of nested mappings: plain values first, then one block per inner mapping.

    Inner mappings that share their keys and hold plain values become one table with a row each.
    """
    plain = [(k, v) for k, v in values.items() if not isinstance(v, Mapping)]
    inner = {k: v for k, v in values.items() if isinstance(v, Mapping)}
    parts = [charts.table(["", "value"], plain)] if plain else []
    flat = [v for v in inner.values() if not any(isinstance(x, Mapping) for x in v.values())]
    if len(inner) > 1 and len(flat) == len(inner) and len({tuple(v) for v in flat}) == 1:
        head = ["", *(str(k) for k in flat[0])]
        parts.append(charts.table(head, [[k, *v.values()] for k, v in inner.items()]))
    else:
        parts += [f"<h4>{escape(str(k))}</h4>{nested(v)}" for k, v in inner.items()]
    return "".join(parts)
