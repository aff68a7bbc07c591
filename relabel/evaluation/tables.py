"""Tables of results: rich for a terminal, Markdown for benchmarks and reports."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from relabel.errors import shown
from relabel.evaluation.detections import DetectionMetrics
from relabel.evaluation.errors import ERROR_TYPES, ErrorAnalysis
from relabel.evaluation.kept import NO_LABEL_GIVEN, AnnotationsKept, SourceConfusion
from relabel.evaluation.pseudo_labels import IOUS, PseudoLabelMetrics, Rates
from relabel.evaluation.transfer import TransferMetrics, Transition

if TYPE_CHECKING:
    from rich.table import Table

    from relabel.evaluation.multilabel.evaluate import MultiLabelResult

NONE = "-"
# What would be read as markup: tags, entities, code, formulas, links, emphasis that begins. The
# stars that end a number of ours begin none.
_MARKDOWN = re.compile(r"[\\`<&$|~]|(?<!\w)_|_(?!\w)|\*(?=\S)|(?<=\])\(")
CONFIDENCE_NAMES = {"score": "p", "quality": "v", "product": "p·v", "geometric": "√(p·v)"}
# What labels a rank correlation is over.
RHO_OVER = {"all": "all", "overlap": "overlapping"}
Rows = tuple[list[str], list[list[str]]]


def transfer_rows(results: Sequence[TransferMetrics]) -> Rows:
    """Header and one row of percentages per result."""
    header = ["labels", "AP", "AP50", "AP75"]
    for threshold in ("0.5", "0.75"):
        header += [f"{what}@{threshold}" for what in ("P", "R", "F1", "class")]
    header += ["IoU before", "IoU after", "common before", "common after"]
    header += ["LRP", "LRP loc", "LRP FP", "LRP FN", "optimal LRP", "lost", "boxes"]
    rows = []
    for result in results:
        row = [result.name, *map(percentage, (result.AP, result.AP50, result.AP75))]
        for quality in result.at.values():
            row += map(
                percentage,
                (quality.precision, quality.recall, quality.f1, quality.class_accuracy),
            )
        keys = ("before", "after", "before_common", "after_common")
        row += [percentage(result.mean_iou[key]) for key in keys]
        lrp, kept = result.lrp, result.annotations
        errors = (lrp.total, lrp.localisation, lrp.false_positive, lrp.false_negative, lrp.optimal)
        row += [*map(percentage, errors), percentage(None if kept is None else kept.lost_share)]
        rows.append([*row, str(result.counts["predictions"])])
    return header, rows


def class_rows(result: TransferMetrics) -> Rows:
    """Header and one row per truth class, at IoU 0.5."""
    header = ["class", "truth", "boxes", "AP", "P@0.5", "R@0.5", "F1@0.5", "LRP"]
    rows = [
        [
            name,
            str(values["truth"]),
            str(values["predictions"]),
            *(percentage(values[key]) for key in ("AP", "precision", "recall", "f1", "lrp")),
        ]
        for name, values in result.per_class.items()
    ]
    return header, rows


def kept_rows(kept: AnnotationsKept) -> Rows:
    """A row per source class, and one of all: its annotations, those whose object the truth has
    and how many of these left no label, and the others and how many of these left one."""
    content = kept.to_dict()
    rows = []
    for name, values in (*content["per_class"].items(), ("all", content)):
        counts = [str(values[k]) for k in ("annotations", "in_truth", "lost")]
        share, absent = percentage(values["lost_share"]), ("absent", "absent_kept")
        rows.append([name, *counts, share, *(str(values[k]) for k in absent)])
    header = ["source class", "boxes", "in truth", "lost", "lost %", "not in truth", "kept"]
    return header, rows


def by_source_rows(table: SourceConfusion) -> Rows:
    """A row per source class and true class with objects: how many were given which class."""
    columns = [g for g in range(table.counts.shape[2]) if table.counts[:, :, g].any()]
    given = (*table.classes, NO_LABEL_GIVEN)
    rows = [
        [
            table.sources[s],
            table.classes[c],
            *(str(n) if n else "·" for n in table.counts[s, c, columns].tolist()),
        ]
        for s, c in np.argwhere(table.counts.any(axis=2)).tolist()
    ]
    return ["source class", "true class", *(given[g] for g in columns)], rows


def detection_rows(metrics: DetectionMetrics) -> Rows:
    """COCO's twelve numbers, or LVIS's thirteen, a row each."""
    return ["metric", "%"], [[name, percentage(getattr(metrics, name))] for name in metrics.names]


def detection_class_rows(metrics: DetectionMetrics) -> Rows:
    """AP of every class."""
    return ["class", "AP"], [[name, percentage(ap)] for name, ap in metrics.per_class.items()]


def error_rows(analysis: ErrorAnalysis) -> Rows:
    """A row per error type: how many, and the AP50 that repairing them alone would add."""
    rows = [
        [name, str(analysis.counts[name]), percentage(analysis.dAP[name])] for name in ERROR_TYPES
    ]
    for name in ("false_positive", "false_negative"):
        rows.append([f"all {name.replace('_', ' ')}s", "", percentage(analysis.dAP[name])])
    return ["error", "count", "dAP"], rows


def error_class_rows(analysis: ErrorAnalysis) -> Rows:
    """A row per class: truth boxes, AP50, and dAP by error type."""
    rows = [
        [
            name,
            str(values["truth"]),
            percentage(values["AP50"]),
            *(percentage(values["dAP"][kind]) for kind in ERROR_TYPES),
        ]
        for name, values in analysis.per_class.items()
    ]
    short = ("cls", "loc", "both", "dupe", "bkg", "miss")  # in the order of ERROR_TYPES
    return ["class", "truth", "AP50", *short], rows


def confusion_rows(table: Transition) -> Rows:
    """Counts of a transition: a row per class of the rows; zeros as dots."""
    rows = [
        [name, *(str(n) if n else "·" for n in counts)]
        for name, counts in zip(table.rows, table.counts.tolist(), strict=True)
    ]
    return ["", *table.columns], rows


def label_rate_rows(rates: Rates) -> Rows:
    """A row per IoU threshold, and their mean."""
    columns = zip(rates.precision, rates.recall, rates.f1, strict=True)
    rows = [
        [f"{iou:.2f}", *map(percentage, values)] for iou, values in zip(IOUS, columns, strict=True)
    ]
    return ["IoU", "precision", "recall", "F1"], [*rows, ["mean", *map(percentage, rates.means())]]


def label_ranking_rows(metrics: PseudoLabelMetrics) -> Rows:
    """A row per ranking: AP, of all classes and of the rare ones, and Spearman's correlations."""
    rows = []
    for ranking, average in metrics.average.items():
        aps = (average.AP, average.AP50, average.AP75, metrics.rare_ap(ranking))
        signs = [_signed(told[ranking]) for told in metrics.correlation.values()]
        rows.append([CONFIDENCE_NAMES[ranking], *map(percentage, aps), *signs])
    header = ["ranked by", "AP", "AP50", "AP75", "AP rare"]
    return [*header, *(f"rho, {RHO_OVER[what]}" for what in metrics.correlation)], rows


