"""Average precision and recall of detections: pycocotools' twelve numbers, from a faster engine.

Truth of LVIS is measured by its own rules, with lvis-api's numbers: see
`relabel.evaluation.federated`.

The engine is hotcoco. It differs from pycocotools in one place: pycocotools stores the id of the
matched truth box as the sign of a match, so a detection matched to annotation id 0 counts as
unmatched there. The numbers here are pycocotools', so that category is accumulated again with its
rule, and a warning says so.

Shape legend: ``T`` IoU thresholds (10), ``R`` recall levels (101), ``K`` categories, ``A`` area
ranges (all, small, medium, large), ``M`` limits of detections per image (1, 10, 100; LVIS: 300).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from relabel.datasets.dataset import Boxes, DetectionDataset, make_boxes
from relabel.datasets.formats.coco.as_written import (
    CocoSource,
    Strict,
    read_as_written,
    read_results,
)
from relabel.detectors.base import Detections
from relabel.errors import DataError, Problems
from relabel.evaluation.federated import GROUPS, MAX_FEDERATED, Federated, federated
from relabel.evaluation.joining import in_id_order, join_by_id
from relabel.geometry import suppress, xyxy_to_xywh

MAX_DETECTIONS = (1, 10, 100)
# Greater than the greatest size of any range.
_NO_SIZE = 1e12
RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class DetectionMetrics:
    """COCO's or LVIS's numbers, fractions in [0, 1]; None where there is nothing to measure.

    Attributes:
        AP, AP50, AP75: average precision at IoU 0.50:0.95, 0.50 and 0.75.
        APs, APm, APl: AP of boxes under 32², up to 96² and above, by the truth's area.
        AR1, AR10, AR100: average recall with that many detections per image.
        ARs, ARm, ARl: AR100, or AR300, by size.
        per_class: AP by category name.
        warnings: what the numbers do not show.
        rules: ``coco``, or ``lvis`` for federated truth, which has AR300 in place of the other
            three and the next three numbers.
        APr, APc, APf: AP of rare, common and frequent classes.
        AR300: average recall with 300 detections per image.
        found: of a detector's output, the detections that were measured, on the rows of the truth's
            images in the order of their ids.
    """

    AP: float | None
    AP50: float | None
    AP75: float | None
    APs: float | None
    APm: float | None
    APl: float | None
    AR1: float | None
    AR10: float | None
    AR100: float | None
    ARs: float | None
    ARm: float | None
    ARl: float | None
    per_class: dict[str, float | None]
    warnings: tuple[str, ...] = ()
    rules: Literal["coco", "lvis"] = "coco"
    APr: float | None = None
    APc: float | None = None
    APf: float | None = None
    AR300: float | None = None
    found: Boxes | None = field(default=None, repr=False, compare=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the numbers that these rules have."""
        return NUMBERS if self.rules == "coco" else LVIS_NUMBERS

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the numbers and ``per_class``; of LVIS ``rules`` too."""
        numbers = {name: getattr(self, name) for name in self.names}
        told = {} if self.rules == "coco" else {"rules": self.rules}
        return {**told, **numbers, "per_class": dict(self.per_class)}


_PRECISIONS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
NUMBERS = (*_PRECISIONS, "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
LVIS_NUMBERS = (*_PRECISIONS, "APr", "APc", "APf", "AR300", "ARs", "ARm", "ARl")


def evaluate_detections(
    truth: CocoSource, predictions: CocoSource | Sequence[Mapping[str, Any]]
) -> DetectionMetrics:
    """COCO AP of a results list, or of a COCO file with scores, against a COCO truth file.

    Every box of ``predictions`` is a detection, whatever its ``iscrowd``, as in pycocotools'
    ``loadRes``. ``iscrowd`` in the truth marks regions to leave out.

    Args:
        truth: path of a COCO file, or its content.
        predictions: path of a results list or COCO file, or its content. A COCO file's images
            are joined by id if the ``file_name``s agree, else by ``file_name``; its categories by
            id if the names agree, else by name.

    Raises:
        DataError: a damaged file; predictions without a score, on unknown images, or of unknown
            categories.
    """
    problems = Strict()
    reference, found = read_scored(truth, predictions, problems)
    metrics = average_precision(reference, found)
    beyond = _beyond_limit(reference, found, metrics.rules == "lvis")
    warnings = (*told(problems), *metrics.warnings, *beyond)
    return replace(metrics, warnings=warnings)


def told(problems: Problems) -> tuple[str, ...]:
    """Warnings of the readers, a line each."""
    lines = [f"{p.file}: {p.message}" for p in problems.found]
    return tuple(dict.fromkeys((*lines, *problems.summary())))


def _beyond_limit(truth: DetectionDataset, found: Boxes, lvis: bool) -> tuple[str, ...]:
    """A warning where images have more detections than are looked at."""
    classes = 1 if lvis else max(truth.space.num_classes, 1)
    cell = found.image.astype(np.int64) * classes + (0 if lvis else found.category)
    counts = np.unique(cell, return_counts=True)[1]
    limit = MAX_FEDERATED if lvis else MAX_DETECTIONS[-1]
    left_out = int(np.maximum(counts - limit, 0).sum())
    if not left_out:
        return ()
    of = "an image" if lvis else "an image and class"
    return (f"{left_out} detections beyond the best {limit} of {of} are left out, by the rules",)


def read_scored(
    truth: CocoSource, predictions: CocoSource | Sequence[Mapping[str, Any]], problems: Strict
) -> tuple[DetectionDataset, Boxes]:
    """Truth, and scored predictions brought onto its images and categories.

    Args:
        problems: receives warnings.

    Raises:
        DataError: as `evaluate_detections`.
    """
    reference = read_as_written(truth, problems)
    found = read_results(predictions, reference, problems)
    unscored = np.flatnonzero(~np.isfinite(found.boxes.score))
    if len(unscored):
        raise DataError(
            "prediction without a score",
            file=found.name,
            record=f"annotation {found.boxes.id[unscored[0]]}",
            remedy="AP needs scores: add a `score` to every annotation.",
        )
    if len(found.boxes) and found.boxes.score.max() > 1:
        problems.warning(
            f"scores go up to {found.boxes.score.max():g}: are they percent? AP looks at their "
            "order alone; commands with a minimum score expect fractions",
            file=found.name,
        )
    if not len(found.boxes):
        problems.warning("holds no predictions", file=found.name)
    return reference, join_by_id(found, reference)


def evaluate_dataset(
    truth: DetectionDataset,
    detections: Sequence[Detections],
    *,
    max_detections: int | None = None,
) -> DetectionMetrics:
    """COCO AP of a detector's output, as measured during training.

    Every class with a score above 0.01 gives a detection of its own; class-wise NMS at IoU 0.5
    follows, and the best ``max_detections`` of each image stay, by what the detector ranks its
    detections by (`Detections.confidences`). Ignored boxes count as crowd
    regions, boxes of ``ignore`` categories as crowd regions of every class.

    Args:
        truth: the dataset.
        detections: of each image; scores [n, C] over the classes of ``truth.space``.
        max_detections: maximum number of detections per image; default 100, of LVIS 300.

    Raises:
        DataError: as many detections as images, or as many scores as classes, are not there.
    """
    if len(truth) != len(detections):
        raise DataError(f"{len(detections)} detection results for {len(truth)} images")
    classes = truth.space.num_classes
    # Ids that are not from a COCO file carry no meaning: pycocotools' rule for id 0 is left out.
    reference = in_id_order(truth)
    ids = np.arange(1, len(reference.boxes) + 1)
    reference = reference.with_boxes(replace(reference.boxes, id=ids))
    counts = np.array([len(d) for d in detections], dtype=np.int64)
    n = int(counts.sum())
    boxes, scores, ranks = np.zeros((0, 4)), np.zeros((0, classes)), np.zeros((0, classes))
    if n:
        boxes = np.concatenate([np.asarray(d.boxes, np.float64).reshape(-1, 4) for d in detections])
        scores = np.concatenate(
            [np.asarray(d.scores, np.float64).reshape(len(d), -1) for d in detections if len(d)]
        )
        if scores.shape != (n, classes):
            raise DataError(
                f"scores have {scores.shape[1]} classes, label space {truth.space.name!r} "
                f"has {classes}"
            )
        ranks = np.concatenate([d.confidences for d in detections if len(d)])
    image = np.repeat(np.searchsorted(reference.images.id, truth.images.id), counts)
    row, category = np.nonzero(scores > 0.01)
    score = ranks.astype(np.float64)[row, category]
    keep = suppress(boxes[row], score, image[row] * classes + category, 0.5)
    row, category, score = row[keep], category[keep], score[keep]
    order = np.lexsort((-score, image[row]))
    place = np.arange(len(order)) - np.searchsorted(image[row][order], image[row][order])
    if max_detections is None:
        lvis = federated(reference) is not None
        max_detections = MAX_FEDERATED if lvis else MAX_DETECTIONS[-1]
    order = order[place < max_detections]
    row, category, score = row[order], category[order], score[order]
    made = replace(make_boxes(image[row], xyxy_to_xywh(boxes[row]), category), score=score)
    return replace(average_precision(reference, made), found=made)


def average_precision(truth: DetectionDataset, found: Boxes) -> DetectionMetrics:
    """The numbers and AP per class: COCO's, or LVIS's where the truth is federated.

    Args:
        truth: images in the order of their ids, which decides between equal scores.
        found: boxes with scores on the truth's image rows and category positions.

    Raises:
        DataError: the truth's federated fields are damaged.
    """
    rules = federated(truth)
    precision, recall, warnings = _curves(truth, found, rules)
    everything = precision[:, :, :, 0, -1]
    curves = [everything, everything[0], everything[5]]
    curves += [precision[:, :, :, area, -1] for area in (1, 2, 3)]
    numbers = dict(zip(_PRECISIONS, curves, strict=True))
    numbers |= {f"AR{size}": recall[:, :, a + 1, -1] for a, size in enumerate("sml")}
    limits = MAX_DETECTIONS if rules is None else (MAX_FEDERATED,)
    numbers |= {f"AR{limit}": recall[:, :, 0, i] for i, limit in enumerate(limits)}
    if rules is not None:
        group = np.array(rules.group)
        numbers |= {f"AP{name}": everything[:, :, group == name] for name in GROUPS}
    measured: dict[str, Any] = {**dict.fromkeys(NUMBERS)}
    measured |= {name: _mean(values) for name, values in numbers.items()}
    return DetectionMetrics(
        **measured,
        per_class={
            name: _mean(everything[:, :, k]) for k, name in enumerate(truth.space.class_names)
        },
        warnings=warnings,
        rules="coco" if rules is None else "lvis",
    )


def _mean(values: np.ndarray) -> float | None:
    measured = values[values > -1]
    return float(np.mean(measured)) if measured.size else None


def _spread(boxes: Boxes, classes: int) -> Boxes:
    """Repeat regions that concern every class once per class."""
    anyone = boxes.category >= classes
    if not anyone.any():
        return boxes
    own, shared = np.flatnonzero(~anyone), np.flatnonzero(anyone)
    spread = boxes.take(np.concatenate([own, np.repeat(shared, classes)]))
    category, ignore = spread.category.copy(), spread.ignore.copy()
    category[len(own) :] = np.tile(np.arange(classes), len(shared))
    ignore[len(own) :] = True
    # The regions are crowd, so only that their ids differ from the others' matters.
    return replace(spread, category=category, ignore=ignore, id=np.arange(1, len(spread) + 1))


def new_engine(
    truth: DetectionDataset, found: Boxes, rules: Federated | None
) -> tuple[Any, Boxes, Boxes] | None:
    """hotcoco's evaluation of detections, before its first step; None without truth.

    Image, category and annotation ids count from 1: image rows, category positions, rows of the
    truth boxes that are returned.

    Returns:
        The engine, the truth boxes that count, and the detections that count, in its order.
    """
    import hotcoco

    images, classes = len(truth), truth.space.num_classes
    if not images or not classes:
        return None
    boxes, records = truth.boxes, [{"id": i} for i in range(1, images + 1)]
    if rules is not None:
        boxes, found = rules.counted(boxes, rules.best(found))
        records = rules.fields(images)
    boxes = _spread(boxes, classes)
    crowd, area = boxes.ignore, boxes.area
    if rules is not None:
        # LVIS has no crowds, which many detections may match: a box to leave out is one whose
        # size is in no range.
        area, crowd = np.where(crowd, _NO_SIZE, area), np.zeros(len(boxes), bool)
    if not len(boxes):
        return None
    # Rows count from 1 in the order of the image ids: the order decides between equal scores.
    reference = hotcoco.COCO.from_arrays(
        records,
        [{"id": k, "name": str(k), "frequency": "f"} for k in range(1, classes + 1)],
        boxes.image.astype(np.int64) + 1,
        boxes.category.astype(np.int64) + 1,
        np.ascontiguousarray(boxes.xywh, np.float64),
        ids=np.arange(1, len(boxes) + 1),
        area=np.ascontiguousarray(area, np.float64),
        iscrowd=crowd.astype(np.int64),
    )
    parts = (found.image + 1.0, found.xywh, found.score, found.category + 1.0)
    table = np.column_stack(parts).astype(np.float64)
    engine = hotcoco.COCOeval(
        reference, reference.load_res(table), "bbox", lvis_style=rules is not None
    )
    return engine, boxes, found


def _curves(
    truth: DetectionDataset, found: Boxes, rules: Federated | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """precision [T, R, K, A, M], recall [T, K, A, M], -1 where a category has no truth."""
    classes = truth.space.num_classes
    limits = MAX_DETECTIONS if rules is None else (MAX_FEDERATED,)
    shape = (10, 101, classes, 4, len(limits))
    made = new_engine(truth, found, rules)
    if made is None:
        return np.full(shape, -1.0), np.full((10, classes, 4, len(limits)), -1.0), ()
    engine, boxes, found = made
    engine.evaluate()
    engine.accumulate()
    curves = engine.eval or {}
    precision = np.array(curves["precision"]).reshape(shape)
    recall = np.array(curves["recall"]).reshape(10, classes, 4, len(limits))
    zero = np.flatnonzero(boxes.id == 0)
    if not len(zero):
        return precision, recall, ()
    row = int(zero[0])
    category = int(boxes.category[row])
    engine.params.cat_ids = [category + 1]
    engine.evaluate()
    precision[:, :, category], recall[:, category] = _as_pycocotools_counts_id_zero(
        engine.eval_imgs,
        row + 1,
        found.area,
        limits,
        np.zeros(len(found), bool) if rules is None else rules.forgiven(found),
    )
    tool = "pycocotools" if rules is None else "lvis-api"
    return (
        precision,
        recall,
        (
            f"{truth.name} has an annotation with id 0, which {tool} counts as never found; "
            "so do these numbers. Number annotations from 1.",
        ),
    )


def _as_pycocotools_counts_id_zero(
    cells: Sequence[dict[str, Any] | None],
    zero: int,
    area: np.ndarray,
    limits: tuple[int, ...],
    forgiven: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """One category's curves with the matches of truth ``zero`` taken for misses.

    Args:
        cells: the engine's per-image results of one category, any order of area ranges, images in
            order within each.
        zero: the engine's id of the truth box whose id in the file is 0.
        area: float64 [n] of the detections; the engine numbers them from 1.
        limits: M numbers of detections per image.
        forgiven: bool [n], detections that are no error without a match.

    Returns:
        precision [T, R, A, M] and recall [T, A, M].
    """
    precision = np.full((10, 101, 4, len(limits)), -1.0)
    recall = np.full((10, 4, len(limits)), -1.0)
    bounds = [(0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10)]
    for a, (low, high) in enumerate(bounds):
        mine = [c for c in cells if c is not None and tuple(c["aRng"]) == (low, high)]
        truths = sum(int(np.count_nonzero(~np.asarray(c["gtIgnore"], bool))) for c in mine)
        if not truths:
            continue
        for m, limit in enumerate(limits):
            nothing = np.zeros((10, 0), bool)
            scores, hits, ignored = [np.zeros(0)], [nothing], [nothing]
            for cell in mine:
                dets = np.asarray(cell["dtIds"][:limit], np.int64)
                shape = (10, len(cell["dtIds"]))
                match = np.asarray(cell["dtMatches"], np.int64).reshape(shape)[:, :limit]
                lost = match == zero
                outside = (area[dets - 1] < low) | (area[dets - 1] > high) | forgiven[dets - 1]
                skip = np.asarray(cell["dtIgnore"], bool).reshape(shape)[:, :limit]
                scores.append(np.asarray(cell["dtScores"][:limit], np.float64))
                hits.append((match > 0) & ~lost)
                ignored.append(skip | (lost & outside))
            score = np.concatenate(scores)
            order = np.argsort(-score, kind="stable")
            hit = np.concatenate(hits, axis=1)[:, order]
            skip = np.concatenate(ignored, axis=1)[:, order]
            for t in range(10):
                counted = hit[t, ~skip[t]]
                precision[t, :, a, m] = precision_at_recalls(counted, truths)
                recall[t, a, m] = np.count_nonzero(counted) / truths
    return precision, recall


def precision_at_recalls(hit: np.ndarray, truths: int) -> np.ndarray:
    """pycocotools' precision at the recalls 0, 0.01, ..., 1; their mean is AP.

    Args:
        hit: bool [n], true positives among the detections, best score first.
        truths: number of truth boxes, at least 1.

    Returns:
        float64 [101]: the greatest precision at that recall or beyond, 0 where it is not reached.
    """
    right = np.cumsum(hit).astype(float)
    exact = right / (np.arange(1, len(hit) + 1) + np.spacing(1))
    exact = np.maximum.accumulate(exact[::-1])[::-1]
    at = np.searchsorted(right / truths, RECALLS, side="left")
    level = np.zeros(len(RECALLS))
    level[at < len(exact)] = exact[at[at < len(exact)]]
    return level
