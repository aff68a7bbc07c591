"""The report of a check: what each side of a picture shows, by kind of suspect."""

from __future__ import annotations

import re

import numpy as np
import pytest

from relabel.reports.suspects import SuspectRow, write_suspect_report
from tests.builders.datasets import dataset_of, write_image
from tests.builders.reports import MADE

OWN, THERE = np.array([20.0, 30, 80, 90]), np.array([120.0, 30, 180, 90])
# By kind: the proposed class and box, and the boxes of the two sides: class and whether dashed.
KINDS = {
    "missing box": ("bus", THERE, [], [("bus", False)]),
    "wrong class": ("bus", None, [("car", False)], [("bus", False)]),
    "badly placed": ("car", THERE, [("car", False)], [("car", True), ("car", False)]),
    "spurious box": (None, None, [("car", False)], [("car", True)]),
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("report")
    write_image(root / "a.png", 320, 240)
    # An annotation, another one within the part that is shown, and one far away.
    rows = [(0, [20, 30, 60, 60], 0), (0, [60, 60, 50, 40], 1), (0, [290, 200, 20, 20], 1)]
    data = dataset_of("street", ["car", "bus"], ["a.png"], rows, root=root, size=(320, 240))
    suspects = []
    for k, (kind, (name, box, *_)) in enumerate(KINDS.items()):
        missing = kind == "missing box"
        suspects.append(
            SuspectRow(
                kind=kind,
                score=0.9 - k / 10,
                image=0,
                annotation_id=None if missing else 1,
                category=None if missing else "car",
                proposed_category=name,
                box=None if missing else OWN,
                proposed_box=box,
                proposal=f"proposal {k}",
                reason=f"reason {k}",
            )
        )
    out = write_suspect_report(
        root / "report.html",
        data,
        suspects,
        [],
        annotations=3,
        predictions_by="a test",
        pictures=2,
        settings={},
        made=MADE,
    )
    return out.read_text()


def drawn(side: str) -> list[tuple[str, bool, tuple[float, float]]]:
    """Class, whether dashed, and width and height of each box; other annotations left out."""
    found = []
    for box in side.split('<g class="box')[1:]:
        kind, text = box.split('"', 1)[0], re.search(r'aria-label="([^"]*)"', box)
        size = re.search(r'width="([\d.]+)" height="([\d.]+)"', box)
        assert text is not None and size is not None
        if "rgb(190, 190, 190)" not in box.split(">", 1)[0]:
            place = float(size[1]), float(size[2])
            found.append((text[1].split(":")[0], "dashed" in kind, place))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_shows_what_is_annotated_and_what_is_proposed(page: str, kind: str) -> None:
    card = page.split('<figure class="ba">')[list(KINDS).index(kind) + 1]
    one, two = card.split('<svg class="two"')
    assert [box[:2] for box in drawn(one)] == KINDS[kind][2]
    assert [box[:2] for box in drawn(two)] == KINDS[kind][3]
    # 60 x 60 pixels, of a part that is at most 320 wide and is drawn at 320.
    for _, _, (width, height) in drawn(one) + drawn(two):
        assert width == pytest.approx(height, rel=0.01) and width >= 60
    # Other annotations are on both sides: those in the part, which is the whole image of a move.
    others = {"missing box": 2, "badly placed": 2}.get(kind, 1)
    assert [side.count("rgb(190, 190, 190)") for side in (one, two)] == [others, others]


def test_how_it_was_made_is_told(page: str) -> None:
    assert "How this was made" in page and "2026-01-02 03:04 UTC" in page
    assert 'value="two" checked' in page
