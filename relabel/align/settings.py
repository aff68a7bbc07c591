"""Settings of what `relabel align` writes, and the settings of all its stages together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from relabel.crosslabel.settings import CrossLabelSettings
from relabel.detectors.sam3.settings import Sam3Settings
from relabel.detectors.settings import SpecialistSettings
from relabel.errors import ConfigError
from relabel.lat.settings import LatSettings
from relabel.settings import Count, Settings, Share, setting, settings_dict

# How training is interrupted does not change what is learned.
_NO_INFLUENCE = ("checkpoint_every",)


@dataclass(frozen=True)
class AlignSettings(Settings):
    """What is written for each relabelled source.

    Raises:
        ConfigError: a prompted detector named twice, or values outside their range.
    """

    formats: tuple[Literal["coco", "fiftyone", "voc", "yolo"], ...] = setting(
        ("coco", "fiftyone"), "What to write per source; coco is always written."
    )
    pictures: Count = setting(12, "Before-and-after pictures per source in the report.")
    pseudo_score: Share = setting(
        0.3, "Minimum score of the pseudo-labels shown in FiftyOne and in the report."
    )
    prompted_detectors: tuple[Literal["sam3"], ...] = setting(
        (),
        "Detectors without a dataset of their own whose labels on all images in the target's "
        "label space are one more set of pseudo-labels: sam3.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.prompted_detectors:
            if self.prompted_detectors.count(name) > 1:
                raise ConfigError(
                    f"prompted detector {name!r} is named twice", remedy="Name it once."
                )

    def result_dict(self) -> dict[str, Any]:
        """The settings as stages know them, without a field that came later and is unused."""
        values = settings_dict(self)
        if not self.prompted_detectors:
            del values["prompted_detectors"]
        return values


@dataclass(frozen=True)
class PipelineSettings:
    """The settings of every stage of `relabel align`, with their presets applied."""

    specialist: SpecialistSettings = field(default_factory=SpecialistSettings)
    crosslabel: CrossLabelSettings = field(default_factory=CrossLabelSettings)
    lat: LatSettings = field(default_factory=LatSettings)
    sam3: Sam3Settings = field(default_factory=Sam3Settings)
    align: AlignSettings = field(default_factory=AlignSettings)

    def __post_init__(self) -> None:
        object.__setattr__(self, "specialist", self.specialist.resolved())
        object.__setattr__(self, "lat", self.lat.resolved())

    def require_lat_backbone(self) -> None:
        """Refuse before any training what LAT could not use after it.

        Raises:
            ConfigError: LAT is to take the specialist's backbone, and that is part of a whole
                pretrained RT-DETR.
        """
        s = self.specialist
        if s.detector == "rt-detr" and s.rtdetr_model and self.lat.backbone == "specialist":
            raise ConfigError(
                f"LAT cannot take the backbone of the whole RT-DETR {s.rtdetr_model!r}",
                remedy="Name a folder or hub id: --set lat.backbone=facebook/dinov2-base.",
            )


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
    model = values.get("rtdetr_model")
    if model:
        from relabel.workspace.fingerprint import source_identity

        values["rtdetr_model"] = source_identity(model)
    return values
