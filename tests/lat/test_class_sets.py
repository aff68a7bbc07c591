"""Label sets: what is surely an object and may be of several classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from relabel.datasets.alternatives import possible_classes
from relabel.datasets.dataset import UNCERTAIN, DetectionDataset, make_boxes
from relabel.datasets.labelspace import JointLabelSpace, LabelSpace
from relabel.lat.boxes import BoxError
from relabel.lat.checkpoint import TrainedTransfer
from relabel.lat.class_sets import (
    LEAST_RATIO,
    LabelSets,
    alternatives,
    evidence,
    label_sets,
    leaders,
)
from relabel.lat.select import Labels, class_overlaps
from relabel.lat.settings import LatSettings
from relabel.lat.transfer import PredictionShard, _assemble
from tests.builders.datasets import dataset_of

HERE, THERE = [0.0, 0, 10, 10], [50.0, 0, 60, 10]


def _labels(rows: list[tuple[list[float], float, int]]) -> Labels:
    rows = sorted(rows, key=lambda row: -row[1])
    boxes, scores, classes = zip(*rows, strict=True) if rows else ([], [], [])
    return Labels(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(classes, np.int64),
        np.arange(len(rows)),
    )


def test_evidence_is_the_best_score_of_each_class_on_the_spot() -> None:
    near = [0.0, 0, 10, 9]
    found = _labels([(HERE, 0.6, 0), (near, 0.3, 1), (near, 0.2, 0), (THERE, 0.9, 2)])
    table = evidence(np.array([HERE, THERE]), found, 3)
    assert table == pytest.approx(np.array([[0.6, 0.3, 0], [0, 0, 0.9]]))
    assert evidence(np.array([HERE]), _labels([]), 2).tolist() == [[0, 0]]
    assert found.boxes[leaders(found)].tolist() == [THERE, HERE]


def _held_back(images: int) -> tuple[list[Labels], list[tuple[np.ndarray, np.ndarray]]]:
    """Classes 0 and 1 are told apart badly, 2 well; false alarms score a little."""
    rng = np.random.default_rng(0)
    found, truth = [], []
    for i in range(images):
        c = i % 3
        if c == 2:
            scores = [0.0, 0.01, 0.9]
        else:
            other = rng.uniform(0.2, 0.4)
            scores = [0.5, other, 0.0] if rng.random() < 0.8 else [other, 0.5, 0.0]
            scores = scores if c == 0 else [scores[1], scores[0], 0.0]
        rows = [(HERE, s, k) for k, s in enumerate(scores) if s > 0]
        rows += [(THERE, float(rng.uniform(0.05, 0.25)), 0)]
        found.append(_labels(rows))
        truth.append((np.array([HERE]), np.array([c])))
    return found, truth


def test_sets_cover_each_class_of_held_back_objects() -> None:
    found, truth = _held_back(300)
    sets = label_sets(found, truth, 3)
    # Objects have evidence of 0.7 and more in sum, false alarms less than a quarter.
    assert 0.25 < sets.object_score <= 0.75
    least = sets.least(0.9)
    # One in five of the first two classes is behind the other by 0.4 to 0.8.
    assert 0.4 <= least[0] <= 0.8 and 0.4 <= least[1] <= 0.8 and least[2] == 1.0
    assert sets.least(0.7)[:2].tolist() == [1.0, 1.0]
    covered = [
        alternatives(first, evidence(first.boxes, labels, 3), least)[0, c]
        or int(first.classes[0]) == c
        for labels, (_, (c,)) in zip(found, truth, strict=True)
        for first in [labels.take(leaders(labels)[:1])]
    ]
    assert np.mean(covered) >= 0.9

    saved = LabelSets.from_dict(sets.to_dict(["a", "b", "c"]), ["a", "b", "c"])
    assert saved.least(0.9) == pytest.approx(least, abs=1e-3)
    assert saved.object_score == pytest.approx(sets.object_score, abs=1e-5)


def test_rare_classes_share_and_nothing_found_allows_no_alternative() -> None:
    found, truth = _held_back(300)
    truth = [(boxes, np.where(classes == 1, 3, classes)) for boxes, classes in truth[:9]]
    rare = label_sets(found[:9], truth, 4)
    assert all(not len(r) for r in rare.ratios) and len(rare.shared)
    assert len(set(rare.least(0.5).tolist())) == 1
    nothing = label_sets([_labels([])], [(np.array([HERE]), np.array([0]))], 2)
    assert nothing.least(0.9).tolist() == [1.0, 1.0]


def test_alternatives_are_other_classes_near_enough_to_the_best() -> None:
    label = _labels([(HERE, 0.5, 0)])
    rest = _labels([(HERE, 0.3, 1), (HERE, 0.1, 2), (THERE, 0.9, 3)])
    at = np.array([0.5, 0.5, 0.5, 0.5])
    table = evidence(label.boxes, rest, 4)
    assert alternatives(label, table, at).tolist() == [[False, True, False, False]]
    assert alternatives(label, table, np.full(4, LEAST_RATIO)).tolist() == [
        [False, True, True, False]
    ]
    assert alternatives(_labels([]), table[:0], at).shape == (0, 4)


TARGET = LabelSpace.from_names("target", ["van", "truck"])
SOURCE = LabelSpace.from_names("source", ["thing"])


def _transferred(
    root: Path,
    annotated: np.ndarray,
    found: tuple[np.ndarray, np.ndarray, np.ndarray],
    settings: dict[str, float],
    **trained: Any,
) -> DetectionDataset:
    """Predictions (boxes, scores, classes) on one image with annotations xywh, as written."""
    boxes = make_boxes(np.zeros(len(annotated)), annotated, np.zeros(len(annotated)))
    source = dataset_of("source", SOURCE, ["a.png"], boxes, size=(199, 199), root=root)
    predicted, scores, classes = found
    count = len(scores)
    shard = PredictionShard(
        run={},
        row=np.zeros(1, np.int32),
        offsets=np.array([0, count]),
        boxes=predicted.astype(np.float32),
        scores=scores.astype(np.float32),
        classes=classes,
        space=np.zeros(count, np.int64),
        source_row=np.full(count, -1),
    )
    model = TrainedTransfer(
        [],
        cast(Any, None),
        JointLabelSpace((TARGET, SOURCE)),
        "target",
        LatSettings(),
        np.full(2, 0.55),
        class_overlaps([], [], 2, 0.5),
        sets=LabelSets(0.65, [np.full(101, 0.5)] * 2, np.full(101, 0.5)),
        **trained,
    )
    return _assemble(shard, source, TARGET, model, LatSettings(**cast(Any, settings)))


def _written(tmp_path: Path, coverage: float = 0.0, **settings: float) -> DetectionDataset:
    """Three places of one image: surely a van or a truck, probably either, perhaps a van."""
    third = [0.0, 50, 10, 60]
    rows = [(HERE, 0.6, 0), (HERE, 0.5, 1), (THERE, 0.4, 1), (THERE, 0.3, 0)]
    rows += [(third, 0.3, 0), (third, 0.2, 1)]
    boxes, scores, classes = (np.array(column) for column in zip(*rows, strict=True))
    there = np.array([[50.0, 0, 10, 10]])
    return _transferred(tmp_path, there, (boxes, scores, classes), settings, coverage=coverage)


def _rows(made: DetectionDataset) -> list[tuple[int, bool, list[int], bool]]:
    """Class, ignore region, possible classes and whether it is uncertain, for every box."""
    possible = possible_classes(made, made.rows(0))
    assert made.boxes.provenance is not None
    return [
        (
            int(made.boxes.category[i]),
            bool(made.boxes.ignore[i]),
            [] if possible is None else np.flatnonzero(possible[i]).tolist(),
            made.boxes.provenance.origin[i] == UNCERTAIN,
        )
        for i in range(len(made.boxes))
    ]


def test_a_transfer_trains_on_objects_of_doubtful_class_and_exports_sure_ones(
    tmp_path: Path,
) -> None:
    assert _rows(_written(tmp_path)) == [
        (0, False, [0, 1], False),
        (1, False, [0, 1], True),
        (0, True, [0], True),
    ]
    # Without sets each place has one class or none.
    assert _rows(_written(tmp_path, label_sets=0)) == [
        (0, False, [], False),
        (1, True, [], True),
        (0, True, [], True),
    ]
    # What is exported.
    assert _rows(_written(tmp_path, ignore_band=0)) == [(0, False, [0, 1], False)]


def test_thresholds_that_fall_take_the_least_evidence_along(tmp_path: Path) -> None:
    # Until the annotation's place, the second, is covered: by 0.4 in place of 0.55. The third has
    # 0.5 in all, which is less than 0.65 and more than as much less.
    assert _rows(_written(tmp_path, coverage=1.0)) == [
        (0, False, [0, 1], False),
        (1, False, [0, 1], False),
        (0, False, [0, 1], True),
    ]


def test_what_only_training_sees_does_not_move_exported_boxes(tmp_path: Path) -> None:
    """Forty annotations, 25 with a sure label that is wider, 15 with a doubtful one as they are."""
    corner = np.array([[20.0 * i, 20.0 * j] for i in range(8) for j in range(5)])
    annotated = np.concatenate([corner, np.full((40, 2), 10.0)], axis=1)
    xyxy = np.concatenate([corner, corner + 10], axis=1)
    wider = xyxy[:25] + np.random.default_rng(0).uniform([0, 0, 2, 0], [0, 0, 4, 0.1], (25, 4))
    found = (
        np.concatenate([wider, xyxy[25:], xyxy[25:]]),
        np.repeat([0.6, 0.4, 0.3], [25, 15, 15]),
        np.repeat([0, 0, 1], [25, 15, 15]),
    )
    error = BoxError(np.zeros(4), np.full(4, 0.01))
    made = {
        share: _transferred(tmp_path, annotated, found, {"label_sets": share}, box_error=error)
        for share in (0.0, 0.9)
    }
    sure = {}
    for share, of in made.items():
        assert of.boxes.provenance is not None
        is_sure = np.array([o != UNCERTAIN for o in of.boxes.provenance.origin])
        assert is_sure.sum() == 25 and len(of.boxes) == 40
        assert of.boxes.ignore[~is_sure].all() == (share == 0)
        sure[share] = of.boxes.xywh[is_sure]
    assert np.array_equal(sure[0.0], sure[0.9])
    # The doubtful ones are in the style of the others: wider than annotated.
    doubtful = made[0.9].boxes.xywh[25:]
    assert (doubtful[:, 2] > 12).all() and np.allclose(doubtful[:, 3], 10, atol=0.1)
