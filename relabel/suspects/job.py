"""`relabel check` as a pipeline: specialists without a fold each, what they predict, the result.

Stages: a specialist per fold, in ``OUT/specialists/fold0`` and so on; their predictions on the
images that they have not seen, in ``OUT/predictions``; and the result, which lies in ``OUT``
itself. With detections of the user's own there is the result alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from relabel.align.job import backbone_identities
from relabel.align.settings import stage_settings
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.fingerprint import dataset_fingerprint
from relabel.errors import ConfigError, DataError
from relabel.lat.folds import Fold, folds
from relabel.settings import Runtime
from relabel.suspects.settings import CheckPipeline
from relabel.workspace.pipeline import Pipeline
from relabel.workspace.stage import Outputs, Stage

if TYPE_CHECKING:
    from relabel.crosslabel.pseudo import PseudoLabels
    from relabel.suspects.evidence import GivenScores

_SPECIALISTS, _PREDICTIONS, _MAPS = "specialists", "predictions", "maps"
_LOG = "check.log"
# `usable_images` notes with --skip-bad what cannot be read.
_BESIDE = (_SPECIALISTS, _PREDICTIONS, _MAPS, _LOG, "unreadable.json")


class CheckJob(Pipeline):
    """Where a check stands, and its work.

    Args:
        dataset: the images and the annotations to check.
        out: the folder of the result; it need not exist.
        detections: predictions on the images by models that have not seen them, in place of
            specialists to train.
        identity: fingerprint of ``detections``.
        merged: fingerprint of the training file of a run of align, where that is the dataset.

    Raises:
        ConfigError: there is nothing to check.
        DataError: too few images for the folds, or one without anything to learn from.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        out: Path,
        settings: CheckPipeline,
        runtime: Runtime,
        *,
        detections: PseudoLabels | None = None,
        identity: str = "",
        merged: str = "",
    ) -> None:
        super().__init__(out, lock="this check", log=_LOG, quiet=runtime.quiet)
        _require_objects(dataset)
        self.dataset, self.settings, self.runtime = dataset, settings, runtime
        self.detections, self.merged = detections, merged
        self.fingerprint = dataset_fingerprint(dataset)
        self.folds: list[Fold] = []
        self.predictions: Stage | None = None
        inputs = {"data": self.fingerprint}
        needs: list[Stage] = []
        if detections is None:
            self.folds = folds_to_check(dataset, settings)
            self.predictions = self._add_predictions()
            needs.append(self.predictions)
        else:
            inputs["detections"] = identity
        if merged:
            inputs["merged.json"] = merged
        self.result = self.add(
            Stage(
                f"suspects of {dataset.name}",
                out,
                settings=settings.check.result_dict(),
                inputs=inputs,
                needs=needs,
                work=self._write,
                beside=_BESIDE,
            )
        )

    def check(self, stages: Sequence[Stage]) -> None:
        """Refuse before any work a folder of somebody else."""
        self.result.refuse_foreign_files()

    def _add_predictions(self) -> Stage:
        settings, count = self.settings, len(self.folds)
        backbones = backbone_identities(settings.specialist.backbone)
        values = {
            **stage_settings(settings.specialist, backbones),
            **settings.check.fold_dict(),
        }
        trained = [
            self.add(
                Stage(
                    f"specialist without fold {k + 1} of {count}",
                    self.out / _SPECIALISTS / f"fold{k}",
                    settings={**values, "fold": k},
                    inputs={"train": self.fingerprint},
                    work=partial(self._train, fold=fold),
                )
            )
            for k, fold in enumerate(self.folds)
        ]
        return self.add(
            Stage(
                "predictions on what each has not seen",
                self.out / _PREDICTIONS,
                settings=stage_settings(settings.crosslabel),
                inputs={"data": self.fingerprint},
                needs=trained,
                work=self._predict,
            )
        )

    def _train(self, stage: Stage, *, fold: Fold) -> None:
        from relabel.detectors.specialist import train_specialist

        train_specialist(
            self.dataset.subset(fold.rest),
            stage.folder,
            self.settings.specialist,
            self.runtime,
            maps=self.out / _MAPS,
        )

    def _predict(self, stage: Stage) -> Outputs:
        """What each specialist finds on its held-out images, and what it says of their boxes."""
        from relabel.crosslabel.given import label_given_boxes
        from relabel.crosslabel.label import cross_label

        outputs = {}
        for k, (specialist, fold) in enumerate(zip(stage.needs, self.folds, strict=True)):
            cross_label(
                specialist.folder,
                self.dataset,
                stage.folder / f"fold{k}",
                self.settings.crosslabel,
                self.runtime,
                image_rows=fold.held_out,
                maps=self.out / _MAPS,
            )
            outputs[f"fold{k}"] = f"fold{k}"
            if self.settings.specialist.detector != "rt-detr":  # which has no box head
                label_given_boxes(
                    [specialist.folder],
                    self.dataset.subset(fold.held_out),
                    stage.folder / f"boxes{k}",
                    self.settings.crosslabel,
                    self.runtime,
                )
                outputs[f"boxes{k}"] = f"boxes{k}"
        return outputs

    def read_predictions(self) -> tuple[PseudoLabels, GivenScores | None]:
        """Predictions on all images, and box heads' scores of the annotations, where there are."""
        from relabel.crosslabel.given import read_given_labels
        from relabel.crosslabel.pseudo import merge_pseudo_labels
        from relabel.crosslabel.shards import read_pseudo_labels
        from relabel.suspects.evidence import GivenScores

        if self.detections is not None:
            return self.detections, None
        assert self.predictions is not None
        files = self.predictions.outputs
        parts = [read_pseudo_labels(files[f"fold{k}"]) for k in range(len(self.folds))]
        merged = merge_pseudo_labels(parts)
        heads = [f"boxes{k}" for k in range(len(self.folds)) if f"boxes{k}" in files]
        if not heads:
            return merged, None
        given = [read_given_labels(files[name]) for name in heads]
        return merged, GivenScores.of(self.dataset, given)

    def _write(self, stage: Stage) -> Outputs:
        from relabel.reports.made import made_now
        from relabel.suspects.write import write_check

        predictions, given = self.read_predictions()
        told = dict(stage.settings)
        if self.predictions is not None:
            told["crosslabel"] = self.predictions.settings
            told["specialist"] = self.predictions.needs[0].settings
        return write_check(
            self.dataset,
            predictions,
            given,
            stage.folder,
            self.settings.check,
            by=f"{len(self.folds)} specialists" if self.folds else predictions.by,
            told=told,
            made=made_now(self.seconds()),
            merged=self.merged,
        )


