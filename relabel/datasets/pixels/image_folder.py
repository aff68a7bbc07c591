"""Images with one label each, as ImageNet stores them: class folders, or a folder and a list.

Shape legend: ``N`` images, ``C`` classes. Labels are class indices, -1 for images without one.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
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
from relabel.datasets.pixels.location import all_stored_bytes, read_rgb
from relabel.errors import DataError, Problems, did_you_mean
from relabel.files.remote import is_url, list_remote
from relabel.files.walk import is_hidden, walk_files, wanted

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".jp2")
)
_UNPRINTABLE = re.compile(
    "[\t\n\r\0\ud800-\udfff]"
)  # surrogates stand for bytes that are not UTF-8
_WNID = re.compile(r"n\d{8}")
_DIGITS = re.compile("[0-9]+")
_SHOWN = 5


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images below one folder, with at most one label each.

    Attributes:
        root: the folder, or its URL.
        file_names: N paths relative to ``root``, with forward slashes, sorted; class folders that
            are numbers are sorted as numbers.
        labels: int32 [N], class index, -1 where the image has no label.
        class_names: C names; empty where nothing tells the classes.
        class_keys: C keys that the files use: WordNet ids, or the names again.
        stored: int64 [N], bytes of the files where listing them told; None where it did not.
    """

    root: Path | str
    file_names: list[str]
    labels: np.ndarray
    class_names: list[str]
    class_keys: list[str]
    stored: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.file_names)

    @property
    def name(self) -> str:
        """The last part of the folder's path or URL."""
        root = self.root
        return root.rstrip("/").rpartition("/")[2] if is_url(root) else Path(root).resolve().name

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
        stored = None if self.stored is None else self.stored[chosen]
        return replace(self, file_names=names, labels=self.labels[chosen], stored=stored)

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
            found = self.stored
            if found is None:
                found = all_stored_bytes([self.location(i) for i in range(len(self))])
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
        root: the folder, or its URL.
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
    problems = Problems() if problems is None else problems
    known = None if classes is None else read_class_list(classes)
    sizes = None
    if is_url(root):
        root = str(root).rstrip("/")
        sizes = {n: size for n, size in list_remote(root).items() if wanted(n, IMAGE_SUFFIXES)}
        found = sorted(sizes)
    else:
        root = Path(root)
        if not root.is_dir():
            raise DataError(
                "is not a folder" if root.exists() else "does not exist",
                file=root,
                remedy="Give the folder that holds the images.",
            )
        found = walk_files(root, IMAGE_SUFFIXES)
    if labels_file is not None:
        names, labels, known = _from_lines(root, found, Path(labels_file), known, problems)
    else:
        names, labels, known = _from_folders(root, found, known, problems)
    if not names:
        raise DataError(
            "holds no images",
            file=root,
            remedy=f"Known are {', '.join(sorted(IMAGE_SUFFIXES))} files, also in folders below.",
        )
    stored = None if sizes is None else np.array([sizes[name] for name in names], np.int64)
    return ImageSet(root, names, np.array(labels, np.int32), known.names, known.keys, stored)


def _from_folders(
    root: Path | str, files: Sequence[str], known: ClassNames | None, problems: Problems
) -> tuple[list[str], list[int], ClassNames]:
    loose: list[str] = []
    by_folder: dict[str, list[str]] = defaultdict(list)
    for name in files:
        folder, mark, _ = name.partition("/")
        (by_folder[folder] if mark else loose).append(name)
    found = dict(by_folder)
    # A store has no folders without files.
    there = _folders(root) if found and isinstance(root, Path) else set()
    if empty := sorted(there - set(found)):
        problems.warning(
            f"{len(empty)} of {len(empty) + len(found)} class folders hold no images of their own "
            f"and are no classes ({', '.join(empty[:_SHOWN])}{', ...' if empty[_SHOWN:] else ''})",
            file=root,
        )
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
    _check_numbers(numbers, root, "folder")
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
                file=f"{root}/{folder}",
                remedy="Remove it, or name the classes with --classes.",
            )
            continue
        clean = _printable(root, found[folder], problems)
        names += clean
        labels += [label] * len(clean)
    return names, labels, known


def _from_lines(
    root: Path | str,
    files: Sequence[str],
    file: Path,
    known: ClassNames | None,
    problems: Problems,
) -> tuple[list[str], list[int], ClassNames]:
    lines = read_label_lines(file, problems)
    names = _printable(root, list(files), problems)
    rows = {name: row for row, name in enumerate(names)}
    known = known or _classes_of(lines, file)
    folded = _folded(names) if any(line.file_name not in rows for line in lines) else {}
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
        elif (row := rows.get(line.file_name, folded.get(line.file_name.lower()))) is None:
            missing.append(line)
        else:
            labels[row] = label
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


def _folded(names: Sequence[str]) -> dict[str, int]:
    """Rows by names in lower case, where one image goes by it: lists of Windows mind no case."""
    lowered = [name.lower() for name in names]
    counts = Counter(lowered)
    return {name: row for row, name in enumerate(lowered) if counts[name] == 1}


def _check_numbers(numbers: dict[str, int | None], file: Path | str, what: str) -> None:
    """Refuse classes that are all numbers, some of which are too great to be indices.

    Taken as names, their order would be another than that of the numbers.

    Raises:
        DataError: there are such.
    """
    great = [text for text, number in numbers.items() if number is None]
    if great and len(great) < len(numbers) and all(_DIGITS.fullmatch(text) for text in great):
        raise DataError(
            f"{what} {great[0][:40]!r} is not a class index from 0 to {MOST_CLASSES - 1}, as "
            "others here are",
            file=file,
            remedy="Correct it, or name the classes with --classes.",
        )


def _classes_of(lines: Sequence[LabelLine], file: Path) -> ClassNames:
    """The classes that the labels of a file name, where nothing else does."""
    values = {line.label for line in lines}
    by_text = {value: _whole_number(value) for value in values}
    _check_numbers(by_text, file, "class")
    numbers = [n for n in by_text.values() if n is not None]
    if values and len(numbers) == len(values):
        return _numbered(max(numbers))
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


def _folders(root: Path) -> set[str]:
    """Names of the folders in a folder, links to folders included."""
    with os.scandir(root) as entries:
        return {entry.name for entry in entries if not is_hidden(entry.name) and entry.is_dir()}


def _printable(root: Path | str, names: list[str], problems: Problems) -> list[str]:
    """Names that every output can hold: UTF-8, without tabs and line breaks."""
    for name in filter(_UNPRINTABLE.search, names):
        problems.error(
            f"the file name {name!r} has a tab, a line break or bytes that are not UTF-8",
            file=root,
            remedy="Rename the file.",
        )
    return [name for name in names if not _UNPRINTABLE.search(name)]
