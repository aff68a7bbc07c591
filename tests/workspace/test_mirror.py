"""Workspaces in an object store: stages, shards and what other nodes put there."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from relabel.errors import MIRROR, ConfigError, DataError, StageError, with_urls
from relabel.workspace import atomic
from relabel.workspace.atomic import atomic_write_bytes, url_of
from relabel.workspace.columns import read_shard, write_shard
from relabel.workspace.mirror import Mirror, ensure, pull, push, remove
from relabel.workspace.parts import WorkerShare, pending
from relabel.workspace.pipeline import Pipeline
from relabel.workspace.stage import Shards, Stage
from tests.builders.store import Store
from tests.crosslabel.test_label import FakeDetector, make_dataset, run


def stage_of(out: Path, **settings: Any) -> Stage:
    return Stage("some", out, settings=settings)


def left_behind() -> list[str]:
    return [p.name for p in Path(tempfile.gettempdir()).glob(f"{MIRROR}*-{os.getpid()}-*")]


def test_a_path_says_which_url_it_stands_for() -> None:
    path = f"/tmp/{MIRROR}ab-12-0/s3/bucket/a b/c.json"
    assert url_of(path) == "s3://bucket/a b/c.json"
    assert url_of(f"/tmp/{MIRROR}ab-12-0/s3") is None
    assert url_of("/data/bucket/c.json") is None
    assert with_urls(f'{{"out": "{path}"}} and ({path})') == (
        '{"out": "s3://bucket/a b/c.json"} and (s3://bucket/a b/c.json)'
    )


def test_files_are_in_the_store_before_they_are_here(
    bucket: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Mirror(f"{bucket.url}/run") as out:
        atomic_write_bytes(out / "a" / "b.txt", b"one")
        assert bucket.get("run/a/b.txt") == b"one"
        assert (out / "a" / "b.txt").read_bytes() == b"one"

        def failing(file: Path, url: str) -> None:
            raise OSError("no network")

        monkeypatch.setattr(atomic, "upload", failing)
        with pytest.raises(OSError, match="no network"):
            atomic_write_bytes(out / "c.txt", b"two")
        assert sorted(p.name for p in out.iterdir()) == ["a"]
    assert left_behind() == []
    assert bucket.files("run") == {"a/b.txt": b"one"}


def test_a_stage_is_finished_in_the_store_and_found_there_again(bucket: Store) -> None:
    def work(out: Path) -> None:
        (out / "model").mkdir()
        (out / "model" / "weights").write_bytes(b"weights")  # not through atomic_path

    with Mirror(f"{bucket.url}/run") as out:
        stage = stage_of(out, epochs=1)
        assert stage.run(lambda: work(out))
    files = bucket.files("run")
    assert sorted(files) == ["model/weights", "stage.json"]
    assert b'"state": "done"' in files["stage.json"]
    with Mirror(f"{bucket.url}/run") as out:
        assert stage_of(out, epochs=1).status() == "done"
        assert not stage_of(out, epochs=1).run(lambda: pytest.fail("done already"))
        assert stage_of(out, epochs=2).status() == "changed"
        with pytest.raises(StageError, match=f"{bucket.url}/run: .*epochs: 1 → 2"):
            stage_of(out, epochs=2).run(lambda: None)
        (out / "model" / "weights").unlink()
        again = stage_of(out, epochs=2)
        assert again.run(lambda: atomic_write_bytes(out / "other", b"2"), overwrite=True)
    assert sorted(bucket.files("run")) == ["other", "stage.json"]


def test_a_stage_whose_file_was_lost_or_cut_off_is_partial(bucket: Store) -> None:
    for damage in (lambda: bucket.delete("run/a"), lambda: bucket.put("run/a", b"cu")):
        with Mirror(f"{bucket.url}/run") as out:
            stage_of(out).run(lambda out=out: atomic_write_bytes(out / "a", b"whole"))
        damage()
        with Mirror(f"{bucket.url}/run") as out:
            assert stage_of(out).status() == "partial"
            assert stage_of(out).run(lambda out=out: atomic_write_bytes(out / "a", b"whole"))
        assert bucket.get("run/a") == b"whole"


def test_damaged_and_missing_shards_are_made_again(bucket: Store, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    run(dataset, tmp_path / "local")
    local = {p.name: p.read_bytes() for p in (tmp_path / "local").iterdir()}

    def once() -> FakeDetector:
        with Mirror(f"{bucket.url}/run") as out:
            return run(dataset, out)

    assert len(once().batches) > 0
    assert bucket.files("run") == local
    bucket.put("run/stage.json", b"{}")  # what the command writes beside them
    names = sorted(local)
    assert once().batches == []
    bucket.delete(f"run/{names[0]}")
    data = local[names[2]]
    third = len(data) // 3
    bucket.put(f"run/{names[2]}", data[:third] + bytes(third) + data[2 * third :])
    bucket.put("run/shard-00000-of-00009.parquet", b"of a run of another size")
    assert sum(once().batches) == 10  # two shards of five images
    assert {k: v for k, v in bucket.files("run").items() if k != "stage.json"} == local


def _write(path: Path, shard: Any) -> None:
    write_shard(path, shard)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_other_nodes_need_the_path_alone(
    bucket: Store, tmp_path: Path, method: str
) -> None:
    from relabel.crosslabel.shards import PseudoShard, pseudo_shard
    from relabel.crosslabel.shards import labelling_run as facts

    space = FakeDetector().space
    about = facts(space, by="a", on="b", images=2, settings={"score_storage": "float16"}, model="")
    shard = pseudo_shard(about, [0, 1], ["a", "b"], {})
    with Mirror(f"{bucket.url}/run") as out:
        shards = Shards(out / "shards", total=4, size=2)
        assert list(shards.missing()) == [0, 1]
        with multiprocessing.get_context(method).Pool(1) as pool:
            pool.apply_async(_write, (shards.shard_path(0), shard)).get(120)
        assert [name.partition("/")[0] for name in bucket.files("run")] == ["shards"]
        # A node that shares no disk: the file is in the store alone.
        shards.shard_path(0).unlink()
        assert read_shard(shards.shard_path(0), PseudoShard).file_name == ["a", "b"]
        shards.shard_path(0).unlink()
        assert list(shards.missing()) == [1]
        assert shards.shard_path(0).is_file()
        assert pending(shards, WorkerShare(), lambda path: None, quiet=True) == [1]
        with pytest.raises(DataError, match=f"{bucket.url}/run/shards/.*shard is missing"):
            read_shard(shards.shard_path(1), PseudoShard)


def test_processes_without_a_common_disk_share_a_job(bucket: Store) -> None:
    """Two mirrors of one workspace are two nodes: neither sees the other's files but there."""
    made: list[tuple[str, int]] = []

    def job(out: Path, node: str, share: WorkerShare) -> tuple[str, ...] | None:
        plan = Pipeline(out, quiet=True)
        shards = Shards(out / "1" / "shards", total=6, size=1)

        def work(stage: Stage) -> None:
            for i in pending(shards, share, lambda path: None, quiet=True):
                made.append((node, i))
                atomic_write_bytes(shards.shard_path(i), str(i).encode())

        def join(stage: Stage) -> None:
            atomic_write_bytes(out / "2" / "sum", b"".join(p.read_bytes() for p in shards.paths))

        first = plan.add(Stage("first", out / "1", settings={}, work=work, shards=shards))
        plan.add(Stage("second", out / "2", settings={}, needs=[first], work=join))
        outcome = plan.run(busy="leave")
        return outcome.ran if outcome.waits_for is None else None

    with Mirror(f"{bucket.url}/run") as one, Mirror(f"{bucket.url}/run") as two:
        assert one != two
        assert job(one, "one", WorkerShare(0, 2)) is None
        assert job(two, "two", WorkerShare(1, 2)) == ("first", "second")
        assert job(one, "one", WorkerShare(0, 2)) == ()
    assert made == [("one", 0), ("one", 2), ("one", 4), ("two", 1), ("two", 3), ("two", 5)]
    assert bucket.get("run/2/sum") == b"012345"


