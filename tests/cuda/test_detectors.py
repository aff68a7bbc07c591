"""Detectors on a GPU: the CPU's detections and losses, mixed precision, resumed training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from relabel.crosslabel.label import cross_label
from relabel.crosslabel.settings import CrossLabelSettings
from relabel.crosslabel.shards import read_pseudo_labels
from relabel.detectors.base import Detections
from relabel.detectors.load import load_detector
from relabel.detectors.settings import SpecialistSettings
from relabel.detectors.specialist import TrainingBatches, train_specialist
from relabel.detectors.training import new_trainable, on_device
from relabel.files.tensors import read_tensors
from relabel.geometry import iou_matrix
from relabel.settings import Runtime
from tests.builders.blocks import World
from tests.builders.detectors import FAMILIES, SPACE, tiny_detector

pytestmark = pytest.mark.cuda
EVERY = 10**6  # more than there are anchors or RoIs: nothing is drawn


def share_found(here: Detections, there: Detections) -> float:
    """Share of the boxes that the other one has, too: in the same place, with the same scores."""
    if not len(here):
        return 1.0
    near = iou_matrix(here.boxes, there.boxes) > 0.98
    like = np.abs(here.scores[:, None] - there.scores[None]).max(2) < 2e-3
    return float((near & like).any(1).mean())


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of random weights with classes that differ."""
    folder = tmp_path_factory.mktemp(request.param)
    settings = tiny_detector(folder / "backbone", request.param)
    new_trainable(SPACE, settings).save(folder / "detector")
    return folder / "detector"


def photos(count: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = [(96, 96), (96, 128), (120, 96)]
    return [rng.integers(0, 256, (*sizes[i % 3], 3), dtype=np.uint8) for i in range(count)]


def test_detections_are_the_cpus(device: str, checkpoint: Path) -> None:
    here = load_detector(checkpoint, "cpu").predict(photos())
    there = load_detector(checkpoint, device).predict(photos())
    assert sum(map(len, here)) > 0
    for a, b in zip(here, there, strict=True):
        # Boxes that tie but for rounding may be left out by NMS on one side alone.
        assert abs(len(a) - len(b)) <= 0.05 * max(len(a), len(b)) + 1
        assert min(share_found(a, b), share_found(b, a)) > 0.9


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_of_a_step_are_the_cpus(
    device: str, family: str, world: World, tmp_path: Path
) -> None:
    settings = tiny_detector(tmp_path, family, rtdetr_denoising=0)
    found = {}
    for where in ("cpu", device):
        trainable = new_trainable(world.target.space, settings)
        model: Any = trainable.model.to(where).train()
        if family != "rt-detr":
            for stage in (model.rpn, model.roi_heads):
                stage.fg_bg_sampler.batch_size_per_image = EVERY
        batches = TrainingBatches(world.target, settings, trainable.model.divisor)
        losses = model(*on_device(batches(0), torch.device(where)))
        torch.stack(list(losses.values())).sum().backward()
        norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        found[where] = {k: v.item() for k, v in losses.items()}
        found[where]["gradient"] = torch.stack(norms).norm().item()
    for name, value in found["cpu"].items():
        assert found[device][name] == pytest.approx(value, rel=0.02, abs=1e-3), name


@pytest.mark.parametrize("family", FAMILIES)
def test_mixed_precision_learns_and_resumes(
    device: str, family: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that is cut off and run again ends where one that was not does, but for what
    sums of no fixed order make of it."""
    settings = tiny_detector(
        tmp_path / "backbone", family, steps=8, optimizer="sgd", lr=1e-3, checkpoint_every=0.0
    )
    settings = replace(settings, precision="auto")
    runtime = Runtime(device=device, workers=2, quiet=True)
    whole = train_specialist(world.target, tmp_path / "whole", settings, runtime)
    real = TrainingBatches.__call__
    steps: list[int] = []

    def dies(self: TrainingBatches, step: int) -> Any:
        if step == 5:
            raise KeyboardInterrupt
        return real(self, step)

    def counted(self: TrainingBatches, step: int) -> Any:
        steps.append(step)
        return real(self, step)

    monkeypatch.setattr(TrainingBatches, "__call__", dies)
    with pytest.raises(KeyboardInterrupt):
        train_specialist(world.target, tmp_path / "cut", settings, runtime)
    monkeypatch.setattr(TrainingBatches, "__call__", counted)
    cut = train_specialist(world.target, tmp_path / "cut", settings, runtime)
    assert min(steps) == 5
    first, second = (read_tensors(f / "model.safetensors") for f in (whole, cut))
    assert all(bool(torch.isfinite(t.float()).all()) for t in first.values())
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0.02, atol=2e-3, msg=name)


def test_cross_labelling_has_the_cpus_labels_and_resumes(
    device: str, checkpoint: Path, world: World, tmp_path: Path
) -> None:
    settings = CrossLabelSettings(min_score=0.0, batch_size=4, shard_images=4)
    labels = {}
    for where in ("cpu", device):
        runtime = Runtime(device=where, workers=2, quiet=True)
        cross_label(checkpoint, world.source, tmp_path / where, settings, runtime)
        labels[where] = read_pseudo_labels(tmp_path / where)
    here, there = labels["cpu"], labels[device]
    assert len(here) > 0
    assert abs(len(here) - len(there)) <= 0.1 * len(here) + 1
    shards = sorted((tmp_path / device).glob("*.parquet"))
    before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in shards]
    shards[0].unlink()
    cross_label(checkpoint, world.source, tmp_path / device, settings, runtime)
    after = [(path.stat().st_mtime_ns, path.read_bytes()) for path in shards]
    assert after[1:] == before[1:]
    again = read_pseudo_labels(tmp_path / device)
    np.testing.assert_allclose(again.boxes, there.boxes, atol=0.1)


def test_autocast_labels_with_what_single_precision_finds(
    device: str, detector: SpecialistSettings, world: World, tmp_path: Path
) -> None:
    runtime = Runtime(device=device, workers=2, quiet=True)
    trained = train_specialist(
        world.target, tmp_path / "trained", replace(detector, precision="auto", steps=60), runtime
    )
    labels = {}
    for precision in ("auto", "fp32"):
        found: Any = load_detector(trained, device)
        found.settings = replace(found.settings, precision=precision)
        out = tmp_path / precision
        cross_label(trained, world.source, out, CrossLabelSettings(), runtime, detector=found)
        labels[precision] = read_pseudo_labels(out)
    mixed, single = labels["auto"], labels["fp32"]
    assert np.isfinite(mixed.scores).all() and np.isfinite(mixed.boxes).all()
    confident = single.filter(0.3)
    best = []
    for image in range(len(world.source)):
        boxes = confident.boxes[confident.rows(image)]
        overlap = iou_matrix(boxes, mixed.boxes[mixed.rows(image)])
        best += overlap.max(1, initial=0).tolist()
    assert len(best) > 0 and np.mean(best) > 0.6
