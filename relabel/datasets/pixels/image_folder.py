"""Images with one label each, as ImageNet stores them: class folders, or a folder and a list.

Shape legend: ``N`` images, ``C`` classes. Labels are class indices, -1 for images without one.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from relabel.datasets.classes import (
    MOST_CLASSES,
    ClassNames,
    LabelLine,
    read_class_list,
    read_label_lines,
)
from relabel.datasets.pixels.location import read_rgb, stored_bytes
from relabel.errors import DataError, Problems, did_you_mean

_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".jp2")
)
_UNPRINTABLE = re.compile(
    "[\t\n\r\0\ud800-\udfff]"
)  # surrogates stand for bytes that are not UTF-8
_WNID = re.compile(r"n\d{8}")
_SHOWN = 5


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images below one folder, with at most one label each.

    Attributes:
        root: the folder.
        file_names: N paths relative to ``root``, with forward slashes, sorted; class folders that
            are numbers are sorted as numbers.
        labels: int32 [N], class index, -1 where the image has no label.
        class_names: C names; empty where nothing tells the classes.
        class_keys: C keys that the files use: WordNet ids, or the names again.
    """

    root: Path
    file_names: list[str]
    labels: np.ndarray
    class_names: list[str]
    class_keys: list[str]

    def __len__(self) -> int:
        return len(self.file_names)

    @property
    def num_classes(self) -> int:
        """Number of classes (C)."""
        return len(self.class_names)

    def location(self, row: int) -> str:
        """Path of an image, as `relabel.datasets.pixels.location` takes it."""
        return f"{self.root}/{self.file_names[row]}"

    def select(self, rows: np.ndarray | Sequence[int] | slice) -> ImageSet:
        """The images of these rows, in their order; the classes stay."""
        chosen = np.arange(len(self))[rows]
        names = [self.file_names[i] for i in chosen.tolist()]
        return replace(self, file_names=names, labels=self.labels[chosen])

    def fingerprint(self, *, sizes: bool = True) -> str:
        """SHA-256 (hex) of names, labels, classes and sizes of the image files, not of the root.

        Sizes stand for the pixels: they cost a few microseconds per image on a local disk, reading
        all images would take hours.

        Args:
            sizes: False leaves the files alone, for folders where asking for sizes is slow.
        """
        digest = hashlib.sha256()
        for values in (self.file_names, self.class_names, self.class_keys):
            digest.update(f"{len(values)}:".encode())
            digest.update("\0".join(values).encode())
        digest.update(np.ascontiguousarray(self.labels, dtype="<i4").tobytes())
        if sizes:
            found = [stored_bytes(self.location(i)) for i in range(len(self))]
            digest.update(np.array(found, dtype="<i8").tobytes())
        return digest.hexdigest()


def load_image(images: ImageSet, row: int) -> np.ndarray:
    """`read_rgb` of one image of the set."""
    return read_rgb(images.location(row))


@cache
def imagenet_classes() -> ClassNames:
    """ImageNet's 1,000 classes: names, and WordNet ids as keys."""
    return read_class_list("imagenet1k")


def read_image_set(
    root: str | Path,
    labels_file: str | Path | None = None,
    classes: str | Path | None = None,
    *,
    problems: Problems | None = None,
) -> ImageSet:
    """List the images below a folder, with their labels; no image is opened.

    Without ``labels_file`` the first folder below ``root`` is the class:

    - WordNet ids get ImageNet's class index, also where only some of the 1,000 are there;
    - whole numbers (ImageNetV2) are class indices;
    - other folders are the classes, in sorted order.

    Images straight in ``root``, with no folder beside them, have no label. With ``labels_file``
    folders mean nothing, and images it does not name have no label.

    Args:
        root: the folder.
        labels_file: lines ``file name, class``, separated by a tab or a comma, the names relative
            to ``root``, the class an index, a WordNet id or a name. A header line ``filename ...``
            and further columns are passed over.
        classes: the classes, where they are not the ones above: a YAML file (a list, a mapping of
            indices to names, or a label space), a text file with a line ``name`` or ``key<TAB>
            name`` per class, or the name of a built-in label space. Without it, indices and names
            that ImageNet has are ImageNet's; other names are sorted, other indices are their own
            names.
        problems: receives bad records; default raises on the first.

    Raises:
        DataError: no images, an unknown class, a file that is listed twice or does not exist, and
            problems are not to be skipped.
        ConfigError: ``classes`` names neither a file nor a label space.
    """
    root, problems = Path(root), Problems() if problems is None else problems
    known = None if classes is None else read_class_list(classes)
    if not root.is_dir():
        raise DataError(
            "is not a folder" if root.exists() else "does not exist",
            file=root,
            remedy="Give the folder that holds the images.",
        )
    if labels_file is not None:
        names, labels, known = _from_lines(root, Path(labels_file), known, problems)
    else:
        names, labels, known = _from_folders(root, known, problems)
    if not names:
        raise DataError(
            "holds no images",
            file=root,
            remedy=f"Known are {', '.join(sorted(_SUFFIXES))} files, also in folders below it.",
        )
    return ImageSet(root, names, np.array(labels, np.int32), known.names, known.keys)


