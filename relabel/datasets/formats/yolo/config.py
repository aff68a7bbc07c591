"""What the files that describe a YOLO dataset say: class names, splits, keypoints.

That is ``data.yaml`` of Ultralytics, ``obj.data`` of Darknet and CVAT, or a list of class names
alone. Paths in them never lead out of the folder that the user gave.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relabel.datasets.formats.splits import split_kind
from relabel.errors import DataError
from relabel.files.opening import read_text
from relabel.files.paths import posix
from relabel.files.walk import is_hidden
from relabel.files.yaml_text import load_yaml

_KINDS = ("train", "val", "test")
YAML_SUFFIXES = (".yaml", ".yml")
_NAME_FILES = (
    "classes.txt",
    "obj.names",
    "labels/classes.txt",
    "data/obj.names",
    "_darknet.labels",
)
# Keys of data.yaml and obj.data that are no splits, whatever they hold.
_NO_SPLITS = {"path", "names", "nc", "kpt_shape", "download", "backup", "classes", "eval", "map"}
# More than any data set has; a number stated in a file must not fill the memory.
_MOST_CLASSES = 100_000
_MOST_PATH = 4096
_NOTHING = ("", "~", "null")
_OUT = (
    "In relabel.toml give the folder that holds all of it as root, and the file as its train or "
    "val, relative to that."
)


@dataclass
class Config:
    """What a dataset's own file says.

    Attributes:
        file: the file.
        names: class names by class number.
        places: folders that paths are relative to, the first that has them.
        roots: folders that no path leads out of.
        splits: per split, what it consists of: folders of images or lists of them; None where the
            file is of class names alone.
        keypoints: how many keypoints a row has, and 2 or 3 numbers for each.
    """

    file: Path
    names: dict[int, str]
    places: list[Path]
    roots: list[Path]
    splits: dict[str, list[str]] | None = None
    keypoints: tuple[int, int] | None = None

    def find(self, stated: str) -> Path | None:
        """What a path of the file means, None where it does not exist.

        Raises:
            DataError: it exists, but outside the dataset.
        """
        text = posix(stated)
        if len(text) > _MOST_PATH:
            return None
        whole = [os.path.normpath(os.path.join(p, text)) for p in self.places]  # noqa: PTH118
        # Roboflow writes ../train/images for a data.yaml that stands beside train/; Darknet writes
        # data/train.txt for what lies in the folder of its obj.data, whatever that is called.
        shorter = text
        while shorter.startswith("../"):
            shorter = shorter[3:]
        if shorter == text and not text.startswith("/"):
            parts = text.removeprefix("./").split("/", 1)
            if len(parts) > 1 and parts[0] in ("data", *(p.name for p in self.places)):
                shorter = parts[1]
        if shorter != text:
            whole += [os.path.normpath(p / shorter) for p in self.places]
        for path in whole:
            if self._holds(path) and (found := on_disk(path)) is not None:
                return Path(found)
        for path in whole:
            if not self._holds(path) and os.path.exists(path):  # noqa: PTH110
                raise DataError(
                    f"states the path {stated[:200]!r}, which leads out of {self.roots[0]}",
                    file=self.file,
                    remedy=_OUT,
                )
        return None

    def _holds(self, path: str) -> bool:
        return is_within(path, self.roots)


def on_disk(path: str, listed: dict[str, dict[str, list[str]]] | None = None) -> str | None:
    """The path as it is spelled on disk, where another case is meant; None where there is none.

    Windows and macOS do not tell ``Images`` from ``images``.

    Args:
        listed: names in folders by their lower case, as far as known; grows. For many paths of the
            same folders.
    """
    if os.path.lexists(path):
        return path
    listed = {} if listed is None else listed
    folder, name = os.path.split(path)
    if not name or (parent := on_disk(folder, listed)) is None:
        return None
    if parent not in listed:
        listed[parent] = defaultdict(list)
        with suppress(OSError):
            for other in os.listdir(parent):  # noqa: PTH208
                listed[parent][other.lower()].append(other)
    found = listed[parent].get(name.lower(), ())
    return os.path.join(parent, found[0]) if len(found) == 1 else None  # noqa: PTH118


def is_within(path: str, roots: Sequence[Path]) -> bool:
    """Whether a path lies in one of the folders, as written or with links followed."""
    if any(os.path.commonpath((path, root)) == str(root) for root in roots):
        return True
    real = os.path.realpath(path)
    return any(os.path.commonpath((real, r)) == r for r in map(os.path.realpath, roots))


def find_config(path: Path, annotations: str | None) -> Config:
    """The file that describes the dataset at ``path``, read.

    Args:
        annotations: a data.yaml, relative to ``path``.

    Raises:
        DataError: there is none, or it is damaged or contradicts itself.
    """
    root = Path(os.path.abspath(path if path.is_dir() else path.parent))  # noqa: PTH100
    if annotations or not path.is_dir():
        file = path / annotations if annotations and path.is_dir() else path
        suffix = file.suffix.lower()
        if suffix not in (*YAML_SUFFIXES, ".data"):
            raise DataError(
                "is not a YAML file", file=file, remedy="Point at data.yaml or at its folder."
            )
        return _from_yaml(file, root) if suffix in YAML_SUFFIXES else _from_darknet(file, root)
    visible = [p for p in sorted(path.iterdir()) if not is_hidden(p.name)]
    described = [p for p in visible if p.suffix.lower() in YAML_SUFFIXES and p.is_file()]
    for stem in ("data", "dataset"):
        for file in described:
            if file.stem.lower() == stem:
                return _from_yaml(file, root)
    listed = [p for p in visible if p.suffix.lower() == ".data" and p.is_file()]
    listed += [p for p in (path / "data/obj.data",) if p.is_file()]
    if len(listed) == 1:
        return _from_darknet(listed[0], root)
    names = next((path / n for n in _NAME_FILES if (path / n).is_file()), None)
    if names is None and len(described) == 1:
        return _from_yaml(described[0], root)
    if names is None:
        what = "no data.yaml and no classes.txt"
        if described:
            what = f"several YAML files ({', '.join(p.name for p in described[:5])})"
        raise DataError(
            what,
            file=path,
            remedy="Point at a data.yaml, or add one with `names`, `train` and `val`.",
        )
    return Config(names, listed_names(names), [root], [root])


def _from_yaml(file: Path, root: Path) -> Config:
    # Every scalar as it is written: the class `no` is not False, the folder 007 not 7.
    data = load_yaml(read_text(file), file, as_text=True)
    if not isinstance(data, dict):
        raise DataError(
            "is not a data.yaml", file=file, remedy="It needs names and train, val or test."
        )
    roots = _roots(file, root)
    config = Config(file, {}, _places(data.get("path"), file, roots), roots)
    config.names = _names(data, config)
    config.keypoints = _keypoints(data.get("kpt_shape"), file)
    config.splits = {}
    for key, value in data.items():
        sources = [value] if isinstance(value, str) else value
        stated = isinstance(sources, list) and all(isinstance(s, str) for s in sources)
        if key in _NO_SPLITS or value in (*_NOTHING, []):
            continue
        if split_kind(key) in _KINDS:
            if not stated:
                raise DataError(
                    f"{key} is neither a path nor a list of paths: {str(value)[:100]}",
                    file=file,
                    remedy="Give the folder of its images.",
                )
            config.splits[key] = sources
        elif stated and all(_is_source(config, s) for s in sources):
            config.splits[key] = sources
    return config


def _is_source(config: Config, stated: str) -> bool:
    """Whether a key that is not train, val or test names images."""
    try:
        found = config.find(stated)
    except DataError:
        return False
    return found is not None and (found.is_dir() or found.suffix.lower() == ".txt")


def _roots(file: Path, root: Path) -> list[Path]:
    """The folders that the user gave: the file's own, and the dataset's."""
    return list(dict.fromkeys((Path(os.path.abspath(file.parent)), root)))  # noqa: PTH100


def _places(stated: Any, file: Path, roots: list[Path]) -> list[Path]:
    """The folders that paths of a data.yaml are relative to."""
    if isinstance(stated, str) and stated not in _NOTHING and len(stated) <= _MOST_PATH:
        # Absolute paths of the machine on which the file was written are of no use elsewhere.
        found = on_disk(os.path.normpath(roots[0] / posix(stated)))
        if found is not None and os.path.isdir(found):  # noqa: PTH112
            if not is_within(found, roots):
                raise DataError(
                    f"states the path {stated[:200]!r}, which leads out of {roots[0]}",
                    file=file,
                    remedy=_OUT,
                )
            return [Path(found)]
    return roots


def _names(data: Mapping[str, Any], config: Config) -> dict[int, str]:
    file, names = config.file, data.get("names")
    count = _whole(data["nc"], "nc", file) if "nc" in data else None
    if isinstance(names, str) and names:
        listed = config.find(names)
        if listed is None or not listed.is_file():
            raise DataError(
                f"names is {names[:100]!r}, neither a list nor a file of names",
                file=file,
                remedy="Give a list, a map by number, or a file with a name a line.",
            )
        names = listed_names(listed)
    elif isinstance(names, list):
        names = dict(enumerate(names))
    elif names is None and count is not None:
        names = {i: f"class_{i}" for i in range(count)}
    elif isinstance(names, dict):
        names = _numbered(names, file)
    if not names or not isinstance(names, dict):
        raise DataError(
            "has no class names", file=file, remedy="Add `names`, a list or a map by number."
        )
    for number, name in names.items():
        if not isinstance(name, str) or not name.strip():
            raise DataError(
                f"class {number} has no name", file=file, remedy="Names are texts: `0: name`."
            )
    _check_unique(names, file)
    if count is not None and count != len(names):
        raise DataError(
            f"nc is {count} but there are {len(names)} names", file=file, remedy="Correct nc."
        )
    return {k: names[k] for k in sorted(names)}


def _check_unique(names: Mapping[int, str], file: Path) -> None:
    first: dict[str, int] = {}
    for number, name in names.items():
        if name in first:
            raise DataError(
                f"the class name {name!r} appears twice, as {first[name]} and {number}",
                file=file,
                remedy="Give every class its own name.",
            )
        first[name] = number


def _numbered(names: Mapping[str, Any], file: Path) -> dict[int, Any]:
    numbered = {int(k): v for k, v in names.items() if k.isascii() and k.isdecimal() and len(k) < 9}
    if len(numbered) != len(names):
        raise DataError("names are not numbered from 0", file=file, remedy="Use `0: name`.")
    return numbered


def _whole(text: Any, what: str, file: Path) -> int:
    """A number of classes or keypoints."""
    try:
        number = float(text)
    except (TypeError, ValueError):
        number = -1.0
    if number != number // 1 or not 0 <= number <= _MOST_CLASSES:
        raise DataError(
            f"{what} is {str(text)[:50]!r}, which is no number from 0 to {_MOST_CLASSES:,}",
            file=file,
            remedy=f"Correct {what}.",
        )
    return int(number)


def _keypoints(shape: Any, file: Path) -> tuple[int, int] | None:
    if shape is None or shape in _NOTHING:
        return None
    if not isinstance(shape, Sequence) or isinstance(shape, str) or len(shape) != 2:
        shape = (0, 0)
    number, each = (_whole(v, "kpt_shape", file) for v in shape)
    if number < 1 or each not in (2, 3):
        raise DataError(
            "kpt_shape is not a number of keypoints and 2 or 3 numbers for each",
            file=file,
            remedy="Write it as `kpt_shape: [17, 3]`.",
        )
    return number, each


def _from_darknet(file: Path, root: Path) -> Config:
    roots = _roots(file, root)
    config = Config(file, {}, roots, roots)
    data = dict(_settings(file))
    if "names" not in data:
        raise DataError("has no line `names = FILE`", file=file, remedy="Add it.")
    names = config.find(data["names"])
    if names is None:
        raise DataError(
            f"names is {data['names']!r}, which does not exist",
            file=file,
            remedy="Correct the path; it is relative to the file's folder.",
        )
    config.names = listed_names(names)
    splits = {
        key: [value]
        for key, value in data.items()
        if value and key not in _NO_SPLITS and (split_kind(key) in _KINDS or value.endswith(".txt"))
    }
    config.splits = splits or None
    return config


def _settings(file: Path) -> Iterator[tuple[str, str]]:
    for line in read_text(file, most=1 << 20).split("\n"):
        key, equals, value = line.partition("=")
        if equals and not key.lstrip().startswith("#"):
            yield key.strip(), value.strip()


def listed_names(file: Path) -> dict[int, str]:
    """Class names of a file with one on each line, numbered from 0.

    Raises:
        DataError: a name is empty or appears twice, or there is none.
    """
    lines = [line.strip() for line in read_text(file, most=1 << 24).rstrip().split("\n")]
    if not any(lines):
        raise DataError("has no class names", file=file, remedy="Write one on each line.")
    if "" in lines:
        raise DataError(
            f"class {lines.index('')} has no name",
            file=file,
            record=f"line {lines.index('') + 1}",
            remedy="Write one on each line, without empty lines between.",
        )
    names = dict(enumerate(lines))
    _check_unique(names, file)
    return names
