"""Losses over what is known of a batch.

Shape legend: ``B`` images, ``C`` classes, ``d`` channels. ``known`` is 1 present, -1 absent,
0 unknown. All losses are scalars, and zero, with a gradient of zero, where nothing is known.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Normalise = Literal["known", "none"]

# Probabilities are kept off zero before a logarithm, as in the public implementation of ASL.
_EPS = 1e-8


def partial_bce(logits: Tensor, known: Tensor, normalise: Normalise = "known") -> Tensor:
    """Binary cross-entropy over the known labels.

    Args:
        logits: [B, C].
        known: [B, C], -1, 0 or 1. Soft targets in between: ``t > 0`` is present with probability
            ``t``, ``t < 0`` absent with probability ``-t``, as the public implementation of SARB
            reads them. A gradient flows into them.
        normalise: ``known`` divides by the number of known labels of the batch (BN-BCE of
            Wang et al., ICCV 2023); ``none`` by all B * C entries, whatever is known of them, so
            that the gradient shrinks with the share of known labels.

    Source: HST (arXiv 2205.11131), the partial BCE of its objective.
    """
    target = known.to(logits.dtype)
    sign = target.sign()
    sure = target.abs()
    loss = -sure * F.logsigmoid(sign * logits) - (1 - sure) * F.logsigmoid(-sign * logits)
    return _mean(loss, sign != 0, normalise)


def asymmetric(
    logits: Tensor,
    known: Tensor,
    gamma_neg: float = 2.0,
    gamma_pos: float = 1.0,
    clip: float = 0.05,
    normalise: Normalise = "known",
) -> Tensor:
    """Asymmetric loss (ASL) over the known labels.

    Present: ``-(1 - p)^gamma_pos log p``. Absent: ``-q^gamma_neg log(1 - q)`` with
    ``q = max(p - clip, 0)``. A gradient flows through the focusing weights, too.

    Args:
        logits: [B, C].
        known: [B, C], -1, 0 or 1.
        gamma_neg, gamma_pos: focusing of absent and present labels, 0 or at least 1.
        clip: probability up to which an absent label costs nothing.
        normalise: as in `partial_bce`.

    Source: Ridnik et al., "Asymmetric Loss For Multi-Label Classification" (ICCV 2021); the
    defaults are those of HST's public implementation.
    """
    present, absent = known > 0, known < 0
    p = torch.sigmoid(logits)
    not_p = (torch.sigmoid(-logits) + clip).clamp(max=1)
    loss_present = -((1 - p) ** gamma_pos) * F.logsigmoid(logits)
    loss_absent = -((1 - not_p) ** gamma_neg) * not_p.clamp(min=_EPS).log()
    loss = torch.where(present, loss_present, torch.where(absent, loss_absent, 0.0))
    return _mean(loss, present | absent, normalise)


def selective(
    logits: Tensor,
    known: Tensor,
    prior: Tensor,
    gamma_pos: float = 0.0,
    gamma_neg: float = 1.0,
    gamma_unknown: float = 2.0,
    likely: int = 5,
    common: float = 0.05,
) -> Tensor:
    """Class-aware selective loss (CSL): unknown labels count as absent unless they may be present.

    An unknown label is left out where its class is common (``prior > common``), and where it is
    one of the ``likely * B`` unknown labels of the batch with the highest logits. The focusing
    weights are constants: no gradient flows through them. The result is the mean over the labels
    that count, where the public implementation leaves it a sum.

    Args:
        logits: [B, C].
        known: [B, C], -1, 0 or 1.
        prior: [C], how often each class is present. The public implementation takes the mean
            prediction over a training without the unknown labels.
        gamma_pos, gamma_neg, gamma_unknown: focusing of present, absent and unknown labels.
        likely: unknown labels per image that are left out for their logit.
        common: the prior from which a class's unknown labels are all left out.

    Source: Ben-Baruch et al., "Multi-label Classification with Partial Annotations using
    Class-aware Selective Loss" (CVPR 2022); the defaults are its public implementation's.
    """
    present, absent, unknown = known > 0, known < 0, known == 0
    counted = unknown & (prior <= common)[None, :]
    with torch.no_grad():
        # The most likely are chosen among all unknown labels, of common classes, too.
        ranked = logits.masked_fill(~unknown, -torch.inf).flatten()
        n = min(likely * len(logits), int(unknown.sum()))
        top = torch.zeros_like(ranked, dtype=torch.bool)
        top[ranked.topk(n).indices] = True
        counted &= ~top.view_as(counted)
        p = torch.sigmoid(logits)
        gamma = absent * gamma_neg + counted * gamma_unknown
        weight = torch.where(present, (1 - p) ** gamma_pos, p**gamma)
    loss = -torch.where(present, F.logsigmoid(logits), F.logsigmoid(-logits)) * weight
    return _mean(loss, present | absent | counted, "known")


def instance_contrast(features: Tensor, known: Tensor) -> Tensor:
    """Pulls a class's features together over the images that show it, and all others apart.

    Per class and pair of images whose labels are both known: ``1 - cos`` where both are present,
    else ``1 + cos``. Of ``n`` pairs of present ones in the batch, the public implementation draws
    ``2 n`` of the pairs with one present and ``2 n`` of those with none, and adds the ``n`` with
    the highest loss of each; without such pairs all others count. Here the draw is replaced by
    what is expected of it, which takes no random numbers. The result is the mean over the pairs.

    Args:
        features: [B, C, d].
        known: [B, C], -1, 0 or 1.

    Source: SST (arXiv 2112.10941) and HST (arXiv 2205.11131), and their public implementation.
    Memory: [C, B, B].
    """
    unit = F.normalize(features, dim=2, eps=1e-9)
    cosine = torch.einsum("icd,jcd->cij", unit, unit)
    one = known.t()
    upper = torch.ones(len(features), len(features), dtype=torch.bool, device=cosine.device).triu(1)
    first, second = one[:, :, None], one[:, None, :]
    both = cosine[(first > 0) & (second > 0) & upper]
    mixed = cosine[(first * second < 0) & upper]
    neither = cosine[(first < 0) & (second < 0) & upper]
    n = len(both)
    total, count = (1 - both).sum(), n
    for apart in (1 + mixed, 1 + neither):
        if n == 0 or len(apart) == 0:
            total, count = total + apart.sum(), count + len(apart)
            continue
        drawn, hardest = min(2 * n, len(apart)), min(n, len(apart))
        total = total + drawn * apart.mean() + apart.topk(hardest).values.sum()
        count += drawn + hardest
    return total / max(count, 1)


def prototype_contrast(similarity: Tensor, known: Tensor) -> Tensor:
    """Pulls features towards their class's prototypes where present, away where absent.

    The mean of ``1 - known * similarity`` over the known labels. The public implementation adds
    where this subtracts, which pushes present ones away from their own prototypes.

    Args:
        similarity: mean cosine similarity to the class's prototypes [B, C].
        known: [B, C], -1, 0 or 1; 0, too, for classes without prototypes.

    Source: HST (arXiv 2205.11131), the contrast of its cross-image module.
    """
    return _mean(1 - known * similarity, known != 0, "known")


def _mean(loss: Tensor, counted: Tensor, normalise: Normalise) -> Tensor:
    total = torch.where(counted, loss, 0.0).sum()
    return total / (counted.sum().clamp(min=1) if normalise == "known" else counted.numel())
