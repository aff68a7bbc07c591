"""Means, spreads and paired differences against hand-computed values."""

from __future__ import annotations

from typing import Any

import pytest

from relabel.studies.ablation.results import (
    METRICS,
    ablation_table,
    difference_table,
    differences,
    numbers,
    summarize,
)


def test_mean_and_sample_deviation() -> None:
    assert summarize([0.1, 0.2, 0.6]) == {
        "mean": pytest.approx(0.3),
        "std": pytest.approx(0.07**0.5),  # (0.04 + 0.01 + 0.09) / 2
    }
    assert summarize([0.4]) == {"mean": 0.4, "std": None}
    assert summarize([None, 0.4]) == {"mean": 0.4, "std": None}
    assert summarize([]) == {"mean": None, "std": None}


def test_differences_are_paired_by_seed() -> None:
    found = differences({0: 0.5, 2: 0.7, 3: None}, {0: 0.4, 1: 0.9, 2: 0.5, 3: 0.1})
    assert found["seeds"] == [0, 2]
    assert found["mean"] == pytest.approx(0.15)
    assert found["std"] == pytest.approx(0.005**0.5)


def test_the_numbers_of_the_table() -> None:
    metrics = {
        "AP": 0.2,
        "AP75": None,
        "at": {"0.5": {"f1": 0.6, "class_accuracy": 0.7}, "0.75": {"f1": 0.5}},
        "mean_iou": {"after": 0.8},
    }
    assert list(numbers(metrics).values()) == [0.6, 0.5, 0.2, None, 0.8, 0.7]


def _arm(same_as: str | None, mean: float, std: float | None, change: float) -> dict[str, Any]:
    return {
        "about": "what",
        "same_as": same_as,
        "seeds": [0, 1],
        "mean": dict.fromkeys(METRICS, mean),
        "std": dict.fromkeys(METRICS, std),
        "difference": {key: {"seeds": [0, 1], "mean": change, "std": std} for key in METRICS},
    }


def test_tables_in_percent_with_spread() -> None:
    content = {
        "baselines": {"filtered": dict.fromkeys(METRICS, 0.123)},
        "arms": {
            "default": _arm(None, 0.5, 0.01, 0.0),
            "off": _arm(None, 0.4, 0.02, -0.1),
            "again": _arm("default", 0.5, 0.01, 0.0),
        },
    }
    header, rows = ablation_table(content)
    assert header[-2:] == ["AP − default", "F1@0.75 − default"]
    assert rows[0] == ["baseline", "filtered", "", *["12.3"] * 6, "", ""]
    assert rows[1] == ["default", "what", "2", *["50.0 ± 1.0"] * 6, "", ""]
    assert rows[2] == ["off", "what", "2", *["40.0 ± 2.0"] * 6, *["-10.0 ± 2.0"] * 2]
    assert rows[3][1] == "what (= default)"
    assert difference_table(content)[1] == [["off", "2", *["-10.0 ± 2.0"] * 6]]
