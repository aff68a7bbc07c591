"""What a comparison decides: room, intervals, losing classes, too short a training."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from relabel.evaluation.resampling import Matches
from relabel.evaluation.tables import rich_table
from relabel.studies.downstream.intervals import Interval, interval_text
from relabel.studies.downstream.report import (
    arm_rows,
    arm_size_rows,
    interval_rows,
    json_result,
    markdown_report,
    shown_tables,
)
from relabel.studies.downstream.results import ArmResult, Comparison
from relabel.studies.downstream.verdicts import losing_classes, losing_rows, room_of, short_line

IMAGES = 200


def finding(images: Sequence[int], *, loose: bool = False) -> Matches:
    """One box in each of 200 images, found in some; boxes that are loose only up to IoU 0.7."""
    n = len(images)
    state = np.ones((n, 10), np.uint8)
    state[:, 5:] = not loose
    return Matches(
        image=np.array(images, np.int32),
        category=np.zeros(n, np.int32),
        score=np.linspace(1, 0.5, n),
        state=state,
        truths=np.ones((IMAGES, 1), np.int32),
    )


def arm(ap: float, images: Sequence[int], seeds: int = 2, **classes: float) -> ArmResult:
    sizes: Any = {"APs": None, "APm": ap / 2, "APl": ap + 0.1}
    metrics: Any = {"AP": ap, "AP50": ap, "AP75": ap, **sizes, "per_class": classes}
    by_seed: dict[int, Any] = dict.fromkeys(range(seeds), metrics)
    return ArmResult(
        by_seed,
        matches={seed: finding(images) for seed in range(seeds)},
    )


@pytest.fixture
def comparison() -> Comparison:
    """LAT finds 40 images more than the target alone; naive as many, though others."""
    return Comparison(
        {
            "target-only": arm(0.5, range(101), car=0.6, bus=0.40),
            "naive": arm(0.5, range(50, 151), car=0.5, bus=0.395),
            "lat": arm(0.7, range(141), car=0.62, bus=0.5),
            "oracle": arm(0.8, range(161), car=0.7, bus=0.6),
        },
        seeds=(0, 1),
        about={
            "target": "fine",
            "passes": {
                "target-only": {"union": 8.0, "target": 30.0, "sources": 0.0},
                "naive": {"union": 8.0, "target": 10.0, "sources": 7.25},
                "lat": {"union": 7.94, "target": 10.0, "sources": 7.0},
            },
        },
        command="x",
        hardware="y",
    )


def test_intervals_cover_and_exclude_zero_as_constructed(comparison: Comparison) -> None:
    gain = comparison.intervals("lat")
    assert gain is not None
    ap = gain["AP"]
    # Recalls of 0.505 and 0.705 reach 51 and 71 of the 101 levels.
    assert ap.mean == pytest.approx(20 / 101)
    # Paired: the 40 images that only LAT finds vary, 0.2 ± 1.96 * sqrt(0.2 * 0.8 / 200).
    assert ap.low == pytest.approx(0.2 - 0.055, abs=0.012)
    assert ap.high == pytest.approx(0.2 + 0.055, abs=0.012)
    assert ap.excludes_zero and ap.seeds == 2
    naive = comparison.intervals("naive")
    assert naive is not None
    assert naive["AP"].mean == pytest.approx(0, abs=1e-12)
    assert naive["AP"].low < -0.05 and naive["AP"].high > 0.05
    assert not naive["AP"].excludes_zero
    ahead = comparison.intervals("lat", "naive")
    assert ahead is not None and ahead["AP"].excludes_zero
    assert comparison.intervals("lat", "lat") is not None
    assert comparison.intervals("lat", "lat")["AP"].high == 0  # pyright: ignore


def test_a_difference_at_high_iou_alone_shows_in_its_metric(comparison: Comparison) -> None:
    loose = replace(comparison.arms["lat"], matches={0: finding(range(141), loose=True)})
    found = replace(comparison, arms={**comparison.arms, "lat": loose}).intervals("lat", "naive")
    assert found is not None
    assert found["AP50"].mean == pytest.approx(20 / 101)
    assert found["AP75"].mean == pytest.approx(-51 / 101)
    assert found["AP"].seeds == 1


def test_room_comes_first(comparison: Comparison) -> None:
    room = room_of(comparison)
    assert room is not None and room.decides
    assert room.gain == pytest.approx(0.3)
    assert room.text.startswith("Room: the true labels (oracle) bring +30.0 AP over target-only (")
    assert "95 % interval +" in room.text and "*" not in room.text
    assert next(iter(json_result(comparison))) == "room"
    text = markdown_report(comparison, date="2026-01-02")
    assert text.splitlines()[2] == f"**{room.text}**"
    assert shown_tables(comparison)[0][0] == room.text
    json.dumps(json_result(comparison), allow_nan=False)


def test_without_room_nothing_can_be_decided(comparison: Comparison) -> None:
    poor = {**comparison.arms, "oracle": arm(0.529, range(106))}
    room = room_of(replace(comparison, arms=poor))
    assert room is not None and not room.decides
    assert room.text.startswith("Nothing can be decided here: the true labels (oracle) bring +2.9")
    assert room.to_dict()["decides"] is False
    assert shown_tables(replace(comparison, arms=poor))[0][0] == room.text
    markdown = markdown_report(replace(comparison, arms=poor))
    assert markdown.splitlines()[2].startswith("**Nothing can be decided here")
    unbounded = {k: v for k, v in comparison.arms.items() if k != "oracle"}
    assert room_of(replace(comparison, arms=unbounded)) is None
    assert "room" not in json_result(replace(comparison, arms=unbounded))


def test_old_results_without_matches_have_no_intervals(comparison: Comparison) -> None:
    old = {name: replace(a, matches={}) for name, a in comparison.arms.items()}
    found = replace(comparison, arms=old)
    assert found.intervals("lat") is None
    assert "intervals" not in found.to_dict()
    assert "interval" not in markdown_report(found)
    room = room_of(found)
    assert room is not None and room.text.endswith("(mean of 2 seeds).")


def test_interval_table(comparison: Comparison) -> None:
    header, rows = interval_rows(comparison)
    assert header == ["arm", "to target-only", "lat minus it"]
    by_arm = {row[0]: row[1:] for row in rows}
    assert by_arm["target-only"][0] == by_arm["lat"][1] == "-"
    assert by_arm["lat"][0] == by_arm["target-only"][1]
    assert by_arm["lat"][0].startswith("+19.8 (+1") and by_arm["lat"][0].endswith(") *")
    assert by_arm["naive"][0].startswith("+0.0 (-") and by_arm["naive"][0].endswith(")")
    assert by_arm["oracle"][1].startswith("-9.9 (-1")
    without = {k: v for k, v in comparison.arms.items() if k != "lat"}
    assert interval_rows(replace(comparison, arms=without))[0] == ["arm", "to target-only"]
    assert interval_text(Interval(-0.02, -0.03, 0.0, 3)) == "-2.0 (-3.0 to +0.0)"
    content = comparison.to_dict()["intervals"]
    assert list(content["minus_target_only"]) == ["naive", "lat", "oracle"]
    assert list(content["lat_minus"]) == ["target-only", "naive", "oracle"]
    assert set(content["lat_minus"]["naive"]) == {"AP", "AP50", "AP75"}
    assert content["lat_minus"]["naive"]["AP"]["excludes_zero"] is True


def test_losing_classes_are_named(comparison: Comparison) -> None:
    losing = losing_classes(comparison)
    assert losing == {"naive": {"car": pytest.approx(-0.1)}, "lat": {}, "oracle": {}}
    assert losing_rows(comparison) == [["naive", "car -10.0"], ["lat", "none"], ["oracle", "none"]]
    text = markdown_report(comparison)
    assert "- naive: car -10.0\n- lat: none\n" in text


def test_sizes_have_a_table(comparison: Comparison) -> None:
    header, rows = arm_size_rows(comparison, brief=True)
    assert header == ["size", "target-only", "naive", "lat", "oracle"]
    assert rows[0] == ["small", "-", "-", "-", "-"]
    assert rows[1] == ["medium", "25.0", "+0.0", "+10.0", "+15.0"]
    assert rows[2] == ["large", "60.0", "+0.0", "+20.0", "+30.0"]
    assert "## Sizes" in markdown_report(comparison)
    assert comparison.to_dict()["arms"]["lat"]["APm"] == [0.35, 0.35]


def test_passes_are_told_and_too_few_warned_of(comparison: Comparison) -> None:
    header, rows = arm_rows(comparison)
    assert header[-2:] == ["passes", "of sources"]
    assert {row[0]: row[-2:] for row in rows} == {
        "target-only": ["8.0", "0.0"],
        "naive": ["8.0", "7.2"],
        "lat": ["7.9", "7.0"],
        "oracle": ["-", "-"],
    }
    line = short_line(comparison)
    assert line is not None and line.startswith("Too short: lat made fewer than 8 passes")
    assert line in "".join(title for title, _ in shown_tables(comparison))
    assert f"**{line}**" in markdown_report(comparison)
    assert json_result(comparison)["too_short"] == {"lat": 7.94}
    enough = {name: {"union": 8.0} for name in comparison.arms}
    assert short_line(replace(comparison, about={"passes": enough})) is None


def test_tables_fit_a_terminal(comparison: Comparison) -> None:
    text = io.StringIO()
    console = Console(file=text, width=80)
    for title, table in shown_tables(comparison):
        console.print(rich_table(table, title))
    lines = text.getvalue().splitlines()
    assert any("lat minus it" in line for line in lines)
    # Neither are intervals folded, nor tables of few classes and many arms.
    tables = dict(shown_tables(comparison))
    assert tables["AP per class in percent: differences to target-only"] == (
        ["arm", "car", "bus"],
        [
            ["target-only", "60.0", "40.0"],
            ["naive", "-10.0", "-0.5"],
            ["lat", "+2.0", "+10.0"],
            ["oracle", "+10.0", "+20.0"],
        ],
    )
    assert any(line.count("+19.8 (+") == 1 and "*" in line for line in lines)
