"""``${NAME}`` and ``${NAME:-default}`` in the texts of relabel.toml, from the environment."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from relabel.errors import ConfigError

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-[^}]*)?\}")


def expand_variables(value: Any, file: Path, record: str) -> Any:
    """A value of a TOML file with the variables in its texts replaced, at any depth.

    As in a shell, a default (which may be empty) stands where the variable is unset or empty.

    Args:
        record: names the value in errors, such as ``[datasets.fine]``.

    Raises:
        ConfigError: a variable without default is unset or empty.
    """
    if isinstance(value, dict):
        return {k: expand_variables(v, file, f"{record} {k}") for k, v in value.items()}
    if isinstance(value, list):
        return [expand_variables(v, file, record) for v in value]
    if not isinstance(value, str):
        return value

    def replacement(match: re.Match[str]) -> str:
        found = os.environ.get(match["name"], "")
        if not found and match["default"] is None:
            raise ConfigError(
                f"environment variable {match['name']} is not set",
                file=file,
                record=record,
                remedy=f"Set it, or write ${{{match['name']}:-DEFAULT}}.",
            )
        return found or match["default"][2:]

    return _VARIABLE.sub(replacement, value)
