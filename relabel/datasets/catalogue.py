"""The catalogue: datasets and settings named in relabel.toml, and how each dataset is read.

[datasets.fine]
format = "coco"
root = "data/fine"          # relative to relabel.toml
train = "train.json"        # annotation files, or `split = "train"` where the format has splits
test = "test.json"

[specialist]
epochs = 12
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from relabel.errors import ConfigError, Problems, did_you_mean

if TYPE_CHECKING:
    from relabel.datasets.dataset import DetectionDataset

CONFIG_NAME = "relabel.toml"
SETTINGS_TABLES = ("specialist", "crosslabel", "lat", "align", "runtime")
Which = Literal["train", "val", "test"]
WHICH: tuple[Which, ...] = ("train", "val", "test")
_DATASET_KEYS = (
    "root",
    "format",
    "split",
    "val_split",
    "test_split",
    "train",
    "val",
    "test",
    "space",
)


@dataclass(frozen=True)
class DatasetEntry:
    """Where a dataset is and how it is read.

    Attributes:
        name: as the command line and joint class names call it.
        root: its root folder, or its file where the format is one file.
        format: a name of `relabel.datasets.registry`.
        splits: the format's split per purpose (train, val, test), where given.
        files: annotation file per purpose, relative to ``root``, where given.
        space: built-in label space or YAML file to read into; None for the format's own.
    """

    name: str
    root: Path
    format: str
    splits: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    space: str | None = None

    def has(self, which: Which) -> bool:
        """True if the entry says what to read for a purpose; train always works."""
        return which == "train" or which in self.splits or which in self.files

    def read(self, which: Which = "train", *, problems: Problems | None = None) -> DetectionDataset:
        """Read the images and boxes of one purpose.

        The label space takes the entry's name, so that joint class names are ``name/class``.

        Raises:
            ConfigError: nothing is named for this purpose, or an unknown format or label space.
            DataError: files are missing or damaged.
        """
        from relabel.datasets.labelspace import LabelSpace
        from relabel.datasets.registry import read_dataset

        if not self.has(which):
            raise ConfigError(
                f"dataset {self.name!r} names nothing for {which}",
                remedy=f'Add `{which} = "FILE"` or `{which}_split = "SPLIT"` to its table.',
            )
        dataset = read_dataset(
            self.root,
            self.format,
            name=self.name,
            split=self.splits.get(which),
            annotations=self.files.get(which),
            problems=problems,
            space=None if self.space is None else LabelSpace.load(self.space),
        )
        return replace(dataset, name=self.name, space=replace(dataset.space, name=self.name))


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

    def names(self) -> list[str]:
        return list(self.entries)

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
            split: overrides what the entry reads for training.

        Raises:
            ConfigError: neither a name nor a path, or a path without a format.
        """
        text = str(name_or_path)
        if text in self.entries:
            entry = self.entries[text]
            if format:
                entry = replace(entry, format=format)
        else:
            path = Path(text).expanduser()
            if not path.exists():
                looks_like_path = "/" in text or path.suffix
                if looks_like_path:
                    raise ConfigError("no such file or folder", file=text, remedy="Check the path.")
                return self.get(text)
            if format is None and path.suffix == ".json":
                format = "coco"
            if format is None:
                raise ConfigError(
                    "a path needs its format", file=text, remedy="Add --format FORMAT."
                )
            entry = DatasetEntry(path.stem or path.resolve().name, path, format)
        if split:
            files = {k: v for k, v in entry.files.items() if k != "train"}
            entry = replace(entry, splits={**entry.splits, "train": split}, files=files)
        return entry


def load_catalogue(
    start: str | Path | None = None,
    overrides: Iterable[str] | Mapping[str, str] | None = None,
    *,
    config: str | Path | None = None,
) -> Catalogue:
    """Read the relabel.toml at ``config``, or the first one found from ``start`` upward.

    Args:
        start: the folder to start from; default the working folder.
        overrides: ``name=path[:format]`` texts as given to ``--data``, or a mapping of the same.
        config: a relabel.toml, instead of searching.

    Raises:
        ConfigError: the file does not exist, is not TOML, or has keys nobody reads.
    """
    if config is not None:
        file: Path | None = Path(config).expanduser()
        if not file.is_file():
            raise ConfigError("no such file", file=file, remedy="Check --config.")
    else:
        file = find_config(Path.cwd() if start is None else Path(start))
    entries: dict[str, DatasetEntry] = {}
    tables: dict[str, Mapping[str, Any]] = {}
    if file is not None:
        entries, tables = _parse(file)
    if isinstance(overrides, Mapping):
        overrides = [f"{name}={value}" for name, value in overrides.items()]
    for text in overrides or ():
        entry = _override(text, entries)
        entries[entry.name] = entry
    return Catalogue(entries, tables, file)


def find_config(start: Path) -> Path | None:
    """The nearest relabel.toml in ``start`` or a folder above it."""
    start = start.resolve()
    for folder in (start, *start.parents):
        if (folder / CONFIG_NAME).is_file():
            return folder / CONFIG_NAME
    return None


def _parse(file: Path) -> tuple[dict[str, DatasetEntry], dict[str, Mapping[str, Any]]]:
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not valid TOML: {error}", file=file) from error
    except UnicodeDecodeError as error:
        raise ConfigError("not UTF-8 text", file=file, remedy="Save it as UTF-8.") from error
    known = ("datasets", *SETTINGS_TABLES)
    for key, value in data.items():
        if key not in known:
            raise ConfigError(f"unknown table [{key}]", file=file, remedy=did_you_mean(key, known))
        if not isinstance(value, dict):
            raise ConfigError(f"{key!r} must be a table", file=file, remedy=f"Write [{key}].")
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
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{key} must be a text, not {value!r}", file=file, record=where)
    for key in ("root", "format"):
        if key not in table:
            raise ConfigError(
                f"{key} is missing", file=file, record=where, remedy=f'Add {key} = "...".'
            )
    space = table.get("space")
    if space is not None and space.endswith((".yaml", ".yml")):
        space = str(file.parent / Path(space).expanduser())
    splits = {"train": "split", "val": "val_split", "test": "test_split"}
    return DatasetEntry(
        name=name,
        root=file.parent / Path(table["root"]).expanduser(),
        format=table["format"],
        splits={which: table[key] for which, key in splits.items() if key in table},
        files={which: table[which] for which in WHICH if which in table},
        space=space,
    )


def _override(text: str, entries: Mapping[str, DatasetEntry]) -> DatasetEntry:
    """``name=path`` or ``name=path:format``."""
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise ConfigError(f"--data {text!r} is not NAME=PATH or NAME=PATH:FORMAT")
    _check_name(name, None)
    path, format = _split_format(value)
    known = entries.get(name)
    root = Path(path).expanduser()
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


def _check_name(name: str, file: Path | None) -> None:
    # Names become folders and joint class names `name/class`.
    if not name or not all(c.isalnum() or c in "-_." for c in name) or name.startswith("."):
        raise ConfigError(
            f"dataset name {name!r} is not usable",
            file=file,
            remedy="Use letters, digits, '-', '_' and '.'.",
        )
