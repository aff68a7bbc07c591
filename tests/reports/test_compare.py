"""Two annotations of one image as one picture."""

from __future__ import annotations

import numpy as np

from relabel.reports.charts import heat_map
from relabel.reports.compare import MOST_BOXES, DrawnBox, Side, compared
from tests.builders.pages import ParsedPage

PHOTO = np.full((50, 100, 3), 128, np.uint8)


def drawn(html: str, kind: str) -> list[dict[str, str]]:
    return [a for tag, a in ParsedPage(html).elements if tag == kind]


def test_the_largest_boxes_are_drawn_small_ones_on_top() -> None:
    count = MOST_BOXES + 7
    boxes = [DrawnBox((0, 0, k + 1, 10), "", (1, 2, 3), f"box {k}") for k in range(count)]
    html = compared("a", PHOTO, Side("Before", "all", boxes), Side("After", "none", ()))
    shown = [a["aria-label"] for a in drawn(html, "g") if "aria-label" in a]
    assert shown == [f"box {k}" for k in range(count - 1, 6, -1)]
    (one, two) = (a["aria-label"] for a in drawn(html, "svg"))
    assert one == f"all; the {MOST_BOXES} largest are drawn" and two == "none"


def test_boxes_are_where_they_are_in_the_image() -> None:
    box = DrawnBox((10, 20, 30, 25), "car", (1, 2, 3), "a car", "dashed")
    ignored = DrawnBox((0, 0, 5, 5), "", (1, 2, 3), "left out", "ignored")
    html = compared(
        "a", PHOTO, Side("Before", "b", [box]), Side("After", "a", [ignored]), width=200
    )
    lines = [a for a in drawn(html, "rect") if a.get("class") == "line"]
    assert [(a["x"], a["y"], a["width"], a["height"]) for a in lines] == [
        ("20.0", "40.0", "40.0", "10.0"),
        ("0.0", "0.0", "10.0", "10.0"),
    ]
    groups = [a for a in drawn(html, "g") if a.get("class", "").startswith("box")]
    assert [(a["class"], a["style"]) for a in groups] == [
        ("box dashed", "--c:rgb(1, 2, 3)"),
        ("box ignored", "--c:rgb(150, 150, 150)"),
    ]
    assert {a["viewbox"] for a in drawn(html, "svg")} == {"0 0 200 100"}
    assert [a["value"] for a in drawn(html, "input") if "checked" in a] == ["both"]
    html = compared("a", PHOTO, Side("Before", "b", ()), Side("After", "a", ()), chosen="two")
    assert [a["value"] for a in drawn(html, "input") if "checked" in a] == ["two"]


def test_a_side_may_have_a_picture_of_its_own() -> None:
    other = Side("After", "a", (), np.zeros((50, 100, 3), np.uint8))
    html = compared("a", PHOTO, Side("Before", "b", ()), other)
    assert len(drawn(html, "image")) == 2 and not drawn(html, "use")
    html = compared("a", PHOTO, Side("Before", "b", ()), Side("After", "a", ()))
    assert len(drawn(html, "image")) == 1 and [a["href"] for a in drawn(html, "use")] == ["#a"]


def test_names_that_look_like_a_colour_or_an_id_stay() -> None:
    names = ["#2f74ad", ' id="x"', "a font-family: b;"]
    html = heat_map(np.full((3, 3), 0.5), names, title="T", what="{row}")
    texts = ParsedPage(html.partition("<details")[0] + "</figure>").texts
    assert all(name in texts for name in ("#2f74ad", ' id="x"'))
    assert "a font-family: b;" in texts  # whole, where the pointer rests
