"""Settings of what `relabel align` writes, and the settings of all its stages together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from relabel.crosslabel.settings import CrossLabelSettings
from relabel.detectors.sam3.settings import LABELLERS, Sam3Settings
from relabel.detectors.settings import SpecialistSettings
from relabel.errors import ConfigError, did_you_mean
from relabel.lat.settings import LatSettings
from relabel.settings import setting, settings_dict
from relabel.workspace.fingerprint import source_identity

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
    labellers: tuple[str, ...] = setting(
        (),
        "Detectors without a dataset of their own whose labels on all images in the target's "
        "label space are one more set of pseudo-labels: sam3.",
    )

    def __post_init__(self) -> None:
        for name in self.formats:
            if name not in FORMATS:
                raise ConfigError(
                    f"align cannot write format {name!r}", remedy=did_you_mean(name, FORMATS)
                )
        for name in self.labellers:
            if name not in LABELLERS:
                raise ConfigError(
                    f"unknown labeller {name!r}", remedy=did_you_mean(name, LABELLERS)
                )
            if self.labellers.count(name) > 1:
                raise ConfigError(f"labeller {name!r} is named twice", remedy="Name it once.")
        if self.pictures < 0:
            raise ConfigError(f"pictures is {self.pictures}", remedy="Use 0 or more.")
        if not 0 <= self.pseudo_score <= 1:
            raise ConfigError(
                f"pseudo_score is {self.pseudo_score}", remedy="Use a value between 0 and 1."
            )

    def result_dict(self) -> dict[str, Any]:
        """The settings as stages know them, without a field that came later and is unused."""
        values = settings_dict(self)
        if not self.labellers:
            del values["labellers"]
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
            ConfigError: LAT shall take the specialist's backbone, and that is part of a whole
                pretrained RT-DETR.
        """
        s = self.specialist
        if s.detector == "rt-detr" and s.rtdetr_model and self.lat.backbone == "specialist":
            raise ConfigError(
                f"LAT cannot take the backbone of the whole RT-DETR {s.rtdetr_model!r}",
                remedy="Give --lat-backbone a folder or hub id, such as facebook/dinov2-base.",
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
        values["rtdetr_model"] = source_identity(model)
    return values
