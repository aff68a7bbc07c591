"""Numbers of the report against hand-computed ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from relabel.datasets.dataset import DetectionDataset, Provenance, make_boxes
from relabel.datasets.labelspace import LabelSpace
from relabel.reports import statistics
from tests.builders.datasets import dataset_of, images_of

SPACE = LabelSpace.from_names("fine", ["car", "truck", "bus"])
COARSE = LabelSpace.from_names("coarse", ["vehicle", "person"])


def pair() -> tuple[DetectionDataset, DetectionDataset]:
    """Image a: 30 moved to car, 20 dropped, one new truck. Image b: 10 kept as truck.

    The source box 40 is an ignored region, and stays one.
    """
    before = dataset_of(
        "coarse",
        COARSE,
        ["b", "a"],
        make_boxes(
            [0, 1, 1, 1],
            [[0, 0, 10, 10], [0, 0, 20, 10], [50, 50, 10, 10], [70, 70, 20, 20]],
            [0, 1, 0, 0],
            id=[10, 20, 30, 40],
            ignore=[False, False, False, True],
        ),
    )
    after = dataset_of(
        "coarse",
        SPACE,
        ["a", "b"],
        make_boxes(
            [0, 0, 0, 1],
            [[50, 50, 5, 20], [1, 1, 9, 9], [70, 70, 20, 20], [0, 0, 10, 10]],
            [0, 1, 0, 1],
            ignore=[False, False, True, False],
            provenance=Provenance(
                "coarse",
                ["source", "pseudo:fine", "source", "source"],
                np.array([30, -1, 40, 10]),
                ["vehicle", "", "vehicle", "vehicle"],
                np.array([0.3, np.nan, 1, 1], np.float32),
            ),
        ),
    )
    return before, after


def test_transition_counts_new_and_dropped() -> None:
    found = statistics.class_flow(*pair())
    assert found.rows == ["vehicle", "person", statistics.NEW]
    assert found.columns == ["car", "truck", "bus", statistics.DROPPED]
    assert found.counts.tolist() == [[1, 1, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0]]


def test_box_style_of_paired_boxes() -> None:
    style = statistics.box_style(*pair())
    # 30: 10x10 to 5x20, centre (55, 55) to (52.5, 60), overlap 5x10 of 100 + 100 - 50.
    np.testing.assert_allclose(style.width, [0.5, 1.0])
    np.testing.assert_allclose(style.height, [2.0, 1.0])
    np.testing.assert_allclose(style.shift, [np.hypot(2.5, 5) / np.hypot(10, 10), 0])
    np.testing.assert_allclose(style.iou, [50 / 150, 1.0])


def test_change_per_image_and_choice() -> None:
    before, after = pair()
    # a: one dropped, one new, one moved to IoU 1/3; b: unchanged.
    np.testing.assert_allclose(statistics.change_per_image(before, after), [2 + 2 / 3, 0])
    assert statistics.choose_images(before, after, 2, seed=0) == [
        (0, "most change"),
        (1, "at random"),
    ]
    assert statistics.choose_images(before, after, 1, seed=0) == [(0, "most change")]


def test_origins_and_counts_leave_ignored_out() -> None:
    before, after = pair()
    assert statistics.origins(after) == {"source": 2, "pseudo:fine": 1}
    assert statistics.class_counts(after) == {"car": 1, "truck": 2, "bus": 0}
    assert statistics.class_counts(before) == {"vehicle": 2, "person": 1}


def test_datasets_without_boxes_or_provenance() -> None:
    before, after = pair()
    none = after.boxes.take(np.zeros(0, np.int64))
    empty = after.with_boxes(none)
    found = statistics.class_flow(before, empty)
    assert found.counts[:, -1].tolist() == [2, 1, 0]
    assert len(statistics.box_style(before, empty).iou) == 0
    plain = after.with_boxes(make_boxes([0], [[0, 0, 1, 1]], [2]))
    assert statistics.class_flow(before, plain).counts[-1].tolist() == [0, 0, 1, 0]
    assert statistics.origins(plain) == {}


def test_shapes_by_class_and_sizes(tmp_path: Path) -> None:
    images = images_of(["a.png"], (200, 50))
    fine = LabelSpace.from_names("fine", ["car", "bus"])
    rows = [(0, [0, 0, 20, 10], 0), (0, [0, 0, 10, 20], 0), (0, [0, 0, 0, 5], 0)]
    before = dataset_of("coarse", ["vehicle"], images, rows, root=tmp_path)
    provenance = Provenance(
        "coarse",
        ["source"] * 4,
        np.array([*before.boxes.id, -1]),
        ["vehicle"] * 4,
        np.ones(4, np.float32),
    )
    boxes = make_boxes(
        [0] * 4,
        [[0, 0, 30, 10], [0, 0, 5, 20], [0, 0, 5, 5], [0, 0, 9, 1]],
        [0, 1, 0, 0],
        provenance=provenance,
    )
    target = dataset_of("fine", fine, images, [(0, [0, 0, 8, 2], 0)], root=tmp_path)
    found = statistics.class_shapes(before, replace(before, space=fine, boxes=boxes), target)
    assert list(found) == ["car", "bus"]
    # An annotation without area has no shape, and a label of no annotation no counterpart.
    assert found["car"].before.tolist() == [2] and found["car"].after.tolist() == [3]
    assert found["car"].target.tolist() == [4]
    assert found["bus"].before.tolist() == [0.5] and found["bus"].after.tolist() == [0.25]
    assert found["bus"].target.tolist() == []
    # 20 x 10 of 200 x 50 pixels is a fiftieth.
    assert statistics.relative_sizes(before)[:2] == pytest.approx([100 * 0.02**0.5] * 2)
