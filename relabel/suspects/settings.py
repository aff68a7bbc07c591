"""Settings of `relabel check`. Imports neither torch nor pyarrow: the command line reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from msgspec import Meta

from relabel.crosslabel.settings import CrossLabelSettings
from relabel.detectors.settings import SpecialistSettings
from relabel.settings import Count, Positive, Settings, Share, setting, settings_dict


@dataclass(frozen=True)
class CheckSettings(Settings):
    """How labels are checked, and what is told of it."""

    folds: Annotated[int, Meta(ge=2)] = setting(
        5, "Specialists to train: each labels the images that it has not seen."
    )
    fold_stretches: Positive = setting(
        3, "Stretches of neighbouring images, by file name, that a fold holds out."
    )
    fold_gap: Count = setting(
        5,
        "Images before and behind a held-out stretch that are not learned from either; 0 where "
        "neighbours show different scenes.",
    )
    min_score: Share = setting(0.1, "Minimum score of a suspect that is written.")
    pictures: Count = setting(12, "Pictures of each kind in the report, the surest suspects.")

    def fold_dict(self) -> dict[str, Any]:
        """What the specialists depend on."""
        return {k: v for k, v in settings_dict(self).items() if k.startswith("fold")}

    def result_dict(self) -> dict[str, Any]:
        """What the result depends on beside the predictions."""
        return {k: v for k, v in settings_dict(self).items() if not k.startswith("fold")}


@dataclass(frozen=True)
class CheckPipeline:
    """The settings of every stage of `relabel check`, with their presets applied."""

    check: CheckSettings = field(default_factory=CheckSettings)
    specialist: SpecialistSettings = field(default_factory=SpecialistSettings)
    crosslabel: CrossLabelSettings = field(default_factory=CrossLabelSettings)

    def __post_init__(self) -> None:
        object.__setattr__(self, "specialist", self.specialist.resolved())
