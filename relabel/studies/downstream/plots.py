"""Plots of a downstream comparison: AP per arm, differences per class, learning curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from relabel.errors import shown
from relabel.evaluation.tables import percentage
from relabel.reports.charts import COLOURS, INK, LINE, SOFT, new_figure, new_panels
from relabel.reports.style import shortened
from relabel.studies.downstream.direct import DIRECT, Point, correlations, points_of
from relabel.studies.downstream.results import BASE, Comparison
from relabel.studies.means import Mean, mean_percentage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_LONGEST = 40  # letters of a name
_STYLES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))


def all_figures(comparison: Comparison) -> dict[str, Figure]:
    """The figures by file name without suffix; those without anything to show are left out."""
    figures = {}
    if comparison.arms:
        figures["arms"] = arms_figure(comparison)
        if comparison.classes:
            figures["classes"] = classes_figure(comparison)
        if any(points for arm in comparison.arms.values() for points in arm.curves.values()):
            figures["curves"] = curves_figure(comparison)
        points = points_of(comparison)
        if points:
            title = _title(comparison, "Labels and detectors")
            figures["direct"] = direct_figure(points, title, against_base=comparison.relative)
    return figures


def arms_figure(comparison: Comparison) -> Figure:
    """A row per arm: a point per seed, mean and standard deviation, the number, and the base line.

    Arms that were not run are listed below the others.
    """
    names, absent = list(comparison.arms), list(comparison.not_run)
    height = 1.5 + 0.42 * (len(names) + len(absent))
    figure, axes = new_figure(8.6, height)
    base = comparison.mean(BASE) if BASE in names else None
    if base is not None:
        axes.axvline(100 * base.mean, color=SOFT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    looks = _looks(comparison)
    seen: list[float] = []
    for y, name in enumerate(names):
        mean = comparison.mean(name)
        points = [100 * v for v in comparison.arms[name].values().values() if v is not None]
        seen += points
        if mean is None:
            continue
        centre, colour = 100 * mean.mean, looks[name][0]
        if mean.std is not None:
            spread = 100 * mean.std
            axes.barh(y, 2 * spread, 0.34, centre - spread, color=colour, alpha=0.18, zorder=2)
            seen += [centre - spread, centre + spread]
        axes.plot([centre, centre], [y - 0.27, y + 0.27], color=colour, linewidth=3, zorder=3)
        axes.scatter(*(points, [y] * len(points)), s=26, color=colour, edgecolor="white", zorder=4)
    rows = [*names, *absent]
    for y, name in enumerate(rows):
        text = _number(comparison, name) if name in names else "not run"
        colour = "black" if name in names else SOFT
        place = {"xycoords": axes.get_yaxis_transform(), "annotation_clip": False}
        axes.annotate(text, (1.02, y), va="center", color=colour, **place)
    axes.set_yticks(range(len(rows)), [shortened(row, _LONGEST) for row in rows])
    for label in axes.get_yticklabels()[len(names) :]:
        label.set_color(SOFT)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    low, high = (min(seen), max(seen)) if seen else (0.0, 1.0)
    room = max(0.08 * (high - low), 0.7 - (high - low) / 2)
    axes.set_xlim(max(low - room, 0 if low >= room else -room), high + room)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=LINE, linewidth=0.7, zorder=0)
    axes.set_xlabel("AP on the test split, percent")
    axes.set_title(_title(comparison, "AP per arm"), loc="left")
    if base is not None and len(names) > 1:
        axes.annotate(
            f"AP   (difference to {BASE})",
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

    classes, relative = comparison.classes, comparison.relative
    told = [name for name in comparison.arms if not relative or name != BASE]

    def percents(measure: Callable[..., Mean | None], names: Sequence[str]) -> np.ndarray:
        """[classes, names], NaN where nothing was measured."""
        means = [[measure(name, category=c) for name in names] for c in classes]
        return 100 * np.array([[mean and mean.mean for mean in row] for row in means], float)

    cells = percents(comparison.difference if relative else comparison.mean, told)
    columns = len(told) + relative
    width = 1.2 + 0.085 * max(map(len, classes)) + 0.72 * columns
    deepest = max(map(len, told))
    figure, axes = new_figure(max(width, 4.0), 1.6 + 0.06 * deepest + 0.32 * len(classes))
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
    if relative:
        for (i, _), value in np.ndenumerate(percents(comparison.mean, [BASE])):
            text = "–" if np.isnan(value) else f"{value:.1f}"
            axes.text(0.5, i + 0.5, text, ha="center", va="center", color=SOFT)
    for (i, j), value in np.ndenumerate(cells):
        blank, dark = np.isnan(value), abs(value) / top > 0.8
        axes.text(
            *(j + left + 0.5, i + 0.5),
            "–" if blank else _signed(value) if relative else f"{value:.1f}",
            ha="center",
            va="center",
            fontsize=9.5,
            color=SOFT if blank else "white" if dark else INK,
        )
    labels = [f"{BASE}, AP", *told] if relative else told
    axes.set_xlim(0, columns)
    axes.set_ylim(len(classes), 0)
    axes.set_xticks(
        np.arange(columns) + 0.5, labels, rotation=35, ha="left", rotation_mode="anchor"
    )
    axes.set_yticks(np.arange(len(classes)) + 0.5, [shown(name) for name in classes])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if relative:
        axes.get_xticklabels()[0].set_color(SOFT)
    what = f"AP per class: difference to {BASE}" if relative else "AP per class, percent"
    title = _title(comparison, what)
    if width < 7.5:
        title = title.replace(" (", "\n(", 1)
    figure.suptitle(title, x=0.02, ha="left", fontsize=12)
    return figure


def curves_figure(comparison: Comparison) -> Figure:
    """AP on the test split over iterations: mean over seeds, a band over their range, labels.

    Means are over the seeds that have the point. Iterations on target images alone are shaded
    where the comparison says when they begin.
    """
    figure, axes = new_figure(8.6, 4.8)
    ends: list[tuple[float, float, str, str]] = []
    looks = _looks(comparison)
    last = 0
    for name, arm in comparison.arms.items():
        colour, style = looks[name]
        table: dict[int, list[float]] = {}
        for points in arm.curves.values():
            for point in points:
                if (value := point["AP"]) is not None:
                    table.setdefault(point["step"], []).append(100 * value)
        if not table:
            continue
        steps = sorted(table)
        means = [sum(table[s]) / len(table[s]) for s in steps]
        if any(len(v) > 1 for v in table.values()) and len(steps) > 1:
            axes.fill_between(
                *(steps, [min(table[s]) for s in steps], [max(table[s]) for s in steps]),
                color=colour,
                alpha=0.13,
                linewidth=0,
            )
        axes.plot(
            *(steps, means),
            color=colour,
            linestyle=style,
            linewidth=2,
            marker="o",
            markersize=4,
            markeredgecolor="white",
            markeredgewidth=0.6,
            zorder=4 if name == BASE else 3,
        )
        ends.append((means[-1], steps[-1], name, colour))
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
    axes.set_xlabel("iterations")
    axes.set_ylabel("AP on the test split, percent")
    axes.set_title(_title(comparison, "Learning curves"), loc="left")
    _label_ends(figure, axes, ends)
    return figure


def direct_figure(points: Sequence[Point], title: str, *, against_base: bool = True) -> Figure:
    """A panel per measure of the labels: test AP over it, a colour per arm, with the correlation.

    Args:
        points: of one comparison or several, which then have marks of their own.
        against_base: whether the points' downstream AP is the change to the base arm.
    """
    figure, panels = new_panels(2.15 * len(DIRECT) + 1.9, 3.3, len(DIRECT))
    arms = list(dict.fromkeys(p.arm for p in points))
    comparisons = list(dict.fromkeys(p.comparison for p in points))
    colours = {arm: COLOURS[i % len(COLOURS)] for i, arm in enumerate(arms)}
    # Beyond the colours, arms differ by their edge; comparisons by their mark.
    edges = {arm: INK if i >= len(COLOURS) else "white" for i, arm in enumerate(arms)}
    marks = {name: _MARKS[i % len(_MARKS)] for i, name in enumerate(comparisons)}
    found = correlations(points)
    for axes, key in zip(panels, DIRECT, strict=True):
        for p in points:
            value = p.direct[key]
            if value is not None:
                axes.scatter(
                    *(100 * value, 100 * p.downstream),
                    s=46,
                    marker=marks[p.comparison],
                    color=colours[p.arm],
                    edgecolor=edges[p.arm],
                    linewidth=0.7,
                )
        if against_base:
            axes.axhline(0, color=SOFT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.margins(0.12)
        axes.grid(color=LINE, linewidth=0.7)
        axes.set_xlabel(f"{key}, percent")
        both = [("r", found[key].pearson), ("ρ", found[key].spearman)]
        text = "   ".join(f"{name} {_decimal(v)}" for name, v in both if v is not None)
        axes.set_title(text, loc="left", fontsize=9.5, color=SOFT)
    what = f"test AP, change to\n{BASE}, points" if against_base else "test AP, percent"
    panels[0].set_ylabel(what)
    handles = [_handle("o", colours[arm], shown(arm), edges[arm]) for arm in arms]
    if len(comparisons) > 1:
        handles += [_handle(marks[name], SOFT, shown(name), "white") for name in comparisons]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    return figure


def _handle(mark: str, colour: str, label: str, edge: str) -> Any:
    from matplotlib.lines import Line2D

    look: dict[str, Any] = {"markerfacecolor": colour, "markeredgecolor": edge, "markersize": 7}
    return Line2D([], [], linestyle="none", marker=mark, label=label, **look)


def _decimal(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _label_ends(figure: Figure, axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Names beside the ends (y, x, name, colour) of lines, moved apart where they would overlap."""
    if not ends:
        return
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    height = figure.get_figheight() * 0.75 * 72  # of the axes in points, about
    gap = 14 * (high - low) / height
    ordered = sorted(ends, key=lambda end: end[0])
    places = _apart([end[0] for end in ordered], gap, low, high)
    edge = axes.get_xlim()[1]
    for (value, step, name, colour), place in zip(ordered, places, strict=True):
        axes.annotate(
            f"{name}  {value:.1f}",
            (step, value),
            xytext=(1.035, (place - low) / (high - low)),
            textcoords="axes fraction",
            va="center",
            color=_darker(colour),
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "relpos": (0, 0.5),
                "color": colour,
                "linewidth": 0.8,
                "alpha": 0.6,
                "shrinkA": 1,
                "shrinkB": 4,
            },
        )
    axes.set_xlim(0, edge)


