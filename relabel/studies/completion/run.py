"""Plan and run a comparison of methods: one stage per arm, proportion and seed.

Of every dataset the training images' labels are hidden by the published protocol, seed by seed;
every arm is trained on what stays known, and measured on what was hidden and on the test images.
Finished trainings are never redone, and several processes may share a folder: each takes the
trainings that no other works on. Seeds are done one after the other, so that a comparison that is
cut off has whole seeds.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from relabel.datasets.partial.labels import PartialLabels, hide
from relabel.errors import ConfigError, DataError
from relabel.evaluation.multilabel.resampling import weighted_map
from relabel.evaluation.resampling import resamples
from relabel.partial.settings import CompletionSettings
from relabel.settings import Runtime
from relabel.studies.completion.arms import REFIT, CompletionArm
from relabel.workspace.atomic import atomic_path, atomic_write_json
from relabel.workspace.fingerprint import source_identity
from relabel.workspace.pipeline import Pipeline
from relabel.workspace.stage import Outputs, Stage

METRICS_FILE, RESAMPLES_FILE = "metrics.json", "resamples.npz"
VARIANTS = ("", REFIT)
_MODEL, _FEATURES = "model", "features"


@dataclass(frozen=True, eq=False)
class Subject:
    """A dataset that is compared on.

    Attributes:
        name: of the catalogue.
        train: labels of its training images, as far as anybody knows them.
        test: the same of its test images; None without any.
        changes: settings of all arms on it, by field name, over those that datasets share.
    """

    name: str
    train: PartialLabels
    test: PartialLabels | None
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of one way to complete.

    Attributes:
        train, test: float [N, C] of the training and [T, C] of the test images.
        unreadable: where those images are that could not be read, and were gone on without.
    """

    train: np.ndarray
    test: np.ndarray | None
    unreadable: tuple[str, ...] = ()


class Trainer(Protocol):
    """Trains on what is known, and says what it thinks of all labels; resumes in ``folder``.

    Returns the scores as trained, under "", and with refitted classifiers, under `REFIT`.
    """

    def __call__(
        self,
        labels: PartialLabels,
        test: PartialLabels | None,
        settings: CompletionSettings,
        folder: Path,
        cache: Path,
        runtime: Runtime,
    ) -> Mapping[str, Scored]: ...


class Measure(Protocol):
    """mAP, CF1 and OF1 of scores [N, C] over what ``truth`` knows and ``known`` does not."""

    def __call__(
        self, truth: PartialLabels, scores: np.ndarray, known: PartialLabels | None = None
    ) -> Mapping[str, float | None]: ...


@dataclass(frozen=True, eq=False)
class Cell:
    """One training, and the stage that it is."""

    subject: Subject
    arm: CompletionArm
    proportion: float
    seed: int
    settings: CompletionSettings
    stage: Stage


class CompletionPlan(Pipeline):
    """What is to be run.

    Args:
        subjects: the datasets.
        arms: the rows of the table.
        base: the settings of all arms and datasets.

    Attributes:
        cells: every training, seed by seed.

    Raises:
        ConfigError: datasets of one name, or of the name of what lies beside theirs.
    """

    def __init__(
        self,
        subjects: Sequence[Subject],
        arms: Sequence[CompletionArm],
        proportions: Sequence[float],
        seeds: Sequence[int],
        out: Path,
        base: CompletionSettings,
    ) -> None:
        super().__init__(out, log="completion.log")
        check_names([subject.name for subject in subjects])
        self.subjects, self.arms = tuple(subjects), tuple(arms)
        self.proportions, self.seeds, self.base = tuple(proportions), tuple(seeds), base
        self._identities: dict[str, str] = {}
        self.cells = [
            self._cell(subject, arm, proportion, seed)
            for seed in seeds
            for subject in subjects
            for proportion in proportions
            for arm in arms
        ]
        for cell in self.cells:
            self.add(cell.stage)

    @property
    def cache(self) -> Path:
        """Where kept maps of the backbone lie, for all trainings."""
        return self.out / _FEATURES

    @cached_property
    def _inputs(self) -> dict[str, dict[str, str]]:
        return {
            s.name: {
                "train": s.train.fingerprint(),
                **({} if s.test is None else {"test": s.test.fingerprint()}),
            }
            for s in self.subjects
        }

    def _cell(self, subject: Subject, arm: CompletionArm, proportion: float, seed: int) -> Cell:
        settings = arm.settings(replace(self.base, **subject.changes), seed)
        if settings.backbone not in self._identities:
            self._identities[settings.backbone] = source_identity(settings.backbone)
        percent = f"{100 * proportion:g}"
        stage = Stage(
            f"{subject.name} {arm.name} {percent} % seed {seed}",
            self.out / subject.name / arm.name / f"known{percent}" / f"seed{seed}",
            settings={
                **settings.result_dict(),
                "held_back": settings.held_back,
                "backbone": self._identities[settings.backbone],
                "known": proportion,
            },
            inputs=self._inputs[subject.name],
        )
        return Cell(subject, arm, proportion, seed, settings, stage)


