"""Label-Aligned Transfer on a GPU: pooled regions, a step's losses, training and transfer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from relabel.datasets.labelspace import JointLabelSpace
from relabel.datasets.pixels.location import load_rgb
from relabel.lat.bank import build_bank
from relabel.lat.features import FrozenFeatures
from relabel.lat.model import TransferModel, lat_losses
from relabel.lat.settings import LatSettings
from relabel.lat.train import LatBatches, train_lat
from relabel.lat.transfer import transfer
from relabel.settings import Runtime
from tests.builders.blocks import TINY_LAT, World, tiny_backbone

pytestmark = pytest.mark.cuda


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> LatSettings:
    return replace(TINY_LAT, backbone=str(tiny_backbone(tmp_path_factory.mktemp("backbone"))))


def test_pooled_regions_are_the_cpus(device: str, settings: LatSettings, world: World) -> None:
    images = [load_rgb(world.source, row) for row in range(3)]
    boxes = [world.truth.boxes.xyxy[world.truth.rows(row)] for row in range(3)]
    here = FrozenFeatures.create(settings, torch.device("cpu"))
    here.fit_pca(images)
    there = here.on(torch.device(device))
    for a, b in zip(here.pool(images, boxes), there.pool(images, boxes), strict=True):
        assert len(a) > 0
        np.testing.assert_allclose(b, a, rtol=5e-3, atol=5e-3)


def test_losses_of_a_step_are_the_cpus(
    device: str, settings: LatSettings, world: World, tmp_path: Path
) -> None:
    features = FrozenFeatures.create(settings, torch.device("cpu"))
    features.fit_pca([load_rgb(world.target, 0)])
    joint = JointLabelSpace((world.target.space, world.source.space))
    runtime = Runtime(device="cpu", workers=0, quiet=True)
    banks = [
        build_bank(
            data,
            np.arange(len(data)),
            joint,
            {by: found for (by, on), found in world.labels.items() if on == data.name},
            features,
            settings,
            runtime,
            tmp_path,
            {},
        )
        for data in (world.target, world.source)
    ]
    batch, targets = LatBatches(banks, joint, settings)(0)
    torch.manual_seed(0)
    model = TransferModel(settings, joint.num_classes, 2, features.width).eval()
    found = {}
    for where in map(torch.device, ("cpu", device)):
        given, wanted = batch.to(where), targets.to(where)
        logits, deltas = model.to(where)(given)
        losses = lat_losses(logits, deltas, given, wanted, settings)
        found[where.type] = torch.stack(list(losses.values())).detach().cpu()
    assert float(found["cpu"].min()) > 0
    torch.testing.assert_close(found[device], found["cpu"], rtol=1e-3, atol=1e-4)


def test_training_in_mixed_precision_and_transfer(
    device: str, settings: LatSettings, world: World, tmp_path: Path
) -> None:
    runtime = Runtime(device=device, workers=2, quiet=True)
    datasets = {"tight": world.target, "loose": world.source}
    mixed = replace(settings, steps=6, precision="auto")
    model = train_lat(datasets, world.labels, "tight", tmp_path / "model", mixed, runtime)
    labels = {"tight": world.labels["tight", "loose"]}
    made, _ = transfer(model, world.source, labels, tmp_path / "made", runtime)
    assert made.space == world.target.space
    assert len(made) == len(world.source)
    assert np.isfinite(made.boxes.xywh).all()
