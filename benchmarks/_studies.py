"""What the studies of a protocol share on the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from relabel.errors import ConfigError, RelabelError, did_you_mean


def study_parser(description: str | None) -> argparse.ArgumentParser:
    """A protocol, which of its sets, arms and seeds, and where to."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("protocol", type=Path)
    parser.add_argument("--sets", help="with commas")
    parser.add_argument("--arms", help="with commas")
    parser.add_argument("--seeds", help="with commas")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--overwrite", action="store_true")
    return parser


def chosen(table: Mapping[str, Any], wanted: str | None) -> dict[str, Any]:
    """The entries of a protocol's table that an option names with commas; all without it.

    Raises:
        ConfigError: the table has no such entry.
    """
    names = list(table) if wanted is None else wanted.split(",")
    for name in names:
        if name not in table:
            raise ConfigError(f"no {name!r} in the protocol", remedy=did_you_mean(name, table))
    return {name: table[name] for name in names}


def chosen_seeds(seeds: Sequence[int], wanted: str | None) -> list[int]:
    """Those of the seeds that an option names with commas; all without it."""
    these = None if wanted is None else [int(s) for s in wanted.split(",")]
    return [s for s in seeds if these is None or s in these]


def finished(name: str, work: Callable[[], None]) -> int:
    """Do the work; the exit status of the script, whose errors are one line."""
    try:
        work()
    except RelabelError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 1
    return 0
