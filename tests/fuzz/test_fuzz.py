"""Damaged inputs with a fixed seed, and that the run would see what it looks for."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.fuzz.case import Case
from tests.fuzz.forks import run_forked
from tests.fuzz.oracle import judge, snapshot
from tests.fuzz.runner import signature
from tests.fuzz.subjects import SUBJECTS
from tests.fuzz.subjects.base import DATA, OUT, OUTSIDE

COUNT, SEED = 2000, 20
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.slow
def test_no_damaged_input_surprises() -> None:
    """A process of its own: the inputs run in its children, which need it without threads."""
    command = [sys.executable, "-m", "tests.fuzz", "--count", str(COUNT), "--seed", str(SEED)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{COUNT} inputs, seed {SEED}" in done.stdout and "failed: 0" in done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (DATA, OUTSIDE, OUT):
        (tmp_path / name).mkdir()
    (tmp_path / DATA / "a.json").write_text("{}")
    (tmp_path / OUTSIDE / "secret.jpg").write_bytes(b"secret")
    return tmp_path


def judged(
    folder: Path, args: list[str], work: Callable[[], int], again: Callable[[], int] = lambda: 1
) -> list[str]:
    before = snapshot(folder / DATA) | snapshot(folder / OUTSIDE)
    case = Case(0, SUBJECTS[0], args)
    base = run_forked(lambda: 0, folder, folder).memory
    ran = run_forked(work, folder, folder)
    return judge(case, ran, base, folder, before, lambda _: run_forked(again, folder, folder))


def say(text: str, status: int, stream: str = "stderr") -> Callable[[], int]:
    def work() -> int:
        print(text, file=getattr(sys, stream))
        return status

    return work


DESCRIBE = ["datasets", "describe", f"{DATA}/a.json"]
CONVERT = ["datasets", "convert", f"{DATA}/a.json", "--to", "voc", "--out", f"{OUT}/set"]
WROTE = "2 images and 3 boxes written to out/set"


@pytest.mark.parametrize(
    ("args", "text", "status", "wrong"),
    [
        (DESCRIBE, "relabel: error: a.json: not JSON", 1, []),
        (
            DESCRIBE,
            "relabel: error: unexpected KeyError: 'x'",
            1,
            ["error: unexpected KeyError: 'x'"],
        ),
        (DESCRIBE, "relabel: error: out of memory.", 1, ["out of memory."]),
        (DESCRIBE, "nothing said", 1, ["exit status 1 with 0 lines of error"]),
        (DESCRIBE, "relabel: error: a", 0, ["exit status 0 with an error"]),
        (DESCRIBE, "Usage: x", 2, ["exit status 2: Usage: x"]),
        (DESCRIBE, "x", 3, ["exit status 3: ['x']"]),
        (DESCRIBE, "a.py:1: UserWarning: odd", 0, ["noise: a.py:1: UserWarning: odd"]),
        (DESCRIBE, "a\x1b[31m", 0, ["control character '\\x1b' is printed"]),
        ([*DESCRIBE, "--json"], "", 0, ["--json printed no JSON"]),
        (["datasets", "validate", "x"], "", 1, ["validate says one thing and its status another"]),
        (CONVERT, "", 0, ["convert does not say what it wrote"]),
        (CONVERT, WROTE, 0, ["what convert to voc wrote cannot be read: "]),
    ],
)
def test_what_is_printed_is_judged(
    folder: Path, args: list[str], text: str, status: int, wrong: list[str]
) -> None:
    assert judged(folder, args, say(text, status)) == wrong


def test_what_is_written_is_judged(folder: Path) -> None:
    counts = say('{"images": 2, "boxes": 1, "ignored": 1}', 0, "stdout")
    found = judged(folder, CONVERT, say(WROTE, 0), counts)
    assert found == ["convert to voc says 3 boxes, its output has 2"]
    (folder / OUT / "half.xml").write_text("<a/>")
    found = judged(folder, CONVERT, say("relabel: error: a", 1), counts)
    assert found == ["half output: a reader takes what a failed convert to voc left"]
    (folder / OUT / ".tmp-half.xml").write_text("<a/>")
    assert judged(folder, DESCRIBE, lambda: 0) == ["a temporary file is left over"]
    (folder / OUT / ".tmp-half.xml").write_bytes(b"secret")
    assert "a file from outside the dataset is in the output" in judged(folder, DESCRIBE, lambda: 0)


def test_input_time_and_memory_are_judged(folder: Path) -> None:
    def change() -> int:
        (folder / DATA / "a.json").write_text("[]")
        return 0

    def take() -> int:
        # A process starts out with the peak of the one that it was forked from.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        return len(bytearray((peak + 1500) << 20)) and 0

    def sleep() -> int:
        os.mkfifo(folder / "fifo")
        return len((folder / "fifo").read_bytes())

    assert judged(folder, DESCRIBE, change) == ["input changed: .json"]
    assert judged(folder, DESCRIBE, take) == ["memory: more than 1 GB"]
    assert judged(folder, DESCRIBE, sleep) == ["hang: more than 10 s"]


def test_alike_failures_have_one_signature() -> None:
    a, b = (f"unexpected KeyError: '{n}' in data/{n}.json" for n in (1, 2))
    assert signature(a) == signature(b)
