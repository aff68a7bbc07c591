"""`relabel imagenet-multilabel`: run the stages that are missing, and write the result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relabel.errors import BusyError, ConfigError, DataError
from relabel.multilabel.plan import Kind, Plan
from relabel.multilabel.scores.label_maps import LabelMapFolder
from relabel.multilabel.settings import PROBE
from relabel.multilabel.store import read_labels, read_regions, read_scores
from relabel.settings import Runtime
from relabel.workspace.clock import Clock, record
from relabel.workspace.parts import Part, entered, finished, pending, shards_of
from relabel.workspace.progress import message
from relabel.workspace.stage import Shards


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        ran: the stages it worked on.
        waits_for: the stage whose other parts are still missing; None when all is done.
    """

    ran: tuple[Kind, ...]
    waits_for: Kind | None = None


def run_plan(
    plan: Plan, runtime: Runtime, *, part: Part | None = None, overwrite: bool = False
) -> Outcome:
    """Run what is missing, this process's part of it.

    Every process of a run does its shards of a stage; the next stage starts once all shards are
    there, so the last process to finish goes on, and the others end with `Outcome.waits_for`.

    Raises:
        StageError: a stage was started with different settings and ``overwrite`` is not given.
        ConfigError, DataError: see the stages.
    """
    part = part or Part()
    todo = plan.to_run()
    if not overwrite:
        plan.refuse_changes()
    if "scores" in todo:
        _check_supervision(plan)
    steps = _Steps(plan, runtime, part)
    for number, kind in enumerate(todo, 1):
        stage = plan.stages[kind]
        clock = Clock()
        try:
            with entered(stage, overwrite=overwrite and stage.status() == "changed"):
                pass
            done = getattr(steps, kind)(clock)
        except BusyError:
            # What is not made of shards is done by one of the parts; the others come back later.
            if part.count == 1:
                raise
            done = False
        record(plan.out, kind, clock)
        if not done:
            return Outcome(tuple(todo[:number]), kind)
    return Outcome(tuple(todo))


def _check_supervision(plan: Plan) -> None:
    """Raise before hours of regions what scores and labeler would raise after them."""
    images, settings = plan.images, plan.settings
    if plan.maps is None and not settings.maps.classifier:
        raise ConfigError(
            "there is nothing to make label maps from",
            remedy="Give --maps FOLDER with ReLabel's files, --classifier NAME, or --classifier "
            "probe, which learns from the images' own labels.",
        )
    if images.num_classes == 0:
        raise DataError(
            "the images have no classes",
            file=images.root,
            remedy="Put them into class folders, or give --labels and --classes.",
        )
    probe = plan.maps is None and settings.maps.classifier == PROBE
    if (probe or settings.filter.rule == "original") and not bool((images.labels >= 0).any()):
        raise DataError(
            "no image has a label, and there is nothing else to learn from",
            file=images.root,
            remedy="Give --labels; or, with --maps or a --classifier, use --filter-rule top1.",
        )
    if plan.maps is not None and not LabelMapFolder(plan.maps).any_of(images.file_names):
        raise DataError(
            f"has no label map of any image, such as {images.file_names[0]!r}",
            file=plan.maps,
            remedy="Check --maps: a map is <class folder>/<name of the image>.pt.",
        )


