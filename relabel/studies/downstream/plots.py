"""Plots of a downstream comparison: AP per arm, differences per class, learning curves.

Matplotlib is imported when a figure is made, and only its object interface with the Agg and SVG
writers is used, so that no window system and no global state come into it. The same results give
the same files, byte for byte, with the same version of matplotlib.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relabel.studies.downstream.results import Comparison, Mean, Metric
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
BASE_COLOUR, SOFT, LINE = "#222222", "#666666", "#d9d9d9"
_STYLES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
_DPI = 160
_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": SOFT,
    "axes.titlesize": 12,
    "axes.titlepad": 12,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": BASE_COLOUR,
    "ytick.labelcolor": BASE_COLOUR,
    # Ids in SVG files are random without a salt.
    "svg.hashsalt": "relabel",
}


def all_figures(comparison: Comparison) -> dict[str, Figure]:
    """The figures by file name without suffix; those without anything to show are left out."""
    figures = {}
    if comparison.arms:
        figures["arms"] = arms_figure(comparison)
        if comparison.classes:
            figures["classes"] = classes_figure(comparison)
        if any(points for arm in comparison.arms.values() for points in arm.curves.values()):
            figures["curves"] = curves_figure(comparison)
    return figures


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write ``stem.png`` and ``stem.svg``, each complete or not at all, without a date in them."""
    from matplotlib import rc_context

    files = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    with rc_context(_RC):
        for file, metadata in zip(files, ({"Software": None}, {"Date": None}), strict=True):
            with atomic_path(file) as temp:
                figure.savefig(temp, dpi=_DPI, metadata=metadata, facecolor="white")
    return files


def arms_figure(comparison: Comparison, metric: Metric = "AP") -> Figure:
    """A row per arm: a point per seed, mean and standard deviation, the number, and the base line.

    Arms that were not run are listed below the others.
    """
    names, absent = list(comparison.arms), list(comparison.not_run)
    height = 1.5 + 0.42 * (len(names) + len(absent))
    figure, axes = _new(8.6, height)
    base = comparison.mean(comparison.base, metric) if comparison.base in names else None
    if base is not None:
        axes.axvline(100 * base.mean, color=SOFT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    colours = _colours(comparison)
    seen: list[float] = []
    for y, name in enumerate(names):
        mean = comparison.mean(name, metric)
        points = [100 * v for v in comparison.arms[name].values(metric).values() if v is not None]
        seen += points
        if mean is None:
            continue
        centre, colour = 100 * mean.mean, colours[name]
        if mean.std is not None:
            spread = 100 * mean.std
            axes.barh(y, 2 * spread, 0.34, centre - spread, color=colour, alpha=0.18, zorder=2)
            seen += [centre - spread, centre + spread]
        axes.plot([centre, centre], [y - 0.27, y + 0.27], color=colour, linewidth=3, zorder=3)
        axes.scatter(*(points, [y] * len(points)), s=26, color=colour, edgecolor="white", zorder=4)
        axes.annotate(
            _number(comparison, name, metric, mean),
            (1.02, y),
            xycoords=axes.get_yaxis_transform(),
            va="center",
            annotation_clip=False,
        )
    for y in range(len(names), len(names) + len(absent)):
        axes.annotate(
            "not run", (1.02, y), xycoords=axes.get_yaxis_transform(), va="center", color=SOFT
        )
    axes.set_yticks(range(len(names) + len(absent)), [*names, *absent])
    for label in axes.get_yticklabels()[len(names) :]:
        label.set_color(SOFT)
    axes.set_ylim(len(names) + len(absent) - 0.4, -0.6)
    low, high = (min(seen), max(seen)) if seen else (0.0, 1.0)
    room = max(0.08 * (high - low), 0.7 - (high - low) / 2)
    axes.set_xlim(max(low - room, 0 if low >= room else -room), high + room)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=LINE, linewidth=0.7, zorder=0)
    axes.set_axisbelow(True)
    axes.set_xlabel(f"{metric} on the test split, percent")
    axes.set_title(_title(comparison, f"{metric} per arm"), loc="left")
    if base is not None and len(names) > 1:
        axes.annotate(
            f"{metric}   (difference to {comparison.base})",
            (1.02, 1),
            xycoords="axes fraction",
            xytext=(0, 12),
            textcoords="offset points",
            color=SOFT,
            fontsize=9,
            annotation_clip=False,
        )
    return figure


