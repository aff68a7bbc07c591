"""By which command, when and with what a report was made."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from relabel import process
from relabel.cli import main
from relabel.reports.made import Made, made_now
from relabel.workspace.pipeline import Pipeline
from relabel.workspace.stage import Stage


def test_the_command_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_arguments", None)
    monkeypatch.setattr(sys, "argv", ["/bin/relabel", "align", "--target", "two words", "$(x)"])
    made = made_now({"specialist": 61.4, "LAT": 0.2})
    assert made.command == "relabel align --target 'two words' '$(x)'"
    assert made.took() == "1 min 2 s"
    # What `main` was called with counts.
    with pytest.raises(SystemExit):
        main(["doctor", "--no such"])
    assert made_now().command == "relabel doctor '--no such'"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", made.written)
    assert {"relabel", "python", "numpy", "torch"} <= made.versions.keys()
    assert Made("c", "w", "m", {}, {"a": 7262.0}).took() == "2 h 1 min"
    assert Made("c", "w", "m", {}).took() == ""


def test_seconds_of_the_stages_are_in_the_log(tmp_path: Path) -> None:
    job = Pipeline(tmp_path, log="job.log", quiet=True)
    assert job.seconds() == {}
    for name in ("one", "two"):
        job.add(Stage(name, tmp_path / name, settings={}, work=lambda stage: None))
    job.run()
    found = job.seconds()
    assert list(found) == ["one", "two"] and all(s >= 0 for s in found.values())
    lines = [
        {"stage": "one", "event": "done", "seconds": 5},
        {"stage": "gone", "event": "done", "seconds": 7},
    ]
    with (tmp_path / "job.log").open("a") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)
        stream.write('{"stage": "two", "secon')  # a kill
    # The last time counts, and only stages of the job.
    assert job.seconds() == {"one": 5.0, "two": found["two"]}
