"""The region classifier learns, resumes to the byte, and holds out whole images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from relabel.errors import DataError
from relabel.multilabel.labels import region_classifier as module
from relabel.multilabel.labels.region_classifier import (
    RegionClassifier,
    held_out,
    train_region_classifier,
)
from relabel.multilabel.settings import RegionClassifierSettings
from relabel.settings import Runtime

RUNTIME = Runtime(device="cpu", workers=0, quiet=True)
CPU = torch.device("cpu")


def _regions(
    images: int = 90, classes: int = 3, d: int = 12, noise: float = 0.5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two regions per image; class c at a corner of its own, features far from unit scale."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(classes, d))
    image_ids = np.repeat(np.arange(images) * 10 + 3, 2)
    labels = rng.integers(0, classes, len(image_ids))
    x = centres[labels] + noise * rng.normal(size=(len(labels), d))
    return (40 + 20 * x).astype(np.float16), labels, image_ids


def _settings(**more: Any) -> RegionClassifierSettings:
    values: dict[str, Any] = {"hidden": 64, "lr": 3e-3, "batch_size": 32, "epochs": 20.0}
    return RegionClassifierSettings(**{**values, "min_steps": 0, **more})


def test_it_learns_separable_regions(tmp_path: Path) -> None:
    x, y, images = _regions()
    metrics = train_region_classifier(x, y, images, 5, tmp_path, _settings(), RUNTIME)
    assert metrics["val_accuracy"] > 0.8  # chance: 1/3
    assert metrics["held_out_images"] == 9
    assert metrics["held_out_regions"] == 18
    assert metrics["classes_seen"] == 3
    model = RegionClassifier.load(tmp_path, CPU)
    fresh, truth, _ = _regions(seed=1)
    probs = model.predict(fresh)
    assert probs.dtype == np.float32
    assert probs.shape == (180, 5)
    assert (probs.argmax(1) == truth).mean() > 0.8
    assert not probs[:, 3:].any()  # classes without regions
    assert np.allclose(probs.sum(1), 1, atol=1e-5)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["metrics"] == metrics
    assert not (tmp_path / "checkpoint").exists()


def test_the_epoch_with_the_least_held_out_loss_is_kept(tmp_path: Path) -> None:
    x, y, images = _regions(images=40, noise=2.0)
    metrics = train_region_classifier(
        x, y, images, 3, tmp_path, _settings(lr=2e-2, epochs=30), RUNTIME
    )
    history = json.loads((tmp_path / "training.json").read_text())["validation"]
    losses = [row["val_loss"] for row in history]
    assert metrics["val_loss"] == pytest.approx(min(losses), abs=1e-6)
    assert metrics["val_loss"] < losses[-1]  # it overfits, so the last epoch is not the best
    held = held_out(images, y, 0.1, 0)
    probs = RegionClassifier.load(tmp_path, CPU).predict(x[held])
    loss = -np.log(probs[np.arange(held.sum()), y[held]]).mean()
    assert loss == pytest.approx(min(losses), rel=1e-4)


class _KilledError(Exception):
    pass


def test_a_training_that_was_cut_off_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y, images = _regions(images=40)
    settings = _settings(steps=14)
    train_region_classifier(x, y, images, 3, tmp_path / "whole", settings, RUNTIME)

    plan, validate, calls = module._TrainSettings, module._validate, []

    def eager(**values: Any) -> Any:
        return plan(**{**values, "checkpoint_every": 0.0})

    def killed(*args: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 4:
            raise _KilledError
        return validate(*args)

    monkeypatch.setattr(module, "_TrainSettings", eager)
    monkeypatch.setattr(module, "_validate", killed)
    with pytest.raises(_KilledError):
        train_region_classifier(x, y, images, 3, tmp_path / "cut", settings, RUNTIME)
    assert (tmp_path / "cut" / "checkpoint").is_dir()
    assert not (tmp_path / "cut" / "config.json").exists()
    monkeypatch.setattr(module, "_validate", validate)
    train_region_classifier(x, y, images, 3, tmp_path / "cut", settings, RUNTIME)
    for name in ("region_classifier.safetensors", "config.json"):
        whole, cut = (tmp_path / run / name for run in ("whole", "cut"))
        assert whole.read_bytes() == cut.read_bytes()


def test_memory_mapped_features_train_the_same(tmp_path: Path) -> None:
    x, y, images = _regions(images=20)
    np.save(tmp_path / "x.npy", x)
    settings = _settings(steps=4)
    train_region_classifier(x, y, images, 3, tmp_path / "a", settings, RUNTIME)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    train_region_classifier(mapped, y, images, 3, tmp_path / "b", settings, RUNTIME)
    first, second = (tmp_path / run / "region_classifier.safetensors" for run in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_images_are_held_out_whole_and_rare_classes_stay() -> None:
    rng = np.random.default_rng(0)
    images = np.repeat(np.arange(200), 3)
    labels = rng.integers(0, 5, 600)
    labels[7] = 5  # one region of one image
    labels[300:303] = 6
    held = held_out(images, labels, 0.25, 1)
    assert len(np.unique(images[held])) == 50
    assert not set(images[held]) & set(images[~held])
    assert set(labels[~held]) == set(range(7))
    assert not np.array_equal(held, held_out(images, labels, 0.25, 2))
    shuffled = rng.permutation(600)
    assert np.array_equal(held_out(images[shuffled], labels[shuffled], 0.25, 1), held[shuffled])
    assert not held_out(np.arange(4), np.arange(4), 0.5, 0).any()


def test_without_held_out_images_the_last_epoch_is_kept(tmp_path: Path) -> None:
    x, y = np.eye(3, dtype=np.float32), np.arange(3)
    metrics = train_region_classifier(x, y, y, 3, tmp_path, _settings(epochs=40), RUNTIME)
    assert metrics["val_loss"] is None
    assert metrics["best_step"] == metrics["steps"] == 40
    assert RegionClassifier.load(tmp_path, CPU).predict(x).argmax(1).tolist() == [0, 1, 2]


def test_every_epoch_shows_every_region_once() -> None:
    order = module._Order(np.arange(10, 17), seed=0)
    stream = np.concatenate([order.rows(step * 4, 4) for step in range(7)])
    epochs = stream.reshape(4, 7)
    for epoch in epochs:
        assert sorted(epoch) == list(range(10, 17))
    assert not np.array_equal(epochs[0], epochs[1])


@pytest.mark.parametrize(
    ("labels", "value", "says"),
    [([], 0.0, "no region"), ([0, 3], 0.0, r"label 3, outside 0\.\.2"), ([0, 1], np.inf, "NaN")],
)
def test_bad_data_is_refused(labels: list[int], value: float, says: str, tmp_path: Path) -> None:
    x = np.full((len(labels), 2), value, dtype=np.float32)
    y = np.array(labels, dtype=np.int64)
    with pytest.raises(DataError, match=says):
        train_region_classifier(x, y, np.arange(len(y)), 3, tmp_path, _settings(), RUNTIME)


def test_damaged_labelers_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a readable region classifier"):
        RegionClassifier.load(tmp_path, CPU)
    RegionClassifier(4, 3, 8).save(tmp_path, {})
    assert RegionClassifier.load(tmp_path, CPU).classes == 3
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden": 9}))
    with pytest.raises(DataError, match="not a readable region classifier"):
        RegionClassifier.load(tmp_path, CPU)


def test_few_regions_get_the_fewest_steps_and_given_steps_win(tmp_path: Path) -> None:
    x, y, images = _regions()
    for i, (more, steps) in enumerate(
        (({"min_steps": 90, "epochs": 2.0}, 90), ({"min_steps": 90, "steps": 7}, 7))
    ):
        metrics = train_region_classifier(
            x, y, images, 5, tmp_path / str(i), _settings(**more), RUNTIME
        )
        assert metrics["steps"] == steps
