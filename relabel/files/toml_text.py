"""TOML of unknown origin, such as a relabel.toml that came with a dataset."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from relabel.errors import ConfigError
from relabel.files.opening import foreign

_MOST_DEPTH = 64


def load_toml(text: str, path: str | Path) -> dict[str, Any]:
    """The tables of a TOML document.

    Raises:
        ConfigError: not TOML; the message tells the line.
        DataError: nested too deeply.
    """
    with foreign(path, "valid TOML", remedy="Correct the file."):
        try:
            return _shallow(tomllib.loads(text), path)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(
                f"not valid TOML: {error}", file=path, remedy="Correct the file."
            ) from error
    raise AssertionError  # unreachable: the block above returns or raises


def _shallow(table: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The table, if whoever walks through it need not recurse deeply; dotted keys nest freely."""
    level: list[Any] = [table]
    for _ in range(_MOST_DEPTH):
        level = [v for c in level for v in (c.values() if isinstance(c, dict) else c)]
        if any(isinstance(v, int) and not -(1 << 63) <= v < 1 << 63 for v in level):
            raise ConfigError(
                "holds a whole number of more than 64 bits", file=path, remedy="Correct the file."
            )
        level = [v for v in level if isinstance(v, dict | list)]
        if not level:
            return table
    raise ConfigError(f"nested more than {_MOST_DEPTH} deep", file=path, remedy="Correct the file.")
