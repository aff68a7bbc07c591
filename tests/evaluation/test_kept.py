"""Which annotations left a label, on worlds small enough to count by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relabel.evaluation import tables
from relabel.evaluation.kept import NO_ANNOTATION, NO_LABEL_GIVEN
from relabel.evaluation.transfer import TransferMetrics, evaluate_transfer
from tests.evaluation.test_transfer import coco

BOX: list[float] = [0, 0, 100, 100]


def lost(
    source: list[list[float]],
    labels: list[list[float]],
    truth: list[list[float]],
    names: list[int | None] | None = None,
    crowd: bool = False,
) -> tuple[int, int, int]:
    """Annotations whose object the truth has, those lost, and those kept without an object.

    Args:
        names: the annotation that each label names.
        crowd: the labels are ignore regions.
    """
    objects = [None if n is None else {"source_annotation_id": n} for n in names or []]
    more: dict[str, Any] = {"relabel": objects} if names else {}
    if crowd:
        more["iscrowd"] = [1] * len(labels)
    kept = evaluate_transfer(
        coco([("a.jpg", "car", box) for box in truth]),
        coco([("a.jpg", "bus", box) for box in labels], **more),
        coco([("a.jpg", "thing", box) for box in source], names=("thing",)),
    ).annotations
    assert kept is not None
    content = kept.to_dict()
    assert content["annotations"] == len(source)
    return content["in_truth"], content["lost"], content["absent_kept"]


def test_a_label_of_any_class_on_annotation_or_truth_keeps_it() -> None:
    assert lost([BOX], [], [BOX]) == (1, 1, 0)
    assert lost([BOX], [[0, 0, 100, 60]], [BOX]) == (1, 0, 0)
    # IoU 0.45 with the annotation, 0.75 with its truth box.
    assert lost([BOX], [[0, 0, 60, 75]], [[0, 0, 60, 100]]) == (1, 0, 0)
    assert lost([BOX], [[0, 0, 60, 45]], [[0, 0, 60, 100]]) == (1, 1, 0)
    assert lost([BOX], [BOX], [BOX], crowd=True) == (1, 1, 0)  # a region is no label
    assert lost([BOX, [0, 0, 100, 90]], [BOX], [BOX]) == (2, 0, 0)  # several may become one


def test_an_annotation_without_its_object_is_no_loss() -> None:
    assert lost([BOX], [], []) == (0, 0, 0)
    assert lost([BOX], [BOX], []) == (0, 0, 1)
    # Loose styles: IoU 0.36 and the centre inside count, the same beside it does not.
    assert lost([BOX], [], [[20, 20, 60, 60]]) == (1, 1, 0)
    assert lost([BOX], [], [[52, 0, 100, 100]]) == (0, 0, 0)
    # An annotation of two objects: a truth box of IoU 0.6 is its own, another of 0.36 is not,
    # and a label there does not keep it.
    assert lost([BOX], [[0, 60, 90, 40]], [[0, 0, 100, 60], [0, 60, 90, 40]]) == (1, 1, 0)


def test_labels_that_name_their_annotation_may_be_further_off() -> None:
    narrow: list[float] = [0, 0, 40, 100]  # IoU 0.4
    assert lost([BOX], [narrow], [BOX]) == (1, 1, 0)
    assert lost([BOX], [narrow], [BOX], names=[1]) == (1, 0, 0)
    assert lost([BOX], [narrow], [BOX], names=[2]) == (1, 1, 0)
    assert lost([BOX], [[0, 0, 20, 100]], [BOX], names=[1]) == (1, 1, 0)  # not this far
    # IoU 0.4 with the annotation, beside its truth box.
    beside: list[float] = [60, 0, 40, 100]
    assert lost([BOX], [beside], [[0, 0, 60, 100]], names=[1]) == (1, 0, 0)
    assert lost([BOX], [beside], [[0, 0, 60, 100]], names=[2]) == (1, 1, 0)
    # IoU 0.24 with the annotation, 0.4 with its truth box.
    assert lost([BOX], [[0, 0, 60, 40]], [[0, 0, 60, 100]], names=[1]) == (1, 0, 0)


def scored() -> TransferMetrics:
    truth = coco(
        [
            ("a.jpg", "car", BOX),
            ("a.jpg", "bus", [200, 0, 100, 100]),
            ("b.jpg", "bus", BOX),
            ("b.jpg", "car", [300, 0, 50, 50]),
        ]
    )
    labels = coco(
        [
            ("a.jpg", "car", BOX),
            ("a.jpg", "car", [200, 0, 100, 90]),
            ("b.jpg", "car", [300, 0, 50, 50]),
        ]
    )
    source = coco(
        [
            ("a.jpg", "vehicle", BOX),
            ("a.jpg", "vehicle", [200, 0, 100, 100]),
            ("b.jpg", "vehicle", BOX),
            ("b.jpg", "cone", [500, 500, 20, 40]),
        ],
        names=("vehicle", "cone", "never"),
    )
    return evaluate_transfer(truth, labels, source)


def test_confusion_by_source_class_and_tables() -> None:
    metrics = scored()
    content = json.loads(json.dumps(metrics.to_dict()))
    assert content["by_source"] == {
        "vehicle": {"car": {"car": 1}, "bus": {"car": 1, NO_LABEL_GIVEN: 1}},
        NO_ANNOTATION: {"car": {"car": 1}},
    }
    kept = content["annotations"]
    assert (kept["in_truth"], kept["lost"], kept["absent"]) == (3, 1, 1)
    assert kept["lost_share"] == pytest.approx(1 / 3)
    assert set(kept["per_class"]) == {"vehicle", "cone"}
    assert kept["per_class"]["cone"]["lost_share"] is None
    assert content["lrp"]["optimal"] is None  # no scores
    # Cars: two exact matches, a wrong box. No bus is called one.
    assert content["per_class"]["car"]["lrp"] == pytest.approx(1 / 3)
    assert content["lrp"]["total"] == pytest.approx((1 / 3 + 1) / 2)
    assert metrics.annotations is not None and metrics.by_source is not None
    assert tables.kept_rows(metrics.annotations)[1] == [
        ["vehicle", "3", "3", "1", "33.3", "0", "0"],
        ["cone", "1", "0", "0", "-", "1", "0"],
        ["all", "4", "3", "1", "33.3", "1", "0"],
    ]
    assert tables.by_source_rows(metrics.by_source) == (
        ["source class", "true class", "car", NO_LABEL_GIVEN],
        [
            ["vehicle", "car", "1", "·"],
            ["vehicle", "bus", "1", "1"],
            [NO_ANNOTATION, "car", "1", "·"],
        ],
    )
    header, rows = tables.transfer_rows([metrics])
    assert dict(zip(header, rows[0], strict=True))["lost"] == "33.3"


def test_an_object_goes_by_the_annotation_that_overlaps_it_most() -> None:
    names = ("far", "near", "farther")
    boxes: list[list[float]] = [[0, 0, 100, 80], [0, 0, 100, 95], [0, 0, 100, 60]]
    source = coco([("a.jpg", n, b) for n, b in zip(names, boxes, strict=True)], names=names)
    truth = coco([("a.jpg", "car", BOX)])
    by_source = evaluate_transfer(truth, truth, source).by_source
    assert by_source is not None and by_source.to_dict() == {"near": {"car": {"car": 1}}}


def test_scored_sets_have_an_optimal_error() -> None:
    truth = coco([("a.jpg", "car", BOX)])
    boxes: list[tuple[str, str, list[float]]] = [
        ("a.jpg", "car", [0, 0, 100, 80]),
        ("a.jpg", "car", [300, 0, 50, 50]),
    ]
    lrp = evaluate_transfer(truth, coco(boxes, score=[0.9, 0.2])).lrp
    assert lrp.total == pytest.approx((0.2 / 0.5 + 1) / 2)
    assert lrp.optimal == pytest.approx(0.4)  # without the second box
