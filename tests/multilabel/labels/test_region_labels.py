"""Filter, aggregation and confused classes: columns against hand-computed cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relabel.errors import ConfigError, DataError
from relabel.multilabel.labels.aggregate import final, local_hard, local_soft
from relabel.multilabel.labels.confusion import ConfusedPair, confused_pairs
from relabel.multilabel.labels.region_filter import (
    RegionUnions,
    select_columns,
    union_features,
)

SCORES = np.array([[0.80, 0.10, 0.10], [0.05, 0.90, 0.05], [0.75, 0.20, 0.05], [0.40, 0.30, 0.30]])


def select(scores: np.ndarray, label: int, rule: str, threshold: float) -> RegionUnions:
    """The selected regions of one image with these scores [n, C] and this label of its own."""
    n = len(scores)
    return select_columns(
        images=np.zeros(n, np.int64),
        labels=np.full(n, label),
        own=scores[:, label] if label >= 0 else np.full(n, -1.0),
        top_class=scores.argmax(1) if n else np.zeros(0, np.int64),
        top_score=scores.max(1) if n else np.zeros(0),
        rule=rule,
        threshold=threshold,
    )


def unions(scores: np.ndarray, label: int, rule: str, threshold: float) -> list[tuple[int, list]]:
    """`select` as (class, regions)."""
    found = select(scores, label, rule, threshold)
    parts = np.split(found.regions, found.offsets[1:-1]) if len(found) else []
    return [(int(c), part.tolist()) for c, part in zip(found.classes, parts, strict=True)]


def test_the_original_rule_keeps_regions_above_the_threshold() -> None:
    assert unions(SCORES, 0, "original", 0.75) == [(0, [0])]
    assert unions(SCORES, 0, "original", 0.7) == [(0, [0, 2])]
    assert unions(SCORES, 1, "original", 0.25) == [(1, [1, 3])]
    assert unions(SCORES, 2, "original", 0.5) == []
    assert unions(SCORES, -1, "original", 0.0) == []


def test_the_top1_rule_takes_the_best_class_from_the_threshold_on() -> None:
    assert unions(SCORES, 2, "top1", 0.75) == [(0, [0, 2]), (1, [1])]
    assert unions(SCORES, -1, "top1", 0.85) == [(1, [1])]
    assert unions(np.zeros((0, 3)), 1, "top1", 0.5) == []


def test_an_unknown_rule_is_refused() -> None:
    for scores in (SCORES, np.zeros((0, 3))):
        with pytest.raises(ConfigError, match="no filter rule called 'best'"):
            select(scores, 0, "best", 0.5)


def test_columns_of_many_images_are_united_image_by_image() -> None:
    found = select_columns(
        images=np.array([0, 0, 2, 2, 2]),
        labels=np.array([5, 5, 1, 1, 1]),
        own=np.array([0.9, 0.8, 0.1, 0.9, 0.2]),
        top_class=np.array([5, 5, 7, 1, 7]),
        top_score=np.array([0.9, 0.8, 0.8, 0.9, 0.75]),
        rule="top1",
        threshold=0.75,
    )
    assert found.images.tolist() == [0, 2, 2]
    assert found.classes.tolist() == [5, 1, 7]
    assert found.offsets.tolist() == [0, 2, 3, 5]
    assert found.regions.tolist() == [0, 1, 3, 2, 4]


def test_the_feature_of_a_union_is_the_pooled_feature_of_the_united_mask() -> None:
    patches = np.array([[1.0, 0.0], [3.0, 2.0], [5.0, 4.0], [100.0, 100.0]])
    # Region 0 covers patch 0, region 1 patches 1 and 2: z_0 = (1, 0), z_1 = (4, 3).
    features = np.array([[1.0, 0.0], [4.0, 3.0], [100.0, 100.0]], dtype=np.float16)
    areas = np.array([1.0, 2.0, 1.0])
    one = np.array([0])
    union = RegionUnions(one, one, np.array([0, 2]), np.array([0, 1]))
    assert union_features(features, areas, union).tolist() == [patches[:3].mean(0).tolist()]
    none = RegionUnions(one[:0], one[:0], np.array([0]), one[:0])
    assert union_features(features, areas, none).shape == (0, 2)


ONE = np.array([0, 3])  # all regions are one image's
PROBS = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.0, 0.4, 0.6]], dtype=np.float32)


def test_local_labels_of_one_image() -> None:
    assert local_soft(PROBS, ONE)[0].tolist() == pytest.approx([0.7, 0.6, 0.6])
    assert local_hard(PROBS, 0.6, ONE).tolist() == [[True, True, True]]
    assert local_hard(PROBS, 0.65, ONE).tolist() == [[True, False, False]]
    assert local_soft(PROBS[:0], np.array([0, 0])).tolist() == [[0, 0, 0]]
    assert local_hard(PROBS[:0], 0.0, np.array([0, 0])).tolist() == [[False] * 3]


def test_images_without_regions_have_only_their_own_label() -> None:
    offsets = np.array([0, 0, 2, 2, 3, 3])
    soft = local_soft(PROBS, offsets)
    assert soft.tolist()[1] == pytest.approx([0.7, 0.6, 0.3])
    assert soft.tolist()[3] == pytest.approx([0.0, 0.4, 0.6])
    assert not soft[[0, 2, 4]].any()
    labels = final(soft, np.array([2, 2, 0, -1, -1]))
    assert labels[0].tolist() == [0, 0, 1]
    assert labels[1].tolist() == pytest.approx([0.7, 0.6, 1.0])
    assert labels[2].tolist() == [1, 0, 0]
    assert labels[3].tolist() == pytest.approx([0.0, 0.4, 0.6])
    assert labels[4].tolist() == [0, 0, 0]
    assert soft[0].tolist() == [0, 0, 0]  # the input is left alone
    assert local_hard(PROBS, 0.65, offsets).tolist()[1] == [True, False, False]


def test_the_final_label_of_one_image() -> None:
    soft = local_soft(PROBS, ONE)
    assert final(soft, np.array([1]))[0].tolist() == pytest.approx([0.7, 1.0, 0.6])
    assert final(local_hard(PROBS, 0.65, ONE), np.array([2])).tolist() == [[1, 0, 1]]
    assert final(soft, None)[0].tolist() == pytest.approx([0.7, 0.6, 0.6])
    with pytest.raises(DataError, match=r"label 3 is outside 0\.\.2"):
        final(soft, np.array([3]))


@given(st.lists(st.integers(0, 4), max_size=12), st.integers(0, 2**32 - 1))
def test_batched_aggregation_equals_image_by_image(counts: list[int], seed: int) -> None:
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
    probs = np.random.default_rng(seed).random((offsets[-1], 5), dtype=np.float32)
    soft, hard = local_soft(probs, offsets), local_hard(probs, 0.5, offsets)
    assert soft.shape == hard.shape == (len(counts), 5)
    for i in range(len(counts)):
        own = probs[offsets[i] : offsets[i + 1]]
        expected = own.max(0) if len(own) else np.zeros(5)
        assert np.array_equal(soft[i], expected)
        assert np.array_equal(hard[i], expected >= 0.5)


def _pairs(
    labels: np.ndarray, probs: np.ndarray, rate: float, count: int, kept: int = 6, **more: float
) -> list[ConfusedPair]:
    """`confused_pairs` of dense probabilities [R, C], the greatest ``kept`` of each region."""
    ids = np.argsort(-probs, axis=1, kind="stable")[:, :kept]
    found = np.take_along_axis(probs, ids, 1)
    return confused_pairs(labels, ids, found, probs.shape[1], rate, count, **more)


def _confusing() -> tuple[np.ndarray, np.ndarray]:
    """Class 0 and 1 are synonyms; 2 is seen as 3 but not 3 as 2; 4 shares images with 5."""
    rows = [
        (0, [0.5, 0.5, 0, 0, 0, 0], 3),
        (0, [0.9, 0.1, 0, 0, 0, 0], 1),
        (1, [0.4, 0.6, 0, 0, 0, 0], 1),
        (1, [0.1, 0.9, 0, 0, 0, 0], 1),
        (2, [0, 0, 0.4, 0.6, 0, 0], 4),
        (3, [0, 0, 0, 1.0, 0, 0], 4),
        (4, [0, 0, 0, 0, 0.99, 0.01], 2),
        (4, [0, 0, 0, 0, 0.01, 0.99], 2),
        (5, [0, 0, 0, 0, 0.01, 0.99], 2),
        (5, [0, 0, 0, 0, 0.99, 0.01], 2),
        (-1, [0.5, 0.5, 0, 0, 0, 0], 5),
    ]
    labels = np.concatenate([np.full(n, label) for label, _, n in rows])
    return labels, np.concatenate([np.tile(p, (n, 1)) for _, p, n in rows])


def test_synonyms_are_a_pair_but_kinds_and_neighbours_are_not() -> None:
    labels, probs = _confusing()
    assert _pairs(labels, probs, 0.2, 2) == [ConfusedPair(0, 1, 0.75, 0.5, 4, 2)]
    # With every region counted, the two classes that share images look confused, too.
    every = _pairs(labels, probs, 0.2, 2, own=0.0)
    assert [(p.a, p.b, p.rate_ab, p.rate_ba) for p in every] == [
        (0, 1, 0.75, 0.5),
        (4, 5, 0.5, 0.5),
    ]


def test_rate_and_count_limit_the_pairs() -> None:
    labels, probs = _confusing()
    assert _pairs(labels, probs, 0.5, 2)
    assert not _pairs(labels, probs, 0.51, 2)
    assert not _pairs(labels, probs, 0.2, 3)


def test_a_few_classes_per_region_give_the_same_pairs() -> None:
    labels, probs = _confusing()
    for own in (0.0, 0.05):
        full = _pairs(labels, probs, 0.2, 2, own=own)
        assert full and _pairs(labels, probs, 0.2, 2, kept=3, own=own) == full


def test_no_regions_no_pairs() -> None:
    for kept in (3, 4):
        empty = np.zeros((0, kept), int), np.zeros((0, kept))
        assert confused_pairs(np.zeros(0, int), *empty, 4, 0.2) == []
