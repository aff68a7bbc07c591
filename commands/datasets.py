"""``relabel datasets``: list, describe, validate and convert datasets."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from relabel.errors import Problem, Problems
from relabel.workspace.progress import message, tell_problems

from ._options import catalogue_options
from ._results import print_json, print_or_save, say

if TYPE_CHECKING:
    from relabel.catalogue.catalogue import Catalogue
    from relabel.datasets.dataset import DetectionDataset

F = TypeVar("F", bound=Callable[..., Any])


def _source(function: F) -> F:
    """PATH, --format and --split: the dataset to read."""
    for decorator in (
        click.option("--split", metavar="SPLIT", help="Such as train, val or test."),
        click.option(
            "--format", metavar="FORMAT", help="Its format; `relabel datasets list` has them all."
        ),
        click.argument("path", metavar="PATH"),
    ):
        function = decorator(function)
    return function


_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_SKIP_BAD = click.option(
    "--skip-bad", is_flag=True, help="Go on past bad records and list them on stderr."
)


@click.group()
def cli() -> None:
    """List, describe, validate and convert datasets.

    PATH is a dataset's root folder, a file where the format is one file, or a name of
    relabel.toml, which brings its own format.
    """


@cli.command("list")
@_JSON
@catalogue_options
def list_datasets(as_json: bool, catalogue: Catalogue) -> None:
    """List the formats, the built-in label spaces, and the datasets of relabel.toml."""
    from relabel.datasets.formats.registry import FORMATS
    from relabel.datasets.labelspace import LabelSpace

    found = {
        "formats": [
            {
                "name": f.name,
                "title": f.title,
                "read": f.has_reader,
                "write": f.has_writer,
                "one_file": f.one_file,
                "path": f.description,
            }
            for f in FORMATS.values()
        ],
        "label_spaces": [
            {"name": name, "classes": LabelSpace.load(name).class_names}
            for name in LabelSpace.builtin_names()
        ],
        "datasets": [
            {
                "name": entry.name,
                "format": entry.format,
                "root": str(entry.root),
                "splits": {**entry.splits, **entry.files},
                "selection": entry.selection.to_dict(),
            }
            for entry in catalogue.entries.values()
        ],
    }
    formats = [
        [f.name, "yes" if f.has_reader else "", "yes" if f.has_writer else "", f.description]
        for f in FORMATS.values()
    ]
    spaces = []
    for row in found["label_spaces"]:
        names = row["classes"]
        listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        spaces.append([row["name"], str(len(names)), listed])
    datasets = []
    for row, entry in zip(found["datasets"], catalogue.entries.values(), strict=True):
        splits = ", ".join(f"{k}: {v}" for k, v in row["splits"].items())
        splits = "; ".join(text for text in (splits, str(entry.selection)) if text)
        datasets.append([row["name"], row["format"], row["root"], splits])
    shown = [
        ("Formats", (["name", "read", "write", "PATH is"], formats)),
        ("Label spaces", (["name", "classes", ""], spaces)),
    ]
    if datasets:
        title = f"Datasets of {catalogue.file or '--data'}"
        shown.append((title, (["name", "format", "root", "splits"], datasets)))
    print_or_save(found, shown, as_json, None)
    if not datasets and not as_json:
        say("No datasets are named: no relabel.toml here or above.")


@cli.command("describe")
@_source
@_JSON
@_SKIP_BAD
@catalogue_options
def describe_command(
    path: str,
    format: str | None,
    split: str | None,
    as_json: bool,
    skip_bad: bool,
    catalogue: Catalogue,
) -> None:
    """Count a dataset's images, boxes and ignored boxes, and the boxes of each category."""
    from relabel.datasets.describe import describe

    problems = Problems(skip_bad=skip_bad)
    dataset = _read(catalogue, path, format, split, problems)
    tell_problems(problems)
    counts = describe(dataset)
    rows = [[name, str(n)] for name, n in counts["categories"].items()]
    rows += [["all", str(counts["boxes"])], ["ignored, not counted", str(counts["ignored"])]]
    title = f"{dataset.name}: {counts['images']} images"
    print_or_save(counts, [(title, (["category", "boxes"], rows))], as_json, None)


