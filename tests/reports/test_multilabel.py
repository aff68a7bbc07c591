"""The report of multi-labels from plain data."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from relabel.reports.charts import bars
from relabel.reports.multilabel import Counts, Picture, write_multilabel_report
from relabel.reports.pictures import draw_masks
from tests.builders.pages import ParsedPage

COUNTS = Counts(
    numbers={"images": 12345, "images with a second label": "21.5%"},
    labels={"0": 0, "1": 30, "2": 10},
    regions={"0": 4, "1": 36},
    probabilities={f"{k / 20:g}": k for k in range(20)},
    areas={f"{k / 20:g}": 1 for k in range(20)},
    added=[("desk", "monitor", 40, 0.5), ("ox", "plow", 10, 0.125)],
    added_classes=[("monitor", 44)],
    confused=[("sunglass", "sunglasses", 0.41, 0.38)],
    skipped=[("a.jpg", "cut <off>")],
    skipped_total=3,
)


def picture(group: str = "At random", name: str = "n01/x & y.jpg") -> Picture:
    """An 80 x 60 grey image; a mask on the left quarter, called desk."""
    mask = np.zeros((60, 80), bool)
    mask[:, :20] = True
    return Picture(
        name=name,
        group=group,
        pixels=np.full((60, 80, 3), 128, np.uint8),
        masks=mask[None],
        mask_labels=[("desk", 0.75)],
        labels=[("monitor", 1.0), ("desk", 0.75), *((f"lesser {i}", 0.25) for i in range(8))],
        original="monitor",
    )


def write(tmp_path: Path, **changes: object) -> str:
    pictures = [picture(), picture("Most labels", "two.jpg")]
    out = tmp_path / "deep/report.html"
    counts = replace(COUNTS, **changes)  # type: ignore[arg-type]
    assert (
        write_multilabel_report(out, counts, pictures, title="Labels", settings={"a": {"b": 1}})
        == out
    )
    return out.read_text(encoding="utf-8")


def test_the_page_holds_everything_and_nothing_from_outside(tmp_path: Path) -> None:
    page = write(tmp_path)
    ParsedPage(page).check()
    assert "<strong>12,345</strong><span>images</span>" in page
    assert "<strong>21.5%</strong>" in page
    assert page.index("At random") < page.index("Most labels")
    assert "n01/x &amp; y.jpg" in page
    assert "cut &lt;off&gt;" in page and "and 2 more" in page
    row = '<tr><th scope="row">desk</th><td>monitor</td><td class="num">40</td>'
    assert row + '<td class="num">50.0%</td><td class="bar"><i style="width:100.0%">' in page
    assert '<td class="num">12.5%</td><td class="bar"><i style="width:25.0%">' in page
    assert ">41%<" in page and ">38%<" in page
    assert page == write(tmp_path)


def test_a_card(tmp_path: Path) -> None:
    page = write(tmp_path)
    start = page.index('<figure class="ba">')
    card = page[start : page.index("</figure>", start)]
    items = re.findall(r"<li.*?</li>", card)
    assert len(items) == 7 and "and 3 more" in card
    assert (
        items[0].startswith('<li class="own"><i class="none">')
        and "<b><bdi>monitor</bdi></b>" in items[0]
    )
    assert 'style="background:rgb(' in items[1] and "0.75" in items[1]
    assert items[2].startswith('<li class="faint">')
    color = tuple(map(int, re.findall(r"rgb\((\d+), (\d+), (\d+)\)", items[1])[0]))
    photo, pixels = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)
        for data in re.findall(r"base64,([^\"]+)", card)
    )
    assert np.abs(photo - 128).max() < 4  # before, it has nothing on it
    assert pixels.shape == photo.shape == (120, 160, 3)  # at most twice its own size
    # Its region says what it is, and covers the mask.
    assert 'aria-label="desk 0.75: a region of 25% of the image"' in card
    assert '<rect class="line" x="0.0" y="0.0" width="40.0" height="120.0"/>' in card
    tinted = 0.6 * 128 + 0.4 * np.array(color)
    assert np.abs(pixels[100, 15] - tinted).max() < 20  # JPEG
    assert np.abs(pixels[60, 120] - 128).max() < 8


def test_labels_that_would_be_written_as_nothing_are_counted(tmp_path: Path) -> None:
    labels = [("desk", 0.75), ("lamp", 0.005), ("pen", 0.0049), ("monitor", 0.001)]
    out = write_multilabel_report(
        tmp_path / "r.html", COUNTS, [replace(picture(), labels=labels)], title="x"
    )
    page = out.read_text()
    listed = re.findall(r"<li.*?<bdi>(.*?)</bdi>", page[page.index('<figure class="ba">') :])
    # Its own label stands there however unlikely it is.
    assert listed == ["desk", "lamp", "monitor"]
    assert "<small>and 1 more</small>" in page


def test_empty_results(tmp_path: Path) -> None:
    page = write(
        tmp_path, added=[], confused=[], skipped=[], skipped_total=0, labels={"0": 0}, areas={}
    )
    assert "No label was added." in page and "None were found." in page
    assert "could not be read" not in page
    out = tmp_path / "none.html"
    write_multilabel_report(out, COUNTS, [], title="x")
    assert 'href="#pictures"' not in out.read_text()


def test_draw_masks() -> None:
    image = np.full((20, 30, 3), 100, np.uint8)
    masks = np.zeros((2, 20, 30), bool)
    masks[0, :, :20] = True  # the large one is drawn first
    masks[1, 5:15, 5:15] = True
    colors = {"a": (200, 0, 0), "b": (0, 200, 0)}
    pixels = np.asarray(draw_masks(image, masks, ["a", "b"], None, colors, tags=False))
    assert (pixels[:, 21:] == 100).all()
    assert pixels[2, 10].tolist() == [140, 60, 60]  # 0.6 x 100 + 0.4 x colour
    assert pixels[5, 10].tolist() == [0, 200, 0]  # outline
    assert pixels[10, 10].tolist() == [84, 116, 36]  # over the first tint
    assert pixels[10, 19].tolist() == [200, 0, 0]
    assert pixels[0, 10].tolist() == [140, 60, 60]  # no outline along the picture's own edge
    assert (image == 100).all()
    empty = draw_masks(image, np.zeros((0, 20, 30), bool), [], width=15)
    assert empty.size == (15, 10)
    with pytest.raises(ValueError, match="1 labels"):
        draw_masks(image, masks, ["a"])
    with pytest.raises(ValueError, match=r"\(2, 20, 30\)"):
        draw_masks(image[:10], masks, ["a", "b"])


def test_bars() -> None:
    chart = bars({"0": 1, "1": 3, "2": 0}, title="A & b", mark=1)
    assert re.findall("<title>(.*?)</title> <path", chart) == ["0: 1 (25.0%)", "1: 3 (75.0%)"]
    assert 'aria-label="A &amp; b"' in chart
    assert "stroke-dasharray" in chart and "stroke: var(--mark)" in chart
    assert "#" not in chart and "rgb" not in chart  # all colours are the page's
    assert bars({"0": 0}, title="x").endswith("<p>none</p></figure>")
    assert bars({str(k): 1 for k in range(20)}, title="x", every=5).count("<text") == 4
