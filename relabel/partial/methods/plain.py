"""The plain classifier under three losses: BCE, ASL and CSL."""

from __future__ import annotations

from torch import Tensor

from relabel.partial.losses import asymmetric, partial_bce, selective
from relabel.partial.methods.base import PooledMethod, Setup


class Bce(PooledMethod):
    """Binary cross-entropy over the known labels, divided by their number in the batch."""

    learns_from_unknown = False

    def forward(self, maps: Tensor, known: Tensor, step: int) -> dict[str, Tensor]:
        return {"bce": partial_bce(self.logits(maps), known)}


class Asl(PooledMethod):
    """The asymmetric loss (Ridnik et al., ICCV 2021) over the known labels."""

    learns_from_unknown = False

    def forward(self, maps: Tensor, known: Tensor, step: int) -> dict[str, Tensor]:
        return {"asl": asymmetric(self.logits(maps), known)}


class Csl(PooledMethod):
    """The class-aware selective loss (Ben-Baruch et al., CVPR 2022).

    Classes' priors are their share of the known labels, where the public code estimates them by a
    training of its own: what is known present there is no random sample, as it is here.
    """

    prior: Tensor

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.register_buffer("prior", setup.prior.clone())

    def forward(self, maps: Tensor, known: Tensor, step: int) -> dict[str, Tensor]:
        return {"csl": selective(self.logits(maps), known, self.prior)}
