"""Specialists: they learn, respect ignore regions, and survive a round trip and an interruption."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from relabel.datasets.pixels.location import load_rgb
from relabel.detectors.load import load_detector
from relabel.detectors.settings import SpecialistSettings
from relabel.detectors.specialist import TrainingBatches, train_specialist
from relabel.errors import DataError
from relabel.evaluation.detector import validator
from relabel.geometry import inside_ignored, iou_matrix
from relabel.training.pixels import resized, stack_images
from tests.builders.blocks import make_world
from tests.builders.detectors import RUNTIME, assert_resumes, tiny_detector


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> SpecialistSettings:
    return tiny_detector(tmp_path_factory.mktemp("backbone"), steps=150)


@pytest.mark.slow
def test_a_specialist_finds_and_names_blocks_it_has_not_seen(
    settings: SpecialistSettings, tmp_path: Path
) -> None:
    train = make_world(tmp_path / "train", images=40).target
    fresh = make_world(tmp_path / "fresh", images=10, seed=1).target
    folder = train_specialist(
        train, tmp_path / "out", settings, RUNTIME, validate=validator(fresh, RUNTIME)
    )
    history = json.loads((folder / "metrics.json").read_text())["validation"]
    assert history[-1]["step"] == 150
    assert history[-1]["AP50"] > 0.5
    detector = load_detector(folder, device="cpu")
    assert detector.space.class_names == ["red", "blue"]
    found = detector.predict([load_rgb(fresh, i) for i in range(len(fresh))])
    hits = total = 0
    for i, row in enumerate(found):
        assert row.scores.shape == (len(row), 2)
        assert row.boxes.dtype == np.float32
        sure = row.take(np.flatnonzero(row.scores.max(axis=1, initial=0) > 0.5))
        truth = fresh.boxes.xyxy[fresh.rows(i)]
        iou = iou_matrix(sure.boxes, truth)
        for j, category in enumerate(fresh.boxes.category[fresh.rows(i)]):
            total += 1
            if len(sure) and iou[:, j].max() > 0.5:
                hits += int(sure.scores[iou[:, j].argmax()].argmax() == category)
    assert hits / total > 0.6


@pytest.mark.slow
def test_an_interrupted_specialist_ends_with_the_same_weights(
    settings: SpecialistSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_world(tmp_path / "data", images=6).target
    short = replace(settings, steps=6, checkpoint_every=0.0)
    assert_resumes(
        lambda name: train_specialist(data, tmp_path / name, short, RUNTIME),
        TrainingBatches,
        4,
        monkeypatch,
    )


def test_boxes_and_ignore_regions_follow_flip_and_scale(
    settings: SpecialistSettings, tmp_path: Path
) -> None:
    data = make_world(tmp_path, images=2).target
    ignore = np.zeros(len(data.boxes), bool)
    ignore[0] = True
    data = data.with_boxes(replace(data.boxes, ignore=ignore))
    always = replace(settings, flip=1.0, scale_jitter=(2.0, 2.0), color_jitter=0.0, batch_size=2)
    pixels, sizes, targets = TrainingBatches(data, always, 32)(0)
    assert isinstance(pixels, torch.Tensor) and pixels.shape == (2, 3, 192, 192)
    assert sizes == [(192, 192)] * 2
    first = next(t for t in targets if len(t["ignored"]))
    x1, y1, x2, y2 = data.boxes.xyxy[0] * 2
    assert first["ignored"].tolist() == [[192 - x2, y1, 192 - x1, y2]]
    both = sum(len(t["boxes"]) + len(t["ignored"]) for t in targets)
    assert both == len(data.boxes)
    # The block's colour lies where its moved box says.
    inside = pixels[
        targets.index(first), :, int(y1) + 4 : int(y2) - 4, int(192 - x2) + 4 : int(192 - x1) - 4
    ]
    mean = inside.mean(dim=(1, 2))
    assert int(mean.argmax()) == [0, 2][int(data.boxes.category[0])]


def test_proposals_inside_an_ignore_region_are_no_background() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [6, 0, 16, 10]])
    region = torch.tensor([[0.0, 0, 12, 12]])
    # The third box lies inside by six of its ten columns.
    assert inside_ignored(boxes, region).tolist() == [True, False, True]
    assert inside_ignored(boxes, region[:0]).tolist() == [False] * 3


def test_images_of_several_sizes_share_a_padded_batch() -> None:
    batch, sizes, scales = stack_images(
        [np.zeros((100, 200, 3), np.uint8), np.full((50, 50, 3), 255, np.uint8)], 64, 100, 32
    )
    assert sizes == [(50, 100), (64, 64)]
    assert scales == [(0.5, 0.5), (1.28, 1.28)]
    assert batch.shape == (2, 3, 64, 128)
    assert float(batch[1, :, :64, :64].min()) == 1.0
    assert float(batch[1, :, :, 64:].max()) == 0.0
    assert resized(480, 640, 800, 1333) == (800, 1067)


def test_damaged_checkpoints_are_named(settings: SpecialistSettings, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no config\.json.*train-specialist"):
        load_detector(tmp_path)
    (tmp_path / "config.json").write_text('{"detector": "faster_rcnn"')
    with pytest.raises(DataError, match=r"config\.json: not valid JSON: it is cut off"):
        load_detector(tmp_path)
    (tmp_path / "config.json").write_text('{"detector": "yolo99"}')
    with pytest.raises(DataError, match=r"unknown detector type 'yolo99'"):
        load_detector(tmp_path)


def test_a_dataset_without_boxes_cannot_be_learned(
    settings: SpecialistSettings, tmp_path: Path
) -> None:
    data = make_world(tmp_path / "data", images=1).target
    ignored = np.ones(len(data.boxes), bool)
    data = data.with_boxes(replace(data.boxes, ignore=ignored))
    with pytest.raises(DataError, match="no boxes to learn from"):
        train_specialist(data, tmp_path / "out", settings, RUNTIME)
