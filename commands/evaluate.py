"""``relabel evaluate``: score detections, or relabelled boxes and pseudo-labels against truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from relabel.errors import Problems
from relabel.workspace.progress import tell_problems

from . import ablation
from ._results import FILE, file_option, print_or_save, result_options, warn, with_default
from .evaluate_completion import completion
from .evaluate_downstream import downstream
from .evaluate_multilabel import multilabel
from .evaluate_pseudo_labels import pseudo_labels

if TYPE_CHECKING:
    from relabel.evaluation.transfer import TransferMetrics


@click.group()
def cli() -> None:
    """Score detections, multi-labels, pseudo-labels, or the quality of relabelled boxes."""


cli.add_command(ablation.cli)
cli.add_command(completion)
cli.add_command(downstream)
cli.add_command(multilabel)
cli.add_command(pseudo_labels)

_MOST_CLASSES = 30  # of a table; --json has all
_TRUTH = file_option("--truth", "COCO annotation file.", required=True)
_PREDICTIONS = file_option(
    "--predictions",
    "COCO results list, or a COCO file whose annotations carry scores.",
    required=True,
)


@cli.command()
@_TRUTH
@_PREDICTIONS
@result_options
def detections(truth: Path, predictions: Path, as_json: bool, out: Path | None) -> None:
    """COCO average precision and recall, the same numbers as pycocotools.

    A results list refers to the truth's image and category ids. The images of a COCO file are
    joined by id where the file names agree, else by file_name; its categories likewise.
    """
    from relabel.evaluation import tables
    from relabel.evaluation.detections import evaluate_detections

    metrics = evaluate_detections(truth, predictions)
    warn(metrics.warnings)
    shown = [
        ("Detections, in percent", tables.detection_rows(metrics)),
        ("AP per class, in percent", tables.detection_class_rows(metrics)),
    ]
    print_or_save(metrics.to_dict(), shown, as_json, out)


@cli.command()
@_TRUTH
@_PREDICTIONS
@with_default(
    "--min-score",
    click.FloatRange(0, 1),
    0.3,
    "Minimum score in the confusion table; AP and error types look at every detection.",
)
@result_options
def errors(
    truth: Path, predictions: Path, min_score: float, as_json: bool, out: Path | None
) -> None:
    """What is wrong with detections: error types, what each costs in AP, class confusion.

    The types are TIDE's (Bolya et al., ECCV 2020): wrong class, poor box, both, duplicate,
    background and missed, at IoU 0.5 and 0.1. dAP is the AP50 that repairing one type alone would
    add. Files are joined as by `evaluate detections`.
    """
    from relabel.evaluation import tables
    from relabel.evaluation.errors import evaluate_errors

    analysis = evaluate_errors(truth, predictions, min_score=min_score)
    warn(analysis.warnings)
    ap = "-" if analysis.AP50 is None else f"{100 * analysis.AP50:.1f}"
    shown = [
        (f"Errors at AP50 {ap}, in points of AP50", tables.error_rows(analysis)),
        ("dAP per class, in points of AP50", tables.error_class_rows(analysis)),
        (
            f"True class by predicted class, scores from {min_score:g}",
            tables.confusion_rows(analysis.confusion),
        ),
    ]
    print_or_save(analysis.to_dict(), shown, as_json, out)


@cli.command("transfer")
@file_option("--truth", "COCO file: the images' true labels in the target space.", required=True)
@file_option(
    "--predictions", "COCO file: the relabelled images. All its boxes count.", required=True
)
@file_option(
    "--source",
    "COCO file: the labels before relabelling: mean IoU before, class transitions, lost labels.",
)
@file_option(
    "--baselines",
    "The target specialist's pseudo-labels on the source, to score the baselines.",
    metavar="DIR",
)
@file_option(
    "--given-boxes",
    "The source's boxes through the target specialist's box head (cross-label --given-boxes), "
    "to score label-guided labels among the baselines.",
    metavar="DIR",
)
@click.option(
    "--map",
    "map_file",
    type=FILE,
    metavar="FILE",
    help="YAML of source name: target name or null, for the name map. Default: from the data.",
)
@with_default(
    "--baseline-threshold",
    click.FloatRange(0, 1),
    0.5,
    "Minimum score of a pseudo-label in the baselines.",
)
@result_options
def transfer_command(
    truth: Path,
    predictions: Path,
    source: Path | None,
    baselines: Path | None,
    given_boxes: Path | None,
    map_file: Path | None,
    baseline_threshold: float,
    as_json: bool,
    out: Path | None,
) -> None:
    """Quality of relabelled boxes where the true labels are known.

    Images are joined by file_name, categories by name. Matching is one-to-one, greedy by score,
    then IoU, within a class for precision, recall, F1 and the LRP error (Oksuz et al., TPAMI
    2021), across classes for class accuracy and mean IoU. With --source, lost are the annotations
    that left no label although the truth has their object.
    """
    if baselines is not None and source is None:
        raise click.UsageError("--baselines needs --source")
    for option, value in (("--map", map_file), ("--given-boxes", given_boxes)):
        if value is not None and baselines is None:
            raise click.UsageError(f"{option} needs --baselines")
    from relabel.evaluation import tables
    from relabel.evaluation.transfer import evaluate_transfer

    result = evaluate_transfer(truth, predictions, source, name=predictions.stem)
    results = [result]
    content = result.to_dict()
    if baselines is not None and source is not None:
        others = _score_baselines(
            truth, source, baselines, given_boxes, map_file, baseline_threshold
        )
        results += others
        content["baselines"] = {other.name: other.to_dict() for other in others}
    warn(list(dict.fromkeys(w for r in results for w in r.warnings)))
    header, rows = tables.transfer_rows(results)
    # Results side by side and metrics below each other: that fits a terminal.
    first, *lines = map(list, zip(header, *rows, strict=True))
    shown = [
        ("Transfer, in percent", (first, lines)),
        ("Per class, in percent", tables.class_rows(result)),
    ]
    if result.annotations is not None:
        shown.append(
            (
                "The source's annotations, and those that left no label",
                tables.kept_rows(result.annotations),
            )
        )
    if result.by_source is not None and len(result.by_source.classes) <= _MOST_CLASSES:
        title = "Objects of the truth by the class they were given"
        shown.append((title, tables.by_source_rows(result.by_source)))
    print_or_save(content, shown, as_json, out)


def _score_baselines(
    truth: Path,
    source: Path,
    folder: Path,
    given_boxes: Path | None,
    map_file: Path | None,
    threshold: float,
) -> list[TransferMetrics]:
    from relabel.crosslabel.given import read_given_labels
    from relabel.crosslabel.shards import read_pseudo_labels
    from relabel.datasets.formats.registry import read_dataset
    from relabel.datasets.namemap import NameMap
    from relabel.evaluation.baselines import all_baselines
    from relabel.evaluation.transfer import compare_transfer

    problems = Problems()
    dataset = read_dataset(source, "coco", problems=problems)
    tell_problems(problems)
    names = None if map_file is None else NameMap.load(map_file).names
    given = None if given_boxes is None else read_given_labels(given_boxes)
    found = all_baselines(dataset, read_pseudo_labels(folder), names, threshold, given)
    return compare_transfer(truth, dataset, found)
