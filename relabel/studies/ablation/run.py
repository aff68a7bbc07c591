"""Plan and run an ablation: one stage per arm and seed, finished ones never redone.

The last cross-fitting fold of the target's own training images simulates a source (see
`relabel.studies.ablation.simulate`): its target pseudo-labels come from the specialist that
never saw the fold, and label transfer is trained without the fold. Seeds are done one after the
other, so that an ablation that is cut off has whole seeds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relabel.align.job import backbone_identities
from relabel.align.settings import stage_settings
from relabel.errors import DataError, Problems
from relabel.lat.settings import LatSettings
from relabel.settings import Runtime
from relabel.studies.ablation.arms import ARMS, LatArm
from relabel.studies.ablation.inputs import AlignRun, HeldBackFold, read_held_back
from relabel.workspace.atomic import atomic_write_json
from relabel.workspace.fingerprint import fingerprint
from relabel.workspace.pipeline import Pipeline
from relabel.workspace.stage import Outputs, Stage

if TYPE_CHECKING:
    from relabel.catalogue.catalogue import Catalogue

# One model on everything and scores as they are: an arm is a single training.
COMMON: dict[str, Any] = {"folds": 1}
METRICS_FILE = "metrics.json"
# Of these depends which regions are pooled and how; see `relabel.lat.bank`.
_REGIONS = (
    *("backbone", "image_size", "max_image_size", "feature_strides", "feature_channels"),
    *("precision", "max_images", "min_score"),
)


@dataclass(frozen=True, eq=False)
class Job:
    """One training: the arm, its settings with the seed, and its stage."""

    arm: LatArm
    seed: int
    settings: LatSettings
    stage: Stage
    bank: Path


class AblationPlan(Pipeline):
    """What is to be run.

    Args:
        run: the align workspace, then ``aligned``.
        simulated: the source that the held-back images simulate.
        base: the settings of all arms.
        arms: the arms asked for, the default among them.
        seeds: the seeds asked for.
        other_backbone: of the arm that takes one.

    Attributes:
        known: all arms that these settings can make.
        owner: for each known arm, the first arm of equal settings: its training is theirs too.
        baselines: the stage of what needs no training: the baselines and the measured convention.
        jobs: every training that is asked for, once, seed by seed.
    """

    def __init__(
        self,
        run: AlignRun,
        simulated: str,
        out: Path,
        base: LatSettings,
        arms: Sequence[LatArm],
        seeds: Sequence[int],
        other_backbone: str | None = None,
    ) -> None:
        super().__init__(out, lock="this ablation", log="ablation.log")
        self.aligned, self.simulated, self.base = run, simulated, base
        self.arms, self.seeds, self.other_backbone = arms, seeds, other_backbone
        self.known = [a for a in ARMS if not a.needs_backbone or other_backbone is not None]
        self.owner: dict[str, LatArm] = {}
        first: dict[str, LatArm] = {}
        for arm in self.known:
            key = fingerprint(arm.settings(base, other_backbone))
            self.owner[arm.name] = first.setdefault(key, arm)
        self.baselines = self.add(
            Stage(
                "baselines",
                out / "baselines",
                settings={"simulate": simulated, "folds": run.folds},
                inputs=run.inputs,
            )
        )
        asked = {self.owner[arm.name].name for arm in arms}
        self.jobs = [self.job(a, s) for s in seeds for a in self.known if a.name in asked]
        for job in self.jobs:
            self.add(job.stage)

    @cached_property
    def _backbones(self) -> dict[str, str]:
        return backbone_identities(self.base.backbone, self.other_backbone or "")

    def job(self, arm: LatArm, seed: int) -> Job:
        """The training that an arm's numbers come from."""
        owner = self.owner[arm.name]
        settings = replace(owner.settings(self.base, self.other_backbone), seed=seed)
        values = stage_settings(settings, self._backbones)
        stage = Stage(
            f"{owner.name} seed {seed}",
            self.out / "arms" / owner.name / f"seed{seed}",
            settings={**values, "simulate": self.simulated, "folds": self.aligned.folds},
            inputs=self.aligned.inputs,
        )
        regions = [values[name] for name in _REGIONS]
        regions += [settings.has("simulated-source"), settings.has("places")]
        if not settings.has("crossfit"):
            regions += ["annotations", values["seed"]]  # jittered copies are drawn
        return Job(owner, seed, settings, stage, self.out / "banks" / fingerprint(regions)[:12])

    def check(self, stages: Sequence[Stage]) -> None:
        """Raise DataError if the specialist is gone whose backbone a training takes."""
        folder = self.aligned.specialist
        jobs = [job for job in self.jobs if job.stage in stages]
        wanted = any(job.settings.backbone == "specialist" for job in jobs)
        if wanted and not (folder / "config.json").is_file():
            raise DataError(
                "the specialist whose backbone is used is not there",
                file=folder,
                remedy="Run `relabel align` again, or name a backbone: --set lat.backbone=NAME.",
            )


