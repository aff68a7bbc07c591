"""The review in FiftyOne's own App, in a browser: decided there, exported, respected.

Needs FiftyOne with its database, and Chromium; skips where one of them is missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.align.test_align import World
from tests.align.test_align import world as world  # a fixture
from tests.review.test_suspects import suspect, write_check

pytestmark = [pytest.mark.fiftyone, pytest.mark.slow]
RELABEL = [sys.executable, "-c", "from relabel.cli import main; main()"]
_WAIT = 60_000  # milliseconds, for a busy machine
# FiftyOne joins a database that runs already, whatever its folder is.
NAME = f"review-{uuid4().hex[:8]}"


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FiftyOne with a database of its own, for this process's children."""
    pytest.importorskip("fiftyone")
    monkeypatch.setenv("FIFTYONE_DATABASE_DIR", str(tmp_path / "database"))
    monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "1")


class App:
    """`relabel view` in a process of its own, and a browser on it."""

    def __init__(self, run: Path, browser: Any) -> None:
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = int(probe.getsockname()[1])
        self.log = run.parent / "view.log"
        self.stream = self.log.open("w")
        self.process = subprocess.Popen(
            [*RELABEL, "view", str(run), "--no-browser", "--port", str(port), "--name", NAME],
            stdout=self.stream,
            stderr=self.stream,
            start_new_session=True,
        )
        self._wait_for_server()
        self.page = browser.new_page(viewport={"width": 1400, "height": 900})
        self.page.set_default_timeout(_WAIT)
        self.page.goto(f"http://localhost:{port}/datasets/{NAME}")
        try:
            self.page.get_by_text("7 samples").first.wait_for()
        finally:
            self.look("first")

    def _wait_for_server(self) -> None:
        for _ in range(600):
            said = self.log.read_text()
            if "Ctrl-C ends it" in said:
                return
            if self.process.poll() is not None:
                if "all but `relabel view` works" in said:
                    pytest.skip(said.strip()[-200:])
                raise AssertionError(said)
            time.sleep(0.5)
        pytest.skip("FiftyOne's App did not start within 300 seconds")

    def close(self) -> None:
        if hasattr(self, "page"):
            self.page.close()
        if self.process.poll() is None:
            import psutil

            # FiftyOne's services outlive the process that started them.
            services = psutil.Process(self.process.pid).children(recursive=True)
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
            for service in services:
                with contextlib.suppress(psutil.NoSuchProcess):
                    service.terminate()
        self.stream.close()

    def look(self, name: str) -> None:
        """Keep a picture where somebody wants to see what the test saw."""
        folder = os.environ.get("RELABEL_TEST_PICTURES")
        if folder:
            self.page.screenshot(path=f"{folder}/{name}.png")

    def open_view(self, name: str) -> None:
        """Choose a saved view."""
        self.page.locator('[data-cy="saved-views-selection"]').first.click()
        self.page.get_by_text(name, exact=True).first.click()


@pytest.fixture
def app(world: World, database: None, chromium: Any) -> Iterator[App]:
    world.run()
    opened = App(world.folder / "runs/fine", chromium)
    try:
        yield opened
    finally:
        opened.close()


