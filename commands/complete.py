"""``relabel complete``: fill in the unknown labels of a partially labelled image set."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from relabel.errors import ConfigError, Problems
from relabel.partial.settings import CompletionSettings
from relabel.workspace.progress import message, tell_problems

from ._options import FOLDER, Given, GroupedCommand, settings_options
from ._results import kept, print_json, with_default

if TYPE_CHECKING:
    from relabel.datasets.partial.labels import PartialLabels
    from relabel.settings import Runtime

TRAINING = (
    ("--backbone", "complete.backbone", "Hub id or folder. [facebook/dinov2-base]"),
    ("--image-size", "complete.image_size", "Side of images in pixels."),
    ("--epochs", "complete.epochs"),
    ("--steps", "complete.steps", "Training steps; 0: by epochs."),
    ("--batch-size", "complete.batch_size", "Images per step."),
    ("--lr", "complete.lr"),
)


@click.command(cls=GroupedCommand)
@click.option("--dataset", required=True, metavar="NAME|PATH", help="Images and what is known.")
@click.option("--format", help="Format of a dataset that is a path to a detection set.")
@click.option("--split", help="Split to complete. [train]")
@click.option("--test-split", metavar="SPLIT", help="Split to measure on. [test, if there is one]")
@click.option("-o", "--out", type=FOLDER, help="Folder of the result. [runs/completed/NAME]")
@click.option("--refit", is_flag=True, help="Refit each category's classifier in the end.")
@click.option(
    "--known",
    type=click.FloatRange(0, 1),
    metavar="X",
    help="Share of the labels that stays known; the others are hidden, and measured on. [all]",
)
@with_default(
    "--threshold",
    click.FloatRange(0, 1),
    0.5,
    "Confidence from which an unknown label counts as present.",
)
@click.option(
    "--features", type=FOLDER, metavar="DIR", help="Folder of kept maps, to share. [OUT/features]"
)
@click.option("--fiftyone", is_flag=True, help="Also write the result as a FiftyOne dataset.")
@click.option("--overwrite", is_flag=True, help="Start anew where settings or data changed.")
@click.option("--json", "as_json", is_flag=True, help="Print counts and measures as JSON.")
@settings_options(
    ("complete",),
    {
        "Training": (
            (
                "--method",
                "complete.method",
                "hst, bce, asl, csl, curriculum, sst, sarb, sr or clip-prompt.",
            ),
            *TRAINING,
        )
    },
    engine=True,
)
def cli(
    dataset: str,
    format: str | None,
    split: str | None,
    test_split: str | None,
    out: Path | None,
    refit: bool,
    known: float | None,
    threshold: float,
    features: Path | None,
    fiftyone: bool,
    overwrite: bool,
    as_json: bool,
    given: Given,
) -> None:
    """Fill in the unknown labels of images, each category known present, absent or unknown.

    A network is trained on what is known and gives every unknown label a calibrated confidence.
    DATASET is named in relabel.toml, or is a label file (CSV, JSON, Parquet, TSV), COCO, a VOC
    devkit, VG-200 or NUS-WIDE. Labels and report.html go to OUT. With --known the labels that are
    hidden (by --seed) measure the result. The same command resumes what was interrupted.
    """
    from relabel.datasets.partial.labels import hide
    from relabel.partial.job import METRICS, Completion, CompletionJob
    from relabel.studies.completion.measure import measure_completion

    runtime = given.runtime
    settings = given.of(CompletionSettings, "complete")
    problems = Problems(runtime.skip_bad)
    full = open_labels(given, dataset, format, split, problems)
    test = open_test(given, dataset, format, split, test_split, problems, full)
    if test is not None and test.classes != full.classes:
        raise ConfigError(
            f"the test split has other categories: {len(test.classes)}, and {len(full.classes)}",
            file=test.root,
            remedy="Name the same categories for both splits.",
        )
    completion = Completion(
        labels=full if known is None else hide(full, known, settings.seed),
        settings=settings,
        refit=refit,
        threshold=threshold,
        truth=None if known is None else full,
        test=test,
    )
    _warn_of_one_kind(completion.labels, problems)
    folder = out or Path("runs") / "completed" / full.name
    job = CompletionJob(completion, folder, runtime, measure_completion, cache=features)
    tell_problems(problems, runtime.quiet)
    job.run(overwrite=overwrite)
    tell_unreadable(job.unreadable, runtime)
    if fiftyone:
        message(f"FiftyOne: relabel view {job.write_fiftyone()}", quiet=runtime.quiet)
    found = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    if as_json:
        print_json(found)
        return
    kept(str(folder / "labels.parquet"))
    for name, value in found.items():
        text = f"{100 * value:.1f} %" if isinstance(value, float) else f"{value:,}" if value else ""
        if text:
            message(f"{name}: {text}", quiet=runtime.quiet)
    message(f"report: {folder / 'report.html'}", quiet=runtime.quiet)


def _warn_of_one_kind(labels: PartialLabels, problems: Problems) -> None:
    present, absent = labels.counts()
    if present.any() and not absent.any():
        problems.warning(
            "no label is known to be absent, so that unknown ones will look present; in label "
            "files -1 is absent and 0 unknown",
            file=labels.root or labels.name,
        )


def tell_unreadable(places: Iterable[str], runtime: Runtime) -> None:
    """List the images that a run went on without."""
    problems = Problems(runtime.skip_bad)
    for place in sorted(places):
        problems.error("cannot be read; its labels are guessed without it", file=place)
    tell_problems(problems, runtime.quiet)


def open_labels(
    given: Given, dataset: str, format: str | None, split: str | None, problems: Problems
) -> PartialLabels:
    """The labels of a dataset of relabel.toml or of a path.

    Args:
        split: ``train``, ``val`` or ``test`` of a dataset of relabel.toml, or a split of its
            format's own; of a path a split of its layout.
    """
    from relabel.datasets.partial.opening import open_partial

    if _is_path(given, dataset, format):
        return open_partial(Path(dataset), split, problems=problems)
    entry = given.catalogue.resolve(dataset, format)
    if split in (None, "train", "val", "test") and entry.has(split or "train"):
        return open_partial(entry, split, problems=problems)
    return open_partial(given.catalogue.resolve(dataset, format, split), problems=problems)


def open_test(
    given: Given,
    dataset: str,
    format: str | None,
    split: str | None,
    test_split: str | None,
    problems: Problems,
    full: PartialLabels,
) -> PartialLabels | None:
    """The labels of the split that is measured on; None where there is none.

    Images of ``full`` are left out of it: they are trained on.
    """
    from relabel.datasets.partial.opening import has_split

    if test_split is None:
        if split == "test":
            return None
        is_path = _is_path(given, dataset, format)
        source = Path(dataset) if is_path else given.catalogue.resolve(dataset, format)
        if not has_split(source, "test"):
            return None
        test_split = "test"
    return without_images_of(
        open_labels(given, dataset, format, test_split, problems), full, given.runtime.quiet
    )


def without_images_of(
    test: PartialLabels, full: PartialLabels, quiet: bool
) -> PartialLabels | None:
    """The test images that are not among those to complete; None where all are."""
    trained = set(map(full.location, range(len(full))))
    own = [row for row in range(len(test)) if test.location(row) not in trained]
    if len(own) == len(test):
        return test
    message(
        f"{len(test) - len(own)} of {len(test)} test images are among those to complete, and not "
        "measured on",
        quiet=quiet,
    )
    return test.select(own) if own else None


def _is_path(given: Given, dataset: str, format: str | None) -> bool:
    """Whether a dataset is a path that says itself how it is read."""
    from relabel.datasets.partial.layouts import find_layout

    path = Path(dataset).expanduser()
    if dataset in given.catalogue.entries or not path.exists():
        return False
    return format is None or find_layout(path) == format.lower().replace("-", "_")
