"""Saliency regularisation and consistency between views (SR): self-training without a graph.

Shape legend: ``B`` images, ``C`` classes, ``D`` channels, ``H x W`` places.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# The published share of the salient places in a logit, their number, and the confidence from
# which a view's prediction becomes the other view's label.
ALPHA = 0.5
TOP = 5
CONFIDENCE = 0.6


class Saliency(nn.Module):
    """A map per class; its logit is the mean, and `ALPHA` times the mean of the `TOP` places.

    The salient places get a larger gradient than the others, so that a small object that is
    present is not outvoted by the places without it.

    Source: Wang et al., "Saliency Regularization for Self-Training with Partial Annotations"
    (ICCV 2023), equations 3 to 5.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(channels, classes, kernel_size=1)

    def maps(self, maps: Tensor) -> Tensor:
        """Feature maps [B, D, H, W] to class maps [B, C, H, W], in logits."""
        return self.head(maps)

    def forward(self, maps: Tensor) -> Tensor:
        """Feature maps [B, D, H, W] to logits [B, C]."""
        places = self.maps(maps).flatten(2)
        top = places.topk(min(TOP, places.shape[2]), dim=2).values
        return places.mean(dim=2) + ALPHA * top.mean(dim=2)


@torch.no_grad()
def consistent_labels(weak: Tensor, known: Tensor, confidence: float = CONFIDENCE) -> Tensor:
    """What a weakly augmented view says of the unknown labels, for the strongly augmented one.

    Args:
        weak: logits of the weak view [B, C].
        known: [B, C], -1, 0 or 1.
        confidence: at least 0.5; present from this probability, absent up to one minus it.

    Returns:
        -1, 0 or 1 [B, C] of the type of ``known``; 0 where the label is known or the view unsure.

    Source: as `Saliency`, equation 8.
    """
    p = torch.sigmoid(weak)
    said = (p >= confidence).to(known.dtype) - (1 - p >= confidence).to(known.dtype)
    return torch.where(known == 0, said, torch.zeros_like(known))