def run_ablation(
    plan: AblationPlan,
    catalogue: Catalogue,
    runtime: Runtime,
    *,
    overwrite: bool = False,
    problems: Problems,
    after_each: Callable[[], None],
) -> None:
    """Run what is missing; the same call goes on after an interruption.

    Args:
        overwrite: redo stages that were started with different settings or inputs.
        after_each: called whenever a stage is finished.

    Raises:
        StageError: settings or inputs changed and ``overwrite`` is off, or another process works
            in the folder.
        DataError: the datasets are not those of the workspace, or its specialist is gone.
    """
    work = _Work(plan, catalogue, runtime, problems)
    plan.quiet = runtime.quiet
    plan.baselines.work = work.baselines
    for job in plan.jobs:
        job.stage.work = partial(work.train, job)

    def after(_: Stage) -> None:
        left = [job for job in plan.jobs if plan.status[job.stage.name] != "done"]
        for bank in {job.bank for job in plan.jobs} - {job.bank for job in left}:
            shutil.rmtree(bank, ignore_errors=True)
        after_each()

    plan.run(overwrite=overwrite, after=after)
    shutil.rmtree(plan.out / "banks", ignore_errors=True)


@dataclass(frozen=True, eq=False)
class _Work:
    """What is done in the stages, over images and labels that are read once."""

    plan: AblationPlan
    catalogue: Catalogue
    runtime: Runtime
    problems: Problems

    @cached_property
    def fold(self) -> HeldBackFold:
        run, simulated = self.plan.aligned, self.plan.simulated
        return read_held_back(run, simulated, self.catalogue, self.runtime, self.problems)

    def baselines(self, stage: Stage) -> None:
        from relabel.evaluation.baselines import all_baselines
        from relabel.evaluation.transfer import evaluate_transfer

        fold = self.fold
        baselines = all_baselines(fold.simulated, fold.hidden[self.plan.aligned.target])
        content = {
            "images": len(fold.truth),
            "boxes": int((~fold.truth.boxes.ignore).sum()),
            "convention": fold.convention.to_dict(),
            "baselines": {
                name: evaluate_transfer(fold.truth, baseline, fold.simulated).to_dict()
                for name, baseline in baselines.items()
            },
        }
        atomic_write_json(stage.folder / METRICS_FILE, content)

    def train(self, job: Job, stage: Stage) -> Outputs:
        from relabel.evaluation.transfer import evaluate_transfer
        from relabel.lat.train import train_lat
        from relabel.lat.transfer import transfer

        folder, fold, aligned = stage.folder, self.fold, self.plan.aligned
        model, moved = folder / "lat", folder / "moved"
        log, kept = model / "training.json", folder / "training.json"
        if not kept.is_file():  # else it was cut off while clearing away
            if not log.is_file():
                train_lat(
                    fold.data,
                    fold.training,
                    aligned.target,
                    model,
                    job.settings,
                    self.runtime,
                    specialists={aligned.target: aligned.specialist},
                    bank_folder=job.bank,
                )
            found, _ = transfer(model, fold.simulated, fold.hidden, moved, self.runtime)
            metrics = evaluate_transfer(fold.truth, found, fold.simulated)
            atomic_write_json(folder / METRICS_FILE, metrics.to_dict())
            log.replace(kept)
        for left in (model, moved):  # tens of megabytes that nothing reads again
            shutil.rmtree(left, ignore_errors=True)
        return {"metrics": METRICS_FILE, "training": kept.name}


def metrics_of(plan: AblationPlan, arm: LatArm) -> dict[int, dict[str, Any]]:
    """`TransferMetrics` as a dict by seed, of every seed of an arm that is finished."""
    found = {}
    folder = plan.out / "arms" / plan.owner[arm.name].name
    numbers = (p.name.removeprefix("seed") for p in folder.glob("seed*"))
    for seed in sorted(int(n) for n in numbers if n.isdigit()):
        if metrics := finished_metrics(plan.job(arm, seed).stage):
            found[seed] = metrics
    return found


def finished_metrics(stage: Stage) -> dict[str, Any]:
    """What a stage measured; nothing where it is not done."""
    if stage.status() != "done":
        return {}
    return json.loads((stage.folder / METRICS_FILE).read_text(encoding="utf-8"))
