"""What a network sees of kept maps: power-normalised, standardised."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from relabel.partial.model import load_model, power_normalised
from relabel.partial.train import train
from tests.builders.partial import RUNTIME, planted, quick


def test_power_normalised_maps_agree_with_a_loop() -> None:
    maps = torch.randn(3, 4, 2, 3, generator=torch.Generator().manual_seed(0)) * 5
    found = power_normalised(maps)
    for image, result in zip(maps, found, strict=True):
        roots = []
        for channel in image:
            values = [v.item() for v in channel.flatten()]
            size = sum(abs(v) for v in values) / len(values)
            roots.append([v / math.sqrt(size) for v in values])
        norm = math.sqrt(sum((sum(values) / len(values)) ** 2 for values in roots))
        expected = [[v * math.sqrt(len(roots)) / norm for v in values] for values in roots]
        torch.testing.assert_close(result.flatten(1), torch.tensor(expected))


def test_means_of_maps_that_are_nowhere_negative_are_what_methods_without_places_see() -> None:
    maps = torch.rand(5, 8, 3, 3, generator=torch.Generator().manual_seed(1)) ** 4
    means = maps.mean((2, 3), keepdim=True)
    torch.testing.assert_close(
        power_normalised(maps).mean((2, 3), keepdim=True), power_normalised(means)
    )
    roots = means.flatten(1).sqrt()
    expected = roots / roots.norm(dim=1, keepdim=True) * 8**0.5
    torch.testing.assert_close(power_normalised(means).flatten(1), expected)


def test_contrast_counts_for_nothing_and_an_unreadable_image_stays_zero() -> None:
    maps = torch.randn(2, 6, 2, 2, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(power_normalised(maps * 7), power_normalised(maps))
    assert power_normalised(torch.zeros(1, 6, 2, 2)).eq(0).all()


@pytest.mark.parametrize("method", ["bce", "sr"])
def test_maps_are_standardised_over_the_training_images(method: str, tmp_path: Path) -> None:
    labels, features = planted(40, 3)
    train(labels, features, tmp_path, quick(method, steps=2, held_back=0.0), RUNTIME)
    model, _, _ = load_model(tmp_path)
    means = model.maps(features.batch(np.arange(40))).mean((2, 3))
    torch.testing.assert_close(means.mean(0), torch.zeros(means.shape[1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        means.std(0, correction=0), torch.ones(means.shape[1]), atol=1e-3, rtol=0
    )