def folds_to_check(dataset: DetectionDataset, settings: CheckPipeline) -> list[Fold]:
    """The folds of a check, each with something to learn from.

    Raises:
        DataError: too few images, or all objects are in one fold.
    """
    check, n = settings.check, len(dataset)
    remedy = "Give more images, --set check.folds=2, or detections of your own: --detections FILE."
    if n < check.folds:
        raise DataError(
            f"{n} image{'s' * (n != 1)} cannot make {check.folds} folds",
            file=dataset.source or dataset.root,
            remedy=remedy,
        )
    made = folds(dataset, check.folds, stretches=check.fold_stretches, gap=check.fold_gap)
    for k, fold in enumerate(made, 1):
        if not any(len(dataset.objects(row)) for row in fold.rest.tolist()):
            raise DataError(
                f"the images outside of fold {k} of {check.folds} have no boxes to learn from",
                file=dataset.source or dataset.root,
                remedy=remedy,
            )
    return made


def _require_objects(dataset: DetectionDataset) -> None:
    if not len(dataset):
        raise ConfigError(
            f"dataset {dataset.name!r} has no images to check",
            file=dataset.source or dataset.root,
            remedy="Check its split and annotation file in relabel.toml.",
        )
    if bool(dataset.boxes.ignore.all()):
        count = len(dataset.boxes)
        raise ConfigError(
            f"dataset {dataset.name!r} has no boxes to check"
            + (f": all {count} are regions to ignore" if count else ""),
            file=dataset.source or dataset.root,
            remedy="Check its split and annotation file in relabel.toml.",
        )