def test_what_others_put_is_fetched_and_what_they_remove_can_be_removed(bucket: Store) -> None:
    with Mirror(f"{bucket.url}/run") as out:
        bucket.put("run/a", b"1")
        bucket.put("run/.lock", b"hidden")
        pull(out)
        assert [p.name for p in out.iterdir()] == ["a"]
        bucket.put("run/b", b"2")
        ensure(out / "b")
        ensure(out / "c")
        assert sorted(p.name for p in out.iterdir()) == ["a", "b"]
        remove(out / "a")
        assert sorted(bucket.files("run")) == [".lock", "b"]
        (out / "d").write_bytes(b"d")
        (out / ".tmp-1").write_bytes(b"unfinished")
        push(out)
        assert sorted(bucket.files("run")) == [".lock", "b", "d"]


def test_keeps_off_what_is_not_relabels(bucket: Store, tmp_path: Path) -> None:
    bucket.put("photos/a.jpg", b"a million of them")
    with pytest.raises(StageError, match="holds files that relabel did not write"):
        Mirror(f"{bucket.url}/photos").__enter__()
    for url in ("s3://", f"{bucket.url}/a/../b", f"{bucket.url}//a"):
        with pytest.raises(ConfigError, match="no URL of a workspace"):
            Mirror(url).__enter__()
    with pytest.raises(ConfigError, match="outputs are not written to sftp"):
        Mirror("sftp://host/a").__enter__()
    assert left_behind() == []
    pull(tmp_path)
    push(tmp_path, exact=True)
    ensure(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_command_puts_no_half_files(bucket: Store) -> None:
    with pytest.raises(ValueError, match="some"), Mirror(f"{bucket.url}/run") as out:
        out.mkdir(parents=True)
        (out / "half").write_bytes(b"ha")
        raise ValueError("some error")
    assert bucket.files("run") == {}
    assert left_behind() == []


def test_folders_of_killed_commands_are_removed(bucket: Store) -> None:
    code = (
        "import os, signal, sys; from relabel.workspace.mirror import Mirror\n"
        "print(Mirror(sys.argv[1]).__enter__().parents[2], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", code, f"{bucket.url}/a/run"]
    killed = subprocess.run(command, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL
    folder = Path(killed.stdout.strip()).parent
    assert folder.name.startswith(MIRROR)
    assert folder.is_dir()
    with Mirror(f"{bucket.url}/a/run"):
        assert not folder.exists()


def test_one_file_instead_of_a_folder(bucket: Store) -> None:
    with Mirror(f"{bucket.url}/out/scores.tsv", file=True) as path:
        atomic_write_bytes(path, b"scores")
    assert bucket.get("out/scores.tsv") == b"scores"
    with Mirror(f"{bucket.url}/out/scores.tsv", file=True) as path:
        assert path.read_bytes() == b"scores"
