"""Pseudo-labels brought onto the images and classes of their truth, to be measured.

Shape legend: ``n`` labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from relabel.crosslabel.pseudo import PseudoLabels
from relabel.datasets.dataset import Boxes, DetectionDataset, Images, make_boxes
from relabel.datasets.formats.coco.as_written import (
    CocoSource,
    Strict,
    read_as_written,
    read_results,
)
from relabel.errors import DataError
from relabel.evaluation.detections import told
from relabel.evaluation.federated import federated
from relabel.evaluation.joining import image_rows, in_id_order, join_by_name
from relabel.files.json_text import read_json
from relabel.geometry import xyxy_to_xywh


@dataclass(frozen=True, eq=False)
class JoinedLabels:
    """Pseudo-labels beside the truth of the images that were labelled.

    Attributes:
        truth: those images, in the order of their ids.
        found: the labels [n] on the truth's image rows and category positions; ``score`` is p.
        quality: float64 [n], localisation quality v; None where the labels have none.
        forgiven: bool [n], labels that are no error without a match: of federated truth those of
            classes that were not boxed exhaustively in their image.
        warnings: what a reader of the numbers should know.
    """

    truth: DetectionDataset
    found: Boxes
    quality: np.ndarray | None
    forgiven: np.ndarray
    warnings: tuple[str, ...] = ()


def join_labels(
    truth: DetectionDataset | CocoSource,
    labels: PseudoLabels | CocoSource | Sequence[Mapping[str, Any]],
    *,
    name: str = "the labels",
) -> JoinedLabels:
    """Read truth and labels; images are joined by ``file_name``, categories by name.

    Images of the truth that the labels do not tell of are left out: those in no shard or whose
    pixels could not be read, or those that a COCO file does not list. A results list tells of all.

    Args:
        truth: the true labels in the label space of the pseudo-labels.
        labels: as `relabel.crosslabel.shards.read_pseudo_labels` gives them; or a COCO file, its
            content or a results list whose boxes carry ``score`` and may carry ``quality``.
        name: what to call pseudo-labels in messages.

    Raises:
        DataError: a damaged file; a label without a score, or with a score or quality outside
            [0, 1]; no image in common; a class that the truth does not have.
    """
    problems = Strict()
    if isinstance(truth, DetectionDataset):
        reference = in_id_order(truth)
    else:
        reference = read_as_written(truth, problems)
    if isinstance(labels, PseudoLabels):
        made, quality = _as_dataset(labels, name), labels.quality
        quality = None if quality is None else quality[_covered(labels)[1]].astype(np.float64)
        _check_scores(made, False)
    else:
        made = read_results(labels, reference, problems)
        listed = made.images is reference.images
        _check_scores(made, listed)
        quality = _qualities(labels, made, listed)
    # The rows of the labels are followed through the joining by their ids.
    made = made.with_boxes(replace(made.boxes, id=np.arange(len(made.boxes))))
    rows = image_rows(made, reference)
    warnings = []
    told_of = np.unique(rows[rows >= 0])
    if len(told_of) < len(reference):
        warnings.append(
            f"{len(reference) - len(told_of)} of {len(reference)} images of {reference.name} were "
            "not labelled; left out"
        )
        reference = reference.subset(told_of)
    found, more = join_by_name(made, reference)
    classes = reference.space.num_classes
    found = found.take(np.flatnonzero(~found.ignore & (found.category < classes)))
    forgiven = np.zeros(len(found), bool)
    rules = federated(reference)
    if rules is not None:
        count = len(found)
        boxes, found = rules.counted(reference.boxes, found)
        reference = reference.with_boxes(boxes)
        forgiven = rules.forgiven(found)
        if len(found) < count:
            more.append(
                f"{count - len(found)} labels are of classes that {reference.name} does not tell "
                "of in their images; left out"
            )
    quality = None if quality is None else quality[found.id]
    return JoinedLabels(reference, found, quality, forgiven, (*told(problems), *warnings, *more))


def _covered(labels: PseudoLabels) -> tuple[list[int], np.ndarray]:
    """Images that were labelled, and bool [n], the labels on them."""
    covered = labels.coverage & np.array([bool(n) for n in labels.file_name], bool)
    return np.flatnonzero(covered).tolist(), covered[labels.image]


def _as_dataset(labels: PseudoLabels, name: str) -> DetectionDataset:
    """The images that were labelled, in their order, with the labels as boxes."""
    images, kept = _covered(labels)
    place = np.full(len(labels.file_name), -1)
    place[images] = np.arange(len(images))
    part = labels.take(kept)
    sizes = np.zeros(len(images), np.int32)
    boxes = make_boxes(
        place[part.image],
        xyxy_to_xywh(part.boxes.astype(np.float64)),
        part.category,
        score=part.score,
    )
    names = [str(labels.file_name[i]) for i in images]
    table = Images(np.arange(1, len(images) + 1), names, sizes, sizes)
    return DetectionDataset(name, labels.space, table, boxes, Path())


def _check_scores(made: DetectionDataset, listed: bool) -> None:
    score = made.boxes.score
    bad = np.flatnonzero(~((score >= 0) & (score <= 1)))  # NaN is neither
    if len(bad):
        value = float(score[bad[0]])
        raise DataError(
            "label without a score" if np.isnan(value) else f"label of score {value:g}",
            file=made.name,
            record=_record(int(made.boxes.id[bad[0]]), listed),
            remedy="Every label needs a `score` from 0 to 1.",
        )


def _qualities(source: Any, made: DetectionDataset, listed: bool) -> np.ndarray | None:
    """float64 [n], the field ``quality`` of a file's labels in the order of ``made``.

    A second look at the file, whose reader keeps no further fields.
    """
    data = read_json(source) if isinstance(source, str | Path) else source
    if isinstance(data, Mapping):  # a list of results may be wrapped
        rows = next(v for k, v in data.items() if k == "annotations" or listed)
    else:
        rows = data
    if not any("quality" in row for row in rows):
        return None
    by_id: dict[int, float] = {}
    for place, row in enumerate(rows, 1):
        id = place if listed else int(row["id"])
        value = row.get("quality")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value <= 1:
            raise DataError(
                "label without a quality, unlike others"
                if value is None
                else f"label whose quality is {value!r}",
                file=made.name,
                record=_record(id, listed),
                remedy="Quality is a number from 0 to 1 of every label, or of none.",
            )
        by_id[id] = float(value)
    return np.array([by_id[i] for i in made.boxes.id.tolist()], np.float64)


def _record(id: int, listed: bool) -> str:
    return f"results[{id - 1}]" if listed else f"annotation {id}"
