"""The certainty-aware Faster R-CNN learns, says how sure it is, and survives being kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from relabel.crosslabel.label import cross_label
from relabel.crosslabel.settings import CrossLabelSettings
from relabel.crosslabel.shards import read_pseudo_labels
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.pixels.location import load_rgb
from relabel.detectors.certainty import intervals
from relabel.detectors.certainty.detector import FAMILY
from relabel.detectors.family import NetworkDetector
from relabel.detectors.load import load_detector
from relabel.detectors.settings import SpecialistSettings
from relabel.detectors.specialist import TrainingBatches, train_specialist
from relabel.detectors.training import new_trainable
from relabel.evaluation.detector import evaluate_detector, validator
from relabel.geometry import iou_matrix
from relabel.settings import Ranking, settings_dict
from tests.builders.blocks import World, make_world
from tests.builders.detectors import (
    CPU,
    RUNTIME,
    SPACE,
    assert_resumes,
    learn,
    losses,
    target,
    tiny_detector,
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> SpecialistSettings:
    return tiny_detector(tmp_path_factory.mktemp("backbone"), "certainty", steps=150)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("fresh"), images=12, seed=1)


@pytest.fixture(scope="module")
def trained(
    settings: SpecialistSettings, fresh: World, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train = make_world(folder / "train", images=40).target
    return train_specialist(
        train, folder / "out", settings, RUNTIME, validate=validator(fresh.target, RUNTIME)
    )


def loaded(folder: Path) -> NetworkDetector:
    detector = load_detector(folder, device="cpu")
    assert isinstance(detector, NetworkDetector)
    return detector


@pytest.mark.slow
def test_it_finds_unseen_blocks_and_knows_how_well(trained: Path, fresh: World) -> None:
    history = json.loads((trained / "metrics.json").read_text())["validation"]
    assert history[-1]["AP50"] > 0.5
    assert history[-1]["AP75"] > 0.2
    data = fresh.target
    detector = loaded(trained)
    certain, probable, iou = [], [], []
    for i, found in enumerate(detector.predict([load_rgb(data, i) for i in range(len(data))])):
        assert found.quality is not None
        assert found.quality.shape == (len(found),)
        assert found.quality.dtype == np.float32
        assert found.quality.min(initial=0) >= 0 and found.quality.max(initial=0) <= 1
        assert found.ranking == detector.settings.certainty_ranking
        rows = np.flatnonzero(found.scores.max(axis=1, initial=0) > 0.05)
        truth = data.boxes.xyxy[data.rows(i)]
        iou.append(iou_matrix(found.boxes[rows], truth).max(axis=1, initial=0))
        probable.append(found.scores[rows].max(axis=1))
        certain.append(found.quality[rows] * probable[-1])
    both: Any = [spearmanr(np.concatenate(x), np.concatenate(iou)) for x in (probable, certain)]
    # p * v says more about how well a box lies than p.
    assert both[1].statistic > max(0.3, both[0].statistic + 0.02)


@pytest.mark.slow
def test_the_checkpoint_predicts_what_was_measured(trained: Path, fresh: World) -> None:
    history = json.loads((trained / "metrics.json").read_text())["validation"]
    again = evaluate_detector(loaded(trained), fresh.target, RUNTIME).to_dict()
    assert again["AP"] == pytest.approx(history[-1]["AP"], abs=1e-6)


@pytest.mark.slow
def test_each_ranking_orders_detections_by_itself(trained: Path, fresh: World) -> None:
    image = load_rgb(fresh.target, 0)
    for ranking in get_args(Ranking):
        detector = loaded(trained)
        model: Any = detector.model
        model.ranking = model.roi_heads.ranking = ranking
        (found,) = detector.predict([image])
        best = found.confidences.max(axis=1)
        assert len(best) > 3
        assert (np.diff(best) <= 1e-6).all()


@pytest.mark.slow
def test_quality_survives_cross_label_shards(trained: Path, fresh: World, tmp_path: Path) -> None:
    how = CrossLabelSettings()
    out = tmp_path / "labels"
    cross_label(trained, fresh.source, out, how, RUNTIME)
    labels = read_pseudo_labels(out)
    (found,) = loaded(trained).predict([load_rgb(fresh.source, 0)])
    assert labels.quality is not None and found.quality is not None
    mine = labels.image == 0
    assert mine.any()
    # Class-wise NMS drops some; those that stay have the quality they had.
    for box, quality in zip(labels.boxes[mine], labels.quality[mine], strict=True):
        row = np.abs(found.boxes - box).sum(axis=1).argmin()
        assert quality == pytest.approx(found.quality[row], abs=1e-4)


@pytest.mark.slow
def test_given_boxes_are_refined_to_one_box_for_all_classes(trained: Path, fresh: World) -> None:
    data = fresh.target
    images = [load_rgb(data, i) for i in range(2)]
    truth = [data.boxes.xyxy[data.rows(i)].astype(np.float32) for i in range(2)]
    shifted = [b + np.array([4, -3, 4, -3], np.float32) for b in truth]
    detector = loaded(trained)
    first, second = detector.score_boxes(images, shifted)
    for found, boxes, given in zip((first, second), truth, shifted, strict=True):
        assert found.scores.shape == (len(boxes), 2)
        assert found.boxes.shape == (len(boxes), 2, 4)
        assert np.array_equal(found.boxes[:, 0], found.boxes[:, 1])
        ious = np.diag(iou_matrix(found.boxes[:, 0], boxes))
        assert ious.mean() > np.diag(iou_matrix(given, boxes)).mean()
    none = np.zeros((0, 4), np.float32)
    alone, empty = detector.score_boxes(images, [shifted[0], none])
    np.testing.assert_allclose(alone.boxes, first.boxes, atol=1e-2)
    assert empty.scores.shape == (0, 2) and empty.boxes.shape == (0, 2, 4)
    # A point, and a box wider than the image.
    odd = np.array([[10, 10, 10, 10], [-50, 5, 500, 9]], np.float32)
    (found,) = detector.score_boxes(images[:1], [odd])
    assert np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()


@pytest.mark.slow
def test_a_restricted_copy_keeps_the_boxes_and_some_classes(trained: Path, fresh: World) -> None:
    detector = loaded(trained)
    whole = FAMILY.load(trained, "cpu")
    part = FAMILY.restrict(whole.model, [1])
    image = load_rgb(fresh.target, 0)
    boxes = [fresh.target.boxes.xyxy[fresh.target.rows(0)].astype(np.float32)]
    (all_of_them,) = detector.score_boxes([image], boxes)
    detector.model = part.eval()
    (mine,) = detector.score_boxes([image], boxes)
    assert mine.scores.shape == (len(boxes[0]), 1)
    assert np.array_equal(mine.boxes[:, 0], all_of_them.boxes[:, 1])
    # Without the other class, the softmax gives its share to what is left.
    expected = all_of_them.scores[:, 1] / (1 - all_of_them.scores[:, 0])
    np.testing.assert_allclose(mine.scores[:, 0], expected, rtol=1e-3)


@pytest.mark.slow
def test_an_interrupted_training_ends_with_the_same_weights(
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


def test_a_frozen_backbone_s_maps_are_kept(settings: SpecialistSettings, tmp_path: Path) -> None:
    frozen = replace(settings, frozen_stride=32).resolved()
    assert frozen.keeps_maps and frozen.scale_jitter == (1.0, 1.0)
    store = new_trainable(SPACE, frozen).map_store(tmp_path, CPU)
    assert store is not None
    data = make_world(tmp_path / "data", images=2).target
    frozen = replace(frozen, steps=2, batch_size=2)
    folder = train_specialist(data, tmp_path / "out", frozen, RUNTIME)
    assert json.loads((folder / "training.json").read_text())["steps"] == 2


def test_images_without_boxes_and_of_one_class(settings: SpecialistSettings) -> None:
    trainable = new_trainable(LabelSpace.from_names("one", ["a"]), settings)
    empty = target([], [])
    parts = losses(trainable, [empty, empty])
    assert parts["loss_box_interval"].item() == parts["loss_box_offset"].item() == 0.0
    learn(parts)
    parts = losses(trainable, [empty, target([[10, 10, 40, 40]], [1])])
    assert parts["loss_box_interval"].item() > 0
    learn(parts)
    heads: Any = trainable.model
    gradients = [p.grad for p in heads.roi_heads.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    blank = np.zeros((60, 80, 3), np.uint8)
    for found in trainable.detector(CPU).predict([blank, blank]):
        assert found.scores.shape == (len(found), 1)
        assert found.quality is not None and len(found.quality) == len(found)


def test_an_image_where_nothing_is_found_has_no_quality_values(
    settings: SpecialistSettings,
) -> None:
    trainable = new_trainable(SPACE, settings)
    model: Any = trainable.model
    torch.nn.init.constant_(model.roi_heads.box_predictor.cls_score.bias, 0.0)
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias[0] = 100
    (found,) = trainable.detector(CPU).predict([np.zeros((60, 80, 3), np.uint8)])
    assert len(found) == 0
    assert found.quality is not None and found.quality.shape == (0,)


def test_ignored_regions_are_no_background(settings: SpecialistSettings) -> None:
    """Where all of an image is ignored, only what matches an object is learned from."""
    trainable = new_trainable(SPACE, settings)
    boxes = target([[10, 10, 40, 40]], [1])
    plain = losses(trainable, [boxes])
    hidden = losses(trainable, [{**boxes, "ignored": torch.tensor([[0.0, 0, 96, 64]])}])
    # Fewer RoIs are left, nearly all of them positive.
    name = "loss_box_interval"
    assert hidden[name].item() > 2 * plain[name].item()


def test_localisation_is_learned_whatever_the_class(settings: SpecialistSettings) -> None:
    trainable = new_trainable(SPACE, settings)
    as_first = losses(trainable, [target([[10, 10, 40, 40]], [1])])
    as_third = losses(trainable, [target([[10, 10, 40, 40]], [3])])
    for name in ("loss_box_interval", "loss_box_offset"):
        assert torch.equal(as_first[name], as_third[name])


def test_the_head_s_cells_lie_where_its_intervals_do(settings: SpecialistSettings) -> None:
    """Of a map that is bright at a place, the best interval can be the one at that place."""
    model: Any = new_trainable(SPACE, replace(settings, certainty_intervals=7)).model
    heads = model.roi_heads.eval()
    width = settings.fpn_channels
    maps = {str(s): torch.zeros(1, width, 96 // s, 96 // s) for s in settings.fpn_strides}
    maps["4"][:, :, :, 5] = 1  # pixels 20 to 24
    box = torch.tensor([[24.0, 24, 64, 64]])
    around = intervals.reach(box, heads.scale)
    pooled = heads.side_pool(maps, [around], [(96, 96)])
    cells = pooled[0, 0, 7]
    # The box around it starts at 10 and its 14 cells are 4.86 wide: pixel 22 is in the third.
    assert int(cells.argmax()) == 2
    assert pooled.shape == (1, width, 14, 14)
    scores, offsets = heads.side_head(pooled)
    assert scores.shape == offsets.shape == (1, 4, 7)


def test_other_detectors_settings_have_not_changed(settings: SpecialistSettings) -> None:
    plain, transformer = (
        SpecialistSettings(detector=d).result_dict() for d in ("faster-rcnn", "rt-detr")
    )
    for values in (plain, transformer):
        assert not [k for k in values if k.startswith("certainty_")]
    mine = settings.result_dict()
    assert [k for k in mine if k.startswith("certainty_")] == [
        "certainty_intervals",
        "certainty_segment",
        "certainty_quality",
        "certainty_ranking",
    ]
    assert not [k for k in mine if k.startswith("rtdetr_")]
    assert mine["detector"] == "certainty" and "detector" not in plain
    assert set(plain) == set(mine) - {"detector"} - {k for k in mine if k.startswith("certainty")}
    values = settings_dict(settings)
    assert {k for k in values if k not in mine} == {
        k for k in values if k.startswith("rtdetr_") or k == "decay"
    }


def test_the_standard_preset_is_the_faster_rcnn_s() -> None:
    mine = SpecialistSettings(preset="standard", detector="certainty").resolved()
    assert replace(mine, detector="faster-rcnn") == SpecialistSettings(preset="standard").resolved()
