"""What a job will take, from a sample: a clock that the work moves makes it exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relabel.settings import Runtime
from relabel.workspace import estimate
from relabel.workspace.engine import Workers, workers
from relabel.workspace.estimate import Forecast, free_bytes, measured, sized

TWO = Workers(2, 2, "2 workers")


class Work:
    """Each image takes 0.1 s and 10 bytes, starting 3 s."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, start: float = 3.0) -> None:
        self.now, self.start = 0.0, start
        self.calls: list[list[int]] = []
        self.folders: list[Path] = []
        monkeypatch.setattr(estimate.time, "perf_counter", lambda: self.now)

    def __call__(self, rows: np.ndarray, out: Path) -> None:
        self.calls.append(rows.tolist())
        self.folders.append(out)
        (out / "deep").mkdir()
        (out / "deep" / "shard").write_bytes(b"0123456789" * len(rows))
        self.now += self.start + 0.1 * len(rows)


def forecast(work: Work, out: Path, **more: Any) -> Forecast:
    given = {"total": 100_000, "images": 60_000, "shards": 60, "out": out, "workers": TWO}
    return measured(work, **{**given, **more})


def test_larger_samples_tell_the_start_from_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(monkeypatch)
    found = forecast(work, tmp_path / "not" / "there")
    assert found.seconds == pytest.approx(3 + 0.1 * 60_000)
    assert found.bytes == 600_000
    first, second, third = work.calls
    assert len(first) == 8 and (first[0], first[-1]) == (0, 99_999)
    assert 2 * len(first) < len(second) < len(third) / 2
    assert 30 < work.now < 60
    assert found.measured_images == len(first) + len(second) + len(third)
    assert found.measured_seconds == pytest.approx(work.now)
    assert not any(folder.exists() for folder in work.folders)
    assert (found.images, found.shards, found.workers, found.where) == (60_000, 60, 2, "2 workers")


def test_a_slow_first_sample_is_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(monkeypatch, start=50)
    found = forecast(work, tmp_path, images=8)
    assert len(work.calls) == 1
    assert found.seconds == pytest.approx(50.8)


def test_a_small_job_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(monkeypatch)
    found = forecast(work, tmp_path, total=3, images=3, shards=1)
    assert work.calls == [[0, 1, 2]]
    assert found.seconds == pytest.approx(3.3)
    assert found.lines()[0] == "3 images in 1 shard, by 2 workers"


def test_nothing_is_measured_where_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(monkeypatch)
    found = forecast(work, tmp_path, images=0, shards=0)
    assert work.calls == [] and found.seconds == 0 and found.bytes == 0
    assert found.lines() == ["nothing is left to do"]


def test_workers_that_share_a_disk_measure_where_the_output_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(monkeypatch)
    forecast(work, tmp_path / "out", workers=Workers(2, 2, "on Ray", shared=True))
    assert {folder.parent for folder in work.folders} == {tmp_path}
    assert list(tmp_path.iterdir()) == []


def test_what_it_says() -> None:
    told = Forecast(
        1_281_167, 1282, 90_000.0, 3_210_000_000, 40_000_000_000, 8, "8 GPUs", 500, 58.2
    )
    assert told.lines() == [
        "1281167 images in 1282 shards, by 8 GPUs",
        "takes about 25 hours, from 500 images that took 58 s",
        "writes about 3.2 GB; 40 GB are free there",
    ]
    unknown = Forecast(10, 1, None, None, None, 1, "1 core")
    assert unknown.lines() == ["10 images in 1 shard, by 1 core"]
    assert set(unknown.to_dict()) >= {"images", "shards", "seconds", "bytes", "workers"}


def test_sizes() -> None:
    assert [sized(n) for n in (0, 999, 1000, 12_345, 999_999_999, 2.5e12)] == [
        "0 bytes",
        "999 bytes",
        "1.0 KB",
        "12 KB",
        "1000 MB",
        "2.5 TB",
    ]


def test_room_where_a_folder_will_be(tmp_path: Path) -> None:
    assert (free_bytes(tmp_path / "a" / "b") or 0) > 0
    assert free_bytes(Path("/tmp/relabel-mirror-1-2-0/s3/bucket/run")) is None


def test_this_process_is_one_worker() -> None:
    here = workers(Runtime(), "cpu")
    assert here.count == 1 and here.where.startswith(f"{here.cores:g} core") and not here.shared
    assert workers(Runtime(), "cuda").where == "cuda"
