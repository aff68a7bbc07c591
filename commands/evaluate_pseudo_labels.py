"""``relabel evaluate pseudo-labels``: pseudo-labels against the true labels of their images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from relabel.errors import ConfigError
from relabel.settings import Ranking
from relabel.workspace.progress import message

from ._results import file_option, print_or_save, result_options, warn, with_default

if TYPE_CHECKING:
    from relabel.evaluation.joined_labels import JoinedLabels
    from relabel.evaluation.pseudo_labels import PseudoLabelMetrics, Reliability
    from relabel.evaluation.tables import Rows
    from relabel.reports.pseudo_labels import Bars

_MOST_CLASSES = 30  # of a table; --json has all
_PAGE = b"<!doctype html>"


@click.command("pseudo-labels")
@file_option(
    "--truth",
    "COCO file: the images' true labels in the label space of the pseudo-labels.",
    required=True,
)
@file_option("--labels", "Shards that cross-label wrote.", metavar="DIR")
@file_option(
    "--predictions",
    "COCO results list or file instead; its annotations have a score, and may have a quality.",
)
@click.option(
    "--threshold",
    "thresholds",
    type=click.FloatRange(0, 1),
    multiple=True,
    help="Minimum confidence, for precision and recall; may be repeated. [0, 0.5]",
)
@with_default(
    "--threshold-on",
    click.Choice(get_args(Ranking)),
    "score",
    "Confidence of thresholds, matching and reliability: class score p, localisation quality v, "
    "p * v, or its square root.",
)
@click.option(
    "--rare",
    type=click.IntRange(min=1),
    metavar="N",
    help="AP of the N classes with the fewest true boxes. [a third of them, at most 10]",
)
@file_option("--report", "Also write an HTML report there, with pictures of the worst labels.")
@file_option(
    "--images",
    "Folder of the images, for the report. [that of the truth file]",
    metavar="DIR",
)
@with_default("--pictures", click.IntRange(min=0), 12, "Pictures of each kind in the report.")
@result_options
def pseudo_labels(
    truth: Path,
    labels: Path | None,
    predictions: Path | None,
    thresholds: tuple[float, ...],
    threshold_on: Ranking,
    rare: int | None,
    report: Path | None,
    images: Path | None,
    pictures: int,
    as_json: bool,
    out: Path | None,
) -> None:
    """Quality of pseudo-labels where the true labels are known.

    Precision, recall and F1 over IoU; AP by each ranking, of all and of rare classes; Spearman's
    rho of p, v, p·v and √(p·v) with the true IoU; and whether confidences can be taken at their
    word. Images are joined by file_name, categories by name; images that were not labelled are
    left out, and labels in ignore regions count neither way.
    """
    from relabel.crosslabel.shards import read_pseudo_labels
    from relabel.evaluation.joined_labels import join_labels
    from relabel.evaluation.pseudo_labels import measure_pseudo_labels

    if (labels is None) == (predictions is None):
        raise click.UsageError("give either --labels DIR or --predictions FILE")
    if report is not None:
        _check_report(report)
    given = predictions if labels is None else read_pseudo_labels(labels)
    assert given is not None
    joined = join_labels(truth, given, name=str(labels))
    metrics = measure_pseudo_labels(
        joined, thresholds=thresholds or (0.0, 0.5), rare=rare, on=threshold_on
    )
    warn(metrics.warnings)
    if report is not None:
        _write_report(report, joined, metrics, pictures, images, str(labels or predictions))
    print_or_save(metrics.to_dict(), list(_tables(metrics, _MOST_CLASSES).items()), as_json, out)


def _tables(metrics: PseudoLabelMetrics, most: int | None = None) -> dict[str, Rows]:
    """Every table by its title; of classes the ``most`` with the most true boxes."""
    from relabel.evaluation import tables

    counts = metrics.counts
    made = {
        f"{rates.labels} labels of {tables.CONFIDENCE_NAMES[metrics.on]} ≥ {rates.threshold:g}, "
        f"{counts['truth']} true boxes, in percent": tables.label_rate_rows(rates)
        for rates in metrics.rates
    }
    over = " and ".join(str(told["labels"]) for told in metrics.correlation.values())
    title = f"Rankings, AP in percent; rho with the IoU, over {over} labels"
    made[title] = tables.label_ranking_rows(metrics)
    made["Claimed and true, in percent"] = tables.label_reliability_rows(metrics)
    header, rows = tables.pseudo_label_class_rows(metrics)
    title = "Per class at IoU 0.5, in percent"
    if most is not None and len(rows) > most:
        title += f", the {most} most frequent of {len(rows)}"
        rows = sorted(rows, key=lambda row: -int(row[1]))[:most]
    made[title] = header, rows
    return made


def _check_report(report: Path) -> None:
    """Refuse to write over what is no page.

    Raises:
        ConfigError: it is there, and is none.
    """
    if report.is_dir() or (
        report.is_file() and report.open("rb").read(len(_PAGE)).lower() != _PAGE
    ):
        raise ConfigError(
            "is there already, and is no report", file=report, remedy="Choose another --report."
        )


def _write_report(
    report: Path,
    joined: JoinedLabels,
    metrics: PseudoLabelMetrics,
    count: int,
    images: Path | None,
    name: str,
) -> None:
    from relabel.evaluation.tables import CONFIDENCE_NAMES, percentage
    from relabel.evaluation.worst_labels import compared_images, worst_labels
    from relabel.reports.made import made_now
    from relabel.reports.pseudo_labels import write_pseudo_label_report

    pictures, failed = worst_labels(joined, metrics, count, images)
    threshold = max(rates.threshold for rates in metrics.rates)
    missing = ""
    if failed:
        missing = f"{len(failed)} labels have no picture, their images cannot be read; "
        missing += f"--images says where they are. The first: {failed[0]}"
        warn([missing])
    counts, best = metrics.counts, metrics.average["score"]
    confidence = CONFIDENCE_NAMES[metrics.on]
    overall = [_bars(f"Right at IoU 0.5 by {confidence}", metrics.reliability)]
    if metrics.localisation is not None:
        overall.append(_bars("Mean IoU by v, of labels that overlap", metrics.localisation))
    frequent = sorted(metrics.per_class.items(), key=lambda item: -item[1]["labels"])
    write_pseudo_label_report(
        report,
        title=f"Pseudo-labels of {name}",
        numbers={
            "images": counts["images"],
            "true boxes": counts["truth"],
            "labels": counts["labels"],
            "of them in ignore regions": counts["labels_ignored"],
            "AP, ranked by p": percentage(best.AP),
            "AP of rare classes": percentage(metrics.rare_ap("score")),
        },
        tables=_tables(metrics),
        overall=overall,
        classes=[_bars(name, values["reliability"]) for name, values in frequent],
        pictures=pictures,
        images=compared_images(joined, metrics, count, threshold, images),
        threshold=threshold,
        missing=missing,
        about={"truth": joined.truth.name, "rare classes": list(metrics.rare)},
        made=made_now(),
    )
    message(f"relabel: wrote {report}")


def _bars(title: str, told: Reliability) -> Bars:
    from relabel.reports.pseudo_labels import Bars

    return Bars(title, told.claimed, told.seen, told.count, told.error)
