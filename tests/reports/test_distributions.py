"""Distributions over each other, and beside each other by class."""

from __future__ import annotations

import re

import numpy as np

from relabel.reports.distributions import outlines, quartiles
from tests.builders.pages import ParsedPage


def test_outlines_are_shares_of_each_set() -> None:
    edges = np.array([1.0, 2, 4, 8])
    values = {"before": np.array([0.5, 1, 3, 3]), "after": np.array([9.0])}
    figure = outlines(values, edges, title="T", ticks={0: "1", 3: "8"})
    # What is beyond the edges is in the outer bins.
    assert ParsedPage(figure).rows == [
        ["", "before", "after"],
        ["1 to 2", "50.0%", "0.0%"],
        ["2 to 4", "50.0%", "0.0%"],
        ["4 to 8", "0.0%", "100.0%"],
    ]
    assert 'aria-label="T: before of 4, after of 1"' in figure
    # Told apart without colours, too.
    assert figure.count("stroke-dasharray") == 1
    assert " id=" not in figure and "url(" not in figure
    assert "none" in outlines({"before": np.zeros(0)}, edges, title="T", ticks={})


def test_quartiles_of_each_set() -> None:
    rows = {
        "car": {"old": np.array([1.0, 2, 3]), "new": np.zeros(0)},
        "<bus>": {"old": np.array([4.0]), "new": np.array([0.5, 0.5])},
    }
    figure = quartiles(rows, title="T")
    assert ParsedPage(figure).rows[1:] == [
        ["car", "old", "3", "1.50", "2.00", "2.50"],
        ["<bus>", "old", "1", "4.00", "4.00", "4.00"],
        ["<bus>", "new", "2", "0.50", "0.50", "0.50"],
    ]
    titles = re.findall("<title>(.*?)</title>", figure)
    assert titles == [
        *["car, old: 2.00 (1.50 to 2.50) of 3"] * 2,
        *["&lt;bus&gt;, old: 4.00 (4.00 to 4.00) of 1"] * 2,
        *["&lt;bus&gt;, new: 0.50 (0.50 to 0.50) of 2"] * 2,
    ]
    assert "none" in quartiles({"car": {"old": np.zeros(0)}}, title="T")
    assert "none" in quartiles({}, title="T")
