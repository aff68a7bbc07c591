"""The report page: self-contained, deterministic, and with the right numbers in it."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from relabel.datasets.changes import CHANGES
from relabel.datasets.dataset import DetectionDataset, Provenance, make_boxes
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.removed import MERGED, NO_LABEL, Removed
from relabel.reports.alignment import SourceReport, write_align_report
from relabel.reports.charts import histogram
from relabel.reports.page import number
from tests.builders.datasets import dataset_of, images_of, write_image
from tests.builders.pages import ParsedPage


def world(root: Path) -> tuple[DetectionDataset, SourceReport]:
    for name in ("a.png", "b.png"):
        write_image(root / name, 64, 48, (100, 120, 140))
    images = images_of(["a.png", "b.png"], (64, 48))
    fine = LabelSpace.from_names("fine", ["car", "<b>bus</b>"])
    rows = [(0, [0, 0, 20, 20], 0), (0, [30, 0, 20, 20], 0), (1, [5, 5, 10, 10], 0)]
    before = dataset_of("coarse", ["vehicle"], images, rows, root=root)
    boxes = make_boxes(
        [0, 0, 1],
        [[0, 0, 10, 20], [40, 30, 10, 10], [5, 5, 10, 10]],
        [0, 0, 1],
        score=[0.9, 0.4, 0.6],
        provenance=Provenance(
            "coarse",
            ["source", "pseudo:fine", "source"],
            np.array([1, -1, 3]),
            ["vehicle", "", "vehicle"],
            np.array([0.5, np.nan, 1], np.float32),
        ),
    )
    after = replace(before, space=fine, boxes=boxes)
    target = dataset_of("fine", fine, images, [(0, [0, 0, 9, 9], 0)], root=root)
    return target, SourceReport("coarse <1>", before, after, {"fine": after})


def render(tmp_path: Path, name: str = "report.html", **options) -> str:
    target, source = world(tmp_path)
    settings = {"seed": 3, "lat": {"lr": 1e-4, "layers": [1, 2]}}
    metrics = {"lat": {"AP": 0.25, "F1": None}, "copy": {"AP": 0.125, "F1": 0.5}}
    path = write_align_report(
        tmp_path / name,
        title="A & B",
        target=target,
        sources=[source],
        settings=settings,
        metrics=metrics,
        **options,
    )
    return path.read_text()


def test_numbers_in_the_page(tmp_path: Path) -> None:
    rows = ParsedPage(render(tmp_path)).rows
    # images, before, after, from source, new, dropped, mean IoU of (0.5, 1).
    assert ["coarse <1>", "2", "3", "3", "2", "1", "1", "0.7500"] in rows
    assert ["vehicle", "1 33%", "1 33%", "1 33%", "3"] in rows
    assert ["no source box (new)", "1 100%", "·", "·", "1"] in rows
    assert ["car", "2", "66.7%", "1", "100.0%"] in rows
    assert ["<b>bus</b>", "1", "33.3%", "0", "0.0%"] in rows
    assert ["lat", "0.2500", "–"] in rows
    assert ["copy", "0.1250", "0.5000"] in rows
    assert ["layers", "1, 2"] in rows


def test_page_is_self_contained_and_escaped(tmp_path: Path) -> None:
    text = render(tmp_path)
    page = ParsedPage(text)
    page.check()
    assert not re.search(r"https?://|url\(|@import", text)
    assert "<title>A &amp; B</title>" in text
    assert "<b>" not in text
    assert "source: 2 (66.7%)" in text
    assert "pseudo:fine: 1 (33.3%)" in text
    ids = page.attributes("id")
    # Charts have none that could be the same twice.
    assert ids == ["dropped", "overview", "source-0", "p0-0", "p0-1", "measured", "made"]


def test_a_picture_is_there_once_with_the_boxes_of_both_sides_on_it(tmp_path: Path) -> None:
    page = ParsedPage(render(tmp_path))
    pictures = [a for tag, a in page.elements if tag == "image"]
    assert [a["id"] for a in pictures] == ["p0-0", "p0-1"]
    data = base64.b64decode(pictures[0]["href"].partition("base64,")[2])
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    # No box is drawn into it.
    assert pixels.shape == (48, 64, 3) and np.abs(pixels - [100, 120, 140]).max() < 6
    assert page.attributes("href").count("#p0-0") == 1
    sides = [a for tag, a in page.elements if tag == "svg" and a.get("class") in ("one", "two")]
    assert [a["class"] for a in sides] == ["one", "two"] * 2
    assert [a["aria-label"] for a in sides[:2]] == [
        "Before: 2 boxes, 1 without a label",
        "After: 2 boxes, 1 new",
    ]
    first = render(tmp_path, pictures=1)
    assert len(re.findall("<image ", first)) == 1


def test_boxes_say_what_happened_to_them(tmp_path: Path) -> None:
    page = ParsedPage(render(tmp_path))
    boxes = [a for tag, a in page.elements if a.get("class", "").split()[:1] == ["box"]]
    assert [(a["class"], a["aria-label"]) for a in boxes] == [
        ("box", "vehicle: renamed and reshaped; now car"),
        ("box dashed", f"vehicle: dropped; {NO_LABEL}"),
        ("box", "car 0.90: renamed and reshaped; annotated as vehicle, IoU with that box 0.50"),
        ("box dashed", "car 0.40: added; from pseudo:fine, where nothing was annotated"),
        ("box", "vehicle: renamed; now <b>bus</b>"),
        ("box", "<b>bus</b> 0.60: renamed; annotated as vehicle, IoU with that box 1.00"),
    ]
    # One stop of the tab key per side; the arrows lead on.
    assert [a["tabindex"] for a in boxes] == ["0", "-1", "0", "-1", "0", "0"]
    # The rectangle of the first label, 10 x 20 of 64 pixels, in a picture 640 wide.
    at = render(tmp_path).partition("car 0.90: renamed")[2].partition("<rect ")[2]
    assert 'x="0.0" y="0.0" width="100.0" height="200.0"' in at[:90]


def test_what_was_dropped_comes_first(tmp_path: Path) -> None:
    text = render(tmp_path)
    rows = ParsedPage(text).rows
    assert rows[:2] == [["source", "why", "annotations"], ["coarse <1>", NO_LABEL, "1 33.3%"]]
    assert text.index("What was dropped, and why</h2>") < text.index("Overview</h2>")


def test_what_became_of_the_annotations(tmp_path: Path) -> None:
    rows = ParsedPage(render(tmp_path)).rows
    at = rows.index(["source class", "annotations", *CHANGES, "doubtful"])
    expected = ["3", "·", "1 33.3%", "·", "1 33.3%", "·", "·", "1 33.3%", "·"]
    assert rows[at + 1 : at + 3] == [["vehicle", *expected], ["all", *expected]]
    assert ["source class", NO_LABEL] in rows and ["vehicle", "1 33.3%"] in rows


def test_annotations_without_a_label_have_reasons_and_pictures(tmp_path: Path) -> None:
    target, source = world(tmp_path)
    removed = Removed(
        np.array([0, 1, 2]),
        ["too <small>", MERGED, "outside"],
        np.array([0.25, np.nan, np.nan], np.float32),
        np.array([0, -1, -1]),
        np.array([0.125, np.nan, np.nan], np.float32),
    )
    source = replace(source, removed=removed)
    out = write_align_report(
        tmp_path / "r.html", title="t", target=target, sources=[source], settings={}
    )
    text = out.read_text()
    rows = ParsedPage(text).rows
    # Merged ones have a label, and are not listed.
    assert ["source class", "outside", "too <small>", "in all"] in rows
    assert ["vehicle", "1 33.3%", "1 33.3%", "2 66.7%"] in rows
    cards = text.partition('<div class="cards">')[2].partition("What became of the")[0]
    assert cards.count("<img") == 2 and cards.count("base64,") == 2
    assert "too &lt;small&gt;" in cards and MERGED not in cards
    assert "an object in the target: 0.25" in cards and "best class: car 0.12" in cards
    assert "Before: 2 boxes, 1 without a label" in text
    assert "After: 2 boxes, 1 new" in text
    few = write_align_report(
        tmp_path / "f.html", title="t", target=target, sources=[source], settings={}, pictures=1
    ).read_text()
    few = few.partition('<div class="cards">')[2].partition("What became of the")[0]
    assert few.count("<img") == 1
    (tmp_path / "a.png").unlink()
    out = write_align_report(
        tmp_path / "r.html", title="t", target=target, sources=[source], settings={}
    )
    # The crop, the picture before and after, and of the worst cases those on it.
    assert re.findall(r"(\d) images could not be read\.", out.read_text()) == ["1", "1", "3"]


def test_labels_are_listed_with_score_origin_and_alternatives(tmp_path: Path) -> None:
    target, source = world(tmp_path)
    extra = [b'{"relabel_alternatives":["<b>bus</b>"]}', None, None]
    after = source.after.with_boxes(replace(source.after.boxes, extra=extra))
    out = write_align_report(
        tmp_path / "r.html",
        title="t",
        target=target,
        sources=[replace(source, after=after)],
        settings={},
    )
    rows = ParsedPage(out.read_text()).rows
    assert ["label", "origin", "annotation", "may also be", "score"] in rows
    for label in (
        ["car", "source", "vehicle", "<b>bus</b>", "0.90"],
        ["car", "pseudo:fine", "–", "–", "0.40"],
        ["<b>bus</b>", "source", "vehicle", "–", "0.60"],
    ):
        assert rows.count(label) == 1


def test_nothing_is_gone(tmp_path: Path) -> None:
    target, source = world(tmp_path)
    nothing = Removed(np.zeros(0, np.int64), [], *(np.zeros(0),) * 3)
    out = write_align_report(
        tmp_path / "r.html",
        title="t",
        target=target,
        sources=[replace(source, removed=nothing)],
        settings={},
    )
    text = out.read_text()
    assert "<h3>What was dropped, and why</h3><p>None.</p>" in text
    assert ["coarse <1>", "nothing was dropped", "·"] in ParsedPage(text).rows


def test_same_bytes_every_time(tmp_path: Path) -> None:
    assert render(tmp_path, "one.html") == render(tmp_path, "two.html")


def test_unreadable_pictures_are_counted(tmp_path: Path) -> None:
    target, source = world(tmp_path)
    (tmp_path / "a.png").write_bytes(b"not an image")
    (tmp_path / "b.png").unlink()
    out = write_align_report(
        tmp_path / "r.html", title="t", target=target, sources=[source], settings={}
    )
    assert "2 images could not be read." in out.read_text()


def test_histogram_puts_values_beyond_the_ends_in_the_outer_bars() -> None:
    svg = histogram(
        np.array([-5.0, 0.1, 0.9, 7.0, 7.0]), title="t", low=0, high=1, bins=2, ticks=(0, 1)
    )
    corner = r"[\d.]+ ([\d.]+)"
    bars = re.findall(rf"<title>(.*?)</title> <path d=.M {corner} L {corner} L {corner}", svg)
    assert [name for name, *_ in bars] == ["0 to 0.5: 2 (40.0%)", "0.5 to 1: 3 (60.0%)"]
    heights = [float(bottom) - float(top) for _, bottom, _, top in bars]
    assert heights == pytest.approx([118.0 * 2 / 3, 118.0], abs=0.01)
    assert re.findall(r"text-anchor: (\w+).*?>([^<]+)</text>", svg) == [
        ("start", "0"),
        ("end", "1"),
    ]
    assert svg.count("median 0.90 of 5") == 2  # below the title, and for those who do not see it
    assert "none" in histogram(np.zeros(0), title="t", low=0, high=1)


def test_numbers_as_people_read_them() -> None:
    shown = [number(v) for v in (1234, 0.5, 1e-5, None, float("nan"), True, [1, 2], "x")]
    assert shown == ["1,234", "0.5000", "1e-05", "–", "–", "yes", "1, 2", "x"]
