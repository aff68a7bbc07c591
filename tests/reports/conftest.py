"""A headless Chromium, where one is installed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser of the system, or the one that playwright installed; skips without."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed; `pip install relabel[dev]`"
    )
    found = os.environ.get("RELABEL_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), "")
    with playwright.sync_playwright() as running:
        path = found or running.chromium.executable_path
        if not Path(path).is_file():
            pytest.skip("no Chromium; install one, or name it in $RELABEL_CHROMIUM")
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
