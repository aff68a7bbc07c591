"""Shards made by actors on Ray: the same files, whoever dies meanwhile.

One local cluster of two cores for all tests; they skip where Ray is not installed.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from relabel.crosslabel.shards import read_pseudo_labels
from relabel.errors import ConfigError, DataError, Problems, RelabelError
from relabel.settings import Runtime
from relabel.workspace import ray_engine
from relabel.workspace.atomic import TEMP_PREFIX, atomic_path
from relabel.workspace.engine import Make, make_in_order, make_shards
from relabel.workspace.stage import Shards
from tests.crosslabel.test_label import FakeDetector, contents, make_dataset, run

pytestmark = pytest.mark.slow
RAY = Runtime(device="cpu", workers=0, quiet=True, engine="ray")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        object_store_memory=100 * 2**20,
    )
    yield
    ray_engine.dismiss_kept()
    ray.shutdown()


def slow_writer(shards: Shards, pids: Path, pause: float) -> Callable[[Runtime], Make[int]]:
    """Writes a line into each shard, slowly; whoever does so leaves a file of his number."""

    def open(runtime: Runtime) -> Make[int]:
        assert runtime.engine == "local" and runtime.quiet
        (pids / str(os.getpid())).touch()

        def make(todo: Sequence[int]) -> Iterator[int]:
            for i in todo:
                with atomic_path(shards.shard_path(i)) as file:
                    file.write_text(f"{shards.items(i)}"[:5])
                    time.sleep(pause)
                    file.write_text(f"{shards.items(i)}")
                yield i

        return make

    return open


def kill_some(pids: Path, times: int, dead: list[int]) -> None:
    rng = random.Random(0)
    until = time.monotonic() + 120
    while len(dead) < times and time.monotonic() < until:
        time.sleep(rng.uniform(0.05, 0.4))
        alive = [int(p.name) for p in pids.iterdir() if int(p.name) not in dead]
        if alive:
            victim = rng.choice(sorted(alive))
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            dead.append(victim)


def test_ten_killed_workers_change_nothing(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    whole, killed = (Shards(tmp_path / n, total=95, size=10) for n in ("whole", "killed"))
    open = slow_writer(whole, pids, 0)
    assert list(make_shards(open, whole, range(10), Runtime(quiet=True), title="Writing")) == [
        *range(10)
    ]
    (pids / str(os.getpid())).unlink()
    dead: list[int] = []
    killer = threading.Thread(target=kill_some, args=(pids, 10, dead))
    killer.start()
    made = list(
        make_shards(slow_writer(killed, pids, 0.7), killed, range(10), RAY, title="Writing")
    )
    killer.join()
    assert len(dead) == 10 and os.getpid() not in dead
    assert sorted(made) == list(range(10))
    assert contents(whole.folder) == contents(killed.folder)  # and nothing half written is left


def test_results_come_in_order_and_few_at_a_time() -> None:
    def open(runtime: Runtime) -> Make[Any]:
        def make(items: Sequence[int]) -> Iterator[Any]:
            for i in items:
                time.sleep(0.3 if i == 0 else 0)  # the first is the last to be ready
                yield np.full(3, i), os.getpid()

        return make

    found = list(make_in_order(open, range(30), RAY, title="Counting", unit="it", what="number"))
    assert [int(values[0]) for values, _ in found] == list(range(30))
    assert len({pid for _, pid in found}) == 2 and os.getpid() not in {pid for _, pid in found}


def test_actors_stay_for_the_next_work_and_then_go() -> None:
    def open(runtime: Runtime) -> Make[int]:
        def make(items: Sequence[int]) -> Iterator[int]:
            yield from [os.getpid()] * len(items)

        return make

    def pids(runtime: Runtime = RAY) -> set[int]:
        return set(make_in_order(open, range(8), runtime, title="", unit="it", what="part"))

    first = pids()
    assert pids() == first
    assert not pids(Runtime(device="cpu", workers=1, quiet=True, engine="ray")) & first
    assert not any(Path(f"/proc/{pid}").exists() for pid in first)
    last = pids()
    ray_engine.dismiss_kept()
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in last):
            break
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in last)


def test_what_the_work_raises_is_raised_here(tmp_path: Path) -> None:
    def open(runtime: Runtime) -> Make[int]:
        def make(todo: Sequence[int]) -> Iterator[int]:
            for i in todo:
                if i == 3:
                    raise DataError("is empty", file="a.jpg", record="image 7", remedy="Mend it.")
                if i == 5:
                    raise ZeroDivisionError("seven")
                yield i

        return make

    with pytest.raises(DataError, match=r"^a\.jpg, image 7: is empty\. Mend it\.$") as caught:
        list(make_in_order(open, range(5), RAY, title="", unit="it", what="part"))
    assert caught.value.record == "image 7"
    with pytest.raises(RelabelError, match=r"the work on Ray failed: .*seven"):
        list(make_in_order(open, [4, 5], RAY, title="", unit="it", what="part"))


def test_a_shard_that_kills_everybody_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "_MOST_DEATHS", 3)
    shards = Shards(tmp_path / "out", total=40, size=10)

    def open(runtime: Runtime) -> Make[int]:
        def make(todo: Sequence[int]) -> Iterator[int]:
            for i in todo:
                if i == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                shards.shard_path(i).write_text("done")
                yield i

        return make

    shards.folder.mkdir()
    with pytest.raises(RelabelError, match=r"3 workers died at shard-00002-of-00004\.parquet \(im"):
        list(make_shards(open, shards, range(4), RAY, title="Writing"))
    assert {p.name for p in shards.folder.iterdir()} <= {
        shards.shard_path(i).name for i in (0, 1, 3)
    }


def test_labels_are_the_same_bytes(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "images")
    run(dataset, tmp_path / "here")
    run(dataset, tmp_path / "there", runtime=RAY)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
    # Half of the shards are there already; one is damaged.
    first, second, *_ = sorted((tmp_path / "there").iterdir())
    first.unlink()
    second.write_bytes(b"PAR1")
    run(dataset, tmp_path / "there", runtime=RAY)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


def test_unreadable_images_are_listed_or_end_it(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "images")
    for name in ("002.png", "011.png"):
        (tmp_path / "images" / name).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"002\.png|011\.png"):
        run(dataset, tmp_path / "out", runtime=RAY)
    skipping = Runtime(device="cpu", workers=0, quiet=True, engine="ray", skip_bad=True)
    problems = Problems(skip_bad=True)
    run(dataset, tmp_path / "out", runtime=skipping, problems=problems)
    assert sorted(Path(p.file).name for p in problems.errors) == ["002.png", "011.png"]
    coverage = read_pseudo_labels(tmp_path / "out").coverage
    assert np.flatnonzero(~coverage).tolist() == [2, 11]
    here = tmp_path / "here"
    run(dataset, here, runtime=Runtime(device="cpu", quiet=True, skip_bad=True))
    assert contents(here) == contents(tmp_path / "out")


def test_a_driver_that_is_interrupted_leaves_no_actors(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    shards = Shards(tmp_path / "out", total=40, size=1)
    made = make_shards(slow_writer(shards, pids, 0.2), shards, range(40), RAY, title="Writing")
    next(made)
    cast(Generator[int], made).close()  # as an exception in the caller would
    for _ in range(100):
        alive = [p for p in pids.iterdir() if Path(f"/proc/{p.name}").exists()]
        if not alive:
            break
        time.sleep(0.1)
    assert not alive
    done = {p.name for p in shards.folder.iterdir() if not p.name.startswith(TEMP_PREFIX)}
    assert 1 <= len(done) < 40


def test_an_address_without_a_cluster_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    nobody = Runtime(engine="ray", ray_address="127.0.0.1:1")
    monkeypatch.setattr(ray, "init", _refuses)
    with pytest.raises(ConfigError, match=r"no Ray cluster at '127\.0\.0\.1:1': nobody there\. St"):
        ray_engine.connect(nobody)


def _refuses(**_: Any) -> None:
    raise ConnectionError("nobody there")


def test_a_detector_that_was_given_goes_along(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "images", n=6)
    detector = run(dataset, tmp_path / "out", runtime=RAY, detector=FakeDetector("other"))
    assert detector.batches == []  # its copies labelled
    assert read_pseudo_labels(tmp_path / "out").by == "other"
