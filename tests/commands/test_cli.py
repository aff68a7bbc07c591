"""The root of the command line: help, errors, exit statuses, options from settings."""

from __future__ import annotations

import importlib
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import relabel.cli
from relabel.cli import main
from relabel.errors import ConfigError, DataError
from relabel.settings import setting, settings_from

HEAVY = {"torch", "transformers", "fiftyone", "pandas", "pyarrow", "numpy"}


def _fails(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(args))
    return int(ended.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize(
    "args", [["--help"], ["align", "--help"], ["train-specialist", "--help"], ["--version"]]
)
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    code = (
        "import sys, relabel.cli\n"
        "try: relabel.cli.main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"sys.exit(', '.join({HEAVY!r} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "relabel" in done.stdout


@pytest.mark.parametrize("args", [["--help"], ["align", "--help"]])
def test_help_takes_little_more_than_the_interpreter(args: list[str]) -> None:
    """Processor time, so that a busy machine does not count; 0.2 s is the promise."""

    def seconds(command: list[str]) -> float:
        before = os.times()
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        return (after.children_user - before.children_user) + (
            after.children_system - before.children_system
        )

    assert statistics.median(seconds(["-m", "relabel", *args]) for _ in range(5)) < 0.2


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


@dataclass(frozen=True)
class Example:
    """Settings of every kind."""

    epochs: float = setting(12.0, "Passes.")
    layers: int = setting(2, "Layers.")
    flip: bool = setting(True, "Mirror.")
    mode: str = setting("a", "Mode.", choices=("a", "b"))
    scales: tuple[float, ...] = setting((0.5, 2.0), "Scales.")
    batch: int | str = setting("auto", "Batch.")
    seed: int = setting(0, "Seed.")


def _parse(args: list[str], table: dict[str, object]) -> Example:
    options = importlib.import_module("relabel.commands._options")
    made: list[Example] = []

    @click.command()
    @options.settings_options(Example, "ex", heading="Example")
    def command(**params: object) -> None:
        made.append(options.settings_of(Example, params, "ex", table=table, seed=7))

    result = CliRunner().invoke(command, args, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return made[0]


def test_options_win_over_the_file_and_the_file_over_defaults() -> None:
    assert _parse([], {}) == Example(seed=7)
    args = ["--ex-epochs", "3", "--no-ex-flip", "--ex-scales", "1,1.5", "--ex-batch", "4"]
    made = _parse(args, {"epochs": 5, "layers": 4})
    assert made == Example(3.0, 4, False, "a", (1.0, 1.5), "4", 7)


def test_settings_of_the_wrong_kind() -> None:
    for table, expected in (
        ({"epocs": 3}, "unknown setting 'epocs'.*Did you mean 'epochs'"),
        ({"epochs": "ten"}, "'epochs' in .* must be a number, not 'ten'"),
        ({"layers": 2.5}, "must be a whole number"),
        ({"layers": True}, "must be a whole number"),
        ({"flip": 1}, "must be true or false"),
        ({"mode": "c"}, "cannot be 'c'"),
        ({"scales": 3}, "must be a list"),
        ({"batch": [1]}, "a whole number or a text"),
    ):
        with pytest.raises(ConfigError, match=expected):
            settings_from(Example, table, where="[example]")
    assert settings_from(Example, {"epochs": 3}, where="x").epochs == 3.0
    with pytest.raises(click.BadParameter):
        _parse(["--ex-mode", "c"], {})
