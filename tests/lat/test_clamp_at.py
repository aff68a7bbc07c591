"""The clamp's own threshold, and settings that came later."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from relabel.align.settings import stage_settings
from relabel.errors import ConfigError
from relabel.lat.fusion import SemanticFeatureFusion
from relabel.lat.settings import LatSettings
from relabel.settings import settings_dict

SETTINGS = LatSettings(channels=8, heads=1, geometry=False)


def test_the_threshold_is_that_of_the_setting() -> None:
    assert SemanticFeatureFusion(SETTINGS, classes=3, datasets=4).limit == 0.5  # 1 / sqrt(4)
    assert SemanticFeatureFusion(replace(SETTINGS, clamp_at=0.1), 3, 4).limit == 0.1


def test_a_lower_threshold_lets_less_of_the_scores_through() -> None:
    x, scores = torch.randn(1, 1, 8), torch.rand(1, 1, 3)
    valid, sure = torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 1)
    out = []
    for at in (0.25, 0.5):
        torch.manual_seed(0)
        sff = SemanticFeatureFusion(replace(SETTINGS, clamp_at=at), classes=3, datasets=4)
        out.append(sff(x, scores, sure, valid, None)[0, 0] - sff.value_region(x)[0, 0])
    # One proposal attends to itself alone: its weight is the threshold.
    assert torch.allclose(out[1], 2 * out[0], atol=1e-6)


def test_it_enters_fingerprints_only_where_it_is_in_use() -> None:
    assert "clamp_at" not in stage_settings(LatSettings())
    assert stage_settings(LatSettings(clamp_at=0.3))["clamp_at"] == 0.3
    assert set(settings_dict(LatSettings())) >= set(stage_settings(LatSettings()))
    with pytest.raises(ConfigError, match="clamp_at"):
        LatSettings(clamp_at=1.5)
