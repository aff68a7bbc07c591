"""The arms of the ablation: which settings each one changes.

An arm states every setting that its name is about, also where that is the default's value, so
that the table keeps its meaning when defaults change. Arms whose settings come out equal share
one training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from relabel.errors import ConfigError, did_you_mean
from relabel.lat.settings import PRESETS, LatSettings

DEFAULT = "default"
# Stands for the backbone that a user names for the arm that needs one.
OTHER_BACKBONE = "<--other-backbone>"


@dataclass(frozen=True)
class LatArm:
    """One row of the table.

    Attributes:
        name: what the command line calls it.
        group: what it belongs to.
        about: a few words for the table.
        changes: `LatSettings` by field name, over those that all arms have in common.
    """

    name: str
    group: str
    about: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs_backbone(self) -> bool:
        return OTHER_BACKBONE in self.changes.values()

    def settings(self, base: LatSettings, other_backbone: str | None = None) -> LatSettings:
        """The arm's settings.

        Args:
            base: the settings of all arms.
            other_backbone: what an arm with `needs_backbone` takes.
        """
        changes = dict(self.changes)
        if self.needs_backbone:
            if other_backbone is None:
                raise ConfigError(
                    f"arm {self.name!r} needs a backbone", remedy="Name it with --other-backbone."
                )
            changes["backbone"] = other_backbone
        # Without its preset, which would put its own values in place of an arm's defaults.
        return replace(base.resolved(), preset="default", **changes)


_SFF = {"fusion": "class_aware", "clamp": True, "clamp_at": 0.0, "renormalize": False}
_DIRECT = {"own_scores": True, "consensus": True, "association": True, "geometry": True}
_SFF_ALONE = {**dict.fromkeys(_DIRECT, False), "geometry": True}
_OWN = {**_SFF, "own_scores": True, "consensus": False, "association": False}
_BOTH = {**_DIRECT, **_SFF}
_CROSSFIT = {"target_proposals": "crossfit", "simulated_source": False}
_SIMULATED = {"target_proposals": "none", "simulated_source": True}
_ANNOTATIONS = {"target_proposals": "gt", "simulated_source": False, "drop_gt": 0.0}
# Deletion and jitter act on annotated boxes, which are proposals with this setting only.
_PPG = {"target_proposals": "gt", "jitter": 0.05, "drop_gt": 0.3}
_SCORING = ("backbone", "calibration_folds", "score_threshold", "adapt_thresholds")
_PAPER = {k: v for k, v in PRESETS["paper"].items() if k not in _SCORING}

ARMS: tuple[LatArm, ...] = (
    LatArm(DEFAULT, "default", "the settings of all arms"),
    # As published: classes reach the heads through the fusion alone.
    LatArm("sff-none", "sff", "no attention, regions alone", {**_SFF_ALONE, "fusion": "none"}),
    LatArm("sff-plain", "sff", "plain attention", {**_SFF_ALONE, "fusion": "plain"}),
    LatArm("sff-class-aware", "sff", "class-aware", {**_SFF_ALONE, **_SFF}),
    # Beside what the default reads directly.
    LatArm("direct-none", "direct", "no attention, scores direct", {**_DIRECT, "fusion": "none"}),
    LatArm("direct-plain", "direct", "plain, scores direct", {**_DIRECT, "fusion": "plain"}),
    LatArm("direct-class-aware", "direct", "class-aware, scores direct", _BOTH),
    LatArm("own-only", "direct", "own scores alone direct", _OWN),
    LatArm(
        "no-association", "direct", "own scores and consensus direct", {**_OWN, "consensus": True}
    ),
    LatArm("no-geometry", "direct", "no geometry in attention", {**_BOTH, "geometry": False}),
    LatArm("target-share-0", "share", "all images alike", {"target_share": 0.0}),
    LatArm("target-share-0.5", "share", "half of each batch the target's", {"target_share": 0.5}),
    LatArm("target-share-1", "share", "the target's images alone", {"target_share": 1.0}),
    LatArm("clamp-printed", "clamp", "clamp at 1/sqrt(N)", _SFF),
    LatArm("clamp-off", "clamp", "no clamp", {**_SFF, "clamp": False}),
    LatArm("clamp-0.1", "clamp", "clamp at 0.1", {**_SFF, "clamp_at": 0.1}),
    LatArm("clamp-0.25", "clamp", "clamp at 0.25", {**_SFF, "clamp_at": 0.25}),
    LatArm("clamp-0.8", "clamp", "clamp at 0.8", {**_SFF, "clamp_at": 0.8}),
    LatArm("clamp-renormalised", "clamp", "rows sum to 1 again", {**_SFF, "renormalize": True}),
    LatArm("leakage-no-remedy", "leakage", "annotations as proposals", _ANNOTATIONS),
    LatArm("leakage-a", "leakage", "(a) cross-fitted rows", _CROSSFIT),
    LatArm(
        "leakage-b", "leakage", "(b) 90 % of annotations dropped", {**_ANNOTATIONS, "drop_gt": 0.9}
    ),
    LatArm("leakage-c", "leakage", "(c) own scores hidden", {**_ANNOTATIONS, "mask_self": True}),
    LatArm(
        "leakage-d", "leakage", "(d) half of scores dropped", {**_ANNOTATIONS, "score_dropout": 0.5}
    ),
    LatArm("leakage-e", "leakage", "(e) simulated source", _SIMULATED),
    LatArm("leakage-a+e", "leakage", "(a) and (e)", {**_CROSSFIT, "simulated_source": True}),
    LatArm("ppg-jitter-0", "ppg", "annotations unmoved", {**_PPG, "jitter": 0.0}),
    LatArm("ppg-jitter-0.05", "ppg", "jitter 0.05", _PPG),
    LatArm("ppg-jitter-0.1", "ppg", "jitter 0.1", {**_PPG, "jitter": 0.1}),
    LatArm("ppg-jitter-0.2", "ppg", "jitter 0.2", {**_PPG, "jitter": 0.2}),
    LatArm("ppg-drop-0", "ppg", "no annotation dropped", {**_PPG, "drop_gt": 0.0}),
    LatArm("ppg-drop-0.3", "ppg", "30 % dropped", _PPG),
    LatArm("ppg-drop-0.6", "ppg", "60 % dropped", {**_PPG, "drop_gt": 0.6}),
    *(
        LatArm(f"threshold-{s:g}", "threshold", f"pseudo-labels from {s:g}", {"min_score": s})
        for s in (0.05, 0.1, 0.3, 0.5)
    ),
    *(
        LatArm(f"layer-{s}", "layer", f"regions at stride {s}", {"feature_strides": (s,)})
        for s in (4, 8, 16, 32)
    ),
    LatArm("layer-all", "layer", "all four strides", {"feature_strides": (4, 8, 16, 32)}),
    LatArm("paper", "paper", "printed formula, class-aware", _PAPER),
    LatArm("paper-plain", "paper", "printed recipe, plain", {**_PAPER, "fusion": "plain"}),
    LatArm("paper-none", "paper", "printed recipe, no attention", {**_PAPER, "fusion": "none"}),
    LatArm("softmax", "other", "one class per proposal", {"multi_label": False}),
    LatArm("score-one", "other", "score target 1, not IoU", {"quality_target": False}),
    LatArm("one-box", "other", "one box per proposal", {"class_boxes": False}),
    LatArm(
        "nothing-hidden",
        "other",
        "nothing hidden",
        {"drop_pseudo_labels": 0.0, "drop_region_features": 0.0},
    ),
    LatArm(
        "simulated-by-score",
        "other",
        "simulated source not confirmed",
        {"simulated_source": True, "simulated_source_confirmed": False},
    ),
    LatArm("other-backbone", "other", "the backbone named", {"backbone": OTHER_BACKBONE}),
)
GROUPS: tuple[str, ...] = tuple(dict.fromkeys(arm.group for arm in ARMS))


def select_arms(wanted: Sequence[str], *, with_backbone: bool = False) -> list[LatArm]:
    """The arms of groups or names, in the order of the table, the default always among them.

    Args:
        wanted: names of groups and arms; none of them means all.
        with_backbone: a backbone is named for the arm that needs one.

    Raises:
        ConfigError: an unknown name, or an arm asked for by name without its backbone.
    """
    names = [arm.name for arm in ARMS]
    for name in wanted:
        if name not in names and name not in GROUPS:
            raise ConfigError(
                f"there is no arm or group {name!r}", remedy=did_you_mean(name, [*GROUPS, *names])
            )
    chosen = []
    for arm in ARMS:
        if arm.needs_backbone and not with_backbone:
            if arm.name in wanted:
                arm.settings(LatSettings())  # says what is missing
            continue
        if not wanted or arm.name in wanted or arm.group in wanted or arm.name == DEFAULT:
            chosen.append(arm)
    return chosen