def label_reliability_rows(metrics: PseudoLabelMetrics) -> Rows:
    """A row per bin of confidence: what is right; of v the mean IoU."""
    header = ["from", "labels", CONFIDENCE_NAMES[metrics.on], "right"]
    told = [metrics.reliability]
    if metrics.localisation is not None:
        header += ["overlapping", "v", "IoU"]
        told.append(metrics.localisation)
    rows = []
    for k in range(len(metrics.reliability.count)):
        row = [f"{k / len(metrics.reliability.count):g}"]
        for one in told:
            values = (one.claimed[k], one.seen[k]) if one.count[k] else (None, None)
            row += [str(int(one.count[k])), *map(percentage, values)]
        rows.append(row)
    errors = [cell for one in told for cell in ("", "", percentage(one.error))]
    return header, [*rows, ["error", *errors]]


def pseudo_label_class_rows(metrics: PseudoLabelMetrics) -> Rows:
    """A row per class with true boxes or labels: at IoU 0.5, over all labels."""
    with_v = metrics.localisation is not None
    header = [
        "class",
        "truth",
        "labels",
        "P",
        "R",
        "AP",
        "IoU",
        "ECE",
        *(["v-IoU"] if with_v else []),
    ]
    rows = []
    for name, values in metrics.per_class.items():
        if not values["truth"] and not values["labels"]:
            continue
        numbers = [values["precision"], values["recall"], values["AP"]["score"]]
        numbers += [values["mean_iou"], values["reliability"].error]
        numbers += [values["localisation"].error] if with_v else []
        counts = [str(values[k]) for k in ("truth", "labels")]
        rows.append([name, *counts, *map(percentage, numbers)])
    return header, rows


