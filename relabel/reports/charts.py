"""Charts, all drawn by matplotlib: inline SVG for pages, PNG and SVG as files.

Beside every chart of a page its numbers are folded up as a table, for those who do not see it and
for those who want them.

Matplotlib is imported when a chart is drawn, and only its object interface with the Agg and SVG
writers is used, so that no window system and no global state come into it. The same data give the
same bytes with the same version of matplotlib.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from relabel.errors import shown
from relabel.reports.page import details, table
from relabel.reports.style import escaped, isolated, named, shortened
from relabel.workspace.atomic import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# After Okabe and Ito, and Tol's muted scheme: told apart with every common colour blindness.
# Light yellows are left out, as they vanish on white.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"),
    *("#56B4E9", "#882255", "#999933", "#332288", "#44AA99"),
)
INK, SOFT, LINE = "#222222", "#666666", "#d9d9d9"
_BAR, _MARK = "#2f74ad", "#b3480a"
TONES = (_BAR, "#d98200", "#12855f", "#b0508f", "#7a6ad8", "#8a8f96", "#b8262f")
# What the style sheet of pages calls these colours, lighter where the page is dark.
_VARIABLES = {
    **{colour: f"var(--t{k})" for k, colour in enumerate(TONES)},
    SOFT: "var(--soft)",
    _BAR: "var(--bar)",
    _MARK: "var(--mark)",
}
_WIDTH, _HEIGHT, _SIDE, _BOTTOM, _TOP = 320, 150, 8, 22, 10
_DPI = 160
_LONGEST = 14  # letters of a name beside a matrix
_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": SOFT,
    "axes.axisbelow": True,
    "axes.titlesize": 12,
    "axes.titlepad": 12,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    # Names are data: a $ in them begins no formula.
    "text.parse_math": False,
    # Ids in SVG files are random without a salt.
    "svg.hashsalt": "relabel",
}


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of this many inches with one pair of axes, for `save_figure`."""
    figure, (axes,) = new_panels(width, height, 1)
    return figure, axes


