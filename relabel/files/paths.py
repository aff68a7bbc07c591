"""Paths written inside files: as Windows or Unix writes them, and never out of the dataset."""

from __future__ import annotations

import os
import re
from pathlib import Path

from relabel.errors import DataError

_DRIVE = re.compile(r"^[A-Za-z]:[\\/]")


def posix(text: str) -> str:
    """A written path with forward slashes.

    Backslashes are separators where the text has no forward slash, or starts with a drive or with
    two of them, as Windows writes paths; a file name may hold one otherwise.

    >>> [posix(t) for t in (r"images\\cam1\\a.jpg", r".\\a.jpg", r"C:\\data\\a.jpg", "x/a.jpg")]
    ['images/cam1/a.jpg', './a.jpg', 'C:/data/a.jpg', 'x/a.jpg']
    """
    if "\\" in text and ("/" not in text or _DRIVE.match(text) or text.startswith("\\\\")):
        return text.replace("\\", "/")
    return text


def is_absolute(text: str) -> bool:
    """True of an absolute path as Unix or Windows writes it, or one in a home folder."""
    return text.startswith(("/", "\\", "~")) or _DRIVE.match(text) is not None


def inside(root: str | Path, stated: str, *, file: str | Path, record: str | None = None) -> Path:
    """The path that a file states, if it lies in ``root``.

    Only the text is looked at, not links: whoever makes a link inside a dataset has had its files.

    Args:
        stated: a path relative to ``root``, or an absolute one inside it.
        file: the file that states it, for the error.

    Raises:
        DataError: it leads out of ``root``.
    """
    text = posix(stated)
    base = os.path.abspath(root)  # noqa: PTH100 (a Path would follow no `..`)
    whole = os.path.normpath(os.path.join(base, text))  # noqa: PTH118
    out = "\0" in text or _DRIVE.match(text) or text.startswith("~")
    if out or os.path.commonpath((base, whole)) != base:
        raise DataError(
            f"states the path {stated!r}, which leads out of {base}",
            file=file,
            record=record,
            remedy="Give that folder as the dataset's root if it is meant.",
        )
    return Path(whole)
