"""`relabel demo` on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def relabel(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "relabel", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_world_only_writes_what_the_readers_describe(tmp_path: Path):
    out = tmp_path / "demo"
    done = relabel("demo", "--world-only", "--images", "4", "--val-images", "1", "-o", str(out))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out)
    assert "Rendering the demo world: 13/13" in done.stderr
    described = relabel(
        "datasets", "describe", str(out / "waymo"), "--format", "waymo_v2", "--json",
        "--split", "training",
    )  # fmt: skip
    assert described.returncode == 0, described.stderr
    assert json.loads(described.stdout)["images"] == 4
    again = relabel("demo", "--world-only", "--images", "4", "--val-images", "1", "-o", str(out))
    assert "reused" in again.stderr


def test_the_target_may_have_another_number_of_images(tmp_path: Path):
    out = tmp_path / "demo"
    counts = ("--images", "6", "--target-images", "4", "--val-images", "2")
    done = relabel("demo", "--world-only", *counts, "-o", str(out))
    assert done.returncode == 0, done.stderr
    assert "Rendering the demo world: 18/18" in done.stderr
    assert len(list((out / "cityscapes" / "leftImg8bit" / "train").rglob("*.png"))) == 4
    assert len(list((out / "cityscapes" / "leftImg8bit" / "val").rglob("*.png"))) == 2
    truth = json.loads((out / "truth" / "nuimages_in_cityscapes.json").read_text())
    assert len(truth["images"]) == 6


@pytest.mark.parametrize(
    "args", [("--images", "0"), ("--effort", "0"), ("--seed", "-1"), ("--no-such-option",)]
)
def test_wrong_usage_exits_with_two(args: tuple[str, ...], tmp_path: Path):
    done = relabel("demo", *args, "-o", str(tmp_path / "demo"))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
def test_the_whole_demo_runs_and_a_second_run_reuses_everything(tmp_path: Path):
    out = tmp_path / "demo"
    args = ("demo", "--images", "6", "--val-images", "2", "--effort", "0.02", "-o", str(out))
    done = relabel(*args, "--json")
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout)
    assert set(scores) == {"waymo", "nuimages"}
    for results in scores.values():
        assert len(results) == 5
        assert results["LAT"]["counts"]["images"] == 6
    merged = json.loads((out / "align" / "result" / "merged.json").read_text())
    assert len(merged["images"]) == 18
    assert all((out / "align" / "result" / i["file_name"]).is_file() for i in merged["images"])
    before = {p: p.stat().st_mtime_ns for p in (out / "align").rglob("*") if p.is_file()}
    again = relabel(*args)
    assert again.returncode == 0, again.stderr
    assert "Everything is done already" in again.stderr
    assert "LAT" in again.stdout
    after = {p: p.stat().st_mtime_ns for p in (out / "align").rglob("*") if p.is_file()}
    assert before == after
