"""The plan of `relabel align`: its stages in order, what each depends on, and where each stands.

Fingerprints of later stages are made from those of earlier ones, not from their files, so that the
whole plan is known before anything runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from relabel.align.settings import PipelineSettings, stage_settings
from relabel.crosslabel.prompted import sam3_identity
from relabel.datasets.fingerprint import dataset_fingerprint
from relabel.detectors.sam3.settings import class_prompts
from relabel.detectors.settings import SpecialistSettings
from relabel.errors import StageError
from relabel.workspace.fingerprint import fingerprint, source_identity
from relabel.workspace.stage import Stage, Status

if TYPE_CHECKING:
    from relabel.datasets.dataset import DetectionDataset

Kind = Literal["specialist", "fold", "crosslabel", "crossfit", "lat", "transfer", "result"]
ENSEMBLE = "_ensemble"
SHARED: tuple[Kind, ...] = ("specialist", "fold", "crosslabel", "crossfit")


@dataclass(frozen=True, eq=False)
class Step:
    """One stage of the plan.

    Attributes:
        kind: what is done.
        stage: its folder, settings and inputs.
        needs: the steps whose output it reads.
        by: dataset whose specialist is trained or labels, or the labeller without a dataset.
        on: dataset that is labelled or transferred.
        fold: number of the held-out fold, -1 where there is none.
    """

    kind: Kind
    stage: Stage
    needs: tuple[Step, ...] = ()
    by: str = ""
    on: str = ""
    fold: int = -1

    @property
    def title(self) -> str:
        return self.stage.name


@dataclass(eq=False)
class Plan:
    """All steps, in an order in which they can run.

    Attributes:
        target: the dataset whose label space is the goal.
        sources: the datasets to relabel.
        out: the workspace.
        shared: where specialists and cross-labels lie, for the plans of several targets; ``out``
            where they are not shared.
        datasets: the training images of the target and the sources, the target first.
        status: where each step stands, by title.
    """

    target: str
    sources: tuple[str, ...]
    out: Path
    shared: Path
    settings: PipelineSettings
    datasets: Mapping[str, DetectionDataset]
    fingerprints: Mapping[str, str]
    backbones: Mapping[str, str]
    steps: list[Step] = field(default_factory=list)
    status: dict[str, Status] = field(default_factory=dict)

    @property
    def labellers(self) -> tuple[str, ...]:
        """Detectors without a dataset that label all images in the target's label space."""
        return self.settings.align.labellers

    def is_shared(self, step: Step) -> bool:
        """Whether the plans of other targets may have the step, too."""
        return self.shared != self.out and step.kind in SHARED

    def step(self, kind: Kind, *, by: str = "", on: str = "", fold: int = -1) -> Step:
        for step in self.steps:
            if (step.kind, step.by, step.on, step.fold) == (kind, by, on, fold):
                return step
        raise KeyError((kind, by, on, fold))

    @property
    def to_run(self) -> list[Step]:
        """The steps that are not done and whose output is still needed, in order."""
        return self.needed_for([self.steps[-1]])

    def needed_for(self, goals: Sequence[Step]) -> list[Step]:
        """The steps that are not done and that the goals depend on, goals included, in order."""
        wanted: set[str] = set()
        queue = list(goals)
        while queue:
            step = queue.pop()
            if self.status[step.title] != "done" and step.title not in wanted:
                wanted.add(step.title)
                queue.extend(step.needs)
        return [step for step in self.steps if step.title in wanted]

    def refuse_changes(self, steps: Sequence[Step] | None = None) -> None:
        """Raise StageError with the difference if a step was started with different settings.

        Args:
            steps: those to look at; the steps to run by default.
        """
        steps = self.to_run if steps is None else steps
        changed = [step for step in steps if self.status[step.title] == "changed"]
        if not changed:
            return
        first = changed[0].stage.changed_error()
        rest = len(changed) - 1
        follow = f" ({rest} stage{'s' * (rest != 1)} after it would follow)" if rest else ""
        raise StageError(
            f"{first.message}{follow}",
            file=first.file,
            remedy="Redo it and what depends on it with --overwrite, or choose another --out.",
        )


