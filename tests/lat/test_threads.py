"""A transfer's output is the same with one thread and with two."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from relabel.lat.checkpoint import TrainedTransfer
from relabel.lat.model import ProposalBatch, TransferModel
from relabel.lat.settings import LatSettings


def test_predictions_of_few_proposals_do_not_depend_on_threads() -> None:
    settings, width = LatSettings(), 49 * 32
    torch.manual_seed(0)
    model = TransferModel(settings, 6, 2, width).eval()
    joint: Any = SimpleNamespace(slice=lambda target: slice(0, 3))
    nothing: Any = None
    trained = TrainedTransfer([model], nothing, joint, "t", settings, nothing, nothing)
    before = torch.get_num_threads()
    try:
        for proposals in range(1, 30):
            corner = torch.rand(1, proposals, 2) * 50
            batch = ProposalBatch(
                torch.randn(1, proposals, width),
                torch.cat([corner, corner + 20], dim=-1),
                torch.rand(1, proposals, 6),
                torch.rand(1, proposals),
                torch.ones(1, proposals, dtype=torch.bool),
                torch.tensor([[100.0, 80.0]]),
            )
            found = []
            for threads in (1, 2):
                torch.set_num_threads(threads)
                found.append(trained.predict(batch))
            for one, two in zip(*found, strict=True):
                assert torch.equal(one, two), proposals
    finally:
        torch.set_num_threads(before)
