"""evaluate_transfer on worlds small enough to count by hand, and the baselines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relabel.crosslabel.given import GivenLabels
from relabel.crosslabel.pseudo import PseudoLabels
from relabel.datasets.dataset import DetectionDataset, make_boxes
from relabel.datasets.labelspace import Category, LabelSpace
from relabel.datasets.namemap import NameMap
from relabel.errors import ConfigError, DataError
from relabel.evaluation import tables
from relabel.evaluation.baselines import (
    all_baselines,
    best_overlap,
    derive_name_map,
    filtered_pseudo_labels,
    label_guided,
    supported_pseudo_labels,
    untouched_with_map,
)
from relabel.evaluation.transfer import compare_transfer, evaluate_transfer
from tests.builders.datasets import dataset_of, images_of

NAMES = ("car", "bus")


def coco(
    boxes: list[tuple[str, str, list[float]]],
    files: tuple[str, ...] = ("a.jpg", "b.jpg"),
    names: tuple[str, ...] = NAMES,
    **columns: list[Any],
) -> dict[str, Any]:
    """A COCO file's content: boxes are (file, class, xywh)."""
    annotations = []
    for i, (file, name, xywh) in enumerate(boxes):
        row = {
            "id": i + 1,
            "image_id": files.index(file) + 1,
            "category_id": names.index(name) + 1,
            "bbox": xywh,
            "area": xywh[2] * xywh[3],
            "iscrowd": 0,
        }
        row.update({key: values[i] for key, values in columns.items() if values[i] is not None})
        annotations.append(row)
    return {
        "images": [{"id": i + 1, "file_name": f} for i, f in enumerate(files)],
        "categories": [{"id": k + 1, "name": n} for k, n in enumerate(names)],
        "annotations": annotations,
    }


TRUTH = coco(
    [
        ("a.jpg", "car", [0, 0, 100, 100]),
        ("a.jpg", "bus", [200, 0, 100, 100]),
        ("b.jpg", "car", [0, 0, 100, 100]),
        ("b.jpg", "car", [300, 300, 200, 200]),  # a region to leave out
    ],
    iscrowd=[0, 0, 0, 1],
)


def test_counts_by_hand() -> None:
    predictions = coco(
        [
            ("a.jpg", "car", [0, 0, 100, 90]),  # IoU 0.9, right
            ("a.jpg", "car", [200, 0, 100, 80]),  # IoU 0.8, the bus called a car
            ("b.jpg", "car", [0, 0, 100, 60]),  # IoU 0.6, right at 0.5 only
            ("b.jpg", "car", [310, 310, 50, 50]),  # in the region: neither way
            ("b.jpg", "bus", [310, 310, 50, 50]),  # the region is of another class: wrong
        ],
        score=[0.9, 0.8, 0.7, 0.6, 0.5],
    )
    metrics = evaluate_transfer(TRUTH, predictions)
    half, tight = metrics.at["0.5"], metrics.at["0.75"]
    assert (half.true_positives, half.false_positives, half.false_negatives) == (2, 2, 1)
    assert half.precision == pytest.approx(0.5)
    assert half.recall == pytest.approx(2 / 3)
    assert half.f1 == pytest.approx(4 / 7)
    assert half.class_accuracy == pytest.approx(2 / 3)
    assert (tight.true_positives, tight.false_positives, tight.false_negatives) == (1, 3, 2)
    assert tight.class_accuracy == pytest.approx(0.5)
    assert metrics.mean_iou["after"] == pytest.approx((0.9 + 0.8 + 0.6) / 3)
    assert metrics.mean_iou["before"] is None
    assert metrics.confusion.counts.tolist() == [[2, 1], [0, 0]]
    assert metrics.transition is None
    assert metrics.counts["truth"] == 3
    assert metrics.counts["predictions_ignored"] == 1
    assert metrics.per_class["bus"]["recall"] == 0
    # Class car at IoU 0.5: hits at ranks 1 and 3, a miss at 2; the box in the region is skipped.
    assert metrics.per_class["car"]["precision"] == pytest.approx(2 / 3)
    car50 = (51 * 1.0 + 50 * 2 / 3) / 101
    assert pytest.approx(car50 / 2) == metrics.AP50
    content = json.loads(json.dumps(metrics.to_dict()))
    assert content["at"]["0.5"]["f1"] == pytest.approx(4 / 7)


