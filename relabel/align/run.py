"""`relabel align`: read the datasets, plan, run what is missing, write the result."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relabel.align.inputs import read_training_set
from relabel.align.plan import Plan, Step, folds_of, make_plan
from relabel.align.settings import PipelineSettings
from relabel.errors import ConfigError, DataError, Problems, StageError
from relabel.lat.folds import Fold, folds
from relabel.settings import Runtime
from relabel.workspace.fingerprint import fingerprint
from relabel.workspace.lock import FolderLock
from relabel.workspace.progress import message

if TYPE_CHECKING:
    from relabel.catalogue.catalogue import Catalogue
    from relabel.crosslabel.pseudo import PseudoLabels

LOG_FILE = "align.log"


@dataclass(frozen=True)
class AlignResult:
    """Where the result lies.

    Attributes:
        folder: the ``result`` folder.
        annotations: the relabelled COCO file of each source.
        merged: target and sources in one COCO file.
        ran: titles of the stages that this run had to do.
    """

    folder: Path
    annotations: dict[str, Path]
    merged: Path
    ran: tuple[str, ...]


def prepare(
    catalogue: Catalogue,
    target: str,
    sources: Sequence[str],
    out: Path,
    settings: PipelineSettings,
    runtime: Runtime,
    *,
    shared: Path | None = None,
    problems: Problems | None = None,
) -> Plan:
    """Read the training images of target and sources, and plan.

    Args:
        shared: the folder of specialists and cross-labels, for several targets; see `make_plan`.

    Raises:
        ConfigError: no source, a dataset named twice or like a labeller, or an unknown name.
        DataError: a dataset's files are missing or damaged, or too few for cross-fitting.
        StageError: the workspace holds a damaged manifest.
    """
    if not sources:
        raise ConfigError("no sources to relabel", remedy="Name them with --sources a,b.")
    names = [target, *sources]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"dataset {name!r} is named twice",
                remedy="The target is not a source, and every source is named once.",
            )
        if name in settings.align.labellers:
            raise ConfigError(
                f"{name!r} is both a dataset and a labeller",
                remedy="Give the dataset another name in relabel.toml.",
            )
    problems = Problems(runtime.skip_bad) if problems is None else problems
    entries = [catalogue.get(name) for name in names]
    work = shared or out
    datasets = {e.name: read_training_set(e, work, runtime, problems) for e in entries}
    for name in names:
        k = folds_of(settings, target, name)
        if k:
            folds(datasets[name], k)  # too few images: say so before training
    return make_plan(target, sources, datasets, out, settings, shared=shared)


def align(
    catalogue: Catalogue,
    target: str,
    sources: Sequence[str],
    out: Path,
    settings: PipelineSettings,
    runtime: Runtime,
    *,
    shared: Path | None = None,
    overwrite: bool = False,
    problems: Problems | None = None,
) -> AlignResult:
    """The whole job. Finished stages are reused, a stage that was cut off is resumed.

    Args:
        catalogue: names the datasets.
        target: the dataset whose label space is the goal.
        sources: the datasets to relabel.
        out: the workspace folder.
        shared: the folder of specialists and cross-labels, for several targets; see `make_plan`.
        overwrite: redo stages whose settings or inputs changed, and what depends on them.

    Raises:
        ConfigError, DataError: see `prepare`.
        StageError: settings changed and ``overwrite`` is off, or another process works in ``out``.
    """
    plan = prepare(
        catalogue, target, sources, out, settings, runtime, shared=shared, problems=problems
    )
    return execute(plan, catalogue, runtime, overwrite=overwrite)


def execute(
    plan: Plan,
    catalogue: Catalogue,
    runtime: Runtime,
    *,
    overwrite: bool = False,
    goals: Sequence[Step] | None = None,
) -> AlignResult:
    """Run a plan's missing steps: all of them, or those that ``goals`` depend on.

    Raises:
        StageError: settings changed and ``overwrite`` is off.
        BusyError: another process works in the workspace or on what it shares.
        DataError: a labeller's weights are not available; raised before anything runs.
    """
    steps = plan.to_run if goals is None else plan.needed_for(goals)
    if not overwrite:
        plan.refuse_changes(steps)
    ran: tuple[str, ...] = ()
    if steps:
        _require_labellers(plan, steps)
        plan.out.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(plan.out, "this workspace")
        lock.acquire()
        try:
            ran = _run_steps(plan, steps, catalogue, runtime, overwrite)
        finally:
            lock.release()
    folder = plan.out / "result"
    return AlignResult(
        folder=folder,
        annotations={s: folder / s / "annotations.json" for s in plan.sources},
        merged=folder / "merged.json",
        ran=ran,
    )


def _require_labellers(plan: Plan, steps: Sequence[Step]) -> None:
    """Say before hours of training that a labeller's weights are missing."""
    if any(step.by in plan.labellers for step in steps):
        from relabel.detectors.sam3.detector import why_unavailable

        reason = why_unavailable(plan.settings.sam3.model)
        if reason is not None:
            raise DataError(reason)


