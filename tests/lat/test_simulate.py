"""Simulated sources: as complete, as coarse and as certain as annotations."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from relabel.datasets.dataset import make_boxes
from relabel.datasets.labelspace import JointLabelSpace, LabelSpace
from relabel.lat.proposals import NOBODY, Proposals, draw, image_proposals
from relabel.lat.settings import LatSettings
from relabel.lat.simulate import MADE, Manner, smallest_size, with_players
from tests.builders.blocks import SMALL, World, make_world
from tests.builders.datasets import dataset_of

FINE = LabelSpace.from_names("fine", ["pawn", "king"])
COARSE = LabelSpace.from_names("coarse", ["piece", "board", "hand"])
JOINT = JointLabelSpace((FINE, COARSE))
ALONE = Manner(np.where(np.eye(3) > 0, 1.0, 0.5), 0.0)


def proposals(boxes: list[list[float]], scores: list[list[float]]) -> Proposals:
    """Pseudo-labels of `COARSE`: its three classes' scores each."""
    n = len(boxes)
    full = np.zeros((n, 5), np.float32)
    full[:, 2:] = np.array(scores, np.float32).reshape(n, 3)
    return Proposals(
        np.array(boxes, np.float32).reshape(n, 4),
        full,
        np.ones(n, np.int16),
        np.zeros(n, np.int16),
        np.full(n, -1, np.int64),
        full.max(axis=1, initial=0),
        np.full(n, NOBODY, np.int16),
    )


def played(found: list[Proposals]) -> list[list[tuple[int, int]]]:
    """(row, class of the coarse space) of all players, per image."""
    return [
        [(int(r), int(p.plays[r]) - 2) for r in np.flatnonzero(p.plays != NOBODY)] for p in found
    ]


def images(boxes: list[list[list[float]]], classes: list[list[int]]):
    """A dataset of `FINE`, boxes xywh per image."""
    image = [i for i, b in enumerate(boxes) for _ in b]
    flat, of = [b for bs in boxes for b in bs], [c for cs in classes for c in cs]
    names = [f"{i}.png" for i in range(len(boxes))]
    return dataset_of("fine", FINE, names, make_boxes(image, flat, of), size=(100, 100))


def test_one_pseudo_label_to_an_object_plays_and_the_unconfirmed_only_if_sure() -> None:
    data = images([[[0, 0, 20, 20]]], [[0]])
    p = proposals(
        [[0, 0, 20, 20], [1, 1, 21, 21], [2, 2, 22, 22], [60, 60, 80, 80], [30, 60, 50, 80]],
        [[0.3, 0, 0], [0.6, 0, 0], [0, 0.5, 0], [0.9, 0, 0], [0.6, 0, 0]],
    )
    found, _ = with_players(data, [0], [p], JOINT, {1: ALONE})
    # The surest on the object, and what is surely something though the target leaves it out.
    assert played(found) == [[(1, 0), (3, 0)]]


def test_classes_that_the_source_draws_on_one_another_both_play() -> None:
    data = images([[[0, 0, 20, 30]]], [[0]])
    p = proposals([[0, 0, 20, 30], [0, 4, 20, 30]], [[0.6, 0, 0], [0, 0.5, 0]])
    overlaps = ALONE.overlaps.copy()
    overlaps[0, 1] = overlaps[1, 0] = 0.9
    found, _ = with_players(data, [0], [p], JOINT, {1: Manner(overlaps, 0.0)})
    assert played(found) == [[(0, 0), (1, 1)]]
    assert played(with_players(data, [0], [p], JOINT, {1: ALONE})[0]) == [[(0, 0)]]


def test_an_annotator_knows_what_the_specialist_confuses() -> None:
    """Pawns are pieces in nineteen images of twenty; in the last, hand was a little surer."""
    data = images([[[0, 0, 20, 20]]] * 20, [[0]] * 20)
    sure = proposals([[0, 0, 20, 20]], [[0.8, 0.0, 0.1]])
    unsure = proposals([[0, 0, 20, 20]], [[0.4, 0.0, 0.45]])
    found, _ = with_players(data, list(range(20)), [sure] * 19 + [unsure], JOINT, {1: ALONE})
    assert played(found) == [[(0, 0)]] * 20


