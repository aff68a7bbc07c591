"""Plan and run an ablation: one stage per arm and seed, finished ones never redone.

The last cross-fitting fold of the target's own training images simulates a source (see
`relabel.studies.ablation.simulate`): its target pseudo-labels come from the specialist that
never saw the fold, and label transfer is trained without the fold. Seeds are done one after the
other, so that an ablation that is cut off has whole seeds.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
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
from relabel.workspace.lock import FolderLock
from relabel.workspace.progress import message
from relabel.workspace.stage import Stage

if TYPE_CHECKING:
    from relabel.catalogue.catalogue import Catalogue

# One model on everything and one threshold for all classes: an arm is a single training.
COMMON: dict[str, Any] = {
    "calibration_folds": 1,
    "score_threshold": 0.4,
    "match_coverage": False,
}
METRICS_FILE = "metrics.json"
LOG_FILE = "ablation.log"
# Of these depends which regions are pooled and how; see `relabel.lat.bank`.
_REGIONS = (
    *("backbone", "image_size", "max_image_size", "feature_strides", "feature_channels"),
    *("pool_size", "precision", "max_images", "min_score", "max_per_space"),
)
_ANNOTATED_REGIONS = ("jitter", "jitter_variants", "seed")


@dataclass(frozen=True, eq=False)
class Job:
    """One training: the arm, its settings with the seed, and its stage."""

    arm: LatArm
    seed: int
    settings: LatSettings
    stage: Stage
    bank: Path


@dataclass(frozen=True, eq=False)
class AblationPlan:
    """What is to be run.

    Attributes:
        played: the source that the held-back images simulate.
        base: the settings of all arms.
        arms: the arms asked for, the default among them.
        seeds: the seeds asked for.
        other_backbone: of the arm that takes one.
    """

    run: AlignRun
    played: str
    out: Path
    base: LatSettings
    arms: tuple[LatArm, ...]
    seeds: tuple[int, ...]
    other_backbone: str | None = None

    @cached_property
    def known(self) -> tuple[LatArm, ...]:
        """All arms that these settings can make."""
        return tuple(a for a in ARMS if not a.needs_backbone or self.other_backbone is not None)

    @cached_property
    def owner(self) -> dict[str, LatArm]:
        """For each known arm, the first arm of equal settings: its training is theirs too."""
        first: dict[str, LatArm] = {}
        owners = {}
        for arm in self.known:
            key = fingerprint(arm.settings(self.base, self.other_backbone))
            owners[arm.name] = first.setdefault(key, arm)
        return owners

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
            settings={**values, "as": self.played, "folds": self.run.folds},
            inputs=self.run.inputs,
        )
        regions = [values[name] for name in _REGIONS]
        if settings.own_rows == "gt":
            regions += [values[name] for name in _ANNOTATED_REGIONS]
        return Job(owner, seed, settings, stage, self.out / "banks" / fingerprint(regions)[:12])

    @cached_property
    def jobs(self) -> list[Job]:
        """Every training that is asked for, once, seed by seed."""
        owners = dict.fromkeys(self.owner[arm.name].name for arm in self.arms)
        arms = [arm for arm in self.known if arm.name in owners]
        return [self.job(arm, seed) for seed in self.seeds for arm in arms]

    @cached_property
    def floors(self) -> Stage:
        """The stage of what needs no training: the floors and the measured convention."""
        return Stage(
            "floors",
            self.out / "floors",
            settings={"as": self.played, "folds": self.run.folds},
            inputs=self.run.inputs,
        )


def to_run(plan: AblationPlan) -> list[Job]:
    """The trainings that are not done."""
    return [job for job in plan.jobs if job.stage.status() != "done"]


def execute(
    plan: AblationPlan,
    catalogue: Catalogue,
    runtime: Runtime,
    *,
    overwrite: bool = False,
    problems: Problems | None = None,
    after_each: Callable[[], None] | None = None,
) -> list[str]:
    """Run what is missing; the same call goes on after an interruption.

    Args:
        overwrite: redo stages that were started with different settings or inputs.
        after_each: called whenever a stage is finished.

    Returns:
        The names of the stages that were run.

    Raises:
        StageError: settings or inputs changed and ``overwrite`` is off, or another process works
            in the folder.
        DataError: the datasets are not those of the workspace, or its specialist is gone.
    """
    jobs = to_run(plan)
    stages = [job.stage for job in jobs]
    if plan.floors.status() != "done":
        stages.insert(0, plan.floors)
    if not overwrite:
        for stage in stages:
            if stage.status() == "changed":
                raise stage.changed_error()
    if not stages:
        return []
    _require_specialist(plan, jobs)
    plan.out.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(plan.out, "this ablation")
    lock.acquire()
    try:
        problems = Problems(runtime.skip_bad) if problems is None else problems
        fold = read_held_back(plan.run, plan.played, catalogue, runtime, problems)
        if stages[0] is plan.floors:
            _run_stage(plan.floors, lambda: _score_floors(plan, fold))
        for number, job in enumerate(jobs):
            message(f"[{number + 1}/{len(jobs)}] {job.stage.name}", quiet=runtime.quiet)
            started = time.monotonic()
            _run_stage(job.stage, lambda job=job: _run_job(plan, job, fold, runtime))
            _log(plan.out, job.stage.name, time.monotonic() - started)
            if job.bank not in {later.bank for later in jobs[number + 1 :]}:
                shutil.rmtree(job.bank, ignore_errors=True)
            if after_each is not None:
                after_each()
        shutil.rmtree(plan.out / "banks", ignore_errors=True)
    finally:
        lock.release()
    return [stage.name for stage in stages]


def _require_specialist(plan: AblationPlan, jobs: Sequence[Job]) -> None:
    folder = plan.run.specialist
    wanted = any(job.settings.backbone == "specialist" for job in jobs)
    if wanted and not (folder / "config.json").is_file():
        raise DataError(
            "the specialist whose backbone is used is not there",
            file=folder,
            remedy="Run `relabel align` again, or name a backbone: --set lat.backbone=NAME.",
        )


def _run_stage(stage: Stage, work: Callable[[], dict[str, str | Path]]) -> None:
    stage.begin(overwrite=stage.status() == "changed")
    try:
        stage.finish(work())
    finally:
        stage.release()


def _score_floors(plan: AblationPlan, fold: HeldBackFold) -> dict[str, str | Path]:
    from relabel.evaluation.floors import all_floors
    from relabel.evaluation.transfer import evaluate_transfer

    floors = all_floors(fold.played, fold.hidden[plan.run.target])
    content = {
        "images": len(fold.truth),
        "boxes": int((~fold.truth.boxes.ignore).sum()),
        "convention": fold.convention.to_dict(),
        "floors": {
            name: evaluate_transfer(fold.truth, floor, fold.played).to_dict()
            for name, floor in floors.items()
        },
    }
    atomic_write_json(plan.floors.folder / METRICS_FILE, content)
    return {"metrics": METRICS_FILE}


def _run_job(
    plan: AblationPlan, job: Job, fold: HeldBackFold, runtime: Runtime
) -> dict[str, str | Path]:
    from relabel.evaluation.transfer import evaluate_transfer
    from relabel.lat.train import train_lat
    from relabel.lat.transfer import SCORED, transfer

    folder = job.stage.folder
    model, moved = folder / "lat", folder / "moved"
    log, kept = model / "training.json", folder / "training.json"
    if kept.is_file():  # cut off while clearing away
        return _clear(folder)
    if not log.is_file():
        train_lat(
            fold.data,
            fold.training,
            plan.run.target,
            model,
            job.settings,
            runtime,
            specialists={plan.run.target: plan.run.specialist},
            bank_folder=job.bank,
        )
    found = transfer(model, fold.played, fold.hidden, moved, job.settings, runtime)
    scored = json.loads((moved / SCORED).read_text(encoding="utf-8"))
    metrics = evaluate_transfer(fold.truth, found, fold.played, scored)
    atomic_write_json(folder / METRICS_FILE, metrics.to_dict())
    log.replace(kept)
    return _clear(folder)


def _clear(folder: Path) -> dict[str, str | Path]:
    """Drop the model and its predictions: tens of megabytes that nothing reads again."""
    for name in ("lat", "moved"):
        shutil.rmtree(folder / name, ignore_errors=True)
    return {"metrics": METRICS_FILE, "training": "training.json"}


def _log(out: Path, name: str, seconds: float) -> None:
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "stage": name, "seconds": round(seconds)}
    with (out / LOG_FILE).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def metrics_of(plan: AblationPlan, arm: LatArm) -> dict[int, dict[str, Any]]:
    """`TransferMetrics` as a dict by seed, of every seed of an arm that is finished."""
    found = {}
    folder = plan.out / "arms" / plan.owner[arm.name].name
    numbers = (p.name.removeprefix("seed") for p in folder.glob("seed*"))
    for seed in sorted(int(n) for n in numbers if n.isdigit()):
        stage = plan.job(arm, seed).stage
        if stage.status() == "done":
            found[seed] = json.loads((stage.folder / METRICS_FILE).read_text(encoding="utf-8"))
    return found


def floor_metrics(plan: AblationPlan) -> dict[str, Any] | None:
    """What the floors' stage wrote, or None."""
    if plan.floors.status() != "done":
        return None
    return json.loads((plan.floors.folder / METRICS_FILE).read_text(encoding="utf-8"))