def test_score_decides_then_iou_and_each_box_matches_once() -> None:
    truth = coco([("a.jpg", "car", [0, 0, 100, 100])])
    boxes: list[tuple[str, str, list[float]]] = [
        ("a.jpg", "car", [0, 0, 100, 70]),
        ("a.jpg", "car", [0, 0, 100, 90]),
    ]
    by_score = evaluate_transfer(truth, coco(boxes, score=[0.9, 0.2]))
    assert by_score.mean_iou["after"] == pytest.approx(0.7)
    assert (by_score.at["0.5"].true_positives, by_score.at["0.5"].false_positives) == (1, 1)
    # At 0.75 the better-scored box is no candidate.
    assert by_score.at["0.75"].true_positives == 1
    unscored = evaluate_transfer(truth, coco(boxes))
    assert unscored.mean_iou["after"] == pytest.approx(0.9)


def test_before_and_after_and_what_both_found() -> None:
    source = coco(
        [("a.jpg", "vehicle", [0, 0, 100, 60]), ("b.jpg", "vehicle", [0, 0, 10, 10])],
        names=("vehicle",),
    )
    predictions = coco([("a.jpg", "car", [0, 0, 100, 90]), ("a.jpg", "bus", [200, 0, 100, 50])])
    metrics = evaluate_transfer(TRUTH, predictions, source)
    assert metrics.mean_iou["before"] == pytest.approx(0.6)
    assert metrics.mean_iou["after"] == pytest.approx(0.7)
    assert metrics.mean_iou["before_common"] == pytest.approx(0.6)
    assert metrics.mean_iou["after_common"] == pytest.approx(0.9)
    assert metrics.mean_iou["common"] == 1
    assert metrics.transition is not None
    assert metrics.transition.rows == ("vehicle",)
    assert metrics.transition.counts.tolist() == [[1, 0]]


def test_transition_from_provenance() -> None:
    predictions = coco(
        [("a.jpg", "car", [0, 0, 100, 100]), ("a.jpg", "bus", [200, 0, 100, 100])],
        relabel=[{"source_category": "vehicle", "origin": "source"}, {"origin": "pseudo:x"}],
    )
    metrics = evaluate_transfer(TRUTH, predictions)
    assert metrics.transition is not None
    assert metrics.transition.to_dict() == {
        "rows": ["vehicle"],
        "columns": ["car", "bus"],
        "counts": [[1, 0]],
    }


def test_joins_by_name_not_by_id_or_order() -> None:
    predictions = coco(
        [("b.jpg", "car", [0, 0, 100, 100])], files=("c.jpg", "b.jpg"), names=("bus", "car")
    )
    predictions["images"][1]["id"] = predictions["annotations"][0]["image_id"] = 1
    predictions["images"][0]["id"] = 99
    metrics = evaluate_transfer(TRUTH, predictions)
    assert metrics.at["0.75"].true_positives == 1
    assert metrics.per_class["car"]["predictions"] == 1
    assert len(metrics.warnings) == 2
    assert "1 of 2 images" in metrics.warnings[0]
    assert "not in" in metrics.warnings[1]


def test_folder_prefix_is_looked_past_where_unique() -> None:
    boxes: list[tuple[str, str, list[float]]] = [("x/a.jpg", "car", [0, 0, 100, 100])]
    metrics = evaluate_transfer(TRUTH, coco(boxes, files=("x/a.jpg", "x/b.jpg")))
    assert metrics.at["0.5"].true_positives == 1
    assert metrics.warnings == ()
    both = coco(boxes, files=("x/a.jpg", "y/a.jpg", "b.jpg"))
    ambiguous = evaluate_transfer(TRUTH, both)
    assert ambiguous.at["0.5"].true_positives == 0
    assert any("1 of 2 images" in w for w in ambiguous.warnings)


