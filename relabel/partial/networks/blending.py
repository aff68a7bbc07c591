"""Blending of class features (SARB): unknown labels from other images and from prototypes.

Shape legend: ``B`` images, ``C`` classes, ``d`` channels, ``K`` prototypes. ``known`` is
1 present, -1 absent, 0 unknown.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from relabel.partial.networks.prototypes import Prototypes


class Blending(nn.Module):
    """Class features and labels of a batch, blended with others where they are unknown.

    Two learned shares in [0, 1], which start at a half: ``alpha`` of a feature is kept where it is
    blended with another image's, ``beta`` where with a prototype. Both blends return features
    [B, C, d] to be classified and soft labels [B, C] for `relabel.partial.losses.partial_bce`,
    through which the shares are learned. Where nothing is unknown, nothing is blended: the public
    implementation then blends a known class, and falls behind full supervision.

    Source: Pu et al., "Semantic-Aware Representation Blending" (arXiv 2203.02172).
    """

    def __init__(self) -> None:
        super().__init__()
        self.raw_alpha = nn.Parameter(torch.tensor(0.5))
        self.raw_beta = nn.Parameter(torch.tensor(0.5))

    @property
    def shares(self) -> tuple[float, float]:
        """``alpha`` and ``beta``, in [0, 1]."""
        alpha, beta = (float(p.detach().clamp(0, 1)) for p in (self.raw_alpha, self.raw_beta))
        return alpha, beta

    def instances(self, features: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Blend each image with the one in the batch's mirrored place.

        A class that is unknown here and present there becomes ``alpha f + (1 - alpha) f'``,
        present with probability ``1 - alpha``.
        """
        alpha = _bounded(self.raw_alpha)
        other = known.flip(0)
        blended = (known == 0) & (other > 0)
        mixed = torch.lerp(features.flip(0), features, alpha)
        labels = torch.where(blended, 1 - alpha, known.to(features.dtype))
        return torch.where(blended[:, :, None], mixed, features), labels

    def prototypes(
        self,
        features: Tensor,
        known: Tensor,
        prototypes: Prototypes,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Blend one unknown class of each image, drawn at random, with one of its prototypes.

        It becomes ``beta f + (1 - beta) p``, present with probability ``1 - beta``. Classes
        without prototypes are not drawn.
        """
        beta = _bounded(self.raw_beta)
        b, device = len(known), features.device
        draw = torch.rand(known.shape, generator=generator, device=device)
        draw = torch.where((known == 0) & prototypes.seen, draw, -1.0)
        chance, chosen = draw.max(dim=1)
        nth = torch.rand(b, generator=generator, device=device) * prototypes.number[chosen]
        rows = torch.arange(b, device=device)
        centres = prototypes.centres[chosen, nth.long()]  # [B, d]
        blended = torch.zeros_like(known, dtype=torch.bool)
        blended[rows, chosen] = chance >= 0
        mixed = torch.lerp(centres[:, None].to(features.dtype), features, beta)
        labels = torch.where(blended, 1 - beta, known.to(features.dtype))
        return torch.where(blended[:, :, None], mixed, features), labels


def _bounded(share: nn.Parameter) -> Tensor:
    with torch.no_grad():
        share.clamp_(0, 1)
    # A copy: the next call may bound the parameter again before this one's backward pass.
    return share.clone()
