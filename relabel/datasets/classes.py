"""Lists of classes, and files that give each image one of them.

A class can be called by its key (ImageNet's WordNet ids), its name, or its index.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from relabel.datasets.labelspace import LabelSpace
from relabel.errors import ConfigError, DataError, Problems, did_you_mean
from relabel.files.opening import foreign, read_text, text_lines
from relabel.files.paths import posix
from relabel.files.yaml_text import load_yaml

MOST_CLASSES = 100_000
"""Class indices end below this: many times what any set has, and tables over it fit in memory."""
_LABEL_LINES = "It must be a text file with a line `file name<TAB>class` per image."
_HEADERS = frozenset(("filename", "file_name", "file", "image", "image_id", "path", "name"))


@dataclass(frozen=True)
class ClassNames:
    """The C classes in the order of their indices.

    Attributes:
        names: C names.
        keys: C keys, the names again where the classes have no other.
    """

    names: list[str]
    keys: list[str]

    @cached_property
    def index(self) -> dict[str, int]:
        """Keys and names to indices; keys first, a name that two classes share is left out."""
        return {**_unique(self.names), **_unique(self.keys)}

    @cached_property
    def _folded(self) -> dict[str, int]:
        return _unique([text.lower() for text in self.names])

    def find(self, text: str) -> int | None:
        """Index of the class called ``text``: a key, a name, an index; then a name in any case."""
        found = self.index.get(text)
        is_number = text.isascii() and text.isdecimal() and len(text) < 10
        if found is None and is_number and int(text) < len(self.names):
            return int(text)
        return self._folded.get(text.lower()) if found is None else found


class LabelLine(NamedTuple):
    """One line of a file of labels; the class is as written."""

    number: int
    file_name: str
    label: str


def read_class_list(source: str | Path) -> ClassNames:
    """Classes from a file, or from a built-in label space by name.

    Raises:
        ConfigError: neither a file nor a built-in label space.
        DataError: the file is not a list of classes.
    """
    path = Path(source)
    if not path.is_file():
        if str(source) in LabelSpace.builtin_names():
            return _from_space(LabelSpace.load(str(source)))
        raise ConfigError(
            f"{str(source)!r} is neither a file of classes nor a label space",
            remedy=did_you_mean(str(source), LabelSpace.builtin_names()),
        )
    text = read_text(path)
    if path.suffix in (".yaml", ".yml"):
        found = _from_yaml(path, text)
    else:
        rows = [line.split("\t", 1) for line in text.split("\n") if line.strip()]
        found = ClassNames([row[-1].strip() for row in rows], [row[0].strip() for row in rows])
    if not found.names:
        raise DataError("names no classes", file=path, remedy="Write one name per line.")
    twice = [key for key, n in Counter(found.keys).items() if n > 1]
    if twice:
        raise DataError(
            f"class {twice[0]!r} is listed twice",
            file=path,
            remedy="Give each class a key of its own, as `key<TAB>name`.",
        )
    return found


def _from_space(space: LabelSpace) -> ClassNames:
    categories = space.categories[: space.num_classes]
    imagenet = space.name == "imagenet1k"
    keys = [c.aliases[0] if imagenet else c.name for c in categories]
    return ClassNames([c.name for c in categories], keys)


def _from_yaml(path: Path, text: str) -> ClassNames:
    data: Any = load_yaml(text, path, as_text=True)
    if isinstance(data, dict) and "categories" in data:
        return _from_space(LabelSpace.from_yaml(data, file=path))
    if isinstance(data, dict) and isinstance(data.get("names"), list | dict):
        data = data["names"]
    if isinstance(data, dict) and sorted(map(str, data)) == sorted(map(str, range(len(data)))):
        data = [name for _, name in sorted(data.items(), key=lambda item: int(item[0]))]
    if not isinstance(data, list) or not all(isinstance(n, str) for n in data):
        raise DataError(
            "not a list of classes",
            file=path,
            remedy="Write a list of names, a mapping 0: name, 1: name, ..., or a label space.",
        )
    return ClassNames(data, data)


def read_label_lines(path: Path, problems: Problems) -> list[LabelLine]:
    """Lines ``file name, class`` separated by a tab or, in a file without tabs, a comma.

    Raises:
        DataError: missing, not text, or a line that does not have both and is not to be skipped.
    """
    with text_lines(path, remedy=_LABEL_LINES) as lines:
        first = next(lines, "")
        lines = chain([first], lines)
        rows = (line.split("\t") for line in lines) if "\t" in first else csv.reader(lines)
        with foreign(path, "a text of lines with a file name and a class", remedy=_LABEL_LINES):
            return _label_lines(path, rows, problems)
    raise AssertionError  # unreachable: the block above returns or raises


def _label_lines(path: Path, rows: Iterable[list[str]], problems: Problems) -> list[LabelLine]:
    lines = []
    for number, row in enumerate(rows, 1):
        values = [value.strip() for value in row[:2]]
        if not any(values) or (number == 1 and values[0].lower() in _HEADERS):
            continue
        if len(values) < 2 or not all(values):
            problems.error(
                f"{','.join(row)[:80]!r} is not a file name and a class",
                file=path,
                record=f"line {number}",
                remedy="Write `file name<TAB>class`.",
            )
            continue
        lines.append(LabelLine(number, str(PurePosixPath(posix(values[0]))), values[1]))
    return lines


def _unique(texts: Sequence[str]) -> dict[str, int]:
    """Indices of the texts that appear once."""
    counts = Counter(texts)
    return {text: i for i, text in enumerate(texts) if counts[text] == 1}
