"""Fingerprints: SHA-256 of what a stage depends on, the same on every machine and in every run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from relabel.errors import DataError


def fingerprint(obj: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of ``obj``: sorted keys, no spaces, UTF-8.

    Dataclasses count as their fields, tuples as lists, paths as strings, sets as sorted lists.
    """
    text = json.dumps(
        obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain
    )
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def file_fingerprint(path: str | Path) -> str:
    """SHA-256 (hex) of a file's bytes.

    Raises:
        DataError: the file does not exist or cannot be read.
    """
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=path) from error


def folder_fingerprint(path: str | Path) -> str:
    """SHA-256 (hex) over the relative names and bytes of all files below a folder.

    Hidden files and folders (``.lock``, ``.git``) do not count.

    Raises:
        DataError: the folder does not exist, or a file in it cannot be read.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError("is not a folder", file=path)
    names = sorted(
        p.relative_to(root).as_posix()
        for p in root.rglob("*")
        if p.is_file() and not any(part.startswith(".") for part in p.relative_to(root).parts)
    )
    return fingerprint([[name, file_fingerprint(root / name)] for name in names])


def source_identity(name: str) -> str:
    """What stands for a network in fingerprints and manifests.

    A local folder is its name and the fingerprint of its files, so that it may move; anything
    else is its hub id or torchvision name.
    """
    folder = Path(name)
    if not name or not folder.is_dir():
        return name
    return f"{folder.resolve().name}@{folder_fingerprint(folder)[:12]}"


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, set | frozenset):
        return sorted(value)
    to_list = getattr(value, "tolist", None)
    if to_list is not None:  # NumPy arrays and scalars, without importing NumPy
        return to_list()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"cannot take the fingerprint of a {type(value).__name__}")
