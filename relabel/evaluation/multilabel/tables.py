"""Tables of a multi-label evaluation, in the form of `relabel.evaluation.tables`."""

from __future__ import annotations

from relabel.evaluation.multilabel.evaluate import MultiLabelResult
from relabel.evaluation.multilabel.metrics import BUCKETS
from relabel.evaluation.tables import Rows, percentage


def summary_rows(result: MultiLabelResult) -> Rows:
    """The numbers, a row each, with how many images or classes they are means over."""
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
    if metrics.skipped:
        rows.append(["without a label, skipped", "", _count(metrics.skipped, "image")])
    return ["metric", "%", "mean over"], rows


def label_class_rows(result: MultiLabelResult, most: int = 20) -> Rows:
    """AP per class: all of them, or the ``most`` lowest where there are more."""
    values = sorted(result.class_aps().items(), key=lambda item: item[1])
    if len(values) <= most:
        values = list(result.class_aps().items())
    return ["class", "AP"], [[name, percentage(ap)] for name, ap in values[:most]]


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}{'es' if what.endswith('s') else 's'}"