def _from_folders(
    root: Path, known: ClassNames | None, problems: Problems
) -> tuple[list[str], list[int], ClassNames]:
    loose, folders = _scan(root)
    found = {folder: sorted(_walk(root / folder, f"{folder}/")) for folder in folders}
    found = {folder: names for folder, names in found.items() if names}
    if not found:
        names = _printable(root, sorted(loose), problems)
        return names, [-1] * len(names), known or ClassNames([], [])
    if loose:
        problems.error(
            f"{len(loose)} images lie beside the class folders, such as {min(loose)!r}",
            file=root,
            remedy="Move them into class folders, or give the labels in a file with --labels.",
        )
    numbers = {folder: _whole_number(folder) for folder in found}
    if all(n is not None for n in numbers.values()):
        order = sorted(found, key=lambda folder: (int(folder), folder))
        known = known or _numbered(max(n for n in numbers.values() if n is not None))
        indices = numbers
    else:
        order = sorted(found)
        if known is None and all(_WNID.fullmatch(folder) for folder in order):
            imagenet = imagenet_classes()
            if any(folder in imagenet.index for folder in order):
                known = imagenet
        known = known or ClassNames(order, order)
        indices = {folder: known.find(folder) for folder in order}
    names, labels = [], []
    for folder in order:
        label = indices[folder]
        if label is None or label >= len(known.names):
            problems.error(
                f"folder {folder!r} is none of the {len(known.names)} classes",
                file=root / folder,
                remedy="Remove it, or name the classes with --classes.",
            )
            continue
        clean = _printable(root, found[folder], problems)
        names += clean
        labels += [label] * len(clean)
    return names, labels, known


def _from_lines(
    root: Path, file: Path, known: ClassNames | None, problems: Problems
) -> tuple[list[str], list[int], ClassNames]:
    lines = read_label_lines(file, problems)
    names = _printable(root, sorted(_walk(root, "")), problems)
    rows = {name: row for row, name in enumerate(names)}
    known = known or _classes_of(lines)
    labels = [-1] * len(names)
    taken: dict[str, int] = {}
    missing: list[LabelLine] = []
    for line in lines:
        record = f"line {line.number}"
        label = known.find(line.label)
        if line.file_name in taken:
            problems.error(
                f"{line.file_name!r} is listed on line {taken[line.file_name]} already",
                file=file,
                record=record,
                remedy="Keep one line per image.",
            )
        elif label is None:
            problems.error(
                f"unknown class {line.label!r}",
                file=file,
                record=record,
                remedy=did_you_mean(line.label, known.names),
            )
        elif line.file_name not in rows:
            missing.append(line)
        else:
            labels[rows[line.file_name]] = label
        taken.setdefault(line.file_name, line.number)
    if missing:
        shown = ", ".join(repr(line.file_name) for line in missing[:_SHOWN])
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        problems.error(
            f"{len(missing)} of {len(lines)} listed files are not in {root}: {shown}{more}",
            file=file,
            record=f"line {missing[0].number}",
            remedy="Names are relative to the image folder; check it, or remove these lines.",
        )
    return names, labels, known


def _classes_of(lines: Sequence[LabelLine]) -> ClassNames:
    """The classes that the labels of a file name, where nothing else does."""
    values = {line.label for line in lines}
    numbers = [_whole_number(value) for value in values]
    if values and all(n is not None for n in numbers):
        return _numbered(max(n for n in numbers if n is not None))
    imagenet = imagenet_classes()
    known = [imagenet.find(value) is not None for value in values]
    # A single unknown name among ImageNet's is a mistake; without any of them, the set has its own.
    if all(known) or (any(known) and any(_WNID.fullmatch(value) for value in values)):
        return imagenet
    return ClassNames(sorted(values), sorted(values))


def _numbered(greatest: int) -> ClassNames:
    imagenet = imagenet_classes()
    if greatest < len(imagenet.names):
        return imagenet
    names = [str(i) for i in range(greatest + 1)]
    return ClassNames(names, names)


def _whole_number(text: str) -> int | None:
    """The class index that a text is, or None; a greater number is a name, such as a date."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        return None
    return number if (number := int(text)) < MOST_CLASSES else None


def _scan(folder: Path | str) -> tuple[list[str], list[str]]:
    """(image files, folders) in a folder by name; hidden ones are left out."""
    files, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith("."):
                    continue
                # The directory itself says what an entry is: no file is asked for its status.
                if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and entry.is_dir()):
                    folders.append(name)
                elif os.path.splitext(name)[1].lower() in _SUFFIXES:  # noqa: PTH122 (a third of the time)
                    files.append(name)
    except OSError as error:
        raise DataError(f"cannot be listed: {error.strerror}", file=folder) from error
    return files, folders


def _walk(folder: Path | str, prefix: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Names of all images below a folder, each with the prefix."""
    place = os.path.realpath(folder)
    if place in above:  # a link back up
        return
    files, folders = _scan(folder)
    for name in files:
        yield prefix + name
    for name in folders:
        yield from _walk(f"{folder}/{name}", f"{prefix}{name}/", (*above, place))


def _printable(root: Path, names: list[str], problems: Problems) -> list[str]:
    """Names that every output can hold: UTF-8, without tabs and line breaks."""
    for name in filter(_UNPRINTABLE.search, names):
        problems.error(
            f"the file name {name!r} has a tab, a line break or bytes that are not UTF-8",
            file=root,
            remedy="Rename the file.",
        )
    return [name for name in names if not _UNPRINTABLE.search(name)]
