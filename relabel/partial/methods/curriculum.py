"""Curriculum labelling: what the classifier is sure of becomes known, round by round."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from relabel.partial.losses import partial_bce
from relabel.partial.methods.base import Batches, PooledMethod, Setup

SURE = 2.0
"""Logit beyond which, in both directions, a label counts as known."""


class Curriculum(PooledMethod):
    """Durand et al. (CVPR 2019), section 3.3, with the score threshold strategy.

    The classifier of each round labels what is unknown for the next: labels whose logit is beyond
    `SURE` in either direction. The rounds are those of `Method.refresh_steps`. The classifier that
    labels is a copy, which is in the checkpoint, so that resuming is exact.
    """

    labels_now: Tensor

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.labeller = deepcopy(self.net).requires_grad_(False)
        self.register_buffer("labels_now", torch.zeros((), dtype=torch.bool))

    def forward(self, maps: Tensor, known: Tensor, step: int) -> dict[str, Tensor]:
        if self.labels_now:
            with torch.no_grad():
                found = self.labeller(maps)
                sure = torch.where(found.abs() > SURE, found.sign(), torch.zeros_like(found))
                known = torch.where(known != 0, known, sure.to(known.dtype))
        return {"bce": partial_bce(self.logits(maps), known)}

    def refresh(self, step: int, batches: Batches) -> None:
        self.labeller.load_state_dict(self.net.state_dict())
        self.labels_now.fill_(True)
