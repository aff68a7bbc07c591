"""``relabel classify``: a classifier's scores on images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from relabel.errors import ConfigError, Problems
from relabel.workspace.progress import message, tell_problems

from ._options import (
    FOLDER_OR_URL,
    OUT_FILE,
    Given,
    GroupedCommand,
    resolve_network,
    settings_options,
)
from ._results import kept, print_json, with_default


@click.command(cls=GroupedCommand)
@click.argument("model")
@click.option("--images", type=FOLDER_OR_URL, metavar="ROOT", help="Folder or URL.")
@click.option("--dataset", metavar="NAME|PATH", help="Images of a detection set instead.")
@click.option("--format", help="Its format, where it is a path.")
@click.option("--split", help="Its split; default what relabel.toml names for --part.")
@with_default(
    "--part",
    click.Choice(("train", "val", "test")),
    "train",
    "Which images of a dataset of relabel.toml.",
)
@click.option(
    "-o",
    "--out",
    type=OUT_FILE,
    required=True,
    metavar="FILE",
    help="FILE.parquet or FILE.tsv, or its URL.",
)
@with_default("--top", click.IntRange(0), 0, "Classes kept; 0: all.")
@with_default("--min-score", click.FloatRange(0, 1), 0.0, "Minimum probability that is kept.")
@with_default(
    "--scores",
    click.Choice(("auto", "sigmoid", "softmax")),
    "auto",
    "Logits to probabilities; auto goes by how the classifier was trained.",
)
@click.option(
    "--image-size",
    type=click.IntRange(0),
    default=0,
    help="Side in pixels that a published network sees. [its own]",
)
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@with_default(
    "--precision",
    click.Choice(("fp32", "auto", "bf16", "fp16")),
    "fp32",
    "Arithmetic of the forward pass.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it is there.")
@click.option("--json", "as_json", is_flag=True, help="Print file and counts as JSON.")
@settings_options((), engine=True)
def cli(
    model: str,
    images: Path | str | None,
    dataset: str | None,
    format: str | None,
    split: str | None,
    part: Any,
    out: Path,
    top: int,
    min_score: float,
    scores: str,
    image_size: int,
    batch_size: int,
    precision: str,
    overwrite: bool,
    as_json: bool,
    given: Given,
) -> None:
    """Write the class probabilities of images by MODEL, for `relabel evaluate multilabel`.

    MODEL is a folder of `relabel train-classifier`, a transformers classifier (hub id or folder)
    or a torchvision model name. Parquet has the scores of all classes, or with --top or
    --min-score class ids and probabilities; TSV is the format of multi-labels.
    """
    if (images is None) == (dataset is None):
        raise click.UsageError("give either --images or --dataset")
    if split is not None and part != "train":
        raise click.UsageError("give either --split or --part")
    if out.suffix not in (".parquet", ".tsv"):
        raise click.UsageError(f"--out {out} must end in .parquet or .tsv")
    if out.exists() and not overwrite:
        raise ConfigError("is there already", file=out, remedy="Add --overwrite to replace it.")
    if out.exists() and not _is_ours(out):
        raise ConfigError("holds no predictions", file=out, remedy="Choose another --out.")
    from dataclasses import replace

    from relabel.classifiers import inputs
    from relabel.classifiers.data import BadImages
    from relabel.classifiers.model import load_for_prediction
    from relabel.classifiers.predictions import write_predictions
    from relabel.classifiers.train import predict
    from relabel.training.loop import resolve_device
    from relabel.training.memory import keep_freed_memory
    from relabel.workspace.engine import driver_device

    runtime = given.runtime
    problems = Problems(runtime.skip_bad)
    if images is not None:
        labelled = inputs.read_images(images, None, None, problems)
    else:
        assert dataset is not None
        labelled = inputs.read_detections(
            given.catalogue.resolve(dataset, format, split), part, problems
        )
    keep_freed_memory()
    name = resolve_network(model, Path.cwd(), what="classifier", option="MODEL")
    classifier = load_for_prediction(name, image_size=image_size)
    if scores != "auto":
        classifier.spec = replace(classifier.spec, activation=scores)
    bad = BadImages() if runtime.skip_bad else None
    done = write_predictions(
        out,
        labelled,
        classifier.spec,
        predict(
            classifier.to(resolve_device(driver_device(runtime))),
            labelled,
            runtime,
            batch_size=batch_size,
            precision=precision,
            bad=bad,
        ),
        top=top,
        min_score=min_score,
    )
    if bad is not None:
        bad.report(problems)
    tell_problems(problems, runtime.quiet)
    if as_json:
        skipped = 0 if bad is None else len(bad)
        print_json({"predictions": str(out), "images": done, "unreadable": skipped})
        return
    kept(str(out))
    message(f"{done} images, {len(classifier.spec.classes)} classes", quiet=runtime.quiet)


def _is_ours(file: Path) -> bool:
    """False of a Parquet file of something else, such as the images of a dataset."""
    if file.suffix != ".parquet":
        return True
    from relabel.errors import DataError
    from relabel.files.parquet import reading_parquet

    try:
        with reading_parquet(file, ["file_name"]):
            return True
    except DataError:
        return False