def make_plan(
    target: str,
    sources: Sequence[str],
    datasets: Mapping[str, DetectionDataset],
    out: Path,
    settings: PipelineSettings,
    *,
    shared: Path | None = None,
) -> Plan:
    """Plan the stages and look up where each stands.

    Args:
        datasets: training images of the target and every source, by name.
        out: the workspace folder; it need not exist.
        shared: the folder of specialists and cross-labels, for the plans of several targets;
            ``out`` by default. Only a target's folds and what they label are its own.

    Raises:
        StageError: a stage's manifest is damaged.
    """
    names = [target, *sources]
    plan = Plan(
        target=target,
        sources=tuple(sources),
        out=out,
        shared=out if shared is None or shared.resolve() == out.resolve() else shared,
        settings=settings,
        datasets={name: datasets[name] for name in names},
        fingerprints={name: dataset_fingerprint(datasets[name]) for name in names},
        backbones=backbone_identities(settings.specialist.backbone, settings.lat.backbone),
    )
    images = {name: dataset_fingerprint(datasets[name], boxes=False) for name in names}
    for name in names:
        _add_specialists(plan, name)
    for on in names:
        _add_cross_labels(plan, on, images[on])
    for by in plan.labellers:
        _add_labeller(plan, by, images)
    _add_lat(plan)
    for source in sources:
        _add_transfer(plan, source)
    _add_result(plan)
    plan.status = {step.title: step.stage.status() for step in plan.steps}
    return plan


def labels_folder(work: Path, by: str, on: str, target: str) -> Path:
    """Where ``by``'s pseudo-labels on ``on`` are: those of the ensemble, if it made any.

    A shared folder may hold those of another target's ensemble, too; they are of no concern here
    where there are labels by the single specialist.
    """
    folder = work / "2_crosslabels"
    fused, single = folder / f"{by}{ENSEMBLE}_on_{on}", folder / f"{by}_on_{on}"
    return fused if fused.is_dir() and (by == target or not single.is_dir()) else single


def backbone_identities(*backbones: str) -> dict[str, str]:
    """What stands in fingerprints and manifests for backbones that are local folders."""
    return {
        name: source_identity(name)
        for name in dict.fromkeys(backbones)
        if name and Path(name).is_dir()
    }


def specialist_stage(
    name: str,
    folder: Path,
    fingerprint: str,
    settings: SpecialistSettings,
    backbones: Mapping[str, str],
) -> Stage:
    """The stage of one specialist, the same for `train-specialist` and `align`."""
    return Stage(
        f"specialist {name}",
        folder,
        settings=stage_settings(settings, backbones),
        inputs={"train": fingerprint},
    )


def folds_of(settings: PipelineSettings, target: str, name: str) -> int:
    """Number of cross-fitting folds of a dataset, 0 for none."""
    lat = settings.lat
    wanted = lat.crossfit == "all" or (lat.crossfit == "target" and name == target)
    return lat.crossfit_folds if wanted and lat.crossfit_folds > 1 else 0


def _add_specialists(plan: Plan, name: str) -> None:
    folder = plan.shared / "1_specialists"
    settings = stage_settings(plan.settings.specialist, plan.backbones)
    inputs = {"train": plan.fingerprints[name]}
    stage = specialist_stage(
        name, folder / name, inputs["train"], plan.settings.specialist, plan.backbones
    )
    plan.steps.append(Step("specialist", stage, by=name))
    lat = plan.settings.lat
    k = folds_of(plan.settings, plan.target, name)
    cut = {"folds": k, "stretches": lat.crossfit_stretches, "gap": lat.crossfit_gap}
    for fold in range(k):
        stage = Stage(
            f"specialist {name} without fold {fold + 1} of {k}",
            folder / f"{name}_fold{fold}",
            settings={**settings, **cut, "fold": fold},
            inputs=inputs,
        )
        plan.steps.append(Step("fold", stage, by=name, fold=fold))


