"""Tables of a downstream comparison, and ``downstream.md``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from relabel.doctor.hardware import describe_hardware
from relabel.evaluation.tables import NONE, Rows, as_text, markdown, percentage
from relabel.process import command_line
from relabel.studies.downstream.direct import (
    Point,
    correlation_rows,
    correlations,
    direct_rows,
    points_of,
)
from relabel.studies.downstream.intervals import interval_text
from relabel.studies.downstream.results import (
    BASE,
    LAT,
    METRIC_NAMES,
    ORACLE,
    SIZE_NAMES,
    Comparison,
    Metric,
)
from relabel.studies.downstream.verdicts import (
    Room,
    losing_classes,
    losing_rows,
    room_of,
    short_arms,
    short_line,
)
from relabel.studies.means import Mean, mean_percentage

INTERVALS = "95 % bootstrap intervals over test images, all seeds together (* excludes 0)"


def shown_tables(comparison: Comparison) -> list[tuple[str, Rows]]:
    """Titles and tables for the terminal, narrower than in ``downstream.md``."""
    tables = []
    room, short = room_of(comparison), short_line(comparison)
    if room is not None:
        tables.append((room.text, room_rows(comparison, room)))
    if comparison.arms:
        title = f"Test AP in percent, {spread_text(comparison)}"
        if comparison.relative:
            title += f"; change: to {BASE}"
            title += "; share: of the oracle's gain" if ORACLE in comparison.arms else ""
        title += f". {short}" if short else ""
        tables.append((title, arm_rows(comparison, brief=True)))
    if has_intervals(comparison):
        tables.append((f"Differences in AP with {INTERVALS}", interval_rows(comparison)))
    if comparison.arms and comparison.classes:
        title = _in_percent("AP per class", comparison)
        tables.append((title, _narrower(arm_class_rows(comparison, brief=True))))
        losing = losing_rows(comparison)
        if losing:
            title = f"Classes that lose more than 1 AP to {BASE}"
            tables.append((title, (["arm", "classes"], losing)))
    if has_sizes(comparison):
        title = _in_percent("AP by size", comparison)
        tables.append((title, _narrower(arm_size_rows(comparison, brief=True))))
    points = points_of(comparison)
    if points:
        title = "Labels against the truth, and change in test AP, in percent"
        tables.append((title, direct_rows(comparison, brief=True)))
        title = "Correlation of the labels' quality with test AP, over arms"
        tables.append((title, correlation_rows(correlations(points))))
    if comparison.not_run:
        reasons = [[name, reason] for name, reason in comparison.not_run.items()]
        tables.append(("Not run", (["arm", "reason"], reasons)))
    return tables


def _in_percent(what: str, comparison: Comparison) -> str:
    """The title of a table, which shows differences where there is an arm to compare with."""
    if comparison.relative:
        return f"{what} in percent: differences to {BASE}"
    return f"{what}, in percent"


def arm_rows(comparison: Comparison, *, brief: bool = False) -> Rows:
    """A row per arm: seeds, AP, AP50, AP75, differences to the base arm, share of an oracle's gain.

    Values are mean ± sample standard deviation over seeds; differences are taken seed by seed.
    Passes are how often, in the mean, an image of the union of target and sources was drawn, and
    one of the arm's own sources. Arms that were not run have a row too.

    Args:
        brief: of the differences only that in AP, and seeds only where an arm lacks some.
    """
    compared = BASE in comparison.arms
    bounded = compared and ORACLE in comparison.arms
    counted = not brief or bool(comparison.missing_seeds)
    changes = METRIC_NAMES[: 1 if brief else None] if compared else ()
    header = ["arm", *(["seeds"] if counted else []), *METRIC_NAMES]
    header += ["change"] if compared and brief else [f"{m} change" for m in changes]
    header += ["share" if brief else "of the oracle's gain"] if bounded else []
    passes = {} if brief else comparison.about.get("passes", {})
    header += ["passes", "of sources"] if passes else []
    rows = []
    for name, arm in comparison.arms.items():
        row = [name, *([str(len(arm.metrics))] if counted else [])]
        row += [mean_percentage(comparison.mean(name, metric)) for metric in METRIC_NAMES]
        row += [
            NONE
            if name == BASE
            else mean_percentage(comparison.difference(name, metric), signed=True)
            for metric in changes
        ]
        if bounded:
            row.append(_share(comparison, name))
        if passes:
            made = passes.get(name)
            row += [f"{made[k]:.1f}" if made else NONE for k in ("union", "sources")]
        rows.append(row)
    empty = [NONE] * (len(header) - 2)
    rows += [[name, "not run", *empty] for name in comparison.not_run]
    return header, rows


def room_rows(comparison: Comparison, room: Room) -> Rows:
    """AP of the oracle and of the base arm, and what lies between them."""
    header = ["", "AP", *(["95 % interval"] if room.interval else [])]
    more = [""] if room.interval else []
    rows = [[name, mean_percentage(comparison.mean(name)), *more] for name in (ORACLE, BASE)]
    gain = percentage(room.gain, signed=True)
    return header, [
        *rows,
        ["room", gain, *([room.range_text] if room.interval else [])],
    ]


def interval_rows(comparison: Comparison, metric: Metric = "AP") -> Rows:
    """A row per arm: its difference to the base arm, and LAT's to it, with bootstrap intervals."""
    columns = {f"to {BASE}": lambda arm: (arm, BASE), f"{LAT} minus it": lambda arm: (LAT, arm)}

    def cell(arm: str, reference: str) -> str:
        if arm == reference or not {arm, reference} <= comparison.arms.keys():
            return NONE
        found = comparison.intervals(arm, reference)
        return interval_text(found[metric] if found else None)

    rows = [[name, *(cell(*of(name)) for of in columns.values())] for name in comparison.arms]
    kept = [i for i in range(1, len(columns) + 1) if any(row[i] != NONE for row in rows)]
    header = ["arm", *columns]
    return [header[i] for i in (0, *kept)], [[row[i] for i in (0, *kept)] for row in rows]


