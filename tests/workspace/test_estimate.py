"""Lengths of jobs in words."""

from __future__ import annotations

import pytest

from relabel.workspace import estimate
from relabel.workspace.estimate import announced, spoken


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 second"),
        (42, "42 seconds"),
        (89, "89 seconds"),
        (100, "2 minutes"),
        (724, "12 minutes"),
        (5399, "90 minutes"),
        (3.46 * 3600, "3.5 hours"),
        (30 * 3600, "30 hours"),
    ],
)
def test_seconds_are_said_in_the_unit_that_fits(seconds: float, text: str):
    assert spoken(seconds) == text


def test_the_parts_are_in_the_unit_of_the_whole(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(estimate, "usable_cores", lambda: 2)
    parts = {"specialists": 420.0, "labels": 60.0, "transfer": 183.0, "report": 1.0}
    assert announced(parts) == (
        "about 11 minutes on 2 cores: specialists 7.0, labels 1.0, transfer 3.0"
    )
    hours = {name: 60 * seconds for name, seconds in parts.items()}
    assert announced(hours, "cuda") == (
        "about 11 hours on cuda: specialists 7.0, labels 1.0, transfer 3.0"
    )
    assert announced({"labels": 20.0, "report": 3.0}) == (
        "about 23 seconds on 2 cores: labels 20, report 3"
    )


def test_a_single_part_is_not_told_apart(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(estimate, "usable_cores", lambda: 1)
    assert announced({"transfer": 20.0}) == "about 20 seconds on 1 core"