def test_a_results_list_in_the_truths_ids() -> None:
    results = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 100, 100], "score": 0.9}]
    found = evaluate_transfer(TRUTH, results)
    assert pytest.approx(51 / 101 / 2) == found.AP
    assert found.at["0.5"].true_positives == 1


def test_no_predictions_and_no_truth() -> None:
    nothing = evaluate_transfer(TRUTH, coco([]))
    assert nothing.at["0.5"].precision is None
    assert nothing.at["0.5"].recall == 0
    assert nothing.at["0.5"].f1 == 0
    assert nothing.at["0.5"].class_accuracy is None
    assert nothing.AP == 0
    bare = evaluate_transfer(coco([]), coco([("a.jpg", "car", [0, 0, 9, 9])]))
    assert bare.at["0.5"].precision == 0
    assert bare.at["0.5"].recall is None
    assert bare.AP is None


def test_wrong_files_say_so() -> None:
    with pytest.raises(DataError, match=r"no image in common.*'q\.jpg'.*'a\.jpg'"):
        evaluate_transfer(TRUTH, coco([("q.jpg", "car", [0, 0, 9, 9])], files=("q.jpg",)))
    with pytest.raises(DataError, match=r"category 'cars' does not exist.*Did you mean 'car'"):
        evaluate_transfer(TRUTH, coco([("a.jpg", "cars", [0, 0, 9, 9])], names=("cars",)))


TARGET = LabelSpace("fine", (Category(1, "car"), Category(2, "bus")))
COARSE = LabelSpace("coarse", (Category(1, "vehicle"), Category(2, "cart"), Category(3, "bus")))


def source_dataset() -> DetectionDataset:
    images = images_of(["a.jpg", "b.jpg"], (640, 640), ids=[8, 2])
    boxes = make_boxes(
        [0, 0, 1, 1],
        [[0, 0, 100, 80], [200, 0, 100, 80], [0, 0, 100, 80], [500, 500, 20, 20]],
        [0, 0, 0, 1],
        id=[11, 12, 13, 14],
    )
    return dataset_of("coarse", COARSE, images, boxes)


def pseudo_labels() -> PseudoLabels:
    return PseudoLabels(
        space=TARGET,
        by="fine",
        on="coarse",
        file_name=["b.jpg", "a.jpg"],  # another order than the dataset's
        image=np.array([0, 0, 1, 1, 1], np.int32),
        boxes=np.array(
            [
                [0, 0, 100, 100],
                [0, 0, 100, 95],  # suppressed by the one before
                [0, 0, 100, 100],
                [200, 0, 300, 100],
                [0, 0, 100, 80],  # overlaps best, but below the threshold
            ],
            np.float32,
        ),
        scores=np.array([[0.9, 0.1], [0.8, 0.1], [0.7, 0.2], [0.1, 0.6], [0.0, 0.3]], np.float32),
    )


def test_untouched_boxes_under_a_map() -> None:
    source = source_dataset()
    made = untouched_with_map(source, TARGET, {"vehicle": "car", "cart": None})
    assert made.space is TARGET
    assert made.boxes.id.tolist() == [11, 12, 13]
    assert made.boxes.category.tolist() == [0, 0, 0]
    assert made.boxes.xywh.tolist() == source.boxes.xywh[:3].tolist()
    assert made.boxes.provenance is not None
    assert list(made.boxes.provenance.source_category) == ["vehicle"] * 3
    with pytest.raises(ConfigError, match="'bike'"):
        untouched_with_map(source, TARGET, {"bike": "car"})
    with pytest.raises(ConfigError, match=r"'caar'.*'car'"):
        untouched_with_map(source, TARGET, {"vehicle": "caar"})


