"""A dataset folder as FiftyOne itself sees it, with a database of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_LOAD = """
import json, sys
import fiftyone as fo
try:
    fo.list_datasets()
except Exception as error:
    print("NO DATABASE", error); raise SystemExit(3)
d = fo.Dataset.from_dir(dataset_dir=sys.argv[1], dataset_type=fo.types.FiftyOneDataset)
s = d.first()
"""


def looked_at_by_fiftyone(folder: Path, look: str, *, database: Path) -> Any:
    """The JSON that ``look`` prints; it knows the loaded dataset ``d`` and its first sample ``s``.

    Skips where FiftyOne is not installed or its database does not start.
    """
    pytest.importorskip("fiftyone")
    env = {
        **os.environ,
        "FIFTYONE_DATABASE_DIR": str(database),
        "FIFTYONE_DO_NOT_TRACK": "1",
    }
    try:
        done = subprocess.run(
            [sys.executable, "-c", _LOAD + look, str(folder)],
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("FiftyOne's database did not start within 300 seconds")
    if done.returncode == 3:
        pytest.skip(f"FiftyOne's database does not start: {done.stdout.strip()[-200:]}")
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def loaded_by_view(
    result: Path, *options: str, database: Path
) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    """What `relabel view --load-only` did, and the environment in which to look at it.

    Skips where FiftyOne is not installed or its database does not start.
    """
    pytest.importorskip("fiftyone")
    env = {
        **os.environ,
        "FIFTYONE_DATABASE_DIR": str(database),
        "FIFTYONE_DO_NOT_TRACK": "1",
    }
    command = [sys.executable, "-c", "from relabel.cli import main; main()"]
    try:
        done = subprocess.run(
            [*command, "view", str(result), "--load-only", *options],
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("FiftyOne's database did not start within 300 seconds")
    if "all but `relabel view` works" in done.stderr:
        pytest.skip(done.stderr.strip()[-200:])
    assert done.returncode == 0, done.stderr
    return done, env
