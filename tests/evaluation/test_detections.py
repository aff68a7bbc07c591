"""evaluate_detections against pycocotools, and evaluate_dataset against hand-computed cases."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from relabel.datasets.dataset import DetectionDataset, make_boxes
from relabel.datasets.labelspace import Category, LabelSpace
from relabel.detectors.base import Detections
from relabel.errors import DataError
from relabel.evaluation.detections import NUMBERS, evaluate_dataset, evaluate_detections
from tests.builders.datasets import dataset_of, images_of

from .coco_cases import cases, pycocotools_numbers


def assert_equal_to_pycocotools(truth: dict[str, Any], results: list[dict[str, Any]]) -> None:
    engine = pycocotools_numbers(truth, results)
    mine = evaluate_detections(truth, results)
    for name, theirs in zip(NUMBERS, engine.stats, strict=True):
        value = getattr(mine, name)
        if value is None:
            assert theirs == -1, name
        else:
            assert value == pytest.approx(theirs, abs=1e-9), name
    precision = engine.eval["precision"]
    for k, category in enumerate(engine.params.catIds):
        cell = precision[:, :, k, 0, 2]
        value = mine.per_class[f"class {category}"]
        if (cell > -1).any():
            assert value == pytest.approx(cell[cell > -1].mean(), abs=1e-9)
        else:
            assert value is None


CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=80, deadline=None, suppress_health_check=CHECKS)
@given(cases())
def test_same_numbers_as_pycocotools(case: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    assert_equal_to_pycocotools(*case)


def simple_truth() -> dict[str, Any]:
    return {
        "images": [{"id": 5, "file_name": "b.jpg"}, {"id": 3, "file_name": "a.jpg"}],
        "categories": [{"id": 9, "name": "class 9"}, {"id": 2, "name": "class 2"}],
        "annotations": [
            box(1, 5, 9, [10, 10, 40, 40]),
            box(2, 5, 9, [100, 10, 40, 40]),
            box(3, 3, 2, [0, 0, 200, 200]),
        ],
    }


def box(id: int, image: int, category: int, xywh: list[float], crowd: int = 0) -> dict[str, Any]:
    return {
        "id": id,
        "image_id": image,
        "category_id": category,
        "bbox": xywh,
        "area": xywh[2] * xywh[3],
        "iscrowd": crowd,
    }


def result(image: int, category: int, xywh: list[float], score: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": xywh, "score": score}


def test_numbers_by_hand() -> None:
    results = [
        result(5, 9, [10, 10, 40, 40], 0.9),
        result(5, 9, [300, 300, 40, 40], 0.8),  # between the two hits: precision 2/3 at recall 1
        result(5, 9, [100, 10, 40, 40], 0.7),
    ]
    metrics = evaluate_detections(simple_truth(), results)
    # 51 of the 101 recall levels reach at most 0.5, where precision is 1; the other 50 have 2/3.
    expected = (51 + 50 * 2 / 3) / 101
    assert metrics.per_class["class 9"] == pytest.approx(expected)
    assert metrics.per_class["class 2"] == 0.0
    assert pytest.approx(expected / 2) == metrics.AP
    assert pytest.approx(0.25) == metrics.AR1  # one of two found in class 9, none in class 2
    assert pytest.approx(0.5) == metrics.AR100
    assert metrics.APs is None
    assert metrics.to_dict()["APs"] is None


def test_annotation_id_zero_counts_as_in_pycocotools() -> None:
    truth = simple_truth()
    truth["annotations"][0]["id"] = 0
    results = [
        result(5, 9, [10, 10, 40, 40], 0.9),
        result(5, 9, [100, 10, 40, 40], 0.7),
        result(3, 2, [0, 0, 200, 200], 0.5),
    ]
    assert_equal_to_pycocotools(truth, results)
    metrics = evaluate_detections(truth, results)
    assert "id 0" in metrics.warnings[0]
    assert metrics.per_class["class 9"] != 1.0


def test_no_truth_no_predictions_no_categories() -> None:
    assert_equal_to_pycocotools(simple_truth(), [])
    empty = {**simple_truth(), "annotations": []}
    assert_equal_to_pycocotools(empty, [result(5, 9, [0, 0, 9, 9], 0.3)])
    assert evaluate_detections(empty, []).AP is None
    assert evaluate_detections({"images": [], "categories": [], "annotations": []}, []).AP is None


def test_numpy_numbers_are_accepted_and_arguments_left_alone() -> None:
    truth = simple_truth()
    results: list[dict[str, Any]] = [
        {
            "image_id": np.int64(5),
            "category_id": np.int32(9),
            "bbox": np.array([10, 10, 40, 40], np.float32),
            "score": np.float32(0.5),
        }
    ]
    before = copy.deepcopy(truth)
    metrics = evaluate_detections(truth, results)
    assert metrics.per_class["class 9"] == pytest.approx(51 / 101)
    assert truth == before


def coco_with_scores(names: tuple[str, str], ids: tuple[int, int]) -> dict[str, Any]:
    """Exact predictions as a COCO file with its own ids."""
    return {
        "images": [{"id": ids[0], "file_name": names[0]}, {"id": ids[1], "file_name": names[1]}],
        "categories": [{"id": 1, "name": "class 2"}, {"id": 2, "name": "class 9"}],
        "annotations": [
            {**box(1, ids[0], 2, [10, 10, 40, 40]), "score": 0.9},
            {**box(2, ids[0], 2, [100, 10, 40, 40], crowd=1), "score": 0.8},
            {**box(3, ids[1], 1, [0, 0, 200, 200]), "score": 0.7},
        ],
    }


def test_coco_file_is_joined_by_file_name_where_ids_disagree() -> None:
    # The ids 5 and 3 exist in the truth, but for the other image.
    swapped = coco_with_scores(("b.jpg", "a.jpg"), (3, 5))
    assert pytest.approx(1.0) == evaluate_detections(simple_truth(), swapped).AP
    fresh = coco_with_scores(("b.jpg", "a.jpg"), (1, 2))
    assert pytest.approx(1.0) == evaluate_detections(simple_truth(), fresh).AP


def test_coco_file_without_images_is_joined_by_id(tmp_path: Path) -> None:
    predictions = coco_with_scores(("b.jpg", "a.jpg"), (5, 3))
    for image in predictions["images"]:
        del image["file_name"]
    path = tmp_path / "p.json"
    path.write_text(json.dumps(predictions))
    assert pytest.approx(1.0) == evaluate_detections(simple_truth(), path).AP


def test_unknown_image_and_category_of_a_coco_file() -> None:
    with pytest.raises(DataError, match=r"image 'c\.jpg' does not exist"):
        evaluate_detections(simple_truth(), coco_with_scores(("c.jpg", "a.jpg"), (1, 2)))
    predictions = coco_with_scores(("b.jpg", "a.jpg"), (5, 3))
    predictions["categories"][0]["name"] = "class two"
    with pytest.raises(DataError, match=r"category 'class two'.*Did you mean .*'class 2'"):
        evaluate_detections(simple_truth(), predictions)


def dataset(space: LabelSpace, boxes: Any) -> DetectionDataset:
    return dataset_of("d", space, images_of(["x.jpg", "y.jpg"], (500, 500), ids=[7, 4]), boxes)


SPACE = LabelSpace("s", (Category(1, "car"), Category(2, "bus"), Category(3, "rack", ignore=True)))


def test_dataset_gives_each_class_above_threshold_a_detection() -> None:
    truth = dataset(
        SPACE,
        make_boxes(
            [0, 1, 1], [[0, 0, 50, 50], [0, 0, 50, 50], [100, 100, 60, 60]], [0, 1, 2], id=[0, 1, 2]
        ),
    )
    car_and_bus = np.array([[0.9, 0.6], [0.8, 0.005]], np.float32)
    first = Detections(
        np.array([[0, 0, 50, 50], [1, 0, 50, 50]], np.float32), car_and_bus
    )  # the second car is suppressed by the first
    second = Detections(
        # Higher than the right bus, but inside the region of an ignore category.
        np.array([[0, 0, 50, 50], [110, 110, 130, 130]], np.float32),
        np.array([[0.0, 0.5], [0.0, 0.99]], np.float32),
    )
    metrics = evaluate_dataset(truth, [first, second])
    assert metrics.per_class["car"] == pytest.approx(1.0)
    # The bus claimed on the first image (0.6) comes before the right one (0.5).
    assert metrics.per_class["bus"] == pytest.approx(0.5)
    assert metrics.warnings == ()
    only_second = evaluate_dataset(truth.subset([1]), [second])
    assert only_second.per_class == {"car": None, "bus": pytest.approx(1.0)}


def test_dataset_keeps_the_best_detections_of_an_image() -> None:
    truth = dataset(SPACE, make_boxes([0], [[0, 0, 50, 50]], [0]))
    found = Detections(
        np.array([[100, 0, 150, 50], [0, 0, 50, 50]], np.float32),
        np.array([[0.9, 0], [0.5, 0]], np.float32),
    )
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros((0, 2), np.float32))
    assert pytest.approx(0.5) == evaluate_dataset(truth, [found, nothing]).AP
    assert evaluate_dataset(truth, [found, nothing], max_detections=1).AP == 0.0
    assert evaluate_dataset(truth, [nothing, nothing]).AP == 0.0


def test_dataset_ranks_detections_as_their_detector_does() -> None:
    truth = dataset(SPACE, make_boxes([0], [[0, 0, 50, 50]], [0]))
    boxes = np.array([[0, 0, 50, 50], [0, 0, 50, 40], [100, 0, 150, 50]], np.float32)
    scores = np.array([[0.5, 0], [0.6, 0], [0.9, 0.0]], np.float32)
    quality = np.array([0.9, 0.2, 0.4], np.float32)
    nothing = Detections(boxes[:0], scores[:0])

    def measured(**more: Any) -> tuple[float | None, float | None]:
        metrics = evaluate_dataset(truth, [Detections(boxes, scores, **more), nothing])
        return metrics.AP50, metrics.AP

    # By score the box that is nowhere comes first, and the looser of the other two is kept.
    assert measured(quality=quality) == measured() == (0.5, pytest.approx(0.35))
    # By p * v (0.45, 0.12, 0.36) the exact box does, and the looser one goes as its copy.
    assert measured(quality=quality, ranking="product") == pytest.approx((1.0, 1.0))
    # What counts is told by p: a box of quality 1 with p of 0.01 is none.
    hopeless = np.array([[0.005, 0]] * 3, np.float32)
    found = Detections(boxes, hopeless, np.ones(3, np.float32), "quality")
    assert evaluate_dataset(truth, [found, nothing]).AP == 0.0


def test_dataset_refuses_what_does_not_fit() -> None:
    truth = dataset(SPACE, make_boxes([0], [[0, 0, 50, 50]], [0]))
    wrong = Detections(np.zeros((1, 4), np.float32), np.zeros((1, 3), np.float32))
    with pytest.raises(DataError, match="3 classes"):
        evaluate_dataset(truth, [wrong, wrong])
    with pytest.raises(DataError, match="1 detection results for 2 images"):
        evaluate_dataset(truth, [wrong])