def classes_figure(comparison: Comparison) -> Figure:
    """A heat map of classes by arms: the difference to the base arm in AP, written in each cell.

    The first column is the base arm's own AP. Without the base arm, or with no other arm, the
    cells are AP itself.
    """
    import numpy as np
    from matplotlib import colormaps

    base = comparison.base if comparison.base in comparison.arms else None
    others = [name for name in comparison.arms if name != base]
    relative = base is not None and bool(others)
    shown = others if relative else list(comparison.arms)
    classes = comparison.classes
    cells = np.full((len(classes), len(shown)), np.nan)
    for i, category in enumerate(classes):
        for j, name in enumerate(shown):
            value = (
                comparison.difference(name, category=category)
                if relative
                else comparison.mean(name, category=category)
            )
            if value is not None:
                cells[i, j] = 100 * value.mean
    columns = len(shown) + relative
    width = 1.2 + 0.085 * max(map(len, classes)) + 0.72 * columns
    deepest = max(map(len, shown))
    figure, axes = _new(max(width, 4.0), 1.6 + 0.06 * deepest + 0.32 * len(classes))
    known = np.abs(cells[np.isfinite(cells)])
    top = max(float(known.max()) if known.size else 0.0, 2.0 if relative else 1.0)
    # Red to blue through white is told apart with every colour blindness.
    colours = colormaps["RdBu" if relative else "Blues"].with_extremes(bad="white")
    left = int(relative)
    axes.pcolormesh(
        *(np.arange(left, columns + 1), np.arange(len(classes) + 1), np.ma.masked_invalid(cells)),
        cmap=colours,
        # A little beyond the largest value, so that dark text is readable on every cell.
        vmin=-1.35 * top if relative else 0,
        vmax=1.35 * top,
        edgecolors="white",
        linewidth=1.5,
    )
    for i, category in enumerate(classes):
        if relative:
            own = comparison.mean(base or "", category=category)
            text = "–" if own is None else f"{100 * own.mean:.1f}"
            axes.text(0.5, i + 0.5, text, ha="center", va="center", color=SOFT)
        for j in range(len(shown)):
            value = cells[i, j]
            blank = not np.isfinite(value)
            text = "–" if blank else _signed(value) if relative else f"{value:.1f}"
            dark = not blank and abs(value) / top > 0.8
            axes.text(
                *(j + left + 0.5, i + 0.5, text),
                ha="center",
                va="center",
                fontsize=9.5,
                color=SOFT if blank else "white" if dark else BASE_COLOUR,
            )
    labels = [f"{base}, AP", *shown] if relative else shown
    axes.set_xlim(0, columns)
    axes.set_ylim(len(classes), 0)
    axes.set_xticks(
        np.arange(columns) + 0.5, labels, rotation=35, ha="left", rotation_mode="anchor"
    )
    axes.set_yticks(np.arange(len(classes)) + 0.5, classes)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if relative:
        axes.get_xticklabels()[0].set_color(SOFT)
    what = f"AP per class: difference to {base}" if relative else "AP per class, percent"
    title = _title(comparison, what)
    if width < 7.5:
        title = title.replace(" (", "\n(", 1)
    figure.suptitle(title, x=0.02, ha="left", fontsize=12)
    return figure


