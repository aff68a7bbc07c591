"""What a run of align works on, and where each of its stages leaves its output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relabel.align.settings import PipelineSettings
from relabel.datasets.fingerprint import dataset_fingerprint
from relabel.errors import DataError
from relabel.lat.folds import Fold, folds
from relabel.review.decisions import read_decisions
from relabel.settings import Runtime
from relabel.workspace.fingerprint import file_fingerprint, fingerprint, source_identity
from relabel.workspace.lock import FolderLock
from relabel.workspace.pipeline import Outcome, Pipeline
from relabel.workspace.ranks import check_batch
from relabel.workspace.stage import Stage

if TYPE_CHECKING:
    from relabel.catalogue.catalogue import Catalogue
    from relabel.crosslabel.pseudo import PseudoLabels
    from relabel.datasets.dataset import DetectionDataset


class AlignJob(Pipeline):
    """A run of align: its datasets, its settings, and where each stage's output is.

    Args:
        datasets: training images of the target and every source, by name, the target first.
        out: the workspace folder; it need not exist.
        shared: the folder of specialists and cross-labels, for the plans of several targets.
        review: files of decisions that the result respects; where two speak of one label, the
            later one holds.

    Attributes:
        target: the dataset whose label space is the goal.
        sources: the datasets to relabel.
        fingerprints: of the datasets, with their annotations.
        specialists: by dataset.
        folds: specialists without one fold, by dataset.
        labels: pseudo-labels by (specialist or prompted detector, labelled dataset); held-out ones,
            of all folds, where both are one.
        transfers: by source.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        datasets: Mapping[str, DetectionDataset],
        out: Path,
        settings: PipelineSettings,
        runtime: Runtime,
        *,
        shared: Path | None = None,
        review: Sequence[Path] = (),
    ) -> None:
        super().__init__(out, lock="this workspace", log="align.log", quiet=runtime.quiet)
        self.catalogue = catalogue
        self.datasets = datasets
        self.target, *self.sources = datasets
        self.settings = settings
        self.runtime = runtime
        self.shared, self.shared_lock = out, None
        if shared is not None and shared.resolve() != out.resolve():
            self.shared = shared
            self.shared_lock = FolderLock(shared, "the shared specialists and labels")
        self.fingerprints = {name: dataset_fingerprint(d) for name, d in datasets.items()}
        self.backbones = backbone_identities(settings.specialist.backbone, settings.lat.backbone)
        self.specialists: dict[str, Stage] = {}
        self.folds: dict[str, list[Stage]] = {}
        self.labels: dict[tuple[str, str], Stage] = {}
        self.transfers: dict[str, Stage] = {}
        self.lat: Stage
        self.result: Stage
        self.review = [read_decisions(file) for file in review]
        self.review_fingerprint = fingerprint([file_fingerprint(f) for f in review])
        self._kept: dict[tuple[str, str], PseudoLabels] = {}

    @property
    def prompted_detectors(self) -> tuple[str, ...]:
        """Detectors without a dataset that label all images in the target's label space."""
        return self.settings.align.prompted_detectors

    def folds_of(self, name: str) -> list[Fold]:
        """How a dataset is cut up for cross-fitting."""
        lat = self.settings.lat
        return folds(
            self.datasets[name],
            lat.folds,
            stretches=lat.fold_stretches,
            gap=lat.fold_gap,
        )

    def read_labels(self, by: str, on: str) -> PseudoLabels:
        """The pseudo-labels that a finished stage left; kept until the end of a run."""
        if (by, on) not in self._kept:
            self._kept[by, on] = _read(self.labels[by, on], folds=by == on)
        return self._kept[by, on]

    def labels_on(self, on: str) -> dict[str, PseudoLabels]:
        """Pseudo-labels on a dataset by all other specialists and prompted detectors."""
        return {by: self.read_labels(by, o) for by, o in self.labels if o == on and by != on}

    def run(self, *args: Any, **kwargs: Any) -> Outcome:
        """See `Pipeline.run`."""
        try:
            return super().run(*args, **kwargs)
        finally:
            self._kept.clear()

    def check(self, stages: Sequence[Stage]) -> None:
        """Say before hours of training what would be said after them.

        Raises:
            DataError: a prompted detector's weights are missing.
            ConfigError: the processes of the command cannot share a batch evenly.
        """
        if set(self.specialists.values()) & set(stages):
            check_batch(self.settings.specialist.batch_size, "specialist")
        if self.lat in stages:
            check_batch(self.settings.lat.batch_size, "lat")
        prompted = [
            stage for (by, _), stage in self.labels.items() if by in self.prompted_detectors
        ]
        if set(prompted) & set(stages):
            from relabel.detectors.sam3.detector import why_unavailable

            reason = why_unavailable(self.settings.sam3.model)
            if reason is not None:
                raise DataError(reason)


def backbone_identities(*backbones: str) -> dict[str, str]:
    """What stands in fingerprints and manifests for backbones that are local folders."""
    return {
        name: source_identity(name)
        for name in dict.fromkeys(backbones)
        if name and Path(name).is_dir()
    }


def _read(stage: Stage, *, folds: bool) -> PseudoLabels:
    """The pseudo-labels that a finished stage left, those of all folds merged."""
    from relabel.crosslabel.pseudo import merge_pseudo_labels
    from relabel.crosslabel.shards import read_pseudo_labels

    if not folds:
        return read_pseudo_labels(stage.folder)
    return merge_pseudo_labels(
        [read_pseudo_labels(stage.outputs[f"fold{i}"]) for i in range(len(stage.needs))]
    )
