"""The stages of `relabel imagenet-multilabel`, and what each depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relabel.errors import ConfigError, DataError
from relabel.multilabel.scores.label_maps import LabelMapFolder
from relabel.multilabel.settings import (
    PROBE,
    AggregateSettings,
    FilterSettings,
    LabelMapSettings,
    MaskCutSettings,
    RegionClassifierSettings,
)
from relabel.settings import settings_dict
from relabel.workspace.clock import recorded_seconds
from relabel.workspace.fingerprint import file_fingerprint, fingerprint, source_identity
from relabel.workspace.parts import SHARDS
from relabel.workspace.pipeline import Pipeline
from relabel.workspace.stage import Shards, Stage

if TYPE_CHECKING:
    from relabel.datasets.pixels.image_folder import ImageSet


@dataclass(frozen=True)
class MultilabelSettings:
    """The settings of all stages."""

    maskcut: MaskCutSettings = field(default_factory=MaskCutSettings)
    maps: LabelMapSettings = field(default_factory=LabelMapSettings)
    filter: FilterSettings = field(default_factory=FilterSettings)
    region_classifier: RegionClassifierSettings = field(default_factory=RegionClassifierSettings)
    aggregate: AggregateSettings = field(default_factory=AggregateSettings)


class MultilabelPlan(Pipeline):
    """All stages; `relabel.multilabel.run` does their work.

    Args:
        images: with their fingerprint at hand: names, labels, sizes.
        out: the workspace; it need not exist.
        maps: folder of label maps; else ``settings.maps.classifier`` makes them.
    """

    def __init__(
        self, images: ImageSet, out: Path, settings: MultilabelSettings, maps: Path | None = None
    ) -> None:
        super().__init__(out)
        self.images, self.settings, self.maps = images, settings, maps
        maskcut = settings_dict(settings.maskcut)
        del maskcut["batch_size"]  # how the work is cut up, without influence on what is computed
        backbone = source_identity(settings.maskcut.backbone)
        size = {"shard_images": settings.maskcut.shard_images}
        aggregate = settings_dict(settings.aggregate)
        confusion = {"confusion": aggregate.pop("confusion")}
        learning = {**settings_dict(settings.filter), **settings_dict(settings.region_classifier)}
        inputs = {"images": images.fingerprint()}

        def add(name: str, folder: str, settings: dict[str, Any], *needs: str, **more: Any) -> None:
            before = [self.stages[need] for need in needs]
            self.add(Stage(name, out / folder, settings=settings, needs=before, **more))

        add("regions", "1_regions", {**maskcut, "backbone": backbone}, inputs=inputs)
        add("scores", "2_scores", {**self._map_settings(), **size}, "regions")
        add("region_classifier", "3_region_classifier", learning, "regions", "scores")
        add("labels", "4_labels", {**aggregate, **size}, "regions", "region_classifier")
        add("result", "result", confusion, "regions", "labels", dated=["report.html"])

    def shards(self, name: str) -> Shards:
        """The shards of a stage over all images; they lie in a folder of their own."""
        folder, size = self.stages[name].folder / SHARDS, self.settings.maskcut.shard_images
        return Shards(folder, total=len(self.images), size=size)

    def check(self, stages: Sequence[Stage]) -> None:
        """Raise before hours of regions what scores and region classifier would raise after them.

        Raises:
            ConfigError: nothing is named to make label maps from.
            DataError: there are no classes, no labels to learn from, or no label maps.
        """
        if self.stages["scores"] not in stages:
            return
        images, settings, maps = self.images, self.settings, self.maps
        if maps is None and not settings.maps.classifier:
            raise ConfigError(
                "there is nothing to make label maps from",
                remedy="Give --maps FOLDER with ReLabel's files, --classifier NAME, or "
                "--classifier probe, which learns from the images' own labels.",
            )
        if images.num_classes == 0:
            raise DataError(
                "the images have no classes",
                file=images.root,
                remedy="Put them into class folders, or give --labels and --classes.",
            )
        probe = maps is None and settings.maps.classifier == PROBE
        if (probe or settings.filter.rule == "original") and not bool((images.labels >= 0).any()):
            raise DataError(
                "no image has a label, and there is nothing else to learn from",
                file=images.root,
                remedy="Give --labels; or, with --maps or a --classifier, use --filter-rule top1.",
            )
        if maps is not None and not LabelMapFolder(maps).any_of(images.file_names):
            raise DataError(
                f"has no label map of any image, such as {images.file_names[0]!r}",
                file=maps,
                remedy="Check --maps: a map is <class folder>/<name of the image>.pt.",
            )

    def seconds(self) -> dict[str, float]:
        """What its stages took when they last ran, as far as ``times.json`` tells."""
        found = recorded_seconds(self.out)
        return {name: found[name] for name in self.stages if name in found}

    def _map_settings(self) -> dict[str, Any]:
        """Of where the label maps come from."""
        maps = self.settings.maps
        if self.maps is not None:
            sample = _sample(self.images, self.maps)
            return {
                "maps": self.maps.resolve().name,
                "sample": sample,
                "transpose": maps.transpose,
            }
        if maps.classifier == PROBE:
            return {"classifier": PROBE, "seed": self.settings.region_classifier.seed}
        values = settings_dict(maps) | {"classifier": source_identity(maps.classifier)}
        del values["transpose"]
        return values


def _sample(images: ImageSet, maps: Path, count: int = 16) -> str:
    """Fingerprint of the maps of a few images; reading all would be a million files."""
    folder = LabelMapFolder(maps)
    step = max(1, len(images) // count)
    found = [folder.find(name) for name in images.file_names[::step][:count]]
    return fingerprint([path and file_fingerprint(path) for path in found])[:12]
