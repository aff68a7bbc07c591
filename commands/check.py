"""``relabel check``: suspect labels of a dataset, or of what align made."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relabel.crosslabel.settings import CrossLabelSettings
from relabel.detectors.settings import SpecialistSettings
from relabel.errors import ConfigError, Problems
from relabel.files.json_text import read_object
from relabel.suspects.settings import CheckPipeline, CheckSettings
from relabel.workspace.progress import message, tell_problems

from ._options import FOLDER, Given, GroupedCommand, settings_options
from ._results import file_option, kept, print_json, say

if TYPE_CHECKING:
    from relabel.catalogue.catalogue import DatasetEntry
    from relabel.suspects.job import CheckJob

_MERGED = Path("result") / "merged.json"
_MOST_CLASSES = 20
# Kinds of suspects as they head columns.
_HEADS = {
    "missing box": "missing",
    "wrong class": "class",
    "badly placed": "place",
    "spurious box": "spurious",
    "mirrored box": "mirrored",
    "sides swapped": "sides",
}


@click.command(cls=GroupedCommand)
@click.argument("dataset", metavar="DATASET|RUN")
@click.option("--format", help="Format, where DATASET is a path.")
@click.option("--split", help="Split to check; default the one that is trained on.")
@file_option(
    "--detections",
    "COCO results of your own detector on images that it has not seen: nothing is trained.",
)
@click.option("-o", "--out", type=FOLDER, help="Result folder. [runs/check/NAME]")
@click.option("--overwrite", is_flag=True, help="Redo stages whose settings or data changed.")
@click.option("--json", "as_json", is_flag=True, help="Print counts and files as JSON.")
@settings_options(
    ("check", "specialist", "crosslabel"),
    {
        "Check": (
            ("--folds", "check.folds"),
            ("--min-score", "check.min_score"),
        ),
        "Specialists": (
            ("--preset", "specialist.preset", "For a few cores, or as published. [light]"),
            ("--detector", "specialist.detector"),
            ("--backbone", "specialist.backbone"),
            ("--epochs", "specialist.epochs"),
            ("--steps", "specialist.steps"),
            ("--image-size", "specialist.image_size"),
        ),
    },
    engine=True,
)
def cli(
    dataset: str,
    format: str | None,
    split: str | None,
    detections: Path | None,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
    given: Given,
) -> None:
    """Find labels that are probably wrong.

    DATASET is a name of relabel.toml or a path; RUN is the folder of a run of align, whose training
    file result/merged.json is checked. Specialists are trained on it, each without a part of the
    images that it then labels. What they object to is ranked: missing boxes, wrong classes, badly
    placed boxes, duplicates, spurious and mirrored boxes. Nothing is changed. The same command
    resumes what was interrupted.
    """
    from relabel.align.inputs import read_training_set
    from relabel.suspects.detections import read_own_detections
    from relabel.suspects.job import CheckJob
    from relabel.workspace.fingerprint import file_fingerprint

    runtime = given.runtime
    settings = CheckPipeline(
        check=given.of(CheckSettings, "check"),
        specialist=given.of(SpecialistSettings, "specialist"),
        crosslabel=given.of(CrossLabelSettings, "crosslabel"),
    )
    merged = _merged(dataset, format, given)
    entry = _entry(dataset, merged, format, split, given)
    folder = out or Path("runs") / "check" / entry.name
    problems = Problems(runtime.skip_bad)
    data = read_training_set(entry, folder, runtime, problems)
    tell_problems(problems, runtime.quiet)
    own, identity = None, ""
    if detections is not None:
        own = read_own_detections(detections, data, settings.crosslabel)
        identity = file_fingerprint(detections)
        if given.typed("specialist"):
            text = "With --detections nothing is trained: settings of [specialist] change nothing."
            message(text, quiet=runtime.quiet)
    job = CheckJob(
        data,
        folder,
        settings,
        runtime,
        detections=own,
        identity=identity,
        merged="" if merged is None else file_fingerprint(merged),
    )
    if not job.run(overwrite=overwrite).ran:
        message("Checked already.", quiet=runtime.quiet)
    _print_result(job, as_json, None if merged is None else dataset)


def _merged(dataset: str, format: str | None, given: Given) -> Path | None:
    """The training file of a run of align, where that is what is to be checked."""
    folder = Path(dataset)
    if dataset in given.catalogue.entries or format is not None or not folder.is_dir():
        return None
    if not (folder / _MERGED).is_file():
        raise ConfigError(
            "is no finished run of align: there is no result/merged.json",
            file=dataset,
            remedy="Finish it, or name the --format of a dataset.",
        )
    return folder / _MERGED


def _entry(
    dataset: str, merged: Path | None, format: str | None, split: str | None, given: Given
) -> DatasetEntry:
    from dataclasses import replace

    if merged is None:
        return given.catalogue.resolve(dataset, format, split)
    return replace(given.catalogue.resolve(merged, None, split), name=Path(dataset).resolve().name)


def _print_result(job: CheckJob, as_json: bool, run: str | None) -> None:
    found = read_object(job.out / "suspects.json")
    files = {k: str(path) for k, path in job.result.outputs.items()}
    if as_json:
        keys = ("dataset", "images", "annotations", "counts")
        pairs = [pair["classes"] for pair in found["split_classes"]]
        told: dict[str, Any] = {key: found[key] for key in keys}
        print_json({**told, "suspects": len(found["suspects"]), "split_classes": pairs, **files})
        return
    _print_counts(found)
    kept(f"suspects: {files['suspects']}")
    kept(f"report: {files['report']}")
    if not job.runtime.quiet:
        message("Next: look at them in FiftyOne, or at the surest in the report.")
        out = shlex.quote(str(job.out))
        of_run = "" if run is None else f"{shlex.quote(run)} --suspects "
        message(f"    relabel view {of_run}{out}")


def _print_counts(found: dict[str, Any]) -> None:
    """A row per class, a column per kind."""
    from collections import Counter

    from rich.box import SIMPLE_HEAD
    from rich.console import Console

    from relabel.evaluation.tables import rich_table

    counts: dict[str, dict[str, int]] = found["counts"]
    totals: Counter[str] = Counter()
    for of_kind in counts.values():
        totals.update(of_kind)
    shown = [name for name, _ in totals.most_common(_MOST_CLASSES)]
    rows = [
        [name, *(f"{counts[kind].get(name, 0) or '·'}" for kind in counts), f"{totals[name]:,}"]
        for name in shown
    ]
    say(
        f"{len(found['suspects']):,} suspects among {found['annotations']:,} annotations of "
        f"{found['dataset']}"
    )
    for pair in found["split_classes"]:
        say(f"split differently: {pair['reason']}")
    if not rows:
        return
    every = [f"{sum(of_kind.values()):,}" for of_kind in counts.values()]
    rows.append(["all", *every, f"{sum(totals.values()):,}"])
    head = [_HEADS.get(kind, kind) for kind in counts]
    table = rich_table((["class", *head, "all"], rows))
    # All columns stand whole on 80 characters; long names of classes are folded.
    table.box, table.padding = SIMPLE_HEAD, (0, 1, 0, 0)
    for column in table.columns:
        column.no_wrap = column is not table.columns[0]
    Console().print(table)
