"""``relabel imagenet-multilabel``: every object of every image, the whole job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relabel.errors import ConfigError, Problems
from relabel.multilabel.settings import (
    AggregateSettings,
    FilterSettings,
    LabelMapSettings,
    MaskCutSettings,
    RegionClassifierSettings,
)
from relabel.workspace.progress import message, tell_problems

from ._options import (
    DRY_RUN_HELP,
    FOLDER,
    FOLDER_OR_URL,
    OUT_FOLDER,
    Given,
    GroupedCommand,
    settings_options,
)
from ._results import kept, print_forecast, print_json

if TYPE_CHECKING:
    from relabel.multilabel.plan import MultilabelPlan, MultilabelSettings
    from relabel.settings import Runtime


@click.command("imagenet-multilabel", cls=GroupedCommand)
@click.option(
    "--images",
    "root",
    required=True,
    type=FOLDER_OR_URL,
    help="Folder of class folders, or of images with --labels; or its URL.",
)
@click.option(
    "--labels",
    "labels_file",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Lines `file name<TAB>class`.",
)
@click.option("--classes", metavar="FILE", help="YAML or text, or a built-in label space.")
@click.option("--maps", type=FOLDER, metavar="DIR", help="Folder of ReLabel's label maps (.pt).")
@click.option(
    "-o", "--out", default="labels", show_default=True, type=OUT_FOLDER, help="Workspace, or URL."
)
@click.option(
    "--shard",
    "part",
    metavar="I/N",
    help="Share I of N, beside processes with the same --out.",
)
@click.option(
    "--calibrate",
    "taus",
    metavar="T,T,...",
    help="Only show the masks of some images for these tau.",
)
@click.option(
    "--calibration-images",
    type=click.IntRange(min=1),
    metavar="N",
    default=100,
    help="Images that --calibrate looks at. [100]",
)
@click.option("--fiftyone", is_flag=True, help="Also write the result as a FiftyOne dataset.")
@click.option("--dry-run", is_flag=True, help=DRY_RUN_HELP)
@click.option("--overwrite", is_flag=True, help="Redo stages whose settings or images changed.")
@click.option("--json", "as_json", is_flag=True, help="Print the paths of the result as JSON.")
@settings_options(
    ("maskcut", "label_maps", "filter", "region_classifier", "labels"),
    {
        "Regions": (
            ("--backbone", "maskcut.backbone", "Frozen; hub id or folder. [DINOv3 ViT-L/16]"),
            ("--image-size", "maskcut.image_size", "Side of images in pixels."),
            ("--tau", "maskcut.tau", "Similarity of neighbouring patches."),
            ("--max-masks", "maskcut.max_masks", "Maximum of masks per image."),
            ("--refine", "maskcut.refine", "Masks at full resolution."),
            ("--batch-size", "maskcut.batch_size"),
            ("--shard-images", "maskcut.shard_images", "Images per shard, the unit of resuming."),
        ),
        "Labels": (
            (
                "--classifier",
                "label_maps.classifier",
                "Makes the label maps; or probe. [none]",
            ),
            (
                "--transpose-maps/--no-transpose-maps",
                "label_maps.transpose",
                "Swap the axes of --maps.",
            ),
            ("--filter-rule", "filter.rule", "What the region classifier learns from. [original]"),
            ("--filter-threshold", "filter.threshold", "Minimum score of a region."),
            ("--region-classifier-epochs", "region_classifier.epochs"),
            ("--label-mode", "labels.mode", "Probabilities, or zero and one. [soft]"),
        ),
    },
    engine=True,
)
def cli(
    root: Path | str,
    labels_file: str | None,
    classes: str | None,
    maps: Path | None,
    out: Path,
    part: str | None,
    taus: str | None,
    calibration_images: int,
    fiftyone: bool,
    dry_run: bool,
    overwrite: bool,
    as_json: bool,
    given: Given,
) -> None:
    """Give every image of a folder the labels of all its objects.

    MaskCut finds regions, label maps say what they show, a region classifier learns from the
    regions that show the image's own label and then labels all of them. The same command resumes
    what was interrupted.
    """
    from relabel.datasets.pixels.image_folder import read_image_set
    from relabel.multilabel.plan import MultilabelPlan
    from relabel.multilabel.run import forecast as forecast_of
    from relabel.multilabel.run import run_plan
    from relabel.workspace.parts import WorkerShare

    runtime = given.runtime
    settings = _settings(given)
    mine = WorkerShare.parse(part) if part else None
    if maps is not None and not maps.is_dir():
        raise ConfigError("folder of label maps does not exist", file=maps, remedy="Check --maps.")
    problems = Problems(runtime.skip_bad)
    images = read_image_set(root, labels_file, classes, problems=problems)
    tell_problems(problems, runtime.quiet)
    if taus is not None:
        _calibrate(images, settings, runtime, taus, calibration_images, as_json)
        return
    plan = MultilabelPlan(images, out, settings, maps)
    if not runtime.quiet or dry_run:
        _show(plan)
    if dry_run:
        forecast = forecast_of(plan, runtime, part=mine, overwrite=overwrite)
        print_forecast(forecast, as_json, out=str(out))
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
        print_json({"out": str(out), "done": done, "waits_for": outcome.waits_for, **paths})
    elif done:
        kept(str(folder / "labels.tsv"))
        message(f"report: {folder / 'report.html'}", quiet=runtime.quiet)


def _settings(given: Given) -> MultilabelSettings:
    from relabel.multilabel.plan import MultilabelSettings

    return MultilabelSettings(
        maskcut=given.of(MaskCutSettings, "maskcut").resolved(),
        maps=given.of(LabelMapSettings, "label_maps"),
        filter=given.of(FilterSettings, "filter"),
        region_classifier=given.of(RegionClassifierSettings, "region_classifier"),
        aggregate=given.of(AggregateSettings, "labels"),
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
        print_json([asdict(row) for row in found])
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