def curves_figure(comparison: Comparison, metric: Metric = "AP") -> Figure:
    """AP on the test split over iterations: mean over seeds, a band from least to most, labels.

    Means are over the seeds that have the point. Iterations on target images alone are shaded
    where the comparison says when they begin.
    """
    figure, axes = _new(8.6, 4.8)
    ends: list[tuple[float, float, str]] = []
    colours, styles = _colours(comparison), _styles(comparison)
    last = 0
    for name, arm in comparison.arms.items():
        table: dict[int, list[float]] = {}
        for points in arm.curves.values():
            for point in points:
                if point[metric] is not None:
                    table.setdefault(point["step"], []).append(100 * point[metric])
        if not table:
            continue
        steps = sorted(table)
        means = [sum(table[s]) / len(table[s]) for s in steps]
        if any(len(v) > 1 for v in table.values()) and len(steps) > 1:
            axes.fill_between(
                *(steps, [min(table[s]) for s in steps], [max(table[s]) for s in steps]),
                color=colours[name],
                alpha=0.13,
                linewidth=0,
            )
        axes.plot(
            *(steps, means),
            color=colours[name],
            linestyle=styles[name],
            linewidth=2,
            marker="o",
            markersize=4,
            markeredgecolor="white",
            markeredgewidth=0.6,
            zorder=4 if name == comparison.base else 3,
        )
        ends.append((means[-1], steps[-1], name))
        last = max(last, steps[-1])
    begin = comparison.target_only_from
    if begin is not None and 0 < begin < last:
        axes.axvspan(begin, last, color="#f2f2f2", zorder=0)
        axes.annotate(
            "target images only",
            ((begin + last) / 2, 0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            color=SOFT,
            fontsize=9,
        )
    axes.set_xlim(0, last * 1.015 if last else 1)
    axes.margins(y=0.08)
    axes.grid(axis="y", color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel("iterations")
    axes.set_ylabel(f"{metric} on the test split, percent")
    axes.set_title(_title(comparison, "Learning curves"), loc="left")
    _label_ends(figure, axes, ends, colours)
    return figure


def _label_ends(
    figure: Figure, axes: Axes, ends: Sequence[tuple[float, float, str]], colours: dict[str, str]
) -> None:
    """Names beside the ends of the lines, moved apart where they would overlap."""
    if not ends:
        return
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    height = figure.get_figheight() * 0.75 * 72  # of the axes in points, about
    gap = 14 * (high - low) / height
    ordered = sorted(ends, key=lambda end: end[0])
    places = _apart([end[0] for end in ordered], gap, low, high)
    edge = axes.get_xlim()[1]
    for (value, step, name), place in zip(ordered, places, strict=True):
        axes.annotate(
            f"{name}  {value:.1f}",
            (step, value),
            xytext=(1.035, (place - low) / (high - low)),
            textcoords="axes fraction",
            va="center",
            color=_darker(colours[name]),
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "relpos": (0, 0.5),
                "color": colours[name],
                "linewidth": 0.8,
                "alpha": 0.6,
                "shrinkA": 1,
                "shrinkB": 4,
            },
        )
    axes.set_xlim(0, edge)


def _apart(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The nearest places to ascending ``values`` that are ``gap`` apart, kept in low .. high.

    Runs of places that would overlap are spread evenly about their mean. Where they do not fit
    between ``low`` and ``high``, they reach beyond both.
    """
    runs: list[list[float]] = []  # [centre, count]
    for value in values:
        runs.append([value, 1])
        while len(runs) > 1:
            (above, n), (below, m) = runs[-1], runs[-2]
            if above - below >= gap * (n + m) / 2:
                break
            runs[-2:] = [[(above * n + below * m) / (n + m), n + m]]
        centre, n = runs[-1]
        half = gap * (n - 1) / 2
        runs[-1][0] = min(max(centre, low + half), max(high - half, low + half))
    # The clamp at the top can press a run into the one below it.
    for i in range(len(runs) - 2, -1, -1):
        highest = runs[i + 1][0] - gap * (runs[i + 1][1] + runs[i][1]) / 2
        runs[i][0] = min(runs[i][0], highest)
    return [c + gap * (k - (n - 1) / 2) for c, n in runs for k in range(int(n))]


def _new(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_RC):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        return figure, figure.add_subplot()


def _colours(comparison: Comparison) -> dict[str, str]:
    others = [name for name in comparison.arms if name != comparison.base]
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(others)}
    return {**colours, comparison.base: BASE_COLOUR}


def _styles(comparison: Comparison) -> dict[str, Any]:
    others = [name for name in comparison.arms if name != comparison.base]
    styles = {name: _STYLES[i // len(COLOURS) % len(_STYLES)] for i, name in enumerate(others)}
    return {**styles, comparison.base: "-"}


def _darker(colour: str) -> tuple[float, ...]:
    """For text, which needs more contrast than a line."""
    from matplotlib.colors import to_rgb

    return tuple(0.75 * part for part in to_rgb(colour))


def _number(comparison: Comparison, name: str, metric: Metric, mean: Mean) -> str:
    text = f"{100 * mean.mean:.1f}"
    if mean.std is not None:
        text += f" ± {100 * mean.std:.1f}"
    if comparison.base in comparison.arms and name != comparison.base:
        change = comparison.difference(name, metric)
        text += "" if change is None else f"   ({_signed(100 * change.mean)})"
    missing = comparison.missing_seeds.get(name)
    if missing:
        text += f"   {mean.count} of {len(comparison.seeds)} seeds"
    return text


def _signed(value: float) -> str:
    """One decimal with sign, a true minus, and no negative zero."""
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "−")


def _title(comparison: Comparison, what: str) -> str:
    target = comparison.about.get("target")
    detector = comparison.about.get("detector")
    where = ", ".join(str(v) for v in (target, detector) if v)
    return f"{what} ({where})" if where else what
