"""Small charts as inline SVG and HTML tables, for pages without scripts.

Colours are the page's CSS variables, so that charts follow its light and dark scheme.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from relabel.reports.statistics import Transition

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 320, 150, 8, 22, 10


def histogram(
    values: np.ndarray,
    *,
    title: str,
    low: float,
    high: float,
    bins: int = 30,
    mark: float | None = None,
    ticks: Sequence[float] = (),
    unit: str = "",
) -> str:
    """A histogram as an SVG figure; values outside ``low .. high`` count in the outermost bins.

    Args:
        values: float [k].
        mark: a value to point out with a dashed line, such as "no change".
        ticks: values to label on the axis.
        unit: written behind each tick, such as ``%``.
    """
    values = np.asarray(values, np.float64)
    if not len(values):
        return f'<figure class="chart"><figcaption>{escape(title)}</figcaption><p>none</p></figure>'
    counts, _ = np.histogram(np.clip(values, low, high), bins=bins, range=(low, high))
    span, floor = _WIDTH - 2 * _LEFT, _HEIGHT - _BOTTOM
    step = span / bins

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * span

    parts = []
    for k, n in enumerate(counts.tolist()):
        if n:
            height = max(1.0, n / counts.max() * (floor - _TOP))
            parts.append(
                f'<rect x="{_LEFT + k * step + 0.5:.1f}" y="{floor - height:.1f}" '
                f'width="{step - 1:.1f}" height="{height:.1f}"/>'
            )
    axis = f'<line class="axis" x1="{_LEFT}" y1="{floor}" x2="{_LEFT + span}" y2="{floor}"/>'
    if mark is not None:
        axis += f'<line class="mark" x1="{x(mark):.1f}" y1="2" x2="{x(mark):.1f}" y2="{floor}"/>'
    for tick in ticks:
        anchor = "start" if tick == low else "end" if tick == high else "middle"
        axis += (
            f'<text x="{x(tick):.1f}" y="{_HEIGHT - 6}" text-anchor="{anchor}">'
            f"{tick:g}{escape(unit)}</text>"
        )
    median = f"median {np.median(values):.2f}{unit} of {len(values):,}"
    return (
        f'<figure class="chart"><figcaption>{escape(title)}<small>{escape(median)}</small>'
        f'</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(f"{title}: {median}")}">{"".join(parts)}{axis}</svg></figure>'
    )


def bars(
    counts: Mapping[str, int],
    *,
    title: str,
    note: str = "",
    every: int = 1,
    mark: int | None = None,
) -> str:
    """Counts by name as a bar chart in an SVG figure.

    Args:
        counts: bars in order; the names stand below them.
        note: a line below the title, such as the total.
        every: above 1, write each so manieth name only, at the left edge of its bar: where the
            bars are bins and the names their lower ends.
        mark: a bar to point out with a dashed line on its left.
    """
    if not any(counts.values()):
        return f'<figure class="chart"><figcaption>{escape(title)}</figcaption><p>none</p></figure>'
    span, floor = _WIDTH - 2 * _LEFT, _HEIGHT - _BOTTOM
    step, most, total = span / len(counts), max(counts.values()), sum(counts.values())
    gap = 1 if len(counts) > 15 else 3
    parts = []
    for k, (name, n) in enumerate(counts.items()):
        left = _LEFT + k * step
        if n:
            height = max(1.0, n / most * (floor - _TOP))
            parts.append(
                f'<rect x="{left + gap / 2:.1f}" y="{floor - height:.1f}" '
                f'width="{step - gap:.1f}" height="{height:.1f}">'
                f"<title>{escape(name)}: {n:,} ({n / total:.1%})</title></rect>"
            )
        if k % every == 0:
            place = left if every > 1 else left + step / 2
            anchor = "start" if every > 1 and not k else "middle"
            parts.append(
                f'<text x="{place:.1f}" y="{_HEIGHT - 6}" text-anchor="{anchor}">'
                f"{escape(name)}</text>"
            )
    axis = f'<line class="axis" x1="{_LEFT}" y1="{floor}" x2="{_LEFT + span}" y2="{floor}"/>'
    if mark is not None:
        x = _LEFT + mark * step
        axis += f'<line class="mark" x1="{x:.1f}" y1="2" x2="{x:.1f}" y2="{floor}"/>'
    small = f"<small>{escape(note)}</small>" if note else ""
    return (
        f'<figure class="chart"><figcaption>{escape(title)}{small}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}{axis}</svg></figure>"
    )


def share_bar(parts: Mapping[str, int]) -> str:
    """A horizontal bar split by share, with a legend that has the numbers."""
    total = sum(parts.values())
    if not total:
        return "<p>none</p>"
    bar = "".join(
        f'<span class="tone{k % 6}" style="flex:{n}" title="{escape(name)}"></span>'
        for k, (name, n) in enumerate(parts.items())
        if n
    )
    legend = "".join(
        f'<li><i class="tone{k % 6}"></i>{escape(name)}: {n:,} ({n / total:.1%})</li>'
        for k, (name, n) in enumerate(parts.items())
    )
    return f'<div class="share" aria-hidden="true">{bar}</div><ul class="legend">{legend}</ul>'


def table(head: Sequence[str], rows: Sequence[Sequence[object]], *, row_heads: bool = True) -> str:
    """A table; numbers are right-aligned, the first cell of each row is its heading."""
    cells = "".join(
        f'<th scope="col"{"" if k == 0 else num}>{escape(name)}</th>'
        for k, (name, num) in enumerate((h, ' class="num"') for h in head)
    )
    body = []
    for row in rows:
        out = []
        for k, value in enumerate(row):
            if k == 0 and row_heads:
                out.append(f'<th scope="row">{escape(str(value))}</th>')
            else:
                out.append(f'<td class="num">{escape(number(value))}</td>')
        body.append(f"<tr>{''.join(out)}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def number(value: object) -> str:
    """A value as people read it: grouped integers, four digits after the point, a dash for none."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}" if value and abs(value) < 0.001 else f"{value:,.4f}"
    if isinstance(value, list | tuple):
        return ", ".join(str(v) for v in value)
    return str(value)


