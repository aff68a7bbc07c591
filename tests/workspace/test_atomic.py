from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from relabel.errors import RelabelError
from relabel.workspace.atomic import (
    TEMP_PREFIX,
    atomic_path,
    atomic_write_bytes,
    atomic_write_json,
    is_disk_full,
    remove_leftovers,
    temporary_name,
)


def test_replaces_the_old_file_at_the_end_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    atomic_write_bytes(path, b"old")
    with atomic_path(path) as temp:
        assert temp.parent == path.parent and temp.suffix == ".json"
        temp.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_an_error_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="stop"), atomic_path(path) as temp:
        temp.write_bytes(b"half")
        raise ValueError("stop")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_full_disk_is_one_line_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(RelabelError) as caught, atomic_path(tmp_path / "a.bin") as temp:
        temp.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "disk is full" in str(caught.value) and "same command" in str(caught.value)
    assert "a.bin" in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert is_disk_full(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert not is_disk_full(OSError(errno.ENOENT, "gone"))


def test_json_bytes_keep_key_order(tmp_path: Path) -> None:
    atomic_write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, "ü"]})
    assert (tmp_path / "a.json").read_bytes() == '{"b": 1, "a": [1.5, "ü"]}\n'.encode()
    with pytest.raises(ValueError):
        atomic_write_json(tmp_path / "b.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text())["b"] == 1
    assert not (tmp_path / "b.json").exists()


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".tmp-1-0.json").write_text("half")
    (tmp_path / "kept.json").write_text("{}")
    remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["kept.json"]


def test_who_writes_next_removes_what_dead_processes_left(tmp_path: Path) -> None:
    mine = tmp_path / temporary_name(".json")
    name = [sys.executable, "-c", "from relabel.workspace.atomic import *; print(temporary_name())"]
    dead = tmp_path / subprocess.run(name, capture_output=True, text=True).stdout.strip()
    link = tmp_path / (dead.name + "-link")
    elsewhere = tmp_path / f"{TEMP_PREFIX}ffffffff-1-0.json"  # of another machine
    for path in (mine, dead, elsewhere):
        path.write_text("half")
    link.symlink_to("nowhere")
    assert dead.name.startswith(TEMP_PREFIX) and dead.name != mine.name
    atomic_write_json(tmp_path / "a.json", {})
    assert set(tmp_path.iterdir()) == {mine, elsewhere, tmp_path / "a.json"}
