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
    from relabel.align.plan import AlignPlan
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
    from relabel.align.plan import prepare

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
    ran = plan.run(overwrite=overwrite).ran
    if not ran:
        message("Everything is done already.", quiet=runtime.quiet)
    _print_result(plan, ran, as_json)
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


def _print_plan(plan: AlignPlan, as_json: bool) -> None:
    rows = plan.rows()
    if as_json:
        click.echo(json.dumps({"out": str(plan.out), "stages": rows}))
        return
    width = max(len(row["stage"]) for row in rows)
    for row in rows:
        needed = row["runs"] or row["status"] == "done"
        click.echo(f"{row['stage']:<{width}}  {_STATUS[row['status']] if needed else 'not needed'}")
        for difference in row["differences"]:
            click.echo(f"{'':<{width}}    {difference}")
    click.echo(f"{sum(row['runs'] for row in rows)} of {len(rows)} stages to run in {plan.out}")


def _print_result(plan: AlignPlan, ran: tuple[str, ...], as_json: bool) -> None:
    folder = plan.result.folder
    annotations = {name: folder / name / "annotations.json" for name in plan.sources}
    merged, report = folder / "merged.json", folder / "report.html"
    if as_json:
        summary = {
            "result": str(folder),
            "annotations": {name: str(path) for name, path in annotations.items()},
            "merged": str(merged),
            "report": str(report),
            "ran": list(ran),
        }
        click.echo(json.dumps(summary))
        return
    for name, path in annotations.items():
        click.echo(f"{name} in the label space of {plan.target}: {path}")
    click.echo(f"target and sources in one file: {merged}")
    click.echo(f"report: {report}")
