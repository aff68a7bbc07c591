"""The result of a check: ``suspects.json``, a FiftyOne dataset with the suspects, the report.

Nothing in it depends on when it was made, but for what the report says of the run. The schema of
the JSON is ``schemas/suspects.json``.

Shape legend: ``k`` suspects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relabel import __version__
from relabel.crosslabel.pseudo import PseudoLabels
from relabel.datasets.dataset import DetectionDataset, make_boxes
from relabel.datasets.formats.fiftyone import write as fiftyone_format
from relabel.geometry import xyxy_to_xywh
from relabel.reports.made import Made
from relabel.reports.suspects import SplitRow, SuspectRow, write_suspect_report
from relabel.suspects.evidence import GivenScores, gather_evidence
from relabel.suspects.reasons import proposals, reasons
from relabel.suspects.score import Suspects, above, find_suspects
from relabel.suspects.settings import CheckSettings
from relabel.suspects.splits import Groups, SplitClasses, find_groups, find_splits
from relabel.workspace.atomic import atomic_write_json
from relabel.workspace.stage import Outputs

SCHEMA = 1
SUSPECTS, _REPORT, _FIFTYONE = "suspects.json", "report.html", "fiftyone"
_FIELD = "suspects"
"""The label field of suspects in FiftyOne."""


def write_check(
    dataset: DetectionDataset,
    predictions: PseudoLabels,
    given: GivenScores | None,
    out: Path,
    settings: CheckSettings,
    *,
    by: str,
    told: Mapping[str, Any],
    made: Made | None = None,
    merged: str = "",
) -> Outputs:
    """Score a dataset's labels and write all files of the result; returns them by name.

    Args:
        given: what box heads say of the annotated boxes, where there are any.
        by: whose the predictions are.
        told: settings of the run, for the report.
        made: command, versions and times of the run, for the report.
        merged: fingerprint of the training file of a run of align, where that is checked.

    Raises:
        DataError: an image that has to be taken out of a record cannot be read.
        RelabelError: the disk is full.
    """
    evidence = gather_evidence(dataset, predictions, given)
    found = above(find_suspects(evidence, dataset.space.class_names), settings.min_score)
    groups = find_groups(dataset)
    splits = find_splits(evidence, groups, dataset.space.num_classes)
    rows = _rows(found, dataset)
    content = {
        "schema": SCHEMA,
        "relabel": __version__,
        "dataset": dataset.name,
        "merged": merged or None,
        "images": len(dataset),
        "checked_images": int(_covered(predictions, dataset).sum()),
        "annotations": len(evidence.rows),
        "predictions_by": by,
        "counts": _counts(rows),
        "suspects": [_entry(rank, row, dataset) for rank, row in enumerate(rows, 1)],
        "split_classes": [_split(split, groups, dataset) for split in splits],
    }
    atomic_write_json(out / SUSPECTS, content, indent=1)
    _write_fiftyone(dataset, found, rows, out / _FIFTYONE)
    write_suspect_report(
        out / _REPORT,
        dataset,
        rows,
        [_split_row(split, groups, dataset) for split in splits],
        annotations=len(evidence.rows),
        predictions_by=by,
        pictures=settings.pictures,
        settings=told,
        made=made,
    )
    return {"suspects": SUSPECTS, "fiftyone": _FIFTYONE, "report": _REPORT}


def _covered(predictions: PseudoLabels, dataset: DetectionDataset) -> np.ndarray:
    return predictions.for_images(dataset.images.file_name).coverage


def _rows(found: Suspects, dataset: DetectionDataset) -> list[SuspectRow]:
    boxes, names = dataset.boxes, dataset.space.names
    xyxy = boxes.xyxy
    rows = []
    for k, (reason, proposal) in enumerate(
        zip(reasons(found, dataset), proposals(found, dataset), strict=True)
    ):
        row, category = int(found.annotation[k]), int(found.category[k])
        own = row >= 0
        moved = bool(np.isfinite(found.box[k]).all())
        rows.append(
            SuspectRow(
                kind=found.kind[k],
                score=float(found.score[k]),
                image=int(found.image[k]),
                annotation_id=int(boxes.id[row]) if own else None,
                category=names[boxes.category[row]] if own else None,
                proposed_category=names[category] if category >= 0 else None,
                box=xyxy[row] if own else None,
                proposed_box=found.box[k] if moved else None,
                proposal=proposal,
                reason=reason,
            )
        )
    return rows


def _counts(rows: Sequence[SuspectRow]) -> dict[str, dict[str, int]]:
    """Suspects by kind and class, the annotated one or that of a missing box."""
    pairs = Counter((row.kind, row.category or row.proposed_category or "") for row in rows)
    counts: dict[str, dict[str, int]] = {}
    for (kind, name), count in sorted(pairs.items()):
        counts.setdefault(kind, {})[name] = count
    return counts


def _entry(rank: int, row: SuspectRow, dataset: DetectionDataset) -> dict[str, Any]:
    return {
        "rank": rank,
        "score": round(row.score, 4),
        "kind": row.kind,
        "image_id": int(dataset.images.id[row.image]),
        "file_name": dataset.images.file_name[row.image],
        "annotation_id": row.annotation_id,
        "category": row.category,
        "bbox": _bbox(row.box),
        "proposed_category": row.proposed_category,
        "proposed_bbox": _bbox(row.proposed_box),
        "proposal": row.proposal,
        "reason": row.reason,
    }


def _bbox(xyxy: np.ndarray | None) -> list[float] | None:
    return None if xyxy is None else [round(v, 2) for v in xyxy_to_xywh(xyxy).tolist()]


def _split(split: SplitClasses, groups: Groups, dataset: DetectionDataset) -> dict[str, Any]:
    names = [dataset.space.names[c] for c in split.classes]
    return {
        "classes": names,
        "confused": list(split.confused),
        "share": [round(value, 4) for value in split.share],
        "by": groups.field if split.groups else None,
        "groups": {name: list(counts) for name, counts in split.groups.items()},
        "p_value": split.p_value,
        "reason": _why(split, groups, names),
        "annotation_ids": dataset.boxes.id[np.asarray(split.rows, np.int64)].tolist(),
    }


def _why(split: SplitClasses, groups: Groups, names: Sequence[str]) -> str:
    text = (
        f"{split.confused[0]} annotated {names[0]} look like {names[1]} ({split.share[0]:.0%}), "
        f"{split.confused[1]} annotated {names[1]} like {names[0]} ({split.share[1]:.0%})"
    )
    if split.groups:
        text += f"; what looks alike is named differently by {groups.field}"
    return text


def _split_row(split: SplitClasses, groups: Groups, dataset: DetectionDataset) -> SplitRow:
    names = [dataset.space.names[c] for c in split.classes]
    return SplitRow(
        (names[0], names[1]), split.confused, split.share, _why(split, groups, names), split.groups
    )


def _write_fiftyone(
    dataset: DetectionDataset, found: Suspects, rows: Sequence[SuspectRow], folder: Path
) -> None:
    """The dataset as annotated, and a field of suspects, each with the box that is proposed."""
    names = dataset.space.names
    shown = [row.box if row.proposed_box is None else row.proposed_box for row in rows]
    classes = [names.index(row.proposed_category or row.category or "") for row in rows]
    # Sorted by image here, so that attributes lie beside their boxes.
    order = np.argsort(found.image, kind="stable")
    layer = make_boxes(
        found.image[order],
        xyxy_to_xywh(np.array(shown, np.float64).reshape(-1, 4))[order],
        np.array(classes, np.int64)[order],
        score=found.score[order],
    )
    attributes = {
        "kind": [rows[k].kind for k in order],
        "rank": [int(k) + 1 for k in order],
        "reason": [rows[k].reason for k in order],
        "proposal": [rows[k].proposal for k in order],
        "annotated_class": [rows[k].category for k in order],
        "annotation_id": [rows[k].annotation_id for k in order],
    }
    fiftyone_format.write(
        dataset,
        folder,
        field="ground_truth",
        extra_fields={_FIELD: dataset.with_boxes(layer)},
        attributes={_FIELD: attributes},
    )