def _run_steps(
    plan: Plan, steps: list[Step], catalogue: Catalogue, runtime: Runtime, overwrite: bool
) -> tuple[str, ...]:
    """Run the steps in order; returns the titles of those that another process had not done.

    A folder that is shared with other plans is locked while its steps are run, not longer, so
    that the transfers into several targets can run side by side.
    """
    job = _Job(plan, catalogue, runtime)
    shared = [step for step in steps if plan.is_shared(step)]
    lock = FolderLock(plan.shared, "the shared specialists and labels")
    ran: list[str] = []
    try:
        for number, step in enumerate(steps, start=1):
            if step in shared:
                plan.shared.mkdir(parents=True, exist_ok=True)
                lock.acquire()
                plan.status[step.title] = step.stage.status()
                if plan.status[step.title] == "done":
                    continue
            else:
                lock.release()
                _require_shared(plan, step)
            _run_step(plan, step, job, f"[{number}/{len(steps)}]", overwrite)
            ran.append(step.title)
    finally:
        lock.release()
    return tuple(ran)


def _require_shared(plan: Plan, step: Step) -> None:
    """Another plan may have redone, with --overwrite, what this one made."""
    for need in step.needs:
        if plan.is_shared(need) and need.stage.status() != "done":
            raise StageError(
                f"stage {need.title!r} was changed by another process",
                file=need.stage.folder,
                remedy="Give both the same settings, or do not share the folder.",
            )


def _run_step(plan: Plan, step: Step, job: _Job, place: str, overwrite: bool) -> None:
    status = plan.status[step.title]
    how = {"partial": "resuming", "changed": "redoing"}.get(status, "running")
    message(f"{place} {how} {step.title}", quiet=job.runtime.quiet)
    started = time.monotonic()
    _log(plan.out, step.title, how)
    step.stage.begin(overwrite=overwrite and status == "changed")
    try:
        step.stage.finish(job.run(step))
    finally:
        step.stage.release()
    plan.status[step.title] = "done"
    _log(plan.out, step.title, "done", seconds=round(time.monotonic() - started, 2))


def _log(out: Path, title: str, event: str, **more: Any) -> None:
    """Times go to a log of their own: the result's files are the same in every run."""
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "stage": title, "event": event, **more}
    with (out / LOG_FILE).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


