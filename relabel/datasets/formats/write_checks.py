"""What every writer asks before it writes anything: would a reader give this back unchanged?

What it would not is refused in one line that names the class or image; what a format has no place
for is told in one warning with counts.

Shape legend: ``n`` boxes, ``I`` images.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.box_checks import clean_boxes, real_boxes
from relabel.datasets.pixels.placing import MOST_NAME, doubtful_names, file_name_fault
from relabel.errors import ConfigError, DataError, Problems
from relabel.files.walk import is_hidden

MOST_ID = 2**53
"""The largest id: readers with floating-point numbers (JavaScript, NumPy) change larger ones."""

Fault = Callable[[str], str | None]
"""What is wrong with a text, as ``holds a tab``, or None."""

_MOST_PATH = 4000
_RENAME_CLASS = "Rename the class, for example with --map."
_RENAME_IMAGE = "Rename the image file, and its name in the dataset."
_EMPTY = frozenset((b"", b'""', b"null", b"0", b"false", b"[]", b"{}"))
_SURROGATE = re.compile("[\ud800-\udfff]")


def check_split(split: str) -> None:
    """Refuse a split whose name no file or folder can have.

    Raises:
        ConfigError: it is empty, hidden, or leads elsewhere.
    """
    if split != split.strip() or is_hidden(split) or re.search(r'[/\\:\0-\x1f"*?<>|]|^$', split):
        raise ConfigError(
            f"a split cannot be called {split!r}", remedy="Use a name such as train, val or test."
        )


def check_classes(dataset: DetectionDataset, fault: Fault | None = None) -> None:
    """Refuse class names that the format cannot hold.

    Args:
        fault: what the format cannot hold; what no text file can hold is looked for anyway.

    Raises:
        DataError: names the first such class.
    """
    for category in dataset.space.categories:
        group = category.supercategory or ""
        why = surrogate_fault(category.name + group) or (fault and fault(category.name))
        if why:
            raise DataError(
                f"class name {category.name!r} {why}",
                record=f"category {category.id}",
                remedy=_RENAME_CLASS,
            )


def check_info(dataset: DetectionDataset) -> None:
    """Refuse fields of the file as a whole that JSON cannot hold.

    Raises:
        DataError: half a character, a number of too many digits, too deep a nesting.
    """
    for key, value in dataset.info.items():
        try:
            msgspec.json.encode({key: value})
        except Exception as error:
            raise DataError(
                f"the field {key!r} cannot be written as JSON: {error}",
                file=dataset.root,
                remedy="Correct it, or remove it from the file.",
            ) from error


def check_any(dataset: DetectionDataset, format: str) -> None:
    """Refuse a dataset without images, where readers take an empty folder for a wrong path.

    Raises:
        DataError: there are none.
    """
    if not len(dataset):
        raise DataError(
            f"no image is left to write, and a {format} folder without any cannot be read",
            file=dataset.root,
            remedy="See what was skipped, or choose another --split.",
        )


def check_images(
    dataset: DetectionDataset, names: Sequence[str] | None = None, fault: Fault | None = None
) -> None:
    """Refuse images without a size, and file names that no reader takes or that appear twice.

    Args:
        names: I names relative to a folder; default the dataset's own.
        fault: what else the format cannot hold.

    Raises:
        DataError: names the first such image.
    """
    images = dataset.images
    names = images.file_name if names is None else names
    flat = np.flatnonzero((images.width <= 0) | (images.height <= 0))
    if len(flat):
        row = int(flat[0])
        size = f"{images.width[row]}x{images.height[row]}"
        raise DataError(
            f"image has no width or height ({size})",
            file=images.file_name[row],
            record=f"image {images.id[row]}",
            remedy="Correct the size in the annotation file.",
        )
    if fault is not None or doubtful_names(names):
        for row, name in enumerate(names):
            why = surrogate_fault(name) or _name_fault(name) or (fault and fault(name))
            if why:
                raise _bad_name(dataset, row, why)
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        rows = [row for row, name in enumerate(names) if name == twice]
        raise _bad_name(dataset, rows[1], f"is that of image {images.id[rows[0]]} too")


def surrogate_fault(text: str) -> str | None:
    found = _SURROGATE.search(text)
    return (
        f"holds half a character (U+{ord(found[0]):04X}), which no text file can" if found else None
    )


def _name_fault(name: str) -> str | None:
    if "\\" in name:
        return "holds a backslash, which readers take for a folder"
    if name.endswith(("/", "/.")) or name == ".":
        return "is that of a folder"
    return file_name_fault(name)


def _bad_name(dataset: DetectionDataset, row: int, why: str) -> DataError:
    return DataError(
        f"file name {dataset.images.file_name[row]!r} {why}",
        record=f"image {dataset.images.id[row]}",
        remedy=_RENAME_IMAGE,
    )


def check_files(
    dataset: DetectionDataset,
    names: Sequence[str],
    folder: Path,
    problems: Problems | None,
    *,
    seen: bool = True,
) -> None:
    """Refuse names of images that cannot be files of one folder.

    Names that only file systems of Windows and macOS take for one are told in a warning.

    Args:
        names: I paths relative to ``folder``.
        seen: whether readers find the files by listing the folder, where hidden ones are no data.

    Raises:
        DataError: a name is hidden or too long, or is that of a folder of another.
    """
    room = _MOST_PATH - len(str(folder.absolute()).encode(errors="replace"))
    folders: dict[str, None] = {}
    for row, name in enumerate(names):
        parts = name.split("/")
        if seen and any(map(is_hidden, parts)):
            raise _bad_name(dataset, row, "is that of a hidden file, which readers pass over")
        if len(name) * 4 > MOST_NAME:
            # Four bytes are left for the suffix of a label file.
            longest = max(len(part.encode()) for part in parts)
            if longest > MOST_NAME - 4 or len(name.encode()) > room:
                raise _bad_name(
                    dataset, row, f"is longer than a file's may be ({longest} bytes in one part)"
                )
        if len(parts) > 1:
            folders.update(dict.fromkeys("/".join(parts[:i]) for i in range(1, len(parts))))
    if folders:
        for row, name in enumerate(names):
            if name in folders:
                raise _bad_name(dataset, row, "is also that of a folder of other images")
    folded = [_folded(name) for name in names]
    alike = len(folded) - len(set(folded))
    if alike and problems is not None:
        pairs = pairwise(sorted(zip(folded, names, strict=True)))
        first = next((a[1], b[1]) for a, b in pairs if a[0] == b[0])
        problems.warning(
            f"{alike} image names differ from another only in case or accents "
            f"({first[0]!r}, {first[1]!r}): Windows and macOS keep one file of such two",
            file=folder,
        )


def _folded(name: str) -> str:
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()


def cleaned(
    dataset: DetectionDataset, problems: Problems | None, file: Path, *, clip: bool = True
) -> DetectionDataset:
    """The dataset with boxes as readers would take them, `clean_boxes` has the rules.

    Args:
        clip: False keeps what lies outside the image, for formats that keep it.

    Raises:
        DataError: a box that is not finite or has a negative size.
    """
    boxes, images = dataset.boxes, dataset.images

    def record(row: int) -> str:
        return f"annotation {boxes.id[row]}"

    strict = Problems()
    if not clip:
        real_boxes(boxes.xywh, strict, file, record)
        return dataset
    keep, xywh = clean_boxes(
        boxes.image, boxes.xywh, images.width, images.height, strict, file, record
    )
    for kind, n in strict.counts.items():
        if problems is not None:
            problems.count(kind, n)
    if xywh is not boxes.xywh:
        boxes = replace(boxes, xywh=xywh)
    return dataset.with_boxes(boxes if keep.all() else boxes.take(keep))


def with_small_ids(
    dataset: DetectionDataset, problems: Problems | None, file: Path
) -> DetectionDataset:
    """The dataset with ids that every JSON reader gives back; one warning for each kind.

    Ids beyond `MOST_ID` in either direction become the smallest numbers that are free.
    """
    images, boxes, space = dataset.images, dataset.boxes, dataset.space
    new = _small(images.id, "image", problems, file)
    if new is not images.id:
        dataset = replace(dataset, images=replace(images, id=new))
    new = _small(boxes.id, "annotation", problems, file)
    if new is not boxes.id:
        dataset = dataset.with_boxes(replace(boxes, id=new))
    new = _small(space.ids, "category", problems, file)
    if new is not space.ids:
        categories = zip(space.categories, new.tolist(), strict=True)
        named = replace(space, categories=tuple(replace(c, id=i) for c, i in categories))
        dataset = replace(dataset, space=named)
    return dataset


def _small(ids: np.ndarray, kind: str, problems: Problems | None, file: Path) -> np.ndarray:
    if not len(ids) or (int(ids.max()) <= MOST_ID and int(ids.min()) >= -MOST_ID):
        return ids
    large = (ids > MOST_ID) | (ids < -MOST_ID)
    n = int(large.sum())
    free = np.setdiff1d(np.arange(1, len(ids) + 1), ids[~large])[:n]
    new = ids.copy()
    new[large] = free
    if problems is not None:
        row = int(np.flatnonzero(large)[0])
        problems.warning(
            f"{n} {kind} {'ids lie' if n > 1 else 'id lies'} beyond 2^53, where many programs "
            f"round: renumbered, such as {ids[row]} to {new[row]}",
            file=file,
        )
    return new


def tell_lost(
    lost: Iterable[str], title: str, problems: Problems, file: Path, *, note: str = ""
) -> None:
    """One warning of what the format has no place for, nothing where that is nothing.

    Args:
        note: what else changes.
    """
    parts = list(lost)
    text = f"{title} has no place for {', '.join(parts)}: left out" if parts else ""
    text = "; ".join(part for part in (text, note) if part)
    if text:
        problems.warning(text, file=file)


def lost_of_boxes(dataset: DetectionDataset, keeps: Sequence[str] = ()) -> list[str]:
    """What boxes have beside place, class and flag, with counts.

    Args:
        keeps: names of the further fields that the format keeps.
    """
    boxes = dataset.boxes
    n = len(boxes)
    own = boxes.xywh[:, 2] * boxes.xywh[:, 3]
    lost = {
        "scores": int((~np.isnan(boxes.score)).sum()),
        "areas other than the box's": int((~np.isclose(boxes.area, own, rtol=1e-6)).sum()),
        "provenance": 0 if boxes.provenance is None else n,
    }
    lost.update(field_counts(boxes.extra, ("ignore", *keeps)))
    shown = [f"{what} ({count:,})" for what, count in lost.items() if count]
    if not np.array_equal(boxes.id, np.arange(1, n + 1)):
        shown.insert(0, "annotation ids")
    return shown


def lost_of_file(dataset: DetectionDataset) -> list[str]:
    """What classes, images and the file as a whole have beside names and sizes."""
    images, space = dataset.images, dataset.space
    shown = []
    groups = sum(bool(c.supercategory) for c in space.categories)
    if groups:
        shown.append(f"supercategories ({groups})")
    if not np.array_equal(images.id, np.arange(1, len(images) + 1)):
        shown.append("image ids")
    fields = field_counts(images.extra)
    shown += [f"{name} of images ({count:,})" for name, count in fields.items()]
    fields = {**dataset.info}
    info = fields.get("info")
    if isinstance(info, dict):
        fields["info"] = {k: v for k, v in info.items() if k != "relabel"}
    if fields.pop("category_fields", None):
        shown.append("further fields of categories")
    return shown + [f"`{name}`" for name, value in fields.items() if _says(value)]


def _says(value: Any) -> bool:
    """Whether a field says anything: many tools write all fields, most of them empty."""
    if isinstance(value, dict):
        return any(map(_says, value.values()))
    if isinstance(value, list):
        return any(map(_says, value))
    return bool(value)


def field_counts(extra: Sequence[bytes | None] | None, keeps: Sequence[str] = ()) -> dict[str, int]:
    """How many records have each further field."""
    if extra is None:
        return {}
    # COCO's undecoded fields are columns; 860,000 objects need not be made to count them.
    names, columns = getattr(extra, "names", None), getattr(extra, "columns", None)
    if names is not None and columns is not None:
        pairs = zip(names, columns, strict=True)
        found = {name: sum(bytes(v) not in _EMPTY for v in column) for name, column in pairs}
    else:
        records = (json.loads(fields) for fields in extra if fields)
        found = dict(Counter(k for fields in records for k, v in fields.items() if _says(v)))
    return {name: n for name, n in found.items() if n and name not in keeps}
