"""The plan of `relabel align`: its stages in order, and what each depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relabel.align import work
from relabel.align.inputs import read_training_set
from relabel.align.job import AlignJob
from relabel.align.settings import PipelineSettings, stage_settings
from relabel.crosslabel.prompted import sam3_identity
from relabel.datasets.fingerprint import dataset_fingerprint
from relabel.detectors.sam3.settings import class_prompts
from relabel.detectors.semi.settings import SemiSettings
from relabel.detectors.settings import SpecialistSettings
from relabel.errors import ConfigError, Problems
from relabel.lat.folds import folds
from relabel.settings import Runtime, settings_dict
from relabel.workspace.fingerprint import fingerprint
from relabel.workspace.stage import Stage

if TYPE_CHECKING:
    from relabel.catalogue.catalogue import Catalogue

ENSEMBLE = "_ensemble"
REVIEW = "review"


def prepare(
    catalogue: Catalogue,
    target: str,
    sources: Sequence[str],
    out: Path,
    settings: PipelineSettings,
    runtime: Runtime,
    *,
    shared: Path | None = None,
    review: Sequence[Path] = (),
    problems: Problems | None = None,
) -> AlignPlan:
    """Read the training images of target and sources, and plan.

    Args:
        catalogue: names the datasets.
        target: the dataset whose label space is the goal.
        sources: the datasets to relabel.
        out: the workspace folder; it need not exist.
        shared: the folder of specialists and cross-labels, for the plans of several targets;
            ``out`` by default. Only a target's folds and what they label are its own.
        review: files of decisions, see `AlignJob`.

    Raises:
        ConfigError: no source, a dataset named twice or like a prompted detector, or an unknown
            name.
        DataError: a dataset's files or a file of decisions are missing or damaged, or there are
            too few images for cross-fitting.
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
        if name in settings.align.prompted_detectors:
            raise ConfigError(
                f"{name!r} is both a dataset and a prompted detector",
                remedy="Give the dataset another name in relabel.toml.",
            )
    problems = Problems(runtime.skip_bad) if problems is None else problems
    entries = [catalogue.get(name) for name in names]
    datasets = {e.name: read_training_set(e, shared or out, runtime, problems) for e in entries}
    for name in names:
        k = folds_of(settings, target, name)
        if k:
            folds(datasets[name], k)  # too few images: say so before training
    return AlignPlan(catalogue, datasets, out, settings, runtime, shared=shared, review=review)


