"""The plan of `relabel imagenet-multilabel`: its stages and where each stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from relabel.multilabel.settings import (
    PROBE,
    AggregateSettings,
    FilterSettings,
    LabelerSettings,
    LabelMapSettings,
    MaskCutSettings,
)
from relabel.settings import settings_dict
from relabel.workspace.fingerprint import file_fingerprint, fingerprint, source_identity
from relabel.workspace.stage import Stage, Status

if TYPE_CHECKING:
    from relabel.datasets.pixels.image_folder import ImageSet

Kind = Literal["regions", "scores", "labeler", "labels", "result"]
# The stages whose files a stage reads.
_READS: dict[Kind, tuple[Kind, ...]] = {
    "regions": (),
    "scores": ("regions",),
    "labeler": ("regions", "scores"),
    "labels": ("regions", "labeler"),
    "result": ("regions", "labels"),
}


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
        needed: set[Kind] = {"result"}
        for kind in reversed(self.stages):
            if kind in needed and found[kind] != "done":
                needed.update(_READS[kind])
        return [kind for kind in self.stages if kind in needed and found[kind] != "done"]

    def refuse_changes(self) -> None:
        """Raise StageError with the difference if a stage was started with different settings."""
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
    backbone = source_identity(settings.maskcut.backbone)
    maskcut = settings_dict(settings.maskcut)
    del maskcut["batch_size"]  # how the work is cut up, without influence on what is computed
    regions = Stage(
        "regions",
        out / "1_regions",
        settings={**maskcut, "backbone": backbone},
        inputs={"images": content},
    )
    map_values = settings_dict(settings.maps)
    if maps is not None:
        map_values = {
            "maps": maps.resolve().name,
            "sample": _sample(images, maps),
            "transpose": settings.maps.transpose,
        }
    elif settings.maps.classifier == PROBE:
        map_values = {"classifier": PROBE, "seed": settings.labeler.seed}
    else:
        map_values["classifier"] = source_identity(settings.maps.classifier)
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
        settings={**settings_dict(settings.filter), **settings_dict(settings.labeler)},
        inputs={"regions": regions.fingerprint, "scores": scores.fingerprint},
    )
    aggregate = settings_dict(settings.aggregate)
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


def _sample(images: ImageSet, maps: Path, count: int = 16) -> str:
    """Fingerprint of the maps of a few images; reading all would be a million files."""
    from relabel.multilabel.scores.label_maps import LabelMapFolder

    folder = LabelMapFolder(maps)
    step = max(1, len(images) // count)
    found = [folder.find(name) for name in images.file_names[::step][:count]]
    return fingerprint([path and file_fingerprint(path) for path in found])[:12]
