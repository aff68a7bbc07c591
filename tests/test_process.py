"""Signals and standard streams of the program, in processes of its own."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LINE = "relabel: interrupted; the same command resumes\n"
# The first line comes before anything of relabel is imported, so that Python's own start, which
# nobody can guard, is not what is interrupted.
PROGRAM = (
    "import sys; sys.argv[0] = 'relabel'; sys.stdout.write('up\\n'); sys.stdout.flush()\n"
    "from relabel.cli import main\n"
    "main()"
)
# A command in whose body is what `%s` says.
COMMAND = (
    "import sys, time; sys.argv[0] = 'relabel'\n"
    "import click, relabel.cli\n"
    "from pathlib import Path\n"
    "from relabel.workspace.atomic import atomic_path\n"
    "@click.command()\n"
    "def command():\n"
    "    %s\n"
    "relabel.cli.LazyGroup.get_command = lambda *_: command\n"
    "relabel.cli.main(['doctor'])\n"
)


def start(code: str, *args: object, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def command(body: str) -> str:
    return COMMAND % body.replace("\n", "\n    ")


def test_ctrl_c_at_any_moment_is_one_line(coco_set) -> None:
    draw = random.Random(0)
    root = coco_set("a", ["car"])
    seen = set()
    for i in range(10):
        process = start(PROGRAM, "datasets", "validate", root, "--format", "coco", "--quiet")
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        if i == 0:
            began = time.monotonic()
            assert process.communicate(timeout=180)[1] == ""
            whole = time.monotonic() - began
            continue
        # The first few while little is imported.
        time.sleep(0.01 + draw.random() * (0.03 if i < 4 else whole))
        process.send_signal(signal.SIGINT)
        if i % 2:
            time.sleep(0.01)
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=180)
        seen.add(process.returncode)
        assert (process.returncode, errors) in ((130, LINE), (0, ""))
    assert 130 in seen


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_ending_signal_cleans_up(tmp_path: Path, how: signal.Signals) -> None:
    body = (
        f"with atomic_path('{tmp_path}/x.json') as temp:\n"
        "    temp.write_text('half')\n"
        "    print('up', flush=True)\n"
        "    time.sleep(60)"
    )
    # Under nohup it would inherit that SIGHUP is ignored.
    usual = "default_int_handler" if how == signal.SIGINT else "SIG_DFL"
    fresh = f"import signal; signal.signal({int(how)}, signal.{usual})\n"
    process = start(fresh + command(body))
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    assert [p.name[:5] for p in tmp_path.iterdir()] == [".tmp-"]
    process.send_signal(how)
    _, errors = process.communicate(timeout=180)
    assert (process.returncode, errors) == (130, LINE)
    assert list(tmp_path.iterdir()) == []


def test_ignored_signals_stay_ignored() -> None:
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + command(
        "print('up', flush=True); time.sleep(0.5); print('done')"
    )
    process = start(code)
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGHUP)
    out, errors = process.communicate(timeout=180)
    assert (process.returncode, out, errors) == (0, "done\n", "")


@pytest.mark.parametrize(
    "body",
    [
        # A callback that swallows it: it comes again.
        "import signal\n"
        "class Gone:\n"
        "    def __del__(self): signal.raise_signal(signal.SIGINT); time.sleep(0.01)\n"
        "gone = Gone()\n"
        "del gone\n"
        "for _ in range(200): time.sleep(0.1)",
        # A library that makes another error of it.
        "import signal\n"
        "try: signal.raise_signal(signal.SIGINT); time.sleep(1)\n"
        "except KeyboardInterrupt: raise ImportError('numpy is broken')",
        # A second one while the first is cleaned up.
        "import signal\n"
        "try: signal.raise_signal(signal.SIGINT); time.sleep(1)\n"
        "finally: signal.raise_signal(signal.SIGINT); time.sleep(0.1)",
        # Threads that would be waited for at the end of Python.
        "import signal, threading\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "signal.raise_signal(signal.SIGTERM); time.sleep(1)",
    ],
)
def test_interrupts_that_get_lost_elsewhere(body: str) -> None:
    process = start(command(body))
    _, errors = process.communicate(timeout=180)
    assert (process.returncode, errors) == (130, LINE)


FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")


def shell(line: str, *args: object) -> tuple[int, str]:
    """Status and stderr of a line of bash in which $0 is relabel, $1 and so on the arguments."""
    script = f'set -o pipefail; relabel() {{ {sys.executable} -m relabel "$@"; }}; {line}'
    done = subprocess.run(
        ["bash", "-c", script, "-", *map(str, args)], capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("end", ["| head -c 0", ">&-", "<&- >&-", "2>&-", "2>/dev/full"])
def test_closed_streams_are_no_failure(coco_set, tmp_path: Path, end: str) -> None:
    root = coco_set("a", ["car"])
    describe = f'relabel datasets describe "$1" --format coco {end}'
    assert shell(describe, root) == (0, "")
    convert = f'relabel datasets convert "$1" --format coco --to coco --out "$2" {end}'
    status, errors = shell(convert, root, tmp_path / "o.json")
    assert status == 0 and "Traceback" not in errors
    data = (tmp_path / "o.json").read_bytes()
    assert data.startswith(b"{") and data.endswith(b"}\n")


@needs_full
def test_a_product_that_cannot_be_written_is_a_failure(coco_set) -> None:
    root = coco_set("a", ["car"])
    line = "relabel: error: standard output cannot be written: No space left on device\n"
    for option in ("", "--json"):
        text = f'relabel datasets describe "$1" --format coco {option} > /dev/full'
        assert shell(text, root) == (1, line)
    assert shell("relabel --version > /dev/full") == (1, line)


@needs_full
def test_work_that_is_in_files_is_done_though_nobody_can_be_told() -> None:
    body = "from relabel.commands._results import kept\nkept('out/checkpoint')"
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", command(body)], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 0
    assert done.stderr.startswith("relabel: warning: standard output cannot be written")


def test_a_file_opened_with_closed_streams_is_not_printed_into(tmp_path: Path) -> None:
    body = (
        f"stream = open('{tmp_path}/data', 'wb')\nimport os; os.write(1, b'x'); os.write(2, b'x')"
    )
    line = f'{sys.executable} -c "$1" <&- >&- 2>&-'
    done = subprocess.run(["bash", "-c", line, "-", command(body)], timeout=180)
    assert done.returncode == 0
    assert (tmp_path / "data").read_bytes() == b""


def test_another_program_gets_its_streams_and_handlers_back() -> None:
    code = (
        "import signal, sys\n"
        "before = signal.getsignal(signal.SIGTERM), sys.stdout, sys.stderr\n"
        "from relabel.cli import main\n"
        "try: main(['--version'])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert before == (signal.getsignal(signal.SIGTERM), sys.stdout, sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_names_that_an_encoding_lacks_are_no_error(coco_set, encoding: str) -> None:
    root = coco_set("a", ["é 車"])
    env = os.environ | {"PYTHONIOENCODING": encoding, "LANG": "C", "LC_ALL": "C"}
    for args in (["describe"], ["describe", "--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "relabel", "datasets", *args, str(root), "--format", "coco"],
            capture_output=True,
            env=env,
        )
        assert (done.returncode, b"rror" in done.stderr) == (0, False), done.stderr
