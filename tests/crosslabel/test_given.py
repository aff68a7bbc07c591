"""A source's boxes through a box head: shards, resuming, what does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relabel.crosslabel import given
from relabel.crosslabel.given import label_given_boxes, read_given_labels
from relabel.crosslabel.settings import CrossLabelSettings
from relabel.datasets.dataset import DetectionDataset, Images, make_boxes
from relabel.datasets.labelspace import LabelSpace
from relabel.detectors.base import BoxScores
from relabel.errors import ConfigError, DataError, Problems
from relabel.settings import Runtime
from tests.builders.datasets import dataset_of, write_pixels

SETTINGS = CrossLabelSettings(batch_size=2, shard_images=3)
RUNTIME = Runtime(device="cpu", workers=0, quiet=True)
SPACE = LabelSpace.from_names("fine", ["car", "bus"])
IDS = [70, 20, 50, 40, 30]


class FakeHead:
    """Wide boxes are buses; a car's box moves by ``shift``, a bus's by ten more."""

    def __init__(self, shift: float) -> None:
        self.space = SPACE
        self.shift = shift
        self.seen: list[int] = []

    def score_boxes(
        self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]
    ) -> list[BoxScores]:
        self.seen += [int(image[0, 0, 0]) for image in images]
        found = []
        for b in boxes:
            wide = (b[:, 2] - b[:, 0]) > 10
            scores = np.where(wide[:, None], [0.2, 0.6], [0.7 - self.shift / 10, 0.1])
            moved = np.stack([b + self.shift, b + self.shift + 10], axis=1)
            found.append(BoxScores(scores.astype(np.float32), moved.astype(np.float32)))
        return found


@pytest.fixture
def source(tmp_path: Path) -> DetectionDataset:
    """Four images, the third without boxes; one box is a region to leave out."""
    names = [f"{i}.png" for i in range(4)]
    for i, name in enumerate(names):
        write_pixels(tmp_path / "images" / name, np.full((40, 60, 3), i, np.uint8))
    images = Images(np.arange(4), names, np.full(4, 60, np.int32), np.full(4, 40, np.int32))
    boxes = make_boxes(
        [0, 0, 1, 3, 3],
        [[0, 0, 5, 5], [10, 0, 20, 5], [1, 1, 6, 6], [0, 0, 50, 30], [5, 5, 8, 8]],
        [0, 0, 0, 0, 0],
        ignore=[False, False, False, True, False],
        id=IDS,
    )
    return dataset_of("old", ["vehicle"], images, boxes, root=tmp_path / "images")


@pytest.fixture
def heads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    made: dict[str, Any] = {"one": FakeHead(0.0), "two": FakeHead(2.0)}
    for name in made:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(name)
    monkeypatch.setattr(given, "load_detector", lambda folder, device: made[folder.name])
    return made


def test_boxes_keep_their_annotation_and_heads_score_together(
    source: DetectionDataset, heads: dict[str, Any], tmp_path: Path
) -> None:
    folders, out = [tmp_path / "one", tmp_path / "two"], tmp_path / "out"
    label_given_boxes(folders, source, out, SETTINGS, RUNTIME)
    found = read_given_labels(out)
    assert (found.space, found.by, found.on) == (SPACE, "fine", "old")
    assert list(found.file_name) == list(source.images.file_name)
    assert found.coverage.all()
    assert found.annotation is not None
    assert found.annotation.tolist() == [70, 20, 50, 30]
    assert found.image.tolist() == [0, 0, 1, 3]
    assert found.category.tolist() == [0, 1, 0, 0]
    assert found.scores[:2] == pytest.approx(np.array([[0.6, 0.1], [0.2, 0.6]]))
    # The mean of both heads' boxes, as one of the best class.
    assert found.boxes.tolist() == [
        [1, 1, 6, 6],
        [21, 11, 41, 16],
        [2, 2, 8, 8],
        [6, 6, 14, 14],
    ]


def test_what_is_cut_off_goes_on_and_other_boxes_start_anew(
    source: DetectionDataset, heads: dict[str, Any], tmp_path: Path
) -> None:
    head, folder, out = heads["one"], tmp_path / "one", tmp_path / "out"
    label_given_boxes([folder], source, out, SETTINGS, RUNTIME)
    whole = {path.name: path.read_bytes() for path in out.iterdir()}
    assert len(whole) == 2
    sorted(out.iterdir())[1].unlink()
    head.seen.clear()
    label_given_boxes([folder], source, out, SETTINGS, RUNTIME)
    assert head.seen == [3]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == whole
    moved = source.with_boxes(replace(source.boxes, xywh=source.boxes.xywh + np.eye(4)[0]))
    head.seen.clear()
    label_given_boxes([folder], moved, out, SETTINGS, RUNTIME)
    assert sorted(head.seen) == [0, 1, 2, 3]
    head.seen.clear()
    label_given_boxes([tmp_path / "two"], moved, out, SETTINGS, RUNTIME)
    assert sorted(heads["two"].seen) == [0, 1, 2, 3]


def test_images_that_cannot_be_read(
    source: DetectionDataset, heads: dict[str, Any], tmp_path: Path
) -> None:
    source.image_path(0).write_bytes(b"")
    with pytest.raises(DataError, match=r"0\.png"):
        label_given_boxes([tmp_path / "one"], source, tmp_path / "out", SETTINGS, RUNTIME)
    problems = Problems(skip_bad=True)
    args = (source, tmp_path / "out", SETTINGS, replace(RUNTIME, skip_bad=True))
    label_given_boxes([tmp_path / "one"], *args, problems=problems)
    found = read_given_labels(tmp_path / "out")
    assert found.coverage.tolist() == [False, True, True, True]
    assert found.annotation is not None
    assert found.annotation.tolist() == [50, 30]


def test_a_detector_without_a_box_head(
    source: DetectionDataset, heads: dict[str, Any], tmp_path: Path
) -> None:
    heads["one"] = object()
    with pytest.raises(ConfigError, match=r"no head that .* given boxes\. Take specialists"):
        label_given_boxes([tmp_path / "one"], source, tmp_path / "out", SETTINGS, RUNTIME)
