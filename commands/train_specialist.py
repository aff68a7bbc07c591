"""``relabel train-specialist``: a detector for one dataset in its own label space."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click

from relabel.detectors.semi.settings import SemiSettings
from relabel.detectors.settings import SpecialistSettings
from relabel.errors import ConfigError, Problems
from relabel.files.remote import is_url
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

    @cache
    def val() -> DetectionDataset | None:
        """Read where it is asked for first, if at all."""
        problems = Problems(runtime.skip_bad)
        found = entry.read("val", problems=problems) if entry.has("val") else None
        tell_problems(problems, runtime.quiet)
        return found

    if images:
        images = _apart(images, {"training": train, "validation": val()}, runtime)
    tell_problems(problems, runtime.quiet)
    semi = given.of(SemiSettings, "semi") if images else None
    if semi is None and given.typed("semi"):
        message("Without --unlabeled, settings of [semi] change nothing.", quiet=runtime.quiet)
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

        validate = validator(val(), runtime)
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
    seen: set[str | Path] = set()
    for text in comma_list(names):
        path, known = Path(text).resolve(), text in catalogue.entries
        if (text if known else path) in seen:
            continue
        seen.add(text if known else path)
        # A folder is the same input however it is typed, and wherever it is moved to.
        name = text if known or path.name in found else path.name
        if is_url(text) or (not known and path.is_dir()):
            place = text if is_url(text) else Path(text)
            images = read_unlabelled(place, name, problems, runtime.workers)
        elif known or not path.exists() or ".json" in path.suffixes:
            # What is wrong with boxes that nobody reads must not be in the way.
            images = catalogue.resolve(text).read("train", problems=Problems(skip_bad=True))
        else:
            raise ConfigError(
                "--unlabeled cannot read this file",
                file=text,
                remedy="Name a dataset of relabel.toml, a folder of photos or a COCO file (.json).",
            )
        found[name] = usable_images(images, work, runtime, problems)
        if not len(found[name]):
            raise ConfigError(
                "no image of --unlabeled can be read",
                file=images.root,
                remedy="Check the folder or the dataset's split, or leave it out.",
            )
    return found


def _apart(
    images: Mapping[str, DetectionDataset],
    labelled: Mapping[str, DetectionDataset | None],
    runtime: Runtime,
) -> dict[str, DetectionDataset]:
    """The unlabelled images without those that are labelled ones, which is said."""
    from relabel.datasets.pixels.unlabelled import without_images_of

    found = {}
    for name, these in images.items():
        for what, dataset in labelled.items():
            left = these if dataset is None else without_images_of(these, [dataset])
            if len(left) < len(these):
                text = f"{len(these) - len(left)} images of {name} are {what} images"
                message(f"{text}, and not learned from as unlabelled ones.", quiet=runtime.quiet)
            these = left
        if not len(these):
            raise ConfigError(
                f"all images of {name} are labelled ones already",
                remedy="Leave it out of --unlabeled.",
            )
        found[name] = these
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
