"""The root of the command line: help, errors, exit statuses, options from settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

import relabel.cli
from relabel.cli import main
from relabel.errors import DataError

# What help may import beside the standard library: it answers in 0.2 s of an idle machine, of
# which a bare interpreter takes a fifth.
LIGHT = {"click", "msgspec", "relabel", "typing_extensions"}


def _fails(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(args))
    return int(ended.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize(
    "args",
    [["--help"], ["align", "--help"], ["train-specialist", "--help"], ["settings"], ["--version"]],
)
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    code = (
        "import sys; bare = set(sys.modules)\n"
        "import relabel.cli\n"
        "try: relabel.cli.main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "new = set(sys.modules) - bare\n"
        f"heavy = {{name.split('.')[0] for name in new}} - sys.stdlib_module_names - {LIGHT!r}\n"
        "sys.exit(', '.join(heavy) or (f'{len(new)} modules' if len(new) > 150 else 0))"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("[lat]" if args == ["settings"] else "relabel") in done.stdout


def test_unknown_command_names_near_ones(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = _fails(capsys, "alin")
    assert status == 2
    assert "Did you mean 'align'?" in text and "doctor" in text


def test_wrong_usage_is_two(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = _fails(capsys, "align", "--target", "fine")
    assert status == 2 and "--sources" in text
    status, text = _fails(capsys, "align", "--targat", "fine")
    assert status == 2 and "--target" in text


def _raise(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def command() -> None:
        raise error

    monkeypatch.setattr(relabel.cli.LazyGroup, "get_command", lambda *_: command)


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (
            DataError("bbox has a NaN", file="a.json", record="annotation 3", remedy="Fix it."),
            1,
            "relabel: error: a.json, annotation 3: bbox has a NaN. Fix it.\n",
        ),
        (FileNotFoundError(2, "No such file", "x.json"), 1, "error: x.json: No such file\n"),
        (OSError(28, "No space left on device", "out.json"), 1, "out.json: the disk is full"),
        (RuntimeError("No space left on device (os error 28)"), 1, "the disk is full"),
        (MemoryError(), 1, "out of memory"),
        (KeyError("x"), 1, "unexpected KeyError: 'x' (--debug shows where)\n"),
        (KeyboardInterrupt(), 130, "relabel: interrupted; the same command resumes\n"),
    ],
)
def test_errors_are_one_line(
    error: BaseException,
    status: int,
    expected: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _raise(error, monkeypatch)
    found, text = _fails(capsys, "doctor")
    assert found == status
    assert expected in text and text.strip().count("\n") == 0


def test_debug_shows_the_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _raise(DataError("bad"), monkeypatch)
    _, text = _fails(capsys, "--debug", "doctor")
    assert "Traceback" in text and text.endswith("relabel: error: bad\n")


def test_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    command = f"{sys.executable} -m relabel align --help | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert "Traceback" not in done.stderr


def test_shell_completion_knows_the_commands() -> None:
    env = os.environ | {
        "_RELABEL_COMPLETE": "bash_complete",
        "COMP_WORDS": "relabel al",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "relabel"], env=env, capture_output=True, text=True
    )
    assert done.stdout.strip() == "plain,align"


def test_every_listed_command_has_a_module() -> None:
    folder = Path(relabel.cli.__file__).parent.parent / "commands"
    if not folder.is_dir():
        pytest.skip("relabel is not installed from a checkout")
    for name in relabel.cli.COMMANDS:
        assert (folder / f"{name.replace('-', '_')}.py").is_file(), name
