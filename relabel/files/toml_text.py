"""TOML of unknown origin, such as a relabel.toml that came with a dataset."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from relabel.errors import ConfigError
from relabel.files.opening import foreign


def load_toml(text: str, path: str | Path) -> dict[str, Any]:
    """The tables of a TOML document.

    Raises:
        ConfigError: not TOML; the message tells the line.
        DataError: nested too deeply.
    """
    with foreign(path, "valid TOML", remedy="Correct the file."):
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(
                f"not valid TOML: {error}", file=path, remedy="Correct the file."
            ) from error
    raise AssertionError  # unreachable: the block above returns or raises
