"""Images as the tensors that networks take: resized, padded, stacked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def resized(height: int, width: int, short: float, longest: float) -> tuple[int, int]:
    """Size with the short side at ``short``, unless the long side would exceed ``longest``."""
    scale = min(short / min(height, width), longest / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def resized_pixels(image: np.ndarray, short: float, longest: float) -> Tensor:
    """uint8 [H, W, 3] to float32 [3, h, w] in [0, 1], of the size `resized` gives.

    Resized as bytes, which is several times faster than as floats and rounds to 1/255.
    """
    size = resized(image.shape[0], image.shape[1], short, longest)
    x = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    if size != image.shape[:2]:
        x = F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)
    return (x[0].float() / 255).contiguous()


def stack_images(
    images: Sequence[np.ndarray], short: float, longest: float, divisor: int
) -> tuple[Tensor, list[tuple[int, int]], list[tuple[float, float]]]:
    """Resize and pad images into one batch.

    Returns:
        pixels float32 [B, 3, H, W] in [0, 1]; (height, width) of each without padding; scale
        factors (y, x) from the stored image to the batch.
    """
    tensors = [resized_pixels(image, short, longest) for image in images]
    batch, sizes = pad_batch(tensors, divisor)
    scales = [
        (h / image.shape[0], w / image.shape[1])
        for (h, w), image in zip(sizes, images, strict=True)
    ]
    return batch, sizes, scales


def pad_batch(
    tensors: Sequence[Tensor], divisor: int, others: Sequence[tuple[int, int]] = ()
) -> tuple[Tensor, list[tuple[int, int]]]:
    """[3, h, w] tensors to one [B, 3, H, W], zero-padded to multiples of ``divisor``.

    Args:
        others: (h, w) of images that are not in ``tensors`` and would fit as well.

    Returns:
        The batch, and (h, w) of each without padding.
    """
    sizes = [(int(t.shape[1]), int(t.shape[2])) for t in tensors]
    sides = zip(*sizes, *others, strict=True)
    height, width = (-(-max(side) // divisor) * divisor for side in sides)
    batch = tensors[0].new_zeros(len(tensors), 3, height, width)
    for row, t in zip(batch, tensors, strict=True):
        row[:, : t.shape[1], : t.shape[2]] = t
    return batch, sizes