@cli.command("validate")
@_source
@_JSON
@click.option(
    "--decode/--no-decode", default=True, help="Decode every image, or read only its header."
)
@click.option("--quiet", is_flag=True, help="Print no progress.")
@catalogue_options
def validate_command(
    path: str,
    format: str | None,
    split: str | None,
    as_json: bool,
    decode: bool,
    quiet: bool,
    catalogue: Catalogue,
) -> None:
    """Check a dataset's annotations and images, and list everything that is wrong.

    Without --split every split is checked. Exit status 1 if there is any error. Warnings are what
    was mended in reading, such as boxes clipped to their image, and what is likely to be a mistake:
    images that two splits share, duplicates, classes and images without boxes, images that no label
    mentions, one class in several spellings.
    """
    from relabel.datasets.formats.registry import is_one_split
    from relabel.datasets.validate import validate

    one_split = path not in catalogue.entries and is_one_split(Path(path).expanduser(), format)
    result = validate(
        lambda name, problems: _read(catalogue, path, format, name, problems, check_images=False),
        path,
        split=split,
        one_split=one_split,
        decode=decode,
        quiet=quiet or as_json,
    )
    if as_json:
        print_json(result)
    else:
        for problem in result["problems"]:
            say(f"{problem['severity']}: {Problem(**problem)}")
        errors = sum(p["severity"] == "error" for p in result["problems"])
        warnings = len(result["problems"]) - errors
        say(f"{'ok' if result['ok'] else 'not ok'}: {errors} errors, {warnings} warnings")
    if not result["ok"]:
        sys.exit(1)


@cli.command("convert")
@_source
@click.option("--to", required=True, metavar="FORMAT", help="coco, voc, yolo or fiftyone.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Folder to write; for coco a .json path is the file itself, and a folder gets "
    "annotations/instances_SPLIT.json.",
)
@click.option(
    "--map",
    "map_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="YAML of `source name: target name`, null to drop. Every category with boxes must be "
    "in it; the new ids count from 1 in the order of the map.",
)
@click.option(
    "--images",
    type=click.Choice(["auto", "none", "link", "copy"]),
    default="auto",
    show_default=True,
    help="Put images beside the labels; auto links them for voc and yolo.",
)
@click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="The images' folder, where it is another than the dataset's.",
)
@click.option(
    "--extract-images",
    is_flag=True,
    help="Put images that lie inside records or archives (Waymo, SHIFT) beside the labels.",
)
@_SKIP_BAD
@catalogue_options
def convert_command(
    path: str,
    format: str | None,
    split: str | None,
    to: str,
    out: Path,
    map_file: Path | None,
    images: Any,
    root: Path | None,
    extract_images: bool,
    skip_bad: bool,
    catalogue: Catalogue,
) -> None:
    """Write a dataset in another format, under a map of category names if one is given.

    A COCO file states in info.relabel.root where its images are, relative to itself. A folder
    outside the dataset's own is read, but images are placed from there only under --root.
    """
    from relabel.datasets.convert import convert
    from relabel.datasets.formats.registry import format_info
    from relabel.datasets.namemap import NameMap

    # Refused before a large dataset is read.
    format_info(to)
    name_map = None if map_file is None else NameMap.load(map_file)
    problems = Problems(skip_bad=skip_bad)
    dataset = _read(catalogue, path, format, split, problems)
    if root is not None:
        dataset = replace(dataset, root=root, outside=False)
    result = convert(
        dataset,
        to,
        out,
        split=split or "train",
        name_map=name_map,
        images=images,
        extract_images=extract_images,
        problems=problems,
    )
    tell_problems(problems)
    for note in result.notes:
        message(f"warning: {note}")
    images_and_boxes = f"{len(result.dataset)} images and {result.boxes} boxes"
    message(f"{images_and_boxes} written to {result.files[0]}")


def _read(
    catalogue: Catalogue,
    path: str,
    format: str | None,
    split: str | None,
    problems: Problems,
    *,
    check_images: bool = True,
) -> DetectionDataset:
    """A dataset by name or path; a name's own train, val and test come before a format's."""
    named = catalogue.entries.get(path)
    if named is not None and split in ("train", "val", "test") and named.has(split):
        return catalogue.resolve(path, format).read(
            split, problems=problems, check_images=check_images
        )
    entry = catalogue.resolve(path, format, split)
    return entry.read(problems=problems, check_images=check_images)
