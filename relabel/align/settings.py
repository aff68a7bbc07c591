"""Settings of what `relabel align` writes, and the settings of all its stages together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from relabel.crosslabel.settings import CrossLabelSettings
from relabel.detectors.settings import SpecialistSettings
from relabel.errors import ConfigError, did_you_mean
from relabel.lat.settings import LatSettings
from relabel.settings import setting, settings_dict

FORMATS = ("coco", "fiftyone", "voc", "yolo")
# How training is interrupted does not change what is learned.
_NO_INFLUENCE = ("checkpoint_every",)


@dataclass(frozen=True)
class AlignSettings:
    """What is written for each relabelled source.

    Raises:
        ConfigError: an unknown format or a value outside its range.
    """

    formats: tuple[str, ...] = setting(
        ("coco", "fiftyone"), "What to write per source; coco is always written."
    )
    pictures: int = setting(12, "Before-and-after pictures per source in the report.")
    pseudo_score: float = setting(
        0.3, "Least score of the pseudo-labels shown in FiftyOne and in the report."
    )

    def __post_init__(self) -> None:
        for name in self.formats:
            if name not in FORMATS:
                raise ConfigError(
                    f"align cannot write format {name!r}", remedy=did_you_mean(name, FORMATS)
                )
        if self.pictures < 0:
            raise ConfigError(f"pictures is {self.pictures}", remedy="Use 0 or more.")
        if not 0 <= self.pseudo_score <= 1:
            raise ConfigError(
                f"pseudo_score is {self.pseudo_score}", remedy="Use a value between 0 and 1."
            )


@dataclass(frozen=True)
class PipelineSettings:
    """The settings of every stage of `relabel align`, with their presets applied."""

    specialist: SpecialistSettings = field(default_factory=SpecialistSettings)
    crosslabel: CrossLabelSettings = field(default_factory=CrossLabelSettings)
    lat: LatSettings = field(default_factory=LatSettings)
    align: AlignSettings = field(default_factory=AlignSettings)

    def __post_init__(self) -> None:
        object.__setattr__(self, "specialist", self.specialist.resolved())
        object.__setattr__(self, "lat", self.lat.resolved())


def stage_settings(settings: Any, backbones: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The part of a settings dataclass that a stage's result depends on, JSON-ready.

    Args:
        settings: any settings dataclass; its ``result_dict`` decides where it has one.
        backbones: what stands for a backbone that is a local folder, by its path: its name and
            fingerprint, so that the same weights at another place are the same settings.
    """
    result_dict = getattr(settings, "result_dict", None)
    values = settings_dict(settings) if result_dict is None else result_dict()
    values = {k: v for k, v in values.items() if k not in _NO_INFLUENCE}
    if "backbone" in values:
        values["backbone"] = (backbones or {}).get(values["backbone"], values["backbone"])
    return values
