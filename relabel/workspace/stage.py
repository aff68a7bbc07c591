"""Stages: named steps with a fingerprint of what they depend on, and a folder for what they make.

A stage's folder holds ``stage.json``. It is written first with the state ``running`` and last
with the state ``done``, so that a folder left by a killed process is never taken for a finished
one. A changed fingerprint is refused with the difference shown.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from relabel import __version__
from relabel.errors import DataError, StageError
from relabel.files.json_text import read_object
from relabel.workspace.atomic import TEMP_PREFIX, atomic_write_json, remove_leftovers
from relabel.workspace.fingerprint import file_fingerprint, fingerprint
from relabel.workspace.lock import LOCK_FILE, FolderLock
from relabel.workspace.mirror import STAGE_FILE, pull, push

Status = Literal["missing", "partial", "done", "changed"]
Outputs = Mapping[str, str | Path]
_SHOWN_DIFFERENCES = 6


class Stage:
    """One step of a workspace.

    Args:
        name: what the step is called in messages, such as ``specialist fine``.
        folder: where its files go; nothing else may live there.
        settings: JSON-ready settings that change what is computed.
        inputs: fingerprints of what goes in, by name.
        needs: the stages whose output it reads; their fingerprints are inputs by their names.
        work: makes the outputs; called with the stage by `relabel.workspace.pipeline`. It resumes
            from what is in the folder, and returns the outputs as `finish` takes them.
        shards: what the work makes, where several processes make some each, without locks.
        lock: of a folder that holds more than this workspace's stages.
        beside: names in the folder that are not this stage's, such as the folders of stages that it
            needs: they are left alone.
        asked: names of inputs that somebody gave to have the stage done again with them: where
            nothing else changed, it is redone without ``overwrite``.
        dated: outputs that say when they were made, by their paths in the folder. Their size and
            bytes differ from run to run, and are not kept in the manifest.
    """

    def __init__(
        self,
        name: str,
        folder: str | Path,
        *,
        settings: Mapping[str, Any],
        inputs: Mapping[str, str] | None = None,
        needs: Sequence[Stage] = (),
        work: Callable[[Stage], Outputs | None] | None = None,
        shards: Shards | None = None,
        lock: FolderLock | None = None,
        beside: Collection[str] = (),
        asked: Collection[str] = (),
        dated: Collection[str] = (),
    ) -> None:
        self.name = name
        self.folder = Path(folder)
        # Through JSON, so that what is compared is what is read back (tuples become lists).
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.needs = tuple(needs)
        self.inputs = {**(inputs or {}), **{need.name: need.fingerprint for need in self.needs}}
        self.work = work
        self.shards = shards
        self.lock = lock
        self.beside = frozenset(beside)
        self.asked = frozenset(asked)
        self.dated = frozenset(dated)
        self._lock = FolderLock(self.folder, f"stage {name!r}")

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint({"name": self.name, "settings": self.settings, "inputs": self.inputs})

    def status(self) -> Status:
        """``done`` only if every output is there with the size it was finished with."""
        written = self._read()
        if written is None:
            return "missing"
        if written.get("fingerprint") != self.fingerprint:
            return "changed"
        if written.get("state") != "done":
            return "partial"
        return "done" if self._outputs_present(written) else "partial"

    @property
    def outputs(self) -> dict[str, Path]:
        """Paths of the outputs of a finished stage, by name."""
        written = self._read() or {}
        return {k: self.folder / v["path"] for k, v in written.get("outputs", {}).items()}

    def differences(self) -> list[str]:
        """What changed since the folder was started: ``settings.epochs: 10 → 20``."""
        return [
            f"{key}: {_short(old)} → {_short(new)}" for key, (old, new) in self._changed().items()
        ]

    @property
    def needs_overwrite(self) -> bool:
        """Whether it was started with other settings or inputs, beyond those asked for."""
        if self.status() != "changed":
            return False
        changed = self._changed().keys()
        return not changed or not changed <= {f"inputs.{name}" for name in self.asked}

    def _changed(self) -> dict[str, tuple[Any, Any]]:
        """Old and new values of what changed since the folder was started, None for none."""
        written = self._read()
        if written is None:
            return {}
        old = _flat({k: written.get(k, {}) for k in ("name", "settings", "inputs")})
        new = _flat({"name": self.name, "settings": self.settings, "inputs": self.inputs})
        return {
            key: (old.get(key), new.get(key))
            for key in [*new, *(k for k in old if k not in new)]
            if old.get(key, _ABSENT) != new.get(key, _ABSENT)
        }

    def begin(self, overwrite: bool = False, patience: float = 0.0) -> None:
        """Take the folder's lock and mark the stage as running; partial files stay for resuming.

        A stage that is done stays done.

        Args:
            overwrite: empty the folder if settings or inputs changed.
            patience: seconds for which another process that works in the folder is waited for.

        Raises:
            StageError: settings or inputs changed since the folder was started and ``overwrite``
                is off, or the folder holds files of somebody else (never emptied).
            BusyError: another process works in it.
        """
        self.refuse_foreign_files()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock.acquire(patience)
        try:
            self._begin_locked(overwrite)
        except BaseException:
            self.release()
            raise

    def refuse_foreign_files(self) -> None:
        """Raise StageError if the folder holds files of somebody else."""
        if self.folder.is_dir() and self._read() is None and not self._is_empty():
            raise StageError(
                f"the folder of stage {self.name!r} holds files that relabel did not write",
                file=self.folder,
                remedy="Choose another output folder, or move them away.",
            )

    def _begin_locked(self, overwrite: bool) -> None:
        remove_leftovers(self.folder)
        status = self.status()
        if not overwrite and self.needs_overwrite:
            raise self.changed_error()
        if status == "changed" or (self._read() or {}).get("state") == "clearing":
            # Written first, so that a kill halfway through is carried on by the next begin.
            self._write("clearing")
            self._clear()
            push(self.folder, exact=True, beside=self.beside)
        if status != "done":
            self._write("running")

    @contextmanager
    def locked(self, overwrite: bool = False, patience: float = 0.0) -> Iterator[None]:
        """`begin` before the block and `release` after it; see there."""
        self.begin(overwrite, patience)
        try:
            yield
        finally:
            self.release()

    def run(self, work: Callable[[], Outputs | None], *, overwrite: bool = False) -> bool:
        """Do a stage that stands alone, unless it is done.

        Args:
            work: makes the outputs, and returns them as `finish` takes them.
            overwrite: redo it if its settings or inputs changed.

        Returns:
            Whether there was anything to do.

        Raises:
            StageError, BusyError: as `begin`.
        """
        if self.status() == "done":
            return False
        with self.locked(overwrite):
            self.finish(work())
        return True

    def changed_error(self) -> StageError:
        """The error for a stage that was started with different settings or inputs."""
        found = self.differences()
        shown = "; ".join(found[:_SHOWN_DIFFERENCES])
        if len(found) > _SHOWN_DIFFERENCES:
            shown += f"; and {len(found) - _SHOWN_DIFFERENCES} more"
        return StageError(
            f"stage {self.name!r} was started with different settings or inputs: {shown}",
            file=self.folder,
            remedy="Redo it with --overwrite, or keep it and choose another --out.",
        )

    def finish(self, outputs: Outputs | None = None) -> None:
        """Mark the stage as done; ``outputs`` maps names to files or folders inside its folder.

        Without them everything visible in the folder is an output. The manifest is the last file
        written. Of files it keeps size and SHA-256, of folders the number of files and their
        total size.
        """
        if outputs is None:
            visible = sorted(p.name for p in self.folder.iterdir() if not p.name.startswith("."))
            outputs = {n: n for n in visible if n != STAGE_FILE and n not in self.beside}
        listed = {}
        for key, value in outputs.items():
            path = self.folder / value
            entry: dict[str, Any] = {"path": path.relative_to(self.folder).as_posix()}
            if entry["path"] in self.dated:
                pass
            elif path.is_dir():
                entry["files"], entry["bytes"] = _folder_size(path)
            else:
                entry["bytes"] = path.stat().st_size
                entry["sha256"] = file_fingerprint(path)
            listed[key] = entry
        push(self.folder, exact=True, beside=self.beside)
        self._write("done", outputs=listed)
        self.release()

    def release(self) -> None:
        """Give back the lock; the operating system does so when the process dies."""
        self._lock.release()

    def _write(self, state: str, **more: Any) -> None:
        atomic_write_json(
            self.folder / STAGE_FILE,
            {
                "name": self.name,
                "state": state,
                "fingerprint": self.fingerprint,
                "relabel": __version__,
                "settings": self.settings,
                "inputs": self.inputs,
                **more,
            },
            indent=1,
        )

    def _read(self) -> dict[str, Any] | None:
        path = self.folder / STAGE_FILE
        try:
            path.lstat()
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise StageError("a file is in the way of the stage's folder", file=path) from error
        remedy = "Remove the folder; the stage is then redone."
        try:
            return read_object(path)
        except DataError as error:
            raise StageError(error.message, file=path, remedy=remedy) from error

    def _outputs_present(self, written: dict[str, Any]) -> bool:
        try:
            for entry in written.get("outputs", {}).values():
                path = self.folder / entry["path"]
                if entry["path"] in self.dated:
                    if not path.is_file():
                        return False
                elif "files" in entry:
                    if not path.is_dir() or _folder_size(path) != (entry["files"], entry["bytes"]):
                        return False
                elif not path.is_file() or path.stat().st_size != entry["bytes"]:
                    return False
        except (AttributeError, KeyError, TypeError, ValueError):  # a manifest that was changed
            return False
        return True

    def _is_empty(self) -> bool:
        ours = {LOCK_FILE, *self.beside}
        return all(p.name in ours or p.name.startswith(TEMP_PREFIX) for p in self.folder.iterdir())

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.name in (STAGE_FILE, LOCK_FILE) or path.name in self.beside:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


class Shards:
    """The parts of a stage's output over ``total`` items, ``size`` items each.

    A shard's name depends on its number and the number of shards only. Shards are written
    through `atomic_path`, so that one that exists is finished and is never redone.

    >>> shards = Shards(Path("out"), total=250, size=100)
    >>> shards.shard_path(2).name, shards.items(2)
    ('shard-00002-of-00003.parquet', range(200, 250))
    """

    def __init__(self, folder: Path, *, total: int, size: int) -> None:
        if size < 1:
            raise ValueError(f"shard size must be positive, got {size}")
        self.folder = Path(folder)
        self.total = total
        self.size = size

    def __len__(self) -> int:
        return -(-self.total // self.size)

    def shard_path(self, i: int) -> Path:
        return self.folder / f"shard-{i:05d}-of-{len(self):05d}.parquet"

    def items(self, i: int) -> range:
        """The items of shard ``i``."""
        return range(i * self.size, min((i + 1) * self.size, self.total))

    def missing(self) -> Iterator[int]:
        """Numbers of the shards still to be written, in order."""
        pull(self.folder)
        return (i for i in range(len(self)) if not self.shard_path(i).is_file())

    @property
    def paths(self) -> list[Path]:
        return [self.shard_path(i) for i in range(len(self))]


_ABSENT = object()


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat = {}
    for key, inner in value.items():
        flat.update(_flat(inner, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    if len(text) == 66 and all(c in "0123456789abcdef" for c in text[1:-1]):
        return text[1:9]  # a fingerprint
    return text if len(text) <= 60 else f"{text[:57]}..."


def _folder_size(folder: Path) -> tuple[int, int]:
    """(number of files, total bytes) below a folder; the targets of links do not count."""
    files = size = 0
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root) / name
            if not path.is_symlink():
                files += 1
                size += path.stat().st_size
    return files, size
