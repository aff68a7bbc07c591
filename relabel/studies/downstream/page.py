"""``report.html`` of a downstream comparison: what is missing and why, arms, classes, curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from relabel.evaluation.tables import Rows
from relabel.reports.charts import paper_figure
from relabel.reports.made import Made
from relabel.reports.page import Cell, note, table, tiles, write_page
from relabel.reports.style import escaped
from relabel.studies.downstream.direct import (
    correlation_rows,
    correlations,
    direct_rows,
    points_of,
)
from relabel.studies.downstream.plots import all_figures
from relabel.studies.downstream.report import (
    INTERVALS,
    arm_rows,
    arm_size_rows,
    has_intervals,
    has_sizes,
    interval_rows,
    spread_text,
)
from relabel.studies.downstream.results import BASE, LAT, METRIC_NAMES, ORACLE, Comparison
from relabel.studies.downstream.verdicts import losing_rows, room_of, short_line
from relabel.studies.means import mean_percentage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DASHED = f" Dashed: {BASE}."
_CURVES = "Lines are means over seeds, bands reach from the lowest to the highest."
_MOST_CLASSES = 100  # of the table; downstream.md has all


def write_downstream_report(out: Path, comparison: Comparison, made: Made | None = None) -> Path:
    """Write the report.

    Args:
        out: the HTML file.
        made: command, versions and times of the run.

    Returns:
        ``out``.
    """
    target = comparison.about.get("target")
    title = f"Downstream comparison{f' on {target}' if target else ''}"
    figures = all_figures(comparison)
    parts = {
        "missing": ("What is missing, and what cannot be decided", _missing(comparison)),
        "arms": ("Test AP", _arms(comparison, figures)),
        "classes": ("Classes", _classes(comparison)),
        "sizes": ("Sizes", _sizes(comparison)),
        "curves": ("Learning curves", _figure(figures, "curves", "AP over iterations", _CURVES)),
        "direct": ("Labels and detectors", _direct(comparison, figures)),
    }
    sections = [
        f'<section id="{key}"><h2>{name}</h2>{html}</section>'
        for key, (name, html) in parts.items()
        if html
    ]
    contents = {key: name for key, (name, html) in parts.items() if html}
    about = {k: v for k, v in comparison.about.items() if k not in ("passes", "direct")}
    return write_page(out, title, contents, sections, about, made)


def _missing(comparison: Comparison) -> str:
    """Arms and seeds without results, and what the numbers of the others cannot decide."""
    room = room_of(comparison)
    warnings = [text for text in (room and room.text, short_line(comparison)) if text]
    parts = [f"<p><strong>{escaped(text)}</strong></p>" for text in warnings]
    rows = [[name, why] for name, why in comparison.not_run.items()]
    rows += [
        [name, f"not finished: seed {', '.join(map(str, seeds))}"]
        for name, seeds in comparison.missing_seeds.items()
    ]
    if rows:
        parts.append(table(["arm", "why it has no results"], rows, words=2))
    else:
        parts.append("<p>Every arm asked for has results.</p>")
    return "".join(parts)


def _arms(comparison: Comparison, figures: Mapping[str, Figure]) -> str:
    if not comparison.arms:
        return ""
    shown = {
        f"AP of {name}": mean_percentage(comparison.mean(name))
        for name in (BASE, LAT, ORACLE)
        if name in comparison.arms
    }
    text = f"Percent, {spread_text(comparison)}."
    if comparison.relative:
        text += f" Changes are differences to {BASE}, taken seed by seed."
    parts = [tiles(shown) if shown else "", note(escaped(text)), _rows(arm_rows(comparison))]
    text = "Points are seeds, bars their mean, bands the standard deviation."
    parts.append(_figure(figures, "arms", "AP per arm", text + _DASHED * (BASE in comparison.arms)))
    if has_intervals(comparison):
        parts.append(f"<h3>Differences</h3>{note(escaped(f'Percent, with {INTERVALS}.'))}")
        made = [_rows(interval_rows(comparison, metric), metric) for metric in METRIC_NAMES]
        parts.append(f'<div class="tables">{"".join(made)}</div>')
    return "".join(parts)


def _classes(comparison: Comparison) -> str:
    """AP by class of the base arm, and the differences of the others, shaded by their size."""
    if not comparison.arms or not comparison.classes:
        return ""
    relative = comparison.relative
    first = [BASE] if relative else list(comparison.arms)
    others = [name for name in comparison.arms if name != BASE] if relative else []
    names = comparison.classes[:_MOST_CLASSES]
    found = np.array(
        [[_mean(comparison.difference(a, category=c)) for a in others] for c in names], float
    )
    most = float(np.nanmax(np.abs(found))) if np.isfinite(found).any() else 0.0
    rows: list[list[object]] = []
    for k, name in enumerate(names):
        row: list[object] = [name]
        row += [mean_percentage(comparison.mean(a, category=name)) for a in first]
        for j, arm in enumerate(others):
            text = mean_percentage(comparison.difference(arm, category=name), signed=True)
            value = found[k, j]
            share = round(100 * abs(value) / most) if most and np.isfinite(value) else 0
            kind = "num heat" + " down" * bool(value < 0)
            row.append(Cell(escaped(text), kind, f"--p:{share}%"))
        rows.append(row)
    text = "AP in percent"
    if relative:
        text = f"AP of {BASE} in percent, and the differences of the other arms to it"
    more = len(comparison.classes) - len(names)
    text += f"; {more:,} more classes are in downstream.md" if more > 0 else ""
    made = table(["class", *first, *others], rows, kind="matrix plain")
    losing = losing_rows(comparison)
    worst = ""
    if losing:
        title = f"Worst cases: classes that lose more than 1 AP to {BASE}, in the mean of the seeds"
        worst = table(["arm", "classes"], losing, title=title, words=2)
    return f"{note(escaped(text) + '.')}{made}{worst}"


def _sizes(comparison: Comparison) -> str:
    if not has_sizes(comparison):
        return ""
    text = f"AP of {BASE}, and the differences to it," if comparison.relative else "AP"
    said = note(f"{escaped(text)} by size of the true box, in percent.")
    return said + _rows(arm_size_rows(comparison))


def _direct(comparison: Comparison, figures: Mapping[str, Figure]) -> str:
    points = points_of(comparison)
    if not points:
        return ""
    text = (
        "The labels that an arm trains on against the true labels of the source, and what its "
        "detector makes of all its sources; percent."
    )
    return "".join(
        [
            note(text),
            _rows(direct_rows(comparison)),
            _rows(correlation_rows(correlations(points)), "Correlation over arms"),
            _figure(figures, "direct", "Direct and downstream quality", "A point is an arm."),
        ]
    )


def _figure(figures: Mapping[str, Figure], name: str, title: str, text: str) -> str:
    if name not in figures:
        return ""
    return f'<div class="scroll figure">{paper_figure(figures[name], name, title, text)}</div>'


def _rows(rows: Rows, title: str = "") -> str:
    return table(*rows, title=title)


def _mean(value: Any) -> float:
    return float("nan") if value is None else value.mean
