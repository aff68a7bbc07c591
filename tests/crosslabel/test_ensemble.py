"""Fusing what several detectors of one label space found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from relabel.crosslabel.ensemble import EnsembleDetector, fuse
from relabel.datasets.labelspace import Category, LabelSpace
from relabel.detectors.base import Detections
from relabel.errors import ConfigError


def found(
    *rows: tuple[Sequence[float], Sequence[float]], quality: list[float] | None = None
) -> Detections:
    boxes = np.array([box for box, _ in rows], np.float32).reshape(-1, 4)
    scores = np.array([s for _, s in rows], np.float32).reshape(-1, 2)
    return Detections(boxes, scores, None if quality is None else np.array(quality, np.float32))


def test_boxes_of_one_object_become_their_weighted_mean() -> None:
    a = found(([0, 0, 10, 10], [0.6, 0.1]))
    b = found(([2, 0, 12, 10], [0.2, 0.1]))
    fused = fuse([a, b])
    assert fused.boxes.tolist() == [[0.5, 0.0, 10.5, 10.0]]  # weights 3/4 and 1/4
    assert np.allclose(fused.scores, [[0.4, 0.1]])


def test_a_member_that_found_nothing_counts_as_background() -> None:
    fused = fuse([found(([0, 0, 10, 10], [0.9, 0.0])), found(), found()])
    assert np.allclose(fused.scores, [[0.3, 0.0]])


def test_members_that_doubt_between_two_classes_are_averaged() -> None:
    fused = fuse([found(([0, 0, 9, 9], [0.5, 0.4])), found(([0, 0, 9, 9], [0.3, 0.5]))])
    assert np.allclose(fused.scores, [[0.4, 0.45]])


def test_a_rider_and_his_bicycle_stay_two() -> None:
    one = found(([0, 0, 10, 10], [0.8, 0.1]), ([0, 1, 10, 11], [0.1, 0.8]))
    fused = fuse([one, one])
    assert np.allclose(fused.scores, [[0.8, 0.1], [0.1, 0.8]])
    assert fused.boxes.tolist() == [[0, 0, 10, 10], [0, 1, 10, 11]]


def test_a_members_own_duplicate_is_not_counted_twice() -> None:
    double = found(([0, 0, 10, 10], [0.8, 0.0]), ([0, 0, 10, 9], [0.7, 0.0]))
    fused = fuse([double, found(([0, 0, 10, 10], [0.6, 0.0]))])
    assert np.allclose(fused.scores, [[0.7, 0.0]])


def test_far_boxes_stay_apart_and_the_surest_comes_first() -> None:
    fused = fuse([found(([0, 0, 5, 5], [0.3, 0.0])), found(([50, 0, 60, 9], [0.0, 0.9]))])
    assert fused.boxes.tolist() == [[50, 0, 60, 9], [0, 0, 5, 5]]
    assert np.allclose(fused.scores, [[0, 0.45], [0.15, 0]])


def test_quality_is_fused_where_all_have_it() -> None:
    box = [0, 0, 10, 10]
    a, b = found((box, [0.6, 0.0]), quality=[0.9]), found((box, [0.2, 0.0]), quality=[0.5])
    quality = fuse([a, b]).quality
    assert quality is not None and np.allclose(quality, [0.8])
    assert fuse([a, found((box, [0.2, 0.0]))]).quality is None


def test_members_that_rank_by_quality_are_fused_by_it() -> None:
    a = found(([0, 0, 10, 10], [0.6, 0.0]), ([50, 0, 60, 9], [0.0, 0.9]), quality=[0.9, 0.1])
    b = found(([2, 0, 12, 10], [0.9, 0.0]), quality=[0.2])
    fused = fuse([replace(a, ranking="product"), replace(b, ranking="product")])
    # Ranks 0.54 and 0.18: weights 3/4 and 1/4, whatever the scores say; 0.09 leads the other.
    assert np.allclose(fused.boxes, [[0.5, 0, 10.5, 10], [50, 0, 60, 9]])
    assert np.allclose(fused.scores, [[0.75, 0], [0, 0.45]])
    assert fused.quality is not None and np.allclose(fused.quality, [0.725, 0.1])
    assert fused.ranking == "product"
    # By scores alone: weights 2/5 and 3/5.
    assert np.allclose(fuse([a, b]).boxes[0], [1.2, 0, 11.2, 10])
    nothing = replace(a, quality=np.zeros(2, np.float32), ranking="quality")
    assert np.isfinite(fuse([nothing, nothing]).boxes).all()


def test_one_member_changes_nothing_but_what_is_hopeless() -> None:
    rng = np.random.default_rng(0)
    corner = np.arange(0, 600, 20)[:, None] * np.array([1, 0]) + rng.uniform(0, 5, (30, 2))
    boxes = np.concatenate([corner, corner + 10], axis=1).astype(np.float32)
    scores = rng.uniform(0, 1, (30, 2)).astype(np.float32)
    scores[0] = 0.01
    fused = fuse([Detections(boxes, scores)])
    order = 1 + np.argsort(-scores[1:].max(axis=1), kind="stable")
    assert np.allclose(fused.boxes, boxes[order]) and np.allclose(fused.scores, scores[order])


def test_nothing_found() -> None:
    fused = fuse([found(), found()])
    assert fused.boxes.shape == (0, 4) and fused.scores.shape == (0, 2)


class Fixed:
    def __init__(self, name: str, result: Detections) -> None:
        self.space = LabelSpace(name, (Category(1, "a"), Category(2, "b")))
        self.result = result

    def predict(self, images: Sequence[np.ndarray]) -> list[Detections]:
        return [self.result] * len(images)


def test_an_ensemble_is_a_detector() -> None:
    a = Fixed("x", found(([0, 0, 10, 10], [0.6, 0.2])))
    b = Fixed("x", found(([0, 0, 10, 10], [0.4, 0.4])))
    ensemble = EnsembleDetector([a, b])
    first, second = ensemble.predict([np.zeros((20, 20, 3), np.uint8)] * 2)
    assert np.allclose(first.scores, [[0.5, 0.3]]) and np.allclose(second.scores, first.scores)
    assert ensemble.space == a.space
    with pytest.raises(ConfigError, match="different label spaces"):
        EnsembleDetector([a, Fixed("y", found())])
