"""How many detectors see what a label says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from relabel.datasets.agreement import disagreement
from relabel.datasets.dataset import make_boxes
from tests.builders.datasets import dataset_of

IMAGES = ["a.png", "b.png"]
HERE, NEAR, FAR = [10, 10, 20, 20], [12, 10, 20, 20], [60, 60, 20, 20]


def test_a_detector_that_sees_no_such_box_or_no_such_class_disagrees() -> None:
    boxes = make_boxes([0, 0, 1, 1], [HERE, FAR, HERE, FAR], [0, 1, 0, 0])
    boxes = replace(boxes, ignore=np.array([False, False, False, True]))
    labels = dataset_of("ours", ["car", "bus"], IMAGES, boxes)
    ours = dataset_of("found", ["bus", "car"], IMAGES, [(0, NEAR, 1), (0, FAR, 1), (1, FAR, 0)])
    theirs = dataset_of("found", ["thing"], IMAGES, [(0, NEAR, 0), (0, FAR, 0)])
    # Both see the car; the second is a bus, not a car as ours says; nobody sees the third.
    assert disagreement(labels, {"ours": ours, "theirs": theirs}, "ours") == [0, 0.5, 1, None]
    assert disagreement(labels, {"theirs": theirs}, "ours") == [0, 0, 1, None]
    assert disagreement(labels, {}, "ours") == [None] * 4
    none = dataset_of("ours", ["car"], IMAGES)
    assert disagreement(none, {"ours": ours}, "ours") == []
