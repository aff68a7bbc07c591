"""Places on annotations where objects of the target usually lie."""

from __future__ import annotations

import json

import numpy as np
import pytest

from relabel.lat.places import Places, find_places, players
from relabel.lat.proposals import MADE, PLACE, Proposals, annotation_numbers, draw
from relabel.lat.settings import LatSettings
from relabel.lat.simulate import with_players
from tests.lat.test_simulate import ALONE, JOINT, images, proposals

# A piece (class 2 of the joint space) with a pawn on its upper half and a king on its lower.
PIECE = [10.0, 10, 50, 90]
PAWN, KING = [10.0, 10, 50, 50], [10.0, 50, 50, 90]


def playing(n: int, variant: int = 0) -> list[Proposals]:
    found = proposals([PIECE], [[0.9, 0, 0]])
    found.plays[:] = 2
    found.variant[:] = variant
    found.source_row[:] = 0
    return [found] * n


def truth(boxes: list[list[float]], classes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(boxes).reshape(-1, 4), np.array(classes, np.int64)


def test_each_object_that_usually_lies_elsewhere_has_its_place() -> None:
    both = truth([PAWN, KING], [0, 1])
    places = find_places(playing(12), [both] * 12, 1)
    assert places.of.tolist() == [2, 2] and places.to.tolist() == [0, 1]
    with_them = places.add_to(playing(1)[0], np.array([0]), np.array([2]))
    assert with_them.boxes == pytest.approx(np.array([PIECE, PAWN, KING]), abs=1e-3)
    assert with_them.variant.tolist() == [0, PLACE, PLACE]
    # The class and the number of the annotation; nobody plays it but itself.
    assert with_them.scores[1:, 2].tolist() == [1, 1] and with_them.plays.tolist() == [2] * 3
    assert with_them.source_row.tolist() == [0, 0, 0]
    assert players(with_them, 1)[0].tolist() == [0]
    assert annotation_numbers(with_them, with_them.variant == 0).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("count", "boxes", "variant"),
    [
        (9, [PAWN], 0),  # too seldom
        (12, [[12.0, 12, 50, 88]], 0),  # in the annotation's own box, nearly
        (12, [[70.0, 10, 90, 50]], 0),  # not on it
        (12, [PAWN], MADE),  # drawn from the objects themselves
    ],
)
def test_there_is_no_place_without_reason(
    count: int, boxes: list[list[float]], variant: int
) -> None:
    there, none = truth(boxes, [0] * len(boxes)), truth([], [])
    found = find_places(playing(12, variant), [there] * count + [none] * (12 - count), 1)
    assert not found.elsewhere.any()
    plain = playing(1)[0]
    assert len(found.add_to(plain, np.array([0]), np.array([2]))) == len(plain)


def test_a_rare_company_is_none() -> None:
    """Ten of three hundred pieces have a pawn on them."""
    alone, pair = truth([PIECE], [1]), truth([PIECE, PAWN], [1, 0])
    found = find_places(playing(300), [alone] * 290 + [pair] * 10, 1)
    assert not found.elsewhere.any()
    found = find_places(playing(300), [alone] * 280 + [pair] * 20, 1)
    assert found.of[found.elsewhere].tolist() == [2]
    assert found.to[found.elsewhere].tolist() == [0]


def test_players_of_held_back_images_have_their_places() -> None:
    data = images([[[10, 10, 40, 40], [10, 50, 40, 40]]] * 12, [[0, 1]] * 12)
    found = [proposals([PIECE], [[0.9, 0, 0]])] * 12
    made, places = with_players(data, list(range(12)), found, JOINT, {1: ALONE})
    assert places.of.tolist() == [2, 2] and [len(p) for p in made] == [3] * 12
    rows, scores, sure = draw(made[0], 0, LatSettings(), np.random.default_rng(0))
    assert rows.tolist() == [0, 1, 2] and (sure == 1).all() and (scores[:, 2] == 1).all()
    without, same = with_players(data, list(range(12)), found, JOINT, {1: ALONE}, with_places=False)
    assert len(same) == 2 and [len(p) for p in without] == [1] * 12


def test_places_come_back_from_json() -> None:
    places = find_places(playing(12), [truth([PAWN], [0])] * 12, 1)
    again = Places.from_list(json.loads(json.dumps(places.to_list())))
    for name in ("of", "to", "moves"):
        assert np.array_equal(getattr(again, name), getattr(places, name))
    assert Places.from_list([]).moves.shape == (0, 4)


def test_each_place_belongs_to_its_own_annotation() -> None:
    data = images([[[10, 10, 40, 40], [110, 10, 40, 40]]] * 12, [[0, 0]] * 12)
    beside = [x + 100 if i % 2 == 0 else x for i, x in enumerate(PIECE)]
    found = [proposals([PIECE, beside], [[0.9, 0, 0], [0.8, 0, 0]])] * 12
    made, _ = with_players(data, list(range(12)), found, JOINT, {1: ALONE})
    assert made[0].variant.tolist() == [0, 0, PLACE, PLACE]
    assert annotation_numbers(made[0], made[0].variant == 0).tolist() == [0, 1, 0, 1]
    assert made[0].boxes[3] == pytest.approx(np.array([110, 10, 150, 50]), abs=1e-3)
