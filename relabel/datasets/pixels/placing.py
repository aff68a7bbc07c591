"""Putting a dataset's images beside newly written labels, and writing files safely."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.pixels.location import image_location, read_image_bytes
from relabel.errors import DataError, Problems
from relabel.workspace.atomic import atomic_path
from relabel.workspace.progress import progress

_WORTH_A_BAR = 200
_SCHEME = re.compile(r"^(?:[A-Za-z]:|zip:|bytes:|parquet:)")

CopyImages = Literal["none", "link", "copy"]


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
    mode: CopyImages,
    *,
    names: list[str] | None = None,
    problems: Problems | None = None,
) -> None:
    """Put every image at ``folder / name``: as a symbolic link, or as a copy of the bytes.

    Images inside an archive, a TFRecord or a Parquet file are extracted in either mode. An image
    that stands there already with the same size is left alone, so that a run can be repeated.

    Args:
        mode: ``link`` or ``copy``.
        names: names relative to ``folder``; default the dataset's file names.
        problems: receives missing images; default raises on the first.

    Raises:
        DataError: an image is missing and problems are not to be skipped, or the output cannot
            be written.
    """
    problems = Problems() if problems is None else problems
    names = list(dataset.images.file_name) if names is None else names
    quiet = len(names) < _WORTH_A_BAR
    with progress("Placing images", len(names), unit="images", quiet=quiet) as bar:
        for row, name in enumerate(names):
            record = f"image {dataset.images.id[row]}"
            fault = file_name_fault(name)
            if fault is not None:
                raise DataError(f"file_name {name!r} {fault}", record=record)
            location = image_location(dataset, row)
            if is_packed(dataset, row):
                _extract(location, folder / name)
            elif Path(location).is_file():
                _place(Path(location), folder / name, mode)
            else:
                problems.error(
                    "image file does not exist",
                    file=location,
                    record=record,
                    remedy="Check the dataset's root, or convert with --images none.",
                )
            bar.update()


def is_packed(dataset: DetectionDataset, row: int) -> bool:
    """True if the image is a part of a larger file: an archive, a TFRecord, a Parquet file."""
    if dataset.images.location is None:
        return False
    return dataset.images.location[row].partition(":")[0] in ("zip", "bytes", "parquet")


def _extract(location: str, target: Path) -> None:
    if target.is_file() and not target.is_symlink() and target.stat().st_size:
        return
    data = read_image_bytes(location)
    with writing(target) as temp:
        temp.write_bytes(data)


def _place(source: Path, target: Path, mode: CopyImages) -> None:
    if target.exists() and target.resolve() == source.resolve() and mode == "link":
        return
    if target.is_symlink():
        target.unlink()
    elif target.is_file():
        if target.samefile(source) or target.stat().st_size == source.stat().st_size:
            return
        target.unlink()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if mode == "link":
            here = os.path.relpath(source.resolve(), target.parent.resolve())
            target.symlink_to(here)
        else:
            with writing(target) as temp:
                shutil.copyfile(source, temp)
    except OSError as error:
        raise DataError(
            f"image cannot be placed: {error.strerror or error}",
            file=target,
            remedy="Free some space, or use --images copy where links are not possible.",
        ) from error


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
