"""Class scores that reach the logits without attention: own, and of one place."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from relabel.lat.features import POOL_SIZE
from relabel.lat.model import ProposalBatch, TransferModel, overlapping_scores
from relabel.lat.settings import LatSettings

SETTINGS = LatSettings(channels=8)
REGION = POOL_SIZE**2  # one channel


def _settings(fusion: str = "class_aware", *, on: tuple[str, ...] = ()) -> LatSettings:
    """With those alone of the ways of class scores to the logits."""
    without = tuple(p for p in ("own-scores", "consensus") if p not in on)
    return replace(SETTINGS, fusion=fusion, without=without)


def _batch(scores: torch.Tensor) -> ProposalBatch:
    m = scores.shape[1]
    generator = torch.Generator().manual_seed(1)
    return ProposalBatch(
        region=torch.randn(1, m, REGION, generator=generator),
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
        settings = _settings(fusion, on=("own-scores",) if own else ())
        model = TransferModel(settings, classes=3, datasets=2, region=REGION).eval()
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
    assert float(logits[True][0].detach()) > 1e-3
    assert float(logits[True][1:].detach().max()) < 1e-6


def test_without_fusion_and_own_scores_no_class_reaches_the_heads() -> None:
    torch.manual_seed(0)
    settings = _settings("none")
    model = TransferModel(settings, classes=3, datasets=2, region=REGION).eval()
    scores = torch.rand(1, 3, 3)
    assert torch.equal(model(_batch(scores))[0], model(_batch(scores * 0))[0])


def test_consensus_is_the_largest_score_of_what_overlaps() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0.0, 0, 10, 8], [50.0, 0, 60, 10], [0.0, 0, 10, 10]]])
    scores = torch.tensor([[[0.9, 0.0], [0.2, 0.7], [0.3, 0.1], [1.0, 1.0]]])
    valid = torch.tensor([[True, True, True, False]])  # the last one is padding
    near = overlapping_scores(boxes, scores, valid)[0, :3]
    assert torch.allclose(near, torch.tensor([[0.9, 0.7], [0.9, 0.7], [0.3, 0.1]]))


def test_consensus_lets_a_proposal_read_what_lies_on_it() -> None:
    torch.manual_seed(0)
    settings = _settings("none", on=("own-scores", "consensus"))
    model = TransferModel(settings, classes=3, datasets=2, region=REGION).eval()
    torch.nn.init.normal_(model.classify.weight)
    scores = torch.full((1, 3, 3), 0.2)
    batch = _batch(scores)
    batch.boxes[0, 1] = batch.boxes[0, 0] + torch.tensor([0.0, 0.0, 1.0, 0.0])
    before = model(batch)[0]
    scores[0, 0, 2] = 0.9
    moved = (model(batch)[0] - before).abs()[0].amax(dim=1)
    assert float(moved[1].detach()) > 1e-3  # lies on the first one
    assert float(moved[2].detach()) < 1e-6
