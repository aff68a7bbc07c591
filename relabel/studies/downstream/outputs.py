"""The files of a downstream comparison's folder: JSON, tables, plots and the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from relabel.studies.downstream.report import json_result, markdown_report
from relabel.studies.downstream.results import LOG, Comparison, training_name
from relabel.workspace.atomic import atomic_write_bytes, atomic_write_json
from relabel.workspace.pipeline import logged_seconds

JSON = "downstream.json"
MARKDOWN = "downstream.md"
REPORT = "report.html"


def write_outputs(folder: Path, comparison: Comparison) -> None:
    """Write ``downstream.json``, ``downstream.md``, ``report.html`` and the plots.

    Each is complete or not there at all. The plots are ``arms``, ``classes``, ``curves`` and, where
    labels were compared with the truth, ``direct``, each as PNG and SVG.

    Raises:
        RelabelError: the disk is full.
    """
    from relabel.reports.charts import save_figure
    from relabel.reports.made import made_now
    from relabel.studies.downstream.page import write_downstream_report
    from relabel.studies.downstream.plots import all_figures

    atomic_write_json(folder / JSON, json_result(comparison), indent=2)
    for name, figure in all_figures(comparison).items():
        save_figure(figure, folder / name)
    atomic_write_bytes(folder / MARKDOWN, markdown_report(comparison).encode())
    made = made_now(_seconds(folder, comparison))
    if comparison.command is not None:
        made = replace(made, command=comparison.command)
    if comparison.hardware is not None:
        made = replace(made, machine=comparison.hardware)
    write_downstream_report(folder / REPORT, comparison, made)


def _seconds(folder: Path, comparison: Comparison) -> dict[str, float]:
    """What the trainings that the comparison shows took, as far as the log tells."""
    found = logged_seconds(folder / LOG)
    names = [training_name(arm, s) for s in comparison.seeds for arm in comparison.arms]
    return {name: found[name] for name in names if name in found}
