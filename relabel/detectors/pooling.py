"""Region pooling whose gradient is cheap on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign


class SeparableRoIAlign(MultiScaleRoIAlign):
    """torchvision's RoIAlign over a pyramid, on a CPU and in training as weighted sums of places.

    A pooled cell is the mean of bilinear samples, and so a weighted sum of the map at some places;
    weights are those along one axis times those along the other. torchvision's own gradient on a
    CPU visits every sample of every channel one after the other, in more than twice the time
    (`benchmarks/frozen_maps.md`); a bag of embeddings adds all channels of a place at once. Values
    are the same up to rounding.

    Shape legend: ``B`` images, ``R`` RoIs, ``p`` cells per side, ``q`` samples per side of a cell,
    ``d`` channels.
    """

    def forward(
        self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        maps = [x[name] for name in self.featmap_names if name in x]
        if not self.training or maps[0].device.type != "cpu" or not sum(map(len, boxes)):
            return super().forward(x, boxes, image_shapes)
        if self.scales is None:
            with torch.no_grad():
                super().forward(x, boxes, image_shapes)  # sets scales and levels
        levels = self._levels(boxes)
        counts = torch.tensor([len(rows) for rows in boxes])
        image = torch.arange(len(boxes)).repeat_interleave(counts)
        joined = torch.cat(boxes).float()
        size, samples = self.output_size[0], self.sampling_ratio
        pooled: list[Tensor] = []
        places: list[Tensor] = []
        with torch.autocast("cpu", enabled=False):
            for level, (one, scale) in enumerate(zip(maps, self.scales or [], strict=True)):
                here = (levels == level).nonzero()[:, 0]
                if len(here):
                    rows = joined[here] * scale
                    pooled.append(pool(one.float(), image[here], rows, size, samples))
                    places.append(here)
        found = torch.cat(pooled)
        # Back in the order of the RoIs.
        return found[torch.cat(places).argsort()]

    def _levels(self, boxes: list[Tensor]) -> Tensor:
        if self.map_levels is None or len(self.scales or []) < 2:
            return torch.zeros(sum(map(len, boxes)), dtype=torch.int64)
        choose: Any = self.map_levels
        return choose(boxes)


def pool(maps: Tensor, image: Tensor, boxes: Tensor, size: int, samples: int) -> Tensor:
    """RoIAlign (not aligned by half a cell) of the maps of one level.

    Args:
        maps: [B, d, H, W].
        image: int64 [R], which of the maps.
        boxes: [R, 4] xyxy in cells of the map.

    Returns:
        [R, d, p, p].
    """
    _, channels, height, width = maps.shape
    x, x_weight = sampling(boxes[:, 0], boxes[:, 2], width, size, samples)
    y, y_weight = sampling(boxes[:, 1], boxes[:, 3], height, size, samples)
    row = image[:, None, None] * height + y
    place = row[:, :, None, :, None] * width + x[:, None, :, None, :]  # [R, p, p, 2 q, 2 q]
    weight = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
    found = F.embedding_bag(
        place.flatten(3).flatten(0, 2),
        maps.permute(0, 2, 3, 1).reshape(-1, channels),
        per_sample_weights=weight.flatten(3).flatten(0, 2),
        mode="sum",
    )
    return found.view(len(boxes), size, size, channels).permute(0, 3, 1, 2)


def sampling(
    low: Tensor, high: Tensor, cells: int, size: int, samples: int
) -> tuple[Tensor, Tensor]:
    """The places of a map along one axis that boxes from ``low`` to ``high`` read: int64
    [R, p, 2 q], and what each of them weighs."""
    span = (high - low).clamp(min=1)
    offset = (torch.arange(size * samples) + 0.5) / (size * samples)
    at = low[:, None] + offset * span[:, None]  # [R, p q]
    inside = ((at >= -1) & (at <= cells)).float() / samples
    at = at.clamp(0, cells - 1)
    first = at.floor()
    second = (first + 1).clamp(max=cells - 1)
    share = at - first
    place = torch.stack([first, second], dim=-1).long()
    weight = torch.stack([(1 - share) * inside, share * inside], dim=-1)
    shape = (len(low), size, 2 * samples)
    return place.view(shape), weight.view(shape)