def transition_table(change: Transition) -> str:
    """The class transition matrix, shaded by the share of each row.

    Rows and columns that are empty are left out, and named below the table.
    """
    counts = change.counts
    last = len(change.columns) - 1
    columns = [c for c in range(len(change.columns)) if counts[:, c].any() or c == last]
    rows = [r for r in range(len(change.rows)) if counts[r].any()]
    if not rows:
        return "<p>No boxes.</p>"
    upright = " upright" if len(columns) > 9 else ""
    head = "".join(
        f'<th scope="col" class="num{" edge" if c == last else ""}">'
        f"<span>{escape(change.columns[c])}</span></th>"
        for c in columns
    )
    body = []
    for r in rows:
        total = int(counts[r].sum())
        cells = []
        for c in columns:
            n = int(counts[r, c])
            edge = " edge" if c == last else ""
            if not n:
                cells.append(f'<td class="num empty{edge}">·</td>')
                continue
            share = n / total
            cells.append(
                f'<td class="num heat{edge}" style="--p:{round(share * 100)}%">'
                f"{n:,}<small>{share:.0%}</small></td>"
            )
        name = "new" if r == len(change.rows) - 1 else ""
        body.append(
            f'<tr class="{name}"><th scope="row">{escape(change.rows[r])}</th>{"".join(cells)}'
            f'<td class="num total">{total:,}</td></tr>'
        )
    unused = [change.columns[c] for c in range(last) if c not in columns]
    unused_rows = [change.rows[r] for r in range(len(change.rows) - 1) if r not in rows]
    notes = "".join(
        f'<p class="note">{escape(text)}: {escape(", ".join(names))}.</p>'
        for text, names in (
            ("Target classes without a box", unused),
            ("Source classes without a box", unused_rows),
        )
        if names
    )
    return (
        f'<div class="scroll"><table class="matrix{upright}"><thead><tr>'
        f'<th scope="col">source class</th>{head}<th scope="col" class="num"><span>total</span>'
        f"</th></tr></thead><tbody>{''.join(body)}</tbody></table></div>{notes}"
    )
