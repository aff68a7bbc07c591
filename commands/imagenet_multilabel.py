"""``relabel imagenet-multilabel``: every object of every image, the whole job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relabel.errors import ConfigError, Problems
from relabel.multilabel.settings import (
    PROBE,
    AggregateSettings,
    FilterSettings,
    LabelerSettings,
    LabelMapSettings,
    MaskCutSettings,
)
from relabel.workspace.progress import message

from ._options import (
    GroupedCommand,
    catalogue_of,
    resolve_backbone,
    runtime_of,
    runtime_options,
    seed_of,
    settings_of,
    settings_options,
    settings_table,
    tell_problems,
)

if TYPE_CHECKING:
    from relabel.catalogue.catalogue import Catalogue
    from relabel.multilabel.plan import MultilabelPlan, MultilabelSettings
    from relabel.settings import Runtime

_FIELDS = ("seed", "backbone", "classifier", "transpose")


@click.command("imagenet-multilabel", cls=GroupedCommand)
@click.option(
    "--images",
    "root",
    required=True,
    type=click.Path(file_okay=False),
    help="Folder of class folders (wnids, numbers, names), or of images with --labels.",
)
@click.option(
    "--labels",
    "labels_file",
    type=click.Path(dir_okay=False),
    help="Lines `file name<TAB>class` in place of class folders.",
)
@click.option("--classes", help="The classes: a YAML or text file, or a built-in label space.")
@click.option(
    "--backbone",
    metavar="NAME",
    help="Frozen backbone: transformers hub id, local folder or torchvision name. "
    f"[{MaskCutSettings.backbone}]",
)
@click.option(
    "--maps", type=click.Path(file_okay=False), help="Folder of ReLabel's label maps (.pt)."
)
@click.option(
    "--classifier",
    metavar="NAME",
    help="Makes the label maps where there is no --maps: a hub id, a local folder, a torchvision "
    "name, or `probe`: a linear head trained on the images' own labels.",
)
@click.option(
    "--transpose-maps/--no-transpose-maps",
    "transpose",
    default=None,
    help="Swap the axes of the maps of --maps.",
)
@click.option(
    "-o",
    "--out",
    default="labels",
    show_default=True,
    type=click.Path(file_okay=False),
    help="Workspace folder.",
)
@click.option(
    "--shard",
    "part",
    metavar="I/N",
    help="Do part I of N, beside other processes with the same --out; 1/N to N/N.",
)
@click.option(
    "--calibrate",
    "taus",
    metavar="T,T,...",
    help="Only show masks per image and coverage over these thresholds, on some of the images.",
)
@click.option(
    "--calibration-images",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Images that --calibrate looks at.",
)
@click.option("--fiftyone", is_flag=True, help="Also write the result as a FiftyOne dataset.")
@click.option("--dry-run", is_flag=True, help="Show the plan and stop.")
@click.option("--overwrite", is_flag=True, help="Redo stages whose settings or images changed.")
@click.option("--json", "as_json", is_flag=True, help="Print the paths of the result as JSON.")
@settings_options(MaskCutSettings, heading="Regions", leave_out=_FIELDS)
@settings_options(LabelMapSettings, "map", heading="Label maps", leave_out=_FIELDS)
@settings_options(FilterSettings, "filter", heading="Filter", leave_out=_FIELDS)
@settings_options(LabelerSettings, "labeler", heading="Labeler", leave_out=_FIELDS)
@settings_options(AggregateSettings, "label", heading="Labels of an image", leave_out=_FIELDS)
@runtime_options
def cli(
    root: str,
    labels_file: str | None,
    classes: str | None,
    maps: str | None,
    out: str,
    part: str | None,
    taus: str | None,
    calibration_images: int,
    fiftyone: bool,
    dry_run: bool,
    overwrite: bool,
    as_json: bool,
    **params: Any,
) -> None:
    """Give every image of a folder the labels of all its objects.

    MaskCut finds regions, label maps say what they show, a labeler learns from the regions that
    show the image's own label and then labels all of them. Stages that are done are never redone:
    the same command goes on after an interruption.
    """
    from relabel.datasets.pixels.image_folder import read_image_set
    from relabel.multilabel.plan import MultilabelPlan
    from relabel.multilabel.run import run_plan
    from relabel.workspace.parts import Part

    catalogue = catalogue_of(params)
    runtime = runtime_of(params, catalogue.table("runtime"))
    settings = _settings(catalogue, params)
    mine = Part.parse(part) if part else None
    if maps is not None and not Path(maps).is_dir():
        raise ConfigError("folder of label maps does not exist", file=maps, remedy="Check --maps.")
    problems = Problems(runtime.skip_bad)
    images = read_image_set(root, labels_file, classes, problems=problems)
    tell_problems(problems, runtime.quiet)
    if taus is not None:
        _calibrate(images, settings, runtime, taus, calibration_images, as_json)
        return
    plan = MultilabelPlan(images, Path(out), settings, None if maps is None else Path(maps))
    if not runtime.quiet or dry_run:
        _show(plan)
    if dry_run:
        return
    outcome = run_plan(plan, runtime, part=mine, overwrite=overwrite)
    if outcome.waits_for is not None:
        message(
            f"this part of stage {outcome.waits_for!r} is done, others are still missing; the "
            "same command goes on once they are there",
            quiet=runtime.quiet,
        )
    folder = plan.stages["result"].folder
    done = outcome.waits_for is None
    if done and fiftyone:
        _fiftyone(plan, folder, runtime.quiet)
    if as_json:
        paths = {name: str(path) for name, path in plan.stages["result"].outputs.items()}
        click.echo(json.dumps({"out": out, "done": done, "waits_for": outcome.waits_for, **paths}))
    elif done:
        click.echo(str(folder / "labels.tsv"))
        message(f"report: {folder / 'report.html'}", quiet=runtime.quiet)


def _settings(catalogue: Catalogue, params: dict[str, Any]) -> MultilabelSettings:
    """Options over the tables [maskcut], [label_maps], [filter], [labeler], [labels]."""
    from relabel.multilabel.plan import MultilabelSettings

    seed = seed_of(params, catalogue.table("runtime"))
    given = params.get("backbone")
    backbone = None if given is None else resolve_backbone(given, Path.cwd())
    classifier = params.get("classifier")
    if classifier is not None and classifier != PROBE:
        classifier = resolve_backbone(
            classifier, Path.cwd(), what="classifier", option="--classifier"
        )

    def of(cls: Any, prefix: str, table: str, **shared: Any) -> Any:
        return settings_of(
            cls,
            params,
            prefix,
            table=settings_table(catalogue, table),
            where=f"[{table}]",
            **shared,
        )

    return MultilabelSettings(
        maskcut=of(MaskCutSettings, "", "maskcut", backbone=backbone).resolved(),
        maps=of(
            LabelMapSettings,
            "map",
            "label_maps",
            classifier=classifier,
            transpose=params.get("transpose"),
        ),
        filter=of(FilterSettings, "filter", "filter"),
        labeler=of(LabelerSettings, "labeler", "labeler", seed=seed),
        aggregate=of(AggregateSettings, "label", "labels"),
    )


def _show(plan: MultilabelPlan) -> None:
    """The plan on stderr: every stage and where it stands."""
    count = len(plan.images)
    labelled = int((plan.images.labels >= 0).sum())
    message(f"{count} images, {labelled} with a label, {plan.images.num_classes} classes")
    for number, (kind, status) in enumerate(plan.status.items(), 1):
        message(f"  {number}. {kind:8} {status:8} {plan.stages[kind].folder}")


def _calibrate(
    images: Any,
    settings: MultilabelSettings,
    runtime: Runtime,
    taus: str,
    count: int,
    as_json: bool,
) -> None:
    """Masks per image and coverage over tau, on an even spread of images."""
    from dataclasses import asdict

    import numpy as np

    from relabel.evaluation.tables import rich_table
    from relabel.multilabel.regions.calibrate import calibrate_tau, calibration_rows
    from relabel.multilabel.regions.features import PatchFeatures
    from relabel.multilabel.regions.stage import cut_features
    from relabel.training.loop import resolve_device

    try:
        values = [float(text) for text in taus.split(",") if text.strip()]
    except ValueError:
        raise click.BadParameter(
            f"{taus!r} is no list of numbers", param_hint="--calibrate"
        ) from None
    rows = np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).astype(int))
    extractor = PatchFeatures.create(settings.maskcut, resolve_device(runtime.device))
    maps = cut_features(images.select(rows), extractor, settings.maskcut, runtime)
    found = calibrate_tau(maps, values, settings.maskcut.max_masks)
    if as_json:
        click.echo(json.dumps([asdict(row) for row in found]))
        return
    from rich.console import Console

    Console().print(rich_table(calibration_rows(found), "MaskCut by tau"))


def _fiftyone(plan: MultilabelPlan, folder: Path, quiet: bool) -> None:
    from relabel.multilabel.result.export import paired
    from relabel.multilabel.result.fiftyone_export import write_fiftyone

    regions, labels = plan.shards("regions").paths, plan.shards("labels").paths
    out = folder.parent / "fiftyone"
    name = f"{plan.out.resolve().name} multi-labels"
    write_fiftyone(out, plan.images, paired(regions, labels), name=name)
    message(f"FiftyOne: relabel view {out}", quiet=quiet)