def new_panels(width: float, height: float, columns: int) -> tuple[Figure, list[Axes]]:
    """The same with several pairs of axes side by side, which share the vertical one."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_RC):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        return figure, list(figure.subplots(1, columns, sharey=True, squeeze=False)[0])


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write ``stem.png`` and ``stem.svg``, each complete or not at all, without a date in them."""
    from matplotlib import rc_context
    from matplotlib.text import Text

    files = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with rc_context(_RC), warnings.catch_warnings():
        # A script that the font lacks is drawn as boxes; nobody can do anything about it here.
        warnings.filterwarnings("ignore", message="Glyph ")
        for file, metadata in zip(files, ({"Software": None}, {"Date": None}), strict=True):
            with atomic_path(file) as temp:
                figure.savefig(temp, dpi=_DPI, metadata=metadata, facecolor="white")
    return files


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
    counts, edges = np.histogram(np.clip(values, low, high), bins=bins, range=(low, high))
    return _bar_chart(
        counts.tolist(),
        edges,
        [f"{a:.3g}{unit} to {b:.3g}{unit}" for a, b in pairwise(edges)],
        title=title,
        note=f"median {np.median(values):.2f}{unit} of {len(values):,}" if len(values) else "",
        ticks={tick: f"{tick:g}{unit}" for tick in ticks},
        mark=mark,
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
        every: above 1, write one name out of this many only, at the left edge of its bar: where
            the bars are bins and the names their lower ends.
        mark: a bar to point out with a dashed line on its left.
    """
    shift = 0.5 if every == 1 else 0
    ticks = {k + shift: name for k, name in enumerate(counts) if k % every == 0}
    edges = np.arange(len(counts) + 1)
    return _bar_chart(
        list(counts.values()), edges, list(counts), title=title, note=note, ticks=ticks, mark=mark
    )


def _bar_chart(
    counts: Sequence[int],
    edges: np.ndarray,
    names: Sequence[str],
    *,
    title: str,
    note: str,
    ticks: Mapping[float, str],
    mark: float | None,
) -> str:
    """Bars from each of k + 1 ``edges`` to the next; ``ticks`` and ``mark`` are places there."""
    total, most = sum(counts), max(counts, default=0)
    if not total:
        return chart_figure(title, note, "<p>none</p>")
    figure, axes = chart_panel(_WIDTH, _HEIGHT, _SIDE, _BOTTOM, _TOP)
    low, high = float(edges[0]), float(edges[-1])
    gap = (1 if len(counts) > 15 else 3) / (_WIDTH - 2 * _SIDE) * (high - low)
    visible = most / (_HEIGHT - _BOTTOM - _TOP)  # the smallest count is still to be seen
    tips = {}
    for k, n in enumerate(counts):
        if n:
            width = edges[k + 1] - edges[k] - gap
            (bar,) = axes.bar(edges[k] + gap / 2, max(n, visible), width, align="edge", color=_BAR)
            tips[bar] = f"{names[k]}: {n:,} ({n / total:.1%})"
    axes.axhline(0, color=SOFT, linewidth=1, clip_on=False)
    if mark is not None:
        style = {"color": _MARK, "linewidth": 1.5, "linestyle": (0, (3.3, 2)), "clip_on": False}
        axes.axvline(mark, ymax=1.07, **style)
    axes.set_xlim(low, high)
    axes.set_ylim(0, most)
    axes.set_xticks(
        list(ticks), list(map(shown, ticks.values())), fontsize=11, color=SOFT, va="baseline"
    )
    axes.tick_params(length=0, pad=16)
    for place, label in zip(ticks, axes.get_xticklabels(), strict=True):
        label.set_ha("left" if place == low else "right" if place == high else "center")
    svg = chart_svg(figure, f"{title}: {note}" if note else title, tips)
    rows = [[names[k], n, f"{n / total:.1%}"] for k, n in enumerate(counts) if n]
    return chart_figure(title, note, svg + chart_numbers(["", "count", "share"], rows))


def heat_map(
    values: np.ndarray, names: Sequence[str], *, title: str, note: str = "", what: str = ""
) -> str:
    """A square matrix of shares as an SVG figure: the more, the darker; NaN stays empty.

    Args:
        values: float [k, k] in 0..1; rows from top to bottom.
        names: k names, of rows and columns alike.
        note: a line below the title.
        what: what a cell says, with ``{row}``, ``{column}`` and ``{value}``, shown where the
            pointer rests.
    """
    names = [shown(name) for name in names]
    size, label = len(names), min(max(map(len, names), default=0), _LONGEST)
    cell = max(14, min(30, 460 // max(size, 1)))
    margin, top = 7 * label + 8, 5 * label + 12
    # The name of the last column leans out to the right.
    right = max(8, 4 * label)
    width, height = margin + cell * size + right, top + cell * size + 8
    figure, axes = chart_panel(width, height)
    axes.set_position((margin / width, 8 / height, cell * size / width, cell * size / height))
    tips = {}
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            continue
        # A share of nothing is seen as well: it says that there were images to tell.
        shade = 0.04 + 0.96 * float(value)
        (patch,) = axes.barh(row, 0.94, 0.94, column - 0.47, color=_BAR, alpha=shade)
        text = {"row": names[row], "column": names[column], "value": f"{value:.0%}"}
        tips[patch] = what.format(**text)
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(size - 0.5, -0.5)
    texts = [shortened(name, _LONGEST) for name in names]
    axes.xaxis.tick_top()
    style: dict[str, Any] = {"fontsize": min(11, 0.55 * cell + 3), "color": SOFT}
    style["parse_math"] = False
    axes.set_xticks(
        range(size), texts, rotation=50, ha="left", va="bottom", rotation_mode="anchor", **style
    )
    axes.set_yticks(range(size), texts, va="center", **style)
    axes.tick_params(length=0, pad=3)
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        whole = zip(labels, names, texts, strict=True)
        tips |= {label: name for label, name, text in whole if text != name}
    # Letters of a few categories are not blown up to the width of the page.
    body = f'<div style="max-width:{round(1.5 * width)}px">{chart_svg(figure, title, tips)}</div>'
    rows = [
        [name, *("–" if np.isnan(v) else f"{v:.0%}" for v in values[k])]
        for k, name in enumerate(names)
    ]
    return chart_figure(title, note, body + chart_numbers(["", *names], rows))


def reliability(
    confidence: np.ndarray,
    share: np.ndarray,
    count: np.ndarray,
    *,
    title: str,
    note: str = "",
    tip: str = "confidence {confidence:.2f}: {share:.1%} of {count:,} are present",
) -> str:
    """How often labels of a confidence are right, as bars over the confidence in an SVG figure.

    Args:
        confidence, share: float [k], of each bin the mean confidence and the share that is right.
        count: int [k], labels in each bin; empty bins have no bar.
        tip: what a bar says where the pointer rests.
    """
    if not count.sum():
        return chart_figure(title, note, "<p>none</p>")
    figure, axes = chart_panel(_WIDTH, 230, 26, 24, 10)
    tips = {}
    for k in np.flatnonzero(count).tolist():
        low, wide = k / len(count), 1 / len(count)
        (bar,) = axes.bar(low + 0.05 * wide, share[k], 0.9 * wide, align="edge", color=_BAR)
        bar.set_height(max(share[k], 0.004))
        tips[bar] = tip.format(confidence=confidence[k], share=share[k], count=count[k])
    axes.plot([0, 1], [0, 1], color=_MARK, linewidth=1.5, linestyle=(0, (3.3, 2)))
    axes.axhline(0, color=SOFT, linewidth=1, clip_on=False)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    style: dict[str, Any] = {"fontsize": 11, "color": SOFT}
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], va="baseline", **style)
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"], **style)
    axes.tick_params(length=0)
    axes.tick_params(axis="x", pad=16)
    axes.tick_params(axis="y", pad=3)
    rows = [
        [f"{confidence[k]:.2f}", f"{share[k]:.2f}", int(count[k])]
        for k in np.flatnonzero(count).tolist()
    ]
    numbers = chart_numbers(["claimed", "seen", "count"], rows)
    return chart_figure(title, note, chart_svg(figure, title, tips) + numbers)


def chart_figure(title: str, note: str, body: str, kind: str = "") -> str:
    """A chart of a page with its title; ``kind`` are more CSS classes."""
    caption = f"{named(title)}{f'<small>{escaped(note)}</small>' if note else ''}"
    return (
        f'<figure class="{f"chart {kind}".strip()}"><figcaption>{caption}</figcaption>'
        f"{body}</figure>"
    )


def chart_numbers(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """What a chart shows as a table, folded up."""
    return details("Numbers", table(head, rows))


def paper_figure(figure: Figure, key: str, title: str, note: str = "") -> str:
    """A figure that is also written to a file, on white ground in a page.

    Args:
        key: unique on the page.
    """
    return chart_figure(title, note, chart_svg(figure, title, {}, key=key), "paper")


def share_bar(parts: Mapping[str, int]) -> str:
    """A horizontal bar split by share, with a legend that has the numbers."""
    total = sum(parts.values())
    if not total:
        return "<p>none</p>"
    texts = {name: f"{name}: {n:,} ({n / total:.1%})" for name, n in parts.items()}
    figure, axes = chart_panel(1000, 26)
    tips, start = {}, 0.0
    for k, (name, n) in enumerate(parts.items()):
        width = n and max(n, 0.003 * total)  # the smallest share is still to be seen
        (bar,) = axes.barh(0, width, 1, start, color=TONES[k % len(TONES)])
        tips[bar] = texts[name]
        start += width
    axes.set_xlim(0, start)
    axes.set_ylim(-0.5, 0.5)
    axes.set_xticks([])
    legend = "".join(
        f'<li><i style="background:var(--t{k % len(TONES)})"></i>{named(text)}</li>'
        for k, text in enumerate(texts.values())
    )
    svg = chart_svg(figure, ", ".join(texts.values()), tips, stretch=True)
    return f'<div class="share">{svg}</div><ul class="legend">{legend}</ul>'


def chart_panel(width: int, height: int, side: int = 0, bottom: int = 0, top: int = 0) -> Any:
    """Figure and bare axes with these margins, in points, which are units of the SVG's view box."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72))
    inner = (1 - 2 * side / width, 1 - (bottom + top) / height)
    axes = figure.add_axes((side / width, bottom / height, *inner))
    figure.patch.set_visible(False)
    axes.set_frame_on(False)
    axes.set_yticks([])
    return figure, axes


def chart_svg(
    figure: Figure,
    label: str,
    tips: Mapping[Any, str],
    *,
    stretch: bool = False,
    key: str = "",
) -> str:
    """The figure as an SVG element of a page, in the page's colours and font.

    Args:
        label: for those who do not see it.
        tips: a text for each of these patches, shown where the pointer rests.
        stretch: it fills its box, whatever shape that has.
        key: unique on the page, of a figure that keeps its own colours and refers to its parts.
    """
    from matplotlib import rc_context
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    for k, patch in enumerate(tips):
        patch.set_gid(f"tip{k}")
        patch.set_clip_on(False)
    stream = io.StringIO()
    with rc_context({**_RC, "svg.fonttype": "none"}), warnings.catch_warnings():
        # The page's reader has the letters that this font lacks.
        warnings.filterwarnings("ignore", message="Glyph ")
        figure.savefig(stream, format="svg", metadata={"Date": None})
    body = stream.getvalue().partition("</defs>")[2]
    for k, tip in enumerate(tips.values()):
        body = body.replace(f'<g id="tip{k}">', f"<g><title>{isolated(tip)}</title>")
    # Only in tags: a name may look like a colour or an id.
    body = re.sub(r"<[^>]*>", lambda tag: _of_page(tag[0], key), body)
    body = re.sub(r"\s*\n\s*", " ", body)
    width, height = (round(72 * inches) for inches in figure.get_size_inches())
    free = ' preserveAspectRatio="none"' if stretch else ""
    said = f'role="img" aria-label="{isolated(label)}"'
    return f'<svg viewBox="0 0 {width} {height}"{free} {said}>{body}'


def _of_page(tag: str, key: str) -> str:
    """A tag of matplotlib's in a page: with ids of its own, or without, in the page's colours."""
    tag = re.sub(r' font-family: [^;]*;| transform="rotate\(-0 [^"]*"', "", tag)
    if key:
        return re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{key}-", tag)
    tag = re.sub(r' (id|clip-path)="[^"]*"', "", tag)
    return re.sub("#[0-9a-f]{6}", lambda found: _VARIABLES.get(found[0], found[0]), tag)
