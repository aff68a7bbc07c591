"""A few of the kills of `tests.fuzz.kill`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fuzz.kill import make_jobs, rounds


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_conversions_end_with_the_same_bytes(tmp_path: Path) -> None:
    jobs = make_jobs(tmp_path, 60, multilabel=False)
    counts = rounds(jobs, 12, 5, tmp_path, images=60)
    assert counts["killed while it wrote"] > 0 and counts["equal"] >= 8