class AlignPlan(AlignJob):
    """The stages of a run of align; see there."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        images = {n: dataset_fingerprint(d, boxes=False) for n, d in self.datasets.items()}
        for name in self.datasets:
            self._add_specialists(name)
        for on in self.datasets:
            self._add_cross_labels(on, images[on])
        for by in self.prompted_detectors:
            self._add_prompted_detector(by, images)
        self.lat = self._add_lat()
        for source in self.sources:
            self._add_transfer(source)
        self.result = self._add_result()

    def _add_shared(self, name: str, folder: str, **more: Any) -> Stage:
        """Append a stage that the plans of other targets may have, too."""
        return self.add(Stage(name, self.shared / folder, lock=self.shared_lock, **more))

    def _add_specialists(self, name: str) -> None:
        lat, k = self.settings.lat, folds_of(self.settings, self.target, name)
        stage = specialist_stage(
            name,
            self.shared / "1_specialists" / name,
            self.fingerprints[name],
            self.settings.specialist,
            self.backbones,
            work=partial(work.train, self, name=name),
            lock=self.shared_lock,
        )
        self.specialists[name] = self.add(stage)
        cut = {"folds": k, "stretches": lat.fold_stretches, "gap": lat.fold_gap}
        self.folds[name] = [
            self._add_shared(
                f"specialist {name} without fold {fold + 1} of {k}",
                f"1_specialists/{name}_fold{fold}",
                settings={**stage.settings, **cut, "fold": fold},
                inputs=stage.inputs,
                work=partial(work.train, self, name=name, fold=fold),
            )
            for fold in range(k)
        ]

    def _add_cross_labels(self, on: str, images: str) -> None:
        settings = stage_settings(self.settings.crosslabel)
        for by in self.datasets:
            name, folder = f"labels by {by} on {on}", f"{by}_on_{on}"
            if by != on:
                needs, do = [self.specialists[by]], work.label
                if self.folds[by] and self.settings.crosslabel.ensemble:
                    needs += self.folds[by]
                    # Another target's plan, without these folds, may share the folder.
                    folder = f"{by}{ENSEMBLE}_on_{on}"
            elif self.folds[by]:
                name, needs, do = f"{name}, held out", self.folds[by], work.label_held_out
            else:
                continue
            self.labels[by, on] = self._add_shared(
                name,
                f"2_crosslabels/{folder}",
                settings=settings,
                inputs={"images": images},
                needs=needs,
                work=partial(do, self, on=on),
            )

    def _add_prompted_detector(self, by: str, images: Mapping[str, str]) -> None:
        """It labels the target's images, too: what it finds there was learned from neither."""
        space = self.datasets[self.target].space
        prompts = fingerprint([space.class_names, class_prompts(space)])
        settings = stage_settings(self.settings.crosslabel)
        for on in self.datasets:
            self.labels[by, on] = self._add_shared(
                f"labels by {by} on {on}",
                f"2_crosslabels/{by}_as_{self.target}_on_{on}",
                settings={**settings, by: sam3_identity(self.settings.sam3)},
                inputs={"prompts": prompts, "images": images[on]},
                work=partial(work.label_prompted, self, on=on),
            )

    def _add_lat(self) -> Stage:
        return self.add(
            Stage(
                "LAT",
                self.out / "3_lat",
                settings=stage_settings(self.settings.lat, self.backbones),
                inputs=self._data,
                needs=[*self.specialists.values(), *self.labels.values()],
                work=partial(work.train_transfer, self),
            )
        )

    def _add_transfer(self, source: str) -> None:
        stage = Stage(
            f"transfer {source}",
            self.out / "4_transferred" / source,
            settings=self.lat.settings,
            inputs={"data": self.fingerprints[source]},
            needs=[self.lat, *self._labels_on([source])],
            work=partial(work.move_labels, self, source=source),
        )
        self.transfers[source] = self.add(stage)

    def _add_result(self) -> Stage:
        names = {"target": self.target, "sources": self.sources}
        review = {REVIEW: self.review_fingerprint} if self.review else {}
        return self.add(
            Stage(
                "result",
                self.out / "result",
                settings={**names, **stage_settings(self.settings.align)},
                inputs={**self._data, **review},
                needs=[*self.transfers.values(), *self._labels_on(self.sources)],
                work=partial(work.write_all, self),
                # To leave decisions out again takes --overwrite: nobody does so by mistake.
                asked=tuple(review),
                dated=["report.html"],
            )
        )

    @property
    def _data(self) -> dict[str, str]:
        return {f"data {name}": value for name, value in self.fingerprints.items()}

    def _labels_on(self, names: Sequence[str]) -> list[Stage]:
        """The stages whose labels `labels_on` reads."""
        return [stage for (by, on), stage in self.labels.items() if on in names and by != on]


def labels_folder(work: Path, by: str, on: str, target: str) -> Path:
    """Where ``by``'s pseudo-labels on ``on`` are: those of the ensemble, if it made any.

    A shared folder may hold those of another target's ensemble, too; they are of no concern here
    where there are labels by the single specialist.
    """
    folder = work / "2_crosslabels"
    fused, single = folder / f"{by}{ENSEMBLE}_on_{on}", folder / f"{by}_on_{on}"
    return fused if fused.is_dir() and (by == target or not single.is_dir()) else single


def specialist_stage(
    name: str,
    folder: Path,
    fingerprint: str,
    settings: SpecialistSettings,
    backbones: Mapping[str, str],
    *,
    semi: SemiSettings | None = None,
    unlabelled: Mapping[str, str] | None = None,
    **more: Any,
) -> Stage:
    """The stage of one specialist, the same for `train-specialist` and `align`.

    Args:
        fingerprint: of the training images and their boxes.
        semi, unlabelled: settings of semi-supervised training, and the fingerprints of the
            unlabelled images by name; None where there are none.
    """
    values = stage_settings(settings, backbones)
    if semi is not None:
        values = {**values, "semi": settings_dict(semi)}
    return Stage(
        f"specialist {name}",
        folder,
        settings=values,
        inputs={"train": fingerprint}
        | {f"unlabelled {k}": v for k, v in (unlabelled or {}).items()},
        **more,
    )


def folds_of(settings: PipelineSettings, target: str, name: str) -> int:
    """Number of cross-fitting folds of a dataset, 0 for none."""
    return settings.lat.folds if settings.lat.crossfit and name == target else 0
