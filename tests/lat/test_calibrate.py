"""What held-back images show: probabilities, classes that share an object, sizes, box errors."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from relabel.lat.boxes import LEAST
from relabel.lat.calibrate import (
    FEW,
    FLOOR,
    TOP,
    Calibration,
    HeldBack,
    Platt,
    Predictions,
    annotation_scores,
    best_and_others,
    calibrate,
    candidates,
    class_overlaps,
    existence_score,
    fit_existence,
    fit_platt,
    matches,
    not_taken,
)

BOX = [10.0, 10, 50, 50]
FAR = [[100.0 + 60 * i, 100, 140 + 60 * i, 140] for i in range(8)]
NO_BOXES, NO_CLASSES = np.zeros((0, 4)), np.zeros(0, np.int64)


def predictions(
    rows: Sequence[tuple[Sequence[float], float, int, int]],
    places: Sequence[int] = (),
) -> Predictions:
    """Of (box, score, class, annotation); those of some rows are from a place on it."""
    box, score, label, annotation = zip(*rows, strict=True) if rows else ((),) * 4
    return Predictions(
        np.array(box, np.float32).reshape(-1, 4),
        np.array(score, np.float32),
        np.array(label, np.int64),
        np.arange(len(rows)),
        np.array(annotation, np.int64),
        np.isin(np.arange(len(rows)), places),
    )


def kept(scores: list[list[float]], boxes: list[list[float]], annotation: list[int]) -> Predictions:
    """`candidates` where every class has the same box."""
    s = torch.tensor(scores)
    b = torch.tensor(boxes)[:, None, :].expand(-1, s.shape[1], -1)
    return candidates(s, b, np.array(annotation), np.zeros(len(annotation), bool))


# --- candidates


def test_an_annotation_keeps_its_best_class_however_low_and_pseudo_labels_do_not() -> None:
    low = FLOOR / 2
    found = kept([[low, low / 2], [low, 0.0]], [BOX, FAR[0]], [0, -1])
    assert found.annotation.tolist() == [0] and found.classes.tolist() == [0]
    assert found.scores[0] == np.float32(low) and found.rows.tolist() == [0]


def test_nms_is_of_pseudo_labels_among_each_other_alone() -> None:
    """Ten boxes in one place, three classes: each annotation keeps both of its classes."""
    scores = [[0.3, 0.2, 0.0]] * 5 + [[0.9, 0.0, 0.8]] * 5
    found = kept(scores, [BOX] * 10, [0, 1, 2, 3, 4] + [-1] * 5)
    own = found.take(found.annotation >= 0)
    pairs = zip(own.annotation.tolist(), own.classes.tolist(), strict=True)
    assert sorted(pairs) == [(a, c) for a in range(5) for c in (0, 1)]
    others = found.take(found.annotation < 0)
    assert others.classes.tolist() == [0, 2]
    assert (np.diff(found.scores) <= 0).all()


def test_more_pseudo_labels_than_an_image_can_hold_take_no_annotation_with_them() -> None:
    n = TOP + 20
    boxes = [[20.0 * i, 0, 20.0 * i + 10, 10] for i in range(n)] + [[0.0, 50, 10, 60]]
    found = kept([[0.5]] * n + [[0.02]], boxes, [-1] * n + [0])
    assert (found.annotation < 0).sum() == TOP and found.annotation[-1] == 0


# --- scores of annotations


def test_an_annotation_exists_by_all_of_its_classes() -> None:
    found = predictions([(BOX, 0.4, 2, 1), (BOX, 0.3, 0, 1), (BOX, 0.9, 1, 0), (BOX, 0.8, 0, -1)])
    table = annotation_scores(found, 3, 3)
    assert table == pytest.approx(np.array([[0, 0.9, 0], [0.3, 0, 0.4], [0, 0, 0]]))
    assert existence_score(table) == pytest.approx([0.9, 0.7, 0])
    assert existence_score(np.array([[0.8, 0.7]])) == 1
    best, other = best_and_others(found.take(np.array([2, 3, 0, 1])), table[:2])
    assert best.tolist() == [0, 2] and other.tolist() == [False, True, False, True]


def test_a_place_speaks_for_a_class_if_it_is_surer_and_makes_no_class_the_best() -> None:
    rows = [(FAR[0], 0.9, 1, 0), (BOX, 0.8, 0, 0), (FAR[1], 0.7, 0, 0), (BOX, 0.2, 1, 0)]
    found = predictions(rows, places=[0, 2])
    table = annotation_scores(found, 1, 2)
    assert table == pytest.approx(np.array([[0.8, 0.2]]))
    best, other = best_and_others(found, table)
    # Of class 0 the annotation itself is the surer, of class 1 the place.
    assert best.tolist() == [1] and other.tolist() == [True, False, False, False]
    surer = predictions([(FAR[0], 0.9, 0, 0), (BOX, 0.8, 0, 0)], places=[0])
    best, other = best_and_others(surer, annotation_scores(surer, 1, 1))
    assert best.tolist() == [0] and not other.any()


# --- Platt


def test_a_fit_gives_probabilities_on_samples_it_never_saw() -> None:
    """Scores that are too low by a logit of one and too steep: the fit finds both."""
    rng = np.random.default_rng(0)
    true = rng.uniform(-3, 3, 20_000)
    right = rng.random(len(true)) < 1 / (1 + np.exp(-true))
    scores = 1 / (1 + np.exp(-(2 * true - 1)))
    half = len(true) // 2
    fit = fit_platt(scores[:half], right[:half])
    assert fit.slope == pytest.approx(0.5, abs=0.05) and fit.offset == pytest.approx(0.5, abs=0.08)
    said = fit(scores[half:])
    for low in np.arange(0.1, 0.9, 0.1):
        there = (said >= low) & (said < low + 0.1)
        assert there.sum() > 500
        assert right[half:][there].mean() == pytest.approx(said[there].mean(), abs=0.04)


def test_little_or_one_sided_evidence_makes_no_certainty() -> None:
    assert fit_platt(np.zeros(0), np.zeros(0, bool)) == Platt()
    assert Platt()(np.array([0.2, 0.9])) == pytest.approx([0.2, 0.9])
    for right in (True, False):
        fit = fit_platt(np.full(3, 0.5), np.full(3, right))
        # Three of three: four of five by the rule of succession.
        assert float(fit(np.array([0.5]))[0]) == pytest.approx(0.8 if right else 0.2, abs=0.01)
    # Scores that tell the wrong way round never turn the order: all are as likely as any.
    fit = fit_platt(
        np.array([0.3, 0.2, 0.02, 0.01] * 50), np.array([False, False, True, True] * 50)
    )
    assert fit(np.array([0.01, 0.3])) == pytest.approx([0.5, 0.5], abs=0.1)
    assert fit.slope > 0
    sure = fit_platt(np.array([1.0, 0.0]), np.array([True, False]))
    assert np.isfinite([sure.slope, sure.offset]).all()


# --- which predictions are objects


def test_each_object_is_given_to_one_prediction_of_its_class_in_order() -> None:
    found = predictions(
        [(BOX, 0.9, 1, -1), (BOX, 0.8, 0, -1), (BOX, 0.7, 0, -1), (FAR[0], 0.6, 0, -1)]
    )
    boxes = np.array([BOX, FAR[1]])
    assert matches(found, boxes, np.array([0, 0])).tolist() == [-1, 0, -1, -1]
    assert matches(found, NO_BOXES, NO_CLASSES).tolist() == [-1] * 4


def test_what_a_surer_one_takes_is_not_taken_again() -> None:
    chain = [[0.0, 0, 100, 10], [30.0, 0, 130, 10], [60.0, 0, 160, 10], [400.0, 0, 500, 10]]
    found = predictions([(b, 0.5, c, -1) for b, c in zip(chain, [0, 1, 0, 1], strict=True)])
    one = np.array([[1, 0.5], [0.5, 1]])
    chance = np.array([0.9, 0.8, 0.7, 0.1])
    # The middle one falls to the first, and takes nothing with it; the last is below the least.
    nothing = np.zeros(0, np.int64)
    assert not_taken(found, nothing, chance, 0.2, one).tolist() == [0, 2]
    # Two classes that may lie on one another both stay.
    two = np.array([[1, 0.6], [0.6, 1]])
    assert not_taken(found, nothing, chance, 0.2, two).tolist() == [0, 1, 2]
    # What is taken already is no answer, and keeps its place; the likeliest come first.
    chance = np.array([0.1, -1.0, 0.3, 0.9])
    assert not_taken(found, np.array([1]), chance, 0.0, one).tolist() == [3]


# --- classes that lie on each other


def test_how_far_classes_overlap_is_learned_from_the_annotations() -> None:
    """Riders (0) sit on bicycles (1) at IoU 0.62; trucks (2) stand alone."""
    rider, bicycle = [0.0, 0, 10, 100], [0.0, 0, 10, 62]
    annotated = [
        (np.array([rider, bicycle, [200, 0, 260, 40]], np.float32), np.array([0, 1, 2]))
    ] * 20
    # One double annotation in two hundred trucks is a slip, not a custom.
    annotated += [(np.array([[0, 0, 50, 50], [0, 0, 50, 49]], np.float32), np.array([2, 0]))]
    row = np.array([[400 + 50 * i, 0, 440 + 50 * i, 40] for i in range(200)], np.float32)
    annotated += [(row, np.full(200, 2)), (row, np.full(200, 0))]
    found = class_overlaps(annotated, 3)
    assert found[0, 1] == found[1, 0] == 0.7
    assert found[0, 2] == found[2, 0] == found[2, 1] == 0.5
    assert np.diag(found).tolist() == [1, 1, 1]


def test_the_rarer_of_two_classes_says_how_often_they_overlap() -> None:
    """Three riders on three of a thousand bicycles: rare for bicycles, always so for riders."""
    pair = (np.array([[0.0, 0, 10, 100], [0.0, 0, 10, 62]], np.float32), np.array([0, 1]))
    alone = (np.array([[200.0, 0, 260, 40]], np.float32), np.array([1]))
    assert class_overlaps([pair] * 3 + [alone] * 1000, 2)[0, 1] == 0.7


def test_without_annotations_boxes_in_one_place_are_one_object() -> None:
    expected = [[1.0, 0.5], [0.5, 1.0]]
    assert class_overlaps([], 2).tolist() == expected
    assert class_overlaps([(NO_BOXES, NO_CLASSES)], 2).tolist() == expected
    assert class_overlaps([(np.array([BOX]), np.array([0]))], 1).tolist() == [[1.0]]


# --- existence


def test_existence_is_of_a_class_where_classes_differ() -> None:
    """Cones score low and are never an object, as small bicycles score low and always are."""
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.uniform(0.3, 1, 200), rng.uniform(0.005, 0.06, 80)])
    classes = np.array([0] * 200 + [1] * 40 + [2] * 40)
    exists = classes < 2
    fit = fit_existence(scores, exists, classes, 4)
    chance = fit(np.full(3, 0.03), np.arange(3))
    assert chance[1] > 0.9 and chance[2] < 0.1
    # Of the last class nothing is known: it takes part in what all have in common.
    assert fit.classes[3] == 0
    assert chance[2] < float(fit(np.array([0.03]), np.array([3]))[0]) < chance[1]
    # One example makes no convention.
    few = fit_existence(
        scores[:201], np.append(exists[:200], False), np.append(classes[:200], 3), 4
    )
    assert float(few(np.array([0.9]), np.array([3]))[0]) > 0.5


# --- the whole


STEEP, RARE = Platt(1.5, -0.5), Platt(0.5, -1.0)


def held_back(n: int, seed: int) -> list[HeldBack]:
    """Images of one annotation and one pseudo-label each, of which scores tell the chances.

    The annotation is an object of class 0 as `STEEP` says of its score, the pseudo-label one of
    class 1 as `RARE` says.
    """
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(n):
        a, p = rng.uniform(0.05, 0.95, 2)
        there, found = rng.random() < STEEP(np.array(a)), rng.random() < RARE(np.array(p))
        boxes = [BOX] * int(there) + [FAR[0]] * int(found)
        images.append(
            HeldBack(
                predictions([(BOX, a, 0, 0), (FAR[0], p, 1, -1)]),
                np.array([BOX]),
                np.array([2]),
                np.array(boxes).reshape(-1, 4),
                np.array([0] * int(there) + [1] * int(found), np.int64),
            )
        )
    return images


def test_probabilities_hold_on_images_that_were_not_measured() -> None:
    made = calibrate(held_back(3000, 0), [], 2, 3)
    rng = np.random.default_rng(1)
    scores = rng.uniform(0.05, 0.95, 50)
    assert made.existence(scores, np.full(50, 2)) == pytest.approx(STEEP(scores), abs=0.04)
    assert made.classes[1](scores) == pytest.approx(RARE(scores), abs=0.04)
    # Of class 0 all predictions are an annotation's best: it has none of its own to measure by.
    assert made.classes[0] == fit_platt_of_class_1()
    assert made.box_error is not None and not made.box_error.spread.any()


def fit_platt_of_class_1() -> Platt:
    images = held_back(3000, 0)
    scores = np.concatenate([one.found.scores[1:] for one in images])
    return fit_platt(scores, np.array([1 in one.classes for one in images]))


def test_an_object_that_an_annotation_takes_confirms_no_other_prediction() -> None:
    """A pseudo-label in an annotation's place is its copy, not an object of its own."""
    images = [
        HeldBack(
            predictions([(BOX, 0.6, 0, 0), (BOX, 0.55, 1, -1), (FAR[0], 0.5, 1, -1)]),
            np.array([BOX]),
            np.array([2]),
            np.array([BOX, FAR[0]]),
            np.array([1, 1]),
        )
    ] * 20
    made = calibrate(images, [], 2, 3)
    # Only the one far off is measured, and always right.
    assert made.classes[1] == fit_platt(np.full(20, 0.5), np.full(20, True))
    # The annotation is of another class than the object: it exists, with no box to measure.
    assert float(made.existence(np.array([0.6]), np.array([2]))[0]) > 0.9
    assert made.box_error is None


