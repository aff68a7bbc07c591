"""Each kind of suspect on predictions made by hand, beside forty labels that are right."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relabel.suspects.evidence import GivenScores, gather_evidence
from relabel.suspects.reasons import proposals, reasons
from relabel.suspects.score import (
    BADLY_PLACED,
    CLASS,
    DUPLICATE,
    MIRRORED,
    MISSING,
    SIDES,
    SPURIOUS,
    Suspects,
    above,
    badly_placed,
    find_suspects,
    spurious,
)
from tests.builders.suspects import Street

CAR, TRUCK, PERSON = range(3)
SURE = 0.2


def found(street: Street, **more: Any) -> list[tuple[str, int | None]]:
    """(kind, annotation id) of the suspects with a score that says something."""
    data, labels = street.build()
    suspects = above(find_suspects(gather_evidence(data, labels), data.space.class_names), SURE)
    return named(suspects, data)


def named(suspects: Suspects, data: Any) -> list[tuple[str, int | None]]:
    rows = suspects.annotation.tolist()
    ids = [int(data.boxes.id[row]) if row >= 0 else None for row in rows]
    return list(zip(suspects.kind, ids, strict=True))


def of_id(street: Street, id: int) -> tuple[str, float, Suspects]:
    """Kind, score and table of the one suspect on an annotation."""
    data, labels = street.build()
    suspects = find_suspects(gather_evidence(data, labels), data.space.class_names)
    rows = [k for k, (_, one) in enumerate(named(suspects, data)) if one == id]
    assert len(rows) == 1, "an annotation is suspect of one thing at most"
    one = suspects.take(np.array(rows))
    return one.kind[0], float(one.score[0]), one


def test_labels_that_are_right_are_not_suspect() -> None:
    assert found(Street()) == []


def test_a_missing_box_is_what_is_predicted_where_nothing_is_annotated() -> None:
    street = Street()
    street.predict(street.last, [20, 20, 60, 60], CAR, 0.97)
    data, labels = street.build()
    suspects = above(find_suspects(gather_evidence(data, labels)), SURE)
    assert suspects.kind == [MISSING]
    assert suspects.image.tolist() == [street.last]
    assert suspects.category.tolist() == [CAR]
    assert suspects.box[0] == pytest.approx([20, 20, 60, 60])
    assert proposals(suspects, data) == ["add car"]
    assert reasons(suspects, data) == ["car predicted at 0.97 where nothing is annotated"]


def test_of_two_boxes_for_one_missing_object_the_surer_is_told() -> None:
    street = Street()
    street.predict(street.last, [20, 20, 60, 60], CAR, 0.97)
    street.predict(street.last, [22, 20, 62, 60], TRUCK, 0.9)
    assert found(street) == [(MISSING, None)]


def test_nothing_is_missing_in_a_region_to_ignore_or_at_a_low_score() -> None:
    street = Street()
    street.predict(street.last, [20, 20, 60, 60], CAR, 0.97)
    street.annotate(street.last, [0, 0, 100, 100], PERSON, ignore=True)
    street.predict(street.last, [150, 20, 190, 60], CAR, 0.12)
    assert found(street) == []


def test_a_region_to_ignore_does_not_hide_what_speaks_for_an_annotation() -> None:
    street = Street()
    street.annotate(street.last, [0, 0, 100, 100], PERSON, ignore=True)
    street.annotate(street.last, [20, 20, 60, 60], CAR)
    street.predict(street.last, [20, 20, 60, 60], CAR, 0.97)
    assert found(street) == []


def test_a_wrong_class_is_another_that_is_predicted_on_the_box() -> None:
    street = Street()
    id = street.annotate(street.last, [20, 20, 60, 60], CAR)
    street.predict(street.last, [20, 21, 60, 60], TRUCK, 0.95, car=0.02)
    kind, score, one = of_id(street, id)
    assert kind == CLASS and score > 0.4
    assert one.category.tolist() == [TRUCK]
    assert found(street) == [(CLASS, id)]  # and nothing is missing there


def test_a_class_that_is_nearly_as_likely_is_hardly_suspect() -> None:
    street = Street()
    sure = street.annotate(street.last, [20, 20, 60, 60], CAR)
    street.predict(street.last, [20, 21, 60, 60], TRUCK, 0.95, car=0.02)
    doubtful = street.annotate(street.last, [120, 20, 160, 60], CAR)
    street.predict(street.last, [120, 21, 160, 60], TRUCK, 0.5, car=0.45)
    assert of_id(street, sure)[1] > 5 * of_id(street, doubtful)[1]


def test_an_object_in_front_is_no_other_class() -> None:
    """A person before a car whose own prediction is missing: what is seen there is the person."""
    street = Street()
    hidden = street.annotate(street.last, [20, 20, 60, 60], CAR)
    street.annotate(street.last, [28, 20, 58, 60], PERSON)
    street.predict(street.last, [27, 20, 59, 60], PERSON, 0.95)
    assert (CLASS, hidden) not in found(street)


def test_sides_that_are_swapped_are_a_kind_of_their_own() -> None:
    street = Street(classes=("left hand", "right hand", "head"))
    id = street.annotate(street.last, [20, 20, 60, 60], 0)
    street.predict(street.last, [20, 21, 60, 60], 1, 0.95)
    head = street.annotate(street.last, [120, 20, 160, 60], 0)
    street.predict(street.last, [120, 21, 160, 60], 2, 0.95)
    assert of_id(street, id)[0] == SIDES
    assert of_id(street, head)[0] == CLASS


def test_a_badly_placed_box_lies_beside_what_is_predicted() -> None:
    street = Street()
    id = street.annotate(street.last, [20, 20, 60, 60], CAR)
    street.predict(street.last, [35, 25, 75, 65], CAR, 0.95)
    kind, score, one = of_id(street, id)
    assert kind == BADLY_PLACED and score > 0.2
    assert one.box[0] == pytest.approx([35, 25, 75, 65])
    assert found(street) == [(BADLY_PLACED, id)]  # neither missing nor spurious


def test_far_from_its_prediction_a_box_is_moved_rather_than_invented() -> None:
    """Where half of all annotations lie as badly, where they lie says nothing any more."""
    street = Street(good=80)
    for image in range(0, 80, 2):
        street.annotations[image] = (image, [20, 20, 60, 60], CAR, False)
        street.predict(image, [20, 20, 60, 60], TRUCK, 0.4)
        street.predict(image, [48, 20, 88, 60], CAR, 0.95)
    street.annotate(street.last, [20, 20, 60, 60], CAR)
    street.predict(street.last, [48, 20, 88, 60], CAR, 0.95)
    data, labels = street.build()
    evidence = gather_evidence(data, labels)
    moved, invented = badly_placed(evidence), spurious(evidence)
    assert moved.odds[-1] == pytest.approx(2 * 0.95 * invented.odds[-1])


def test_a_prediction_of_another_annotation_places_none_badly() -> None:
    """Two cars side by side, of which one is not found."""
    street = Street()
    lonely = street.annotate(street.last, [20, 20, 60, 60], CAR)
    street.annotate(street.last, [35, 25, 75, 65], CAR)
    street.predict(street.last, [35, 25, 75, 65], CAR, 0.95)
    assert (BADLY_PLACED, lonely) not in found(street)


def test_a_duplicate_is_the_one_that_fits_less() -> None:
    street = Street()
    street.annotate(street.last, [20, 20, 60, 60], CAR)
    id = street.annotate(street.last, [20, 21, 63, 60], CAR)
    street.predict(street.last, [20, 20, 60, 60], CAR, 0.95)
    assert found(street) == [(DUPLICATE, id)]
    assert of_id(street, id)[1] > 0.8


def test_of_equal_duplicates_the_later_ones_go() -> None:
    street = Street()
    ids = [street.annotate(street.last, [20, 20, 60, 60], CAR) for _ in range(3)]
    street.predict(street.last, [20, 20, 60, 60], CAR, 0.95)
    assert sorted(found(street)) == [(DUPLICATE, ids[1]), (DUPLICATE, ids[2])]


def test_what_is_a_duplicate_itself_convicts_no_other() -> None:
    """Three in a row: the last overlaps the second alone, which goes as one of the first."""
    street = Street()
    street.annotate(street.last, [20, 20, 60, 60], CAR)
    second = street.annotate(street.last, [30, 20, 70, 60], CAR)
    third = street.annotate(street.last, [40, 20, 80, 60], CAR)
    street.predict(street.last, [20, 20, 60, 60], CAR, 0.95)
    assert (DUPLICATE, second) in found(street)
    assert (DUPLICATE, third) not in found(street)


def test_two_objects_with_a_prediction_each_are_no_duplicates() -> None:
    street = Street()
    one = street.annotate(street.last, [20, 20, 60, 60], CAR)
    two = street.annotate(street.last, [25, 20, 65, 60], CAR)
    for box in ([20, 20, 60, 60], [25, 20, 65, 60]):
        street.predict(street.last, box, CAR, 0.97)
    assert not {(DUPLICATE, one), (DUPLICATE, two)} & set(found(street))


def test_of_two_classes_on_one_object_the_less_likely_goes() -> None:
    street = Street()
    street.annotate(street.last, [20, 20, 60, 60], CAR)
    id = street.annotate(street.last, [20, 20, 60, 60], TRUCK)
    street.predict(street.last, [20, 20, 60, 60], CAR, 0.95, truck=0.01)
    data, labels = street.build()
    suspects = above(find_suspects(gather_evidence(data, labels)), SURE)
    assert named(suspects, data)[0][1] == id
    assert suspects.kind[0] == DUPLICATE


def test_a_spurious_box_is_one_that_no_prediction_knows() -> None:
    street = Street(good=80)  # among fewer, one that is not found says little
    id = street.annotate(street.last, [20, 20, 60, 60], CAR)
    assert found(street) == [(SPURIOUS, id)]


def test_a_detector_that_misses_many_accuses_nobody_of_being_spurious() -> None:
    street = Street(good=80)
    street.predictions = [p for p in street.predictions if p[0] % 2]  # half is not found
    id = street.annotate(street.last, [20, 20, 60, 60], CAR)
    assert of_id(street, id)[1] < 0.1


def test_a_mirrored_box_has_its_prediction_on_the_other_side() -> None:
    street = Street()
    id = street.annotate(street.last, [20, 20, 60, 60], CAR)
    street.predict(street.last, [140, 20, 180, 60], CAR, 0.95)
    kind, score, one = of_id(street, id)
    assert kind == MIRRORED and score > 0.5
    assert one.box[0] == pytest.approx([140, 20, 180, 60])
    assert found(street) == [(MIRRORED, id)]  # the prediction is no missing box


def test_a_box_in_the_middle_is_its_own_mirror_image() -> None:
    street = Street()
    id = street.annotate(street.last, [75, 20, 115, 60], CAR)
    street.predict(street.last, [98, 20, 138, 60], CAR, 0.95)
    assert found(street) == [(BADLY_PLACED, id)]


def test_a_prediction_of_another_object_does_not_mirror() -> None:
    street = Street()
    id = street.annotate(street.last, [20, 20, 60, 60], CAR)
    street.annotate(street.last, [140, 20, 180, 60], CAR)
    street.predict(street.last, [140, 20, 180, 60], CAR, 0.95)
    assert (MIRRORED, id) not in found(street)


def test_a_box_head_speaks_for_an_annotation_that_is_not_predicted() -> None:
    street = Street(good=80)
    street.annotate(street.last, [20, 20, 60, 60], CAR)
    data, labels = street.build()
    rows = np.arange(len(data.boxes))
    scores = np.zeros((len(rows), 3), np.float32)
    scores[rows, data.boxes.category] = 0.9
    suspects = find_suspects(gather_evidence(data, labels, GivenScores(rows, scores)))
    assert len(above(suspects, SURE)) == 0
    scores[-1] = 0.0
    suspects = find_suspects(gather_evidence(data, labels, GivenScores(rows, scores)))
    assert above(suspects, SURE).kind == [SPURIOUS]


def test_images_without_predictions_are_not_checked() -> None:
    street = Street()
    street.annotate(street.last, [20, 20, 60, 60], CAR)
    data, labels = street.build()
    covered = np.arange(len(data)) != street.last
    evidence = gather_evidence(data, replace(labels, covered=covered))
    assert street.last not in evidence.image
    assert len(evidence.rows) == len(data.boxes) - 1


def test_without_predictions_and_without_annotations() -> None:
    street = Street(good=3)
    street.predictions = street.predictions[:1]
    data, labels = street.build()
    none = labels.take(np.zeros(0, np.int64))
    assert (find_suspects(gather_evidence(data, none)).score < 0.1).all()
    empty = data.with_boxes(data.boxes.take(np.zeros(0, np.int64)))
    assert find_suspects(gather_evidence(empty, none)).kind == []


@given(st.permutations(range(13)))
def test_the_order_of_images_changes_nothing(order: list[int]) -> None:
    street = Street(good=12)
    for image, (dx, score) in enumerate([(0, 0.9), (40, 0.95), (15, 0.8)]):
        street.annotate(image, [110, 50, 150, 90], TRUCK)
        street.predict(image, [110 + dx, 50, 150 + dx, 90], image, score)
    street.predict(5, [110, 50, 150, 90], CAR, 0.9)

    def told(order: list[int] | None) -> set[tuple[Any, ...]]:
        data, labels = street.build(order)
        suspects = find_suspects(gather_evidence(data, labels))
        names = [data.images.file_name[i] for i in suspects.image.tolist()]
        ids = named(suspects, data)
        numbers = suspects.score.round(12).tolist()
        return set(zip(names, ids, suspects.category.tolist(), numbers, strict=True))

    assert told(order) == told(None)


@given(st.lists(st.sampled_from([0.3, 0.6, 0.9]), min_size=2, max_size=6))
def test_equal_scores_come_in_the_order_of_their_images(scores: list[float]) -> None:
    street = Street()
    for image, score in enumerate(scores):
        street.predict(image, [110, 50, 150, 90], CAR, score)
    data, labels = street.build()
    suspects = find_suspects(gather_evidence(data, labels))
    keys = list(zip((-suspects.score).tolist(), suspects.image.tolist(), strict=True))
    assert keys == sorted(keys)
    assert ((suspects.score >= 0) & (suspects.score <= 1)).all()
