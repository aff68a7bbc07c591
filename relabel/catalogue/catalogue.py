"""The catalogue: datasets and settings named in relabel.toml, and how each dataset is read.

[datasets.fine]
format = "coco"
root = "data/fine"          # relative to relabel.toml
train = "train.json"        # annotation files, or `split = "train"` where the format has splits
test = "test.json"

[datasets.legacy]
format = "coco"
root = "${DATA:-data}/legacy"  # environment variables are replaced in all texts
train = "train.json"
sample = 3000               # train on 3000 images ...
sample_seed = 0             # ... drawn with this seed, the same on every machine
holdout = 0.2               # the last 20 % of the images, by name, become the test split ...
holdout_stretches = 4       # ... or the last 20 % of each quarter of them ...
holdout_gap = 5             # ... and 5 images on either side are in neither split

[datasets.photos]
format = "coco"
root = "data/photos"
train = "train.json"
images = "s3://bucket/photos"  # where file names are looked for, instead of below root

[specialist]
epochs = 12
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from relabel.catalogue.selection import Selection, only_classes
from relabel.catalogue.variables import expand_variables
from relabel.errors import ConfigError, Problems, did_you_mean
from relabel.files.opening import read_text
from relabel.files.paths import posix
from relabel.files.remote import is_url
from relabel.files.toml_text import load_toml

if TYPE_CHECKING:
    from relabel.datasets.dataset import DetectionDataset

CONFIG_NAME = "relabel.toml"
# Known here by name alone, since the rooms whose settings they hold import the catalogue.
SETTINGS_TABLES = (
    "align",
    "specialist",
    "crosslabel",
    "lat",
    "sam3",
    "downstream",
    "detector",
    "maskcut",
    "label_maps",
    "semi",
    "filter",
    "region_classifier",
    "labels",
    "classifier",
    "complete",
    "check",
    "runtime",
    "protocol",
)
Which = Literal["train", "val", "test"]
# The key of a format's split per purpose; the purpose itself is the key of an annotation file.
_SPLIT_KEYS = {"train": "split", "val": "val_split", "test": "test_split"}
_SELECTION_KEYS = tuple(f.name for f in fields(Selection))
_DATASET_KEYS = (
    "root",
    "format",
    *_SPLIT_KEYS.values(),
    *_SPLIT_KEYS,
    "images",
    "space",
    "classes",
    *_SELECTION_KEYS,
)


@dataclass(frozen=True)
class DatasetEntry:
    """Where a dataset is and how it is read.

    Attributes:
        name: as the command line and joint class names call it.
        root: its root folder, or its file where the format is one file.
        format: a name of `relabel.datasets.formats.registry`.
        splits: the format's split per purpose (train, val, test), where given.
        files: annotation file per purpose, relative to ``root``, where given.
        space: built-in label space or YAML file to read into; None for the format's own.
        classes: those that are read, in all splits; empty for all. The others' boxes are left out,
            as if nobody had annotated them.
        selection: which of the training images are trained on, and which are held out.
        images: URL below which the images are; None where they are below ``root``.
    """

    name: str
    root: Path
    format: str
    splits: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    space: str | None = None
    classes: tuple[str, ...] = ()
    selection: Selection = field(default_factory=Selection)
    images: str | None = None

    def has(self, which: Which) -> bool:
        """True if the entry says what to read for a purpose; train always works."""
        held_out = which == "test" and self.selection.holdout > 0
        return which == "train" or which in self.splits or which in self.files or held_out

    def read(
        self,
        which: Which = "train",
        *,
        problems: Problems | None = None,
        check_images: bool = True,
    ) -> DetectionDataset:
        """Read the images and boxes of one purpose.

        The label space takes the entry's name, so that joint class names are ``name/class``.
        Training images are those that the entry's selection leaves; with a holdout the test
        images are those held out of the same files.

        Args:
            check_images: compare stated sizes with those of the images that are there.

        Raises:
            ConfigError: nothing is named for this purpose, an unknown format or label space, or
                too few images for the holdout.
            DataError: files are missing or damaged, or images have other sizes than their
                annotations state; see `check_sizes`.
        """
        from relabel.datasets.formats.registry import read_dataset
        from relabel.datasets.labelspace import LabelSpace
        from relabel.datasets.pixels.location import images_at
        from relabel.datasets.pixels.sizes import GLANCE, check_sizes

        if not self.has(which):
            raise ConfigError(
                f"dataset {self.name!r} names nothing for {which}",
                remedy=f'Add `{which} = "FILE"` or `{which}_split = "SPLIT"` to its table'
                + (", or `holdout = 0.2`." if which == "test" else "."),
            )
        held_out = which == "test" and self.selection.holdout > 0
        files: Which = "train" if held_out else which
        dataset = read_dataset(
            self.root,
            self.format,
            name=self.name,
            split=self.splits.get(files),
            annotations=self.files.get(files),
            problems=problems,
            space=None if self.space is None else LabelSpace.load(self.space),
        )
        dataset = replace(dataset, name=self.name, space=replace(dataset.space, name=self.name))
        if self.images is not None:
            dataset = images_at(dataset, self.images)
        if self.classes:
            dataset = only_classes(dataset, self.classes)
        if held_out:
            dataset = self.selection.test(dataset)
        elif which == "train":
            dataset = self.selection.train(dataset)
        problems = Problems() if problems is None else problems
        return check_sizes(dataset, problems, most=GLANCE) if check_images else dataset


@dataclass(frozen=True)
class Catalogue:
    """What relabel.toml and the command line name.

    Attributes:
        entries: datasets by name.
        tables: the settings tables ([specialist], [lat], ...) as written.
        file: the relabel.toml read, None if there is none.
    """

    entries: Mapping[str, DatasetEntry] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    file: Path | None = None

    @property
    def folder(self) -> Path:
        """The folder that relative paths in relabel.toml are relative to."""
        return self.file.parent if self.file is not None else Path.cwd()

    def table(self, name: str) -> dict[str, Any]:
        """A copy of one settings table; empty where it is not given."""
        return dict(self.tables.get(name, {}))

    def get(self, name: str) -> DatasetEntry:
        """The dataset called ``name``.

        Raises:
            ConfigError: unknown; the message lists near matches and the known names.
        """
        if name not in self.entries:
            where = "" if self.file else f", and no {CONFIG_NAME} was found"
            remedy = did_you_mean(name, self.entries)
            if not self.entries:
                remedy = f"Name it in {CONFIG_NAME}, or with --data {name}=PATH:FORMAT."
            raise ConfigError(
                f"no dataset is called {name!r}{where}", file=self.file, remedy=remedy
            )
        return self.entries[name]

    def resolve(
        self, name_or_path: str | Path, format: str | None = None, split: str | None = None
    ) -> DatasetEntry:
        """A dataset by name, or by path where no dataset has that name.

        Args:
            format: its format; overrides the entry's, and is needed for a path that is not a
                ``.json`` file.
            split: overrides what the entry reads for training; a split other than ``train`` is
                read whole, without the entry's selection.

        Raises:
            ConfigError: neither a name nor a path, or a path without a format.
        """
        text = str(name_or_path)
        if text in self.entries:
            entry = self.entries[text]
            if format:
                entry = replace(entry, format=format)
        else:
            path = _local(text)
            if not path.exists():
                if "/" in text or path.suffix:
                    raise ConfigError("no such file or folder", file=text, remedy="Check the path.")
                return self.get(text)
            if format is None and path.name.lower().endswith((".json", ".json.gz")):
                format = "coco"
            if format is None:
                raise ConfigError(
                    "a path needs its format", file=text, remedy="Add --format FORMAT."
                )
            stem = Path(path.stem).stem if path.suffix == ".gz" else path.stem
            entry = DatasetEntry(stem or path.resolve().name, path, format)
        if split:
            files = {k: v for k, v in entry.files.items() if k != "train"}
            entry = replace(
                entry,
                splits={**entry.splits, "train": split},
                files=files,
                selection=entry.selection if split == "train" else Selection(),
            )
        return entry


def load_catalogue(
    start: str | Path | None = None,
    overrides: Iterable[str] = (),
    *,
    config: str | Path | None = None,
) -> Catalogue:
    """Read the relabel.toml at ``config``, or the first one found from ``start`` upward.

    Args:
        start: the folder to start from; default the working folder.
        overrides: ``name=path[:format]`` texts as given to ``--data``.
        config: a relabel.toml, instead of searching.

    Raises:
        ConfigError: the file does not exist, is not TOML, or has keys nobody reads.
    """
    if config is not None:
        file: Path | None = _local(str(config))
        if not file.is_file():
            raise ConfigError("no such file", file=file, remedy="Check --config.")
    else:
        folder = (Path.cwd() if start is None else Path(start)).resolve()
        files = (place / CONFIG_NAME for place in (folder, *folder.parents))
        file = next((place for place in files if place.is_file()), None)
    entries: dict[str, DatasetEntry] = {}
    tables: dict[str, Mapping[str, Any]] = {}
    if file is not None:
        entries, tables = _parse(file)
    for text in overrides:
        entry = _override(text, entries)
        entries[entry.name] = entry
    return Catalogue(entries, tables, file)


def _parse(file: Path) -> tuple[dict[str, DatasetEntry], dict[str, Mapping[str, Any]]]:
    data = load_toml(read_text(file), file)
    known = ("datasets", *SETTINGS_TABLES)
    for key, value in data.items():
        if key not in known:
            raise ConfigError(f"unknown table [{key}]", file=file, remedy=did_you_mean(key, known))
        if not isinstance(value, dict):
            raise ConfigError(f"{key!r} must be a table", file=file, remedy=f"Write [{key}].")
        data[key] = expand_variables(value, file, f"[{key}]")
    entries = {name: _entry(name, table, file) for name, table in data.pop("datasets", {}).items()}
    return entries, data


def _entry(name: str, table: Any, file: Path) -> DatasetEntry:
    where = f"[datasets.{name}]"
    _check_name(name, file)
    if not isinstance(table, dict):
        raise ConfigError(f"{where} must be a table", file=file)
    for key, value in table.items():
        if key not in _DATASET_KEYS:
            raise ConfigError(
                f"unknown key {key!r}",
                file=file,
                record=where,
                remedy=did_you_mean(key, _DATASET_KEYS),
            )
        if key == "classes":
            if not (isinstance(value, list) and value and all(isinstance(v, str) for v in value)):
                raise ConfigError(
                    f"classes must be a list of names, not {value!r}", file=file, record=where
                )
        elif key not in _SELECTION_KEYS and (not isinstance(value, str) or not value):
            raise ConfigError(f"{key} must be a text, not {value!r}", file=file, record=where)
    for key in ("root", "format"):
        if key not in table:
            raise ConfigError(
                f"{key} is missing", file=file, record=where, remedy=f'Add {key} = "...".'
            )
    images = table.get("images")
    if images is not None and not is_url(images):
        raise ConfigError(
            f"images is no URL, but {images!r}",
            file=file,
            record=where,
            remedy='Write a URL such as "s3://bucket/folder"; a folder is given as root.',
        )
    space = table.get("space")
    if space is not None and space.endswith((".yaml", ".yml")):
        space = str(file.parent / _local(posix(space), file, where))
    return DatasetEntry(
        name=name,
        root=file.parent / _local(posix(table["root"]), file, where),
        format=table["format"],
        splits={which: table[key] for which, key in _SPLIT_KEYS.items() if key in table},
        files={which: posix(table[which]) for which in _SPLIT_KEYS if which in table},
        space=space,
        classes=tuple(table.get("classes", ())),
        selection=_selection(table, file, where),
        images=images,
    )


def _selection(table: dict[str, Any], file: Path, where: str) -> Selection:
    try:
        selection = Selection.from_table(table)
    except ConfigError as error:
        raise ConfigError(error.message, file=file, record=where, remedy=error.remedy) from None
    for key in ("test", "test_split"):
        if selection.holdout and key in table:
            raise ConfigError(
                f"holdout and {key} both name the test images",
                file=file,
                record=where,
                remedy="Keep one of them.",
            )
    return selection


def _override(text: str, entries: Mapping[str, DatasetEntry]) -> DatasetEntry:
    """``name=path`` or ``name=path:format``."""
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise ConfigError(f"--data {text!r} is not NAME=PATH or NAME=PATH:FORMAT")
    _check_name(name, None)
    path, format = _split_format(value)
    known = entries.get(name)
    root = _local(path)
    if known is not None:
        return replace(known, root=root, format=format or known.format)
    if format is None and root.suffix == ".json":
        format = "coco"
    if format is None:
        raise ConfigError(
            f"--data {text!r} names a new dataset without its format",
            remedy=f"Write {name}={value}:FORMAT.",
        )
    return DatasetEntry(name, root, format)


def _split_format(value: str) -> tuple[str, str | None]:
    path, colon, last = value.rpartition(":")
    # A path may hold colons itself: what follows the last one must look like a format's name,
    # and the whole must not be an existing file.
    if colon and last.replace("_", "").isalnum() and not Path(value).expanduser().exists():
        return path, last
    return value, None


def _local(text: str, file: Path | None = None, record: str | None = None) -> Path:
    """A path as it was written, ``~`` and ``~user`` replaced."""
    if "\0" in text:
        raise ConfigError(f"{text!r} is no path", file=file, record=record)
    if is_url(text):
        raise ConfigError(
            f"{text!r} is a URL, and annotations are read from this machine",
            file=file,
            record=record,
            remedy="Fetch them, and name the URL of the images in relabel.toml: images = ...",
        )
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"{text!r}: there is no such home folder", file=file, record=record
        ) from error


def _check_name(name: str, file: Path | None) -> None:
    # Names become folders and joint class names `name/class`.
    if not name or not all(c.isalnum() or c in "-_." for c in name) or name.startswith("."):
        raise ConfigError(
            f"dataset name {name!r} is not usable",
            file=file,
            remedy="Use letters, digits, '-', '_' and '.'.",
        )
