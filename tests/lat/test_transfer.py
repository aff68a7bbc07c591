"""Label-Aligned Transfer end to end on a tiny world, and its resume."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from relabel.datasets.dataset import DetectionDataset
from relabel.geometry import iou_matrix
from relabel.lat.checkpoint import TrainedTransfer
from relabel.lat.settings import LatSettings
from relabel.lat.train import train_lat
from relabel.lat.transfer import transfer
from tests.builders.blocks import (
    RUNTIME,
    TINY_LAT,
    World,
    make_world,
    tiny_backbone,
    train_on_blocks,
)
from tests.builders.datasets import edit_json

SETTINGS = replace(TINY_LAT, steps=300, batch_size=8, channels=64, feature_channels=16)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), images=48)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> LatSettings:
    return replace(SETTINGS, backbone=str(tiny_backbone(tmp_path_factory.mktemp("backbone"))))


@pytest.fixture(scope="module")
def trained(world: World, settings: LatSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_on_blocks(world, settings, tmp_path_factory.mktemp("lat"))


def quality(found: DetectionDataset, truth: DetectionDataset) -> tuple[float, float, float]:
    """Mean IoU of class-blind matches at 0.5, class accuracy on them, recall."""
    ious, right, total = [], [], 0
    for row in range(len(truth)):
        a, b = found.rows(row), truth.rows(row)
        iou = iou_matrix(found.boxes.xyxy[a], truth.boxes.xyxy[b])
        total += iou.shape[1]
        for j in range(iou.shape[1]):
            if iou.shape[0] and iou[:, j].max() >= 0.5:
                i = int(iou[:, j].argmax())
                ious.append(iou[i, j])
                right.append(found.boxes.category[a][i] == truth.boxes.category[b][j])
    return float(np.mean(ious)), float(np.mean(right)), len(ious) / total


def assert_same(a: DetectionDataset, b: DetectionDataset) -> None:
    for column in ("xywh", "category", "score", "ignore", "id", "image"):
        np.testing.assert_array_equal(getattr(a.boxes, column), getattr(b.boxes, column))


@pytest.mark.slow
def test_transfer_beats_source_boxes_and_pseudo_labels(
    world: World, settings: LatSettings, trained: Path, tmp_path: Path
) -> None:
    labels = {"tight": world.labels["tight", "loose"]}
    result, _ = transfer(trained, world.source, labels, tmp_path, RUNTIME)
    iou, accuracy, recall = quality(result, world.truth)
    before, _, source_recall = quality(world.source, world.truth)
    assert iou > before + 0.05
    # Chance is a half.
    assert accuracy > 0.8
    # Small blocks, which the source leaves out, come from the target's pseudo-labels.
    assert recall > source_recall + 0.03
    provenance = result.boxes.provenance
    assert provenance is not None
    assert set(provenance.origin) <= {"source", "pseudo:tight"}
    assert "source" in provenance.origin
    linked = provenance.source_id > 0
    assert set(np.asarray(provenance.source_category, dtype=object)[linked]) == {"thing"}
    assert bool(np.all(np.isfinite(provenance.source_iou[linked])))
    assert bool(np.all(np.isnan(provenance.source_iou[~linked])))


@pytest.mark.slow
def test_labels_take_the_annotations_boxes_in_the_targets_style(
    world: World, trained: Path, settings: LatSettings, tmp_path: Path
) -> None:
    labels = {"tight": world.labels["tight", "loose"]}
    plain = tmp_path / "plain"
    shutil.copytree(trained, plain)
    edit_json(plain / "config.json", lambda c: c["settings"].update(without=["box-blending"]))
    found = {
        model: transfer(model, world.source, labels, tmp_path / model.name, RUNTIME)[0]
        for model in (plain, trained)
    }
    before, after = found[plain].boxes, found[trained].boxes
    assert np.array_equal(before.category, after.category)
    predicted, _, _ = quality(found[plain], world.truth)
    precise, _, _ = quality(found[trained], world.truth)
    # The gain depends on how a short training went, down to the number of threads.
    assert precise > predicted + 0.003
    assert after.provenance is not None
    # Those alone that are made of an annotation, not every label that lies on one.
    made_of = np.array([origin == "source" for origin in after.provenance.origin])
    moved = (before.xywh != after.xywh).any(axis=1)
    assert moved[made_of].mean() > 0.9 and not moved[~made_of].any()
    linked = np.flatnonzero(after.provenance.source_id > 0)
    at = np.searchsorted(world.source.boxes.id, after.provenance.source_id[linked])
    annotated, made = world.source.boxes.xyxy[at], after.xyxy[linked]
    overlap = [iou_matrix(a[None], b[None])[0, 0] for a, b in zip(annotated, made, strict=True)]
    assert after.provenance.source_iou[linked] == pytest.approx(overlap, abs=1e-3)


@pytest.mark.slow
def test_what_is_calibrated_is_kept_with_the_model(trained: Path) -> None:
    calibration = TrainedTransfer.load(trained, torch.device("cpu")).calibration
    # Blocks never overlap: any two that do are one object.
    assert calibration.overlaps.tolist() == [[1.0, 0.5], [0.5, 1.0]]
    # Every second side or so is the longer one, of 10 to 31 pixels.
    assert 10 <= calibration.smallest <= 14
    assert calibration.box_error is not None and (calibration.box_error.spread < 0.2).all()
    # What overlaps an object of the target is one, the surer the higher its scores.
    low, high = calibration.existence(np.array([0.2, 0.9]), np.array([2, 2]))
    assert low < high and high > 0.8


@pytest.mark.slow
def test_transfer_resumes_from_its_shards(
    world: World,
    settings: LatSettings,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = {"tight": world.labels["tight", "loose"]}
    first, left = transfer(trained, world.source, labels, tmp_path / "a", RUNTIME)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    monkeypatch.setattr("relabel.lat.transfer._transfer_rows", None)  # nothing is computed again
    again, again_left = transfer(trained, world.source, labels, tmp_path / "b", RUNTIME)
    assert_same(first, again)
    for column in ("row", "reason", "probability", "category", "score"):
        np.testing.assert_array_equal(getattr(left, column), getattr(again_left, column))


@pytest.mark.slow
def test_interrupted_training_ends_with_the_same_weights(
    world: World, settings: LatSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = {"tight": world.target, "loose": world.source}
    short = replace(settings, steps=8, checkpoint_every=0.0, folds=1)
    whole = train_lat(datasets, world.labels, "tight", tmp_path / "whole", short, RUNTIME)

    import relabel.lat.train as module

    calls = 0
    real = module.lat_losses

    def dies(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "lat_losses", dies)
    with pytest.raises(KeyboardInterrupt):
        train_lat(datasets, world.labels, "tight", tmp_path / "cut", short, RUNTIME)
    assert (tmp_path / "cut" / "parts" / "0" / "checkpoint").is_dir()
    monkeypatch.setattr(module, "lat_losses", real)
    seen: list[int] = []
    batch = module.LatBatches.__call__

    def counted(self: object, step: int) -> object:
        seen.append(step)
        return batch(self, step)  # type: ignore[arg-type]

    monkeypatch.setattr(module.LatBatches, "__call__", counted)
    cut = train_lat(datasets, world.labels, "tight", tmp_path / "cut", short, RUNTIME)
    assert min(seen) == 5
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (cut / "config.json").read_bytes() == (whole / "config.json").read_bytes()


@pytest.mark.slow
def test_ignore_regions_survive_as_ignore(
    world: World, settings: LatSettings, trained: Path, tmp_path: Path
) -> None:
    ignore = world.source.boxes.ignore.copy()
    ignore[0] = True
    source = world.source.with_boxes(replace(world.source.boxes, ignore=ignore))
    labels = {"tight": world.labels["tight", "loose"]}
    result, _ = transfer(trained, source, labels, tmp_path, RUNTIME)
    kept = np.flatnonzero(result.boxes.ignore)
    assert len(kept) == 1
    assert np.allclose(result.boxes.xywh[kept[0]], source.boxes.xywh[0], atol=1e-3)
