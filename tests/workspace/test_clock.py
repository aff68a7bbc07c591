"""Where the time of a stage goes, and what a report reads of it."""

from __future__ import annotations

import json
from pathlib import Path

from relabel.workspace.clock import TIMES, Clock, record, recorded_seconds


def test_the_last_run_of_a_stage_counts(tmp_path: Path) -> None:
    assert recorded_seconds(tmp_path) == {}
    clock = Clock()
    record(tmp_path, "regions", clock)  # without an image nothing was done
    assert recorded_seconds(tmp_path) == {}
    clock.images = 3
    record(tmp_path, "regions", clock)
    record(tmp_path, "labels", clock)
    runs = json.loads((tmp_path / TIMES).read_text())
    runs[0]["wall"], runs[1]["wall"] = 5, 7.5
    runs += [{**runs[0], "wall": 2}, {"stage": "damaged", "wall": "long"}, "nothing"]
    (tmp_path / TIMES).write_text(json.dumps(runs))
    assert recorded_seconds(tmp_path) == {"regions": 2.0, "labels": 7.5}
    for text in ("{", "{}"):
        (tmp_path / TIMES).write_text(text)
        assert recorded_seconds(tmp_path) == {}
