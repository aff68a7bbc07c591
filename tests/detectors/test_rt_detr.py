"""RT-DETRv2 as a detector: learning, resuming, predicting, and on the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from relabel.cli import main
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.pixels.location import load_rgb
from relabel.detectors.load import load_detector
from relabel.detectors.settings import SpecialistSettings
from relabel.detectors.specialist import TrainingBatches, train_specialist
from relabel.evaluation.detector import validator
from relabel.lat.features import FrozenFeatures
from relabel.lat.settings import LatSettings
from tests.builders.blocks import make_world
from tests.builders.detectors import (
    CPU,
    RUNTIME,
    SPACE,
    assert_resumes,
    new_rt_detr,
    pixels_of,
    same,
)


@pytest.mark.slow
def test_it_finds_blocks_it_has_not_seen(rt_detr: SpecialistSettings, tmp_path: Path) -> None:
    train = make_world(tmp_path / "train", images=40).target
    fresh = make_world(tmp_path / "fresh", images=10, seed=1).target
    folder = train_specialist(
        train, tmp_path / "out", rt_detr, RUNTIME, validate=validator(fresh, RUNTIME)
    )
    history = json.loads((folder / "metrics.json").read_text())["validation"]
    # Measured 0.8 to 0.9; random boxes and names give under 0.05.
    assert history[-1]["AP50"] > 0.5
    detector = load_detector(folder, device="cpu")
    assert detector.space.class_names == ["red", "blue"]
    images = [load_rgb(fresh, i) for i in range(3)]
    together = detector.predict(images)
    for image, found in zip(images, together, strict=True):
        assert 0 < len(found) <= rt_detr.rtdetr_queries
        assert found.scores.shape == (len(found), 2)
        best = found.scores.max(axis=1)
        assert best.min() > 0.01
        assert (np.diff(best) <= 0).all()
        assert found.boxes.dtype == np.float32
        assert found.boxes.min() >= 0
        assert (found.boxes.max(axis=0) <= [image.shape[1], image.shape[0]] * 2).all()


@pytest.mark.slow
def test_an_interrupted_training_ends_with_the_same_weights(
    rt_detr: SpecialistSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_world(tmp_path / "data", images=6).target
    # The average of the weights and the noise of the denoising queries must go on as well.
    short = replace(rt_detr, steps=5, checkpoint_every=0.0, ema=0.99, batch_size=2)
    assert_resumes(
        lambda name: train_specialist(data, tmp_path / name, short, RUNTIME),
        TrainingBatches,
        3,
        monkeypatch,
    )


def test_a_saved_model_predicts_the_same_whatever_shares_its_batch(
    rt_detr: SpecialistSettings, tmp_path: Path
) -> None:
    backbone = tmp_path / "backbone"
    shutil.copytree(rt_detr.backbone, backbone)
    trainable = new_rt_detr(replace(rt_detr, backbone=str(backbone)))
    rng = np.random.default_rng(0)
    sizes = [(96, 96), (60, 150), (96, 96), (10, 200)]
    images = [rng.integers(0, 255, (h, w, 3), dtype=np.uint8) for h, w in sizes]
    trainable.model.to(memory_format=torch.channels_last)  # as training and loading leave it
    before = trainable.detector(CPU).predict(images)
    trainable.save(tmp_path / "model")
    shutil.rmtree(backbone)
    loaded = load_detector(tmp_path / "model", device="cpu")
    assert same(loaded.predict(images), before)
    assert loaded.space == SPACE
    alone = [loaded.predict([image])[0] for image in images]
    for a, b in zip(alone, before, strict=True):
        assert len(a)
        np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-2)
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["detector"] == "rt_detr"
    assert str(tmp_path) not in json.dumps(config["network"])


def test_autocast_leaves_boxes_in_full_precision(rt_detr: SpecialistSettings) -> None:
    trainable = new_rt_detr(rt_detr)
    model: Any = trainable.model.eval()
    seen = {}
    for name in ("encoder", "decoder"):
        getattr(model.net, name).register_forward_hook(
            lambda _m, _i, out, name=name: seen.setdefault(name, out)
        )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(pixels_of(1), [(64, 96)])
    assert seen["encoder"].last_hidden_state[0].dtype == torch.bfloat16
    assert seen["decoder"].intermediate_reference_points.dtype == torch.float32
    assert seen["decoder"].intermediate_logits.dtype == torch.float32


def test_lat_takes_the_backbone_of_an_rt_detr(rt_detr: SpecialistSettings, tmp_path: Path) -> None:
    trainable = new_rt_detr(rt_detr)
    trainable.save(tmp_path)
    features = FrozenFeatures.create(
        LatSettings(image_size=64, precision="fp32", feature_channels=4), CPU, tmp_path
    )
    images = [np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)]
    features.fit_pca(images)
    (pooled,) = features.pool(images, [np.array([[4, 4, 40, 40]], np.float32)])
    assert pooled.shape == (1, features.width)
    backbone: Any = trainable.model.backbone
    maps = backbone.body
    assert maps is not None
    for key, value in features.body.state_dict().items():
        assert torch.equal(value, maps.state_dict()[key]), key


def test_a_restricted_copy_predicts_the_chosen_classes(rt_detr: SpecialistSettings) -> None:
    trainable = new_rt_detr(rt_detr)
    images = [np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)]
    # With all classes, in another order.
    turned = trainable.restricted(LabelSpace.from_names("turned", ["c", "a", "b"]), [2, 0, 1])
    (full,) = trainable.detector(CPU).predict(images)
    (again,) = turned.detector(CPU).predict(images)
    np.testing.assert_allclose(again.boxes, full.boxes, atol=1e-3)
    np.testing.assert_allclose(again.scores, full.scores[:, [2, 0, 1]], atol=1e-6)


@pytest.mark.slow
def test_the_command_line_trains_and_cross_labels(
    rt_detr: SpecialistSettings,
    coco_set: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*args: str) -> dict[str, Any]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*args, "--device", "cpu", "--workers", "0", "--quiet", "--json"])
        out, err = capsys.readouterr()
        assert ended.value.code == 0, err
        return json.loads(out)

    fine, coarse = coco_set("fine", ["car", "bus"]), coco_set("coarse", ["vehicle"], 3)
    model = tmp_path / "model"
    train = [
        *("train-specialist", "fine", "--data", f"fine={fine}:coco", "--out", str(model)),
        *("--detector", "rt-detr", "--backbone", rt_detr.backbone, "--steps", "2"),
        *("--image-size", "64", "--set", "specialist.frozen_stride=0", "--precision", "fp32"),
        *("--set", "specialist.rtdetr_channels=32", "--set", "specialist.rtdetr_expansion=1"),
        *("--set", "specialist.rtdetr_ffn=32", "--set", "specialist.rtdetr_heads=4"),
        *("--set", "specialist.rtdetr_layers=1"),
    ]
    assert run(*train)["checkpoint"] == str(model)
    assert json.loads((model / "config.json").read_text())["detector"] == "rt_detr"
    written = (model / "model.safetensors").stat().st_mtime_ns
    run(*train)
    assert (model / "model.safetensors").stat().st_mtime_ns == written
    data = ("--data", f"coarse={coarse}:coco", "--out", str(tmp_path / "labels"))
    counts = run("cross-label", str(model), "coarse", *data, "--min-score", "0.01")
    assert (counts["images"], counts["by"], counts["on"]) == (3, "fine", "coarse")
    assert counts["boxes"] > 0