def test_filtered_pseudo_labels() -> None:
    made = filtered_pseudo_labels(source_dataset(), pseudo_labels(), 0.5)
    assert made.boxes.image.tolist() == [0, 0, 1]
    assert made.boxes.category.tolist() == [0, 1, 0]
    assert made.boxes.score == pytest.approx([0.7, 0.6, 0.9])
    per_class = filtered_pseudo_labels(source_dataset(), pseudo_labels(), [0.75, 0.5])
    assert per_class.boxes.category.tolist() == [1, 0]
    with pytest.raises(ConfigError, match="3 thresholds for the 2 classes"):
        filtered_pseudo_labels(source_dataset(), pseudo_labels(), [0.1, 0.2, 0.3])


def test_labels_that_no_source_box_supports_go() -> None:
    source = source_dataset()
    # The second box of a.jpg is a crowd, which supports nothing.
    crowd = replace(source.boxes, ignore=np.array([False, True, False, False]))
    assert supported_pseudo_labels(source, pseudo_labels(), 0.5).boxes.image.tolist() == [0, 0, 1]
    made = supported_pseudo_labels(source.with_boxes(crowd), pseudo_labels(), 0.5)
    assert made.boxes.image.tolist() == [0, 1]
    assert made.boxes.xywh.tolist() == [[0, 0, 100, 100]] * 2
    # All of them have IoU 0.8 with their boxes.
    assert not len(supported_pseudo_labels(source, pseudo_labels(), 0.5, 0.85).boxes)
    bare = source.with_boxes(source.boxes.take(np.zeros(0, np.int64)))
    assert not len(supported_pseudo_labels(bare, pseudo_labels(), 0.5).boxes)


def given_labels(**more: Any) -> GivenLabels:
    """What the head of ``fine`` says of `source_dataset`, whose images are in another order."""
    columns: dict[str, Any] = {
        "annotation": np.array([13, 14, 11, 12]),
        "image": np.array([0, 0, 1, 1], np.int32),
        "boxes": np.array(
            [[0, 0, 100, 100], [500, 500, 520, 500], [0, 0, 100, 100], [0, 10, 100, 100]],
            np.float32,
        ),
        "scores": np.array([[0.4, 0.1], [0.9, 0.0], [0.2, 0.6], [0.1, 0.7]], np.float32),
        **more,
    }
    return GivenLabels(TARGET, "fine", "coarse", ["b.jpg", "a.jpg"], **columns)


def test_label_guided_labels_are_the_heads_classes_and_boxes() -> None:
    source = source_dataset()
    # Annotation 14 is left without a side; 11 and 12 became one bus, which 12 is surer of.
    made = label_guided(source, given_labels(), 0.3)
    assert made.space == TARGET
    assert made.boxes.image.tolist() == [0, 1]
    assert made.boxes.category.tolist() == [1, 0]
    assert made.boxes.score.tolist() == pytest.approx([0.7, 0.4])
    assert made.boxes.xywh.tolist() == [[0, 10, 100, 90], [0, 0, 100, 100]]
    origin = made.boxes.provenance
    assert origin is not None
    assert origin.source_id.tolist() == [12, 13]
    assert list(origin.source_category) == ["vehicle", "vehicle"]
    assert origin.source_iou.tolist() == pytest.approx([0.0, 0.8])
    assert label_guided(source, given_labels(), 0.5).boxes.image.tolist() == [0]
    # Of different classes both stay.
    two = given_labels(scores=np.array([[0.4, 0], [0, 0], [0.6, 0], [0, 0.7]], np.float32))
    assert label_guided(source, two, 0.3).boxes.category.tolist() == [0, 1, 0]
    with pytest.raises(DataError, match=r"'coarse' are not the annotations of 'coarse'"):
        label_guided(source, given_labels(annotation=np.array([13, 14, 11, 15])))
    others = source.with_boxes(source.boxes.take(np.zeros(0, np.int64)))
    with pytest.raises(DataError, match="not the annotations"):
        label_guided(others, given_labels())
    names = list(all_baselines(source, pseudo_labels(), given=given_labels()))
    assert names[-1] == "label-guided pseudo-labels"


