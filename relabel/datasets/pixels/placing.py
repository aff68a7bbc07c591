"""Putting a dataset's images beside newly written labels, and writing files safely."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.pixels.location import (
    image_location,
    image_sizes,
    is_packed,
    read_image_bytes,
)
from relabel.errors import DataError, Problems
from relabel.workspace.atomic import TEMP_PREFIX, atomic_path
from relabel.workspace.progress import progress

_WORTH_A_BAR = 200
_SCHEME = re.compile(r"^(?:[A-Za-z]:|zip:|bytes:|parquet:)")

_COPIED_BYTES = 2 * 1024**3

CopyImages = Literal["none", "link", "copy"]
Placing = Literal["link", "copy", "hard"]


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """`atomic_path`, with every refusal of the operating system as one line.

    Raises:
        DataError: no permission, no such place, disk full, ...
    """
    try:
        with atomic_path(path) as temp:
            yield temp
    except OSError as error:
        raise DataError(
            f"cannot be written: {error.strerror or error}",
            file=error.filename or path,
            remedy="Free some space or choose another --out.",
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with writing(path) as temp:
        temp.write_text(text, encoding="utf-8", newline="\n")


def place_images(
    dataset: DetectionDataset,
    folder: Path,
    mode: Placing,
    *,
    names: list[str] | None = None,
    problems: Problems | None = None,
    quiet: bool = False,
) -> None:
    """Put every image at ``folder / name``; see `place_image`.

    Where the file system allows no hard links, a dataset of up to 2 GB is copied and the files of
    a larger one become symbolic links.

    Args:
        names: names relative to ``folder``; default the dataset's file names.
        problems: receives missing images; default raises on the first.

    Raises:
        DataError: an image is missing and problems are not to be skipped, a name leads out of the
            folder, or the output cannot be written.
    """
    problems = Problems() if problems is None else problems
    names = list(dataset.images.file_name) if names is None else names
    records = [f"image {i}" for i in dataset.images.id]
    for record, name in zip(records, names, strict=True):
        fault = file_name_fault(name)
        if fault is not None:
            raise DataError(f"file_name {name!r} {fault}", record=record)
    mode = _without_hard_links(dataset, folder) if mode == "hard" else mode
    title, quiet = f"Placing images of {dataset.name}", quiet or len(names) < _WORTH_A_BAR
    with progress(title, len(names), unit="images", quiet=quiet) as bar:
        for row, name in enumerate(names):
            location = image_location(dataset, row)
            if is_packed(location) or Path(location).is_file():
                place_image(location, folder / name, mode)
            else:
                problems.error(
                    "image file does not exist",
                    file=location,
                    record=records[row],
                    remedy="Check the dataset's root, or convert with --images none.",
                )
            bar.update()


def _without_hard_links(dataset: DetectionDataset, folder: Path) -> Placing:
    """``hard`` where the first plain image can be linked, else what replaces it."""
    places = (image_location(dataset, row) for row in range(len(dataset)))
    first = next((Path(place) for place in places if not is_packed(place)), None)
    if first is None or not first.is_file():
        return "hard"
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f"{TEMP_PREFIX}link"
    probe.unlink(missing_ok=True)
    try:
        probe.hardlink_to(first.resolve())
    except OSError:  # another file system, or files of another user
        return "copy" if sum(image_sizes(dataset)) <= _COPIED_BYTES else "link"
    probe.unlink()
    return "hard"


def place_image(location: str, target: Path, mode: Placing) -> None:
    """Make one image a file of its own: a symbolic link, a copy of the bytes, or a hard link.

    Symbolic links are relative, so that links and images can be moved together. Some loaders follow
    them and then refuse what lies outside their image folder: for these are hard links. Images
    inside an archive, a TFRecord or a Parquet file are extracted in any mode. An image that stands
    there already with the same size is left alone, so that a run can be repeated.

    Raises:
        DataError: the image is missing, or the file cannot be written.
    """
    if is_packed(location):
        data = read_image_bytes(location)
        if not _same_file(target, len(data)):
            with writing(target) as temp:
                temp.write_bytes(data)
        return
    source = Path(location).resolve()
    if not source.is_file():
        raise DataError(
            "image file does not exist",
            file=location,
            remedy="Check the dataset's root in relabel.toml.",
        )
    if target.is_file() and target.samefile(source) and (mode != "copy" or not target.is_symlink()):
        return
    if _same_file(target, source.stat().st_size):
        return
    try:
        target.unlink(missing_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        if mode == "link":
            target.symlink_to(os.path.relpath(source, target.parent.resolve()))
        elif mode == "hard":
            target.hardlink_to(source)
        else:
            with writing(target) as temp:
                shutil.copyfile(source, temp)
    except OSError as error:
        raise DataError(
            f"image cannot be placed: {error.strerror or error}",
            file=target,
            remedy="Free some space, or use --images copy where links are not possible.",
        ) from error


def _same_file(target: Path, size: int) -> bool:
    return not target.is_symlink() and target.is_file() and target.stat().st_size == size


def with_images_in(dataset: DetectionDataset, folder: Path) -> DetectionDataset:
    """A dataset with packed images, reading them from where `place_images` put them."""
    if not any(is_packed(place) for place in dataset.images.location or () if place):
        return dataset
    return replace(dataset, root=folder, images=replace(dataset.images, location=None))


def file_name_fault(file_name: str) -> str | None:
    """What is wrong with a file name, or None."""
    if not file_name:
        return "is empty"
    if file_name[0] in "/\\~" or _SCHEME.match(file_name):
        return "is not relative"
    if "\0" in file_name:
        return "holds a NUL byte"
    if ".." in file_name and ".." in re.split(r"[/\\]", file_name):
        return "leads out of the dataset's root"
    return None
