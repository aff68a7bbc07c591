"""One way in: a dataset of relabel.toml, a layout, or a label file, as `PartialLabels`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import numpy as np

from relabel.datasets.dataset import DetectionDataset, Images, make_boxes
from relabel.datasets.formats.registry import FAMILIES, FORMATS
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.partial.detection import from_detection
from relabel.datasets.partial.files import is_label_file, read_partial
from relabel.datasets.partial.labels import (
    ABSENT,
    PRESENT,
    UNKNOWN,
    PartialLabels,
    sparse_known,
    stacked,
)
from relabel.datasets.partial.layouts import (
    LAYOUTS,
    find_layout,
    has_layout_split,
    read_coco,
    read_nus_wide,
    read_vg200,
    training_split,
)
from relabel.errors import ConfigError, DataError, Problems, did_you_mean
from relabel.files.opening import read_bytes

Which = Literal["train", "val", "test"]
LABEL_FORMATS = {
    "multilabels": "a label file: CSV, JSON, Parquet or TSV; or an image folder with such files",
    "vg200": "a folder in VG-200's layout",
    "nus_wide": "NUS-WIDE's folder",
}
"""Formats of relabel.toml that have labels of whole images only."""
_READY_FILES = ("labels.parquet", "labels.csv", "labels.json", "labels.tsv")


class Entry(Protocol):
    """What is needed of a `relabel.catalogue.catalogue.DatasetEntry`."""

    @property
    def name(self) -> str: ...
    @property
    def root(self) -> Path: ...
    @property
    def format(self) -> str: ...
    @property
    def splits(self) -> Mapping[str, str]: ...
    @property
    def files(self) -> Mapping[str, str]: ...
    @property
    def space(self) -> str | None: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def selection(self) -> Any: ...
    @property
    def images(self) -> str | None: ...
    def has(self, which: Any) -> bool: ...
    def read(self, which: Any, *, problems: Problems | None = None) -> DetectionDataset: ...


def open_partial(
    source: Entry | str | Path, split: str | None = None, *, problems: Problems | None = None
) -> PartialLabels:
    """The labels of a dataset.

    Args:
        source: a dataset of relabel.toml, of any format that relabel reads or one of
            `LABEL_FORMATS`; or the path of a label file, of one of `LAYOUTS`, or of a folder that
            holds ``labels.parquet``, as `relabel complete` writes it.
        split: of a dataset of relabel.toml ``train`` (default), ``val`` or ``test``; of a layout
            one of its own, by default ``train``, or all where it has no lists of images. A path
            that is one file has none.
        problems: receives bad records; default raises on the first.

    Raises:
        ConfigError: a split, format or label space that does not exist or does not fit.
        DataError: files are missing or damaged.
    """
    if isinstance(source, str | Path):
        return _of_path(Path(source).expanduser(), split, problems)
    return _of_entry(source, split or "train", Problems() if problems is None else problems)


def has_split(source: Entry | str | Path, split: str) -> bool:
    """Whether a dataset says what to read for a split; whether that can be read shows later."""
    if not isinstance(source, str | Path):
        return source.has(split)
    path = Path(source).expanduser()
    layout = find_layout(path) if path.is_dir() else None
    return layout is not None and has_layout_split(layout, path, split)


def only_classes(labels: PartialLabels, names: Sequence[str]) -> PartialLabels:
    """The labels of some classes, in the order given.

    Raises:
        ConfigError: a class that is not there.
    """
    place = {name: i for i, name in enumerate(labels.classes)}
    for name in names:
        if name not in place:
            raise ConfigError(
                f"{labels.name!r} has no class {name!r}", remedy=did_you_mean(name, place)
            )
    columns = np.array([place[name] for name in names], np.int64)
    known = labels.known[:, columns]
    return replace(labels, classes=tuple(names), known=known)


def in_space(labels: PartialLabels, space: LabelSpace) -> PartialLabels:
    """The labels over the classes of a label space, found by name or alias.

    A class that several of the labels' stand for is present where one of them is, and absent where
    all are. A class that none stands for is unknown: nobody looked for it.

    Raises:
        ConfigError: a class that the space does not have.
    """
    place = np.array([space.index(name) for name in labels.classes], np.int64)
    parts = []
    for _, block in labels.blocks():
        out = np.full((len(block), space.num_classes), UNKNOWN, np.int8)
        for label in np.unique(place[place < space.num_classes]).tolist():
            mine = block[:, place == label]
            absent = np.where((mine == ABSENT).all(axis=1), ABSENT, UNKNOWN)
            out[:, label] = np.where((mine == PRESENT).any(axis=1), PRESENT, absent)
        parts.append(sparse_known(out))
    known = stacked(parts, space.num_classes)
    return replace(labels, classes=tuple(space.class_names), known=known)


def _of_path(path: Path, split: str | None, problems: Problems | None) -> PartialLabels:
    if not path.exists():
        raise DataError("no such file or folder", file=path, remedy="Check the path.")
    if path.is_dir():
        ready = next((path / n for n in _READY_FILES if (path / n).is_file()), None)
        if ready is not None and split in (None, "train"):
            return read_partial(ready, name=path.resolve().name)
    elif split not in (None, "train"):
        raise ConfigError(f"is one file, without a split {split!r}", file=path)
    elif is_label_file(path) and not _is_coco(path):
        return read_partial(path, root=path.parent)
    layout = find_layout(path)
    if layout is None:
        raise DataError(
            "is neither a label file nor a known layout",
            file=path,
            remedy=f"Give CSV, JSON, Parquet or TSV, or one of {', '.join(LAYOUTS)}, or name "
            "the dataset with its format in relabel.toml.",
        )
    if path.is_dir() and split is None:
        split = training_split(layout, path)
    if layout == "coco":
        return read_coco(path, split if path.is_dir() else None, problems=problems)
    return LAYOUTS[layout](path, split)


def _is_coco(path: Path) -> bool:
    """Whether a JSON file has boxes."""
    if path.suffix.lower() != ".json":
        return False
    try:
        keys = msgspec.json.decode(read_bytes(path), type=dict[str, msgspec.Raw]).keys()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False  # whoever reads labels says what is wrong
    return bool({"annotations", "categories"} & keys)


def _of_entry(entry: Entry, which: str, problems: Problems) -> PartialLabels:
    if which not in ("train", "val", "test"):
        raise ConfigError(f"{entry.name!r} has no {which!r}; datasets have train, val and test")
    known = (*FORMATS, *FAMILIES, *LABEL_FORMATS)
    format = entry.format.strip().lower().replace("-", "_")
    if format not in known:
        raise ConfigError(
            f"unknown dataset format {entry.format!r}", remedy=did_you_mean(format, known)
        )
    if format != "coco" and format not in LABEL_FORMATS:
        plain: Any = entry
        labels = from_detection(replace(plain, classes=()).read(which, problems=problems))
        return only_classes(labels, entry.classes) if entry.classes else labels
    if not entry.has(which):
        raise ConfigError(
            f"dataset {entry.name!r} names nothing for {which}",
            remedy=f'Add `{which} = "FILE"` or `{which}_split = "SPLIT"` to its table.',
        )
    held_out = which == "test" and entry.selection.holdout > 0
    part = "train" if held_out else which
    split, file = entry.splits.get(part), entry.files.get(part)
    space = None if entry.space is None else LabelSpace.load(entry.space)
    labels = _labels(entry, format, part, split, file, space, problems)
    if entry.images is not None:
        labels = labels.at(entry.images)
    if entry.classes:
        labels = only_classes(labels, entry.classes)
    if held_out or which == "train":
        images = _images_of(labels)
        chosen = entry.selection.test(images) if held_out else entry.selection.train(images)
        if len(chosen) != len(labels):
            labels = labels.select(chosen.images.id)
    return replace(labels, name=entry.name)


def _labels(
    entry: Entry,
    format: str,
    part: str,
    split: str | None,
    file: str | None,
    space: LabelSpace | None,
    problems: Problems,
) -> PartialLabels:
    if format == "coco":
        labels = read_coco(entry.root, split, name=entry.name, annotations=file, problems=problems)
        return labels if space is None else in_space(labels, space)
    names = None if space is None else space.class_names
    if format == "vg200":
        return read_vg200(entry.root, split or part, name=entry.name, classes=names)
    if format == "nus_wide":
        labels = read_nus_wide(entry.root, split or part, name=entry.name)
        return labels if space is None else in_space(labels, space)
    if entry.root.is_dir():
        if file is None and split is not None:
            raise ConfigError(
                f"dataset {entry.name!r} has no split {split!r}",
                remedy="Give train, val or test, as far as its table names files for them.",
            )
        if file is None:
            raise ConfigError(
                f"dataset {entry.name!r} names no label file for {part}",
                remedy=f'Add `{part} = "labels.csv"` to its table.',
            )
        return read_partial(entry.root / file, name=entry.name, root=entry.root, classes=names)
    return read_partial(entry.root, name=entry.name, root=entry.root.parent, classes=names)


def _images_of(labels: PartialLabels) -> DetectionDataset:
    """The images alone, their rows as ids, for whoever chooses among those of a detection set."""
    nothing = np.zeros(len(labels), np.int32)
    images = Images(np.arange(len(labels)), labels.file_names, nothing, nothing)
    boxes = make_boxes([], np.zeros((0, 4)), [])
    space = LabelSpace(labels.name, ())
    return DetectionDataset(labels.name, space, images, boxes, labels.root or Path())
