"""The engine: what is run, in which order, by whom, and what a kill leaves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import relabel.workspace.pipeline as engine
from relabel.errors import BusyError, StageError
from relabel.workspace.lock import FolderLock
from relabel.workspace.pipeline import Pipeline
from relabel.workspace.stage import Shards, Stage

NEEDS = {"a": "", "b": "a", "c": "a", "d": "bc", "loose": "", "end": "d"}


def copy(stage: Stage, delay: float = 0.0) -> None:
    """A stage's text is its name, its settings and the texts it needs; written in three steps."""
    with (stage.folder.parent / "calls").open("a") as stream:
        stream.write(f"{stage.name}\n")
    for part in range(3):
        time.sleep(delay)
        (stage.folder / f"part{part}").write_text(stage.name)
    texts = [(need.folder / "text").read_text() for need in stage.needs]
    (stage.folder / "text").write_text(f"{stage.name}{stage.settings['x']}({','.join(texts)})")


def job(out: Path, *, lock: str | None = "this job", delay: float = 0.0, **x: int) -> Pipeline:
    made = Pipeline(out, lock=lock, log="job.log", quiet=True)
    for name, needs in NEEDS.items():
        made.add(
            Stage(
                name,
                out / name,
                settings={"x": x.get(name, 0)},
                needs=[made.stages[need] for need in needs],
                work=partial(copy, delay=delay),
            )
        )
    return made


def calls(out: Path) -> list[str]:
    file = out / "calls"
    lines = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return lines


def outputs(out: Path) -> dict[str, bytes]:
    files = [p for p in out.rglob("*") if p.is_file() and p.parent != out and p.name != ".lock"]
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in files}


def test_stages_run_after_what_they_need_and_once(tmp_path: Path) -> None:
    after: list[str] = []
    made = job(tmp_path)
    assert made.run(after=lambda stage: after.append(stage.name)).ran == tuple(NEEDS)
    assert calls(tmp_path) == after == list(NEEDS)
    assert (tmp_path / "end" / "text").read_text() == "end0(d0(b0(a0()),c0(a0())))"
    for again in (made, job(tmp_path)):
        assert again.run().ran == () and calls(tmp_path) == []
    events = [json.loads(line) for line in (tmp_path / "job.log").read_text().splitlines()]
    assert [(e["stage"], e["event"]) for e in events[:3]] == [
        ("a", "running"),
        ("a", "done"),
        ("b", "running"),
    ]
    assert events[1]["seconds"] >= 0


def test_the_time_left_follows_the_pace_of_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    now = iter(range(0, 1000, 30))  # every look at the clock is half a minute later
    monkeypatch.setattr(engine, "message", lambda text, **_: said.append(text))
    clock = SimpleNamespace(monotonic=lambda: next(now), strftime=time.strftime)
    monkeypatch.setattr(engine, "time", clock)
    made = job(tmp_path)
    made.expected = {"a": 60.0, "b": 120.0, "c": 120.0, "d": 60.0}
    made.run()
    assert said[:2] == [
        "[1/6] running a (about 6 minutes left)",
        "[2/6] running b (about 2 minutes left)",  # a took 30 s of its 60: half of 300 s
    ]
    assert said[4] == "[5/6] running loose"  # nothing is known of what is left


def test_goals_run_what_they_depend_on_alone(tmp_path: Path) -> None:
    made = job(tmp_path)
    assert made.run([made.stages["c"]]).ran == ("a", "c")
    assert [row["stage"] for row in job(tmp_path).rows() if row["runs"]] == [
        *("b", "d", "loose", "end")
    ]


def test_what_nobody_needs_any_more_is_not_made_again(tmp_path: Path) -> None:
    job(tmp_path).run()
    calls(tmp_path)
    for name in "ab":
        shutil.rmtree(tmp_path / name)
    assert job(tmp_path).run().ran == ()
    (tmp_path / "end" / "text").unlink()
    assert job(tmp_path).run().ran == ("end",)
    for name in ("d", "end"):  # of what d reads, a and b are gone
        (tmp_path / name / "text").unlink()
    assert job(tmp_path).run().ran == ("a", "b", "d", "end")


def test_changes_are_refused_and_overwrite_redoes_what_depends_on_them(tmp_path: Path) -> None:
    job(tmp_path).run()
    calls(tmp_path)
    before = outputs(tmp_path)
    changed = job(tmp_path, b=1)
    assert [row["differences"] for row in changed.rows()][1] == ["settings.x: 0 → 1"]
    with pytest.raises(StageError) as caught:
        changed.run()
    said = str(caught.value)
    assert "stage 'b' was started with different settings or inputs: settings.x: 0 → 1" in said
    assert "(2 stages after it would follow)" in said and "--overwrite" in said
    assert outputs(tmp_path) == before and calls(tmp_path) == []
    assert changed.run(overwrite=True).ran == ("b", "d", "end")
    assert (tmp_path / "end" / "text").read_text() == "end0(d0(b1(a0()),c0(a0())))"


def test_a_second_process_is_refused_or_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = start(tmp_path, "this job", 0.1)
    with pytest.raises(BusyError, match=rf"pid {other.pid}\) is working on this job"):
        job(tmp_path).run()
    assert job(tmp_path).run(busy="wait").ran == ()  # the other one has done it all
    assert other.wait() == 0 and calls(tmp_path) == list(NEEDS)


