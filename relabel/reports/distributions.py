"""Charts that lay distributions over each other, or beside each other by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from relabel.errors import shown
from relabel.reports.charts import (
    SOFT,
    TONES,
    chart_figure,
    chart_numbers,
    chart_panel,
    chart_svg,
)
from relabel.reports.style import escaped, shortened

_DASHES = ("solid", (0, (6, 2)), (0, (1.5, 1.5)))
_NAME = 22  # letters of a name beside its row


def outlines(
    values: Mapping[str, np.ndarray],
    edges: np.ndarray,
    *,
    title: str,
    note: str = "",
    ticks: Mapping[float, str],
) -> str:
    """Histograms as lines over each other: of each the share of its values by bin.

    Args:
        values: float [k] by name, three at most; beyond the edges they count in the outer bins.
        edges: float [b + 1], ascending; bins are drawn equally wide.
        ticks: names of some edges, by their position 0..b.
    """
    shares = {
        name: np.histogram(np.clip(v, edges[0], edges[-1]), edges)[0] / max(len(v), 1)
        for name, v in values.items()
    }
    most = max((float(s.max()) for s in shares.values()), default=0.0)
    if not most:
        return chart_figure(title, note, "<p>none</p>")
    figure, axes = chart_panel(460, 190, 10, 24, 10)
    bins = len(edges) - 1
    for k, share in enumerate(shares.values()):
        axes.stairs(share, np.arange(bins + 1), color=TONES[k], linewidth=2, linestyle=_DASHES[k])
    axes.axhline(0, color=SOFT, linewidth=1, clip_on=False)
    axes.set_xlim(0, bins)
    axes.set_ylim(0, 1.04 * most)
    style: dict[str, Any] = {"fontsize": 11, "color": SOFT, "va": "baseline"}
    axes.set_xticks(list(ticks), list(ticks.values()), **style)
    axes.tick_params(length=0, pad=16)
    for place, label in zip(ticks, axes.get_xticklabels(), strict=True):
        label.set_ha("left" if place == 0 else "right" if place == bins else "center")
    names = [f"{a:.3g} to {b:.3g}" for a, b in pairwise(edges)]
    rows = [
        [name, *(f"{share[b]:.1%}" for share in shares.values())] for b, name in enumerate(names)
    ]
    text = f"{title}: {', '.join(f'{n} of {len(v):,}' for n, v in values.items())}"
    body = chart_svg(figure, text, {}) + _legend(values) + chart_numbers(["", *values], rows)
    return chart_figure(title, note, body, "wide")


def quartiles(
    rows: Mapping[str, Mapping[str, np.ndarray]],
    *,
    title: str,
    note: str = "",
    mark: float = 1.0,
) -> str:
    """A row per class: of each of up to three sets the median, and the quartiles as a line.

    Args:
        rows: float [k] by set, by class; every class has the same sets.
        mark: a value to point out with a dashed line.
    """
    found = {
        name: {k: np.quantile(v, (0.25, 0.5, 0.75)) for k, v in sets.items() if len(v)}
        for name, sets in rows.items()
    }
    ends = [q for sets in found.values() for q in sets.values()]
    if not ends:
        return chart_figure(title, note, "<p>none</p>")
    names = list(next(iter(rows.values())))
    low, high = min(float(q[0]) for q in ends), max(float(q[2]) for q in ends)
    low, high = min(low, 0.9 * mark), max(high, 1.1 * mark)
    side, row = 150, 34
    height = row * len(rows) + 34
    figure, axes = chart_panel(560, height)
    axes.set_position((side / 560, 26 / height, (560 - side - 16) / 560, 1 - 30 / height))
    axes.set_xscale("log")
    style: dict[str, Any] = {"color": "#b3480a", "linewidth": 1.5, "linestyle": (0, (3.3, 2))}
    axes.axvline(mark, **style)
    tips: dict[Any, str] = {}
    table_rows: list[list[object]] = []
    for y, (name, sets) in enumerate(found.items()):
        for k, kind in enumerate(names):
            n = len(rows[name][kind])
            if kind not in sets:
                continue
            first, middle, last = sets[kind].tolist()
            place = y + 0.26 * (k - (len(names) - 1) / 2)
            # Two bars, not a line with a marker: markers refer to parts by ids.
            (reach,) = axes.barh(place, max(last - first, 1e-9), 0.08, first, color=TONES[k])
            (dot,) = axes.barh(place, 0.036 * middle, 0.2, 0.982 * middle, color=TONES[k])
            text = f"{name}, {kind}: {middle:.2f} ({first:.2f} to {last:.2f}) of {n:,}"
            tips |= {reach: text, dot: text}
            table_rows.append([name, kind, n, *(f"{v:.2f}" for v in (first, middle, last))])
    axes.set_xlim(low / 1.06, high * 1.06)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    ticks = [t for t in (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8) if low <= t <= high]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks], fontsize=11, color=SOFT, va="baseline")
    axes.set_xticks([], [], minor=True)
    axes.tick_params(length=0, axis="x", pad=16, which="both")
    texts = [shortened(name, _NAME) for name in found]
    axes.set_yticks(range(len(rows)), texts, fontsize=11, color=SOFT)
    axes.tick_params(length=0, axis="y", pad=4)
    whole = zip(axes.get_yticklabels(), found, texts, strict=True)
    tips |= {label: name for label, name, text in whole if text != shown(name)}
    head = ["class", "boxes", "count", "first quartile", "median", "third quartile"]
    body = chart_svg(figure, title, tips) + _legend(names) + chart_numbers(head, table_rows)
    return chart_figure(title, note, body, "wide")


def _legend(names: Sequence[str] | Mapping[str, object]) -> str:
    items = "".join(
        f'<li><i style="background:var(--t{k})"></i>{escaped(name)}</li>'
        for k, name in enumerate(names)
    )
    return f'<ul class="legend">{items}</ul>'
