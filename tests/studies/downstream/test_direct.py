"""Quality of labels beside that of detectors: measured, joined, correlated and drawn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relabel.datasets.formats.coco.write import write
from relabel.studies.downstream import plots
from relabel.studies.downstream.direct import (
    DIRECT,
    Point,
    correlation_rows,
    correlations,
    direct_quality,
    direct_rows,
    points_of,
    quality_rows,
)
from relabel.studies.downstream.report import json_result, markdown_report, shown_tables
from relabel.studies.downstream.results import ArmResult, Comparison
from tests.builders.blocks import World


def arm(ap: float) -> ArmResult:
    metrics: Any = {"AP": ap, "AP50": ap, "AP75": ap, "per_class": {}}
    return ArmResult({0: metrics})


def quality(value: float) -> dict[str, float | None]:
    return {key: 1 - value if key == "LRP error" else value for key in DIRECT}


@pytest.fixture
def comparison() -> Comparison:
    """Better labels make better detectors, but for the last arm's."""
    direct = {
        "naive": {"riders": quality(0.5), "heavy": quality(0.6)},
        "pseudo": {"riders": quality(0.7), "heavy": quality(0.7)},
        "lat": {"riders": quality(0.9), "heavy": quality(0.8)},
        "overlap": {"riders": quality(0.95)},
        "lgpl": {"riders": quality(0.9)},
    }
    aps = {"target-only": 0.2, "naive": 0.19, "pseudo": 0.22, "lat": 0.25, "overlap": 0.21}
    return Comparison(
        {name: arm(ap) for name, ap in aps.items()},
        {"lgpl": "not finished"},
        (0,),
        about={"direct": direct},
        command="x",
        hardware="y",
    )


def test_labels_are_measured_against_the_truth(world: World, tmp_path: Path) -> None:
    write(world.target, tmp_path / "truth.json")
    truth = {"one": tmp_path / "truth.json"}
    half = np.arange(len(world.target.boxes)) % 2 == 0
    some = world.target.with_boxes(world.target.boxes.take(np.flatnonzero(half)))
    labels = {"good": {"one": world.target}, "half": {"one": some, "two": some}, "none": {}}
    found = direct_quality(labels, truth)
    assert list(found) == ["good", "half"] and list(found["half"]) == ["one"]
    good, poor = found["good"]["one"], found["half"]["one"]
    for key in DIRECT:
        assert good[key] == pytest.approx(0 if key == "LRP error" else 1, abs=1e-6), key
    # Every label is right, and half of the objects have none.
    assert poor["F1@0.5"] == pytest.approx(2 * half.sum() / (half.sum() + len(half)))
    assert poor["mean IoU"] == pytest.approx(1)
    error, ap = poor["LRP error"], poor["label AP"]
    assert error is not None and 0.2 < error < 0.8
    assert ap is not None and 0.2 < ap < 0.8
    assert direct_quality(labels, {}) == {}


def test_points_are_means_over_sources_and_changes(comparison: Comparison) -> None:
    points = points_of(comparison, "here")
    assert [p.arm for p in points] == ["naive", "pseudo", "lat", "overlap"]
    assert points[0].direct["F1@0.5"] == pytest.approx(0.55)
    assert points[0].downstream == pytest.approx(-0.01)
    assert points[3].direct["LRP error"] == pytest.approx(0.05)
    alone = {k: v for k, v in comparison.arms.items() if k != "target-only"}
    assert points_of(replace(comparison, arms=alone))[0].downstream == pytest.approx(0.19)
    assert points_of(replace(comparison, about={})) == []


def test_correlations_by_value_and_by_rank(comparison: Comparison) -> None:
    found = correlations(points_of(comparison))["F1@0.5"]
    x, y = [0.55, 0.7, 0.85, 0.95], [-0.01, 0.02, 0.05, 0.01]
    assert found.pearson == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert found.spearman == pytest.approx(np.corrcoef([1, 2, 3, 4], [1, 3, 4, 2])[0, 1])
    assert found.points == 4
    assert correlations(points_of(comparison))["LRP error"].pearson == pytest.approx(
        -float(found.pearson or 0)
    )
    few = correlations(points_of(comparison)[:2])["F1@0.5"]
    assert (few.pearson, few.spearman, few.points) == (None, None, 2)
    same = [Point(str(i), "", quality(0.5), i / 10) for i in range(4)]
    assert correlations(same)["label AP"].pearson is None


def test_tables_and_report(comparison: Comparison) -> None:
    header, rows = direct_rows(comparison)
    assert header == ["arm", "source", *DIRECT, "test AP", "to target-only"]
    assert rows[0] == ["naive", "riders", *["50.0"] * 5, "19.0", "-1.0"]
    assert rows[4] == ["lat", "riders", *["90.0"] * 3, "10.0", "90.0", "25.0", "+5.0"]
    assert [row[0] for row in rows].count("lgpl") == 0
    assert quality_rows(comparison.about["direct"])[1][0] == ["naive", "riders", *["50.0"] * 5]
    header, rows = direct_rows(comparison, brief=True)
    assert header[-2:] == ["AP", "change"] and rows[0][-1] == "-1.0"
    table = correlation_rows(correlations(points_of(comparison)))
    assert table[1][0][0] == "F1@0.5" and table[1][0][2:] == ["+0.40", "4"]
    text = markdown_report(comparison)
    assert "## Direct and downstream quality" in text and "![Direct and" in text
    content = json_result(comparison)
    assert content["correlation"]["F1@0.5"]["spearman"] == pytest.approx(0.4)
    assert content["direct"]["lat"]["heavy"]["F1@0.75"] == 0.8
    json.dumps(content, allow_nan=False)
    assert any("Correlation" in title for title, _ in shown_tables(comparison))
    without = replace(comparison, about={})
    assert "Direct" not in markdown_report(without)
    assert "direct" not in plots.all_figures(without)


def test_the_plot_has_every_point_and_the_correlations(comparison: Comparison) -> None:
    figure = plots.all_figures(comparison)["direct"]
    assert [len(axes.collections) for axes in figure.axes] == [4] * len(DIRECT)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[0].endswith("ρ +0.40") and titles[3].endswith("ρ −0.40")
    x, y = np.asarray(figure.axes[0].collections[2].get_offsets())[0]
    assert (x, y) == (pytest.approx(85), pytest.approx(5))
    two = [*points_of(comparison, "a"), *points_of(comparison, "b")]
    words = [t.get_text() for t in plots.direct_figure(two, "Both").legends[0].get_texts()]
    assert words == ["naive", "pseudo", "lat", "overlap", "a", "b"]
