"""The plot of a comparison: mAP over the share of labels that is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from relabel.errors import shown
from relabel.reports.charts import COLOURS, LINE, new_figure
from relabel.studies.completion.arms import REFIT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")


def completion_figure(dataset: Mapping[str, Any], where: str, title: str) -> Figure | None:
    """A line per method, mean over seeds, with a band over their range; None without a point.

    Refitted methods are dashed, in the colour of what they refit.

    Args:
        dataset: of `relabel.studies.completion.results.collect`.
        where: ``test`` or ``unknown``.
    """
    lines = {
        name: points
        for name, row in dataset["rows"].items()
        if (points := _points(row[where]["mAP"]["values"]))
    }
    if not lines:
        return None
    figure, axes = new_figure(8.6, 5.2)
    methods = list(dict.fromkeys(name.removesuffix(REFIT) for name in lines))
    for name, points in lines.items():
        k = methods.index(name.removesuffix(REFIT))
        colour, refitted = COLOURS[k % len(COLOURS)], name.endswith(REFIT)
        shares = [share for share, _ in points]
        if not refitted and any(len(values) > 1 for _, values in points) and len(points) > 1:
            axes.fill_between(
                *(shares, [min(v) for _, v in points], [max(v) for _, v in points]),
                color=colour,
                alpha=0.1,
                linewidth=0,
            )
        axes.plot(
            *(shares, [sum(v) / len(v) for _, v in points]),
            color=colour,
            linestyle=(0, (4, 2)) if refitted else "-",
            linewidth=1.3 if refitted else 2,
            marker=_MARKS[k % len(_MARKS)],
            markersize=3.5 if refitted else 5,
            markeredgecolor="white",
            markeredgewidth=0.6,
            label=shown(name),
        )
    axes.grid(axis="y", color=LINE, linewidth=0.7)
    axes.set_xlabel("labels that are known, percent")
    axes.set_ylabel("mAP, percent")
    axes.set_title(shown(title), loc="left")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure


def _points(values: Mapping[str, Mapping[str, float | None]]) -> list[tuple[float, list[float]]]:
    """(share, values of its seeds), all in percent, in ascending order."""
    found = []
    for share, of in values.items():
        known = [100 * value for value in of.values() if value is not None]
        if known:
            found.append((float(share), known))
    return sorted(found)