def test_best_overlap_keeps_the_source_box() -> None:
    source = source_dataset()
    made = best_overlap(source, pseudo_labels(), 0.5)
    assert made.boxes.id.tolist() == [11, 12, 13]
    assert made.boxes.category.tolist() == [0, 1, 0]
    assert made.boxes.xywh.tolist() == source.boxes.xywh[:3].tolist()
    # IoU 0.842 with the second pseudo-label of b.jpg beats 0.8 with the first.
    assert made.boxes.score == pytest.approx([0.7, 0.6, 0.8])
    low = best_overlap(source, pseudo_labels(), 0.2)
    assert low.boxes.category.tolist() == [1, 1, 0]


def test_name_map_from_the_data() -> None:
    names = derive_name_map(source_dataset(), pseudo_labels())
    assert names == {"vehicle": "car", "cart": None, "bus": "bus"}


def test_floors_side_by_side(tmp_path: Path) -> None:
    source = source_dataset()
    results = compare_transfer(TRUTH, source, all_baselines(source, pseudo_labels()))
    untouched, filtered, supported, overlap = results
    assert [r.at["0.5"].true_positives for r in results] == [2, 3, 3, 3]
    assert [r.at["0.75"].true_positives for r in results] == [2, 3, 3, 3]
    assert supported.at["0.5"].precision == 1.0
    assert filtered.mean_iou["after"] == 1.0
    assert untouched.mean_iou["after"] == untouched.mean_iou["before"] == pytest.approx(0.8)
    assert overlap.at["0.5"].class_accuracy == 1.0
    assert untouched.at["0.5"].class_accuracy == pytest.approx(2 / 3)
    text = tables.markdown(tables.transfer_rows(results))
    lines = text.splitlines()
    assert len(lines) == 6
    assert lines[3].startswith("| filtered pseudo-labels | 100.0 |")
    assert len({line.count("|") for line in lines}) == 1
    with pytest.raises(ConfigError, match="'van'"):
        all_baselines(source, pseudo_labels(), {"van": "car"})
    path = tmp_path / "map.yaml"
    path.write_text("vehicle: bus\ncart: null\n")
    assert NameMap.load(path).names == {"vehicle": "bus", "cart": None}
    path.write_text("- a\n")
    with pytest.raises(ConfigError, match="not a map of names"):
        NameMap.load(path)


def test_ignore_category_covers_every_class() -> None:
    space = LabelSpace(
        "fine", (Category(1, "car"), Category(2, "bus"), Category(3, "rack", ignore=True))
    )
    images = source_dataset().images
    near, far = (0, [0, 0, 9, 9]), (0, [100, 100, 90, 90])
    truth = dataset_of("t", space, images, [(*near, 0), (*far, 2)])
    made = dataset_of("p", TARGET, images, [(*near, 0), (0, [100, 100, 60, 60], 1)])
    metrics = evaluate_transfer(truth, made)
    assert metrics.at["0.5"].precision == 1.0
    assert metrics.per_class["bus"]["predictions"] == 0


def test_tollroad_untouched_boxes(shared: Path) -> None:
    coarse = shared / "data/tollroad/coarse"
    source = json.loads((coarse / "train.json").read_text())
    source["categories"] = [{"id": source["categories"][0]["id"], "name": "car"}]
    metrics = evaluate_transfer(coarse / "truth_in_fine.json", source, coarse / "train.json")
    assert metrics.counts["truth"] == 2901
    assert metrics.mean_iou["before"] == metrics.mean_iou["after"]
    assert 0.6 < (metrics.mean_iou["before"] or 0) < 0.7
    assert metrics.at["0.75"].true_positives < metrics.at["0.5"].true_positives == 1450