def test_what_a_specialist_half_sees_of_a_half_annotated_class_does_not_play() -> None:
    """Of kings every second is annotated: a specialist is surer of those than of the others."""
    spots = [[10.0, 10, 30, 30], [60.0, 60, 80, 80]]
    data = images([[[10.0, 10, 20, 20], [60.0, 60, 20, 20]]] * 40, [[0, 1]] * 40)
    annotated = proposals(spots, [[0.9, 0, 0], [0.8, 0, 0]])
    left_out = proposals(spots, [[0.9, 0, 0], [0.2, 0, 0]])
    found, _ = with_players(data, list(range(40)), [annotated, left_out] * 20, JOINT, {1: ALONE})
    found = [p.take(p.variant != MADE) for p in found]
    assert played(found) == [[(0, 0), (1, 0)], [(0, 0)]] * 20
    # Where all are annotated, one that is hard to see is annotated, too.
    sure = [annotated] * 36 + [left_out] * 4
    found, _ = with_players(data, list(range(40)), sure, JOINT, {1: ALONE})
    assert played(found) == [[(0, 0), (1, 0)]] * 40


def test_missed_objects_are_added_as_often_as_their_class_is_annotated() -> None:
    """Of pawns 30 of 40 are found, and kings never: kings are not in the source's convention."""
    boxes = [[[10.0, 10, 20, 20], [60.0, 60, 20, 20]]] * 40
    data = images(boxes, [[0, 1]] * 40)
    hit = proposals([[6.5, 6.5, 33.5, 33.5]], [[0.8, 0, 0]])
    found, _ = with_players(
        data, list(range(40)), [hit] * 30 + [proposals([], [])] * 10, JOINT, {1: ALONE}
    )
    made = [p.take(p.variant == MADE) for p in found]
    assert [len(m) for m in made] == [0] * 30 + [1] * 10
    for m in made[30:]:
        assert m.plays.tolist() == [2] and m.space.tolist() == [1] and not m.scores.any()
        # In the source's loose style, not the object's own box.
        assert np.allclose(m.boxes[0], [6.5, 6.5, 33.5, 33.5], atol=1.0)
    again, _ = with_players(
        data, list(range(40)), [hit] * 30 + [proposals([], [])] * 10, JOINT, {1: ALONE}
    )
    assert all(np.array_equal(a.boxes, b.boxes) for a, b in zip(found, again, strict=True))


def test_objects_below_the_sources_smallest_are_not_added() -> None:
    data = images([[[10.0, 10, 20, 20]]] * 40, [[0]] * 40)
    hit, none = proposals([[10, 10, 30, 30]], [[0.8, 0, 0]]), proposals([], [])
    for smallest, count in ((0.19, 10), (0.21, 0)):
        manner = Manner(ALONE.overlaps, smallest)
        found, _ = with_players(data, list(range(40)), [hit] * 30 + [none] * 10, JOINT, {1: manner})
        assert sum(int((p.variant == MADE).sum()) for p in found) == count


def test_the_smallest_size_is_relative_to_the_image() -> None:
    data = images([[[0.0, 0, 10, 10]] * 50, [[0.0, 0, 40, 40]] * 50], [[0] * 50, [0] * 50])
    assert smallest_size(data) == 0.1
    assert smallest_size(images([[]], [[]])) == 0.0


def drawn(world: World, simulated: int | None) -> tuple[Proposals, np.ndarray]:
    joint = JointLabelSpace((world.target.space, world.source.space))
    labels = {by: pl for (by, on), pl in world.labels.items() if on == "tight"}
    settings = LatSettings(min_score=0.0)
    rows = list(range(len(world.target)))
    found = [image_proposals(world.target, r, joint, labels, settings) for r in rows]
    found = [p.take(p.variant == 0) for p in found]
    manner = Manner(np.ones((1, 1)), smallest_size(world.source))
    found, _ = with_players(world.target, rows, found, joint, {1: manner})
    picked = next(p for p in found if (p.variant == MADE).any())
    rng = np.random.default_rng(0)
    at, scores, sure = draw(
        picked, 0, settings, rng, simulated_source=simulated, training=False, datasets=2
    )
    assert bool(np.all((scores[sure == 1].sum(axis=1) == 1) & (scores[sure == 1].max(axis=1) == 1)))
    return picked, at[sure == 1]


def test_made_boxes_are_drawn_as_annotations_of_their_space_alone(tmp_path: Path) -> None:
    picked, at = drawn(make_world(tmp_path, images=24), 1)
    assert (picked.variant[at] == MADE).any() and (picked.space[at] == 1).all()
    made = picked.boxes[picked.variant == MADE]
    assert ((made[:, 3] - made[:, 1]) > 0.9 * SMALL).all()