def test_few_examples_share_the_fit_of_all() -> None:
    def image(label: int, right: bool) -> HeldBack:
        truth = (np.array([BOX]), np.array([label])) if right else (NO_BOXES, NO_CLASSES)
        return HeldBack(predictions([(BOX, 0.5, label, -1)]), NO_BOXES, NO_CLASSES, *truth)

    images = [image(0, True)] * FEW + [image(1, True)] * (FEW - 1) + [image(1, False)] * 40
    made = calibrate(images, [], 3, 3)
    chance = [float(c(np.array([0.5]))[0]) for c in made.classes]
    assert chance[0] > 0.85 and chance[1] == chance[2] and 0.2 < chance[1] < 0.5


@pytest.mark.parametrize("classes", [1, 3])
def test_nothing_held_back_leaves_scores_as_they_are(classes: int) -> None:
    nothing = HeldBack(predictions([]), NO_BOXES, NO_CLASSES, NO_BOXES, NO_CLASSES)
    for images in ([], [nothing] * 3):
        made = calibrate(images, [(NO_BOXES, NO_CLASSES)], classes, 4)
        assert made.existence.platt == Platt() and made.existence.classes.tolist() == [0.0] * 4
        assert made.classes == [Platt()] * classes
        assert made.smallest == 0 and made.box_error is None