def summary_rows(result: MultiLabelResult) -> Rows:
    """The numbers, a row each, with how many images or classes they are means over."""
    # SciPy's sparse arrays take a quarter of a second to import: boxes are scored without them.
    from relabel.evaluation.multilabel.metrics import BUCKETS

    metrics = result.metrics
    classes = int((metrics.class_images > 0).sum())
    rows = [
        ["top-1", percentage(metrics.top1), _count(metrics.images, "image")],
        ["mAP over images", percentage(metrics.example_mAP), _count(metrics.images, "image")],
    ]
    for name, least, _ in BUCKETS:
        labels = {"1": "1 label", "2": "2 labels"}.get(name, f"{least} labels or more")
        count = metrics.bucket_images[name]
        rows.append([f"  of {labels}", percentage(metrics.buckets[name]), _count(count, "image")])
    rows.append(["mAP over classes", percentage(metrics.class_mAP), _count(classes, "class")])
    whole, at = result.recognition, f"{result.threshold:g}"
    if whole.mAP is not None:
        entries, present = _count(whole.entries, "entry"), _count(classes, "class")
        rows.append(["  with images without a label", percentage(whole.mAP), present])
        rows.append([f"CF1 at {at}", percentage(whole.CF1), present])
        rows.append([f"OF1 at {at}", percentage(whole.OF1), entries])
    if metrics.skipped:
        rows.append(["without a label, skipped", "", _count(metrics.skipped, "image")])
    return ["metric", "%", "mean over"], rows


def label_class_rows(result: MultiLabelResult, most: int = 20) -> Rows:
    """AP per class: all of them, or the ``most`` lowest where there are more."""
    values = sorted(result.class_aps().items(), key=lambda item: item[1])
    if len(values) <= most:
        values = list(result.class_aps().items())
    return ["class", "AP"], [[name, percentage(ap)] for name, ap in values[:most]]


def _signed(value: float | None) -> str:
    """A correlation."""
    return NONE if value is None else f"{value:+.3f}"


def _count(n: int, what: str) -> str:
    if n == 1:
        return f"{n} {what}"
    plural = f"{what[:-1]}ies" if what.endswith("y") else what + ("es" if what[-1] == "s" else "s")
    return f"{n} {plural}"


def markdown(table: Rows) -> str:
    """A Markdown table; the first column to the left, numbers to the right."""
    header, rows = table
    lines = ["| " + " | ".join(map(as_text, line)) + " |" for line in (header, *rows)]
    lines.insert(1, "|---|" + "---:|" * (len(header) - 1))
    return "\n".join(lines) + "\n"


def as_text(text: str) -> str:
    """A text that may hold anything, so that Markdown shows it as it is written: in one line."""
    return _MARKDOWN.sub(r"\\\g<0>", shown(text))


def rich_table(table: Rows, title: str | None = None) -> Table:
    """The same for a terminal; columns of words are to the left as well."""
    from rich.table import Table
    from rich.text import Text

    # Names are data: as `Text`, so that none is read as markup or as an emoji's code.
    header, rows = table
    caption = None if title is None else Text(shown(title), style="table.title")
    made = Table(title=caption, title_justify="left")
    for i, name in enumerate(header):
        numbers = i > 0 and (
            not rows or any(row[i].startswith(tuple("0123456789+-·")) for row in rows)
        )
        justify = "right" if numbers else "left"
        made.add_column(Text(shown(name)), justify=justify, overflow="fold", no_wrap=i == 0)
    for row in rows:
        made.add_row(*(Text(shown(cell)) for cell in row))
    return made


def percentage(value: float | None, std: float | None = None, *, signed: bool = False) -> str:
    """A fraction as percent with one decimal, and its spread: ``24.1 ± 0.3``, ``+4.9``, ``-``."""
    if value is None:
        return NONE
    # Adding zero turns a rounded -0.0 into 0.0.
    text = f"{round(100 * value, 1) + 0.0:{'+' if signed else ''}.1f}"
    return text if std is None else f"{text} ± {100 * std:.1f}"
