"""Localisation quality in LAT: in the fusion's S_c and in whose boxes show the target's style."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from relabel.crosslabel.pseudo import PseudoLabels
from relabel.datasets.labelspace import JointLabelSpace
from relabel.lat.assemble import DraftLabels, PredictionShard, _seen
from relabel.lat.proposals import draw, image_proposals
from relabel.lat.settings import LatSettings
from relabel.lat.transfer import transfer
from relabel.settings import Ranking
from relabel.workspace.columns import read_shard
from tests.builders.blocks import (
    RUNTIME,
    TINY_LAT,
    World,
    make_world,
    tiny_backbone,
    train_on_blocks,
)
from tests.builders.datasets import edit_json

RANKINGS = get_args(Ranking)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), images=12)


def rated(labels: PseudoLabels) -> PseudoLabels:
    quality = np.random.default_rng(0).uniform(0.1, 1, len(labels)).astype(np.float32)
    return replace(labels, quality=quality)


def proposed(world: World, labels: PseudoLabels, confidence: Ranking):
    joint = JointLabelSpace((labels.space, world.source.space))
    settings = replace(TINY_LAT, confidence=confidence)
    found = image_proposals(world.source, 0, joint, {labels.space.name: labels}, settings)
    return found, draw(found, 1, settings, np.random.default_rng(0), training=False)


def test_s_c_is_what_the_setting_says(world: World) -> None:
    labels = rated(world.labels["tight", "loose"])
    assert labels.quality is not None
    at = labels.rows(0)
    p, v = labels.scores[at].max(axis=1), labels.quality[at]
    order = np.argsort(-p, kind="stable")
    expected = {"score": p, "quality": v, "product": p * v, "geometric": np.sqrt(p * v)}
    for ranking in RANKINGS:
        found, (rows, scores, confidence) = proposed(world, labels, ranking)
        assert len(order) and (found.variant == 0).sum() == len(order)
        assert np.allclose(found.confidence[found.variant == 0], expected[ranking][order])
        assert (found.confidence[found.variant > 0] == 1).all()
        assert confidence.tolist() == found.confidence[rows].tolist()
        # The class scores themselves stay the detector's.
        assert np.array_equal(scores, found.scores[rows])


def test_without_quality_every_setting_is_the_same(world: World) -> None:
    labels = world.labels["tight", "loose"]
    first, (rows, _, confidence) = proposed(world, labels, "score")
    annotated = first.variant > 0
    largest = np.where(annotated, 1.0, first.scores.max(axis=1)).astype(np.float32)
    assert np.array_equal(confidence, largest[rows])
    for ranking in RANKINGS:
        found, drawn = proposed(world, labels, ranking)
        for name in found.columns():
            assert np.array_equal(getattr(found, name), getattr(first, name))
        assert np.array_equal(drawn[2], confidence)


def test_only_boxes_of_enough_confidence_show_the_style(world: World) -> None:
    labels = world.labels["tight", "loose"]
    sure = labels.take(labels.score >= 0.2)
    half = np.where(np.arange(len(sure)) % 2, 0.9, 0.01).astype(np.float32)
    sure = replace(sure, quality=half)
    n, none = len(sure), np.zeros(len(sure))
    made = DraftLabels(
        *(sure.image, sure.boxes, sure.category, sure.score),
        *(none, np.zeros((n, 2), bool), none, none, [""] * n),
    )
    assert not np.isnan(_seen(made, sure, "score")).any()
    seen = ~np.isnan(_seen(made, sure, "quality")[:, 0])
    assert np.array_equal(seen, half > 0.2)
    assert not np.isnan(_seen(made, replace(sure, quality=None), "quality")).any()


def test_the_transfer_reads_it(
    world: World, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    backbone = tiny_backbone(tmp_path_factory.mktemp("backbone"))
    trained = train_on_blocks(world, replace(TINY_LAT, steps=6, backbone=str(backbone)), tmp_path)
    labels = world.labels["tight", "loose"]

    def scores(confidence: Ranking, by: PseudoLabels, out: str) -> np.ndarray:
        edit_json(trained / "config.json", lambda c: c["settings"].update(confidence=confidence))
        transfer(trained, world.source, {"tight": by}, tmp_path / out, RUNTIME)
        (file,) = (tmp_path / out).glob("*.parquet")
        return read_shard(file, PredictionShard).scores

    plain = scores("score", labels, "a")
    assert np.array_equal(scores("product", labels, "b"), plain)
    assert np.array_equal(scores("score", rated(labels), "c"), plain)
    changed = scores("product", rated(labels), "d")
    assert len(changed) != len(plain) or not np.array_equal(changed, plain)


def test_the_default_leaves_fingerprints_as_they_were() -> None:
    assert "confidence" not in LatSettings().result_dict()
    assert LatSettings(confidence="product").result_dict()["confidence"] == "product"
