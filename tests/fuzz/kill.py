"""``kill -9`` at random moments: what is left is not read, and the same run again ends the same.

    python -m tests.fuzz.kill 200 --seed 1 --scratch /tmp/kills

Every round takes the next of the jobs: `convert` to each format with images copied, linked or as it
does by itself, and `imagenet-multilabel`. Most processes are killed while they write: the delay is
drawn once the output folder is there. Some runs are killed again before they may finish. Most start
with all imports done, since nothing is written before; every tenth starts from nothing.

After a kill the folder is read, which must give the whole dataset or a refusal; after the rerun
every byte of the folder, links and hidden files too, must be that of an undisturbed run.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relabel import cli
from relabel.datasets.formats.output import MARKER
from relabel.datasets.formats.registry import read_dataset
from relabel.errors import DataError
from relabel.workspace.atomic import TEMP_PREFIX
from tests.builders.colours import COLOURS, tiny_resnet
from tests.builders.datasets import coco_set, write_pixels

IMAGES, CLASSES = 400, ("car", "van")
_FORMATS = ("coco", "voc", "yolo", "fiftyone")
# A run of `imagenet-multilabel` as small as one that goes through every stage.
_TINY = (
    *("--classifier", "probe", "--image-size", "64", "--set", "maskcut.stride=4", "--tau", "0.9"),
    *("--max-masks", "2", "--refine", "none", "--shard-images", "2", "--filter-threshold", "0.3"),
    *("--region-classifier-epochs", "10", "--set", "region_classifier.hidden=8"),
    *("--device", "cpu", "--set", "maskcut.precision=fp32", "--quiet"),
)


@dataclass(frozen=True)
class Job:
    """A command whose output must not depend on kills.

    Attributes:
        name: for the report.
        arguments: of ``relabel``, without ``--out``.
        format: in which the output is read, "" where it is no dataset.
        compared: the folder below the output of which every byte counts.
    """

    name: str
    arguments: Sequence[str]
    format: str = ""
    compared: str = ""


def make_jobs(scratch: Path, images: int = IMAGES, *, multilabel: bool = True) -> list[Job]:
    """Write the inputs and list the jobs."""
    source = coco_set(scratch, "source", CLASSES, images)
    convert = ["datasets", "convert", str(source / "train.json"), "--format", "coco"]
    jobs = [
        Job(
            f"{format} {mode}",
            [*convert, "--to", format, "--images", mode],
            format,
        )
        for format in _FORMATS
        # Labels of VOC and YOLO are no dataset without images beside them.
        for mode in ("copy", "link", "auto")
    ]
    if multilabel:
        rng = np.random.default_rng(0)
        for i in range(8):
            name = list(COLOURS)[i % 3]
            pixels = np.full((64, 64, 3), 120.0)
            pixels[8:40, 8:40] = COLOURS[name]
            pixels = np.clip(pixels + rng.normal(0, 3, pixels.shape), 0, 255).astype(np.uint8)
            write_pixels(scratch / "photos" / name / f"{i}.png", pixels)
        tiny_resnet(scratch / "backbone")
        where = ["--images", str(scratch / "photos"), "--backbone", str(scratch / "backbone")]
        jobs.append(
            Job("imagenet-multilabel", ["imagenet-multilabel", *where, *_TINY], compared="result")
        )
    return jobs


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its path: its bytes, or where it links to."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            link = path.is_symlink()
            data = f"-> {path.readlink()}".encode() if link else path.read_bytes()
            found[path.relative_to(folder).as_posix()] = data
    return found


def check_read(job: Job, out: Path, images: int) -> str:
    """Read what a killed run left: ``whole``, ``refused``, or ``absent``.

    Raises:
        AssertionError: something else came back.
    """
    if not job.format or not out.exists():
        return "absent"
    try:
        found = read_dataset(out, job.format, split="train")
    except DataError as error:
        assert error.remedy, error
        return "refused"
    assert (len(found), len(found.boxes)) == (images, images * len(CLASSES)), (job.name, out)
    assert not any(TEMP_PREFIX in name for name in found.images.file_name)
    return "whole"


def start(job: Job, out: Path, log: Path, *, forked: bool) -> int:
    """Start a job, from its first import or with all imports done; returns the process's id."""
    arguments = [*job.arguments, "--out", str(out)]
    if not forked:
        command = [sys.executable, "-m", "relabel", *arguments]
        with log.open("wb") as stream:
            return subprocess.Popen(command, stdout=stream, stderr=stream).pid
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            with log.open("wb") as stream:
                os.dup2(stream.fileno(), 1)
                os.dup2(stream.fileno(), 2)
            cli.main(arguments)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            os._exit(status)
    return pid


