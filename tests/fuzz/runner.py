"""Many cases, shared among processes, and what came of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from tests.fuzz.case import Case, draw, healthy, make_case
from tests.fuzz.forks import Ran, run_forked
from tests.fuzz.oracle import judge, snapshot
from tests.fuzz.subjects import SUBJECTS
from tests.fuzz.subjects.base import DATA, OUTSIDE
from tests.fuzz.work import needs_torch, preload, run_command

_AT_ONCE = 50  # cases that are made by one child


@dataclass
class Outcome:
    """One case and what was wrong with its run."""

    number: int
    subject: str
    args: list[str]
    damage: list[str]
    kinds: list[str]
    status: int
    seconds: float
    memory: float
    err: str
    wrong: list[str] = field(default_factory=list)

    @property
    def signatures(self) -> list[str]:
        return [signature(text) for text in self.wrong]


def signature(text: str) -> str:
    """A failure without what differs from input to input."""
    text = re.sub(r"\S*(?:data|out)/\S*", "FILE", text)
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", text)
    return re.sub(r"\d+", "0", text)[:160]


def run_case(case: Case, folder: Path, scratch: Path, base: float) -> Outcome:
    """Run the command of a case that lies in ``folder``, and judge it."""
    before = snapshot(folder / DATA) | snapshot(folder / OUTSIDE)

    def again(args: list[str]) -> Ran:
        return run_forked(partial(run_command, args), folder, scratch)

    ran = again(case.args)
    wrong = judge(case, ran, base, folder, before, again)
    return Outcome(
        case.number,
        case.subject.name,
        case.args,
        [said for _, said in case.damage],
        sorted(case.kinds),
        ran.status,
        round(ran.seconds, 3),
        round(max(0.0, ran.memory - base), 1),
        ran.err.decode("utf-8", "replace")[-2000:],
        wrong,
    )


def made_cases(
    seed: int, numbers: list[int], models: Path, scratch: Path
) -> Iterator[tuple[Case, Path]]:
    """The cases and their folders, written some at a time by a child.

    What damages Parquet starts threads, which must not be there when this process forks.
    """
    for first in range(0, len(numbers), _AT_ONCE):
        batch = numbers[first : first + _AT_ONCE]
        note = scratch / "cases.json"

        def make(batch: list[int] = batch, note: Path = note) -> int:
            done = [
                make_case(seed, number, models, scratch / f"case{number}").damage
                for number in batch
            ]
            note.write_text(json.dumps(done))
            return 0

        # Damage is ours, not what is tried: it may take its time on a busy machine.
        ran = run_forked(make, scratch, scratch, limited=False)
        if ran.status:
            raise RuntimeError(
                f"status {ran.status}, cases {batch}: {ran.err.decode(errors='replace')}"
            )
        for number, damage in zip(batch, json.loads(note.read_text()), strict=True):
            _, subject, args = draw(seed, number)
            folder = scratch / f"case{number}"
            yield Case(number, subject, args, [(kind, said) for kind, said in damage]), folder
            _remove(folder)


def _remove(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    shutil.rmtree(folder)


def run_numbers(
    seed: int, numbers: Iterable[int], models: Path, scratch: Path
) -> Iterator[Outcome]:
    """The outcomes of the cases, those that need torch last."""
    light, heavy = [], []
    for number in numbers:
        (heavy if needs_torch(draw(seed, number)[2]) else light).append(number)
    for group, torch in ((light, False), (heavy, True)):
        if group:
            preload(heavy=torch)
        base = run_forked(lambda: 0, scratch, scratch).memory
        for case, folder in made_cases(seed, group, models, scratch):
            yield run_case(case, folder, scratch, base)


def build_all(models: Path, scratch: Path) -> None:
    """Write the healthy inputs, in a child: torch and pyarrow must not be here."""

    def build() -> int:
        for subject in SUBJECTS:
            healthy(subject, models)
        return 0

    ran = run_forked(build, models, scratch, limited=False)
    if ran.status:
        raise RuntimeError(ran.err.decode(errors="replace"))


def run_shared(seed: int, first: int, count: int, jobs: int) -> list[Outcome]:
    """Cases ``first`` to ``first + count - 1`` among processes."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        models = folder / "healthy"
        models.mkdir()
        build_all(models, folder)
        pids = []
        for job in range(jobs):
            scratch = folder / f"job{job}"
            scratch.mkdir()
            pid = os.fork()
            if pid == 0:
                _worker(seed, range(first + job, first + count, jobs), models, scratch)
            pids.append(pid)
        failed = [pid for pid in pids if os.waitpid(pid, 0)[1]]
        found = []
        for job in range(jobs):
            file = folder / f"job{job}" / "outcomes.jsonl"
            found += [Outcome(**json.loads(line)) for line in file.read_text().splitlines()]
        if failed:
            raise RuntimeError("a process of the fuzz run has failed; see above")
    return sorted(found, key=lambda outcome: outcome.number)


def _worker(seed: int, numbers: range, models: Path, scratch: Path) -> None:
    status = 1
    try:
        with (scratch / "outcomes.jsonl").open("w") as stream:
            for outcome in run_numbers(seed, numbers, models, scratch):
                stream.write(json.dumps(asdict(outcome)) + "\n")
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def make_only(seed: int, number: int, folder: Path) -> Case:
    """Write one case into a folder, to look at it."""
    models = folder / "healthy"
    models.mkdir(parents=True, exist_ok=True)
    return make_case(seed, number, models, folder)
