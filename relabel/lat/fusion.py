"""Semantic Feature Fusion (SFF): proposals of one image exchange labels and features.

Shape legend: ``B`` images, ``M`` proposals, ``C`` classes of the joint space, ``d`` channels,
``h`` heads, ``g`` geometry terms.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from relabel.geometry import shared_areas
from relabel.lat.settings import LatSettings

GEOMETRY_TERMS = 6
HEADS = 4


class SemanticFeatureFusion(nn.Module):
    """``SA = clamp(softmax(A), row max <= T) V_c + softmax(S_c * A) V_r``, ``T = 1/sqrt(N)``.

    Source: "Mind the Gap" (arXiv 2506.04737), the SFF equation. ``A = Q K^T / sqrt(d)`` over the
    region features, ``V_c`` a projection of the score vectors, ``V_r`` of the region features.
    The clamp scales a row down until its maximum is ``T``; whether it is then renormalised is not
    printed, and it is not. With geometry (ours) attention has `HEADS`, the way two boxes lie
    to each other adds a learned term to ``A``, and its attention-weighted mean joins the output:
    that is how a proposal learns where the boxes that support it are.
    """

    def __init__(self, settings: LatSettings, classes: int, datasets: int) -> None:
        super().__init__()
        geometry = settings.has("geometry")
        d, h = settings.channels, HEADS if geometry else 1
        self.h, self.plain = h, settings.fusion == "plain"
        self.limit = 1 / math.sqrt(datasets)
        self.query, self.key = nn.Linear(d, d), nn.Linear(d, d)
        self.value_scores = nn.Linear(classes, d)
        self.value_region = nn.Linear(d, d)
        if geometry:
            self.bias = nn.Sequential(
                nn.Linear(GEOMETRY_TERMS, 32), nn.ReLU(inplace=True), nn.Linear(32, 2 * h)
            )
            self.value_geometry = nn.Linear(2 * h * GEOMETRY_TERMS, d)

    def forward(
        self, x: Tensor, scores: Tensor, confidence: Tensor, valid: Tensor, geometry: Tensor | None
    ) -> Tensor:
        """Fuse.

        Args:
            x: region features [B, M, d].
            scores: class scores over the joint space [B, M, C], zero where unknown.
            confidence: S_c [B, M]: 1 for annotated boxes, else the largest score.
            valid: bool [B, M], False on padding.
            geometry: pairwise terms [B, M, M, g], or None.

        Returns:
            SA [B, M, d].
        """
        b, m, d = x.shape
        q = self.query(x).view(b, m, self.h, -1).transpose(1, 2)
        k = self.key(x).view(b, m, self.h, -1).transpose(1, 2)
        a = q @ k.transpose(2, 3) / math.sqrt(d // self.h)  # [B, h, M, M]
        if geometry is None:
            a_c = a_r = a
        else:
            bias = self.bias(geometry).view(b, m, m, 2, self.h).permute(0, 3, 4, 1, 2)
            a_c, a_r = (a[:, None] + bias).unbind(1)
        blocked = ~valid[:, None, None, :]
        if self.plain:
            weights = torch.softmax(a_r.masked_fill(blocked, -1e4), dim=-1)
            values = self.value_region(x) + self.value_scores(scores)
            return self._gather(weights, values) + self._where(geometry, weights, weights)
        weights_c = torch.softmax(a_c.masked_fill(blocked, -1e4), dim=-1)
        weights_c = clamp_rows(weights_c, self.limit)
        weighted = confidence[:, None, None, :] * a_r
        weights_r = torch.softmax(weighted.masked_fill(blocked, -1e4), dim=-1)
        fused = self._gather(weights_c, self.value_scores(scores))
        fused = fused + self._gather(weights_r, self.value_region(x))
        return fused + self._where(geometry, weights_c, weights_r)

    def _gather(self, weights: Tensor, values: Tensor) -> Tensor:
        b, h, m, _ = weights.shape
        heads = values.view(b, m, h, -1).transpose(1, 2)
        return (weights @ heads).transpose(1, 2).reshape(b, m, -1)

    def _where(
        self, geometry: Tensor | None, weights_c: Tensor, weights_r: Tensor
    ) -> Tensor | float:
        if geometry is None:
            return 0.0
        both = torch.cat([weights_c, weights_r], dim=1)
        mean = torch.einsum("bhij,bijg->bihg", both, geometry)
        return self.value_geometry(mean.flatten(2))


def clamp_rows(weights: Tensor, limit: float) -> Tensor:
    """Scale each row [..., M] down so that its largest entry is at most ``limit``."""
    peak = weights.amax(dim=-1, keepdim=True)
    return weights * (limit / peak.clamp(min=limit))


def pairwise_geometry(boxes: Tensor) -> Tensor:
    """How each box lies to each other: [B, M, 4] xyxy -> [B, M, M, 6].

    Terms: IoU, log of (IoU + 0.01), and box ``j`` seen from box ``i``: centre offset in units of
    its size, log size ratios; offsets are squashed to (-1, 1).
    """
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-3)
    centre = boxes[..., :2] + size / 2
    inter = shared_areas(boxes, boxes)
    area = size.prod(dim=-1)
    iou = inter / (area[:, :, None] + area[:, None, :] - inter).clamp(min=1e-6)
    offset = (centre[:, None, :, :] - centre[:, :, None, :]) / size[:, :, None, :]
    ratio = torch.log(size[:, None, :, :] / size[:, :, None, :]).clamp(-4, 4)
    return torch.cat(
        [
            iou[..., None],
            torch.log(iou + 0.01)[..., None] / 4.6 + 1,
            torch.tanh(offset),
            torch.tanh(ratio),
        ],
        dim=-1,
    )
