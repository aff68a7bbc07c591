"""``relabel cross-label`` with a detector that finds the same in every image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from relabel.crosslabel import label
from relabel.datasets.labelspace import LabelSpace
from relabel.detectors.base import Detections
from tests.builders.datasets import write_pixels
from tests.commands.test_evaluate import run

SPACE = LabelSpace.from_names("fine", ["car", "bus", "tram"])


class Same:
    """Three cars and a bus, one car of them poorly located."""

    space = SPACE

    def predict(self, images: Sequence[np.ndarray]) -> list[Detections]:
        scores = np.zeros((4, 3), np.float32)
        scores[[0, 1, 2, 3], [0, 0, 0, 1]] = 0.9, 0.8, 0.5, 0.48
        boxes = np.array([[9 * k, 0, 9 * k + 8, 8] for k in range(4)], np.float32)
        quality = np.array([0.9, 0.3, 0.9, 0.9], np.float32)
        return [Detections(boxes, scores, quality) for _ in images]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str | Path]:
    monkeypatch.setattr(label, "load_detector", lambda *a, **k: Same())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "specialist").mkdir()
    for i in range(3):
        write_pixels(tmp_path / "coarse" / f"{i}.png", np.zeros((40, 40, 3), np.uint8))
    content = {
        "images": [
            {"id": i + 1, "file_name": f"{i}.png", "width": 40, "height": 40} for i in range(3)
        ],
        "categories": [{"id": 1, "name": "vehicle"}],
        "annotations": [],
    }
    (tmp_path / "coarse" / "labels.json").write_text(json.dumps(content))
    data = tmp_path / "coarse" / "labels.json"
    return ["cross-label", "specialist", data, "--format", "coco", "--device", "cpu"]


def test_labels_by_one_threshold(
    command: list[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text, _ = run(capsys, *command, "--out", tmp_path / "out", "--json")
    assert code == 0
    content = json.loads(text)
    assert content["boxes"] == 12
    assert content["classes"]["bus"] == {"candidates": 3, "kept": 3, "threshold": 0.05}


def test_labels_by_a_threshold_per_class(
    command: list[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--threshold", "classwise", "--set", "crosslabel.tau=0.5")
    made = (*command, *options, "--out", tmp_path / "out")
    code, text, _ = run(capsys, *made, "--json")
    assert code == 0
    content = json.loads(text)
    # 12 candidates, 4 on average over 3 classes; sums of p * v: 3 * 1.5 and 3 * 0.432.
    car, bus = (1.5 * 3 / 4) ** 0.05 * 0.5, (0.432 * 3 / 4) ** 0.05 * 0.5
    assert content["classes"]["car"]["threshold"] == pytest.approx(car, abs=1e-4)
    assert content["classes"]["bus"]["threshold"] == pytest.approx(bus, abs=1e-4)
    kept = {name: values["kept"] for name, values in content["classes"].items()}
    assert kept == {"car": 6, "bus": 3, "tram": 0}  # 0.5 < 0.503, 0.48 > 0.473
    assert content["boxes"] == 9
    code, text, err = run(capsys, *made)
    assert code == 0 and "Labelled already" in err
    assert "│ bus   │          3 │    3 │     0.473 │" in text
    assert "tram" not in text and "9 boxes on 3 images" in text
    # Of v alone the second car is poor, and the third is not.
    code, text, _ = run(capsys, *made, "--json", "--threshold-on", "quality", "--overwrite")
    assert code == 0
    assert json.loads(text)["classes"]["car"]["kept"] == 6
    code, _, err = run(capsys, *made)
    assert code and "--overwrite" in err


def test_dry_run_measures_and_writes_nothing(
    command: list[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = (*command, "--set", "crosslabel.shard_images=2", "--out", tmp_path / "out")
    code, text, _ = run(capsys, *made, "--dry-run")
    assert code == 0 and not (tmp_path / "out").exists()
    first, takes, writes = text.splitlines()
    assert first.startswith("3 images in 2 shards, by ") and takes.startswith("takes about ")
    assert "from 3 images" in takes
    assert writes.startswith("writes about ") and writes.endswith(" are free there")
    content = json.loads(run(capsys, *made, "--dry-run", "--json")[1])
    assert (content["images"], content["shards"], content["workers"]) == (3, 2, 1)
    assert content["seconds"] > 0 and content["bytes"] > 0

    assert run(capsys, *made)[0] == 0
    (shard, _) = sorted((tmp_path / "out").glob("shard-*.parquet"))
    assert run(capsys, *made, "--dry-run")[1] == "nothing is left to do\n"
    shard.unlink()
    assert run(capsys, *made, "--dry-run")[1].startswith("2 images in 1 shard, ")
    changed = (*made, "--min-score", "0.3", "--dry-run")
    code, _, err = run(capsys, *changed)
    assert code == 1 and "--overwrite" in err
    assert run(capsys, *changed, "--overwrite")[1].startswith("3 images in 2 shards, ")
