"""A real align and imagenet-multilabel on Ray's local cluster: the same bytes, whoever dies."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from relabel.demo.run import prepare_demo
from tests.builders.colours import COLOURS, tiny_resnet
from tests.builders.datasets import write_pixels

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("RELABEL_TEST_KILLS", "4"))
# Not the same in any two runs: they say when and with what command.
APART = {"align.log", "times.json", "report.html"}


@pytest.fixture(autouse=True)
def ray_is_there() -> None:
    pytest.importorskip("ray")


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "relabel", *arguments, "--quiet", "--device", "cpu"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},  # Ray's workers have one,
    )


def finish(process: subprocess.Popen[bytes]) -> str:
    _, error = process.communicate(timeout=400)
    assert process.returncode == 0, error.decode()
    return error.decode()


def workers(driver: int) -> list[psutil.Process]:
    """Ray's actors that a driver has started."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(driver).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "_Actor" in " ".join(process.cmdline()):
                    found.append(process)
    return found


def kill_workers(driver: int, dead: list[int], pause: Callable[[], float]) -> None:
    """`kill -9` of workers, each some time after the one before."""
    while len(dead) < KILLS and psutil.pid_exists(driver):
        alive = [process for process in workers(driver) if process.pid not in dead]
        if not alive:
            time.sleep(0.05)
            continue
        time.sleep(pause())
        with suppress(psutil.NoSuchProcess):
            alive[0].send_signal(signal.SIGKILL)
            dead.append(alive[0].pid)


def run_with_kills(arguments: list[str]) -> None:
    """The driver is killed as soon as it has workers, then some workers of the next one."""
    driver = start(arguments)
    until = time.monotonic() + 120
    while not workers(driver.pid) and time.monotonic() < until:
        assert driver.poll() is None, driver.communicate()[1].decode()
        time.sleep(0.05)
    time.sleep(1)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.communicate()

    driver = start(arguments)
    dead: list[int] = []
    rng = random.Random(0)
    killer = threading.Thread(
        target=kill_workers, args=(driver.pid, dead, lambda: rng.uniform(0, 1.5))
    )
    killer.start()
    finish(driver)
    killer.join()
    assert len(dead) >= 2, "the run was over before workers could be killed"


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in APART and not path.name.startswith("."):
            yield str(path.relative_to(folder)), path.read_bytes()


def assert_same(first: Path, second: Path) -> None:
    one, other = dict(contents(first)), dict(contents(second))
    assert set(one) == set(other)
    assert [name for name in one if one[name] != other[name]] == []


def test_align(tmp_path: Path) -> None:
    _, config = prepare_demo(tmp_path, images=6, val_images=2, effort=0.01, quiet=True)
    text = config.read_text()
    for table, steps in (("specialist", 4), ("lat", 10)):
        text = re.sub(rf"(\[{table}\]\n(?:backbone.*\n)?)steps = \d+", rf"\1steps = {steps}", text)
    config.write_text(text)

    def command(out: str, *more: str) -> list[str]:
        where = ["--config", str(config), "align", "--out", str(tmp_path / out)]
        data = ["--target", "cityscapes", "--sources", "waymo,nuimages"]
        return [*where, *data, "--set", "crosslabel.shard_images=2", *more]

    finish(start(command("here")))
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    for name in ("2_crosslabels", "3_lat", "4_transferred", "result"):
        shutil.rmtree(tmp_path / "there" / name)
    run_with_kills(command("there", "--engine", "ray"))
    assert_same(tmp_path / "here", tmp_path / "there")


def test_imagenet_multilabel(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colours = sorted(COLOURS)
    for i in range(30):
        pixels = np.full((96, 96, 3), 120.0)
        pixels[8:56, 8:56] = COLOURS[colours[i % 3]]
        pixels[64:92, 64:92] = COLOURS[colours[(i + 1) % 3]]
        noisy = np.clip(pixels + rng.normal(0, 3, pixels.shape), 0, 255).astype(np.uint8)
        write_pixels(tmp_path / "images" / colours[i % 3] / f"{i:03d}.png", noisy)
    tiny_resnet(tmp_path / "backbone")

    def command(out: str, *more: str) -> list[str]:
        where = ["imagenet-multilabel", "--images", str(tmp_path / "images")]
        what = ["--backbone", str(tmp_path / "backbone"), "--classifier", "probe"]
        few = ["--image-size", "128", "--set", "maskcut.stride=4", "--refine", "none"]
        kept = ["--tau", "0.9", "--filter-threshold", "0.3", "--region-classifier-epochs", "3"]
        parts = ["--shard-images", "3", "--out", str(tmp_path / out)]
        return [*where, *what, *few, *kept, *parts, *more]

    finish(start(command("here")))
    run_with_kills(command("there", "--engine", "ray"))
    assert_same(tmp_path / "here", tmp_path / "there")
