"""A detector on a frozen backbone learns from maps that are kept, and runs on pixels."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from relabel.backbones.stored import MapStore
from relabel.crosslabel.ensemble import EnsembleDetector
from relabel.crosslabel.label import cross_label
from relabel.crosslabel.pseudo import PseudoLabels
from relabel.crosslabel.settings import CrossLabelSettings
from relabel.crosslabel.shards import read_pseudo_labels
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.pixels.location import load_rgb
from relabel.detectors.base import Detector
from relabel.detectors.load import load_detector
from relabel.detectors.settings import SpecialistSettings
from relabel.detectors.specialist import TrainingBatches, train_specialist
from relabel.detectors.training import new_trainable, on_device
from relabel.evaluation.detector import evaluate_detector
from tests.builders.blocks import World, make_world
from tests.builders.detectors import CPU, RUNTIME, assert_resumes, tiny_detector


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> SpecialistSettings:
    folder = tmp_path_factory.mktemp("backbone")
    return tiny_detector(folder, steps=6, frozen_stride=32, batch_size=4).resolved()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), images=6)


def test_a_frozen_body_switches_off_what_changes_pixels(settings: SpecialistSettings) -> None:
    assert settings.keeps_maps
    assert settings.scale_jitter == (1.0, 1.0)
    assert settings.color_jitter == 0.0
    part = replace(settings, frozen_stride=16, color_jitter=0.3).resolved()
    assert not part.keeps_maps
    assert part.color_jitter == 0.3


def test_losses_and_gradients_are_those_on_pixels(
    settings: SpecialistSettings, world: World, tmp_path: Path
) -> None:
    trainable = new_trainable(world.target.space, settings)
    model = trainable.model.to(memory_format=torch.channels_last)  # pyright: ignore
    assert not any(p.requires_grad for p in model.pretrained().parameters())
    store = trainable.map_store(tmp_path, CPU)
    assert store is not None
    both = []
    for kept in (store, None):
        batches = TrainingBatches(world.target, settings, model.divisor, kept, RUNTIME)
        batch = on_device(batches(3), CPU)
        torch.manual_seed(1)
        parts = model.train()(*batch)
        model.zero_grad()
        torch.stack(list(parts.values())).sum().backward()
        both.append((batch, parts, {n: p.grad for n, p in model.named_parameters()}))
    (_, sizes, targets), losses, gradients = both[0]
    (_, live_sizes, live_targets), live_losses, live_gradients = both[1]
    assert sizes == live_sizes
    for one, other in zip(targets, live_targets, strict=True):
        assert torch.equal(one["boxes"], other["boxes"])
    for name, value in losses.items():
        torch.testing.assert_close(value, live_losses[name], rtol=2e-2, atol=1e-3)
    name = "backbone.fpn.inner_blocks.2.0.weight"
    one, other = gradients[name], live_gradients[name]
    assert one is not None and other is not None
    assert torch.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.98


def test_a_training_reads_no_pixels_once_the_maps_are_there(
    settings: SpecialistSettings, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = tmp_path / "maps"
    first = train_specialist(world.target, tmp_path / "first", settings, RUNTIME, maps=maps)
    assert maps.is_dir() and not (first / "maps").exists()
    alone = train_specialist(world.target, tmp_path / "alone", settings, RUNTIME)
    assert not (alone / "maps").exists()

    def none(*_: object) -> None:
        raise AssertionError("pixels are read, or the body runs")

    with monkeypatch.context() as patched:
        patched.setattr(MapStore, "_write", none)
        patched.setattr("relabel.detectors.specialist.load_rgb", none)
        again = train_specialist(world.target, tmp_path / "again", settings, RUNTIME, maps=maps)
    for folder in (again, alone):
        for name in ("model.safetensors", "config.json"):
            assert (folder / name).read_bytes() == (first / name).read_bytes()
    assert json.loads((first / "training.json").read_text())["steps"] == 6


def test_a_checkpoint_runs_on_pixels_as_on_kept_maps(
    settings: SpecialistSettings, world: World, tmp_path: Path
) -> None:
    folder = train_specialist(
        world.target, tmp_path / "out", replace(settings, steps=60, lr=3e-3), RUNTIME
    )
    detector = load_detector(folder, device="cpu")
    store = detector.map_store(tmp_path / "maps")  # type: ignore[attr-defined]
    files = store.fill(world.source, mirrored=False, runtime=RUNTIME)
    rows = range(4)
    kept = detector.predict_kept(store, world.source, rows, files)  # type: ignore[attr-defined]
    found = detector.predict([load_rgb(world.source, row) for row in rows])
    for one, other in zip(kept, found, strict=True):
        assert len(one) and abs(len(one) - len(other)) <= 2
        best, live = one.scores.max(axis=1).argmax(), other.scores.max(axis=1).argmax()
        np.testing.assert_allclose(one.boxes[best], other.boxes[live], atol=0.5)
        np.testing.assert_allclose(one.scores[best], other.scores[live], atol=0.02)
    measured = evaluate_detector(detector, world.truth, RUNTIME, maps=tmp_path / "maps").to_dict()
    on_pixels = evaluate_detector(detector, world.truth, RUNTIME).to_dict()
    assert measured["AP50"] == pytest.approx(on_pixels["AP50"], abs=0.05)


def test_labels_come_from_kept_maps_where_all_are_there(
    settings: SpecialistSettings, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = replace(settings, steps=60, lr=3e-3)
    maps = tmp_path / "maps"
    folders = [
        train_specialist(world.target, tmp_path / name, replace(longer, seed=k), RUNTIME, maps=maps)
        for k, name in enumerate(("one", "two"))
    ]
    both = EnsembleDetector.load(folders, "cpu")
    assert both.map_store(maps) is not None

    def labels(name: str, on: DetectionDataset, detector: Detector | None) -> PseudoLabels:
        out = tmp_path / name
        how = CrossLabelSettings()
        cross_label(folders[0], on, out, how, RUNTIME, detector=detector, model="", maps=maps)
        return read_pseudo_labels(out)

    def none(*_: object) -> None:
        raise AssertionError("pixels are read")

    with monkeypatch.context() as patched:
        patched.setattr("relabel.datasets.pixels.batches.load_rgb", none)
        patched.setattr("relabel.crosslabel.label.load_rgb", none)
        kept = [labels(f"kept{k}", world.target, d) for k, d in enumerate((None, both))]
        # The source's images were in no training: their maps are not there.
        with pytest.raises(AssertionError, match="pixels are read"):
            labels("source", world.source, None)
    shutil.rmtree(maps)
    live = [labels(f"live{k}", world.target, d) for k, d in enumerate((None, both))]
    for one, other in zip(kept, live, strict=True):
        assert len(one) > 10 and abs(len(one) - len(other)) <= len(one) // 5
        sure, as_sure = one.filter(0.5), other.filter(0.5)
        assert len(sure) and sure.image.tolist() == as_sure.image.tolist()
        np.testing.assert_allclose(sure.boxes, as_sure.boxes, atol=1.0)
        np.testing.assert_allclose(sure.scores, as_sure.scores, atol=0.03)


def test_members_on_different_bodies_read_no_maps_together(
    settings: SpecialistSettings, world: World, tmp_path: Path
) -> None:
    folders = [
        train_specialist(world.target, tmp_path / name, how, RUNTIME)
        for name, how in (
            ("frozen", replace(settings, steps=1)),
            ("larger", replace(settings, steps=1, image_size=settings.image_size + 32)),
            ("learned", replace(settings, steps=1, frozen_stride=0)),
        )
    ]
    for pair in (folders[:2], folders[::2]):
        assert EnsembleDetector.load(pair, "cpu").map_store(tmp_path / "maps") is None
    assert EnsembleDetector.load(folders[:1] * 2, "cpu").map_store(tmp_path / "maps") is not None


def test_an_interrupted_training_ends_with_the_same_weights(
    settings: SpecialistSettings,
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = replace(settings, checkpoint_every=0.0)
    assert_resumes(
        lambda name: train_specialist(world.target, tmp_path / name, settings, RUNTIME),
        TrainingBatches,
        4,
        monkeypatch,
    )