def _add_cross_labels(plan: Plan, on: str, images: str) -> None:
    folder = plan.shared / "2_crosslabels"
    settings = stage_settings(plan.settings.crosslabel)
    for by in plan.datasets:
        k = folds_of(plan.settings, plan.target, by)
        if by != on:
            needs = (plan.step("specialist", by=by),)
            inputs = {"specialist": needs[0].stage.fingerprint, "images": images}
            title = f"{by}_on_{on}"
            if k and plan.settings.crosslabel.ensemble:
                folds = tuple(plan.step("fold", by=by, fold=fold) for fold in range(k))
                needs = (*needs, *folds)
                inputs |= {f"fold{s.fold}": s.stage.fingerprint for s in folds}
                # Another target's plan, without these folds, may share the folder.
                title = f"{by}{ENSEMBLE}_on_{on}"
            stage = Stage(
                f"labels by {by} on {on}",
                folder / title,
                settings=settings,
                inputs=inputs,
            )
            plan.steps.append(Step("crosslabel", stage, needs, by=by, on=on))
        elif k:
            needs = tuple(plan.step("fold", by=by, fold=fold) for fold in range(k))
            inputs = {f"fold{s.fold}": s.stage.fingerprint for s in needs} | {"images": images}
            stage = Stage(
                f"labels by {by} on {on}, held out",
                folder / f"{by}_on_{on}",
                settings=settings,
                inputs=inputs,
            )
            plan.steps.append(Step("crossfit", stage, needs, by=by, on=on))


def _add_labeller(plan: Plan, by: str, images: Mapping[str, str]) -> None:
    """It labels the target's images, too: what it finds there was learned from neither dataset."""
    settings = {
        **stage_settings(plan.settings.crosslabel),
        by: sam3_identity(plan.settings.sam3),
    }
    space = plan.datasets[plan.target].space
    prompts = fingerprint([space.class_names, class_prompts(space)])
    for on in plan.datasets:
        stage = Stage(
            f"labels by {by} on {on}",
            plan.shared / "2_crosslabels" / f"{by}_as_{plan.target}_on_{on}",
            settings=settings,
            inputs={"prompts": prompts, "images": images[on]},
        )
        plan.steps.append(Step("crosslabel", stage, by=by, on=on))


def _add_lat(plan: Plan) -> None:
    labels = tuple(s for s in plan.steps if s.kind in ("crosslabel", "crossfit"))
    specialists = tuple(s for s in plan.steps if s.kind == "specialist")
    inputs = {f"data {name}": value for name, value in plan.fingerprints.items()}
    inputs |= {s.title: s.stage.fingerprint for s in (*specialists, *labels)}
    settings = stage_settings(plan.settings.lat, plan.backbones)
    stage = Stage("LAT", plan.out / "3_lat", settings=settings, inputs=inputs)
    plan.steps.append(Step("lat", stage, (*specialists, *labels)))


def _add_transfer(plan: Plan, source: str) -> None:
    lat = plan.step("lat")
    labels = tuple(s for s in plan.steps if s.kind == "crosslabel" and s.on == source)
    stage = Stage(
        f"transfer {source}",
        plan.out / "4_transferred" / source,
        settings={
            **stage_settings(plan.settings.lat, plan.backbones),
            "annotated_boxes": plan.settings.lat.annotated_boxes,
            "uncertain": plan.settings.lat.uncertain,
            "label_sets": plan.settings.lat.label_sets,
            **({"sure": plan.settings.lat.sure} if plan.settings.lat.sure else {}),
        },
        inputs={
            "LAT": lat.stage.fingerprint,
            "data": plan.fingerprints[source],
            **{s.title: s.stage.fingerprint for s in labels},
        },
    )
    plan.steps.append(Step("transfer", stage, (lat, *labels), on=source))


def _add_result(plan: Plan) -> None:
    transfers = tuple(s for s in plan.steps if s.kind == "transfer")
    labels = tuple(s for s in plan.steps if s.kind == "crosslabel" and s.on in plan.sources)
    stage = Stage(
        "result",
        plan.out / "result",
        settings={
            "target": plan.target,
            "sources": list(plan.sources),
            **stage_settings(plan.settings.align),
        },
        inputs={
            **{f"data {name}": value for name, value in plan.fingerprints.items()},
            **{s.title: s.stage.fingerprint for s in (*transfers, *labels)},
        },
    )
    plan.steps.append(Step("result", stage, (*transfers, *labels)))
