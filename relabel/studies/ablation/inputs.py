"""What the ablation reads: the labels of an align workspace, and the target's held-back fold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relabel.align.inputs import read_training_set
from relabel.align.plan import labels_folder
from relabel.datasets.fingerprint import dataset_fingerprint
from relabel.errors import ConfigError, DataError, Problems, StageError, did_you_mean
from relabel.settings import Runtime
from relabel.workspace.stage import STAGE_FILE

if TYPE_CHECKING:
    from relabel.catalogue.catalogue import Catalogue
    from relabel.crosslabel.pseudo import PseudoLabels
    from relabel.datasets.dataset import DetectionDataset
    from relabel.studies.ablation.simulate import Convention

_DATA = "data "
_FINISH = "Finish it with the `relabel align` command that began it."


@dataclass(frozen=True)
class AlignRun:
    """A workspace of `relabel align` whose datasets are labelled.

    Attributes:
        names: the target and the sources.
        shared: where its specialists and pseudo-labels are, ``folder`` if they are not shared.
        folds: folds of the target's cross-fitting.
        stretches, gap: how they are cut, see `relabel.lat.folds.folds`.
        data: fingerprint of each dataset's training images and annotations.
        labels: fingerprint of each set of pseudo-labels, by folder name.
    """

    folder: Path
    shared: Path
    names: tuple[str, ...]
    folds: int
    stretches: int
    gap: int
    data: Mapping[str, str]
    labels: Mapping[str, str]

    @property
    def target(self) -> str:
        return self.names[0]

    @property
    def inputs(self) -> dict[str, str]:
        """What an arm's result depends on besides its settings, as fingerprints by name."""
        return {f"{_DATA}{name}": value for name, value in self.data.items()} | dict(self.labels)

    @property
    def specialist(self) -> Path:
        """The target's specialist that never saw the held-back fold, which is the last."""
        return self.shared / "1_specialists" / f"{self.target}_fold{self.folds - 1}"

    def read_labels(self) -> dict[tuple[str, str], PseudoLabels]:
        """Pseudo-labels by (specialist, dataset), the target's own out-of-fold ones among them."""
        from relabel.crosslabel.pseudo import merge_pseudo_labels
        from relabel.crosslabel.shards import read_pseudo_labels

        labels = {}
        for on in self.names:
            for by in self.names:
                folder = labels_folder(self.shared, by, on, self.target)
                if by != on:
                    labels[by, on] = read_pseudo_labels(folder)
                elif on == self.target:
                    parts = [read_pseudo_labels(folder / f"fold{i}") for i in range(self.folds)]
                    labels[by, on] = merge_pseudo_labels(parts)
        return labels


def read_align_run(folder: Path, shared: Path | None = None) -> AlignRun:
    """Find out what an align workspace holds, from its manifests alone.

    Args:
        shared: the folder of specialists and cross-labels that align was given, if any.

    Raises:
        ConfigError: not such a workspace, or one without cross-fitting of the target.
        StageError: the stages that are needed are not finished.
    """
    lat = _manifest(folder / "3_lat")
    work = folder if shared is None else shared
    if lat is None:
        if (work / "1_specialists").is_dir():
            raise StageError("its datasets are not labelled yet", file=folder, remedy=_FINISH)
        raise ConfigError(
            "is not a workspace of `relabel align`", file=folder, remedy="Give its folder to --run."
        )
    # Align lists its data with the target first.
    data = {k[len(_DATA) :]: v for k, v in lat["inputs"].items() if k.startswith(_DATA)}
    names = tuple(data)
    target = names[0]
    labels = {}
    for on in names:
        for by in names:
            stage = labels_folder(work, by, on, target)
            if by == on != target:
                continue
            manifest = _manifest(stage)
            if by == on and manifest is None:
                raise ConfigError(
                    f"the workspace has no out-of-fold labels of {target!r}",
                    file=work,
                    remedy="Run `relabel align` with --set lat.folds=3, or name the "
                    "--shared folder that it was given.",
                )
            if manifest is None or manifest.get("state") != "done":
                raise StageError(
                    f"the labels by {by} on {on} are not finished",
                    file=work,
                    remedy=f"{_FINISH[:-1]}, or name the --shared folder it was given.",
                )
            labels[stage.name] = manifest["fingerprint"]
    folds = len(list(labels_folder(work, target, target, target).glob("fold*")))
    cut = lat["settings"]
    stretches, gap = cut["fold_stretches"], cut["fold_gap"]
    return AlignRun(folder, work, names, folds, stretches, gap, data, labels)


def _manifest(folder: Path) -> dict[str, Any] | None:
    file = folder / STAGE_FILE
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise StageError("not valid JSON", file=file, remedy=_FINISH) from error


def check_simulated(run: AlignRun, simulated: str) -> None:
    """Raise ConfigError unless ``simulated`` is a source of the run."""
    if simulated not in run.names[1:]:
        raise ConfigError(
            f"{simulated!r} is no source of {run.folder}",
            remedy=did_you_mean(simulated, run.names[1:]),
        )


@dataclass(frozen=True, eq=False)
class HeldBackFold:
    """What every arm is trained and scored on.

    Attributes:
        data: datasets by name, the target without its held-back fold.
        training: pseudo-labels on them by (specialist, dataset).
        truth: the held-back images of the target with their annotations.
        simulated: the same images as the source would have annotated them.
        hidden: pseudo-labels on them by specialist, without the one of the simulated source.
        convention: how the source annotates.
    """

    data: dict[str, DetectionDataset]
    training: dict[tuple[str, str], PseudoLabels]
    truth: DetectionDataset
    simulated: DetectionDataset
    hidden: dict[str, PseudoLabels]
    convention: Convention


def read_held_back(
    run: AlignRun, simulated: str, catalogue: Catalogue, runtime: Runtime, problems: Problems
) -> HeldBackFold:
    """Read datasets and labels, hold the target's last fold back and simulate a source with it.

    Raises:
        DataError: a dataset is missing, damaged, or not the one that the run was made with.
    """
    from relabel.lat.folds import folds
    from relabel.studies.ablation.simulate import measure_convention, simulate

    data = {
        name: read_training_set(catalogue.get(name), run.folder, runtime, problems)
        for name in run.names
    }
    for name, dataset in data.items():
        if dataset_fingerprint(dataset) != run.data[name]:
            raise DataError(
                f"dataset {name!r} is not the one that the workspace was made with",
                file=run.folder,
                remedy="Name the same files in relabel.toml, or run `relabel align` again.",
            )
    labels = run.read_labels()
    target, whole = run.target, data[run.target]
    last = folds(whole, run.folds, stretches=run.stretches, gap=run.gap)[-1]
    truth, kept = whole.subset(last.held_out), whole.subset(last.rest)
    pseudo = labels[target, simulated].for_images(data[simulated].images.file_name)
    convention = measure_convention(data[simulated], pseudo)
    training = dict(labels)
    for by in run.names:
        training[by, target] = labels[by, target].for_images(kept.images.file_name)
    return HeldBackFold(
        data={**data, target: kept},
        training=training,
        truth=truth,
        simulated=simulate(truth, data[simulated], convention),
        hidden={
            by: labels[by, target].for_images(truth.images.file_name)
            for by in run.names
            if by != simulated
        },
        convention=convention,
    )