def check_names(names: Sequence[str]) -> None:
    """Whether each dataset can have a folder of its name.

    Raises:
        ConfigError: two share a name, or one is called as the folder of the kept maps.
    """
    for name in names:
        if names.count(name) > 1 or name == _FEATURES:
            what = f"two datasets are called {name!r}"
            if names.count(name) == 1:
                what = f"a dataset is called {name!r}, as the folder of the backbone's maps"
            raise ConfigError(what, remedy="Name one of them with --data NAME=PATH.")


def run_completion_plan(
    plan: CompletionPlan,
    trainer: Trainer,
    measure: Measure,
    runtime: Runtime,
    *,
    overwrite: bool = False,
    after_each: Callable[[], None] | None = None,
) -> None:
    """Run what is missing; the same call goes on after an interruption.

    Args:
        trainer: see `Trainer`.
        measure: see `Measure`.
        overwrite: redo trainings that were started with different settings or inputs.
        after_each: called whenever a training is finished.

    Raises:
        StageError: settings or inputs changed and ``overwrite`` is off.
        DataError: a dataset without a label to hide, or whose images cannot be read.
    """
    for subject in plan.subjects:
        if not subject.train.known.nnz:
            raise DataError(f"no label of {subject.name!r} is known", file=subject.train.root)
    plan.quiet = runtime.quiet
    for cell in plan.cells:
        cell.stage.work = partial(_train, plan, cell, trainer, measure, runtime)
    plan.run(
        overwrite=overwrite,
        busy="wait",
        after=None if after_each is None else lambda _: after_each(),
    )


def _train(
    plan: CompletionPlan,
    cell: Cell,
    trainer: Trainer,
    measure: Measure,
    runtime: Runtime,
    stage: Stage,
) -> Outputs:
    started = time.monotonic()
    full, test = cell.subject.train, cell.subject.test
    labels = hide(full, cell.proportion, cell.seed)
    model = stage.folder / _MODEL
    found = trainer(labels, test, cell.settings, model, plan.cache, runtime)
    truth = full.dense()
    hidden = np.where(labels.dense() == 0, truth, 0).astype(np.int8)
    tested = None if test is None else test.dense()
    metrics: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for variant, scored in found.items():
        found_hidden = dict(measure(full, scored.train, labels))
        entry: dict[str, Any] = {"unknown": found_hidden, "test": None}
        arrays[f"unknown{variant}"] = _resampled(hidden, scored.train)
        if test is not None and tested is not None and scored.test is not None:
            entry["test"] = dict(measure(test, scored.test))
            arrays[f"test{variant}"] = _resampled(tested, scored.test)
        metrics[variant] = entry
    atomic_write_json(
        stage.folder / METRICS_FILE,
        {
            "variants": metrics,
            "images": len(full),
            "test_images": 0 if test is None else len(test),
            "classes": full.num_classes,
            "known": int(labels.known.nnz),
            "hidden": int(np.count_nonzero(hidden)),
            "unreadable": sorted({p for scored in found.values() for p in scored.unreadable}),
            "seconds": round(time.monotonic() - started, 1),
        },
    )
    with atomic_path(stage.folder / RESAMPLES_FILE) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    shutil.rmtree(model, ignore_errors=True)  # megabytes that nothing reads again
    return {"metrics": METRICS_FILE, "resamples": RESAMPLES_FILE}


def _resampled(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """mAP of the images as they are and of each resample of them, float64 [1 + B]."""
    images = len(truth)
    return weighted_map(truth, scores, np.vstack([np.ones((1, images)), resamples(images)]))


def unreadable(plan: CompletionPlan) -> list[str]:
    """Where the images are that the finished trainings could not read."""
    found = [finished(cell) for cell in plan.cells]
    return sorted(
        {place for metrics in found if metrics for place in metrics.get("unreadable", [])}
    )


def finished(cell: Cell) -> dict[str, Any] | None:
    """What a training measured; None where it is not done."""
    if cell.stage.status() != "done":
        return None
    return json.loads((cell.stage.folder / METRICS_FILE).read_text(encoding="utf-8"))


def resampled_of(cell: Cell) -> dict[str, np.ndarray]:
    """mAP of the resamples of a finished training: ``test`` and ``unknown``, by variant.

    Raises:
        DataError: a damaged file.
    """
    file = cell.stage.folder / RESAMPLES_FILE
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # a cut zip, a missing array: all have one remedy
        raise DataError(
            f"is damaged: {error}",
            file=file,
            remedy="Delete its folder and run the comparison again; the rest is kept.",
        ) from error
