"""Reports in a real browser: nothing runs, nothing is fetched, everything can be reached."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relabel.datasets.dataset import Provenance, make_boxes
from relabel.errors import shown
from relabel.reports.alignment import SourceReport, write_align_report
from tests.builders.datasets import dataset_of, images_of, write_image
from tests.builders.reports import HOSTILE, all_reports
from tests.reports.test_hostile_names import REPORTS

PLAIN = ["car", "bus", "truck", "person", "rider", "bicycle", "train"]
_OPEN_ALL = "document.querySelectorAll('details').forEach((d) => { d.open = true; })"
_WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return all_reports(tmp_path_factory.mktemp("hostile"), HOSTILE)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return all_reports(tmp_path_factory.mktemp("plain"), PLAIN)


@contextmanager
def opened(browser: Any, file: Path, width: int = 1280, **options: Any) -> Iterator[Any]:
    """A page without a word on the console, and without a request but for itself."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append("a dialog"))
    page.on("request", lambda request: said.append(request.url[:60]))
    page.goto(file.as_uri())
    own = ("data:image/jpeg", file.as_uri()[:60])
    said[:] = [text for text in said if not text.startswith(own)]
    try:
        yield page
        assert said == []
    finally:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("report", REPORTS)
def test_a_page_is_accessible_and_as_wide_as_the_window(
    chromium: Any, hostile: dict[str, Path], report: str, width: int, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe installed")
    with opened(chromium, hostile[report], width, color_scheme=scheme) as page:
        assert page.evaluate(_WIDTHS) == [width, width]
        page.evaluate(_OPEN_ALL)
        assert page.evaluate(_WIDTHS) == [width, width]
        found = axe.Axe().run(page).response["violations"]
        assert [(v["id"], v["impact"], v["nodes"][0]["html"][:200]) for v in found] == []


@pytest.mark.parametrize("report", REPORTS)
def test_no_name_does_anything(chromium: Any, hostile: dict[str, Path], report: str) -> None:
    with opened(chromium, hostile[report]) as page:
        page.evaluate(_OPEN_ALL)
        page.wait_for_timeout(200)
        assert page.evaluate("window.hacked") is None
        assert page.evaluate("document.scripts.length") == 1
        text = page.evaluate("document.body.textContent")
        assert all(shown(name) in text for name in HOSTILE)
        # Every picture that is there can be seen.
        broken = "[...document.images].filter((i) => !i.complete || !i.naturalWidth).length"
        assert page.evaluate(broken) == 0


def cut(page: Any) -> float:
    style = page.locator(".ba").first.get_attribute("style") or ""
    found = re.search(r"--cut: ?([\d.]+)%", style)
    return float(found[1]) if found else 50.0


def seen(page: Any, side: str) -> bool:
    return page.locator(f".ba .{side}").first.evaluate("e => getComputedStyle(e).visibility") == (
        "visible"
    )


def test_the_slider_is_moved_by_keyboard_and_by_dragging(
    chromium: Any, plain: dict[str, Path]
) -> None:
    with opened(chromium, plain["align"]) as page:
        slider = page.locator(".cut").first
        slider.focus()
        for _ in range(5):
            page.keyboard.press("ArrowRight")
        assert cut(page) == 55
        page.keyboard.press("End")
        assert cut(page) == 100
        panes = page.locator(".panes").first
        panes.scroll_into_view_if_needed()
        at = panes.bounding_box()
        page.mouse.move(at["x"] + 0.8 * at["width"], at["y"] + 5)
        page.mouse.down()
        page.mouse.move(at["x"] + 0.25 * at["width"], at["y"] + 5)
        page.mouse.up()
        assert cut(page) == pytest.approx(25, abs=1)
        # What is left of the border is the first side, what is right of it the second.
        clip = "e => getComputedStyle(e).clipPath"
        assert "75" in page.locator(".one").first.evaluate(clip)
        assert page.locator(".two").first.evaluate(clip).startswith("inset(0px 0px 0px 25")
        page.get_by_label("before").first.check()
        assert (seen(page, "one"), seen(page, "two")) == (True, False)
        assert not slider.is_visible()
        page.get_by_label("after").first.check()
        assert (seen(page, "one"), seen(page, "two")) == (False, True)


def test_boxes_say_what_they_are_by_pointer_and_by_keyboard(
    chromium: Any, plain: dict[str, Path]
) -> None:
    with opened(chromium, plain["align"]) as page:
        tip = page.locator("#tip")
        assert not tip.is_visible()
        page.get_by_label("before").first.check()
        pane = page.locator(".panes .one").first
        boxes = pane.locator(".box")
        count = boxes.count()
        assert count > 2
        boxes.nth(count - 1).hover()
        assert tip.is_visible()
        assert tip.text_content() == boxes.nth(count - 1).get_attribute("aria-label")
        page.mouse.move(0, 0)
        assert not tip.is_visible()
        # One stop of the tab key, and the arrows from there.
        page.get_by_label("before").first.focus()
        page.keyboard.press("Tab")
        focused = "() => document.activeElement.getAttribute('aria-label')"
        assert page.evaluate(focused) == boxes.nth(0).get_attribute("aria-label")
        assert tip.text_content() == boxes.nth(0).get_attribute("aria-label") and tip.is_visible()
        page.keyboard.press("ArrowRight")
        assert page.evaluate(focused) == boxes.nth(1).get_attribute("aria-label")
        # The tab key comes back to where the arrows led.
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Tab")
        assert page.evaluate(focused) == boxes.nth(1).get_attribute("aria-label")
        page.keyboard.press("End")
        assert page.evaluate(focused) == boxes.nth(count - 1).get_attribute("aria-label")
        page.keyboard.press("ArrowRight")
        assert page.evaluate(focused) == boxes.nth(0).get_attribute("aria-label")
        page.keyboard.press("Escape")
        assert not tip.is_visible()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('svg')") is None
        # The browser's own hint is taken off.
        assert pane.locator(".box > title").count() == 0


def test_a_focused_box_comes_out_from_behind_the_border(
    chromium: Any, plain: dict[str, Path]
) -> None:
    with opened(chromium, plain["align"]) as page:
        slider = page.locator(".cut").first
        slider.focus()
        page.keyboard.press("Home")
        assert cut(page) == 0
        page.locator(".panes .one .box").first.focus()
        assert cut(page) == 100


def test_a_page_reads_without_its_script(chromium: Any, plain: dict[str, Path]) -> None:
    with opened(chromium, plain["align"], java_script_enabled=False) as page:
        assert not page.locator(".cut").first.is_visible()
        assert page.locator(".box > title").count() == page.locator(".box").count() > 0
        page.get_by_label("before").first.check()
        assert (seen(page, "one"), seen(page, "two")) == (True, False)
        page.get_by_label("after").first.check()
        assert (seen(page, "one"), seen(page, "two")) == (False, True)


def test_paper_shows_both_sides(chromium: Any, plain: dict[str, Path]) -> None:
    with opened(chromium, plain["align"]) as page:
        page.get_by_label("after").first.check()
        page.emulate_media(media="print")
        assert (seen(page, "one"), seen(page, "two")) == (True, True)
        one, two = (page.locator(f".panes .{s}").first.bounding_box() for s in ("one", "two"))
        assert one["width"] > 100 and one["x"] + one["width"] <= two["x"]
        clips = page.locator(".panes .one").first.evaluate("e => getComputedStyle(e).clipPath")
        assert clips == "none"
        assert not page.locator(".switch").first.is_visible()


def test_labels_of_a_photo_are_switched_and_nothing_is_moved(
    chromium: Any, plain: dict[str, Path]
) -> None:
    with opened(chromium, plain["complete"]) as page:
        card = page.locator("figure.told").first
        texts = "e => [...e.querySelectorAll('li')].map((i) => i.innerText.split(/\\s+/).join(' '))"
        after = card.evaluate(texts)
        assert (after[0], after[4]) == ("car known", "bus other labels 0.75")
        height = card.bounding_box()["height"]
        # The arrows of the keyboard turn the switch.
        card.get_by_label("after").focus()
        page.keyboard.press("ArrowLeft")
        assert card.get_by_label("before").is_checked()
        before = card.evaluate(texts)
        assert (before[0], before[4]) == ("car known", "bus not known")
        assert len(before) == len(after)
        assert card.bounding_box()["height"] == height
        # One photo's switch is not another's.
        assert page.locator("figure.told").nth(1).locator(".now").first.is_visible()
        # Paper has what is known in the end.
        page.emulate_media(media="print")
        assert card.evaluate(texts) == after


def test_labels_are_switched_without_the_script(chromium: Any, plain: dict[str, Path]) -> None:
    with opened(chromium, plain["complete"], java_script_enabled=False) as page:
        card = page.locator("figure.told").first
        card.get_by_label("before").check()
        assert not card.locator(".now").first.is_visible()
        assert card.locator(".was").first.is_visible()


def test_truth_and_labels_lie_on_one_picture(chromium: Any, plain: dict[str, Path]) -> None:
    with opened(chromium, plain["evaluate pseudo-labels"]) as page:
        figure = page.locator("#images .ba").first
        assert figure.locator(".one .box.dashed").count() == 2
        assert figure.locator(".one .box.ignored").count() == 2
        figure.get_by_label("truth", exact=True).check()
        assert (seen(page, "one"), seen(page, "two")) == (True, False)
        figure.get_by_label("labels", exact=True).check()
        assert (seen(page, "one"), seen(page, "two")) == (False, True)
        figure.locator(".two .box").last.focus()
        assert page.locator("#tip").is_visible()


def test_a_figure_is_as_wide_as_its_ground(chromium: Any, plain: dict[str, Path]) -> None:
    with opened(chromium, plain["evaluate downstream"], 400) as page:
        ground = page.locator(".paper").first.bounding_box()
        drawn = page.locator(".paper svg").first.bounding_box()
        assert drawn["x"] + drawn["width"] <= ground["x"] + ground["width"]
        # What is said of it is read without scrolling, and stays where it is beside it.
        said = page.locator(".paper figcaption").first.bounding_box()
        assert said["x"] + said["width"] <= 400
        page.locator(".figure").first.evaluate("e => { e.scrollLeft = 150; }")
        assert page.locator(".paper figcaption").first.bounding_box()["x"] > 0


def test_wide_tables_are_reached_by_keyboard(chromium: Any, plain: dict[str, Path]) -> None:
    with opened(chromium, plain["align"], 400) as page:
        wide = page.locator(".scroll[tabindex='0']")
        assert wide.count() > 0
        assert all(wide.nth(k).get_attribute("aria-label") for k in range(wide.count()))
        page.set_viewport_size({"width": 2000, "height": 900})
        page.wait_for_timeout(200)
        matrix = page.locator(".scroll:has(.matrix)").first
        assert matrix.get_attribute("tabindex") is None and matrix.get_attribute("role") is None


def large(root: Path, images: int, each: int) -> Path:
    """The report of a source of ``images * each`` boxes, half of which are reshaped."""
    write_image(root / "photo.png", 640, 480, (90, 110, 130))
    names = [f"{k:05}.png" for k in range(images)]
    for name in names:
        (root / name).symlink_to("photo.png")
    rng = np.random.default_rng(0)
    count = images * each
    image = np.repeat(np.arange(images), each)
    xywh = np.column_stack([rng.uniform(0, 500, (count, 2)), rng.uniform(5, 90, (count, 2))])
    category = rng.integers(0, len(PLAIN), count)
    table = images_of(names, (640, 480))
    source = dataset_of("source", PLAIN, table, [], root=root)
    before = source.with_boxes(make_boxes(image, xywh, category, id=np.arange(1, count + 1)))
    moved = xywh * np.where(rng.random((count, 1)) < 0.5, 0.7, 1)
    provenance = Provenance(
        "source",
        ["source"] * count,
        np.arange(1, count + 1),
        [PLAIN[c] for c in category],
        np.ones(count, np.float32),
    )
    boxes = make_boxes(image, moved, category, score=rng.random(count), provenance=provenance)
    after = source.with_boxes(boxes)
    return write_align_report(
        root / "large.html",
        title="large",
        target=before,
        sources=[SourceReport("source", before, after)],
        settings={},
    )


def test_a_hundred_thousand_boxes(chromium: Any, tmp_path: Path) -> None:
    file = large(tmp_path, 1000, 100)
    assert file.stat().st_size < 15e6
    with opened(chromium, file) as page:
        times = "performance.getEntriesByType('navigation')[0].domInteractive"
        assert page.evaluate(times) < 2000
        assert page.evaluate("document.querySelectorAll('*').length") < 30_000
        assert "100,000" in page.evaluate("document.body.textContent")
        assert page.locator(".ba").count() == 12