def ended(pid: int) -> int | None:
    """The exit status of a child that has ended, negative for a signal; None while it runs."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def kill_once(job: Job, out: Path, rng: random.Random, seconds: float) -> tuple[bool, bool]:
    """Start a job and kill it.

    Args:
        seconds: that an undisturbed run takes.

    Returns:
        Whether it was killed, and whether it had begun to write and had not ended.
    """
    there = out / MARKER if job.format else out / "1_regions"
    before, log = there.exists(), out.with_suffix(".log")
    pid = start(job, out, log, forked=rng.random() < 0.9)
    status = None
    if not before and rng.random() < 0.85:
        while status is None and not there.exists():
            time.sleep(0.0002)
            status = ended(pid)
    until = time.monotonic() + rng.uniform(0, seconds)
    while status is None and time.monotonic() < until:
        time.sleep(0.0002)
        status = ended(pid)
    if status is None:
        os.kill(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), log.read_text(errors="replace")
    return status != 0, there.exists()


def run_whole(job: Job, out: Path) -> float:
    """Run a job undisturbed; returns its seconds."""
    begin, log = time.monotonic(), out.with_suffix(".log")
    pid = start(job, out, log, forked=True)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0, (job.name, log.read_text(errors="replace"))
    return time.monotonic() - begin


def rounds(
    jobs: Sequence[Job], kills: int, seed: int, scratch: Path, *, images: int = IMAGES
) -> Mapping[str, int]:
    """Kill ``kills`` processes in all; returns what came of it, counted.

    Raises:
        AssertionError: a leftover was read, or stayed, or the bytes are not those undisturbed.
    """
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    expected: dict[str, tuple[dict[str, bytes], float]] = {}
    turn = 0
    while counts["killed"] < kills:
        job = jobs[turn % len(jobs)]
        # The folder's name stands in no file, but relative paths depend on its depth.
        out = scratch / f"out{turn}"
        turn += 1
        if job.name not in expected:
            seconds = run_whole(job, scratch / "undisturbed")
            expected[job.name] = tree(scratch / "undisturbed" / job.compared), seconds
            shutil.rmtree(scratch / "undisturbed")
        bytes_, seconds = expected[job.name]
        for _ in range(1 if rng.random() < 0.7 else 2):
            killed, writing = kill_once(job, out, rng, seconds)
            print(f"{counts['killed'] + killed:4} {job.name}", flush=True)
            counts["killed"] += killed
            counts["killed while it wrote"] += killed and writing
            counts[f"{job.name} killed"] += killed
            counts["leftovers there"] += any(TEMP_PREFIX in name for name in tree(out))
            counts[f"then {check_read(job, out, images)}"] += 1
        run_whole(job, out)
        after = tree(out / job.compared)
        different = sorted(k for k in {*after, *bytes_} if after.get(k) != bytes_.get(k))
        assert not different, (job.name, out, different[:5])
        left = [name for name in tree(out) if TEMP_PREFIX in name]
        assert not left, (job.name, out, left)
        assert not job.format or check_read(job, out, images) == "whole", (job.name, out)
        counts["equal"] += 1
        shutil.rmtree(out)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description="kill -9 at random moments")
    parser.add_argument("kills", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--only", default="", help="jobs whose name has this in it")
    given = parser.parse_args()
    scratch = given.scratch or Path(tempfile.mkdtemp())
    scratch.mkdir(parents=True, exist_ok=True)
    jobs = [job for job in make_jobs(scratch) if given.only in job.name]
    for what, count in sorted(rounds(jobs, given.kills, given.seed, scratch).items()):
        print(f"{count:6} {what}")


if __name__ == "__main__":
    main()
