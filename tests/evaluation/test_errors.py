"""Error types against hand-made cases, and against hotcoco's implementation on random worlds."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from relabel.errors import DataError
from relabel.evaluation.detections import evaluate_detections
from relabel.evaluation.errors import ERROR_TYPES, ErrorAnalysis, evaluate_errors

CAR, BUS = 1, 2


def truth(*boxes: tuple[int, int, list[float]], crowd: tuple[int, ...] = ()) -> dict[str, Any]:
    """(image, category, xywh) each; ``crowd`` are positions of regions to leave out."""
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in (1, 2, 3)],
        "categories": [{"id": CAR, "name": "car"}, {"id": BUS, "name": "bus"}],
        "annotations": [
            {
                "id": i + 1,
                "image_id": image,
                "category_id": category,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(i in crowd),
            }
            for i, (image, category, box) in enumerate(boxes)
        ],
    }


def result(image: int, category: int, box: list[float], score: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def only(analysis: ErrorAnalysis, **counts: int) -> None:
    assert analysis.counts == {**dict.fromkeys(ERROR_TYPES, 0), **counts}


BOX, HALF, CORNER = [0.0, 0, 10, 10], [0.0, 0, 10, 4], [8.0, 8, 10, 10]  # IoU with BOX 1, 0.4, 0.02


def test_classification_repair_takes_the_box_of_the_other_class() -> None:
    a = evaluate_errors(truth((1, CAR, BOX), (2, BUS, BOX)), [result(1, BUS, BOX, 0.9)])
    only(a, classification=1, missed=1)  # the bus of image 2 is missed, the car is mistaken
    assert a.AP50 == 0.0
    # The bus becomes a car: car 1, bus 0.
    assert a.dAP["classification"] == pytest.approx(0.5)
    # Without the missed bus nothing is left of its class but the false positive.
    assert a.dAP["missed"] == 0.0
    assert a.per_class["bus"]["counts"]["classification"] == 1
    assert a.per_class["car"]["dAP"]["classification"] == pytest.approx(1.0)
    assert a.confusion.rows == ("car", "bus", "(background)")
    assert a.confusion.columns == ("car", "bus", "(missed)")
    assert a.confusion.counts.tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0]]


def test_localization_repair_is_of_the_best_box_and_the_rest_vanish() -> None:
    a = evaluate_errors(
        truth((1, CAR, BOX)), [result(1, CAR, HALF, 0.5), result(1, CAR, [0, 0, 10, 3], 0.8)]
    )
    only(a, localization=2)
    assert a.dAP["localization"] == pytest.approx(1.0)
    assert a.dAP["missed"] == 0.0
    assert a.dAP["false_negative"] == 0.0  # detections of a class without truth remain
    assert a.confusion.counts.tolist() == [[0, 0, 1], [0, 0, 0], [2, 0, 0]]


def test_both_duplicate_and_background() -> None:
    a = evaluate_errors(
        truth((1, CAR, BOX)),
        [
            result(1, CAR, BOX, 0.6),
            result(1, CAR, BOX, 0.5),
            result(1, BUS, HALF, 0.9),
            result(1, CAR, CORNER, 0.8),
            result(2, CAR, BOX, 0.7),
        ],
    )
    only(a, both=1, duplicate=1, background=2)
    # Two false cars stand before the true one: precision 1/3 at every recall.
    assert a.to_dict()["AP50"] == pytest.approx(1 / 3)
    assert a.dAP["background"] == pytest.approx(2 / 3)
    assert a.dAP["false_positive"] == pytest.approx(2 / 3)
    assert a.dAP["duplicate"] == 0.0
    assert a.dAP["both"] == 0.0  # no bus in the truth: not measured
    assert a.duplicates == {"car": 1, "bus": 0}
    assert a.confusion.counts.tolist() == [[1, 0, 0], [0, 0, 0], [2, 1, 0]]
    quiet = evaluate_errors(
        truth((1, CAR, BOX)), [result(1, CAR, BOX, 0.6), result(2, CAR, BOX, 0.3)], min_score=0.4
    )
    only(quiet, background=1)
    assert quiet.confusion.counts.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_an_iou_of_exactly_the_threshold_is_a_good_box() -> None:
    half = [0.0, 0, 10, 5]
    a = evaluate_errors(truth((1, CAR, BOX)), [result(1, CAR, BOX, 0.9), result(1, CAR, half, 0.5)])
    only(a, duplicate=1)
    b = evaluate_errors(truth((1, CAR, BOX)), [result(1, BUS, half, 0.9)])
    only(b, classification=1)


def test_of_two_boxes_that_overlap_alike_the_first_is_meant() -> None:
    world = truth((1, BUS, BOX), (1, 3, BOX))
    world["categories"].append({"id": 3, "name": "van"})
    a = evaluate_errors(world, [result(1, CAR, BOX, 0.9)])
    only(a, classification=1, missed=1)
    assert a.per_class["bus"]["dAP"]["classification"] == pytest.approx(1.0)
    assert a.per_class["van"]["dAP"]["classification"] == 0.0


def test_a_poor_box_of_the_right_class_comes_before_a_good_one_of_the_wrong_class() -> None:
    a = evaluate_errors(
        truth((1, CAR, BOX), (1, BUS, [0, 0, 10, 4.5])), [result(1, CAR, [0, 0, 10, 4], 0.9)]
    )
    only(a, localization=1, missed=1)
    # A truth box that both errors are about goes to the better detection.
    shared = evaluate_errors(
        truth((1, CAR, BOX)), [result(1, BUS, BOX, 0.9), result(1, CAR, HALF, 0.5)]
    )
    only(shared, localization=1, classification=1)
    # The bus becomes the car, ahead of the poor box.
    assert shared.dAP["classification"] == pytest.approx(1.0)
    assert shared.dAP["localization"] == 0.0


def test_missed_objects_and_nothing_detected() -> None:
    a = evaluate_errors(truth((1, CAR, BOX), (2, CAR, BOX)), [result(1, CAR, BOX, 0.9)])
    only(a, missed=1)
    # One of two found: 51 of the 101 recalls are reached.
    assert a.to_dict()["AP50"] == pytest.approx(51 / 101)
    assert a.dAP["missed"] == a.dAP["false_negative"] == pytest.approx(50 / 101)
    nothing = evaluate_errors(truth((1, CAR, BOX)), [])
    only(nothing, missed=1)
    assert nothing.dAP["missed"] == pytest.approx(1.0)
    empty = evaluate_errors(truth(), [])
    assert empty.AP50 is None
    assert empty.dAP["missed"] is None
    json.dumps(empty.to_dict(), allow_nan=False)


def test_detections_in_crowd_regions_are_no_errors() -> None:
    a = evaluate_errors(
        truth((1, CAR, BOX), (2, CAR, [0, 0, 50, 50]), crowd=(1,)),
        [
            result(1, CAR, BOX, 0.9),
            result(2, CAR, [5, 5, 10, 10], 0.95),
            result(2, BUS, [5, 5, 10, 10], 0.5),
        ],
    )
    only(a, background=1)
    assert a.to_dict()["AP50"] == pytest.approx(1.0)
    assert a.per_class["car"]["truth"] == 1
    assert a.confusion.counts.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_a_crowd_region_is_no_object_that_a_box_could_be_about() -> None:
    # 30 of 100 lie in the region: too few to be left out, and an IoU of 0.18 with it.
    a = evaluate_errors(
        truth((1, CAR, BOX), (1, CAR, [100, 0, 10, 10]), crowd=(0,)),
        [result(1, CAR, [7, 0, 10, 10], 0.9)],
    )
    only(a, background=1, missed=1)
    assert a.confusion.counts.tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]


def test_predictions_need_scores() -> None:
    world = truth((1, CAR, BOX))
    with pytest.raises(DataError, match="without a score"):
        evaluate_errors(world, world)


def random_world(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rng = np.random.default_rng(seed)
    boxes, results = [], []
    for image in (1, 2, 3):
        for _ in range(8):
            box = [*rng.uniform(0, 150, 2).tolist(), *rng.uniform(20, 60, 2).tolist()]
            category = int(rng.integers(1, 3))
            boxes.append((image, category, box))
            for _ in range(rng.integers(0, 4)):
                moved = np.array(box) + rng.normal(0, rng.choice([2, 8, 20]), 4)
                moved[2:] = np.maximum(moved[2:], 3)
                other = category if rng.random() < 0.7 else 3 - category
                results.append(result(image, other, moved.tolist(), float(rng.random())))
        box = [*rng.uniform(0, 150, 2).tolist(), 30.0, 30.0]
        results.append(result(image, BUS, box, float(rng.random())))
    return truth(*boxes), results


@pytest.mark.parametrize("seed", range(8))
def test_as_an_independent_implementation(seed: int, tmp_path: Any) -> None:
    import hotcoco

    world, results = random_world(seed)
    ours = evaluate_errors(world, results)
    assert ours.to_dict()["AP50"] == pytest.approx(evaluate_detections(world, results).AP50)
    (tmp_path / "truth.json").write_text(json.dumps(world))
    (tmp_path / "results.json").write_text(json.dumps(results))
    reference = hotcoco.COCO(str(tmp_path / "truth.json"))
    engine = hotcoco.COCOeval(reference, reference.load_res(str(tmp_path / "results.json")), "bbox")
    engine.evaluate()
    theirs = engine.tide_errors(pos_thr=0.5, bg_thr=0.1)
    short = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")
    assert [ours.counts[k] for k in ERROR_TYPES] == [theirs["counts"][k] for k in short]
    names = (*ERROR_TYPES, "false_positive", "false_negative")
    assert [ours.dAP[k] for k in names] == pytest.approx(
        [theirs["delta_ap"][k] for k in (*short, "FP", "FN")]
    )
