"""``relabel train-specialist``: a detector for one dataset in its own label space."""

from __future__ import annotations

import json
from pathlib import Path

import click

from relabel.detectors.settings import SpecialistSettings
from relabel.errors import Problems
from relabel.workspace.progress import message, tell_problems

from ._options import FOLDER, Given, GroupedCommand, settings_options
from ._results import kept, print_json


@click.command(cls=GroupedCommand)
@click.argument("dataset")
@click.option("--format", help="Format, where DATASET is a path.")
@click.option("--split", help="Split to train on; default the one of relabel.toml.")
@click.option("-o", "--out", type=FOLDER, help="Checkpoint folder. [runs/specialists/NAME]")
@click.option("--overwrite", is_flag=True, help="Start anew where settings or data changed.")
@click.option("--json", "as_json", is_flag=True, help="Print folder and validation AP as JSON.")
@settings_options(
    ("specialist",),
    {
        "Training": (
            ("--preset", "specialist.preset", "For a few cores, or as published. [light]"),
            ("--detector", "specialist.detector"),
            ("--backbone", "specialist.backbone"),
            ("--epochs", "specialist.epochs"),
            ("--steps", "specialist.steps"),
            ("--batch-size", "specialist.batch_size"),
            ("--image-size", "specialist.image_size"),
            ("--lr", "specialist.lr"),
            ("--precision", "specialist.precision"),
            ("--eval-every", "specialist.eval_every"),
        )
    },
)
def cli(
    dataset: str,
    format: str | None,
    split: str | None,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
    given: Given,
) -> None:
    """Train a detector on DATASET, a name of relabel.toml or a path.

    The same command resumes an interrupted training at the exact step. Where relabel.toml names
    validation images, their AP is printed.
    """
    from relabel.align.inputs import read_training_set
    from relabel.align.job import backbone_identities
    from relabel.align.plan import specialist_stage
    from relabel.datasets.fingerprint import dataset_fingerprint

    runtime = given.runtime
    settings = given.of(SpecialistSettings, "specialist").resolved()
    entry = given.catalogue.resolve(dataset, format, split)
    folder = out or Path("runs") / "specialists" / entry.name
    problems = Problems(runtime.skip_bad)
    train = read_training_set(entry, folder.parent, runtime, problems)
    tell_problems(problems, runtime.quiet)
    stage = specialist_stage(
        entry.name,
        folder,
        dataset_fingerprint(train),
        settings,
        backbone_identities(settings.backbone),
    )

    def train_it() -> None:
        from relabel.detectors.specialist import train_specialist
        from relabel.evaluation.detector import validator

        problems = Problems(runtime.skip_bad)
        val = entry.read("val", problems=problems) if entry.has("val") else None
        tell_problems(problems, runtime.quiet)
        train_specialist(train, folder, settings, runtime, validate=validator(val, runtime))

    if not stage.run(train_it, overwrite=overwrite):
        message("Trained already.", quiet=runtime.quiet)
    measured = _last_validation(folder)
    if as_json:
        print_json({"checkpoint": str(folder), "validation": measured})
        return
    kept(str(folder))
    for name, value in (measured or {}).items():
        message(f"validation {name}: {value:.4f}", quiet=runtime.quiet)


def _last_validation(folder: Path) -> dict[str, float] | None:
    """The metrics of the last validation, None if there was none."""
    file = folder / "metrics.json"
    history = json.loads(file.read_text(encoding="utf-8"))["validation"] if file.is_file() else []
    return {k: v for k, v in history[-1].items() if k.startswith("AP")} if history else None
