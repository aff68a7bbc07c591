"""A prompted detector is one more label space of the transfer, and never a source."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from relabel.crosslabel.pseudo import PseudoLabels
from relabel.lat.assemble import PredictionShard
from relabel.lat.checkpoint import TrainedTransfer, target_first
from relabel.lat.proposals import NOBODY, draw, image_proposals
from relabel.lat.simulate import Manner, with_players
from relabel.lat.train import train_lat
from relabel.lat.transfer import transfer
from relabel.workspace.columns import read_shard, shard_paths
from tests.builders.blocks import RUNTIME, TINY_LAT, make_world, tiny_backbone


def by_sam3(like: PseudoLabels) -> PseudoLabels:
    """The target specialist's labels, said by a prompted detector, moved so that they differ."""
    return replace(like, by="sam3", boxes=like.boxes + np.float32(1))


def test_a_labeller_is_a_block_of_the_joint_space_and_counts_for_the_clamp(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world", images=8)
    settings = replace(TINY_LAT, backbone=str(tiny_backbone(tmp_path / "backbone")))
    labels = dict(world.labels)
    labels["sam3", "tight"] = by_sam3(labels["tight", "tight"])
    labels["sam3", "loose"] = by_sam3(labels["tight", "loose"])
    datasets = {"tight": world.target, "loose": world.source}
    out = train_lat(
        datasets,
        labels,
        "tight",
        tmp_path / "lat",
        settings,
        RUNTIME,
        prompted_detectors={"sam3": world.target.space},
    )
    trained = TrainedTransfer.load(out, torch.device("cpu"))
    names = ["tight/red", "tight/blue", "loose/thing", "sam3/red", "sam3/blue"]
    assert trained.joint.class_names == names
    limits = [m.limit for model in trained.models for m in model.modules() if hasattr(m, "limit")]
    assert limits == [1 / math.sqrt(3)] * len(trained.models)
    calibration = json.loads((out / "config.json").read_text())["calibration"]
    assert set(calibration["classes"]) == {"red", "blue"}
    on_source = {by: pl for (by, on), pl in labels.items() if on == "loose"}
    moved, _ = transfer(out, world.source, on_source, tmp_path / "moved", RUNTIME)
    assert moved.space.class_names == ["red", "blue"]
    (shard,) = shard_paths(tmp_path / "moved")
    predicted = read_shard(shard, PredictionShard)
    spaces = [space.name for space in trained.joint.spaces]
    # Of the source's own annotations, and of what the labeller alone has found.
    assert {spaces[s] for s in predicted.space} >= {"loose", "sam3"}


def test_a_labeller_never_plays_the_annotations_of_a_source(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=4)
    spaces = {"tight": world.target.space, "loose": world.source.space}
    joint = target_first({**spaces, "sam3": world.target.space}, "tight")
    labels = {
        "loose": world.labels["loose", "tight"],
        "tight": world.labels["tight", "tight"],
        "sam3": by_sam3(world.labels["tight", "tight"]),
    }
    settings = replace(TINY_LAT, without=("hiding",))
    found = image_proposals(world.target, 0, joint, labels, settings)
    manners = {p: Manner(np.ones((n, n)), 0.0) for p, n in ((1, 1), (2, 2))}
    (found,), _ = with_players(world.target, [0], [found], joint, manners)
    assert (found.plays[found.space == 2] != NOBODY).any()
    assert (found.space == 2).any()
    simulated = {True: 0, False: 0}
    for seed in range(20):
        for limited in simulated:
            rows, _, confidence = draw(
                found,
                0,
                settings,
                np.random.default_rng(seed),
                datasets=2 if limited else None,
            )
            simulated[limited] += int((confidence[found.space[rows] == 2] == 1).sum())
    assert simulated[True] == 0 and simulated[False] > 0
    # With no dataset but the target there is nobody to simulate; its labels are still proposals.
    alone = {name: labels[name] for name in ("tight", "sam3")}
    found = image_proposals(world.target, 0, joint, alone, settings)
    rows, _, confidence = draw(found, 0, settings, np.random.default_rng(0), datasets=2)
    assert (found.space[rows] == 2).any() and (confidence < 1).all()
