from __future__ import annotations

import os
import pty
import select
import subprocess
import sys

import pytest

from relabel.workspace import progress as module
from relabel.workspace.progress import message, progress

CODE = (
    "from relabel.workspace.progress import progress, message\n"
    "with progress('Training fine', total=4) as bar:\n"
    "    for i in range(4):\n"
    "        bar.update(1, loss=0.5)\n"
    "        message('note [bold]') if i == 1 else None\n"
)


def test_plain_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with progress("Training fine", total=1200, initial=100) as bar:
        for _ in range(20):
            now[0] += 1
            bar.update(10, loss=0.3)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "Training fine: 200/1200 (16%), 10.0 it/s, ETA 1:40, loss 0.3",
        "Training fine: 300/1200 (25%), 10.0 it/s, ETA 1:30, loss 0.3",
        "Training fine: 300/1200 (25%), 10.0 it/s, took 0:20, loss 0.3",
    ]


def test_a_rate_of_its_own_and_unknown_total(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.time, "monotonic", lambda: 0.0)
    with pytest.raises(RuntimeError), progress("Reading", rate_unit="images") as bar:
        bar.update(3, rate=0.25)
        raise RuntimeError
    assert capsys.readouterr().err == "Reading: 3, 4.0 s/images, stopped\n"


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("Reading", total=3, quiet=True) as bar:
        bar.update(3)
        message("hidden", quiet=True)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("no_color", [False, True])
def test_bars_on_a_terminal(no_color: bool) -> None:
    main, side = pty.openpty()
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM")}
    env |= {"TERM": "xterm", "COLUMNS": "100"} | ({"NO_COLOR": "1"} if no_color else {})
    process = subprocess.Popen([sys.executable, "-c", CODE], stderr=side, env=env)
    process.wait(60)
    os.close(side)
    text = ""
    while select.select([main], [], [], 0.1)[0]:
        try:
            text += os.read(main, 65536).decode()
        except OSError:
            break
    os.close(main)
    assert process.returncode == 0
    assert "4/4" in text and "loss 0.5" in text and "note [bold]" in text
    assert ("\x1b[32m" in text) is not no_color


def test_rich_is_not_imported_off_a_terminal() -> None:
    code = CODE + "import sys; sys.exit('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0
    assert "note [bold]" in done.stderr.splitlines()
