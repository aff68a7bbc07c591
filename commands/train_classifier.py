"""``relabel train-classifier``: an image classifier on soft multi-labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relabel.classifiers.settings import PRESETS, ClassifierSettings
from relabel.errors import Problems
from relabel.workspace.progress import message, tell_problems

from ._options import FILE, FOLDER, Given, GroupedCommand, settings_options
from ._results import kept, print_json

if TYPE_CHECKING:
    from relabel.classifiers.data import LabelledImages


@click.command(cls=GroupedCommand)
@click.option("--images", type=FOLDER, metavar="ROOT", help="Folder of images.")
@click.option(
    "--labels",
    type=FILE,
    metavar="FILE",
    help="TSV of multi-labels; default the folders' names.",
)
@click.option("--classes", metavar="FILE", help="The classes in order. [from the folders]")
@click.option(
    "--dataset",
    metavar="NAME|PATH",
    help="Detection set instead: an image's classes are its boxes'.",
)
@click.option("--format", help="Format of detection sets that are paths.")
@click.option("--split", help="Split of --dataset. [of relabel.toml]")
@click.option("-o", "--out", type=FOLDER, help="Folder of the classifier. [runs/classifiers/NAME]")
@click.option(
    "--validate",
    metavar="ROOT",
    help="Images to measure on: a folder or a detection set.",
)
@click.option(
    "--validate-labels",
    type=FILE,
    metavar="FILE",
    help="Their classes: TSV, real.json, INv2-ML, COCO or VOC.",
)
@click.option("--validate-split", help="Split of the set of --validate. [its val]")
@click.option("--overwrite", is_flag=True, help="Start anew where settings or data changed.")
@click.option("--json", "as_json", is_flag=True, help="Print folder and metrics as JSON.")
@settings_options(
    ("classifier",),
    {
        "Training": (
            (
                "--preset",
                "classifier.preset",
                "finetune, resnet, vit or light. [finetune]",
            ),
            ("--model", "classifier.model", "Hub id, folder or torchvision. [resnet50]"),
            ("--weights", "classifier.weights", "Published or random weights. [pretrained]"),
            ("--keep-head", "classifier.keep_head", "Keep the pretrained classification layer."),
            ("--loss", "classifier.loss", "On all labels, or on the original one. [bce]"),
            ("--epochs", "classifier.epochs"),
            ("--steps", "classifier.steps", "Training steps; 0: by epochs."),
            ("--batch-size", "classifier.batch_size", "Images per step."),
            ("--lr", "classifier.lr"),
            ("--image-size", "classifier.image_size", "Side in pixels; 0: the network's own."),
            ("--precision", "classifier.precision", "auto, fp32, bf16 or fp16. [auto]"),
        )
    },
)
def cli(
    images: Path | None,
    labels: Path | None,
    classes: str | None,
    dataset: str | None,
    format: str | None,
    split: str | None,
    out: Path | None,
    validate: str | None,
    validate_labels: Path | None,
    validate_split: str | None,
    overwrite: bool,
    as_json: bool,
    given: Given,
) -> None:
    """Train a transformers or torchvision classifier on images with several labels each.

    `--loss bce` learns the soft multi-labels; `softmax` and `smoothing` learn the original label
    with the same recipe, for comparison. The same command resumes an interrupted training at the
    exact step; torchrun and accelerate launch share it among several GPUs. `relabel classify` and
    transformers load the result.
    """
    if (images is None) == (dataset is None):
        raise click.UsageError("give either --images or --dataset")
    if labels is not None and images is None:
        raise click.UsageError("--labels belongs to --images; a detection set has its own")
    if validate_labels is not None and (validate is None or images is None):
        raise click.UsageError("--validate-labels belongs to --images and --validate")
    from relabel.classifiers import inputs

    runtime = given.runtime
    preset = given.of(ClassifierSettings, "classifier").preset
    settings = given.of(ClassifierSettings, "classifier", under=PRESETS[preset])
    problems = Problems(runtime.skip_bad)
    val = None
    if images is not None:
        train = inputs.read_images(images, labels, classes, problems)
        if validate is not None:
            root = Path(validate)
            val = inputs.read_validation(root, validate_labels, classes, train, problems)
    else:
        assert dataset is not None
        entry = given.catalogue.resolve(dataset, format, split)
        train = inputs.read_detections(entry, "train", problems)
        if validate is not None or validate_split is not None:
            other = given.catalogue.resolve(validate or dataset, format, validate_split)
            val = inputs.read_detections(other, "train", problems)
        elif entry.has("val"):
            val = inputs.read_detections(entry, "val", problems)
        val = None if val is None else inputs.in_classes_of(val, train)
    folder = out or Path("runs") / "classifiers" / train.name
    metrics = _train(train, val, folder, settings, runtime, problems, overwrite)
    tell_problems(problems, runtime.quiet)
    if as_json:
        print_json({"classifier": str(folder), **metrics})
        return
    kept(str(folder))
    if metrics["skipped"]:
        message(f"{metrics['skipped']} images without a label were skipped", quiet=runtime.quiet)
    for name, value in (metrics["validation"] or [{}])[-1].items():
        if name not in ("step", "images"):
            message(f"validation {name}: {value:.4f}", quiet=runtime.quiet)


def _train(
    train: LabelledImages,
    val: LabelledImages | None,
    folder: Path,
    settings: ClassifierSettings,
    runtime: Any,
    problems: Problems,
    overwrite: bool,
) -> dict[str, Any]:
    """The stage: run, resumed or found done."""
    from relabel.align.job import backbone_identities
    from relabel.backbones.extractor import resolve_backbone
    from relabel.classifiers.model import load_for_prediction
    from relabel.classifiers.train import METRICS_FILE, measure_classifier, train_classifier
    from relabel.training.loop import resolve_device
    from relabel.workspace.stage import Stage

    model = backbone_identities(settings.model).get(settings.model, settings.model)
    stage = Stage(
        f"classifier on {train.name}",
        folder,
        settings={**settings.result_dict(), "model": model},
        inputs={"train": train.fingerprint()},
    )
    status = stage.status()
    if status == "changed" and not overwrite:
        raise stage.changed_error()
    if status == "done":
        message("Trained already.", quiet=runtime.quiet)
        metrics = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
        if val is not None and not metrics["validation"]:
            device = resolve_device(runtime.device)
            trained = load_for_prediction(folder).to(device)
            metrics["validation"] = [measure_classifier(trained, val, runtime)]
        return metrics
    resolve_backbone(settings.model)  # a misspelt name leaves no folder behind
    found: dict[str, Any] = {}

    def train_it() -> None:
        found.update(
            train_classifier(train, folder, settings, runtime, validation=val, problems=problems)
        )

    stage.run(train_it, overwrite=overwrite)
    return found
