"""The charts of the report of completed labels: every number is where the pointer rests."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np

from relabel.errors import shown
from relabel.reports.charts import heat_map, reliability
from tests.test_names import NAMES, OBEYED

SVG = "{http://www.w3.org/2000/svg}"


def titles(figure: str) -> list[str]:
    """The texts of the patches of a figure, which must be well-formed."""
    svg = re.search(r"<svg.*</svg>", figure, re.S)
    assert svg is not None
    text = re.sub(r"<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', svg[0], count=1)
    text = text.replace("xlink:href", "href")
    return [node.text or "" for node in ET.fromstring(text).iter(f"{SVG}title")]


def test_heat_map_names_every_cell_and_leaves_out_the_unknown() -> None:
    values = np.array([[1, 0.25], [np.nan, 0]])
    what = "{value} of {row} have {column}"
    found = titles(heat_map(values, ["cat", "dog"], title="T", note="n", what=what))
    assert found == ["100% of cat have cat", "25% of cat have dog", "0% of dog have dog"]
    assert heat_map(values, ["cat", "dog"], title="T") == heat_map(
        values, ["cat", "dog"], title="T"
    )


def test_heat_map_shows_names_and_obeys_none() -> None:
    page = heat_map(np.full((len(NAMES),) * 2, 0.5), NAMES, title="T", what="{row}")
    assert not set(page) & set(OBEYED)
    assert "<script" not in page and "\\frac" in page
    # Every cell, and the names that are cut at both sides.
    long = sum(len(shown(name)) > 14 for name in NAMES)
    assert len(titles(page)) == len(NAMES) ** 2 + 2 * long


def test_reliability_says_how_many_are_right() -> None:
    confidence, share = np.array([0.1, np.nan, 0.9]), np.array([0.25, np.nan, 1])
    page = reliability(confidence, share, np.array([4, 0, 2]), title="T", note="six labels")
    assert titles(page) == [
        "confidence 0.10: 25.0% of 4 are present",
        "confidence 0.90: 100.0% of 2 are present",
    ]
    assert "six labels" in page
    assert "none" in reliability(confidence, share, np.zeros(3, int), title="T")
