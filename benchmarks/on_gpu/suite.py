"""The suite's tests that need CUDA, in a process of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.on_gpu import Measured, Skipped, Work

ROOT = Path(__file__).resolve().parents[2]
MARK = "pytest.mark.cuda"
COUNT = re.compile(r"(\d+) (passed|failed|skipped|errors?|xfailed)\b")


def run(work: Work) -> Measured:
    try:
        import pytest  # noqa: F401
    except ImportError:
        raise Skipped("pytest is not installed") from None
    files = marked_files()
    # Where relabel is not installed its folders of commands and schemas are not found by name.
    start = f"import relabel; relabel.__path__.append({str(ROOT)!r}); import pytest, sys; "
    arguments = ["-m", "cuda", "-q", "-p", "no:cacheprovider", *files]
    command = [sys.executable, "-c", f"{start}sys.exit(pytest.main({arguments!r}))"]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=work.seconds,
    )
    counts = {what: int(n) for n, what in COUNT.findall(ended.stdout.rpartition("\n\n")[2])}
    counts = counts or {what: int(n) for n, what in COUNT.findall(ended.stdout)}
    passed, skipped = counts.get("passed", 0), counts.get("skipped", 0)
    if ended.returncode or not passed + skipped:
        text = (ended.stdout + ended.stderr).strip()
        raise RuntimeError(f"pytest ended with {ended.returncode}:\n{text[-3000:]}")
    found = Measured({"files": len(files), "passed": passed, "skipped": skipped})
    if work.large:
        found.aim("all CUDA tests pass", passed, f"{passed + skipped}", not skipped)
    return found


def marked_files() -> list[str]:
    """Files of tests that need CUDA, as paths in the repository."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(f.relative_to(ROOT)) for f in files if MARK in f.read_text(encoding="utf-8")]
