"""``relabel align``: the whole job."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relabel.align.settings import AlignSettings, PipelineSettings
from relabel.cli import State
from relabel.crosslabel.settings import CrossLabelSettings
from relabel.detectors.sam3.settings import Sam3Settings
from relabel.detectors.settings import SpecialistSettings
from relabel.errors import Problems
from relabel.files.json_text import read_object
from relabel.lat.settings import LatSettings
from relabel.workspace.progress import message, tell_problems

from ._options import FOLDER, Given, GroupedCommand, comma_list, settings_options
from ._results import FILE, kept, print_json, say

if TYPE_CHECKING:
    from relabel.align.plan import AlignPlan

PIPELINE = ("align", "specialist", "crosslabel", "lat", "sam3")
PIPELINE_OPTIONS = {
    "Specialists": (
        ("--specialist-preset", "specialist.preset", "For a few cores, or as published. [light]"),
        ("--specialist-epochs", "specialist.epochs"),
        ("--specialist-steps", "specialist.steps", "Training steps; 0: by epochs."),
        ("--specialist-batch-size", "specialist.batch_size", "Images per step."),
        ("--specialist-image-size", "specialist.image_size", "Short side of images in pixels."),
        ("--specialist-lr", "specialist.lr", "Peak learning rate."),
    ),
    "Label-Aligned Transfer": (
        ("--lat-preset", "lat.preset", "Ours, or the printed formula. [default]"),
        ("--lat-backbone", "lat.backbone", "Frozen backbone. [the specialists']"),
        ("--lat-epochs", "lat.epochs", "Passes over all training images."),
        ("--lat-steps", "lat.steps", "Training steps; 0: by epochs."),
    ),
}
_MOST_CLASSES = 30  # of the table; the report has all
_MOST_LOST = 10
_STATUS = {
    "missing": "to do",
    "partial": "resume",
    "done": "done",
    "changed": "changed: needs --overwrite",
    "asked": "to do again, with the decisions",
}


SHARED = click.option(
    "--shared",
    type=FOLDER,
    metavar="DIR",
    help="Specialists and cross-labels shared by several targets.",
)


@click.command(cls=GroupedCommand)
@click.option(
    "--target", required=True, metavar="NAME", help="Dataset whose label space is the goal."
)
@click.option(
    "--sources",
    required=True,
    multiple=True,
    metavar="NAME,NAME",
    help="Datasets to relabel.",
)
@click.option("-o", "--out", type=FOLDER, help="Workspace folder. [runs/TARGET]")
@SHARED
@click.option(
    "--review",
    type=FILE,
    multiple=True,
    metavar="FILE",
    help="Decisions of `relabel review export` that the result respects; repeatable.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the plan, and from a few real steps how many images, shards, hours and bytes it "
    "takes, and stop.",
)
@click.option("--overwrite", is_flag=True, help="Redo stages whose settings or inputs changed.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan or the result as JSON.")
@settings_options(
    PIPELINE,
    {
        "Options": (("--backbone", "specialist.backbone", "Backbone of the specialists."),),
        "Result": (
            ("--formats", "align.formats", "Of coco, fiftyone, voc, yolo. [coco,fiftyone]"),
            (
                "--prompted-detectors",
                "align.prompted_detectors",
                "Detectors that label by text: sam3. [none]",
            ),
            ("--sam3-model", "sam3.model", "Hub id or folder. [facebook/sam3]"),
        ),
        **PIPELINE_OPTIONS,
    },
    engine=True,
)
def cli(
    target: str,
    sources: tuple[str, ...],
    out: Path | None,
    shared: Path | None,
    review: tuple[Path, ...],
    dry_run: bool,
    overwrite: bool,
    as_json: bool,
    given: Given,
) -> None:
    """Rewrite the annotations of source datasets into a target dataset's label space.

    Trains a specialist per dataset, pseudo-labels every dataset with the others' specialists,
    trains Label-Aligned Transfer on all of them and rewrites the sources. Says first how long it
    will take on this machine, and before every stage how long is left. The same command resumes
    what was interrupted. Datasets are named in relabel.toml or with --data.
    """
    from relabel.align.plan import prepare

    started = time.monotonic()
    runtime = given.runtime
    settings = pipeline_settings(given)
    settings.require_lat_backbone()
    problems = Problems(runtime.skip_bad)
    plan = prepare(
        given.catalogue,
        target,
        comma_list(sources),
        out or Path("runs") / target,
        settings,
        runtime,
        shared=shared,
        review=review,
        problems=problems,
    )
    tell_problems(problems, runtime.quiet)
    if dry_run:
        _print_plan(plan, as_json)
        return
    if not runtime.quiet:
        _announce(plan, overwrite)
    ran = plan.run(overwrite=overwrite).ran
    if not ran:
        message("Everything is done already.", quiet=runtime.quiet)
    _print_result(plan, ran, as_json)
    message(f"Took {time.monotonic() - started:.0f} s.", quiet=runtime.quiet or as_json)


def pipeline_settings(given: Given) -> PipelineSettings:
    """The settings of all stages."""
    return PipelineSettings(
        specialist=given.of(SpecialistSettings, "specialist"),
        crosslabel=given.of(CrossLabelSettings, "crosslabel"),
        lat=given.of(LatSettings, "lat"),
        align=given.of(AlignSettings, "align"),
        sam3=given.of(Sam3Settings, "sam3"),
    )


def _announce(plan: AlignPlan, overwrite: bool) -> None:
    """Say on stderr how long the run will take, unless it will be refused or do little."""
    stages = plan.to_run()
    refused = not overwrite and any(stage.needs_overwrite for stage in stages)
    if refused or plan.lat not in stages:
        return
    from relabel.align import estimate

    known = click.get_current_context().find_root().ensure_object(State).expected
    said = estimate.announcement(plan, known)
    if said:
        message(f"Takes {said}.")


def _print_plan(plan: AlignPlan, as_json: bool) -> None:
    from relabel.align import estimate

    rows = plan.rows()
    forecast = estimate.forecast(plan)
    if as_json:
        print_json({"out": str(plan.out), "stages": rows, **forecast.to_dict()})
        return
    width = max(len(row["stage"]) for row in rows)
    for row in rows:
        needed = row["runs"] or row["status"] == "done"
        status = row["status"]
        if status == "changed" and not plan.stages[row["stage"]].needs_overwrite:
            status = "asked"
        say(f"{row['stage']:<{width}}  {_STATUS[status] if needed else 'not needed'}")
        for difference in row["differences"]:
            say(f"{'':<{width}}    {difference}")
    say(f"{sum(row['runs'] for row in rows)} of {len(rows)} stages to run in {plan.out}")
    for line in forecast.lines():
        say(line)


def _print_result(plan: AlignPlan, ran: tuple[str, ...], as_json: bool) -> None:
    folder = plan.result.folder
    annotations = {name: folder / name / "annotations.json" for name in plan.sources}
    merged, report = folder / "merged.json", folder / "report.html"
    # A result of an older version does not tell.
    manifest = read_object(folder / "manifest.json")
    changed, review = manifest.get("changes", {}), manifest.get("review", {})
    if as_json:
        summary = {
            "result": str(folder),
            "annotations": {name: str(path) for name, path in annotations.items()},
            "merged": str(merged),
            "report": str(report),
            "ran": list(ran),
        }
        print_json({**summary, "changes": changed, **({"review": review} if review else {})})
        return
    for name, change in changed.items():
        _print_changes(name, plan.target, change)
        if name in review:
            _print_review(review[name])
    for name, path in annotations.items():
        kept(f"{name} in the label space of {plan.target}: {path}")
    kept(f"target and sources in one file: {merged}")
    kept(f"report: {report}")
    if not plan.runtime.quiet:
        file = shlex.quote(str(merged))
        message("Next: look at it in FiftyOne, train on it, or take it elsewhere.")
        message(f"    relabel view {shlex.quote(str(plan.out))}")
        message(f"    relabel train-specialist {file}")
        message(f"    relabel datasets convert {file} --to yolo --out merged_yolo")


def _print_review(told: dict[str, Any]) -> None:
    """How many decisions were respected, and those that no longer have an object."""
    applied = ", ".join(f"{n:,} {verdict}" for verdict, n in told["applied"].items())
    say(f"decisions respected: {applied or 'none'}")
    lost = told["lost"]
    if lost:
        say(f"decisions without an object: {len(lost):,}")
    for one in lost[:_MOST_LOST]:
        say(f"    {one['decision']} {one['category']!r} in {one['file_name']}: {one['why']}")
    if len(lost) > _MOST_LOST:
        say("    and more: `review` in manifest.json")


def _print_changes(source: str, target: str, change: dict[str, Any]) -> None:
    """A row per source class with annotations: what happened to them."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console

    from relabel.datasets.changes import BOTH
    from relabel.evaluation.tables import rich_table

    head, rows = ["class"], []
    for name, told in change["classes"].items():
        # What is both counts in either column.
        both = told[BOTH]
        counts = {k: n + both * (k in ("renamed", "reshaped")) for k, n in told.items()}
        del counts[BOTH]
        head = ["class", *counts]
        rows.append([name, *(f"{n:,}" if n else "·" for n in counts.values())])
    if len(rows) > _MOST_CLASSES:
        rows.sort(key=lambda row: -sum(change["classes"][row[0]].values()))
        rows = rows[:_MOST_CLASSES]
    title = f"{source} in the label space of {target}"
    if rows:
        table = rich_table((head, rows), title)
        # All eight columns stand whole on 80 characters; long names of classes are folded.
        table.box, table.padding = SIMPLE_HEAD, (0, 1, 0, 0)
        for column in table.columns:
            column.no_wrap = column is not table.columns[0]
        Console().print(table)
    say(f"added, labels of objects without an annotation: {change['added']:,}")
