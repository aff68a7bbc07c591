"""The engine of long jobs: stages that need one another, run in order, resumed and shared.

A job declares its stages and what is done in each. The engine finds out what is missing and still
needed, refuses changed settings, takes the locks and runs it. Fingerprints of later stages are
made from those of earlier ones, not from their files, so that the whole plan is known before
anything runs, and what depends on a stage that is redone is redone.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from relabel.errors import BusyError, DataError, StageError
from relabel.files.json_text import parse_json
from relabel.workspace.atomic import remove_leftovers
from relabel.workspace.estimate import spoken
from relabel.workspace.lock import FolderLock
from relabel.workspace.mirror import pull
from relabel.workspace.progress import message
from relabel.workspace.stage import Stage, Status

Busy = Literal["refuse", "wait", "leave"]
_WAIT = 5.0  # seconds until stages of other processes are looked at again
_PATIENCE = 60.0  # seconds; stages made of shards are locked to read and write a manifest only


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        ran: names of the stages that it worked on.
        waits_for: name of the stage that other processes still work on; None when all is done.
    """

    ran: tuple[str, ...] = ()
    waits_for: str | None = None


class Pipeline:
    """The stages of a job, in an order in which they can run.

    Args:
        out: the workspace; it need not exist.
        lock: what a second process reads is in use, such as ``this workspace``. None
            lets processes share the job: each takes the stages that no other one works on.
        log: name of a file in ``out`` with a JSON line for every start and end of a stage.
        quiet: say nothing on stderr.

    Attributes:
        stages: by name, in order.
        status: where each stood when it was added, or as this process left it.
        expected: seconds that stages are expected to take, by name, for the time left to say.
    """

    def __init__(
        self, out: Path, *, lock: str | None = None, log: str | None = None, quiet: bool = False
    ) -> None:
        self.out = out
        self.quiet = quiet
        self.stages: dict[str, Stage] = {}
        self.status: dict[str, Status] = {}
        self.expected: dict[str, float] = {}
        self._lock = None if lock is None else FolderLock(out, lock)
        self._log = None if log is None else out / log

    def add(self, stage: Stage) -> Stage:
        """Append a stage, after those that it needs, and look up where it stands.

        Raises:
            StageError: its manifest is damaged.
        """
        if stage.name in self.stages or not {need.name for need in stage.needs} <= set(self.stages):
            raise ValueError(f"stage {stage.name!r} is there already, or one that it needs is not")
        self.stages[stage.name] = stage
        self.status[stage.name] = stage.status()
        return stage

    def to_run(self, goals: Sequence[Stage] | None = None) -> list[Stage]:
        """The stages that are not done and whose output is still needed, in order.

        Args:
            goals: what is to be there; by default the stages that no other one needs.
        """
        if goals is None:
            needed = {need.name for stage in self.stages.values() for need in stage.needs}
            goals = [stage for name, stage in self.stages.items() if name not in needed]
        wanted: set[str] = set()
        queue = list(goals)
        while queue:
            stage = queue.pop()
            if self.status[stage.name] != "done" and stage.name not in wanted:
                wanted.add(stage.name)
                queue.extend(stage.needs)
        return [stage for name, stage in self.stages.items() if name in wanted]

    def rows(self) -> list[dict[str, Any]]:
        """The plan to show; ``differences`` are those of a stage that was changed."""
        runs = {stage.name for stage in self.to_run()}
        return [
            {
                "stage": name,
                "status": self.status[name],
                "runs": name in runs,
                "folder": str(stage.folder),
                "differences": stage.differences() if self.status[name] == "changed" else [],
            }
            for name, stage in self.stages.items()
        ]

    def check(self, stages: Sequence[Stage]) -> None:
        """Refuse before any work what would fail after hours of it; jobs say what that is.

        Args:
            stages: those that are about to run.
        """

    def run(
        self,
        goals: Sequence[Stage] | None = None,
        *,
        overwrite: bool = False,
        busy: Busy = "refuse",
        after: Callable[[Stage], None] | None = None,
    ) -> Outcome:
        """Run what is missing; the same call goes on after an interruption.

        Args:
            goals: what is to be there, see `to_run`.
            overwrite: redo stages whose settings or inputs changed, and what depends on them.
            busy: what to do where another process is at work: raise BusyError, do what is left
                and wait for the rest, or leave it to the other process.
            after: called with every stage that this process finished.

        Raises:
            StageError: settings or inputs changed and ``overwrite`` is off.
            BusyError: another process is at work and ``busy`` is ``refuse``.
        """
        stages = self.to_run(goals)
        if not overwrite:
            self._refuse_changes(stages)
        if not stages:
            return Outcome()
        self.check(stages)
        self.out.mkdir(parents=True, exist_ok=True)
        if self._lock is not None:
            self._acquire(self._lock, busy)
        try:
            return _Run(self, stages, overwrite, busy, after).run()
        finally:
            if self._lock is not None:
                self._lock.release()

    def _acquire(self, lock: FolderLock, busy: Busy) -> None:
        try:
            lock.acquire()
        except BusyError as error:
            if busy != "wait":
                raise
            message(f"waiting: {error.message}", quiet=self.quiet)
            lock.acquire(math.inf)

    def _refuse_changes(self, stages: Sequence[Stage]) -> None:
        changed = [stage for stage in stages if stage.needs_overwrite]
        if not changed:
            return
        first = changed[0].changed_error()
        rest = len(changed) - 1
        follow = f" ({rest} stage{'s' * (rest != 1)} after it would follow)" if rest else ""
        raise StageError(
            f"{first.message}{follow}",
            file=first.file,
            remedy="Redo it and what depends on it with --overwrite, or choose another --out.",
        )

    def write_log(self, name: str, event: str, **more: Any) -> None:
        """Times go to a log of their own: the result's files are the same in every run."""
        if self._log is not None:
            now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            with self._log.open("a", encoding="utf-8") as stream:
                stream.write(
                    json.dumps({"time": now, "stage": name, "event": event, **more}) + "\n"
                )

    def seconds(self) -> dict[str, float]:
        """What its stages took the last time that each was finished, as far as the log tells."""
        found = {} if self._log is None else logged_seconds(self._log)
        return {name: found[name] for name in self.stages if name in found}


