"""Where classes went, as a diagram and as a matrix."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest

from relabel.reports.flow import class_flow_section, fewer_classes, sankey
from relabel.reports.statistics import DROPPED, NEW, ClassFlow
from tests.builders.pages import ParsedPage

FLOW = ClassFlow(
    ["vehicle", "person", NEW],
    ["car", "bus", "rider", DROPPED],
    np.array([[60, 20, 0, 20], [0, 0, 5, 45], [10, 0, 0, 0]]),
)


def bands(svg: str) -> dict[str, tuple[float, float, float, float]]:
    """By what it says, of each band: its upper and lower edge at the left, and at the right."""
    found = re.findall(
        r'<path d="M\S+ (\S+)C\S+ \S+ \S+ \S+ \S+ (\S+)V(\S+)C\S+ \S+ \S+ \S+ \S+ (\S+)Z" '
        r'style="fill:\S+"><title>(.*?)</title>',
        svg,
    )
    return {title: (float(a), float(d), float(b), float(c)) for a, b, c, d, title in found}


def nodes(svg: str) -> list[tuple[str, float, float]]:
    """Name with count, top and bottom of each node, those to the left first."""
    found = re.findall(r'<title>([^<]*)</title><rect x="\S+" y="(\S+)" \S+ height="(\S+)"', svg)
    return [(name, float(y), float(y) + float(h)) for name, y, h in found]


def test_a_band_for_every_way_that_boxes_went() -> None:
    svg = sankey(FLOW)
    found = bands(svg)
    assert list(found) == [
        "vehicle → car: 60 of 100",
        "vehicle → bus: 20 of 100",
        f"vehicle → {DROPPED}: 20 of 100",
        "person → rider: 5 of 50",
        f"person → {DROPPED}: 45 of 50",
        f"{NEW} → car: 10 of 10",
    ]
    car, bus, lost = list(found.values())[:3]
    # Each begins where the one before it ends, in the order of the targets.
    assert car[1] == pytest.approx(bus[0], abs=0.2) and bus[1] == pytest.approx(lost[0], abs=0.2)
    assert car[1] - car[0] == pytest.approx(3 * (bus[1] - bus[0]), abs=0.3)
    assert [name for name, _, _ in nodes(svg)][:3] == ["vehicle: 100", "person: 50", f"{NEW}: 10"]


def test_bands_fill_their_nodes_however_few_boxes_one_of_them_has() -> None:
    counts = np.array([[300, 1], [0, 0]])
    svg = sankey(ClassFlow(["vehicle", NEW], ["car", DROPPED], counts))
    (_, top, bottom), (_, _, car), (_, lost_top, lost_bottom) = nodes(svg)
    many, one = bands(svg).values()
    assert many[0] == top and many[3] == pytest.approx(car, abs=0.2)
    assert one[1] - one[0] == pytest.approx(1, abs=0.2) and one[1] <= bottom + 1
    assert one[2:] == pytest.approx((lost_top, lost_bottom), abs=0.2)


def test_nodes_do_not_overlap_and_stay_inside() -> None:
    rng = np.random.default_rng(0)
    counts = np.vstack([rng.integers(0, 9, (29, 31)), np.full((1, 31), 90_000)])
    flow = ClassFlow([f"a{k}" for k in range(30)], [f"b{k}" for k in range(31)], counts)
    svg = sankey(flow)
    height = float(re.findall(r'viewBox="0 0 \d+ (\d+)"', svg)[0])
    tops = re.findall(r'<rect x="(\d+)" y="(\S+)" width="12" height="(\S+)"', svg)
    for side in {x for x, _, _ in tops}:
        places = [(float(y), float(h)) for x, y, h in tops if x == side]
        assert all(h > 5 for _, h in places)
        for (y, h), (after, _) in pairwise(places):
            assert y + h <= after
        assert places[-1][0] + places[-1][1] <= height + 0.1


def test_many_classes_are_taken_together() -> None:
    counts = np.zeros((51, 41), np.int64)
    counts[np.arange(50), np.arange(50) % 40] = np.arange(50) + 1
    flow = ClassFlow(
        [*(f"a{k}" for k in range(50)), NEW], [*(f"b{k}" for k in range(40)), DROPPED], counts
    )
    few = fewer_classes(flow, 10)
    assert few.counts.shape == (11, 11) and few.counts.sum() == counts.sum()
    assert few.rows == [*(f"a{k}" for k in range(41, 50)), "41 other classes", NEW]
    assert few.counts[:9].sum() == sum(range(42, 51))
    assert few.columns[-2:] == ["31 other classes", DROPPED]
    assert fewer_classes(FLOW, 30) is not None
    np.testing.assert_array_equal(fewer_classes(FLOW, 30).counts, FLOW.counts)


def test_a_label_space_of_a_thousand_classes_stays_small() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 3, (1001, 1001))
    names = [f"class number {k}" for k in range(1000)]
    html = class_flow_section(ClassFlow([*names, NEW], [*names, DROPPED], counts))
    assert len(html) < 400_000
    assert "971 other classes" in html and "30 classes with the most boxes" in html


def test_the_matrix_has_the_numbers_and_names_what_is_empty() -> None:
    counts = np.array([[3, 0, 1], [0, 0, 0], [0, 0, 0]])
    flow = ClassFlow(["vehicle", "animal", NEW], ["car", "tram", DROPPED], counts)
    html = class_flow_section(flow)
    page = ParsedPage(html)
    assert page.rows == [
        ["source class", "car", DROPPED, "total"],
        ["vehicle", "3 75%", "1 25%", "4"],
    ]
    assert "Target classes without a box: tram." in html
    assert "Source classes without a box: animal." in html
    empty = ClassFlow(["a", NEW], ["b", DROPPED], np.zeros((2, 2), np.int64))
    assert class_flow_section(empty) == "<p>No boxes.</p>"


def test_wide_names_are_cut_and_narrowed() -> None:
    for name, kept, narrowed in (("W" * 60, 23, 1), ("車" * 40, 11, 0)):
        flow = ClassFlow([name, NEW], ["car", DROPPED], np.array([[3, 1], [0, 0]]))
        svg = sankey(flow)
        assert f"<title>{name}: 4</title>" in svg
        assert f">{name[:kept]}…</text>" in svg
        assert svg.count('textLength="180"') == svg.count("textLength") == narrowed
