"""The table of arms: each changes what it names, and nothing else."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from relabel.errors import ConfigError
from relabel.lat.settings import LatSettings
from relabel.studies.ablation.arms import ARMS, DEFAULT, GROUPS, LatArm, select_arms

BASE = replace(LatSettings(), calibration_folds=1)
# What an arm's name promises, spelled out once more.
PROMISED: dict[str, dict[str, Any]] = {
    "sff-none": {"fusion": "none", "own_scores": False, "association": False},
    "sff-plain": {"fusion": "plain", "geometry": True, "own_scores": False, "association": False},
    "sff-class-aware": {
        "fusion": "class_aware",
        "geometry": True,
        "clamp": True,
        "own_scores": False,
        "consensus": False,
        "association": False,
    },
    "direct-none": {"fusion": "none", "own_scores": True, "consensus": True, "association": True},
    "direct-plain": {"fusion": "plain", "own_scores": True, "association": True},
    "no-association": {"own_scores": True, "consensus": True, "association": False},
    "no-geometry": {"fusion": "class_aware", "geometry": False, "association": True},
    "target-share-0": {"target_share": 0.0},
    "clamp-off": {"clamp": False},
    "clamp-0.25": {"clamp": True, "clamp_at": 0.25, "fusion": "class_aware"},
    "clamp-renormalised": {"clamp": True, "renormalize": True},
    "leakage-no-remedy": {"target_proposals": "gt", "simulated_source": False, "drop_gt": 0.0},
    "leakage-a": {"target_proposals": "crossfit", "simulated_source": False},
    "leakage-b": {"target_proposals": "gt", "simulated_source": False, "drop_gt": 0.9},
    "leakage-c": {
        "target_proposals": "gt",
        "simulated_source": False,
        "mask_self": True,
        "drop_gt": 0.0,
    },
    "leakage-d": {
        "target_proposals": "gt",
        "simulated_source": False,
        "score_dropout": 0.5,
        "drop_gt": 0.0,
    },
    "leakage-e": {"target_proposals": "none", "simulated_source": True},
    "ppg-jitter-0": {"target_proposals": "gt", "jitter": 0.0, "drop_gt": 0.3},
    "ppg-jitter-0.2": {"target_proposals": "gt", "jitter": 0.2, "drop_gt": 0.3},
    "ppg-drop-0.6": {"target_proposals": "gt", "jitter": 0.05, "drop_gt": 0.6},
    "threshold-0.3": {"min_score": 0.3},
    "layer-16": {"feature_strides": (16,)},
    "paper": {"target_proposals": "gt", "residual": False, "multi_label": False, "geometry": False},
}


def changed(arm: LatArm, base: LatSettings) -> dict[str, Any]:
    made = arm.settings(base, "a-backbone")
    return {
        f.name: getattr(made, f.name)
        for f in fields(base)
        if getattr(made, f.name) != getattr(base, f.name)
    }


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_an_arm_changes_the_settings_it_names_and_no_other(arm: LatArm) -> None:
    found = changed(arm, BASE)
    wanted = {k: v for k, v in arm.changes.items() if v != getattr(BASE, k)}
    if arm.needs_backbone:
        wanted = {"backbone": "a-backbone"}
    assert found == wanted
    made = arm.settings(BASE, "a-backbone")
    for name, value in PROMISED.get(arm.name, {}).items():
        assert getattr(made, name) == value, name
    # An arm without a difference would be a copy of the default under another name.
    repeats_default = (
        *(DEFAULT, "direct-class-aware", "clamp-printed", "leakage-a+e", "threshold-0.05"),
        *("target-share-0.5", "layer-all"),
    )
    assert bool(found) != (arm.name in repeats_default)


def test_deletion_and_jitter_are_tried_where_annotations_are_proposals() -> None:
    """Elsewhere `draw` takes no annotated box, and the two settings do nothing."""
    arms = select_arms(["ppg"])[1:]
    assert len(arms) == 7
    assert {arm.settings(BASE).target_proposals for arm in arms} == {"gt"}
    assert sorted({arm.settings(BASE).jitter for arm in arms}) == [0.0, 0.05, 0.1, 0.2]
    assert sorted({arm.settings(BASE).drop_gt for arm in arms}) == [0.0, 0.3, 0.6]


def test_an_arm_keeps_its_values_over_a_preset() -> None:
    """`LatSettings.resolved` puts a preset's values where a field has its default."""
    by_name = {arm.name: arm for arm in ARMS}
    base = LatSettings(preset="paper", backbone="b")
    made = by_name["leakage-a"].settings(base).resolved()
    assert (made.target_proposals, made.simulated_source) == ("crossfit", False)
    assert made.multi_label is False  # of the preset
    assert by_name["sff-class-aware"].settings(base).resolved().geometry is True


def test_arms_are_chosen_by_group_and_name() -> None:
    assert [a.name for a in select_arms(["layer-8", "clamp-off"])] == [
        "default",
        "clamp-off",
        "layer-8",
    ]
    every = select_arms([], with_backbone=True)
    assert every == list(ARMS)
    assert [a.name for a in ARMS if a not in select_arms([])] == ["other-backbone"]
    assert set(GROUPS) >= {"sff", "clamp", "leakage", "ppg", "threshold", "layer", "other"}
    with pytest.raises(ConfigError, match="sff"):
        select_arms(["sf"])
    with pytest.raises(ConfigError, match="--other-backbone"):
        select_arms(["other-backbone"])
    assert len({arm.name for arm in ARMS}) == len(ARMS)
