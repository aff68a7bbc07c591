"""Many cases, shared among processes, and what came of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from tests.fuzz.case import Case, draw, healthy, make_case
from tests.fuzz.forks import Ran, run_forked
from tests.fuzz.oracle import judge, snapshot
from tests.fuzz.subjects import SUBJECTS
from tests.fuzz.subjects.base import DATA, OUTSIDE
from tests.fuzz.work import preload, run_command


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


def in_child(work: Callable[[], object], folder: Path, scratch: Path) -> Ran:
    """Run what may import or break much away from this process, which forks on."""

    def done() -> int:
        work()
        return 0

    return run_forked(done, folder, scratch)


def run_case(seed: int, number: int, models: Path, scratch: Path, base: float) -> Outcome:
    """Make a case in a folder of its own, run it and judge it."""
    folder = scratch / "case"
    _remove(folder)
    folder.mkdir(parents=True)
    case = _make_in_child(seed, number, models, folder, scratch)
    before = snapshot(folder / DATA) | snapshot(folder / OUTSIDE)

    def again(args: list[str]) -> Ran:
        return run_forked(partial(run_command, args), folder, scratch)

    ran = again(case.args)
    wrong = judge(case, ran, base, folder, before, again)
    return Outcome(
        number,
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


def _make_in_child(seed: int, number: int, models: Path, folder: Path, scratch: Path) -> Case:
    """The case, written by a child: pyarrow's threads must not be there when this one forks."""
    _, subject = draw(seed, number)
    note = scratch / "case.json"

    def make() -> None:
        case = make_case(seed, number, models, folder)
        note.write_text(json.dumps([case.args, case.damage]))

    ran = in_child(make, folder, scratch)
    if ran.status:
        raise RuntimeError(f"case {number} cannot be made:\n{ran.err.decode(errors='replace')}")
    args, done = json.loads(note.read_text())
    return Case(number, subject, args, [(kind, said) for kind, said in done])


def _remove(folder: Path) -> None:
    if folder.exists():
        for path in folder.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
        shutil.rmtree(folder)


def run_numbers(seed: int, numbers: Iterable[int], models: Path, scratch: Path) -> Iterator[Outcome]:
    """The outcomes of the cases, those that need torch last."""
    light, heavy = [], []
    for number in numbers:
        (heavy if draw(seed, number)[1].heavy else light).append(number)
    for group, needs_torch in ((light, False), (heavy, True)):
        if group:
            preload(heavy=needs_torch)
        base = in_child(lambda: None, scratch, scratch).memory
        for number in group:
            yield run_case(seed, number, models, scratch, base)


def build_all(models: Path, scratch: Path) -> None:
    """Write the healthy inputs, each in a child of its own."""
    for subject in SUBJECTS:
        ran = in_child(partial(healthy, subject, models), models, scratch)
        if ran.status:
            raise RuntimeError(f"{subject.name}: {ran.err.decode(errors='replace')}")


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
        _remove_all(folder)
        if failed:
            raise RuntimeError("a process of the fuzz run has failed; see above")
    return sorted(found, key=lambda outcome: outcome.number)


def _remove_all(folder: Path) -> None:
    for case in folder.glob("job*/case"):
        _remove(case)


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


def say(case: Case) -> str:
    import shlex

    return subprocess.list2cmdline(["relabel"]) + " " + shlex.join(case.args)
