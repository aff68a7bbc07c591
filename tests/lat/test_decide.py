"""Three decisions about annotations: is it an object, of which class or classes, and whose box."""

from __future__ import annotations

import numpy as np
import pytest

from relabel.datasets.removed import MERGED, Removed
from relabel.lat.calibrate import (
    Calibration,
    Existence,
    Platt,
    annotation_scores,
    existence_score,
)
from relabel.lat.decide import LEFT_OUT, TOO_SMALL, Decided, decide
from tests.lat.test_calibrate import predictions

RIDER, BICYCLE, CAR = 0, 1, 2
PERSON_BOX, BIKE_BOX = [10.0, 0, 50, 60], [5.0, 40, 55, 100]
CYCLIST_BOX = [5.0, 0, 55, 100]
FAR = [200.0, 0, 260, 40]


def calibration(**changed: object) -> Calibration:
    """Scores are probabilities; riders and bicycles may lie on one another."""
    overlaps = np.array([[1, 0.8, 0.5], [0.8, 1, 0.5], [0.5, 0.5, 1]])
    values = {
        "existence": Existence(Platt(), np.zeros(9)),
        "classes": [Platt()] * 3,
        "overlaps": overlaps,
    }
    return Calibration(**{**values, "smallest": 12.0, "box_error": None, **changed})  # type: ignore[arg-type]


def decided(
    rows: list[tuple[list[float], float, int, int]],
    annotations: list[list[float]],
    source_classes: list[int] | None = None,
    **changed: object,
) -> tuple[Decided, Removed]:
    boxes = np.array(annotations, np.float32).reshape(-1, 4)
    classes = np.array(source_classes or [0] * len(boxes), np.int64)
    labels, gone = decide(predictions(rows), boxes, classes, calibration(**changed))
    # An annotation has a label or is gone, and not both.
    made_of = labels.annotation[~labels.uncertain]
    whole = [*np.unique(made_of[made_of >= 0]), *gone.row]
    assert sorted(whole) == list(range(len(boxes)))
    return labels, gone


def test_an_unsure_class_loses_no_object() -> None:
    """A van that may be a rider, a bicycle or a car with a third each is an object all the same."""
    rows = [(FAR, 0.31, CAR, 0), (FAR, 0.3, RIDER, 0), (FAR, 0.2, BICYCLE, 0)]
    labels, gone = decided(rows, [FAR])
    assert labels.classes.tolist() == [CAR] and not labels.uncertain.any() and len(gone) == 0
    # It is of this class by its share of what makes it an object.
    exists = Platt()(existence_score(annotation_scores(predictions(rows), 1, 3)))
    assert labels.scores == pytest.approx(exists * 0.31 / 0.81)
    assert labels.others.tolist() == [[True, True, False]]


def test_alternatives_are_a_fifth_as_likely_as_the_best() -> None:
    rows = [(FAR, 0.8, CAR, 0), (FAR, 0.161, RIDER, 0), (FAR, 0.159, BICYCLE, 0)]
    labels, _ = decided(rows, [FAR])
    assert labels.others.tolist() == [[True, False, False]]


def test_what_the_target_leaves_out_goes_with_its_reason() -> None:
    tiny = [100.0, 0, 110, 8]
    rows = [(FAR, 0.3, CAR, 0), (tiny, 0.1, RIDER, 1), (CYCLIST_BOX, 0.6, RIDER, 2)]
    labels, gone = decided(rows, [FAR, tiny, CYCLIST_BOX])
    assert gone.row.tolist() == [0, 1] and gone.reason == [LEFT_OUT, TOO_SMALL]
    assert gone.probability == pytest.approx([0.3, 0.1]) and gone.category.tolist() == [CAR, RIDER]
    assert gone.score == pytest.approx([0.3, 0.1])
    # The first may yet be an object: no background for a detector; the second surely is.
    assert labels.annotation.tolist() == [2, 0] and labels.uncertain.tolist() == [False, True]


def test_existence_is_asked_of_the_calibration_and_small_ones_may_stay() -> None:
    tiny = [100.0, 0, 110, 8]
    rows = [(tiny, 0.3, CAR, 0)]
    sure = Platt(1.0, 2.0)
    labels, gone = decided(rows, [tiny], existence=Existence(sure, np.zeros(1)))
    assert len(gone) == 0 and labels.scores == pytest.approx(sure(np.array([0.3])))
    never = Existence(Platt(1.0, -2.0), np.zeros(1))
    _, gone = decided([(FAR, 0.6, CAR, 0)], [FAR], existence=never)
    assert gone.reason == [LEFT_OUT]


def test_a_class_that_the_target_leaves_out_goes_however_sure_the_network_is() -> None:
    """Scores are alike; of class 1 the target's images never have an object."""
    rows = [(FAR, 0.4, CAR, 0), (CYCLIST_BOX, 0.4, RIDER, 1)]
    by_class = Existence(Platt(), np.array([2.0, -2.0]))
    labels, gone = decided(rows, [FAR, CYCLIST_BOX], [0, 1], existence=by_class)
    assert labels.annotation[~labels.uncertain].tolist() == [0]
    assert gone.row.tolist() == [1] and gone.reason == [LEFT_OUT]


