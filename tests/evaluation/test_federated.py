"""Federated truth (LVIS): numbers by hand, and lvis-api's own where it is installed."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relabel.datasets.formats.registry import read_dataset, write_dataset
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.namemap import NameMap
from relabel.errors import DataError
from relabel.evaluation.detections import LVIS_NUMBERS, evaluate_detections
from relabel.evaluation.errors import evaluate_errors
from relabel.evaluation.transfer import evaluate_transfer
from tests.builders.datasets import write_json

from .coco_cases import cases


def annotation(id: int, image: int, category: int, xywh: list[float]) -> dict[str, Any]:
    x, y, w, h = xywh
    return {"id": id, "image_id": image, "category_id": category, "bbox": [x, y, w, h]} | {
        "area": w * h
    }


def result(image: int, category: int, xywh: list[float], score: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": xywh, "score": score}


def truth() -> dict[str, Any]:
    """Van is rare, cone common, cat frequent; image 1 has no word on cats."""
    return {
        "images": [
            {"id": 1, "coco_url": "http://x/val/1.jpg", "width": 200, "height": 100}
            | {"neg_category_ids": [2], "not_exhaustive_category_ids": [1]},
            {"id": 2, "coco_url": "http://x/val/2.jpg", "width": 200, "height": 100}
            | {"neg_category_ids": [1], "not_exhaustive_category_ids": []},
        ],
        "categories": [
            {"id": 1, "name": "van", "frequency": "r"},
            {"id": 2, "name": "cone", "frequency": "c"},
            {"id": 3, "name": "cat", "frequency": "f"},
        ],
        "annotations": [
            annotation(1, 1, 1, [4, 4, 20, 20]),
            annotation(2, 2, 2, [4, 4, 20, 20]),
            annotation(3, 2, 3, [40, 40, 50, 50]),
        ],
    }


RESULTS = [
    result(1, 1, [4, 4, 20, 20], 0.5),
    result(1, 1, [40, 4, 20, 20], 0.9),  # not exhaustive there: no error
    result(2, 1, [40, 4, 20, 20], 0.8),  # absent for sure: an error
    result(1, 2, [40, 4, 20, 20], 0.7),  # absent for sure: an error
    result(2, 2, [4, 4, 20, 20], 0.4),
    result(1, 3, [4, 4, 20, 20], 0.9),  # nothing is known of cats there
    result(2, 3, [40, 40, 50, 50], 0.3),
]


def test_numbers_by_hand() -> None:
    metrics = evaluate_detections(truth(), RESULTS)
    # One error ranks above the only van and one above the only cone; COCO's rules would give
    # 1/3 for vans and 1/2 for cats.
    assert metrics.per_class == pytest.approx({"van": 0.5, "cone": 0.5, "cat": 1.0})
    assert (metrics.APr, metrics.APc, metrics.APf) == pytest.approx((0.5, 0.5, 1.0))
    assert pytest.approx(2 / 3) == metrics.AP
    assert pytest.approx(0.5) == metrics.APs
    assert pytest.approx(1.0) == metrics.APm
    assert metrics.APl is None
    assert pytest.approx(1.0) == metrics.AR300
    told = metrics.to_dict()
    assert list(told) == ["rules", *LVIS_NUMBERS, "per_class"]
    assert "AR100" not in told


def test_an_image_has_three_hundred_detections_of_all_classes() -> None:
    many = [result(2, 1, [100, 50, 10, 10], 0.9)] * 299
    assert (evaluate_detections(truth(), [*many, RESULTS[4]]).per_class["cone"] or 0) > 0.9
    assert evaluate_detections(truth(), [*many, many[0], RESULTS[4]]).per_class["cone"] == 0.0


def test_other_reports_leave_out_the_same() -> None:
    errors = evaluate_errors(truth(), RESULTS)
    assert errors.AP50 == evaluate_detections(truth(), RESULTS).AP50
    assert errors.counts["background"] == 2
    assert sum(errors.counts.values()) == 2
    labels = {**truth(), "annotations": [{**r, "id": i} for i, r in enumerate(RESULTS, 1)]}
    transfer = evaluate_transfer(truth(), labels)
    half = transfer.at["0.5"]
    assert (half.true_positives, half.false_positives, half.false_negatives) == (3, 2, 0)
    assert "1 boxes" in transfer.warnings[0]
    assert transfer.AP == evaluate_detections(truth(), RESULTS).AP


def test_a_damaged_field_is_named() -> None:
    content = truth()
    content["images"][1]["neg_category_ids"] = "none"
    with pytest.raises(DataError, match="image 2: neg_category_ids is not a list"):
        evaluate_detections(content, RESULTS)


def test_the_fields_stay_with_the_categories_they_speak_of(tmp_path: Path) -> None:
    file = write_json(tmp_path / "lvis.json", truth())
    kept = write_dataset(read_dataset(file, "coco"), "coco", tmp_path / "kept.json")[0]
    assert evaluate_detections(kept, RESULTS).rules == "lvis"
    other = LabelSpace.from_names("other", ["cat", "cone", "van"])
    moved = read_dataset(file, "coco", space=other)
    own = read_dataset(file, "coco")
    mapped = NameMap({"van": "car", "cone": "car", "cat": None}).apply(own)
    for dataset in (moved, own.with_boxes(moved.boxes, other), mapped):
        out = write_dataset(dataset, "coco", tmp_path / "moved.json")[0]
        image = json.loads(out.read_bytes())["images"][0]
        assert "neg_category_ids" not in image
        assert image["coco_url"] == "http://x/val/1.jpg"
        assert evaluate_detections(out, []).rules == "coco"


@st.composite
def federated_cases(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    content, results = draw(cases())
    ids = [category["id"] for category in content["categories"]]
    some = st.lists(st.sampled_from(ids), unique=True)
    for category in content["categories"]:
        category["frequency"] = draw(st.sampled_from("rcf"))
    for image in content["images"]:
        image["neg_category_ids"] = draw(some)
        image["not_exhaustive_category_ids"] = draw(some)
    return content, results


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(federated_cases())
def test_same_numbers_as_lvis_api(case: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    lvis = pytest.importorskip("lvis")
    content, results = case
    if not results:  # lvis-api looks at the first
        return
    if not hasattr(np, "float"):
        np.float = float  # type: ignore[attr-defined]
    reference = lvis.LVIS.__new__(lvis.LVIS)
    reference.logger = logging.getLogger("lvis")
    reference.dataset = copy.deepcopy(content)
    reference._create_index()
    found = lvis.LVISResults(reference, copy.deepcopy(results))
    engine = lvis.LVISEval(reference, found, "bbox")
    engine.run()
    mine = evaluate_detections(content, results)
    for name, theirs in engine.results.items():
        value = getattr(mine, name.replace("AR@", "AR").replace("@300", ""))
        assert (-1 if value is None else value) == pytest.approx(theirs, abs=1e-9), name
