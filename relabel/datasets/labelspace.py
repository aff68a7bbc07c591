"""Label spaces: the ordered categories of one dataset, and the concatenation of several."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from relabel.errors import ConfigError, DataError, did_you_mean
from relabel.files.opening import read_text
from relabel.files.yaml_text import load_yaml

_KEYS = ("id", "name", "aliases", "ignore", "prompt", "supercategory")
_NULLS = ("", "~", "null", "Null", "NULL")
_TRUE, _FALSE = frozenset(("true", "yes", "on")), frozenset(("false", "no", "off"))


@dataclass(frozen=True)
class Category:
    """One category of a label space.

    Attributes:
        id: the id used on disk (COCO ``category_id``, Cityscapes label id, ...).
        name: canonical name.
        aliases: other names the dataset's files use for it; matched case-insensitively.
        ignore: boxes of this category are regions to leave out of training and evaluation.
        prompt: text by which a text-prompted detector finds the category; default the name.
        supercategory: COCO's grouping, kept for round trips.
    """

    id: int
    name: str
    aliases: tuple[str, ...] = ()
    ignore: bool = False
    prompt: str | None = None
    supercategory: str | None = None

    @property
    def text_prompt(self) -> str:
        return self.prompt or self.name


def _category(row: Mapping[Any, Any]) -> Category:
    """A category from the texts of a YAML mapping.

    Raises:
        ValueError: a key that is missing, unknown or does not fit.
    """
    for key in row:
        if key not in _KEYS:
            raise ValueError(f"unknown key {key!r}. {did_you_mean(str(key), _KEYS)}")
    given = {key: value for key, value in row.items() if key == "name" or value not in _NULLS}
    number = given.get("id")
    if not isinstance(number, str) or not re.fullmatch("-?[0-9]{1,18}", number):
        raise ValueError(f"id must be a whole number, not {number!r}")
    if not given.get("name"):
        raise ValueError("it has no name")
    for key in ("name", "prompt", "supercategory"):
        if not isinstance(given.get(key, ""), str):
            raise ValueError(f"{key} must be text, not {given[key]!r}")
    aliases = given.get("aliases", [])
    aliases = [aliases] if isinstance(aliases, str) else aliases
    if not isinstance(aliases, list) or not all(isinstance(alias, str) for alias in aliases):
        raise ValueError(f"aliases must be a list of texts, not {aliases!r}")
    ignore = str(given.get("ignore", "false")).lower()
    if ignore not in _TRUE | _FALSE:
        raise ValueError(f"ignore must be true or false, not {given['ignore']!r}")
    return Category(
        int(number),
        given["name"],
        tuple(aliases),
        ignore in _TRUE,
        given.get("prompt"),
        given.get("supercategory"),
    )


@dataclass(frozen=True)
class LabelSpace:
    """An ordered set of categories. Boxes refer to categories by position, not by id.

    Categories with ``ignore`` come last, so that the positions ``0 .. num_classes - 1`` are the
    classes that detectors learn; construction reorders them (stably) where needed.
    """

    name: str
    categories: tuple[Category, ...]

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.categories, key=lambda c: c.ignore))
        object.__setattr__(self, "categories", ordered)
        for what in ("id", "name"):
            for value, count in Counter(getattr(c, what) for c in ordered).items():
                if count > 1:
                    raise DataError(
                        f"category {what} {value!r} appears twice in label space {self.name!r}",
                        remedy=f"Give every category its own {what}.",
                    )

    def __len__(self) -> int:
        return len(self.categories)

    @property
    def num_classes(self) -> int:
        """Number of categories that are not ``ignore`` (C)."""
        return sum(not c.ignore for c in self.categories)

    @property
    def class_names(self) -> list[str]:
        return [c.name for c in self.categories if not c.ignore]

    @property
    def names(self) -> list[str]:
        return [c.name for c in self.categories]

    @cached_property
    def index_by_id(self) -> dict[int, int]:
        return {c.id: i for i, c in enumerate(self.categories)}

    @cached_property
    def index_by_name(self) -> dict[str, int]:
        """Names and aliases, lower case, to positions; exact names win over aliases."""
        table: dict[str, int] = {}
        for i, c in enumerate(self.categories):
            for alias in c.aliases:
                table.setdefault(alias.lower(), i)
        # Later categories must not shadow the first of two names that differ only in case.
        for i in reversed(range(len(self.categories))):
            table[self.categories[i].name.lower()] = i
        return table

    def index(self, name: str) -> int:
        """Position of the category called ``name`` (or with that alias).

        Raises:
            ConfigError: unknown name; the message lists near matches.
        """
        found = self.get(name)
        if found is None:
            raise ConfigError(
                f"label space {self.name!r} has no category {name!r}",
                remedy=did_you_mean(name, self.names),
            )
        return found

    @cached_property
    def _index_by_exact_name(self) -> dict[str, int]:
        return {c.name: i for i, c in enumerate(self.categories)}

    def get(self, name: str) -> int | None:
        """Like `index`, but None for an unknown name."""
        found = self._index_by_exact_name.get(name)
        return self.index_by_name.get(name.lower()) if found is None else found

    @cached_property
    def ids(self) -> np.ndarray:
        """Category ids by position, int64 [len(self)]."""
        return np.array([c.id for c in self.categories], dtype=np.int64)

    @cached_property
    def ignore_mask(self) -> np.ndarray:
        """True where the category is ``ignore``, bool [len(self)]."""
        return np.array([c.ignore for c in self.categories], dtype=bool)

    @classmethod
    def from_names(cls, name: str, names: Iterable[str], *, first_id: int = 1) -> LabelSpace:
        return cls(name, tuple(Category(first_id + i, n) for i, n in enumerate(names)))

    def to_coco(self) -> list[dict[str, Any]]:
        rows = []
        for c in self.categories:
            row: dict[str, Any] = {"id": c.id, "name": c.name}
            if c.supercategory is not None:
                row["supercategory"] = c.supercategory
            rows.append(row)
        return rows

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "categories": [
                {
                    "id": c.id,
                    "name": c.name,
                    "aliases": list(c.aliases),
                    "ignore": c.ignore,
                    "prompt": c.prompt,
                }
                for c in self.categories
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, file: str | Path | None = None) -> LabelSpace:
        try:
            categories = tuple(
                Category(
                    id=int(row["id"]),
                    name=str(row["name"]),
                    aliases=tuple(str(a) for a in row.get("aliases") or ()),
                    ignore=bool(row.get("ignore", False)),
                    prompt=row.get("prompt"),
                )
                for row in data["categories"]
            )
            return cls(str(data["name"]), categories)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"not a label space: {error!r}",
                file=file,
                remedy="It needs `name` and `categories`, each with `id` and `name`.",
            ) from error

    @classmethod
    def load(cls, name_or_path: str | Path) -> LabelSpace:
        """A built-in label space by name (``cityscapes``), or a YAML file by path.

        Raises:
            ConfigError: neither a built-in name nor a file.
            DataError: the file is not a label space.
        """
        path = Path(name_or_path)
        if path.suffix in (".yaml", ".yml"):
            path = path.expanduser()
            if not path.is_file():
                raise ConfigError("no such label space file", file=path)
            text = read_text(path)
        else:
            known = cls.builtin_names()
            if str(name_or_path) not in known:
                raise ConfigError(
                    f"no label space called {str(name_or_path)!r}",
                    remedy=did_you_mean(str(name_or_path), known),
                )
            resource = resources.files("relabel.schemas") / f"{name_or_path}.yaml"
            text = resource.read_text(encoding="utf-8")
        return cls.from_yaml(load_yaml(text, path, as_text=True), file=path)

    @classmethod
    def from_yaml(cls, data: Any, *, file: str | Path) -> LabelSpace:
        """A label space from YAML read as text, so that no, 007 and 1.0 are names as written.

        Raises:
            DataError: the values are not those of a label space; the message names the key.
        """
        remedy = "It needs `name` and `categories`, each with `id` and `name`."
        if not isinstance(data, dict) or not isinstance(data.get("categories"), list):
            raise DataError("not a label space", file=file, remedy=remedy)
        rows = []
        for i, row in enumerate(data["categories"], 1):
            where = f"categories, entry {i}"
            if not isinstance(row, dict):
                raise DataError("not a category", file=file, record=where, remedy=remedy)
            try:
                rows.append(_category(row))
            except ValueError as error:
                raise DataError(str(error), file=file, record=where, remedy=remedy) from None
        name = data.get("name")
        if not isinstance(name, str) or not name:
            raise DataError("name must be a text", file=file, remedy=remedy)
        try:
            return cls(name, tuple(rows))
        except DataError as error:
            raise DataError(error.message, file=file, remedy=error.remedy) from None

    @staticmethod
    def builtin_names() -> list[str]:
        root = resources.files("relabel.schemas")
        return sorted(p.name[:-5] for p in root.iterdir() if p.name.endswith(".yaml"))


@dataclass(frozen=True)
class JointLabelSpace:
    """The concatenation of several label spaces; classes are called ``dataset/name``.

    Classes are never merged by name (methods §1): equal names in two datasets stay two classes.
    """

    spaces: tuple[LabelSpace, ...]

    @cached_property
    def _starts(self) -> list[int]:
        return list(accumulate((s.num_classes for s in self.spaces), initial=0))

    @property
    def num_classes(self) -> int:
        """Total number of classes over all datasets (C)."""
        return self._starts[-1]

    @property
    def class_names(self) -> list[str]:
        return [f"{s.name}/{n}" for s in self.spaces for n in s.class_names]

    def position(self, name: str) -> int:
        """Position of the dataset called ``name`` among the spaces."""
        for i, space in enumerate(self.spaces):
            if space.name == name:
                return i
        raise ConfigError(
            f"no dataset {name!r} in the joint label space",
            remedy=did_you_mean(name, [s.name for s in self.spaces]),
        )

    def slice(self, dataset: str | int) -> slice:
        """The columns of one dataset's classes in the joint score vector."""
        i = dataset if isinstance(dataset, int) else self.position(dataset)
        return slice(self._starts[i], self._starts[i + 1])

    def mask(self, dataset: str | int) -> np.ndarray:
        """bool [C], True on the classes of one dataset."""
        mask = np.zeros(self.num_classes, dtype=bool)
        mask[self.slice(dataset)] = True
        return mask
