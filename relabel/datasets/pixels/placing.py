"""Putting a dataset's images beside newly written labels, and writing files safely."""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
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
from relabel.workspace.atomic import (
    atomic_path,
    disk_full_as_error,
    remove_dead,
    sync,
    temporary_name,
)
from relabel.workspace.progress import progress

_WORTH_A_BAR = 200
_SCHEME = re.compile(r"^(?:[A-Za-z]:|zip:|bytes:|parquet:)")

_COPIED_BYTES = 2 * 1024**3
_SYNCED_ONE_BY_ONE = 64  # of more files, one sync of the whole disk is the faster

# Each stands in the names, one a line, wherever something is wrong with one of them.
_DOUBTFUL = ("\0", "\\", ":", "..", "\n/", "\n~", "\n\n", "/\n", "/.\n", "\n.\n")

MOST_NAME = 255
"""Bytes of the longest name of a file or folder."""
_MOST_PATH = 4000

CopyImages = Literal["none", "auto", "link", "copy"]
Placing = Literal["auto", "link", "copy", "hard"]


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """`atomic_path`, with every refusal of the operating system as one line.

    Raises:
        DataError: no permission, no such place, disk full, ...
    """
    with _refusals(path), atomic_path(path) as temp:
        yield temp


@contextmanager
def _refusals(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot be written: {error.strerror or error}",
            file=error.filename or path,
            remedy="Free some space or choose another --out.",
        ) from error


def write_small(path: str, data: bytes) -> bool:
    """Write a file into a folder that exists, whole or not at all; `sync_files` makes it last.

    Returns:
        False if the file was there with just these bytes, and was left alone.
    """
    temp = os.path.join(os.path.dirname(path), temporary_name())  # noqa: PTH118, PTH120
    with _refusals(path), disk_full_as_error(path):
        if _holds(path, data):
            return False
        try:
            with open(temp, "wb") as stream:  # noqa: PTH123 (Paths would double the time)
                stream.write(data)
            os.replace(temp, path)  # noqa: PTH105
        except BaseException:
            Path(temp).unlink(missing_ok=True)
            raise
    return True


def sync_files(files: Sequence[str]) -> None:
    """Flush files that were just written, and their folders, to the disk."""
    if len(files) > _SYNCED_ONE_BY_ONE and hasattr(os, "sync"):
        os.sync()
        return
    for path in [*files, *{os.path.dirname(file) for file in files}]:  # noqa: PTH120
        with _refusals(path):
            sync(Path(path))


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
    for place in {os.path.dirname(f"{folder}/{name}") for name in names}:  # noqa: PTH120
        remove_dead(place)
    mode = _without_hard_links(dataset, folder) if mode == "hard" else mode
    title, quiet = f"Placing images of {dataset.name}", quiet or len(names) < _WORTH_A_BAR
    written: list[str] = []
    led_out = _leading_out(dataset)
    placer = Placer(mode)
    with progress(title, len(names), unit="images", quiet=quiet) as bar:
        for row, name in enumerate(names):
            location = image_location(dataset, row)
            if is_packed(location) or os.path.isfile(location):  # noqa: PTH113
                if placer.place(location, f"{folder}/{name}"):
                    written.append(f"{folder}/{name}")
            else:
                problems.error(
                    "image file does not exist",
                    file=location,
                    record=records[row],
                    remedy="Check the dataset's root, or convert with --images none.",
                )
            bar.update()
    sync_files(written)
    if led_out:
        problems.warning(
            f"{len(led_out)} of {len(names)} images are reached through links that lead out of "
            f"this folder, such as {led_out[0]}: what they lead to is placed",
            file=dataset.root,
        )


def _leading_out(dataset: DetectionDataset) -> list[str]:
    """File names of images that links, theirs or their folders', take out of the root."""
    root = os.path.realpath(dataset.root)
    folders: dict[str, str] = {}
    found: list[str] = []
    for row, name in enumerate(dataset.images.file_name):
        location = image_location(dataset, row)
        if is_packed(location) or not location.startswith(f"{dataset.root}/"):
            continue
        folder = os.path.dirname(location)  # noqa: PTH120 (a Path per image costs time)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        place = folders[folder]
        if os.path.islink(location):  # noqa: PTH114
            place = os.path.realpath(location)
        if place != root and not place.startswith(f"{root.rstrip('/')}/"):
            found.append(name)
    return found


def _without_hard_links(dataset: DetectionDataset, folder: Path) -> Placing:
    """``hard`` where the first plain image can be linked, else what replaces it."""
    places = (image_location(dataset, row) for row in range(len(dataset)))
    first = next((Path(place) for place in places if not is_packed(place)), None)
    if first is None or not first.is_file():
        return "hard"
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / temporary_name()
    try:
        probe.hardlink_to(first.resolve())
    except OSError:  # another file system, or files of another user
        return "copy" if sum(image_sizes(dataset)) <= _COPIED_BYTES else "link"
    finally:
        probe.unlink(missing_ok=True)
    return "hard"


def place_image(location: str, target: Path, mode: Placing) -> None:
    """Make one image a file of its own: a symbolic link, a copy of the bytes, or a hard link.

    Symbolic links are relative, so that links and images can be moved together. Some loaders follow
    them and then refuse what lies outside their image folder: for these are hard links. Images
    inside an archive, a TFRecord or a Parquet file are extracted in any mode. A file that stands
    there already with the same bytes is left alone, so that a run can be repeated; another one is
    replaced in one step. With ``auto``, which else is ``link``, so is the image itself.

    Raises:
        DataError: the image is missing, it would be placed over itself, or the file cannot be
            written.
    """
    if Placer(mode).place(location, str(target)):
        sync_files([str(target)])


