"""What is done in each stage of align. Models and torch are imported by those that need them."""

from __future__ import annotations

from functools import partial

from relabel.align.job import AlignJob
from relabel.errors import Problems
from relabel.workspace.fingerprint import fingerprint
from relabel.workspace.progress import tell_problems
from relabel.workspace.stage import Outputs, Stage


def train(job: AlignJob, stage: Stage, *, name: str, fold: int | None = None) -> None:
    """A dataset's specialist, or the one that never sees a fold."""
    from relabel.detectors.specialist import MAPS, train_specialist
    from relabel.evaluation.detector import validator

    dataset, validate = job.datasets[name], None
    if fold is None:
        entry = job.catalogue.get(name)
        problems = Problems(job.runtime.skip_bad)
        val = entry.read("val", problems=problems) if entry.has("val") else None
        tell_problems(problems, job.runtime.quiet)
        validate = validator(val, job.runtime)
    else:
        dataset = dataset.subset(job.folds_of(name)[fold].rest)
    train_specialist(
        dataset,
        stage.folder,
        job.settings.specialist,
        job.runtime,
        validate=validate,
        maps=job.shared / MAPS,
    )


def label(job: AlignJob, stage: Stage, *, on: str) -> None:
    """One dataset's pseudo-labels on another, by one specialist or by several as one."""
    from relabel.crosslabel.label import cross_label
    from relabel.detectors.specialist import MAPS

    folders = [need.folder for need in stage.needs]
    load, model = None, None
    if len(folders) > 1:
        from relabel.crosslabel.ensemble import EnsembleDetector

        load = partial(EnsembleDetector.load, folders)
        model = fingerprint([need.fingerprint for need in stage.needs])
    cross_label(
        folders[0],
        job.datasets[on],
        stage.folder,
        job.settings.crosslabel,
        job.runtime,
        load=load,
        model=model,
        maps=job.shared / MAPS,
    )


def label_held_out(job: AlignJob, stage: Stage, *, on: str) -> Outputs:
    """Every image is labelled by the specialist that was trained without its fold."""
    from relabel.crosslabel.label import cross_label
    from relabel.detectors.specialist import MAPS

    names = [f"fold{i}" for i in range(len(stage.needs))]
    for name, specialist, fold in zip(names, stage.needs, job.folds_of(on), strict=True):
        cross_label(
            specialist.folder,
            job.datasets[on],
            stage.folder / name,
            job.settings.crosslabel,
            job.runtime,
            image_rows=fold.held_out,
            maps=job.shared / MAPS,
        )
    return {name: name for name in names}


def label_prompted(job: AlignJob, stage: Stage, *, on: str) -> None:
    """Labels by SAM 3 in the target's label space."""
    from relabel.crosslabel.prompted import cross_label_sam3

    cross_label_sam3(
        job.datasets[job.target].space,
        job.datasets[on],
        stage.folder,
        job.settings.crosslabel,
        job.runtime,
        sam3=job.settings.sam3,
    )


def train_transfer(job: AlignJob, stage: Stage) -> None:
    """LAT, on all datasets and all labels on them."""
    from relabel.lat.train import train_lat

    train_lat(
        dict(job.datasets),
        {key: job.read_labels(*key) for key in job.labels},
        job.target,
        stage.folder,
        job.settings.lat,
        job.runtime,
        specialists={name: one.folder for name, one in job.specialists.items()},
        prompted_detectors=dict.fromkeys(job.prompted_detectors, job.datasets[job.target].space),
    )


def move_labels(job: AlignJob, stage: Stage, *, source: str) -> Outputs:
    """A source's boxes in the target's label space."""
    from relabel.align.store import write_removed, write_transferred
    from relabel.lat.transfer import transfer

    moved, removed = transfer(
        job.lat.folder,
        job.datasets[source],
        job.labels_on(source),
        stage.folder,
        job.runtime,
        with_uncertain=True,
    )
    return {
        **write_transferred(moved, stage.folder),
        **write_removed(removed, job.datasets[source], stage.folder),
    }


def write_all(job: AlignJob, stage: Stage) -> Outputs:
    """The result's files, with what people decided."""
    from relabel.align.export import SourceResult, write_align_result
    from relabel.align.store import read_removed, read_transferred
    from relabel.datasets.removed import without_label
    from relabel.review.apply import apply_all

    space = job.datasets[job.target].space
    results = []
    for source, transferred in job.transfers.items():
        before = job.datasets[source]
        after = read_transferred(transferred.folder, before, space)
        if "removed" in transferred.outputs:
            removed = read_removed(transferred.folder)
        else:
            removed = without_label(before, after)
        reviewed = apply_all(before, after, removed, job.review)
        results.append(SourceResult(before, reviewed, job.labels_on(source)))
    return write_align_result(job, results, stage.folder, quiet=job.runtime.quiet)
