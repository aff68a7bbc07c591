"""Class-wise NMS against a plain reference and torchvision, and what it guarantees."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import nms as torchvision_nms

from relabel.crosslabel.nms import class_wise_nms, select
from relabel.crosslabel.settings import CrossLabelSettings
from relabel.detectors.base import Detections
from relabel.detectors.semi.thresholds import CLIP
from relabel.errors import ConfigError, DataError
from relabel.geometry import iou_matrix
from relabel.settings import Ranking, field_types, fit_values, range_of


def reference(boxes: np.ndarray, scores: np.ndarray, iou: float, rank: np.ndarray) -> list[int]:
    """The definition, box by box."""
    overlaps = iou_matrix(boxes, boxes)
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: (-rank[i], i)):
        same = [j for j in kept if scores[j].argmax() == scores[i].argmax()]
        if all(overlaps[i, j] <= iou for j in same):
            kept.append(i)
    return kept


def random_case(seed: int, n: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    low = rng.uniform(-20, 60, (n, 2))
    boxes = np.hstack([low, low + rng.uniform(1, 40, (n, 2))]).astype(np.float32)
    # Few distinct scores, so that ties occur.
    scores = rng.integers(0, 20, (n, classes)).astype(np.float32) / 20
    return boxes, scores


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("iou", [0.0, 0.3, 0.5, 0.9])
def test_agrees_with_the_reference_with_ties_and_negative_corners(seed: int, iou: float) -> None:
    boxes, scores = random_case(seed, 60, 3)
    found = class_wise_nms(boxes, scores, iou)
    assert found.tolist() == reference(boxes, scores, iou, scores.max(1))
    rank = np.random.default_rng(seed).permutation(60).astype(np.float32)
    assert class_wise_nms(boxes, scores, iou, rank=rank).tolist() == reference(
        boxes, scores, iou, rank
    )


def test_agrees_with_torchvision_class_by_class_on_many_boxes() -> None:
    rng = np.random.default_rng(0)
    n = 3000  # torchvision takes another path above 1,000 boxes
    low = rng.uniform(0, 1900, (n, 2))
    boxes = np.hstack([low, low + rng.uniform(5, 200, (n, 2))]).astype(np.float32)
    scores = rng.random((n, 4)).astype(np.float32)
    expected = []
    for c in range(4):
        rows = np.flatnonzero(scores.argmax(1) == c)
        kept = torchvision_nms(
            torch.from_numpy(boxes[rows]), torch.from_numpy(scores[rows].max(1)), 0.5
        )
        expected += rows[kept.numpy()].tolist()
    found = class_wise_nms(boxes, scores, 0.5)
    assert sorted(found.tolist()) == sorted(expected)
    assert (np.diff(scores[found].max(1)) <= 0).all()


def test_hand_computed() -> None:
    boxes = np.array(
        [[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 8], [0, 0, 10, 10], [20, 20, 30, 30]],
        np.float32,
    )
    scores = np.array([[0.9, 0], [0.8, 0], [0.7, 0.1], [0.2, 0.6], [0.3, 0.1]], np.float32)
    # IoU with the first: 0.5 (not above the threshold) and 0.8; the fourth is of another class.
    assert class_wise_nms(boxes, scores, 0.5).tolist() == [0, 1, 3, 4]
    assert class_wise_nms(boxes, scores, 0.49).tolist() == [0, 3, 4]
    assert class_wise_nms(boxes[:0], scores[:0], 0.5).tolist() == []
    # Equal boxes of equal rank: the first given stays.
    assert class_wise_nms(boxes[[0, 0]], scores[[0, 0]], 0.5).tolist() == [0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 30),
            st.integers(0, 30),
            st.integers(1, 20),
            st.integers(1, 20),
            st.lists(st.integers(0, 8), min_size=3, max_size=3),
        ),
        min_size=1,
        max_size=25,
    ),
    st.sampled_from([0.1, 0.5, 0.75]),
)
def test_invariants(rows: list, iou: float) -> None:
    boxes = np.array([[x, y, x + w, y + h] for x, y, w, h, _ in rows], np.float32)
    scores = np.array([s for *_, s in rows], np.float32) / 8
    kept = class_wise_nms(boxes, scores, iou)
    classes = scores.argmax(1)
    overlaps = iou_matrix(boxes, boxes)
    assert len(set(kept.tolist())) == len(kept)
    same = classes[kept][:, None] == classes[kept][None, :]
    np.fill_diagonal(same, False)
    assert not (overlaps[np.ix_(kept, kept)][same] > iou).any()
    for c in set(classes.tolist()):  # the best box of every class survives
        members = np.flatnonzero(classes == c)
        assert members[scores[members].max(1).argmax()] in kept
    for i in set(range(len(boxes))) - set(kept.tolist()):  # whoever is out was beaten
        beaten = [
            j
            for j in kept
            if classes[j] == classes[i]
            and overlaps[i, j] > iou
            and (-scores[j].max(), j) < (-scores[i].max(), i)
        ]
        assert beaten


def pick(detections: Detections, **changes) -> Detections:
    return select(
        detections,
        CrossLabelSettings(**changes),
        num_classes=2,
        width=100,
        height=50,
        source="test",
    )


def test_select_filters_clips_caps_and_keeps_the_whole_score_vector() -> None:
    boxes = np.array(
        [[-5, -5, 10, 10], [90, 40, 120, 70], [100, 0, 130, 20], [30, 30, 40, 40], [0, 0, 9, 10]],
        np.float64,
    )
    scores = np.array([[0.5, 0.3], [0.1, 0.7], [0.9, 0], [0.04, 0.01], [0.45, 0.5]])
    found = pick(Detections(boxes, scores), score_storage="float32")
    # The third lies outside, the fourth is below 0.05, the fifth is of another class than the
    # first; equal scores stay in the order given.
    assert found.boxes.tolist() == [[90, 40, 100, 50], [0, 0, 10, 10], [0, 0, 9, 10]]
    assert np.allclose(found.scores, scores[[1, 0, 4]])
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert len(pick(Detections(boxes, scores), max_per_image=1)) == 1
    assert len(pick(Detections(boxes[:0], scores[:0]))) == 0


def test_select_compares_scores_as_they_are_stored() -> None:
    # 0.05 is not a float16: it is stored as 0.04999, which a filter at 0.05 leaves out, before
    # writing as after reading.
    one = Detections(np.array([[0, 0, 5, 5]]), np.array([[0.05, 0]]))
    assert len(pick(one, score_storage="float16")) == 0
    assert len(pick(one, score_storage="float32")) == 1


BOTH = Detections(
    np.array([[0, 0, 10, 10], [0, 0, 10, 9], [50, 0, 60, 10]], np.float32),
    np.array([[0.9, 0], [0.8, 0], [0.85, 0]], np.float32),
    np.array([0.5, 0.75, 0.6], np.float32),
)


@pytest.mark.parametrize(
    ("ranking", "first"),
    [
        ("score", [0, 2]),  # 0.9 before 0.85 before 0.8
        ("quality", [1, 2]),
        ("product", [1, 2]),  # 0.6, 0.51, 0.45
        ("geometric", [1, 2]),
    ],
)
def test_nms_and_the_cap_rank_as_asked_or_as_the_detector_says(
    ranking: Ranking, first: list[int]
) -> None:
    for found in (
        pick(BOTH, ranking=ranking),
        pick(replace(BOTH, ranking=ranking)),
        pick(replace(BOTH, ranking="quality"), ranking=ranking),
    ):
        assert found.boxes.tolist() == BOTH.boxes[first].tolist()
        assert found.quality is not None and BOTH.quality is not None
        assert found.quality.tolist() == BOTH.quality[first].tolist()
    assert pick(replace(BOTH, ranking=ranking)).ranking == ranking
    best = pick(BOTH, ranking=ranking, max_per_image=1)
    assert best.boxes.tolist() == BOTH.boxes[first[:1]].tolist()
    without = Detections(BOTH.boxes, BOTH.scores)
    assert pick(without, ranking=ranking).boxes.tolist() == BOTH.boxes[[0, 2]].tolist()


def test_the_confidence_filter_looks_at_what_is_asked_for() -> None:
    def left(on: str, least: float) -> list[list[float]]:
        return pick(BOTH, threshold_on=on, min_score=least, nms_iou=1).boxes.tolist()

    assert left("score", 0.85) == BOTH.boxes[[0, 2]].tolist()
    assert left("quality", 0.6) == BOTH.boxes[[2, 1]].tolist()
    assert left("product", 0.5) == BOTH.boxes[[2, 1]].tolist()
    assert left("geometric", 0.73) == BOTH.boxes[[1]].tolist()
    without = Detections(BOTH.boxes, BOTH.scores)
    assert len(pick(without, threshold_on="quality", min_score=0.85)) == 2


@pytest.mark.parametrize(
    ("boxes", "scores", "quality", "said"),
    [
        (np.zeros((2, 5)), np.zeros((2, 2)), None, r"boxes of shape \[2, 5\], expected \[n, 4\]"),
        (np.zeros((2, 4)), np.zeros((2, 3)), None, r"scores of shape \[2, 3\], expected \[2, 2\]"),
        (np.zeros((2, 4)), np.zeros((2, 2)), np.zeros(1), r"quality of shape \[1\]"),
        (np.full((1, 4), np.nan), np.zeros((1, 2)), None, "boxes that are not finite"),
        (np.zeros((1, 4)), np.full((1, 2), np.inf), None, "scores that are not finite"),
    ],
)
def test_nonsense_of_a_detector_is_named(boxes, scores, quality, said: str) -> None:
    with pytest.raises(DataError, match=said):
        pick(Detections(boxes, scores, quality))


def test_labels_of_earlier_versions_stay_those_of_the_defaults() -> None:
    assert CrossLabelSettings().result_dict() == {
        "min_score": 0.05,
        "nms_iou": 0.5,
        "ranking": "score",
        "ensemble": True,
        "max_per_image": 100,
        "score_storage": "float16",
    }


def test_what_labels_depend_on_is_told_apart() -> None:
    different: list[dict[str, Any]] = [
        {},
        *({"ranking": ranking} for ranking in get_args(Ranking)),
        *({"threshold_on": on} for on in ("quality", "product", "geometric")),
        {"threshold": "classwise"},
        {"threshold": "classwise", "tau": 0.5},
    ]
    told = [CrossLabelSettings(**values).result_dict() for values in different]
    assert all(told.count(values) == 1 for values in told)
    # What is not looked at changes nothing.
    assert CrossLabelSettings(tau=0.5).result_dict() == told[0]


def test_the_range_of_tau_is_that_of_the_thresholds() -> None:
    assert range_of(field_types(CrossLabelSettings)["tau"]) == {"ge": CLIP[0], "le": CLIP[1]}


def test_settings_are_checked() -> None:
    assert fit_values(CrossLabelSettings, {"batch_size": "16"}, text=True)[0] == {"batch_size": 16}
    assert CrossLabelSettings().images_per_batch("cpu") == 8
    assert CrossLabelSettings().images_per_batch("cuda") == 32
    wrong: list[dict[str, Any]] = [
        {"min_score": 1.5},
        {"nms_iou": -0.1},
        {"max_per_image": 0},
        {"batch_size": 0},
        {"batch_size": "many"},
        {"shard_images": 0},
        {"ranking": "luck"},
        {"ranking": "score-quality"},
        {"threshold": "none"},
        {"threshold_on": "auto"},
        {"tau": 0.95},
        {"score_storage": "int8"},
    ]
    for bad in wrong:
        with pytest.raises(ConfigError, match=next(iter(bad))):
            CrossLabelSettings(**bad)