class _Steps:
    """One method per stage; each returns whether the stage is finished."""

    def __init__(self, plan: Plan, runtime: Runtime, part: Part) -> None:
        self.plan, self.runtime, self.part = plan, runtime, part

    def shards(self, kind: Kind) -> Shards:
        size = self.plan.settings.maskcut.shard_images
        return shards_of(self.plan.stages[kind], len(self.plan.images), size)

    def facts(self, kind: Kind) -> dict[str, Any]:
        """What all shards of a stage share."""
        stage = self.plan.stages[kind]
        return {"stage": stage.fingerprint, "settings": stage.settings}

    def regions(self, clock: Clock) -> bool:
        from relabel.multilabel.regions.features import PatchFeatures
        from relabel.multilabel.regions.stage import find_regions
        from relabel.training.loop import resolve_device

        shards = self.shards("regions")
        todo = pending(shards, self.part, read_regions, quiet=self.runtime.quiet)
        if todo:
            settings = self.plan.settings.maskcut
            device = resolve_device(self.runtime.device)
            find_regions(
                self.plan.images,
                shards,
                todo,
                self.facts("regions"),
                PatchFeatures.create(settings, device),
                settings,
                self.runtime,
                clock,
            )
        return finished(self.plan.stages["regions"], shards)

    def scores(self, clock: Clock) -> bool:
        shards = self.shards("scores")
        todo = pending(shards, self.part, read_scores, quiet=self.runtime.quiet)
        if todo:
            self._score(shards, todo, clock)
        return finished(self.plan.stages["scores"], shards)

    def _score(self, shards: Shards, todo: list[int], clock: Clock) -> None:
        from relabel.multilabel.scores import stage as scores
        from relabel.training.loop import resolve_device

        plan, regions = self.plan, self.shards("regions")
        images, settings = plan.images, plan.settings.maps
        common = (images, regions, shards, todo, self.facts("scores"))
        if plan.maps is not None:
            maps = LabelMapFolder(plan.maps)
            scores.check_axes(images, regions, maps, settings, self.runtime)
            scores.score_with_maps(*common, maps, settings, self.runtime, clock)
        elif settings.classifier == PROBE:
            scores.score_with_probe(*common, self._probe(), self.runtime, clock)
        else:
            from relabel.multilabel.scores.dense import DenseClassifier

            device = resolve_device(self.runtime.device)
            maker = DenseClassifier.create(
                settings.classifier,
                settings,
                device,
                images.num_classes,
                class_keys=images.class_keys,
                precision=plan.settings.maskcut.precision,
            )
            scores.score_with_classifier(
                *common, maker, plan.settings.maskcut.batch_size, self.runtime, clock
            )

    def _probe(self) -> Any:
        """Trained once; other processes find it there."""
        from relabel.multilabel.scores.probe import Probe
        from relabel.multilabel.scores.stage import fit_probe

        folder = self.plan.stages["scores"].folder / PROBE
        with entered(self.plan.stages["scores"]):
            if not (folder / "probe.json").is_file():
                folder.mkdir(exist_ok=True)
                seed = self.plan.settings.labeler.seed
                fit_probe(self.plan.images, self.shards("regions"), seed).save(folder)
        return Probe.load(folder)

    def labeler(self, clock: Clock) -> bool:
        from relabel.multilabel.labels.stage import fit_labeler

        plan, stage = self.plan, self.plan.stages["labeler"]
        stage.begin()
        try:
            found = fit_labeler(
                plan.images,
                self.shards("regions"),
                self.shards("scores"),
                stage.folder,
                plan.settings.filter,
                plan.settings.labeler,
                self.runtime,
                clock,
            )
            stage.finish({p.name: p.name for p in sorted(stage.folder.iterdir()) if _is_output(p)})
        finally:
            stage.release()
        message(
            f"labeler: learned from {found['unions_selected']} of "
            f"{found['regions_before_filter']} regions, held-out accuracy "
            f"{_percent(found.get('val_accuracy'))}",
            quiet=self.runtime.quiet,
        )
        return True

    def labels(self, clock: Clock) -> bool:
        from relabel.multilabel.labels.labeler import Labeler
        from relabel.multilabel.labels.stage import label_regions
        from relabel.training.loop import resolve_device

        plan, shards = self.plan, self.shards("labels")
        todo = pending(shards, self.part, read_labels, quiet=self.runtime.quiet)
        if todo:
            folder = plan.stages["labeler"].folder
            label_regions(
                plan.images,
                self.shards("regions"),
                shards,
                todo,
                self.facts("labels"),
                Labeler.load(folder, resolve_device(self.runtime.device)),
                plan.settings.aggregate,
                self.runtime,
                clock,
            )
        return finished(plan.stages["labels"], shards)

    def result(self, clock: Clock) -> bool:
        from relabel.multilabel.result.stage import write_result

        plan, stage = self.plan, self.plan.stages["result"]
        stage.begin()
        try:
            outputs = write_result(
                plan, self.shards("regions"), self.shards("labels"), stage.folder, self.runtime
            )
            stage.finish(outputs)
        finally:
            stage.release()
        return True


def _is_output(path: Path) -> bool:
    return path.suffix in (".json", ".safetensors") and path.name != "stage.json"


def _percent(value: Any) -> str:
    return "unknown" if value is None else f"{100 * value:.1f} %"
