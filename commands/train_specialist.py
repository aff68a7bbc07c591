"""``relabel train-specialist``: a detector for one dataset in its own label space."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from relabel.detectors.semi.settings import SemiSettings
from relabel.detectors.settings import SpecialistSettings
from relabel.errors import ConfigError, Problems
from relabel.workspace.progress import message, tell_problems

from ._options import FOLDER, Given, GroupedCommand, comma_list, settings_options
from ._results import kept, print_json

if TYPE_CHECKING:
    from relabel.catalogue.catalogue import Catalogue
    from relabel.datasets.dataset import DetectionDataset
    from relabel.settings import Runtime


@click.command(cls=GroupedCommand)
@click.argument("dataset")
@click.option("--format", help="Format, where DATASET is a path.")
@click.option("--split", help="Split to train on; default the one of relabel.toml.")
@click.option(
    "--unlabeled",
    multiple=True,
    metavar="NAME|PATH,...",
    help="Images to learn from without labels: datasets or folders of photos; may be repeated.",
)
@click.option("-o", "--out", type=FOLDER, help="Checkpoint folder. [runs/specialists/NAME]")
@click.option("--overwrite", is_flag=True, help="Start anew where settings or data changed.")
@click.option("--json", "as_json", is_flag=True, help="Print folder and validation AP as JSON.")
@settings_options(
    ("specialist", "semi"),
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
    unlabeled: tuple[str, ...],
    out: Path | None,
    overwrite: bool,
    as_json: bool,
    given: Given,
) -> None:
    """Train a detector on DATASET, a name of relabel.toml or a path.

    The same command resumes an interrupted training at the exact step. Where relabel.toml names
    validation images, their AP is printed.

    With --unlabeled a teacher, the moving average of what is trained, labels those images, and
    its surest labels are learned too. Their own boxes are not read. Of a training with validation
    images the best state is kept, else the last.
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
    if unlabeled and not comma_list(unlabeled):
        raise click.BadParameter("names nothing.", param_hint="'--unlabeled'")
    images = _unlabelled(unlabeled, given.catalogue, folder.parent, runtime, problems)
    tell_problems(problems, runtime.quiet)
    semi = given.of(SemiSettings, "semi") if images else None
    stage = specialist_stage(
        entry.name,
        folder,
        dataset_fingerprint(train),
        settings,
        backbone_identities(settings.backbone),
        semi=semi,
        unlabelled={name: dataset_fingerprint(d, boxes=False) for name, d in images.items()},
    )

    def train_it() -> None:
        from relabel.detectors.semi.train import train_with_unlabelled
        from relabel.detectors.specialist import train_specialist
        from relabel.evaluation.detector import validator

        problems = Problems(runtime.skip_bad)
        val = entry.read("val", problems=problems) if entry.has("val") else None
        tell_problems(problems, runtime.quiet)
        validate = validator(val, runtime)
        if semi is None:
            train_specialist(train, folder, settings, runtime, validate=validate)
        else:
            train_with_unlabelled(train, images, folder, settings, semi, runtime, validate=validate)

    if not stage.run(train_it, overwrite=overwrite):
        message("Trained already.", quiet=runtime.quiet)
    measured = _validation(folder)
    if as_json:
        print_json({"checkpoint": str(folder), "validation": measured})
        return
    kept(str(folder))
    for name, value in (measured or {}).items():
        message(f"validation {name}: {value:.4f}", quiet=runtime.quiet)


def _unlabelled(
    names: Iterable[str], catalogue: Catalogue, work: Path, runtime: Runtime, problems: Problems
) -> dict[str, DetectionDataset]:
    """The images that --unlabeled names, without their boxes; a folder named twice counts once."""
    from relabel.align.inputs import usable_images
    from relabel.datasets.pixels.unlabelled import read_unlabelled

    found: dict[str, DetectionDataset] = {}
    folders: set[Path] = set()
    for name in comma_list(names):
        path = Path(name)
        if name not in catalogue.entries and path.is_dir():
            if path.resolve() in folders:
                continue
            folders.add(path.resolve())
            images = read_unlabelled(path, name, problems, runtime.workers)
        elif name not in catalogue.entries and path.is_file() and ".json" not in path.suffixes:
            raise ConfigError(
                "--unlabeled cannot read this file",
                file=path,
                remedy="Name a dataset of relabel.toml, a folder of photos or a COCO file (.json).",
            )
        else:
            # Whatever is wrong with boxes that nobody reads must not be in the way.
            boxes = Problems(skip_bad=True)
            images = catalogue.resolve(name).read("train", problems=boxes)
        found[name] = usable_images(images, work, runtime, problems)
        if not len(found[name]):
            raise ConfigError(
                "no image of --unlabeled can be read",
                file=images.root,
                remedy="Check the folder or the dataset's split, or leave it out.",
            )
    return found


def _validation(folder: Path) -> dict[str, float] | None:
    """The metrics of the weights that were kept, None if there was no validation."""
    file = folder / "metrics.json"
    told = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    history = told.get("validation") or []
    if not history:
        return None
    kept = next((row for row in history if row["step"] == told.get("kept")), history[-1])
    return {k: v for k, v in kept.items() if k.startswith("AP")}
