"""What tests share: real data where it is at hand, and small datasets on disk."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.builders import datasets, store

# A busy machine is no failure.
settings.register_profile("relabel", deadline=None)
settings.load_profile("relabel")

# A background job of a shell without job control starts with Ctrl-C ignored, and its children
# would inherit that; the tests that interrupt a process need it to listen.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked ``cuda`` where there is none; torch is imported for that alone."""
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available() and "RELABEL_CUDA_TESTS_ON" not in os.environ:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no GPU"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and weights; tests that ask for it skip where it is absent."""
    folder = Path(os.environ.get("RELABEL_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no shared data at {folder}; set RELABEL_SHARED to use it")
    return folder


@pytest.fixture
def coco_set(tmp_path: Path) -> Callable[..., Path]:
    """`tests.builders.datasets.coco_set` under ``tmp_path``, or under another ``folder``."""

    def make(name: str, classes: list[str], images: int = 4, folder: Path | None = None) -> Path:
        return datasets.coco_set(folder or tmp_path, name, classes, images)

    return make


@pytest.fixture(scope="session")
def s3_client() -> Iterator[Any]:
    """A client of `tests.builders.store.s3_server`; skips without moto and s3fs."""
    with store.s3_server() as client:
        yield client


@pytest.fixture
def bucket(s3_client: Any) -> store.Store:
    """An empty bucket of an object store on this machine."""
    return store.new_store(s3_client)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser of the system, or the one that playwright installed; skips without."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed; `pip install relabel[dev]`"
    )
    found = os.environ.get("RELABEL_CHROMIUM") or next(
        filter(None, map(shutil.which, _BROWSERS)), ""
    )
    with playwright.sync_playwright() as running:
        path = found or running.chromium.executable_path
        if not Path(path).is_file():
            pytest.skip("no Chromium; install one, or name it in $RELABEL_CHROMIUM")
        browser = running.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--use-gl=swiftshader"]
        )
        yield browser
        browser.close()
