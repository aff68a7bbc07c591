"""The plan of `relabel imagenet-multilabel`: its stages and where each stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from relabel.multilabel.settings import (
    AggregateSettings,
    FilterSettings,
    LabelerSettings,
    LabelMapSettings,
    MaskCutSettings,
)
from relabel.settings import settings_dict
from relabel.workspace.fingerprint import folder_fingerprint
from relabel.workspace.stage import Stage, Status

if TYPE_CHECKING:
    from relabel.datasets.imagenet import ImageSet

Kind = Literal["regions", "scores", "labeler", "labels", "result"]
PROBE = "probe"
# How the work is cut up, without influence on what is computed.
_HOW = ("batch_size",)


@dataclass(frozen=True)
class MultilabelSettings:
    """The settings of all stages."""

    maskcut: MaskCutSettings = field(default_factory=MaskCutSettings)
    maps: LabelMapSettings = field(default_factory=LabelMapSettings)
    filter: FilterSettings = field(default_factory=FilterSettings)
    labeler: LabelerSettings = field(default_factory=LabelerSettings)
    aggregate: AggregateSettings = field(default_factory=AggregateSettings)


@dataclass(frozen=True)
class Plan:
    """The stages in order.

    Attributes:
        images: the image set.
        out: the workspace.
        maps: folder of label maps, or None where a classifier makes them.
        stages: by kind, in order.
    """

    images: ImageSet
    out: Path
    settings: MultilabelSettings
    maps: Path | None
    stages: dict[Kind, Stage]

    def status(self) -> dict[Kind, Status]:
        """Where each stage stands."""
        return {kind: stage.status() for kind, stage in self.stages.items()}

    def to_run(self) -> list[Kind]:
        """The stages that are not done and whose output is still needed, in order."""
        found = self.status()
        if found["result"] == "done":
            return []
        wanted: list[Kind] = ["result"]
        for kind in ("labels", "labeler", "scores", "regions"):
            if found[kind] != "done":
                wanted.insert(0, kind)
        return wanted

    def refuse_changes(self) -> None:
        """Raise StageError with the difference if a stage was begun with other settings."""
        for stage in self.stages.values():
            if stage.status() == "changed":
                raise stage.changed_error()


def make_plan(
    images: ImageSet, out: Path, settings: MultilabelSettings, maps: Path | None = None
) -> Plan:
    """Plan the stages.

    Args:
        images: with their fingerprint at hand: names, labels, sizes.
        out: the workspace; it need not exist.
        maps: folder of label maps; else ``settings.maps.classifier`` makes them.
    """
    size = settings.maskcut.shard_images
    content = images.fingerprint()
    backbone = identity(settings.maskcut.backbone)
    regions = Stage(
        "regions",
        out / "1_regions",
        settings={**_values(settings.maskcut), "backbone": backbone},
        inputs={"images": content},
    )
    map_values = _values(settings.maps)
    if maps is not None:
        # Not the content of a million files: who puts other maps there starts with --overwrite.
        map_values = {"maps": maps.resolve().name, "transpose": settings.maps.transpose}
    elif settings.maps.classifier == PROBE:
        map_values = {"classifier": PROBE, "seed": settings.labeler.seed}
    else:
        map_values["classifier"] = identity(settings.maps.classifier)
        map_values.pop("transpose")
    scores = Stage(
        "scores",
        out / "2_scores",
        settings={**map_values, "shard_images": size},
        inputs={"regions": regions.fingerprint},
    )
    labeler = Stage(
        "labeler",
        out / "3_labeler",
        settings={**_values(settings.filter), **_values(settings.labeler)},
        inputs={"regions": regions.fingerprint, "scores": scores.fingerprint},
    )
    aggregate = _values(settings.aggregate)
    confusion = aggregate.pop("confusion")
    labels = Stage(
        "labels",
        out / "4_labels",
        settings={**aggregate, "shard_images": size},
        inputs={"regions": regions.fingerprint, "labeler": labeler.fingerprint},
    )
    result = Stage(
        "result",
        out / "result",
        settings={"confusion": confusion},
        inputs={"labels": labels.fingerprint},
    )
    stages: dict[Kind, Stage] = {
        "regions": regions,
        "scores": scores,
        "labeler": labeler,
        "labels": labels,
        "result": result,
    }
    return Plan(images, out, settings, maps, stages)


def identity(name: str) -> str:
    """What stands for a network in fingerprints: its name, and a local folder's content."""
    folder = Path(name)
    if name and folder.is_dir():
        return f"{folder.resolve().name}@{folder_fingerprint(folder)[:12]}"
    return name


def _values(settings: Any) -> dict[str, Any]:
    return {k: v for k, v in settings_dict(settings).items() if k not in _HOW}