class _Job:
    """Runs single steps. Models and torch are imported by the steps that need them."""

    def __init__(self, plan: Plan, catalogue: Catalogue, runtime: Runtime) -> None:
        self.plan = plan
        self.catalogue = catalogue
        self.runtime = runtime
        self._labels: dict[tuple[str, str], PseudoLabels] = {}

    def run(self, step: Step) -> dict[str, str | Path]:
        """Do a step; returns its outputs by name."""
        work: dict[str, Callable[[Step], dict[str, str | Path]]] = {
            "specialist": self._specialist,
            "fold": self._fold,
            "crosslabel": self._cross_label,
            "crossfit": self._crossfit,
            "lat": self._lat,
            "transfer": self._transfer,
            "result": self._result,
        }
        return work[step.kind](step)

    def _specialist(self, step: Step) -> dict[str, str | Path]:
        from relabel.detectors.specialist import train_specialist
        from relabel.evaluation.detector import validator

        entry = self.catalogue.get(step.by)
        val = entry.read("val") if entry.has("val") else None
        train_specialist(
            self.plan.datasets[step.by],
            step.stage.folder,
            self.plan.settings.specialist,
            self.runtime,
            validate=validator(val, self.runtime),
        )
        return files_in(step.stage.folder)

    def _fold(self, step: Step) -> dict[str, str | Path]:
        from relabel.detectors.specialist import train_specialist

        rest = self.plan.datasets[step.by].subset(self._folds(step.by)[step.fold].rest)
        train_specialist(rest, step.stage.folder, self.plan.settings.specialist, self.runtime)
        return files_in(step.stage.folder)

    def _cross_label(self, step: Step) -> dict[str, str | Path]:
        if step.by in self.plan.labellers:
            return self._prompted(step)
        from relabel.crosslabel.label import cross_label

        folders = [need.stage.folder for need in step.needs]
        detector, model = None, None
        if len(folders) > 1:
            from relabel.crosslabel.ensemble import EnsembleDetector

            detector = EnsembleDetector.load(folders, self.runtime.device)
            model = fingerprint([need.stage.fingerprint for need in step.needs])
        cross_label(
            folders[0],
            self.plan.datasets[step.on],
            step.stage.folder,
            self.plan.settings.crosslabel,
            self.runtime,
            detector=detector,
            model=model,
        )
        return files_in(step.stage.folder)

    def _prompted(self, step: Step) -> dict[str, str | Path]:
        from relabel.crosslabel.prompted import cross_label_sam3

        plan = self.plan
        cross_label_sam3(
            plan.datasets[plan.target].space,
            plan.datasets[step.on],
            step.stage.folder,
            plan.settings.crosslabel,
            self.runtime,
            sam3=plan.settings.sam3,
        )
        return files_in(step.stage.folder)

    def _crossfit(self, step: Step) -> dict[str, str | Path]:
        """Every image is labelled by the specialist that was trained without its fold."""
        from relabel.crosslabel.label import cross_label

        folds = self._folds(step.by)
        for fold in step.needs:
            cross_label(
                fold.stage.folder,
                self.plan.datasets[step.on],
                step.stage.folder / f"fold{fold.fold}",
                self.plan.settings.crosslabel,
                self.runtime,
                image_rows=folds[fold.fold].held_out,
            )
        return {f"fold{s.fold}": f"fold{s.fold}" for s in step.needs}

    def _lat(self, step: Step) -> dict[str, str | Path]:
        from relabel.lat.train import train_lat

        plan = self.plan
        names = list(plan.datasets)
        train_lat(
            dict(plan.datasets),
            {key: self.labels(*key) for key in self._label_keys()},
            plan.target,
            step.stage.folder,
            plan.settings.lat,
            self.runtime,
            specialists={n: plan.step("specialist", by=n).stage.folder for n in names},
            labellers=dict.fromkeys(plan.labellers, plan.datasets[plan.target].space),
        )
        return files_in(step.stage.folder)

    def _transfer(self, step: Step) -> dict[str, str | Path]:
        from relabel.align.store import write_transferred
        from relabel.lat.transfer import transfer

        plan = self.plan
        moved = transfer(
            plan.step("lat").stage.folder,
            plan.datasets[step.on],
            self.labels_on(step.on),
            step.stage.folder,
            plan.settings.lat,
            self.runtime,
            with_uncertain=True,
        )
        sure = None
        if plan.settings.lat.sure > 0:
            from relabel.lat.checkpoint import sure_scores

            sure = sure_scores(plan.step("lat").stage.folder, plan.settings.lat.sure)
        return dict(write_transferred(moved, step.stage.folder, sure=sure))

    def _result(self, step: Step) -> dict[str, str | Path]:
        from relabel.align.export import SourceResult, write_result
        from relabel.align.store import read_transferred

        plan = self.plan
        space = plan.datasets[plan.target].space
        results = [
            SourceResult(
                plan.datasets[source],
                read_transferred(
                    plan.step("transfer", on=source).stage.folder, plan.datasets[source], space
                ),
                self.labels_on(source),
            )
            for source in plan.sources
        ]
        return write_result(plan, results, step.stage.folder, quiet=self.runtime.quiet)

    def _folds(self, name: str) -> list[Fold]:
        lat = self.plan.settings.lat
        return folds(
            self.plan.datasets[name],
            lat.crossfit_folds,
            stretches=lat.crossfit_stretches,
            gap=lat.crossfit_gap,
        )

    def _label_keys(self) -> list[tuple[str, str]]:
        return [(s.by, s.on) for s in self.plan.steps if s.kind in ("crosslabel", "crossfit")]

    def labels_on(self, on: str) -> dict[str, PseudoLabels]:
        """Pseudo-labels on a dataset by every other dataset's specialist and every labeller."""
        return {by: self.labels(by, on) for by, o in self._label_keys() if o == on and by != on}

    def labels(self, by: str, on: str) -> PseudoLabels:
        if (by, on) not in self._labels:
            self._labels[by, on] = stage_labels(self.plan, by, on)
        return self._labels[by, on]


def stage_labels(plan: Plan, by: str, on: str) -> PseudoLabels:
    """The pseudo-labels a finished stage left: held-out ones of all folds where both are one."""
    from relabel.crosslabel.pseudo import merge_pseudo_labels
    from relabel.crosslabel.shards import read_pseudo_labels

    if by == on:
        step = plan.step("crossfit", by=by, on=on)
        folders = [step.stage.folder / f"fold{s.fold}" for s in step.needs]
        return merge_pseudo_labels([read_pseudo_labels(f) for f in folders])
    return read_pseudo_labels(plan.step("crosslabel", by=by, on=on).stage.folder)


def files_in(folder: Path) -> dict[str, str | Path]:
    """The visible files and folders a stage left, by name, without the stage's own manifest."""
    return {
        path.name: path.name
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and path.name != "stage.json"
    }
