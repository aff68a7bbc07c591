"""`benchmarks/gpu.py` on the CPU: every section has figures, is kept, and falls alone."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.on_gpu import SECTIONS

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
# What is measured may be none: no test runs without a GPU, and arithmetic may be exact.
MAY_BE_ZERO = {"passed", "share of other pixels after refinement"}
KEYS = {"size", "source", "commit", "card", "machine", "command", "date", "sections"}
BREAKING = """
import os, sys

class Breaking:
    def find_spec(self, name, path=None, target=None):
        if name == "relabel.crosslabel.label":
            raise RuntimeError("broken on purpose")
        if name == "relabel.multilabel.regions.stage":
            raise ModuleNotFoundError("no such thing", name="scipyx.ndimage")
        if name == "relabel.lat.train":
            os.kill(os.getpid(), 9)

sys.meta_path.insert(0, Breaking())
"""


def run(*arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--size", "cpu", *map(str, arguments)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | more
    environment |= {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("gpu")
    file, out = folder / "gpu.json", folder / "gpu.md"
    ended = run("--json", file, "--out", out, "--limit-s", "900")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == out.read_text().strip()
    return file, out


@pytest.mark.slow
def test_every_section_has_figures(first: tuple[Path, Path]) -> None:
    file, out = first
    result = json.loads(file.read_text())
    assert set(result) == KEYS
    assert (result["size"], result["card"]) == ("cpu", None)
    assert list(result["sections"]) == list(SECTIONS)
    table = out.read_text()
    for name, row in result["sections"].items():
        assert row["state"] == "done", name
        assert row["seconds"] > 0 and row["peak_bytes"] > 1 << 20
        for figure, value in row["figures"].items():
            assert f"| {figure} |" in table
            if not isinstance(value, str):
                assert math.isfinite(value) and (value > 0 or figure in MAY_BE_ZERO), figure
        for told in row["aims"].values():
            assert set(told) == {"value", "wanted", "met"} and isinstance(told["met"], bool)
    assert "There are no figures of a GPU yet" in table
    labelling = result["sections"]["cross-label"]
    ratio = labelling["figures"]["cross-labelling against the forward pass"]
    aim = labelling["aims"]["cross-labelling against the forward pass"]
    assert aim == {"value": ratio, "wanted": "at least 0.9", "met": ratio >= 0.9}


@pytest.mark.slow
def test_a_second_call_measures_what_is_missing(first: tuple[Path, Path], tmp_path: Path) -> None:
    before = json.loads(first[0].read_text())
    del before["sections"]["cross-label"]
    before["sections"]["lat"] |= {"state": "failed"}
    file = tmp_path / "gpu.json"
    file.write_text(json.dumps(before))
    ended = run("--json", file, "--sections", "cross-label,maskcut,tests")
    assert ended.returncode == 1  # lat is missing
    after = json.loads(file.read_text())["sections"]
    assert set(after) == set(SECTIONS) - {"lat"}
    assert after.pop("cross-label")["state"] == "done"
    assert all(row == before["sections"][name] for name, row in after.items())
    assert "maskcut: done before" in ended.stderr and "tests: done before" in ended.stderr


@pytest.mark.slow
def test_a_section_that_fails_is_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BREAKING)
    file = tmp_path / "gpu.json"
    wanted = "cross-label,maskcut,lat,tests"
    ended = run("--json", file, "--sections", wanted, PYTHONPATH=str(tmp_path))
    assert ended.returncode == 1
    found = json.loads(file.read_text())["sections"]
    assert found["cross-label"]["state"] == "failed"
    assert found["cross-label"]["error"][-1] == "RuntimeError: broken on purpose"
    assert any("labelling.py" in line for line in found["cross-label"]["error"])
    assert found["maskcut"]["state"] == "skipped"
    assert found["maskcut"]["why"] == "scipyx is not installed"
    assert found["lat"]["error"] == ["the process ended with status -9"]
    assert found["tests"]["state"] == "done"
    assert "RuntimeError: broken on purpose" in ended.stdout


def test_a_section_without_enough_time_is_left_for_the_next_call(tmp_path: Path) -> None:
    section = SECTIONS["maskcut"]
    row = gpu.measure(section, "gpu", tmp_path, section.least - 1)
    assert row["state"] == "left for the next call"
    assert (
        row["why"] == f"{section.least - 1:.0f} s were left, it takes {section.least:.0f} s or more"
    )


def test_a_section_that_hangs_is_stopped(tmp_path: Path) -> None:
    section = replace(SECTIONS["tests"], most=0.05, least=0)
    row = gpu.measure(section, "gpu", tmp_path, 100.0)
    assert (row["state"], row["error"]) == ("failed", ["stopped after 0 s"])


@pytest.mark.parametrize("key", ["size", "source", "card"])
def test_figures_of_another_source_card_or_size_are_not_kept(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "in_process", lambda *_: {"figures": {"card": "NVIDIA X"}})
    file = tmp_path / "gpu.json"
    result: dict[str, Any] = gpu.begin(file, "auto")
    assert (result["size"], result["card"]) == ("gpu", "NVIDIA X")
    result["sections"] = {"lat": {"state": "done"}, "maskcut": {"state": "failed"}}
    gpu.save(file, result)
    assert gpu.begin(file, "auto")["sections"] == {"lat": {"state": "done"}}
    gpu.save(file, result | {key: "another"})
    assert gpu.begin(file, "auto")["sections"] == {}
    assert "another source, card or size" in capsys.readouterr().err


def test_a_damaged_result_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "in_process", lambda *_: {})
    file = tmp_path / "gpu.json"
    for text in ("", "{", "[]", '{"size": "cpu"}', "\x00"):
        file.write_text(text)
        assert gpu.begin(file, "auto")["sections"] == {}