def _apart(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The nearest places to ascending ``values`` that are ``gap`` apart, kept in low .. high.

    Where they do not fit between ``low`` and ``high``, they reach beyond ``high``.
    """
    import numpy as np
    from scipy.optimize import isotonic_regression

    steps = gap * np.arange(len(values))
    # Places that are a gap apart do not fall once their steps are taken off.
    fitted = isotonic_regression(np.asarray(values) - steps).x
    return (np.clip(fitted, low, max(low, high - steps[-1])) + steps).tolist()


def _looks(comparison: Comparison) -> dict[str, tuple[str, Any]]:
    """Colour and line style of each arm."""
    others = [name for name in comparison.arms if name != BASE]
    n = len(COLOURS)
    looks = {
        name: (COLOURS[i % n], _STYLES[i // n % len(_STYLES)]) for i, name in enumerate(others)
    }
    return {**looks, BASE: (INK, "-")}


def _darker(colour: str) -> tuple[float, ...]:
    """For text, which needs more contrast than a line."""
    from matplotlib.colors import to_rgb

    return tuple(0.75 * part for part in to_rgb(colour))


def _number(comparison: Comparison, name: str) -> str:
    mean = comparison.mean(name)
    if mean is None:
        return ""
    text = mean_percentage(mean)
    if BASE in comparison.arms and name != BASE:
        change = comparison.difference(name)
        text += "" if change is None else f"   ({_signed(100 * change.mean)})"
    missing = comparison.missing_seeds.get(name)
    if missing:
        text += f"   {mean.count} of {len(comparison.seeds)} seeds"
    return text


def _signed(value: float) -> str:
    """Points with sign and a true minus."""
    return percentage(value / 100, signed=True).replace("-", "−")


def _title(comparison: Comparison, what: str) -> str:
    target = comparison.about.get("target")
    detector = comparison.about.get("detector")
    where = ", ".join(shortened(str(v), _LONGEST) for v in (target, detector) if v)
    return f"{what} ({where})" if where else what
