"""`relabel imagenet-multilabel`: what is done in each stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from relabel.multilabel.plan import MultilabelPlan
from relabel.multilabel.scores.label_maps import LabelMapFolder
from relabel.multilabel.settings import PROBE
from relabel.multilabel.store import read_labels, read_regions, read_scores
from relabel.multilabel.work import ShardWork
from relabel.settings import Runtime
from relabel.workspace.clock import Clock, record
from relabel.workspace.engine import Make, make_shards, workers
from relabel.workspace.estimate import Forecast, measured
from relabel.workspace.mirror import pull
from relabel.workspace.parts import WorkerShare, pending
from relabel.workspace.pipeline import Outcome
from relabel.workspace.progress import message
from relabel.workspace.stage import Outputs, Stage

OpenWork = Callable[[Runtime], Callable[[ShardWork], None]]
_PATIENCE = 60.0  # seconds that a process waits while another one trains the probe


def run_plan(
    plan: MultilabelPlan,
    runtime: Runtime,
    *,
    part: WorkerShare | None = None,
    overwrite: bool = False,
    goals: Sequence[Stage] | None = None,
) -> Outcome:
    """Run what is missing, this process's part of it.

    Every process of a run does its shards of a stage; the next stage starts once all shards are
    there, so the last process to finish goes on, and the others end with `Outcome.waits_for`.
    What is not made of shards is done by one of the parts; the others come back later.

    Args:
        goals: what is to be there, see `Pipeline.run`.

    Raises:
        StageError: a stage was started with different settings and ``overwrite`` is not given.
        ConfigError, DataError: see the stages.
    """
    part = part or WorkerShare()
    plan.quiet = runtime.quiet
    work = _Work(plan, runtime, part)
    for name, stage in plan.stages.items():
        stage.work = work
        stage.shards = plan.shards(name) if name in ("regions", "scores", "labels") else None
    return plan.run(goals, overwrite=overwrite, busy="refuse" if part.count == 1 else "leave")


def forecast(
    plan: MultilabelPlan,
    runtime: Runtime,
    *,
    part: WorkerShare | None = None,
    overwrite: bool = False,
) -> Forecast:
    """What is left of regions and scores, this process's part of it, from a sample of images.

    Later stages read what these write and take little beside them. The probe's scores, for which
    a sample may have no labels, do so too.

    Raises:
        StageError: settings changed and ``overwrite`` is not given.
        ConfigError, DataError: see the stages.
    """
    from relabel.training.loop import resolve_device

    part = part or WorkerShare()
    stages = plan.to_run()
    for stage in stages:
        if stage.needs_overwrite and not overwrite:
            raise stage.changed_error()
    plan.check(stages)
    team = workers(runtime, resolve_device(runtime.device).type)
    quiet, settings = replace(runtime, quiet=True), plan.settings
    goal = "regions" if plan.maps is None and settings.maps.classifier == PROBE else "scores"
    todo = {
        name: _left(plan, name, part) for name in ("regions", goal) if plan.stages[name] in stages
    }
    slowest = max(todo.values(), key=len, default=[])

    def make(rows: np.ndarray, out: Path) -> None:
        maskcut = replace(settings.maskcut, shard_images=math.ceil(len(rows) / team.count))
        few = replace(settings, maskcut=maskcut)
        sample = MultilabelPlan(plan.images.select(rows), out / "sample", few, plan.maps)
        run_plan(sample, quiet, goals=[sample.stages[goal]])

    shards = plan.shards("regions")
    return measured(
        make,
        total=len(plan.images),
        images=sum(len(shards.items(i)) for i in slowest),
        shards=sum(map(len, todo.values())),
        out=plan.out,
        workers=team,
    )


def _left(plan: MultilabelPlan, name: str, part: WorkerShare) -> list[int]:
    shards, changed = plan.shards(name), plan.status[name] == "changed"
    missing = range(len(shards)) if changed else shards.missing()
    return [i for i in missing if part.has(i)]


class _Work:
    """One method per stage."""

    def __init__(self, plan: MultilabelPlan, runtime: Runtime, part: WorkerShare) -> None:
        self.plan, self.runtime, self.part = plan, runtime, part
        self.clock = Clock()

    def __call__(self, stage: Stage) -> Outputs | None:
        self.clock = Clock()
        outputs = getattr(self, stage.name)(stage)
        record(self.plan.out, stage.name, self.clock)
        return outputs

    def _pending(self, stage: Stage, readable: Callable[[Path], object]) -> list[int]:
        """Numbers of the shards that this process has to make."""
        shards = self.plan.shards(stage.name)
        return pending(shards, self.part, readable, quiet=self.runtime.quiet)

    def _make(self, stage: Stage, title: str, todo: Sequence[int], open: OpenWork) -> None:
        """Make shards, here or on the engine.

        Args:
            open: loads the model; what it returns makes the shards of a `ShardWork`.
        """
        plan, shards = self.plan, self.plan.shards(stage.name)
        run = {"stage": stage.fingerprint, "settings": stage.settings}
        images, regions = plan.images, plan.shards("regions")

        def open_shards(runtime: Runtime) -> Make[tuple[dict[str, float], int]]:
            work_on = open(runtime)

            def make(todo: Sequence[int]) -> Iterator[tuple[dict[str, float], int]]:
                clock = Clock()
                work_on(ShardWork(images, regions, shards, todo, run, runtime, clock))
                yield clock.seconds, clock.images
                yield from [({}, 0)] * (len(todo) - 1)

            return make

        alone = self.part.count == 1
        made = make_shards(open_shards, shards, todo, self.runtime, title=title, alone=alone)
        for seconds, done in made:
            self.clock.add(seconds, done)

    def regions(self, stage: Stage) -> None:
        settings = self.plan.settings.maskcut

        def open(runtime: Runtime) -> Callable[[ShardWork], None]:
            from relabel.multilabel.regions.features import PatchFeatures
            from relabel.multilabel.regions.stage import find_regions
            from relabel.training.loop import resolve_device

            extractor = PatchFeatures.create(settings, resolve_device(runtime.device))
            return lambda work: find_regions(work, extractor, settings)

        self._make(stage, "Finding regions", self._pending(stage, read_regions), open)

    def scores(self, stage: Stage) -> None:
        from relabel.multilabel.scores import stage as scores

        todo = self._pending(stage, read_scores)
        if not todo:
            return
        plan, settings = self.plan, self.plan.settings.maps
        images, maskcut = plan.images, plan.settings.maskcut
        if plan.maps is not None:
            maps = LabelMapFolder(plan.maps)
            scores.check_axes(
                images, plan.shards("regions"), maps, settings, quiet=self.runtime.quiet
            )

            def open(runtime: Runtime) -> Callable[[ShardWork], None]:
                return lambda work: scores.score_with_maps(work, maps, settings)

        elif settings.classifier == PROBE:
            folder = self._probe(stage)

            def open(runtime: Runtime) -> Callable[[ShardWork], None]:
                from relabel.multilabel.scores.probe import Probe

                pull(folder)  # a worker on another node may not have it
                probe = Probe.load(folder)
                return lambda work: scores.score_with_probe(work, probe)

        else:

            def open(runtime: Runtime) -> Callable[[ShardWork], None]:
                from relabel.multilabel.scores.dense import DenseClassifier
                from relabel.training.loop import resolve_device

                maker = DenseClassifier.create(
                    settings.classifier,
                    settings,
                    resolve_device(runtime.device),
                    images.num_classes,
                    class_keys=images.class_keys,
                    precision=maskcut.precision,
                )
                return lambda work: scores.score_with_classifier(work, maker, maskcut.batch_size)

        self._make(stage, "Scoring regions", todo, open)

    def _probe(self, stage: Stage) -> Path:
        """Trained once; other processes find it there."""
        from relabel.multilabel.scores.stage import fit_probe

        folder = stage.folder / PROBE
        with stage.locked(patience=_PATIENCE):
            if not (folder / "probe.json").is_file():
                folder.mkdir(exist_ok=True)
                seed = self.plan.settings.region_classifier.seed
                fit_probe(self.plan.images, self.plan.shards("regions"), seed).save(folder)
        return folder

    def region_classifier(self, stage: Stage) -> Outputs:
        from relabel.multilabel.labels.stage import fit_region_classifier

        found = fit_region_classifier(self.plan, stage.folder, self.runtime, self.clock)
        message(
            f"region classifier: learned from {found['unions_selected']} of "
            f"{found['regions_before_filter']} regions, held-out accuracy "
            f"{_percent(found.get('val_accuracy'))}",
            quiet=self.runtime.quiet,
        )
        return {p.name: p.name for p in sorted(stage.folder.iterdir()) if _is_output(p)}

    def labels(self, stage: Stage) -> None:
        folder = self.plan.stages["region_classifier"].folder
        settings = self.plan.settings.aggregate

        def open(runtime: Runtime) -> Callable[[ShardWork], None]:
            from relabel.multilabel.labels.region_classifier import RegionClassifier
            from relabel.multilabel.labels.stage import label_regions
            from relabel.training.loop import resolve_device

            pull(folder)
            model = RegionClassifier.load(folder, resolve_device(runtime.device))
            return lambda work: label_regions(work, model, settings)

        self._make(stage, "Labelling images", self._pending(stage, read_labels), open)

    def result(self, stage: Stage) -> Outputs:
        from relabel.multilabel.result.stage import write_result

        return write_result(self.plan, stage.folder, self.runtime)


def _is_output(path: Path) -> bool:
    return path.suffix in (".json", ".safetensors") and path.name != "stage.json"


def _percent(value: Any) -> str:
    return "unknown" if value is None else f"{100 * value:.1f} %"
