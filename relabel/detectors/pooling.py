"""Region pooling whose gradient is cheap on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign

MOST_CELLS = 2048


class SeparableRoIAlign(MultiScaleRoIAlign):
    """torchvision's RoIAlign over a pyramid, on a CPU and in training as products of matrices.

    Bilinear samples on a grid along both axes are a matrix for the rows times the map times a
    matrix for the columns. torchvision's own gradient on a CPU visits every sample of every
    channel one after the other, in two to four times the time (`benchmarks/frozen_maps.md`). Values
    are the same up to rounding. Where the finest map has more than `MOST_CELLS` cells the products
    grow too large, and torchvision's is used.

    Shape legend: ``R`` RoIs, ``p`` cells per side, ``q`` samples per side of a cell, ``d``
    channels.
    """

    def forward(
        self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        maps = [x[name] for name in self.featmap_names if name in x]
        fine = maps[0]
        if (
            not self.training
            or fine.device.type != "cpu"
            or fine.shape[2] * fine.shape[3] > MOST_CELLS
            or not sum(map(len, boxes))
        ):
            return super().forward(x, boxes, image_shapes)
        if self.scales is None:
            with torch.no_grad():
                super().forward(x, boxes, image_shapes)  # sets scales and levels
        scales, levels = self.scales, self._levels(boxes)
        starts = [0]
        for rows in boxes:
            starts.append(starts[-1] + len(rows))
        size, samples = self.output_size[0], self.sampling_ratio
        pooled: list[Tensor] = []
        places: list[Tensor] = []
        with torch.autocast("cpu", enabled=False):
            for level, (one, scale) in enumerate(zip(maps, scales or [], strict=True)):
                for image, rows in enumerate(boxes):
                    here = (levels[starts[image] : starts[image + 1]] == level).nonzero()[:, 0]
                    if len(here):
                        scaled = rows[here].float() * scale
                        pooled.append(pool(one[image].float(), scaled, size, samples))
                        places.append(here + starts[image])
        found = torch.cat(pooled)
        # Back in the order of the RoIs.
        return found[torch.cat(places).argsort()]

    def _levels(self, boxes: list[Tensor]) -> Tensor:
        if self.map_levels is None or len(self.scales or []) < 2:
            return torch.zeros(sum(map(len, boxes)), dtype=torch.int64)
        choose: Any = self.map_levels
        return choose(boxes)


def pool(one: Tensor, boxes: Tensor, size: int, samples: int) -> Tensor:
    """RoIAlign (not aligned by half a cell) of one map.

    Args:
        one: [d, H, W].
        boxes: [R, 4] xyxy in cells of the map.

    Returns:
        [R, d, p, p].
    """
    channels, height, width = one.shape
    columns = sampling(boxes[:, 0], boxes[:, 2], width, size, samples)
    rows = sampling(boxes[:, 1], boxes[:, 3], height, size, samples)
    flat = columns.flatten(0, 1).expand(height, -1, -1)  # [H, R p, W]
    across = torch.bmm(flat, one.permute(1, 2, 0))  # [H, R p, d]
    across = across.view(height, len(boxes), size * channels).transpose(0, 1)  # [R, H, p d]
    found = torch.bmm(rows, across)  # [R, p, p d]
    return found.view(len(boxes), size, size, channels).permute(0, 3, 1, 2)


def sampling(low: Tensor, high: Tensor, cells: int, size: int, samples: int) -> Tensor:
    """Weights [R, p, cells] of a map's cells along one axis, of boxes from ``low`` to ``high``."""
    span = (high - low).clamp(min=1)
    offset = (torch.arange(size * samples) + 0.5) / (size * samples)
    at = low[:, None] + offset * span[:, None]  # [R, p q]
    inside = ((at >= -1) & (at <= cells)).float()
    at = at.clamp(0, cells - 1)
    first = at.floor().long()
    second = (first + 1).clamp(max=cells - 1)
    share = at - first
    weights = at.new_zeros(*at.shape, cells)
    weights.scatter_add_(2, first[..., None], ((1 - share) * inside)[..., None])
    weights.scatter_add_(2, second[..., None], (share * inside)[..., None])
    return weights.view(len(low), size, samples, cells).mean(dim=2)
