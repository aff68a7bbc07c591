"""What `relabel evaluate downstream` is asked for, and what is checked before all training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from relabel.align.settings import PipelineSettings
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.namemap import NameMap
from relabel.detectors.semi.settings import SemiSettings
from relabel.detectors.settings import SpecialistSettings
from relabel.errors import ConfigError, DataError, did_you_mean
from relabel.evaluation.baselines import TargetNames
from relabel.studies.downstream.arms import Arm
from relabel.studies.downstream.labels import checked_name_map
from relabel.studies.downstream.settings import DownstreamSettings


@dataclass(frozen=True, eq=False)
class Request:
    """What to compare.

    Attributes:
        arms: the known arms, in the order of the table.
        extras: more arms: a name and COCO files already in the target space.
        maps: YAML name maps of sources that a person wrote; others come from names and data.
        align: the align workspace; ``out/align`` by default.
        truth: COCO files of sources' true labels in the target's space, by source, to report the
            quality of labels beside that of detectors; nothing is trained on them.
        shared: folder of specialists and cross-labels for comparisons of several targets.
    """

    target: str
    sources: tuple[str, ...]
    arms: tuple[Arm, ...]
    extras: tuple[tuple[str, tuple[Path, ...]], ...]
    out: Path
    align: Path
    pipeline: PipelineSettings
    detector: SpecialistSettings
    settings: DownstreamSettings
    semi: SemiSettings = field(default_factory=SemiSettings)
    maps: Mapping[str, Path] = field(default_factory=dict)
    truth: Mapping[str, Path] = field(default_factory=dict)
    shared: Path | None = None

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the trainings, each once."""
        return tuple(dict.fromkeys(self.settings.seeds))


def checked(request: Request) -> dict[str, TargetNames]:
    """Check what needs no data, and read the name maps, by source.

    Raises:
        ConfigError: an arm named twice, a map that is none or for what is no source.
    """
    names = [*(arm.name for arm in request.arms), *(name for name, _ in request.extras)]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"arm {name!r} is named twice",
                remedy="Name every arm once, and give --extra arms names of their own.",
            )
    maps = {}
    for name, file in request.maps.items():
        if name not in request.sources:
            raise ConfigError(
                f"there is a name map for {name!r}, which is no source",
                file=file,
                remedy=did_you_mean(name, request.sources),
            )
        maps[name] = NameMap.load(file).names
    return maps


def check_maps(
    request: Request, maps: Mapping[str, TargetNames], datasets: Mapping[str, DetectionDataset]
) -> None:
    """Check that the names in maps are there.

    Raises:
        ConfigError: a name one of the spaces does not have, or a class that is not named.
    """
    for name, given in maps.items():
        try:
            checked_name_map(datasets[name], datasets[request.target].space, given)
        except ConfigError as error:
            raise ConfigError(
                error.message, file=request.maps[name], remedy=error.remedy
            ) from error


def check_boxes(target: DetectionDataset, test: DetectionDataset) -> None:
    """Check that there is something to learn and something to measure.

    Raises:
        DataError: training or test images of the target without boxes.
    """
    for dataset, images, goal in (
        (target, "training", "to learn from"),
        (test, "test", "to measure on"),
    ):
        if dataset.boxes.ignore.all():
            raise DataError(
                f"the {len(dataset)} {images} images of {dataset.name!r} have no boxes {goal}",
                file=dataset.root,
                remedy="Check their annotation file in relabel.toml.",
            )


def check_out(out: Path) -> None:
    """Make the folder.

    Raises:
        ConfigError: it cannot be made or written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(out, os.W_OK | os.X_OK) else "permission denied"
    except OSError as error:
        reason = error.strerror
    if reason:
        raise ConfigError(f"cannot be written: {reason}", file=out, remedy="Choose another --out.")
