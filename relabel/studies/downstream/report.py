"""Tables of a downstream comparison, ``downstream.md``, and the files of its folder."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from relabel.doctor.hardware import describe_hardware
from relabel.evaluation.tables import NONE, Rows, markdown
from relabel.studies.downstream.results import BASE, METRIC_NAMES, ORACLE, Comparison
from relabel.studies.means import Mean, mean_percentage
from relabel.workspace.atomic import atomic_write_bytes, atomic_write_json

JSON = "downstream.json"
MARKDOWN = "downstream.md"


def shown_tables(comparison: Comparison) -> list[tuple[str, Rows]]:
    """Titles and tables for the terminal, narrower than in ``downstream.md``."""
    tables = []
    if comparison.arms:
        title = f"Test AP in percent, {_spread_text(comparison)}"
        if comparison.relative:
            title += f"; change: to {BASE}"
            title += "; share: of the oracle's gain" if ORACLE in comparison.arms else ""
        tables.append((title, arm_rows(comparison, brief=True)))
    if comparison.arms and comparison.classes:
        title = "AP per class, in percent"
        if comparison.relative:
            title = f"AP per class in percent: differences to {BASE}"
        tables.append((title, arm_class_rows(comparison, brief=True)))
    if comparison.not_run:
        reasons = [[name, reason] for name, reason in comparison.not_run.items()]
        tables.append(("Not run", (["arm", "reason"], reasons)))
    return tables


def arm_rows(comparison: Comparison, *, brief: bool = False) -> Rows:
    """A row per arm: seeds, AP, AP50, AP75, differences to the base arm, share of an oracle's gain.

    Values are mean ± sample standard deviation over seeds; differences are taken seed by seed.
    Arms that were not run have a row too.

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
        rows.append(row)
    empty = [NONE] * (len(header) - 2)
    rows += [[name, "not run", *empty] for name in comparison.not_run]
    return header, rows


def arm_class_rows(comparison: Comparison, *, brief: bool = False) -> Rows:
    """A row per class: AP of the base arm, then the difference of every other arm to it.

    Without the base arm, or with no other, the AP of every arm.

    Args:
        brief: means without the deviation over seeds.
    """

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
            c,
            *(cell(comparison.mean(a, category=c)) for a in first),
            *(cell(comparison.difference(a, category=c), signed=True) for a in others),
        ]
        for c in comparison.classes
    ]
    return ["class", *first, *others], rows


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
    command = comparison.command or shlex.join(["relabel", *sys.argv[1:]])
    parts.append(f"```\n{command}\n```\n")
    parts.append("\n".join(f"- {k}: {v}" for k, v in facts.items() if v not in (None, "")) + "\n")
    if comparison.arms:
        text = f"Percent, {_spread_text(comparison)}."
        if comparison.relative:
            text += f" Changes are differences to {BASE}, taken seed by seed."
        parts.append(f"## Test AP\n\n{text}\n")
        parts.append(markdown(arm_rows(comparison)))
        parts.append("![AP per arm](arms.svg)\n")
        missing = comparison.missing_seeds
        parts += [
            f"Not finished: seed {_listed(seeds)} of {name}.\n" for name, seeds in missing.items()
        ]
    if comparison.arms and comparison.classes:
        if comparison.relative:
            text = f"AP of {BASE}, and the differences of the other arms to it"
        else:
            text = "AP"
        parts.append(f"## Classes\n\n{text}, in percent.\n")
        parts.append(markdown(arm_class_rows(comparison)))
        parts.append("![AP per class](classes.svg)\n")
    if any(arm.curves for arm in comparison.arms.values()):
        parts.append("## Learning curves\n\n![AP over iterations](curves.svg)\n")
    parts.append("## Not run\n")
    if comparison.not_run:
        parts += ["\n".join(f"- {name}: {why}" for name, why in comparison.not_run.items()) + "\n"]
    else:
        parts.append("Nothing: every arm asked for has results.\n")
    return "\n".join(parts)


def write_outputs(folder: Path, comparison: Comparison) -> None:
    """Write ``downstream.json``, ``downstream.md`` and the plots, each complete or not at all.

    The plots are ``arms``, ``classes`` and ``curves``, each as PNG and SVG.

    Raises:
        RelabelError: the disk is full.
    """
    from relabel.reports.charts import save_figure
    from relabel.studies.downstream.plots import all_figures

    atomic_write_json(folder / JSON, comparison.to_dict(), indent=2)
    for name, figure in all_figures(comparison).items():
        save_figure(figure, folder / name)
    atomic_write_bytes(folder / MARKDOWN, markdown_report(comparison).encode())


def _share(comparison: Comparison, arm: str) -> str:
    if arm in (ORACLE, BASE):
        return NONE
    share = comparison.share_of_gain(arm)
    return NONE if share is None else f"{round(100 * share) + 0} %"


def _spread_text(comparison: Comparison) -> str:
    most = max(len(arm.metrics) for arm in comparison.arms.values())
    return f"mean ± standard deviation over {most} seeds" if most > 1 else "one seed"


def _listed(values: Sequence[object] | str | None) -> str:
    if values is None or isinstance(values, str):
        return values or ""
    return ", ".join(str(v) for v in values)
