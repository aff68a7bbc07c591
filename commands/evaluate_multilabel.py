"""``relabel evaluate multilabel``: score multi-label predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from ._results import file_option, print_or_save, result_options, warn, with_default

_FORMATS = ("real", "inv2", "imagenetv2", "coco", "voc", "tsv", "partial")


@click.command()
@file_option(
    "--truth",
    "ReaL's real.json, multi-labels of ImageNetV2 as JSON or its folder, a COCO file, a VOC "
    "folder, image set or XML file, a TSV, or labels as CSV, JSON or Parquet.",
    required=True,
    metavar="PATH",
)
@file_option(
    "--predictions",
    "TSV, or Parquet with file names and scores of all classes or of listed ones.",
    required=True,
)
@click.option(
    "--truth-format",
    type=click.Choice(_FORMATS),
    help="Format of the truth. [found out from its content]",
)
@with_default(
    "--truth-threshold",
    click.FloatRange(0, 1),
    0.5,
    "Minimum probability of a true class, where the truth is a TSV.",
)
@click.option(
    "--classes",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of classes, where the files do not say. [1000]",
)
@with_default(
    "--classes-by",
    click.Choice(("auto", "name", "position")),
    "auto",
    "How predicted classes find the truth's; auto: by name where both files have names.",
)
@click.option(
    "--allow-missing",
    is_flag=True,
    help="Count images without a prediction as empty predictions instead of stopping.",
)
@file_option(
    "--known",
    "Labels as CSV, JSON, Parquet or TSV: only entries of which nothing is known there count.",
)
@with_default("--threshold", click.FLOAT, 0.5, "Minimum score of a predicted class, for F1.")
@result_options
def multilabel(
    truth: Path,
    predictions: Path,
    truth_format: str | None,
    truth_threshold: float,
    classes: int | None,
    classes_by: Literal["auto", "name", "position"],
    allow_missing: bool,
    known: Path | None,
    threshold: float,
    as_json: bool,
    out: Path | None,
) -> None:
    """Top-1, mAP over images and over classes, CF1 and OF1 of multi-label predictions.

    Images are joined by file name, in whatever folder. Images without a true class are skipped;
    in mAP, CF1 and OF1 they count where the truth says that nothing is there.
    Average precision is scikit-learn's: equal scores are one step of the ranking. A COCO crowd
    region counts as its class; a class of which an image has only VOC's difficult objects is
    ignored there.
    """
    from relabel.evaluation import tables
    from relabel.evaluation.multilabel.evaluate import evaluate_multilabel

    result = evaluate_multilabel(
        truth,
        predictions,
        truth_format=truth_format,
        truth_threshold=truth_threshold,
        classes=classes,
        classes_by=classes_by,
        allow_missing=allow_missing,
        known=known,
        threshold=threshold,
    )
    warn(result.warnings)
    rows = tables.label_class_rows(result)
    total = len(result.class_aps())
    lowest = f", the lowest of {total}" if len(rows[1]) < total else ""
    shown = [
        ("Multi-labels, in percent", tables.summary_rows(result)),
        (f"AP per class{lowest}", rows),
    ]
    print_or_save(result.to_dict(), shown, as_json, out)
