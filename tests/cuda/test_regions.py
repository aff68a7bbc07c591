"""Regions on a GPU: the backbone's features and the whole stage give what the CPU gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from relabel.datasets.pixels.image_folder import ImageSet
from relabel.multilabel.regions.features import PatchFeatures
from relabel.multilabel.regions.stage import find_regions
from relabel.multilabel.settings import MaskCutSettings
from relabel.multilabel.store import RegionShard, read_regions
from relabel.multilabel.work import ShardWork
from relabel.settings import Runtime
from relabel.workspace.clock import Clock
from relabel.workspace.stage import Shards
from tests.builders.blocks import World

pytestmark = pytest.mark.cuda
SIDE = 128


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> MaskCutSettings:
    import transformers

    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = transformers.DINOv3ViTConfig(
        patch_size=16,
        image_size=32,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_register_tokens=4,
    )
    transformers.DINOv3ViTModel(config).save_pretrained(folder)
    return MaskCutSettings(
        backbone=str(folder), image_size=SIDE, tau=0.4, batch_size=4, precision="fp32"
    )


def features(settings: MaskCutSettings, device: str) -> PatchFeatures:
    return PatchFeatures.create(settings, torch.device(device))


def test_features_are_the_cpus(device: str, settings: MaskCutSettings) -> None:
    pixels = torch.randint(0, 256, (6, 3, SIDE, SIDE), dtype=torch.uint8)
    here, there = features(settings, "cpu")(pixels), features(settings, device)(pixels)
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(b.cpu(), a, rtol=1e-3, atol=1e-3)


def test_the_stage_finds_the_cpus_regions(
    device: str, settings: MaskCutSettings, world: World, tmp_path: Path
) -> None:
    names = list(world.source.images.file_name)
    images = ImageSet(world.source.root, names, np.full(len(names), -1, np.int32), [], [])
    found: dict[str, RegionShard] = {}
    for where in ("cpu", device):
        shards = Shards(tmp_path / where, total=len(images), size=len(images))
        shards.folder.mkdir(exist_ok=True)
        runtime = Runtime(device=where, workers=2, quiet=True)
        work: Any = ShardWork(images, shards, shards, [0], {}, runtime, Clock())
        find_regions(work, features(settings, where), settings)
        found[where] = read_regions(shards.shard_path(0))
    here, there = found["cpu"], found[device]
    assert here.whole is not None and there.whole is not None
    assert here.offsets[-1] > 0
    # A patch whose cosine is tau but for rounding may be on either side of it.
    assert (np.diff(here.offsets) == np.diff(there.offsets)).mean() >= 0.8
    np.testing.assert_allclose(there.whole, here.whole, rtol=1e-2, atol=1e-2)
