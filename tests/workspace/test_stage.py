from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relabel.errors import StageError
from relabel.workspace.stage import Shards, Stage


def _stage(folder: Path, **settings: object) -> Stage:
    return Stage(
        "specialist fine",
        folder,
        settings={"epochs": 12, "model": {"width": 8}, **settings},
        inputs={"train": "ab" * 32},
    )


def _finished(folder: Path) -> Stage:
    stage = _stage(folder)
    stage.begin()
    (folder / "model.bin").write_bytes(b"weights")
    stage.finish({"model": "model.bin"})
    return stage


def test_life_of_a_stage(tmp_path: Path) -> None:
    folder = tmp_path / "1"
    stage = _stage(folder)
    assert stage.status() == "missing"
    stage.begin()
    assert stage.status() == "partial"
    (folder / "model.bin").write_bytes(b"weights")
    stage.finish({"model": "model.bin"})
    assert _stage(folder).status() == "done"
    assert _stage(folder).outputs == {"model": folder / "model.bin"}
    manifest = json.loads((folder / "stage.json").read_text())
    assert manifest["outputs"]["model"]["bytes"] == 7
    assert manifest["settings"] == {"epochs": 12, "model": {"width": 8}}


def test_partial_files_stay_and_a_done_stage_is_left_alone(tmp_path: Path) -> None:
    stage = _stage(tmp_path / "1")
    stage.begin()
    (tmp_path / "1" / "part").write_text("kept")
    stage.release()
    again = _stage(tmp_path / "1")
    again.begin()
    assert (tmp_path / "1" / "part").read_text() == "kept"
    again.finish({})
    before = (tmp_path / "1" / "stage.json").read_bytes()
    _stage(tmp_path / "1").begin()
    assert (tmp_path / "1" / "stage.json").read_bytes() == before


def test_a_missing_or_cut_output_is_not_done(tmp_path: Path) -> None:
    _finished(tmp_path / "1")
    (tmp_path / "1" / "model.bin").write_bytes(b"weight")
    assert _stage(tmp_path / "1").status() == "partial"
    (tmp_path / "1" / "model.bin").unlink()
    assert _stage(tmp_path / "1").status() == "partial"


def test_changes_are_refused_with_the_difference(tmp_path: Path) -> None:
    _finished(tmp_path / "1")
    changed = Stage(
        "specialist fine",
        tmp_path / "1",
        settings={"epochs": 20, "model": {"width": 8}, "ema": 0.9},
        inputs={"train": "cd" * 32},
    )
    assert changed.status() == "changed"
    assert changed.differences() == [
        "settings.epochs: 12 → 20",
        "settings.ema: nothing → 0.9",
        "inputs.train: abababab → cdcdcdcd",
    ]
    with pytest.raises(StageError) as caught:
        changed.begin()
    assert "settings.epochs: 12 → 20" in str(caught.value)
    assert "--overwrite" in str(caught.value) and "--out" in str(caught.value)
    assert (tmp_path / "1" / "model.bin").exists()
    changed.begin(overwrite=True)
    assert changed.status() == "partial"
    assert not (tmp_path / "1" / "model.bin").exists()


def test_clearing_cut_off_halfway_is_carried_on(tmp_path: Path) -> None:
    _finished(tmp_path / "1")
    changed = _stage(tmp_path / "1", epochs=20)
    changed._write("clearing")  # what a kill in the middle of clearing leaves
    changed.begin()
    assert not (tmp_path / "1" / "model.bin").exists()
    assert changed.status() == "partial"


def test_a_folder_of_somebody_else_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("important")
    for overwrite in (False, True):
        with pytest.raises(StageError, match="did not write"):
            _stage(tmp_path).begin(overwrite=overwrite)
    assert (tmp_path / "thesis.tex").read_text() == "important"


