"""Regions pooled from a frozen backbone for LAT."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from relabel.backbones.extractor import IMAGENET_MEAN, IMAGENET_STD, BackboneSpec, FeatureExtractor
from relabel.lat.features import FrozenFeatures
from relabel.lat.settings import LatSettings

SETTINGS = LatSettings(image_size=32, feature_strides=(8,), feature_channels=0, precision="fp32")
STATISTICS = (IMAGENET_MEAN, IMAGENET_STD)
BOX = np.array([[4, 4, 20, 20]], np.float32)


class _Body(nn.Module):
    """One map at stride 8: the mean colour of its cells."""

    channels, strides, divisor = {8: 3}, [8], 32

    def forward(self, pixels: Tensor) -> dict[int, Tensor]:
        return {8: nn.functional.avg_pool2d(pixels, 8)}


@pytest.fixture
def features(photo: np.ndarray) -> FrozenFeatures:
    made = FrozenFeatures(_Body(), SETTINGS, torch.device("cpu"), "body")  # type: ignore[arg-type]
    made.fit_pca([photo])
    return made


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 180, (32, 32, 3), dtype=np.uint8)


def test_a_region_is_told_beside_its_own_image(features: FrozenFeatures, photo: np.ndarray):
    light = photo + 60
    dark, bright = (features.pool([image], [BOX])[0] for image in (photo, light))
    np.testing.assert_allclose(dark, bright, atol=2e-2)
    assert np.abs(dark).max() > 0.1


def test_padding_beside_a_larger_image_changes_nothing(features: FrozenFeatures, photo: np.ndarray):
    wide = np.concatenate([photo, photo, photo], axis=1)
    alone = features.pool([photo], [BOX])[0]
    beside = features.pool([photo, wide], [BOX, BOX])[0]
    np.testing.assert_allclose(alone, beside, atol=2e-3)


def test_regions_of_an_older_version_are_refused():
    body = FeatureExtractor(BackboneSpec("torchvision", "mobilenet_v2", None, *STATISTICS), None)
    made = FrozenFeatures(body, SETTINGS, torch.device("cpu"), "mobilenet_v2")
    weights = {"pca.mean.8": torch.zeros(3)}
    weights |= {f"backbone.{k}": v for k, v in body.net.state_dict().items()}
    with pytest.raises(ValueError, match="their own images"):
        FrozenFeatures.from_config(made.to_config(), weights, SETTINGS, made.device)
