"""Saliency regularisation and consistency (SR): self-training without a graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from relabel.partial.losses import partial_bce
from relabel.partial.methods.base import Method, Setup, prior_logits
from relabel.partial.networks.saliency import ALPHA, TOP, Saliency, consistent_labels

DROPPED = 0.5
"""Share of the channels that the strong view lacks."""
RATE = 0.4
"""Learning rate of the class maps, relative to others' layers.

The few places that count most make steps larger. Measured as `consistent_labels`, at 0.15, 0.4 and
1: mAP on test images 71.4, 71.7 and 71.7, OF1 of hidden labels 65.5, 72.5 and 74.7, their log loss
0.331, 0.323 and 0.348.
"""


class Sr(Method):
    """Wang et al. (ICCV 2023): logits that favour salient places, and consistency of two views.

    The published views are a weakly and a strongly augmented picture. Kept maps have no second
    picture, so the strong view lacks half of the channels, as in UniMatch (Yang et al., 2023,
    section 3.3), also where the backbone is trained.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.net = Saliency(setup.channels, len(setup.classes))
        self.rate = RATE * setup.settings.lr
        with torch.no_grad():
            self.net.head.weight.zero_()
            assert self.net.head.bias is not None
            self.net.head.bias.copy_(prior_logits(setup.prior) / (1 + ALPHA))

    def forward(self, maps: Tensor, known: Tensor, step: int) -> dict[str, Tensor]:
        logits = self.net(maps)
        losses = {"bce": partial_bce(logits, known)}
        if self.started(step):
            labels = consistent_labels(logits.detach(), known)
            strong = nn.functional.dropout2d(maps, DROPPED)
            losses["consistency"] = partial_bce(self.net(strong), labels)
        return losses

    def logits(self, maps: Tensor) -> Tensor:
        return self.net(maps)

    def own_rates(self) -> list[tuple[nn.Parameter, float]]:
        return [(parameter, self.rate) for parameter in self.net.parameters()]

    def hidden(self, maps: Tensor) -> Tensor:
        """[B, C, D]: the mean over all places, and `ALPHA` times that over a class's salient."""
        values = maps.flatten(2)
        places = self.net.maps(maps).flatten(2)
        top = places.topk(min(TOP, places.shape[2]), dim=2).indices
        chosen = torch.zeros_like(places).scatter_(2, top, 1 / top.shape[2])
        salient = torch.einsum("bcp,bdp->bcd", chosen, values)
        return values.mean(2)[:, None] + ALPHA * salient

    def last_layer(self) -> tuple[Tensor, Tensor]:
        assert self.net.head.bias is not None
        return self.net.head.weight.flatten(1), self.net.head.bias * (1 + ALPHA)

    def set_last_layer(self, weights: Tensor, biases: Tensor) -> None:
        assert self.net.head.bias is not None
        self.net.head.weight.data.copy_(weights.view_as(self.net.head.weight))
        self.net.head.bias.data.copy_(biases / (1 + ALPHA))
