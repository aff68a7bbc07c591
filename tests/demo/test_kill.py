"""`kill -9` at random moments of a real align on the demo world changes no byte of the result."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relabel.demo.run import prepare_demo

JSON_FILES = ("waymo/annotations.json", "nuimages/annotations.json", "merged.json", "manifest.json")
# How the stages of one run are spread over time is not known, so pauses are drawn widely.
KILLS = 5


def command(config: Path, out: Path) -> list[str]:
    arguments = ["--target", "cityscapes", "--sources", "waymo,nuimages", "--out", str(out)]
    run = [sys.executable, "-m", "relabel", "--config", str(config), "align"]
    return [*run, *arguments, "--quiet", "--device", "cpu"]


@pytest.mark.slow
def test_killed_align_ends_with_the_bytes_of_an_uninterrupted_one(tmp_path: Path) -> None:
    _, config = prepare_demo(tmp_path, images=6, val_images=2, effort=0.01, quiet=True)
    # A checkpoint after every step, so that resumed trainings really resume.
    text = config.read_text()
    for table, steps in (("specialist", 8), ("lat", 30)):
        pattern = rf"(\[{table}\]\n(?:backbone.*\n)?)steps = \d+"
        assert re.search(pattern, text)
        text = re.sub(pattern, rf"\1checkpoint_every = 0.0\nsteps = {steps}", text)
    config.write_text(text)
    started = time.monotonic()
    subprocess.run(command(config, tmp_path / "whole"), check=True, capture_output=True)
    whole = time.monotonic() - started
    rng = random.Random(0)
    killed = 0
    for _ in range(4 * KILLS):
        if killed == KILLS:
            break
        process = subprocess.Popen(
            command(config, tmp_path / "cut"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            _, error = process.communicate(timeout=rng.uniform(0.1, 0.6) * whole)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            killed += 1
            continue
        assert process.returncode == 0, error.decode()
        if killed >= 2:
            break
        # The machine has got faster than it was in the first run: cut earlier, from the start.
        shutil.rmtree(tmp_path / "cut")
        killed, whole = 0, whole / 2
    done = subprocess.run(command(config, tmp_path / "cut"), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert killed >= 2
    for name in JSON_FILES:
        first, second = (tmp_path / run / "result" / name for run in ("whole", "cut"))
        assert first.read_bytes() == second.read_bytes(), name
    assert (tmp_path / "whole/3_lat/model.safetensors").read_bytes() == (
        tmp_path / "cut/3_lat/model.safetensors"
    ).read_bytes()
