"""The table of arms: each changes what it names, and nothing else."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from relabel.errors import ConfigError
from relabel.lat.settings import PARTS, LatSettings
from relabel.studies.ablation.arms import ARMS, DEFAULT, GROUPS, LatArm, select_arms

BASE = replace(LatSettings(), folds=1)
DIRECT = {"own-scores", "consensus"}
# What an arm's name promises, spelled out once more: settings, and the parts left out.
PROMISED: dict[str, dict[str, Any]] = {
    "no-residual": {"without": {"residual"}, "fusion": "class_aware"},
    "no-simulated-source": {"without": {"simulated-source"}},
    "sff-none": {"fusion": "none", "without": DIRECT},
    "sff-plain": {"fusion": "plain", "without": DIRECT},
    "sff-class-aware": {"fusion": "class_aware", "without": DIRECT},
    "direct-none": {"fusion": "none", "without": set()},
    "direct-plain": {"fusion": "plain", "without": set()},
    "target-share-0": {"target_share": 0.0},
    "threshold-0.3": {"min_score": 0.3},
    "layer-16": {"feature_strides": (16,)},
    "paper": {"without": set(PARTS), "fusion": "class_aware", "target_share": 0.0},
    "paper-none": {"without": set(PARTS), "fusion": "none", "target_share": 0.0},
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
        given = getattr(made, name)
        assert (set(given) if name == "without" else given) == value, name
    # An arm without a difference would be a copy of the default under another name.
    copies = (DEFAULT, "direct-class-aware", "threshold-0.05", "target-share-0.5", "layer-all")
    assert bool(found) != (arm.name in copies)


def test_every_part_that_one_model_has_is_left_out_once() -> None:
    parts = [arm.changes["without"] for arm in ARMS if arm.group == "parts"]
    assert parts == [(part,) for part in PARTS if part != "box-blending"]


def test_the_printed_formula_keeps_the_values_of_all_arms() -> None:
    """The preset itself would put its own backbone in place of the default one."""
    by_name = {arm.name: arm for arm in ARMS}
    made = by_name["paper"].settings(BASE).resolved()
    assert (made.backbone, made.folds, made.target_share) == ("specialist", 1, 0.0)
    assert not any(made.has(part) for part in PARTS)


def test_an_arm_keeps_its_values_over_a_preset() -> None:
    """`LatSettings.resolved` puts a preset's values where a field has its default."""
    by_name = {arm.name: arm for arm in ARMS}
    base = LatSettings(preset="paper", backbone="b")
    made = by_name["target-share-0.5"].settings(base).resolved()
    assert (made.target_share, made.backbone) == (0.5, "b")
    assert not any(made.has(part) for part in PARTS)  # of the preset
    made = by_name["sff-class-aware"].settings(base).resolved()
    assert {part for part in PARTS if not made.has(part)} == DIRECT


def test_parts_that_all_arms_do_without_are_left_out_of_each() -> None:
    base = replace(BASE, without=("quality",))
    by_name = {arm.name: arm for arm in ARMS}
    assert by_name["layer-8"].settings(base).without == ("quality",)


def test_arms_are_chosen_by_group_and_name() -> None:
    assert [a.name for a in select_arms(["layer-8", "no-hiding"])] == [
        "default",
        "no-hiding",
        "layer-8",
    ]
    every = select_arms([], with_backbone=True)
    assert every == list(ARMS)
    assert [a.name for a in ARMS if a not in select_arms([])] == ["other-backbone"]
    assert set(GROUPS) >= {"parts", "sff", "direct", "share", "threshold", "layer", "paper"}
    with pytest.raises(ConfigError, match="sff"):
        select_arms(["sf"])
    with pytest.raises(ConfigError, match="--other-backbone"):
        select_arms(["other-backbone"])
    assert len({arm.name for arm in ARMS}) == len(ARMS)
