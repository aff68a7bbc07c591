"""A detector on a frozen backbone learns from maps that are kept, and runs on pixels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from relabel.backbones.stored import MapStore
from relabel.datasets.pixels.location import load_rgb
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