def arm_class_rows(comparison: Comparison, *, brief: bool = False) -> Rows:
    """A row per class: AP of the base arm, then the difference of every other arm to it.

    Without the base arm, or with no other, the AP of every arm.

    Args:
        brief: means without the deviation over seeds.
    """
    parts: list[tuple[str, Metric, str | None]] = [(c, "AP", c) for c in comparison.classes]
    return _relative_rows(comparison, "class", parts, brief)


def arm_size_rows(comparison: Comparison, *, brief: bool = False) -> Rows:
    """The same for small, medium and large boxes: under 32², up to 96² and above, in pixels."""
    names = zip(("small", "medium", "large"), SIZE_NAMES, strict=True)
    parts: list[tuple[str, Metric, str | None]] = [(name, metric, None) for name, metric in names]
    return _relative_rows(comparison, "size", parts, brief)


def _relative_rows(
    comparison: Comparison, title: str, parts: list[tuple[str, Metric, str | None]], brief: bool
) -> Rows:
    """Rows of (name, metric, class): the base arm's AP, and the other arms' differences to it."""

    def cell(value: Mean | None, *, signed: bool = False) -> str:
        if brief and value:
            value = replace(value, std=None)
        return mean_percentage(value, signed=signed)

    first, others = list(comparison.arms), []
    if comparison.relative:
        first = [BASE]
        others = [name for name in comparison.arms if name != BASE]
    rows = [
        [
            name,
            *(cell(comparison.mean(a, metric, category)) for a in first),
            *(cell(comparison.difference(a, metric, category), signed=True) for a in others),
        ]
        for name, metric, category in parts
    ]
    return [title, *first, *others], rows


