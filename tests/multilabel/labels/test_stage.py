"""From the region classifier's probabilities to the labels of an image."""

from __future__ import annotations

import numpy as np
import pytest

from relabel.errors import ConfigError
from relabel.multilabel.labels.stage import aggregated, listed
from relabel.multilabel.scores.stage import probe_images
from relabel.multilabel.settings import AggregateSettings, MaskCutSettings
from relabel.workspace.parts import WorkerShare

PROBS = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.0, 0.45, 0.55]], np.float32)
OFFSETS, GT = np.array([0, 2, 2, 3]), np.array([2, 1, -1])


def test_soft_and_hard_labels_with_and_without_the_original() -> None:
    soft = aggregated(PROBS, OFFSETS, GT, AggregateSettings())
    assert (
        soft.tolist()
        == np.array([[0.7, 0.6, 1.0], [0, 1, 0], [0, 0.45, 0.55]], np.float32).tolist()
    )
    hard = aggregated(PROBS, OFFSETS, GT, AggregateSettings(mode="hard", threshold=0.6))
    assert hard.tolist() == [[1, 1, 1], [0, 1, 0], [0, 0, 0]]
    alone = aggregated(PROBS, OFFSETS, GT, AggregateSettings(original=False))
    assert (
        alone.tolist()
        == np.array([[0.7, 0.6, 0.3], [0, 0, 0], [0, 0.45, 0.55]], np.float32).tolist()
    )


def test_the_greatest_entries_are_kept_in_order() -> None:
    whole = np.array([[0.2, 0.9, 0.2, 0.0005], [0, 0, 0, 0], [0.3, 0.4, 0.5, 0.6]], np.float32)
    found = listed(whole, AggregateSettings(min_score=0.001, max_labels=3))
    assert found.indptr.tolist() == [0, 3, 3, 6]
    assert found.indices.tolist() == [1, 0, 2, 3, 2, 1]
    assert found.data.tolist() == np.array([0.9, 0.2, 0.2, 0.6, 0.5, 0.4], np.float32).tolist()
    found = listed(whole, AggregateSettings(min_score=0.35, max_labels=2))
    assert found.indptr.tolist() == [0, 1, 1, 3] and found.indices.tolist() == [1, 3, 2]
    assert listed(whole, AggregateSettings(min_score=0)).indptr.tolist() == [0, 4, 4, 8]


@pytest.mark.parametrize("first", [0, 1])
def test_parts_cover_every_shard_once(first: int) -> None:
    parts = [WorkerShare.parse(f"{i}/4") for i in range(first, first + 4)]
    for shard in range(11):
        assert sum(part.has(shard) for part in parts) == 1


@pytest.mark.parametrize("text", ["", "1", "a/2", "3/2", "1/0", "-1/2"])
def test_parts_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError):
        WorkerShare.parse(text)


def test_presets_fill_in_defaults_only() -> None:
    dino = MaskCutSettings(backbone="facebook/dino-vitb8").resolved()
    assert (dino.image_size, dino.tau, dino.max_masks) == (480, 0.15, 3)
    large = MaskCutSettings(backbone="facebook/dinov3-vitl16", max_masks=2).resolved()
    assert (large.image_size, large.tau, large.max_masks) == (896, 0.75, 2)


def test_the_probe_sees_a_share_of_each_class_of_many_images() -> None:
    labels = np.repeat([-1, 0, 1, 2], [5, 40, 3, 40]).astype(np.int32)
    assert probe_images(labels, 0, 100).tolist() == (labels >= 0).tolist()
    some = probe_images(labels, 0, 30)
    assert [int(some[labels == c].sum()) for c in (-1, 0, 1, 2)] == [0, 10, 3, 10]
    assert np.array_equal(some, probe_images(labels, 0, 30))
    assert not np.array_equal(some, probe_images(labels, 1, 30))
    elsewhere = MaskCutSettings(backbone="/data/dino/resnet50").resolved()
    assert elsewhere.image_size == MaskCutSettings.image_size
