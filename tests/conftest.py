"""What tests share: real data where it is at hand, and small datasets on disk."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

# A busy machine is no failure.
settings.register_profile("relabel", deadline=None)
settings.load_profile("relabel")

# A background job of a shell without job control starts with Ctrl-C ignored, and its children
# would inherit that; the tests that interrupt a process need it to listen.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and weights; tests that ask for it skip where it is absent."""
    folder = Path(os.environ.get("RELABEL_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no shared data at {folder}; set RELABEL_SHARED to use it")
    return folder


@pytest.fixture
def coco_set(tmp_path: Path) -> Callable[..., Path]:
    """Makes a COCO dataset of small images under ``tmp_path / name`` and returns its root.

    Image ``i`` is 64 x 48 and holds one box per class ``c`` at (4 + 10 c, 5 + i) of size 8 x 6.
    """

    def make(name: str, classes: list[str], images: int = 4, folder: Path | None = None) -> Path:
        root = (folder or tmp_path) / name
        (root / "images").mkdir(parents=True)
        rng = np.random.default_rng(len(name))
        records, annotations = [], []
        for i in range(images):
            pixels = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / f"{i:03d}.png")
            records.append(
                {"id": i + 1, "file_name": f"images/{i:03d}.png", "width": 64, "height": 48}
            )
            for c in range(len(classes)):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": i + 1,
                        "category_id": c + 1,
                        "bbox": [4.0 + 10 * c, 5.0 + i, 8.0, 6.0],
                        "area": 48.0,
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": c + 1, "name": label} for c, label in enumerate(classes)]
        data = {"images": records, "annotations": annotations, "categories": categories}
        (root / "train.json").write_text(json.dumps(data), encoding="utf-8")
        return root

    return make