def test_the_smallest_side_is_hardly_ever_undercut() -> None:
    sides = np.arange(1, 201.0)
    boxes = np.stack([0 * sides, 0 * sides, sides, sides / 2], axis=1)
    made = calibrate([], [(boxes, np.zeros(200, np.int64)), (NO_BOXES, NO_CLASSES)], 1, 2)
    assert made.smallest == pytest.approx(np.quantile(sides, 0.01))


def test_boxes_of_annotations_measure_the_error() -> None:
    rng = np.random.default_rng(2)
    images = []
    for _ in range(4 * LEAST):
        goal = np.array([BOX])
        off = goal + np.array([[4.0, 0, 4, 0]]) + rng.normal(0, 0.4, (1, 4))
        found = predictions([(off[0], 0.9, 0, 0)])
        images.append(HeldBack(found, off, np.array([1]), goal, np.array([0])))
    error = calibrate(images, [], 1, 2).box_error
    # The way back is a tenth of the width to the left.
    assert error is not None and error.bias == pytest.approx([-0.1, 0, 0, 0], abs=0.01)
    assert (error.spread < 0.03).all()
    assert calibrate(images[: LEAST - 1], [], 1, 2).box_error is None


def test_a_calibration_comes_back_from_json_and_must_fit_the_classes() -> None:
    annotated = [(np.array([BOX, FAR[0]]), np.array([0, 1]))]
    made = calibrate(held_back(100, 3), annotated, 2, 3)
    text = json.dumps(made.to_dict(["a", "b"]))
    again = Calibration.from_dict(json.loads(text), ["a", "b"])
    assert again.to_dict(["a", "b"]) == json.loads(text)
    assert again.overlaps.tolist() == made.overlaps.tolist() and again.box_error is not None
    none = calibrate([], annotated, 2, 3).to_dict(["a", "b"])
    assert Calibration.from_dict(none, ["a", "b"]).box_error is None
    with pytest.raises(ValueError, match="overlaps do not fit"):
        Calibration.from_dict(json.loads(text), ["a", "b", "c"])
