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
from relabel.lat.settings import PARTS, LatSettings

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
        # The parts that the preset leaves out, not the preset, which would put its own values in
        # place of an arm's defaults.
        without = tuple(PARTS) if base.preset == "paper" else base.without
        return replace(base.resolved(), **{"preset": "default", "without": without, **changes})


_DIRECT = ("own-scores", "consensus")
_PAPER = {"without": tuple(PARTS), "target_share": 0.0}
# Boxes are blended by the error that they have on images held back from a model; the one model of
# an arm has none.
_TRIED = tuple(part for part in PARTS if part != "box-blending")

ARMS: tuple[LatArm, ...] = (
    LatArm(DEFAULT, "default", "the settings of all arms"),
    *(LatArm(f"no-{part}", "parts", f"without {part}", {"without": (part,)}) for part in _TRIED),
    # As published: classes reach the heads through the fusion alone.
    *(
        LatArm(f"sff-{name}", "sff", about, {"without": _DIRECT, "fusion": fusion})
        for name, fusion, about in (
            ("none", "none", "no attention, regions alone"),
            ("plain", "plain", "plain attention"),
            ("class-aware", "class_aware", "class-aware"),
        )
    ),
    # Beside what the default reads directly.
    *(
        LatArm(f"direct-{name}", "direct", about, {"without": (), "fusion": fusion})
        for name, fusion, about in (
            ("none", "none", "no attention, scores direct"),
            ("plain", "plain", "plain, scores direct"),
            ("class-aware", "class_aware", "class-aware, scores direct"),
        )
    ),
    LatArm("target-share-0", "share", "all images alike", {"target_share": 0.0}),
    LatArm("target-share-0.5", "share", "half of each batch the target's", {"target_share": 0.5}),
    LatArm("target-share-1", "share", "the target's images alone", {"target_share": 1.0}),
    *(
        LatArm(f"threshold-{s:g}", "threshold", f"pseudo-labels from {s:g}", {"min_score": s})
        for s in (0.05, 0.1, 0.3, 0.5)
    ),
    *(
        LatArm(f"layer-{s}", "layer", f"regions at stride {s}", {"feature_strides": (s,)})
        for s in (4, 8, 16, 32)
    ),
    LatArm("layer-all", "layer", "all four strides", {"feature_strides": (4, 8, 16, 32)}),
    LatArm("paper", "paper", "printed formula, class-aware", {**_PAPER, "fusion": "class_aware"}),
    LatArm("paper-plain", "paper", "printed, plain", {**_PAPER, "fusion": "plain"}),
    LatArm("paper-none", "paper", "printed, no attention", {**_PAPER, "fusion": "none"}),
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