def test_two_processes_share_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_WAIT", 0.05)
    other = start(tmp_path, "", 0.1)  # at stage a, which all but one need
    mine = job(tmp_path, lock=None, delay=0.1).run(busy="wait").ran
    assert other.wait() == 0
    assert mine[0] == "loose" and "a" not in mine
    assert sorted(calls(tmp_path)) == sorted(NEEDS)  # none twice
    job(tmp_path / "alone").run()
    assert outputs(tmp_path / "alone") == {
        name: data for name, data in outputs(tmp_path).items() if not name.startswith("alone")
    }


def test_what_another_process_is_at_can_be_left_to_it(tmp_path: Path) -> None:
    other = start(tmp_path, "", 30)
    try:
        left = job(tmp_path, lock=None).run(busy="leave")
        assert (left.ran, left.waits_for) == ((), "a")
    finally:
        other.kill()
        other.wait()


def test_a_stage_of_shards_is_done_when_the_last_one_is_there(tmp_path: Path) -> None:
    def shared(part: int) -> Pipeline:
        made = Pipeline(tmp_path, quiet=True)
        shards = Shards(tmp_path / "s" / "shards", total=10, size=3)

        def work(stage: Stage) -> None:
            shards.folder.mkdir(exist_ok=True)
            for i in list(shards.missing()):
                if i % 2 == part:
                    # No lock is held: another process may come in.
                    FolderLock(stage.folder, "").acquire()
                    shards.shard_path(i).write_text(str(i))

        stage = Stage("s", tmp_path / "s", settings={}, work=work, shards=shards)
        made.add(stage)
        made.add(Stage("end", tmp_path / "end", settings={"x": 0}, needs=[stage], work=merge))
        return made

    def merge(stage: Stage) -> None:
        folder = stage.needs[0].outputs["shards"]
        (stage.folder / "text").write_text("".join(sorted(p.read_text() for p in folder.iterdir())))

    first = shared(0).run(busy="leave")
    assert (first.ran, first.waits_for) == (("s",), "s")
    assert shared(1).run(busy="leave").waits_for is None
    assert (tmp_path / "end" / "text").read_text() == "0123"


def test_a_lock_of_several_stages_is_held_for_them_only(tmp_path: Path) -> None:
    pool = FolderLock(tmp_path / "pool", "the pool")
    made = Pipeline(tmp_path / "out", lock="this job", quiet=True)
    seen: dict[str, bool] = {}

    def work(stage: Stage) -> None:
        seen[stage.name] = pool._stream is not None
        (stage.folder / "text").write_text("")

    for name, lock in (("one", pool), ("two", pool), ("own", None)):
        folder = tmp_path / ("pool" if lock else "out") / name
        made.add(Stage(name, folder, settings={}, work=work, lock=lock))
    made.run()
    assert seen == {"one": True, "two": True, "own": False}


def test_what_is_needed_must_still_be_there(tmp_path: Path) -> None:
    made = job(tmp_path)
    made.run([made.stages["d"]])
    manifest = tmp_path / "d" / "stage.json"
    manifest.write_text(manifest.read_text().replace('"done"', '"running"'))
    with pytest.raises(StageError, match="stage 'd' was changed by another process"):
        made.run()


def test_names_are_used_once_and_needs_come_first(tmp_path: Path) -> None:
    made = Pipeline(tmp_path)
    one = Stage("one", tmp_path / "1", settings={})
    with pytest.raises(ValueError, match="'two'"):
        made.add(Stage("two", tmp_path / "2", settings={}, needs=[one]))
    made.add(one)
    with pytest.raises(ValueError, match="'one'"):
        made.add(one)


@pytest.mark.parametrize("seed", range(2))
def test_a_killed_job_ends_with_the_same_bytes(tmp_path: Path, seed: int) -> None:
    job(tmp_path / "whole").run()
    cut = tmp_path / "cut"
    ended = kills = 0
    while not ended:
        process = start(cut, "this job", 0.01)
        time.sleep(0.02 + 0.03 * ((seed * 7 + kills * 3) % 5))
        process.kill()
        ended = process.wait() == 0 or kills == 4
        kills += 1
    job(cut).run()
    assert outputs(cut) == outputs(tmp_path / "whole")


def start(out: Path, lock: str, delay: float) -> subprocess.Popen[Any]:
    """The job in another process; returns when it has begun its first stage."""
    code = (
        "import sys; from pathlib import Path; from tests.workspace.test_pipeline import job\n"
        "job(Path(sys.argv[1]), lock=sys.argv[2] or None, delay=float(sys.argv[3]))"
        ".run(busy='wait' if not sys.argv[2] else 'refuse')"
    )
    before = (out / "calls").stat().st_size if (out / "calls").exists() else 0
    env = os.environ | {"PYTHONPATH": str(Path.cwd())}
    process = subprocess.Popen([sys.executable, "-c", code, str(out), lock, str(delay)], env=env)
    while process.poll() is None:
        if (out / "calls").exists() and (out / "calls").stat().st_size > before:
            break
        time.sleep(0.005)
    return process
