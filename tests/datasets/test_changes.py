"""What a relabelling did to annotations, against hand-made cases."""

from __future__ import annotations

import numpy as np

from relabel.datasets.alternatives import alternatives_field
from relabel.datasets.changes import BOTH, CHANGES, change_counts, changes
from relabel.datasets.dataset import DetectionDataset, Provenance, make_boxes
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.removed import MERGED, Removed, without_label
from tests.builders.datasets import dataset_of

SPACE = LabelSpace.from_names("fine", ["car", "truck", "bus"])


def six_annotations() -> tuple[DetectionDataset, DetectionDataset]:
    """Of cars 1 one label of its name and one of another's, 2 a truck, 3 merged, 4 gone; a cone."""
    box = [0, 0, 9, 9]
    annotations = make_boxes(
        [0] * 6, [box] * 6, [0, 0, 0, 0, 1, 0], id=range(1, 7), ignore=[False] * 5 + [True]
    )
    before = dataset_of("s", ["car", "cone"], ["a"], annotations)
    labels = make_boxes(
        [0] * 6,
        [box] * 6,
        [0, 1, 1, 2, 0, 0],
        ignore=[False] * 4 + [True] * 2,
        provenance=Provenance(
            "s",
            ["source"] * 6,
            np.array([1, 1, 2, -1, 4, 6]),  # a region that names 4 is no label of it
            [""] * 6,
            np.ones(6, np.float32),
        ),
    )
    return before, dataset_of("s", SPACE, ["a"], labels)


def test_split_renamed_merged_dropped_and_added() -> None:
    before, after = six_annotations()
    unknown = np.full(3, np.nan, np.float32)
    removed = Removed(
        np.array([2, 3, 4]), [MERGED, "too small", "outside"], unknown, np.full(3, -1), unknown
    )
    found = changes(before, after, removed)
    assert [CHANGES[c] if c >= 0 else None for c in found.annotation] == [
        *("split", "renamed", "merged", "dropped", "dropped", None)
    ]
    assert found.added.tolist() == [False, False, False, True, False, False]
    counts = change_counts(before, found)
    assert counts.classes == ["car", "cone"] and counts.added == 1
    assert counts.counts.tolist() == [[0, 1, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0, 1]]
    assert counts.to_dict()["cone"] == {**dict.fromkeys(CHANGES, 0), "dropped": 1, "doubtful": 0}
    # All annotations lie where labels are: what is derived says merged.
    derived = change_counts(before, changes(before, after, without_label(before, after)))
    assert derived.counts.tolist() == [[0, 1, 0, 0, 1, 2, 0], [0, 0, 0, 0, 0, 1, 0]]


def test_a_box_of_nearly_the_same_shape_is_kept_and_one_of_several_classes_is_doubtful() -> None:
    square = [0, 0, 100, 100]
    boxes = [square, square, square, [5, 5, 0, 0], square]
    before = dataset_of("s", ["car"], ["a"], make_boxes([0] * 5, boxes, [0] * 5, id=range(5)))
    # IoU 0.9, IoU 0.89, a car or a truck, a box without an area stays one, a smaller truck.
    moved = [[0, 0, 100, 90], [0, 0, 100, 89], square, [5, 5, 0, 0], [0, 0, 50, 50]]
    others = np.zeros((5, 3), bool)
    others[2, 1] = True
    origin = Provenance("s", ["source"] * 5, np.arange(5), ["car"] * 5, np.ones(5, np.float32))
    labels = make_boxes(
        [0] * 5, moved, [0, 0, 0, 0, 1], provenance=origin, extra=alternatives_field(others, SPACE)
    )
    found = changes(before, dataset_of("s", SPACE, ["a"], labels), Removed.none())
    expected = ["kept", "reshaped", "kept", "kept", BOTH]
    assert found.words() == (expected, expected)
    assert found.annotation_doubtful.tolist() == [False, False, True, False, False]


def test_nothing_before_and_nothing_after() -> None:
    nothing = dataset_of("s", SPACE, ["a"], make_boxes([], np.zeros((0, 4)), []))
    found = change_counts(nothing, changes(nothing, nothing, Removed.none()))
    assert found.counts.sum() == 0 and found.added == 0 and found.to_dict() == {}
    before, _ = six_annotations()
    lost = change_counts(before, changes(before, nothing, without_label(before, nothing)))
    assert lost.counts[:, CHANGES.index("dropped")].tolist() == [4, 1]
