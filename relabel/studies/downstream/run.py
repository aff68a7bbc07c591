"""`relabel evaluate downstream`: plan, run what is missing, gather the results.

Every arm and seed is a stage of its own. Several processes may work on one comparison: each takes
the trainings that no other works on, and the last one to finish has the whole table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relabel.align.inputs import usable_images
from relabel.align.job import backbone_identities
from relabel.align.plan import AlignPlan, prepare
from relabel.align.settings import PipelineSettings, stage_settings
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.fingerprint import dataset_fingerprint
from relabel.detectors.base import no_box_head
from relabel.detectors.semi.settings import SemiSettings
from relabel.detectors.settings import SpecialistSettings
from relabel.errors import ConfigError, Problems
from relabel.evaluation.baselines import TargetNames
from relabel.settings import Runtime, settings_dict
from relabel.studies.downstream.arms import Arm
from relabel.studies.downstream.given import guided_labels
from relabel.studies.downstream.labels import label_source, name_map_of
from relabel.studies.downstream.mixture import passes, target_only_from
from relabel.studies.downstream.request import (
    Request,
    check_boxes,
    check_maps,
    check_out,
    checked,
)
from relabel.studies.downstream.results import LOG, Comparison, gather, training_name
from relabel.training.loop import total_steps
from relabel.workspace.pipeline import Pipeline
from relabel.workspace.progress import message
from relabel.workspace.stage import Stage

if TYPE_CHECKING:
    from relabel.catalogue.catalogue import Catalogue
    from relabel.crosslabel.pseudo import PseudoLabels
    from relabel.studies.downstream.direct import Quality


def compare(
    catalogue: Catalogue,
    request: Request,
    runtime: Runtime,
    *,
    overwrite: bool = False,
    problems: Problems | None = None,
) -> Comparison:
    """Make the labels of every arm, train a detector per arm and seed, and gather test AP.

    Raises:
        ConfigError: no test images, an unknown name, an arm named twice, a seed below 0, a name
            map that does not fit, or a folder that cannot be written.
        DataError: a dataset is damaged, or the target has no boxes to learn or to measure on.
        StageError: settings changed and ``overwrite`` is off.
    """
    problems = Problems(runtime.skip_bad) if problems is None else problems
    return _Job(catalogue, request, runtime, overwrite, problems).run()


def labels_alone(
    catalogue: Catalogue, request: Request, runtime: Runtime
) -> dict[str, dict[str, Quality]]:
    """Make the labels of every arm as `compare` does, and train no detector on them.

    Returns:
        Their quality by arm and source, see `direct_quality`.

    Raises:
        ConfigError, DataError, StageError: as `compare`.
    """
    job = _Job(catalogue, request, runtime, False, Problems(runtime.skip_bad))
    job.make_labels()
    return job.direct()


@dataclass(eq=False)
class _Job:
    catalogue: Catalogue
    request: Request
    runtime: Runtime
    overwrite: bool
    problems: Problems
    name_maps: dict[str, TargetNames] = field(default_factory=dict)
    pseudo: dict[str, PseudoLabels] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)
    labels: dict[str, Mapping[str, DetectionDataset]] = field(default_factory=dict)

    def make_labels(self) -> None:
        request = self.request
        self.given_maps = checked(request)
        if any("lat" in arm.needs for arm in request.arms):
            request.pipeline.require_lat_backbone()
        self.test = self._test_images()
        self.plan = self._plan(request.align, request.pipeline, request.shared)
        self.target = self.plan.datasets[request.target]
        check_boxes(self.target, self.test)
        check_maps(request, self.given_maps, self.plan.datasets)
        check_out(request.out)
        images = sum(len(d) for d in self.plan.datasets.values())
        detector = request.detector.resolved()
        self.detector = replace(detector, steps=total_steps(detector, images))
        extras = {name: self._extra(name, files) for name, files in request.extras}
        for arm in request.arms:
            self._label(arm)
        self.labels.update(extras)

    def run(self) -> Comparison:
        request = self.request
        self.make_labels()
        self._train()
        return gather(
            request.out,
            [*self.labels, *self.not_run],
            request.seeds,
            not_run=self.not_run,
            target_only_from=target_only_from(self.detector.steps, request.settings),
            about={
                "target": request.target,
                "sources": list(request.sources),
                "detector": self.detector.detector,
                "steps": self.detector.steps,
                "name_maps": {k: dict(v) for k, v in self.name_maps.items()},
                "settings": {
                    "detector": stage_settings(self.detector, self._backbones()),
                    "downstream": settings_dict(request.settings),
                },
                "images": {
                    request.target: len(self.target),
                    "test": len(self.test),
                    **{s: len(self.plan.datasets[s]) for s in request.sources},
                },
                "passes": self._passes(),
                "direct": self.direct(),
                "boxes": {
                    arm: {s: len(d.boxes) for s, d in sources.items()}
                    for arm, sources in self.labels.items()
                },
            },
        )

    def direct(self) -> dict[str, dict[str, Quality]]:
        from relabel.studies.downstream.direct import direct_quality

        names = [arm.name for arm in self.request.arms if arm.method == "labels"]
        labels = {name: self.labels[name] for name in names if name in self.labels}
        return direct_quality(labels, self.request.truth)

    def _passes(self) -> dict[str, dict[str, float]]:
        union = sum(len(self.plan.datasets[s]) for s in self.request.sources) + len(self.target)
        return {
            arm: passes(
                self._arm(arm).method,
                [len(self.target), *(len(d) for d in sources.values())],
                union,
                self.detector,
                self.request.settings,
                self._semi(self._arm(arm)),
            )
            for arm, sources in self.labels.items()
        }

    def _test_images(self) -> DetectionDataset:
        entry = self.catalogue.get(self.request.target)
        for which in ("test", "val"):
            if entry.has(which):
                test = self._usable(entry.read(which, problems=self.problems))
                if len(test):
                    return test
        raise ConfigError(
            f"dataset {entry.name!r} has no test images to compare on",
            file=self.catalogue.file,
            remedy=f'Add `test = "FILE"` or `holdout = 0.2` to [datasets.{entry.name}].',
        )

    def _usable(self, dataset: DetectionDataset) -> DetectionDataset:
        work = self.request.shared or self.request.align
        return usable_images(dataset, work, self.runtime, self.problems)

    def _extra(self, name: str, files: Sequence[Path]) -> Mapping[str, DetectionDataset]:
        from relabel.studies.downstream.extra import read_extra

        space, images = self.target.space, self.plan.datasets
        names = [name] if len(files) == 1 else [f"{name} {i + 1}" for i in range(len(files))]
        return {
            one: self._usable(
                read_extra(one, file, space, images, test=self.test, problems=self.problems)
            )
            for one, file in zip(names, files, strict=True)
        }

    def _plan(self, out: Path, pipeline: PipelineSettings, shared: Path | None) -> AlignPlan:
        r = self.request
        return prepare(
            self.catalogue,
            r.target,
            r.sources,
            out,
            pipeline,
            self.runtime,
            shared=shared,
            problems=self.problems,
        )

    def _label(self, arm: Arm) -> None:
        """The sources as an arm sees them; an arm that cannot run here is noted with its reason."""
        reason = self._no_sam3 if "sam3" in arm.needs else None
        if "given" in arm.needs and self.request.pipeline.specialist.detector == "rt-detr":
            reason = str(no_box_head())
        if reason is not None:
            self.not_run[arm.name] = reason
            message(f"{arm.name} is not run: {reason}", quiet=self.runtime.quiet)
            return
        self.labels[arm.name] = {} if arm.name == "target-only" else self._labels_of(arm)
        if arm.method == "labels":
            self._write_labels(arm.name)

    @cached_property
    def _no_sam3(self) -> str | None:
        """Why SAM 3 cannot run; asked once, since every arm's answer may wait for the hub."""
        from relabel.detectors.sam3.detector import why_unavailable

        return why_unavailable(self.request.pipeline.sam3.model)

    def _labels_of(self, arm: Arm) -> dict[str, DetectionDataset]:
        sources = {name: self.plan.datasets[name] for name in self.request.sources}
        if arm.method != "labels":
            return sources
        if "sam3" in arm.needs:
            return self._sam3_labels(arm)
        if "lat" in arm.needs:
            return self._transferred(self.plan)
        if "given" in arm.needs:
            return guided_labels(self.plan, self.request.settings, overwrite=self.overwrite)
        target = self.request.target
        goals = [self.plan.labels[target, name] for name in sources]
        self.plan.run(goals, overwrite=self.overwrite, busy="wait")
        found = {}
        for name, source in sources.items():
            pseudo = self._pseudo(name)
            found[name] = label_source(
                arm.name, source, self.target, pseudo, self.name_maps[name], self.request.settings
            )
        return found

    def _pseudo(self, source: str) -> PseudoLabels:
        """The target specialist's labels, read once for all arms, as their name map is made."""
        if source not in self.pseudo:
            found = self.plan.read_labels(self.request.target, source)
            self.pseudo[source] = found
            self.name_maps[source] = name_map_of(
                self.plan.datasets[source],
                found,
                self.given_maps.get(source),
                self.request.settings,
            )
        return self.pseudo[source]

    def _sam3_labels(self, arm: Arm) -> dict[str, DetectionDataset]:
        from relabel.evaluation.baselines import filtered_pseudo_labels

        pipeline = self.request.pipeline
        with_sam3 = replace(pipeline, align=replace(pipeline.align, prompted_detectors=("sam3",)))
        align = self.request.align
        plan = self._plan(
            align.with_name(f"{align.name}_sam3"), with_sam3, self.request.shared or align
        )
        if "lat" in arm.needs:
            return self._transferred(plan)
        goals = [plan.labels["sam3", name] for name in plan.sources]
        plan.run(goals, overwrite=self.overwrite, busy="wait")
        return {
            name: filtered_pseudo_labels(
                plan.datasets[name], plan.read_labels("sam3", name), pipeline.sam3.threshold
            )
            for name in plan.sources
        }

    def _transferred(self, plan: AlignPlan) -> dict[str, DetectionDataset]:
        from relabel.align.store import read_transferred

        plan.run(list(plan.transfers.values()), overwrite=self.overwrite, busy="wait")
        return {
            name: read_transferred(
                stage.folder, plan.datasets[name], self.target.space, ignore_band=True
            )
            for name, stage in plan.transfers.items()
        }

    def _write_labels(self, arm: str) -> None:
        """Keep what an arm trains on, to look at."""
        from relabel.datasets.formats.coco.write import write

        for name, dataset in self.labels[arm].items():
            write(dataset, self.request.out / "labels" / arm / f"{name}.json")

    def _train(self) -> None:
        """Every arm and seed, seed by seed, so that a run that is cut off leaves whole seeds."""
        job = Pipeline(self.request.out, log=LOG, quiet=self.runtime.quiet)
        shared = {
            "target": dataset_fingerprint(self.target),
            "test": dataset_fingerprint(self.test),
        }
        prints = {
            arm: {f"source {n}": dataset_fingerprint(d) for n, d in sources.items()}
            for arm, sources in self.labels.items()
        }
        for seed in self.request.seeds:
            for arm in self.labels:
                known = self._arm(arm)
                more = {}
                if known.method == "semi":
                    more["semi"] = settings_dict(self._semi(known))
                stage = Stage(
                    training_name(arm, seed),
                    self.request.out / "training" / arm / f"seed{seed}",
                    settings={
                        "method": known.method,
                        "seed": seed,
                        "detector": self._detector_settings(known),
                        "downstream": self.request.settings.result_dict(),
                        **more,
                    },
                    inputs={**shared, **prints[arm]},
                    work=partial(self._train_one, arm=known, seed=seed),
                )
                job.add(stage)
        job.run(overwrite=self.overwrite, busy="wait")

    def _arm(self, name: str) -> Arm:
        """An arm by name; one of --extra has labels and nothing else."""
        return next((arm for arm in self.request.arms if arm.name == name), Arm(name, name))

    def _semi(self, arm: Arm) -> SemiSettings:
        """How an arm of method ``semi`` learns from images alone."""
        return replace(self.request.semi, **arm.semi)

    def _detector_of(self, arm: Arm) -> SpecialistSettings:
        """The detector that an arm trains, all else as in every arm."""
        return replace(self.detector, detector=arm.detector or self.detector.detector)

    def _train_one(self, stage: Stage, *, arm: Arm, seed: int) -> None:
        from relabel.detectors.specialist import MAPS
        from relabel.studies.downstream.train import train_arm

        train_arm(
            arm.method,
            self.target,
            self.labels[arm.name],
            self.test,
            stage.folder,
            replace(self._detector_of(arm), seed=seed),
            self.request.settings,
            self.runtime,
            f"Training {arm.name}, seed {seed}",
            semi=self._semi(arm),
            maps=self.plan.shared / MAPS,
        )

    def _detector_settings(self, arm: Arm) -> dict[str, Any]:
        """The steps stand for the epochs, and the seed is the stage's own."""
        values = stage_settings(self._detector_of(arm), self._backbones())
        return {k: v for k, v in values.items() if k not in ("seed", "epochs", "eval_every")}

    def _backbones(self) -> dict[str, str]:
        return backbone_identities(self.detector.backbone)