def markdown_report(comparison: Comparison, *, date: str | None = None) -> str:
    """``downstream.md``: command, date, hardware, the tables, the plots, and what was not run.

    Args:
        date: default today, in UTC.
    """
    about = comparison.about
    target = about.get("target")
    facts = {
        "Date": date or datetime.now(UTC).strftime("%Y-%m-%d"),
        "Hardware": comparison.hardware or describe_hardware(),
        "Target": target,
        "Sources": _listed(about.get("sources")),
        "Detector": about.get("detector"),
        "Iterations": about.get("steps"),
        "Seeds": _listed(comparison.seeds),
    }
    parts = [f"# Downstream comparison{f' on `{target}`' if target else ''}\n"]
    warnings = [r.text if (r := room_of(comparison)) else None, short_line(comparison)]
    parts += [f"**{text}**\n" for text in warnings if text]
    command = comparison.command or command_line()
    parts.append(f"```\n{command}\n```\n")
    known = {k: as_text(str(v)) for k, v in facts.items() if v not in (None, "")}
    parts.append("\n".join(f"- {k}: {v}" for k, v in known.items()) + "\n")
    if comparison.arms:
        text = f"Percent, {spread_text(comparison)}."
        if comparison.relative:
            text += f" Changes are differences to {BASE}, taken seed by seed."
        parts.append(f"## Test AP\n\n{text}\n")
        parts.append(markdown(arm_rows(comparison)))
        parts.append("![AP per arm](arms.svg)\n")
        missing = comparison.missing_seeds
        parts += [
            f"Not finished: seed {_listed(seeds)} of {name}.\n" for name, seeds in missing.items()
        ]
    if has_intervals(comparison):
        parts.append(f"## Differences\n\nPercent, with {INTERVALS}.\n")
        for metric in METRIC_NAMES:
            parts.append(f"{metric}:\n\n{markdown(interval_rows(comparison, metric))}")
    if comparison.arms and comparison.classes:
        if comparison.relative:
            text = f"AP of {BASE}, and the differences of the other arms to it"
        else:
            text = "AP"
        parts.append(f"## Classes\n\n{text}, in percent.\n")
        parts.append(markdown(arm_class_rows(comparison)))
        parts.append("![AP per class](classes.svg)\n")
        losing = losing_rows(comparison)
        if losing:
            parts.append(f"Classes that lose more than 1 AP to {BASE}, in the mean of the seeds:\n")
            lines = [f"- {as_text(arm)}: {as_text(classes)}" for arm, classes in losing]
            parts.append("\n".join(lines) + "\n")
    if has_sizes(comparison):
        text = f"AP of {BASE}, and the differences to it," if comparison.relative else "AP"
        parts.append(f"## Sizes\n\n{text} by size of the true box, in percent.\n")
        parts.append(markdown(arm_size_rows(comparison)))
    if any(arm.curves for arm in comparison.arms.values()):
        parts.append("## Learning curves\n\n![AP over iterations](curves.svg)\n")
    points = points_of(comparison)
    if points:
        parts.append(
            "## Direct and downstream quality\n\nThe labels that an arm trains on against the "
            "true labels of the source, and what its detector makes of all its sources; percent.\n"
        )
        parts += [markdown(direct_rows(comparison)), correlation_section(points)]
        parts.append("![Direct and downstream quality](direct.svg)\n")
    parts.append("## Not run\n")
    if comparison.not_run:
        reasons = [f"- {as_text(name)}: {as_text(why)}" for name, why in comparison.not_run.items()]
        parts.append("\n".join(reasons) + "\n")
    else:
        parts.append("Nothing: every arm asked for has results.\n")
    return "\n".join(parts)


def correlation_section(points: Sequence[Point]) -> str:
    """The correlations of direct with downstream quality, with what they are over."""
    return (
        "Correlation of the mean over sources with the change in test AP, over arms; of the LRP "
        f"error, which falls as labels get better, below 0.\n\n"
        f"{markdown(correlation_rows(correlations(points)))}"
    )


def json_result(comparison: Comparison) -> dict[str, Any]:
    """The JSON result: what can be decided first, then `Comparison.to_dict`."""
    room = room_of(comparison)
    first = {} if room is None else {"room": room.to_dict()}
    short, losing = short_arms(comparison), losing_classes(comparison)
    last: dict[str, Any] = {"losing_classes": losing} if losing else {}
    points = points_of(comparison)
    if points:
        last["correlation"] = {key: vars(c) for key, c in correlations(points).items()}
    return {**first, **comparison.to_dict(), **last, **({"too_short": short} if short else {})}


def _narrower(table: Rows) -> Rows:
    """The table, or with a row per arm where that has fewer columns."""
    header, rows = table
    if len(rows) >= len(header) - 1:
        return table
    turned = [[name, *(row[i] for row in rows)] for i, name in enumerate(header) if i]
    return ["arm", *(row[0] for row in rows)], turned


def has_intervals(comparison: Comparison) -> bool:
    """True if at least two arms left matches to resample."""
    return sum(bool(arm.matches) for arm in comparison.arms.values()) > 1


def has_sizes(comparison: Comparison) -> bool:
    """True if AP by size was measured."""
    arms = comparison.arms
    return any(comparison.mean(name, metric) for name in arms for metric in SIZE_NAMES)


def _share(comparison: Comparison, arm: str) -> str:
    if arm in (ORACLE, BASE):
        return NONE
    share = comparison.share_of_gain(arm)
    return NONE if share is None else f"{round(100 * share) + 0} %"


def spread_text(comparison: Comparison) -> str:
    """What numbers of the comparison are, and over how many seeds."""
    most = max(len(arm.metrics) for arm in comparison.arms.values())
    return f"mean ± standard deviation over {most} seeds" if most > 1 else "one seed"


def _listed(values: Sequence[object] | str | None) -> str:
    if values is None or isinstance(values, str):
        return values or ""
    return ", ".join(str(v) for v in values)