def test_labels_are_decided_in_the_app_and_the_next_run_respects_it(app: App, world: World) -> None:
    page = app.page
    page.get_by_text("0 of 10 labels decided").wait_for()
    assert page.get_by_text("Accelerate your workflow").count() == 0  # the advertisement
    app.open_view("additions")
    page.get_by_text("0 samples").first.wait_for()
    app.open_view("class changes")
    page.get_by_text("7 samples").first.wait_for()
    first = page.locator('[data-cy="looker"]').first
    first.wait_for()
    app.look("view")

    # One box, in the picture that is opened: rejected, undone, relabelled.
    first.click(position={"x": 90, "y": 60})
    page.locator('[data-cy="modal-looker-container"]').wait_for()
    time.sleep(3)  # the picture draws itself
    page.mouse.click(160, 210)
    page.locator('[data-cy="panel-tab-relabel_review"]').last.click()
    modal = page.locator('[data-cy="modal"]')
    modal.get_by_role("button", name="Reject 1 box selected").click()
    modal.get_by_text("1 of 10 labels decided").wait_for()
    app.look("rejected")
    modal.get_by_role("button", name="Undo the last step").click()
    modal.get_by_text("0 of 10 labels decided").wait_for()
    modal.get_by_role("combobox").first.click()
    page.get_by_role("option", name="bus").click()
    modal.get_by_role("button", name="Relabel 1 box of this image").click()
    modal.get_by_text("1 of 10 labels decided").wait_for()
    app.look("relabelled")
    page.mouse.click(10, 450)  # beside it
    modal.wait_for(state="hidden")

    # Everything in the view, which is "class changes" without what is in it no more; and back.
    page.get_by_role("button", name="Accept all 10 boxes of the view").click()
    page.get_by_text("10 of 10 labels decided").wait_for()
    page.get_by_role("button", name="Undo the last step").click()
    page.get_by_text("1 of 10 labels decided").wait_for()
    app.look("end")

    run = world.folder / "runs/fine"
    done = subprocess.run(
        [*RELABEL, "review", "export", str(run), "--json", "--name", NAME],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"] == {"relabel": 1}
    content = json.loads((run / "decisions.json").read_text())
    assert len(content["annotations"]) == 10
    (decided,) = [a for a in content["annotations"] if a["decided_by"] == "human"]
    assert decided["decision"] == "relabel" and decided["before"]["category"] == "car"
    said = world.run("--review", str(run / "decisions.json"))
    assert "decisions respected: 1 relabel" in said.stdout
    merged = json.loads((run / "result/merged.json").read_text())
    (now,) = [a for a in merged["annotations"] if a.get("decided_by") == "human"]
    names = {c["id"]: c["name"] for c in merged["categories"]}
    assert names[now["category_id"]] == "bus" and now["bbox"] == decided["bbox"]
    assert now["decided_at"] == decided["decided_at"]


@pytest.fixture
def checked(world: World, database: None, chromium: Any) -> Iterator[App]:
    """A run with a check that accuses one label and misses a box."""
    world.run()
    merged = world.folder / "runs/fine/result/merged.json"
    content = json.loads(merged.read_text())
    files = {image["id"]: image["file_name"] for image in content["images"]}
    names = {c["id"]: c["name"] for c in content["categories"]}
    label = next(
        a for a in content["annotations"] if files[a["image_id"]].startswith("images/coarse/")
    )
    where = files[label["image_id"]].removeprefix("images/")
    bbox, category = label["bbox"], names[label["category_id"]]
    accused = suspect(
        *(1, "spurious box", where, 0.75), annotation_id=label["id"], category=category, bbox=bbox
    )
    missing = suspect(
        *(2, "missing box", where, 0.5), proposed_category=category, proposed_bbox=[1, 1, 9, 9]
    )
    write_check(world.folder / "runs/check/fine", merged, [accused, missing])
    opened = App(world.folder / "runs/fine", chromium)
    try:
        yield opened
    finally:
        opened.close()


def test_a_suspect_is_decided_about_in_the_app(checked: App) -> None:
    """The panel is about the label that is accused, and leaves the suspects alone."""
    page = checked.page
    page.get_by_text("0 of 10 labels decided").wait_for()
    checked.open_view("suspects: missing box")
    page.get_by_role("button", name="Accept 0 boxes of the view").wait_for()
    page.locator('[data-cy="saved-views-selection"]').first.click()
    page.get_by_text("suspects: spurious box", exact=True).first.click()
    page.get_by_role("button", name="Reject 1 box of the view").click()
    page.get_by_text("1 of 10 labels decided").wait_for()
    checked.look("suspect_rejected")
    page.get_by_role("button", name="Restore 1 box of the view").wait_for()
    page.get_by_role("button", name="Undo the last step").click()
    page.get_by_text("0 of 10 labels decided").wait_for()
