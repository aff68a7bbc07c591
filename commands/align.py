"""``relabel align``: the whole job."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from relabel.align.settings import AlignSettings, PipelineSettings
from relabel.crosslabel.settings import CrossLabelSettings
from relabel.detectors.sam3.settings import Sam3Settings
from relabel.detectors.settings import SpecialistSettings
from relabel.errors import Problems
from relabel.lat.settings import LatSettings
from relabel.workspace.progress import message

from ._options import (
    SHARED_FIELDS,
    GroupedCommand,
    backbone_option,
    catalogue_of,
    comma_list,
    resolve_backbone,
    runtime_of,
    runtime_options,
    sam3_settings,
    settings_of,
    settings_options,
    settings_table,
    shared_settings,
    tell_problems,
)

if TYPE_CHECKING:
    from relabel.align.plan import Plan
    from relabel.align.run import AlignResult
    from relabel.catalogue.catalogue import Catalogue

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
_STAGES = (
    (SpecialistSettings, "specialist", "Specialists", SHARED_FIELDS),
    (CrossLabelSettings, "crosslabel", "Cross-labelling", SHARED_FIELDS),
    (LatSettings, "lat", "Label-Aligned Transfer", ("seed",)),
    (Sam3Settings, "sam3", "SAM 3, where it labels", ()),
)
_STATUS = {
    "missing": "to do",
    "partial": "resume",
    "done": "done",
    "changed": "changed: needs --overwrite",
}


def pipeline_options(function: F) -> F:
    """Options of the stages' settings, for `pipeline_settings`."""
    for cls, prefix, heading, left_out in reversed(_STAGES):
        function = settings_options(cls, prefix, heading=heading, leave_out=left_out)(function)
    return function


@click.command(cls=GroupedCommand)
@click.option(
    "--target", required=True, metavar="NAME", help="Dataset whose label space is the goal."
)
@click.option(
    "--sources",
    required=True,
    multiple=True,
    metavar="NAME,NAME",
    help="Datasets to relabel, with commas or by repeating the option.",
)
@click.option(
    "-o", "--out", type=click.Path(file_okay=False), help="Workspace folder. [runs/TARGET]"
)
@click.option(
    "--shared",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Folder of specialists and cross-labels, to use them for several targets. [OUT]",
)
@backbone_option
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Redo the stages whose settings or inputs changed, and what depends on them.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the plan or the result as JSON.")
@settings_options(AlignSettings, heading="Result")
@runtime_options
@pipeline_options
def cli(
    target: str,
    sources: tuple[str, ...],
    out: str | None,
    shared: str | None,
    dry_run: bool,
    overwrite: bool,
    as_json: bool,
    **params: Any,
) -> None:
    """Rewrite the annotations of source datasets into a target dataset's label space.

    Trains a specialist per dataset, pseudo-labels every dataset with the others' specialists,
    trains Label-Aligned Transfer on all of them and rewrites the sources. Finished stages are
    reused and interrupted ones resumed by the same command. Datasets are named in relabel.toml
    or with --data.
    """
    from relabel.align.run import execute, prepare

    started = time.monotonic()
    catalogue = catalogue_of(params)
    runtime = runtime_of(params, catalogue.table("runtime"))
    settings = pipeline_settings(catalogue, params)
    settings.require_lat_backbone()
    folder = Path(out) if out else Path("runs") / target
    problems = Problems(runtime.skip_bad)
    names = comma_list(sources)
    plan = prepare(
        catalogue,
        target,
        names,
        folder,
        settings,
        runtime,
        shared=Path(shared) if shared else None,
        problems=problems,
    )
    tell_problems(problems, runtime.quiet)
    if dry_run:
        _print_plan(plan, as_json)
        return
    result = execute(plan, catalogue, runtime, overwrite=overwrite)
    if not result.ran:
        message("Everything is done already.", quiet=runtime.quiet)
    _print_result(plan, result, as_json)
    message(f"Took {time.monotonic() - started:.0f} s.", quiet=runtime.quiet or as_json)


def pipeline_settings(catalogue: Catalogue, params: dict[str, Any]) -> PipelineSettings:
    """The settings of all stages: options, over relabel.toml, over defaults."""
    shared = shared_settings(catalogue, params)
    if params.get("lat_backbone") is not None:
        params = {**params, "lat_backbone": resolve_backbone(params["lat_backbone"], Path.cwd())}

    def of(cls: type[T], name: str, prefix: str, **values: Any) -> T:
        return settings_of(
            cls,
            params,
            prefix,
            table=settings_table(catalogue, name),
            where=f"[{name}]",
            **values,
        )

    return PipelineSettings(
        specialist=of(SpecialistSettings, "specialist", "specialist", **shared),
        crosslabel=of(CrossLabelSettings, "crosslabel", "crosslabel"),
        lat=of(LatSettings, "lat", "lat", seed=shared["seed"]),
        align=of(AlignSettings, "align", ""),
        sam3=sam3_settings(catalogue, params),
    )


def _print_plan(plan: Plan, as_json: bool) -> None:
    to_run = {step.title for step in plan.to_run}
    rows = []
    for step in plan.steps:
        status = plan.status[step.title]
        needed = step.title in to_run or status == "done"
        rows.append(
            {
                "stage": step.title,
                "status": status,
                "runs": step.title in to_run,
                "folder": str(step.stage.folder),
                "note": _STATUS[status] if needed else "not needed",
                "differences": step.stage.differences() if status == "changed" else [],
            }
        )
    if as_json:
        plain = [{k: v for k, v in row.items() if k != "note"} for row in rows]
        click.echo(json.dumps({"out": str(plan.out), "stages": plain}))
        return
    width = max(len(row["stage"]) for row in rows)
    for row in rows:
        click.echo(f"{row['stage']:<{width}}  {row['note']}")
        for difference in row["differences"]:
            click.echo(f"{'':<{width}}    {difference}")
    click.echo(f"{len(to_run)} of {len(rows)} stages to run in {plan.out}")


def _print_result(plan: Plan, result: AlignResult, as_json: bool) -> None:
    summary = {
        "result": str(result.folder),
        "annotations": {name: str(path) for name, path in result.annotations.items()},
        "merged": str(result.merged),
        "report": str(result.folder / "report.html"),
        "ran": list(result.ran),
    }
    if as_json:
        click.echo(json.dumps(summary))
        return
    for name, path in result.annotations.items():
        click.echo(f"{name} in the label space of {plan.target}: {path}")
    click.echo(f"target and sources in one file: {result.merged}")
    click.echo(f"report: {result.folder / 'report.html'}")
