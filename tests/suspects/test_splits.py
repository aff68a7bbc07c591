"""Pairs of classes that annotators split differently."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from relabel.datasets.dataset import DetectionDataset, make_boxes
from relabel.suspects.evidence import gather_evidence
from relabel.suspects.splits import Groups, find_groups, find_splits
from tests.builders.datasets import dataset_of
from tests.builders.suspects import Street

VAN, TRUCK, PERSON = range(3)


def street(swapped: list[int]) -> Street:
    """60 vans and 60 trucks that look like what they are, but for those on ``swapped`` images."""
    made = Street(classes=("van", "truck", "person"), good=0)
    for image in range(120):
        looks = image % 2
        other = 1 - looks
        made.annotate(image, [20, 20, 60, 60], other if image in swapped else looks)
        made.predict(image, [20, 20, 60, 60], looks, 0.9)
    made.good = 119
    return made


def splits_of(swapped: list[int], groups: Groups | None = None):
    data, labels = street(swapped).build()
    groups = groups or Groups("", ["all"], np.zeros(len(data.boxes), np.int64))
    return find_splits(gather_evidence(data, labels), groups, 3), data


def test_a_pair_that_is_confused_in_both_directions_is_told() -> None:
    found, data = splits_of(list(range(30)))
    assert len(found) == 1
    assert found[0].classes == (VAN, TRUCK)
    assert found[0].confused == (15, 15) and found[0].share == (0.25, 0.25)
    assert found[0].groups == {} and found[0].p_value is None
    assert data.boxes.image[list(found[0].rows)].tolist() == list(range(30))


def test_a_pair_that_is_confused_in_one_direction_is_not() -> None:
    assert splits_of(list(range(0, 60, 2)))[0] == []


def test_a_pair_that_is_rarely_confused_is_not() -> None:
    assert splits_of([0, 1, 2, 3])[0] == []


def test_annotators_who_split_a_pair_differently_are_told() -> None:
    """One of three annotators calls a third of all vans trucks: too few to be seen in the sum."""
    images = np.arange(120)
    annotator = (images // 2) % 3
    swapped = images[(annotator == 1) & (images % 2 == VAN) & (images < 40)].tolist()
    groups = Groups("annotator", ["anna", "ben", "cleo"], annotator)
    found, _ = splits_of(swapped, groups)
    assert [(s.classes, s.confused) for s in found] == [((VAN, TRUCK), (0, len(swapped)))]
    assert found[0].p_value is not None and found[0].p_value < 0.01
    assert found[0].groups["anna"] == (20, 20)
    assert found[0].groups["ben"] == (20 - len(swapped), 20 + len(swapped))
    # Spread over all of them, the same mistakes tell of no annotator.
    spread = images[(images % 2 == VAN) & (images < 2 * len(swapped))].tolist()
    assert splits_of(spread, groups)[0] == []


def test_groups_that_show_other_objects_do_not_differ() -> None:
    """One annotator has all vans and the other all trucks: nobody names anything differently."""
    groups = Groups("annotator", ["anna", "ben"], np.arange(120) % 2)
    assert splits_of([], groups)[0] == []


def with_fields(of_images: list[dict] | None, of_boxes: list[dict] | None) -> DetectionDataset:
    names = [f"{'left' if i < 15 else 'right'}/{i:02d}.jpg" for i in range(30)]
    boxes = make_boxes(range(30), [[1, 1, 9, 9]] * 30, [0] * 30)
    data = dataset_of("set", ["van"], names, boxes)
    if of_boxes is not None:
        extra = [json.dumps(fields).encode() for fields in of_boxes]
        data = data.with_boxes(replace(boxes, extra=extra))
    if of_images is not None:
        extra = [json.dumps(fields).encode() for fields in of_images]
        data = replace(data, images=replace(data.images, extra=extra))
    return data


def test_groups_are_annotators_else_sequences_else_folders() -> None:
    halves = [{"sequence": i // 15} for i in range(30)]
    who = [{"annotator": "anna" if i % 2 else "ben"} for i in range(30)]
    found = find_groups(with_fields(halves, who))
    assert (found.field, found.names) == ("annotator", ["anna", "ben"])
    assert found.of.tolist() == [1, 0] * 15
    found = find_groups(with_fields(halves, None))
    assert (found.field, found.names) == ("sequence", ["0", "1"])
    found = find_groups(with_fields(None, None))
    assert (found.field, found.names) == ("folder", ["left", "right"])
    # A field that some records lack names nobody.
    assert find_groups(with_fields(None, [{}, *who[1:]])).field == "folder"


def test_one_image_each_is_no_group() -> None:
    single = [{"annotator": str(i)} for i in range(30)]
    assert find_groups(with_fields(None, single)).field == "folder"
