"""The square grid that images, masks and label maps are brought to.

Shape legend: ``n`` masks, ``H, W`` pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


def square(image: np.ndarray, side: int) -> np.ndarray:
    """uint8 [H, W, 3] resized to uint8 [side, side, 3] by Lanczos, its aspect ratio given up.

    As MaskCut does (Wang et al., 2023): every image has the same grid.
    """
    if image.shape[:2] == (side, side):
        return image
    return np.array(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))


def mask_weights(masks: Tensor, grid: int | tuple[int, int]) -> Tensor:
    """How much of each cell every mask covers.

    Args:
        masks: bool [n, H, W].
        grid: cells per side, or (rows, columns).

    Returns:
        float32 [n, rows, columns] in [0, 1]: the exact area average, also where H and W are no
        multiples of the grid. Its sum is the mask's area in cells.
    """
    rows, columns = (grid, grid) if isinstance(grid, int) else grid
    return _area_average(masks.float(), rows, columns)


def to_grid(values: Tensor, grid: int) -> Tensor:
    """[..., h, w] to [..., grid, grid]: area average where it shrinks, else bilinear."""
    h, w = values.shape[-2:]
    if h >= grid and w >= grid:
        return _area_average(values, grid, grid)
    flat = values.reshape(1, -1, h, w)
    fine = F.interpolate(flat, size=(grid, grid), mode="bilinear", align_corners=False)
    return fine.reshape(*values.shape[:-2], grid, grid)


def _area_average(values: Tensor, rows: int, columns: int) -> Tensor:
    down = _overlap(values.shape[-2], rows, values)
    across = _overlap(values.shape[-1], columns, values)
    return down @ values @ across.T


def _overlap(size: int, cells: int, like: Tensor) -> Tensor:
    """[cells, size]: the share of each cell that each pixel covers; rows sum to 1."""
    pixel = torch.arange(size, dtype=torch.float64)
    edge = torch.arange(cells + 1, dtype=torch.float64) * size / cells
    low = torch.maximum(pixel[None], edge[:-1, None])
    high = torch.minimum(pixel[None] + 1, edge[1:, None])
    return ((high - low).clamp_min(0) * cells / size).to(like.device, like.dtype)
