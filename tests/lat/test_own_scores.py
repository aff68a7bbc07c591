"""`own_scores`: a proposal's class scores reach its logits without attention."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from relabel.lat.model import ProposalBatch, TransferModel
from relabel.lat.settings import LatSettings

SETTINGS = LatSettings(channels=8, heads=2, dropout=0.0, pool_size=1, hide_region=0.0)


def _batch(scores: torch.Tensor) -> ProposalBatch:
    m = scores.shape[1]
    generator = torch.Generator().manual_seed(1)
    return ProposalBatch(
        region=torch.randn(1, m, 4, generator=generator),
        boxes=torch.tensor([[[8.0 * i, 0, 8.0 * i + 6, 6] for i in range(m)]]),
        scores=scores,
        confidence=torch.ones(1, m),
        valid=torch.ones(1, m, dtype=torch.bool),
        size=torch.tensor([[64.0, 64.0]]),
    )


@pytest.mark.parametrize("fusion", ["class_aware", "plain"])
def test_own_scores_are_read_beside_the_attention(fusion: str) -> None:
    logits = {}
    for own in (False, True):
        torch.manual_seed(0)
        settings = replace(SETTINGS, fusion=fusion, own_scores=own)
        model = TransferModel(settings, classes=3, datasets=2, region=4).eval()
        assert model.fusion is not None
        # Nothing of the scores comes through attention.
        torch.nn.init.zeros_(model.fusion.value_scores.weight)
        torch.nn.init.normal_(model.classify.weight)
        scores = torch.full((1, 3, 3), 0.2)
        before = model(_batch(scores))[0]
        scores[0, 0, 1] = 0.9
        after = model(_batch(scores))[0]
        logits[own] = (before - after).abs()[0].amax(dim=1)
    assert float(logits[False].detach().max()) < 1e-6
    assert float(logits[True][0]) > 1e-3
    assert float(logits[True][1:].max()) < 1e-6


def test_the_setting_leaves_older_fingerprints_alone() -> None:
    assert "own_scores" not in LatSettings().result_dict()
    assert LatSettings(own_scores=True).result_dict()["own_scores"] is True