def logged_seconds(log: Path) -> dict[str, float]:
    """What the stages of a job's log took the last time that each was finished, by name.

    A log that is not there has none.
    """
    found: dict[str, float] = {}
    if log.is_file():
        for line in log.read_bytes().splitlines():
            with suppress(DataError):  # a line that a kill cut off
                entry = parse_json(line, log)
                if isinstance(entry, dict) and isinstance(entry.get("seconds"), int | float):
                    found[str(entry.get("stage"))] = float(entry["seconds"])
    return found


class _Run:
    """One call of `Pipeline.run`, with the locks taken."""

    def __init__(
        self,
        job: Pipeline,
        stages: Sequence[Stage],
        overwrite: bool,
        busy: Busy,
        after: Callable[[Stage], None] | None,
    ) -> None:
        self.job, self.stages = job, stages
        self.overwrite, self.busy, self.after = overwrite, busy, after
        self.ran: list[str] = []
        self.taken, self.foreseen = 0.0, 0.0  # seconds of the stages that are done
        self.held: FolderLock | None = None

    def run(self) -> Outcome:
        left = list(self.stages)
        waiting: str | None = None
        try:
            while left:
                put_off: list[Stage] = []
                for stage in left:
                    if set(stage.needs) & set(put_off):
                        put_off.append(stage)
                        continue
                    try:
                        done = self._stage(stage)
                    except BusyError as error:
                        if self.busy == "refuse":
                            raise
                        done = False
                        if self.busy == "wait" and waiting != error.message:
                            waiting = error.message
                            message(f"waiting: {waiting}", quiet=self.job.quiet)
                    if not done:
                        if self.busy != "wait":
                            return Outcome(tuple(self.ran), stage.name)
                        put_off.append(stage)
                if len(put_off) == len(left):
                    time.sleep(_WAIT)
                left = put_off
        finally:
            self._hold(None)
        return Outcome(tuple(self.ran))

    def _stage(self, stage: Stage) -> bool:
        """Do a stage; False if shards of it are other processes' and still missing."""
        self._hold(stage.lock)
        pull(stage.folder)
        before = stage.status()
        if before != "done":
            for need in stage.needs:
                if need.status() != "done":
                    # Another job may have redone, with --overwrite, what this one made.
                    raise StageError(
                        f"stage {need.name!r} was changed by another process",
                        file=need.folder,
                        remedy="Give both the same settings, or do not share the folder.",
                    )
            return self._work(stage, before)
        self.job.status[stage.name] = "done"
        return True

    def _work(self, stage: Stage, before: Status) -> bool:
        shards, started = stage.shards, time.monotonic()
        assert stage.work is not None
        with stage.locked(self.overwrite, 0.0 if shards is None else _PATIENCE):
            if stage.status() == "done":  # meanwhile
                self.job.status[stage.name] = "done"
                return True
            self._started(stage, before)
            if shards is None:
                stage.finish(stage.work(stage))
        if shards is not None:
            stage.work(stage)
            if any(True for _ in shards.missing()):
                return False
            with stage.locked(patience=_PATIENCE):
                if stage.status() != "done":
                    remove_leftovers(shards.folder)
                    stage.finish({shards.folder.name: shards.folder.name})
        self.job.status[stage.name] = "done"
        taken = time.monotonic() - started
        self.taken += taken
        self.foreseen += self.job.expected.get(stage.name, 0.0)
        self.job.write_log(stage.name, "done", seconds=round(taken, 2))
        if self.after is not None:
            self.after(stage)
        return True

    def _started(self, stage: Stage, before: Status) -> None:
        event = {"partial": "resuming", "changed": "redoing"}.get(before, "running")
        place = f"[{self.stages.index(stage) + 1}/{len(self.stages)}]"
        message(f"{place} {event} {stage.name}{self._time_left()}", quiet=self.job.quiet)
        self.job.write_log(stage.name, event)
        self.ran.append(stage.name)

    def _time_left(self) -> str:
        """What is expected of the stages that are not done, at the pace of those that are."""
        expected, status = self.job.expected, self.job.status
        left = [expected.get(s.name, 0.0) for s in self.stages if status[s.name] != "done"]
        if not any(left):
            return ""
        pace = self.taken / self.foreseen if self.foreseen > 0 else 1.0
        return f" (about {spoken(sum(left) * pace)} left)"

    def _hold(self, lock: FolderLock | None) -> None:
        """Hold the lock that a stage's folder has, and not longer than its stages are run."""
        if self.held is not None and self.held is not lock:
            self.held.release()
            self.held = None
        if lock is not None:
            lock.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            self.held = lock
