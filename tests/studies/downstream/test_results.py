"""Gathering, pairing and writing the results of a comparison."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relabel.errors import ConfigError, DataError
from relabel.evaluation.tables import percentage
from relabel.studies.downstream.outputs import write_outputs
from relabel.studies.downstream.page import write_downstream_report
from relabel.studies.downstream.report import (
    arm_class_rows,
    arm_rows,
    json_result,
    markdown_report,
    shown_tables,
)
from relabel.studies.downstream.results import BASE, LOG, Comparison, gather, training_name
from relabel.studies.means import Mean, mean_percentage


def put(folder: Path, arm: str, seed: int, ap: float | None, **classes: float | None) -> None:
    """Metrics and a curve of one training; AP50 is AP + 0.2 and AP75 is AP - 0.01."""
    place = folder / "training" / arm / f"seed{seed}"
    place.mkdir(parents=True)
    numbers: dict[str, Any] = {
        "AP": ap,
        "AP50": None if ap is None else ap + 0.2,
        "AP75": None if ap is None else ap - 0.01,
    }
    (place / "metrics.json").write_text(json.dumps({**numbers, "per_class": classes}))
    half = {k: None if v is None else v / 2 for k, v in numbers.items()}
    points = [{"step": 200, **numbers}, {"step": 100, **half}]
    (place / "curve.json").write_text(json.dumps(points))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put(tmp_path, "target-only", 0, 0.20, car=0.30, bus=0.10, tram=None)
    put(tmp_path, "target-only", 1, 0.22, car=0.32, bus=0.12, tram=None)
    put(tmp_path, "target-only", 2, 0.30, car=0.40, bus=0.20, tram=None)
    put(tmp_path, "lat", 0, 0.24, car=0.29, bus=0.19, tram=None)
    put(tmp_path, "lat", 1, 0.25, car=0.32, bus=0.18, tram=None)
    put(tmp_path, "oracle", 0, 0.25, car=0.33, bus=0.17, tram=None)
    put(tmp_path, "oracle", 1, 0.27, car=0.33, bus=0.21, tram=None)
    put(tmp_path, "oracle", 2, 0.50, car=0.60, bus=0.40, tram=None)
    return tmp_path


ARMS = ["target-only", "lat", "oracle", "sam3", "naive"]


@pytest.fixture
def comparison(folder: Path) -> Comparison:
    found = gather(
        folder,
        ARMS,
        [0, 1, 2],
        not_run={"sam3": "its weights are not here"},
        about={"target": "fine", "sources": ["coarse"], "steps": 200},
    )
    return replace(
        found,
        command="relabel evaluate downstream --target fine",
        hardware="a small machine",
    )


def test_json_has_the_interface(comparison: Comparison) -> None:
    content = comparison.to_dict()
    assert list(content["arms"]) == ["target-only", "lat", "oracle"]
    assert content["arms"]["target-only"] == {
        "AP": [0.20, 0.22, 0.30],
        "AP50": pytest.approx([0.40, 0.42, 0.50]),
        "AP75": pytest.approx([0.19, 0.21, 0.29]),
        "per_class": {
            "car": [0.30, 0.32, 0.40],
            "bus": [0.10, 0.12, 0.20],
            "tram": [None, None, None],
        },
    }
    assert content["not_run"] == {
        "sam3": "its weights are not here",
        "naive": "no training of it is finished",
    }
    assert content["seeds"] == [0, 1, 2]
    assert content["missing_seeds"] == {"lat": [2]}
    assert content["arms"]["lat"]["AP"] == [0.24, 0.25]
    assert (content["target"], content["steps"]) == ("fine", 200)
    assert content["share_of_oracle_gain"] == {"lat": pytest.approx(0.7)}
    json.dumps(content, allow_nan=False)


def test_differences_are_paired_by_seed(comparison: Comparison) -> None:
    # Unpaired, LAT's mean 24.5 would be above 24.0 by only 0.5.
    assert comparison.paired("lat") == {0: pytest.approx(0.04), 1: pytest.approx(0.03)}
    found = comparison.difference("lat")
    assert found is not None
    assert (found.mean, found.count) == (pytest.approx(0.035), 2)
    assert found.std == pytest.approx(0.01 / math.sqrt(2))
    mean = comparison.mean("target-only")
    assert mean is not None
    # Deviations -4, -2, +6 points of the mean 24: sqrt(56 / 2).
    assert (mean.mean, mean.std) == (pytest.approx(0.24), pytest.approx(math.sqrt(28) / 100))
    bus = comparison.difference("lat", category="bus")
    assert bus is not None
    assert bus.mean == pytest.approx(0.075)
    assert comparison.difference("lat", category="tram") is None


def test_curves_go_by_step_and_classes_are_those_of_any_seed(folder: Path) -> None:
    put(folder, "pseudo", 0, 0.1, car=0.2)
    put(folder, "pseudo", 1, 0.3, car=0.4, van=0.5)
    arm = gather(folder, ["pseudo"], [0, 1]).arms["pseudo"]
    assert [(p["step"], p["AP"]) for p in arm.curves[1]] == [(100, 0.15), (200, 0.3)]
    assert arm.to_dict()["per_class"] == {"car": [0.2, 0.4], "van": [None, 0.5]}


def test_json_without_the_base_arm_or_with_more_about_it(folder: Path) -> None:
    comparison = gather(folder, ["lat", "oracle"], [0, 1], about={"seeds": "other", "steps": 5})
    content = comparison.to_dict()
    assert "share_of_oracle_gain" not in content
    assert (content["seeds"], content["steps"]) == ([0, 1], 5)


def test_share_of_gain(comparison: Comparison) -> None:
    share = comparison.share_of_gain("lat")
    # Seeds 0 and 1 only: (4 + 3) / (5 + 5).
    assert share == pytest.approx(0.7)
    useless = {**comparison.arms, "oracle": comparison.arms["target-only"]}
    assert replace(comparison, arms=useless).share_of_gain("lat") is None
    with pytest.raises(ConfigError, match="'sam3' has no results"):
        comparison.share_of_gain("sam3")


def test_tables(comparison: Comparison) -> None:
    header, rows = arm_rows(comparison)
    assert header[:5] == ["arm", "seeds", "AP", "AP50", "AP75"]
    assert header[5:] == ["AP change", "AP50 change", "AP75 change", "of the oracle's gain"]
    by_arm = {row[0]: row[1:] for row in rows}
    assert by_arm["target-only"][:5] == ["3", "24.0 ± 5.3", "44.0 ± 5.3", "23.0 ± 5.3", "-"]
    assert by_arm["lat"] == [
        *("2", "24.5 ± 0.7", "44.5 ± 0.7", "23.5 ± 0.7"),
        *("+3.5 ± 0.7", "+3.5 ± 0.7", "+3.5 ± 0.7", "70 %"),
    ]
    assert by_arm["sam3"] == ["not run", *["-"] * 7]
    assert arm_class_rows(comparison) == (
        ["class", "target-only", "lat", "oracle"],
        [
            ["car", "34.0 ± 5.3", "-0.5 ± 0.7", "+8.0 ± 10.4"],
            ["bus", "14.0 ± 5.3", "+7.5 ± 2.1", "+12.0 ± 7.0"],
            ["tram", "-", "-", "-"],
        ],
    )
    assert [title for title, _ in shown_tables(comparison)] == [
        "Room: the true labels (oracle) bring +10.0 AP over target-only (mean of 3 seeds).",
        "Test AP in percent, mean ± standard deviation over 3 seeds; change: to target-only; "
        "share: of the oracle's gain",
        "AP per class in percent: differences to target-only",
        "Classes that lose more than 1 AP to target-only",
        "Not run",
    ]


def test_brief_tables_fit_a_terminal(comparison: Comparison, folder: Path) -> None:
    header, rows = arm_rows(comparison, brief=True)
    assert header == ["arm", "seeds", "AP", "AP50", "AP75", "change", "share"]
    assert rows[1] == ["lat", "2", "24.5 ± 0.7", "44.5 ± 0.7", "23.5 ± 0.7", "+3.5 ± 0.7", "70 %"]
    assert arm_class_rows(comparison, brief=True)[1][1] == ["bus", "14.0", "+7.5", "+12.0"]
    whole = gather(folder, ["target-only", "lat"], [0, 1])
    assert arm_rows(whole, brief=True)[0] == ["arm", "AP", "AP50", "AP75", "change"]


def test_without_the_base_arm_there_are_no_differences(folder: Path) -> None:
    comparison = gather(folder, ["lat"], [0])
    assert arm_rows(comparison) == (
        ["arm", "seeds", "AP", "AP50", "AP75"],
        [["lat", "1", "24.0", "44.0", "23.0"]],
    )
    assert arm_class_rows(comparison)[0] == ["class", "lat"]
    assert "share_of_oracle_gain" not in comparison.to_dict()
    nothing = gather(folder, ["naive"], [0])
    assert [title for title, _ in shown_tables(nothing)] == ["Not run"]


def test_percent() -> None:
    assert percentage(-0.0003, signed=True) == "+0.0"
    assert percentage(-0.0107, signed=True) == "-1.1"
    assert mean_percentage(Mean(0.2, 0.0123, 3)) == "20.0 ± 1.2"
    assert percentage(None) == mean_percentage(None) == "-"


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("metrics.json", '{"AP": 0.2', "damaged"),
        ("metrics.json", '{"AP": 0.2, "AP50": 0.4, "per_class": {}}', "missing.*AP75"),
        ("metrics.json", '{"AP": 0.2, "AP50": 0.4, "AP75": 0.1}', "missing.*per_class"),
        ("metrics.json", '{"AP": 20, "AP50": 40, "AP75": 10, "per_class": {}}', r"<= 1.*\.AP`"),
        ("metrics.json", '{"AP": true, "AP50": 1, "AP75": 0, "per_class": {}}', r"bool.*\.AP`"),
        ("metrics.json", '{"AP": 1, "AP50": 1, "AP75": 0, "per_class": {"a": -1}}', ">= 0"),
        ("metrics.json", "[]", "object"),
        ("curve.json", '[{"AP": 0.2}]', "missing.*step"),
        ("curve.json", '[{"step": 0.5, "AP": 0, "AP50": 0, "AP75": 0}]', "int.*step"),
    ],
)
def test_damaged_results_are_named(folder: Path, file: str, text: str, says: str) -> None:
    path = folder / "training" / "lat" / "seed1" / file
    path.write_text(text)
    with pytest.raises(DataError, match=says) as caught:
        gather(folder, ARMS, [0, 1])
    assert caught.value.file == str(path)


def test_markdown(comparison: Comparison) -> None:
    text = markdown_report(comparison, date="2026-01-02")
    assert text.startswith("# Downstream comparison on `fine`\n")
    assert "```\nrelabel evaluate downstream --target fine\n```" in text
    assert "- Date: 2026-01-02\n- Hardware: a small machine\n- Target: fine\n" in text
    assert "- Iterations: 200\n- Seeds: 0, 1, 2\n" in text
    assert "| lat | 2 | 24.5 ± 0.7 |" in text
    assert "Not finished: seed 2 of lat." in text
    assert "- sam3: its weights are not here\n- naive: no training of it is finished\n" in text


def test_write_outputs(comparison: Comparison, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_outputs(out, comparison)
    plots = [f"{n}.{k}" for n in ("arms", "classes", "curves") for k in ("png", "svg")]
    assert sorted(f.name for f in out.iterdir()) == sorted(
        [*plots, "downstream.json", "downstream.md", "report.html"]
    )
    assert json.loads((out / "downstream.json").read_text()) == json_result(comparison)
    assert "Time by stage" not in (out / "report.html").read_text()


def test_the_report_says_what_trainings_took(comparison: Comparison, tmp_path: Path) -> None:
    lines = [
        {"stage": training_name("lat", 0), "event": "done", "seconds": 61.4},
        {"stage": training_name("of another run", 0), "event": "done", "seconds": 7},
    ]
    (tmp_path / LOG).write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_outputs(tmp_path, comparison)
    page = (tmp_path / "report.html").read_text()
    assert "training lat, seed 0</th>" in page and "1 min 1 s" in page
    assert "another run" not in page


def test_the_report_says_that_nothing_is_missing(comparison: Comparison, tmp_path: Path) -> None:
    # Beside a warning that nothing can be decided, "nothing" alone would be read as its end.
    arms = {BASE: comparison.arms[BASE]}
    page = write_downstream_report(tmp_path / "a.html", replace(comparison, arms=arms, not_run={}))
    assert "<p>Every arm asked for has results.</p>" in page.read_text()