def test_a_second_process_is_refused_and_the_lock_dies_with_its_owner(tmp_path: Path) -> None:
    code = (
        "import sys, time; from relabel.workspace.stage import Stage\n"
        "s = Stage('specialist fine', sys.argv[1], settings={}, inputs={}); s.begin()\n"
        "print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "1")]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    stage = Stage("specialist fine", tmp_path / "1", settings={}, inputs={})
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(StageError, match=f"pid {other.pid}"):
            stage.begin()
    finally:
        other.kill()
        other.wait()
    stage.begin()
    assert (tmp_path / "1" / ".lock").read_text() == f"{os.getpid()}\n"


def test_a_damaged_manifest_names_the_file(tmp_path: Path) -> None:
    _finished(tmp_path / "1")
    (tmp_path / "1" / "stage.json").write_text('{"state": ')
    with pytest.raises(StageError, match=r"stage\.json.*not valid JSON"):
        _stage(tmp_path / "1").status()


@pytest.mark.parametrize("text", ["", "[]", "7", "[" * 100_000, '{"a": 1, "a": 2}', "\0", "\xff"])
def test_what_is_no_manifest_is_one_line(tmp_path: Path, text: str) -> None:
    _finished(tmp_path / "1")
    (tmp_path / "1" / "stage.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(StageError, match=r"stage\.json: ") as caught:
        _stage(tmp_path / "1").status()
    assert "the stage is then redone" in (caught.value.remedy or "")


@pytest.mark.parametrize(
    "outputs", [7, [], {"m": 7}, {"m": {}}, {"m": {"path": 7}}, {"m": {"path": "model.bin"}}]
)
def test_changed_outputs_of_a_manifest_are_not_done(tmp_path: Path, outputs: object) -> None:
    stage = _finished(tmp_path / "1")
    file = tmp_path / "1" / "stage.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "outputs": outputs}))
    assert stage.status() == "partial"


def test_dated_outputs_have_to_be_there_and_leave_no_trace(tmp_path: Path) -> None:
    manifests = []
    for name, text in (("one", "now"), ("two", "a little later")):
        stage = Stage("s", tmp_path / name, settings={}, dated=["page.html"])
        stage.begin()
        (tmp_path / name / "page.html").write_text(text)
        (tmp_path / name / "data").write_text("x")
        stage.finish({"page": "page.html", "data": "data"})
        manifests.append((tmp_path / name / "stage.json").read_bytes())
        assert stage.status() == "done"
    assert manifests[0] == manifests[1]
    assert stage.outputs["page"] == tmp_path / "two" / "page.html"
    (tmp_path / "two" / "page.html").unlink()
    assert stage.status() == "partial"


def test_folder_outputs_are_checked_by_size(tmp_path: Path) -> None:
    stage = _stage(tmp_path / "1")
    stage.begin()
    (tmp_path / "1" / "parts").mkdir()
    (tmp_path / "1" / "parts" / "a").write_bytes(b"12")
    stage.finish({"parts": "parts"})
    assert stage.status() == "done"
    (tmp_path / "1" / "parts" / "b").write_bytes(b"3")
    assert stage.status() == "partial"


@given(total=st.integers(0, 1000), size=st.integers(1, 300))
def test_shards_cover_every_item_once(total: int, size: int) -> None:
    shards = Shards(Path("out"), total=total, size=size)
    items = [item for i in range(len(shards)) for item in shards.items(i)]
    assert items == list(range(total))
    assert len({p.name for p in shards.paths}) == len(shards)


def test_finished_shards_are_not_missing(tmp_path: Path) -> None:
    shards = Shards(tmp_path, total=250, size=100)
    assert shards.shard_path(2).name == "shard-00002-of-00003.parquet"
    shards.shard_path(1).write_bytes(b"")
    assert list(shards.missing()) == [0, 2]


def test_what_lies_beside_a_stage_is_left_alone(tmp_path: Path) -> None:
    """A result at the top of a workspace whose other stages have folders in it."""

    def top(epochs: int) -> Stage:
        return Stage("result", tmp_path, settings={"epochs": epochs}, beside=("model",))

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("kept")
    stage = top(1)
    stage.begin()
    (tmp_path / "labels.csv").write_text("a,1")
    stage.finish()
    assert set(stage.outputs) == {"labels.csv"}
    again = top(2)
    again.begin(overwrite=True)
    again.release()
    assert not (tmp_path / "labels.csv").exists()
    assert (tmp_path / "model" / "weights").read_text() == "kept"
    (tmp_path / "2" / "model").mkdir(parents=True)
    (tmp_path / "2" / "notes.txt").write_text("somebody's")
    with pytest.raises(StageError, match="did not write"):
        Stage("result", tmp_path / "2", settings={}, beside=("model",)).refuse_foreign_files()
