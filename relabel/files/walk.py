"""Listing files below a folder: hidden ones are no data, linked folders are followed once."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from relabel.errors import DataError

_NOT_DATA = frozenset(("__macosx", "thumbs.db", "desktop.ini"))


def is_hidden(name: str) -> bool:
    """True of a file or folder name that is no data: dot files, AppleDouble, leftovers, thumbnails.

    >>> [is_hidden(n) for n in ("a.jpg", "._a.jpg", ".tmp-12-0.jpg", "__MACOSX", "Thumbs.db")]
    [False, True, True, True, True]
    """
    return name.startswith(".") or name.lower() in _NOT_DATA


def wanted(name: str, suffixes: Collection[str]) -> bool:
    """Whether a relative path is data with one of these suffixes; see `walk_files`."""
    *folders, last = name.split("/")
    fits = os.path.splitext(last)[1].lower() in suffixes  # noqa: PTH122
    return fits and not any(map(is_hidden, (*folders, last)))


def walk_files(root: str | Path, suffixes: Collection[str] | None = None) -> list[str]:
    """Relative paths of the files below a folder, with forward slashes, sorted.

    A folder that is a link is followed, and none is listed twice: of several ways to one folder
    the one with no link counts, else the first in order of names.

    Args:
        suffixes: in lower case with their dot, such as ``.jpg``; case on disk does not matter.

    Raises:
        DataError: a folder cannot be listed.
    """
    return sorted(_found(str(root), suffixes))


def _found(root: str, suffixes: Collection[str] | None) -> Iterator[str]:
    seen: set[tuple[int, int]] = set()
    linked: list[str] = []
    waiting = [""]
    home = os.path.realpath(root)
    while waiting or linked:
        # Links wait until every real folder is known, so that they do not take their place.
        link = not waiting
        folder = linked.pop(0) if link else waiting.pop()
        path = f"{root}/{folder}" if folder else root
        try:
            place = os.stat(path)  # noqa: PTH116
            if (place.st_dev, place.st_ino) in seen:
                continue
            seen.add((place.st_dev, place.st_ino))
            # A link to a folder above, up to the whole disk, is a loop and not a part.
            if link and Path(home).is_relative_to(os.path.realpath(path)):
                continue
            with os.scandir(path) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
            kinds = [entry.is_dir() for entry in inside]
        except OSError as error:
            raise DataError(
                f"folder cannot be listed: {error.strerror}",
                file=path,
                remedy="Check its permissions.",
            ) from error
        for entry, is_folder in zip(inside, kinds, strict=True):
            if is_hidden(entry.name):
                continue
            below = f"{folder}/{entry.name}" if folder else entry.name
            if is_folder:
                (linked if entry.is_symlink() else waiting).append(below)
            elif suffixes is None or os.path.splitext(entry.name)[1].lower() in suffixes:  # noqa: PTH122
                yield below