def test_one_annotation_may_become_several_objects() -> None:
    rows = [(PERSON_BOX, 0.8, RIDER, 0), (BIKE_BOX, 0.7, BICYCLE, 0), (BIKE_BOX, 0.1, CAR, 0)]
    labels, gone = decided(rows, [CYCLIST_BOX])
    assert labels.classes.tolist() == [RIDER, BICYCLE] and labels.annotation.tolist() == [0, 0]
    assert labels.boxes.tolist() == [PERSON_BOX, BIKE_BOX] and len(gone) == 0
    assert not labels.uncertain.any()
    # In one place with a class that never lies on it there is one object alone.
    labels, _ = decided([(PERSON_BOX, 0.8, RIDER, 0), (PERSON_BOX, 0.7, CAR, 0)], [CYCLIST_BOX])
    assert labels.classes.tolist() == [RIDER] and labels.others[0].tolist() == [False, False, True]


def test_several_annotations_may_become_one_object() -> None:
    """A source draws person and bicycle; the target one box for both."""
    near = [5.0, 2, 55, 100]
    rows = [(CYCLIST_BOX, 0.9, RIDER, 0), (near, 0.7, RIDER, 1), (FAR, 0.8, CAR, 2)]
    labels, gone = decided(rows, [PERSON_BOX, BIKE_BOX, FAR], [0, 1, 2])
    assert labels.annotation.tolist() == [0, 2]
    assert gone.row.tolist() == [1] and gone.reason == [MERGED]
    assert gone.score == pytest.approx([0.7]) and gone.category.tolist() == [RIDER]


def test_two_of_one_source_class_are_two_objects_unless_copies() -> None:
    shifted = [8.0, 0, 58, 100]
    rows = [(CYCLIST_BOX, 0.9, RIDER, 0), (shifted, 0.7, RIDER, 1)]
    labels, gone = decided(rows, [CYCLIST_BOX, shifted], [4, 4])
    assert labels.annotation.tolist() == [0, 1] and len(gone) == 0
    _, gone = decided(rows, [CYCLIST_BOX, shifted], [4, 5])
    assert gone.reason == [MERGED]
    copy = [5.5, 0, 55, 100]
    rows = [(CYCLIST_BOX, 0.9, RIDER, 0), (copy, 0.7, RIDER, 1)]
    assert decided(rows, [CYCLIST_BOX, copy], [4, 4])[1].reason == [MERGED]
    # Of another class of the target they are two in any case.
    rows = [(CYCLIST_BOX, 0.9, RIDER, 0), (CYCLIST_BOX, 0.7, CAR, 1)]
    assert len(decided(rows, [CYCLIST_BOX] * 2, [4, 5])[1]) == 0


def test_what_goes_takes_no_other_with_it() -> None:
    """An annotation that is left out merges none, and keeps no pseudo-label from its place."""
    rows = [(FAR, 0.45, CAR, 0), (FAR, 0.6, CAR, 1), (FAR, 0.9, CAR, -1)]
    labels, gone = decided(rows[:2], [FAR, FAR], [0, 1])
    assert gone.row.tolist() == [0] and labels.annotation[0] == 1
    labels, gone = decided([rows[0], rows[2]], [FAR])
    assert gone.row.tolist() == [0]
    assert labels.annotation.tolist() == [-1, 0] and labels.uncertain.tolist() == [False, True]


def test_objects_that_nobody_annotated_have_a_threshold_of_their_own() -> None:
    a, b, c = ([300.0 * i, 200, 300 * i + 50, 250] for i in range(3))
    rows = [(a, 0.6, CAR, -1), (b, 0.6, RIDER, -1), (c, 0.1, CAR, -1)]
    labels, gone = decided(rows, [], classes=[Platt(1, -1), Platt(), Platt()])
    assert len(gone) == 0 and labels.annotation.tolist() == [-1, -1]
    # The surest come first; a rider of 0.6 is one in three, and what is at 0.1 background.
    assert labels.classes.tolist() == [CAR, RIDER] and labels.uncertain.tolist() == [False, True]
    assert labels.scores[0] == pytest.approx(0.6, abs=1e-6) and 0.15 < labels.scores[1] < 0.5
    assert not labels.others.any()
    # On an annotation's object there is none of its own, be it surer.
    labels, _ = decided([(FAR, 0.6, CAR, 0), (FAR, 0.9, CAR, -1)], [FAR])
    assert labels.annotation.tolist() == [0]


def test_images_of_nothing() -> None:
    labels, gone = decided([], [])
    assert len(labels) == 0 and len(gone) == 0 and labels.others.shape == (0, 3)