class Placer:
    """Places images one after the other; what is asked of their folders is asked once."""

    def __init__(self, mode: Placing) -> None:
        self.mode: Placing = mode
        self._real: dict[str, str] = {}
        self._made: set[str] = set()
        self._between: dict[tuple[str, str], str] = {}

    def place(self, location: str, target: str) -> bool:
        """Place an image; True if bytes were written that have to be synced."""
        folder = os.path.dirname(target)  # noqa: PTH120
        if is_packed(location):
            data = read_image_bytes(location)
            with _refusals(target):
                self._make(folder)
            return write_small(target, data)
        source = self._real_path(location)
        if not os.path.isfile(source):  # noqa: PTH113
            raise DataError(
                "image file does not exist",
                file=location,
                remedy="Check the dataset's root in relabel.toml.",
            )
        try:
            there = os.path.lexists(target)
            if there:
                if real_entry(target) in (real_entry(location), source):
                    if self.mode == "auto":
                        return False
                    raise placed_over_itself(target)
                if _is_placed(source, target, self.mode):
                    return False
            else:
                self._make(folder)
            return self._put(source, folder, target, there)
        except OSError as error:
            raise DataError(
                f"image cannot be placed: {error.strerror or error}",
                file=target,
                remedy="Free some space, or use --images copy where links are not possible.",
            ) from error

    def _put(self, source: str, folder: str, target: str, there: bool) -> bool:
        if self.mode != "copy" and not there:
            with suppress(FileExistsError):  # another process was faster
                self._link(source, folder, target)
                return False
        temp = os.path.join(folder, temporary_name())  # noqa: PTH118
        try:
            if self.mode == "copy":
                shutil.copyfile(source, temp)
            else:
                self._link(source, folder, temp)
            os.replace(temp, target)  # noqa: PTH105
        except BaseException:
            Path(temp).unlink(missing_ok=True)
            raise
        return self.mode == "copy"

    def _link(self, source: str, folder: str, name: str) -> None:
        """Make a link in a folder, which is either there or not, and never half."""
        if self.mode == "hard":
            os.link(source, name)
            return
        of, _, file = source.rpartition("/")
        between = self._between.get((of, folder))
        if between is None:
            start = self._real_folder(folder)
            between = os.path.relpath(source, start)[: -len(file)]
            self._between[of, folder] = between
        os.symlink(f"{between}{file}", name)  # noqa: PTH211

    def _make(self, folder: str) -> None:
        if folder not in self._made:
            os.makedirs(folder, exist_ok=True)  # noqa: PTH103
            self._made.add(folder)

    def _real_folder(self, folder: str) -> str:
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        return self._real[folder]

    def _real_path(self, path: str) -> str:
        """The path with all links followed."""
        folder, _, name = path.rpartition("/")
        if not folder or name in ("", ".", "..") or os.path.islink(path):  # noqa: PTH114
            return os.path.realpath(path)
        return f"{self._real_folder(folder).rstrip('/')}/{name}"


def _is_placed(source: str, target: str, mode: Placing) -> bool:
    """True if the target has the image's bytes, of its own where a copy is asked for."""
    if os.path.islink(target):  # noqa: PTH114
        return mode != "copy" and os.path.realpath(target) == source
    if not os.path.isfile(target):  # noqa: PTH113
        return False
    return os.path.samefile(target, source) or filecmp.cmp(source, target, shallow=False)  # noqa: PTH121


def holds_image(location: str, target: str) -> bool:
    """True if the file at ``target`` has the bytes of the image at ``location``."""
    if not os.path.isfile(target):  # noqa: PTH113
        return False
    if is_packed(location):
        return _holds(target, read_image_bytes(location))
    if not os.path.isfile(location):  # noqa: PTH113
        return False
    return os.path.samefile(location, target) or filecmp.cmp(location, target, shallow=False)  # noqa: PTH121


def _holds(path: str, data: bytes) -> bool:
    """True of a file of its own, no link, with just these bytes."""
    try:
        place = os.lstat(path)
    except OSError:
        return False
    if not stat.S_ISREG(place.st_mode) or place.st_size != len(data):
        return False
    return Path(path).read_bytes() == data


def real_entry(path: str) -> str:
    """The path with links of its folders followed, but not a link that it is itself."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)  # noqa: PTH118


def placed_over_itself(target: str) -> DataError:
    return DataError(
        "is an image of the dataset itself, over which it would be placed",
        file=target,
        remedy="Choose another --out, or --images none, which leaves images where they are.",
    )


def with_images_in(dataset: DetectionDataset, folder: Path) -> DetectionDataset:
    """A dataset with packed images, reading them from where `place_images` put them."""
    if not any(is_packed(place) for place in dataset.images.location or () if place):
        return dataset
    return replace(dataset, root=folder, images=replace(dataset.images, location=None))


def doubtful_names(names: Sequence[str]) -> bool:
    """Whether any of the names has to be looked at: 118,000 are seen through at once.

    False means that `file_name_fault` finds nothing, and that each can be encoded.
    """
    text = "\n".join(["", *names, ""])
    if any(sign in text for sign in _DOUBTFUL) or max(map(len, names), default=0) > 60:
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


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
    if len(file_name) * 4 > MOST_NAME:
        longest = max(len(part.encode(errors="replace")) for part in file_name.split("/"))
        if longest > MOST_NAME or len(file_name) > _MOST_PATH:
            return f"is longer than a file's may be ({longest} bytes in one part)"
    return None
