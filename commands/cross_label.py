"""``relabel cross-label``: pseudo-labels on a dataset by a specialist, or by SAM 3."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relabel.crosslabel.settings import CrossLabelSettings
from relabel.detectors.sam3.settings import Sam3Settings
from relabel.errors import ConfigError, Problems, did_you_mean
from relabel.workspace.progress import message, tell_problems

from ._options import (
    DRY_RUN_HELP,
    OUT_FOLDER,
    Given,
    GroupedCommand,
    resolve_network,
    settings_options,
)
from ._results import kept, print_forecast, print_json

if TYPE_CHECKING:
    import numpy as np

    from relabel.catalogue.catalogue import Catalogue
    from relabel.datasets.dataset import DetectionDataset
    from relabel.datasets.labelspace import LabelSpace
    from relabel.settings import Runtime
    from relabel.workspace.estimate import Forecast
    from relabel.workspace.stage import Stage

SAM3 = "sam3"
_MOST_CLASSES = 30  # of the table; --json has all


@click.command("cross-label", cls=GroupedCommand)
@click.argument("checkpoint")
@click.argument("dataset")
@click.option("--format", help="Format, where DATASET is a path.")
@click.option("--split", help="Split to label; default the one of relabel.toml.")
@click.option(
    "--prompts-from",
    metavar="NAME",
    help="Label space to label in, where CHECKPOINT is sam3: a dataset, a built-in label space "
    "or a YAML file; each category's prompt, else its name, is the text.",
)
@click.option(
    "--given-boxes",
    is_flag=True,
    help="Give DATASET's own boxes to the specialist's box head, which classifies and refines "
    "them, for label-guided labels (evaluate transfer --given-boxes).",
)
@click.option("-o", "--out", required=True, type=OUT_FOLDER, help="Folder or URL for the shards.")
@click.option("--dry-run", is_flag=True, help=DRY_RUN_HELP)
@click.option("--overwrite", is_flag=True, help="Start anew where settings or data changed.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
@settings_options(
    ("crosslabel", SAM3),
    {
        "Labelling": (
            ("--min-score", "crosslabel.min_score", "Minimum confidence of a pseudo-label."),
            ("--threshold", "crosslabel.threshold"),
            ("--threshold-on", "crosslabel.threshold_on"),
            ("--nms-iou", "crosslabel.nms_iou"),
            ("--max-per-image", "crosslabel.max_per_image"),
            ("--batch-size", "crosslabel.batch_size"),
        )
    },
    engine=True,
)
def cli(
    checkpoint: str,
    dataset: str,
    format: str | None,
    split: str | None,
    prompts_from: str | None,
    given_boxes: bool,
    out: Path,
    dry_run: bool,
    overwrite: bool,
    as_json: bool,
    given: Given,
) -> None:
    """Label the images of DATASET with the specialist in the folder CHECKPOINT.

    With `sam3:MODEL` as CHECKPOINT, a hub id such as sam3:facebook/sam3 or a local folder, SAM 3
    labels them, prompted with the categories of --prompts-from; `sam3` alone takes the model of
    relabel.toml. Writes Parquet shards with the full score vector of every box. Finished shards
    are never redone: the same command goes on after an interruption.
    """
    from relabel.align.inputs import read_training_set
    from relabel.align.settings import stage_settings
    from relabel.crosslabel.given import label_given_boxes, read_given_labels
    from relabel.crosslabel.prompted import cross_label_sam3, sam3_identity
    from relabel.crosslabel.shards import read_selected
    from relabel.datasets.fingerprint import dataset_fingerprint
    from relabel.detectors.sam3.settings import class_prompts
    from relabel.workspace.fingerprint import fingerprint, folder_fingerprint
    from relabel.workspace.stage import Stage

    catalogue, runtime = given.catalogue, given.runtime
    settings = given.of(CrossLabelSettings, "crosslabel")
    model = _sam3_model(checkpoint)
    if model is None and not Path(checkpoint).is_dir():
        raise click.BadParameter(
            f"Directory {checkpoint!r} does not exist.", param_hint="'CHECKPOINT'"
        )
    if (model is None) != (prompts_from is None):
        raise click.UsageError(
            "sam3 needs the label space to label in: add --prompts-from NAME."
            if prompts_from is None
            else "--prompts-from is for sam3; a specialist has a label space of its own."
        )
    if given_boxes and model is not None:
        raise click.UsageError("--given-boxes is for a specialist; sam3 has no box head.")
    if given_boxes and given.typed("crosslabel") - {"batch_size"}:
        message("With --given-boxes nothing is filtered: thresholds change nothing.")
    entry = catalogue.resolve(dataset, format, split)
    problems = Problems(runtime.skip_bad)
    images = read_training_set(entry, out.parent, runtime, problems)
    tell_problems(problems, runtime.quiet)
    space = None if prompts_from is None else _prompt_space(catalogue, prompts_from)
    sam3 = None
    inputs = {"images": dataset_fingerprint(images, boxes=given_boxes)}
    # Nothing filters given boxes.
    values: dict[str, Any] = {"given_boxes": True} if given_boxes else stage_settings(settings)
    if space is None:
        inputs["specialist"] = folder_fingerprint(checkpoint)
    else:
        named = {}
        if model:
            option = "CHECKPOINT"
            named["model"] = resolve_network(model, Path.cwd(), what="SAM 3 model", option=option)
        sam3 = given.of(Sam3Settings, SAM3, over=named)
        values[SAM3] = sam3_identity(sam3)
        inputs["prompts"] = fingerprint([space.class_names, class_prompts(space)])
    stage = Stage(f"labels on {entry.name}", out, settings=values, inputs=inputs)

    def label(
        images: DetectionDataset, out: Path, settings: CrossLabelSettings, runtime: Runtime
    ) -> None:
        from relabel.crosslabel.label import cross_label

        if given_boxes:
            label_given_boxes([Path(checkpoint)], images, out, settings, runtime)
        elif space is None:
            cross_label(Path(checkpoint), images, out, settings, runtime)
        else:
            cross_label_sam3(space, images, out, settings, runtime, sam3=sam3)

    if dry_run:
        forecast = _forecast(stage, images, settings, runtime, label, overwrite=overwrite)
        print_forecast(forecast, as_json)
        return
    if not stage.run(lambda: label(images, out, settings, runtime), overwrite=overwrite):
        message("Labelled already.", quiet=runtime.quiet)
    labels, selection = (read_given_labels(out), None) if given_boxes else read_selected(out)
    counts = {"images": len(images), "boxes": len(labels), "by": labels.by, "on": labels.on}
    classes = {} if selection is None else selection.by_class(labels.space, settings.min_score)
    if as_json:
        print_json({"out": str(out), **counts, **({"classes": classes} if classes else {})})
        return
    if classes:
        _print_classes(classes)
    kept(f"{len(labels)} boxes on {len(images)} images: {out}")


def _forecast(
    stage: Stage,
    images: DetectionDataset,
    settings: CrossLabelSettings,
    runtime: Runtime,
    label: Callable[[DetectionDataset, Path, CrossLabelSettings, Runtime], None],
    *,
    overwrite: bool,
) -> Forecast:
    """What is left to do, from labelling some of the images for a minute at most."""
    from relabel.training.loop import resolve_device
    from relabel.workspace.engine import workers
    from relabel.workspace.estimate import measured
    from relabel.workspace.stage import Shards

    status = stage.status()
    if status == "changed" and not overwrite:
        raise stage.changed_error()
    shards = Shards(stage.folder, total=len(images), size=settings.shard_images)
    missing = list(range(len(shards)) if status == "changed" else shards.missing())
    team = workers(runtime, resolve_device(runtime.device).type)
    quiet = replace(runtime, quiet=True)

    def make(rows: np.ndarray, out: Path) -> None:
        few = replace(settings, shard_images=math.ceil(len(rows) / team.count))
        label(images.subset(rows), out, few, quiet)

    return measured(
        make,
        total=len(images),
        images=sum(len(shards.items(i)) for i in missing),
        shards=len(missing),
        out=stage.folder,
        workers=team,
    )


def _print_classes(classes: dict[str, dict[str, Any]]) -> None:
    """A row per class with candidates, the most frequent ones where there are many."""
    from relabel.evaluation.tables import rich_table

    frequent = sorted(classes.items(), key=lambda item: -item[1]["candidates"])
    rows = [
        [name, str(values["candidates"]), str(values["kept"]), f"{values['threshold']:.3f}"]
        for name, values in frequent
        if values["candidates"]
    ]
    title = "Pseudo-labels per class"
    if len(rows) > _MOST_CLASSES:
        title += f", the {_MOST_CLASSES} most frequent of {len(rows)}"
    if rows:
        from rich.console import Console

        head = ["class", "candidates", "kept", "threshold"]
        Console().print(rich_table((head, rows[:_MOST_CLASSES]), title))


def _sam3_model(checkpoint: str) -> str | None:
    """What follows ``sam3:``, "" for ``sam3`` alone, None for a specialist's folder."""
    kind, colon, model = checkpoint.partition(":")
    if kind != SAM3 or (not colon and Path(checkpoint).is_dir()):
        return None
    return model


def _prompt_space(catalogue: Catalogue, name: str) -> LabelSpace:
    """The label space of a dataset, of a YAML file, or a built-in one, in this order.

    Raises:
        ConfigError: none of the three.
    """
    from relabel.datasets.labelspace import LabelSpace

    if name in catalogue.entries:
        # Its space alone is of interest, whatever is wrong with its boxes.
        return catalogue.get(name).read("train", problems=Problems(skip_bad=True)).space
    if name.endswith((".yaml", ".yml")) or name in LabelSpace.builtin_names():
        return LabelSpace.load(name)
    raise ConfigError(
        f"no dataset or label space is called {name!r}",
        remedy=did_you_mean(name, [*catalogue.entries, *LabelSpace.builtin_names()]),
    )
