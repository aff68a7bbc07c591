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


def resized_bytes(image: np.ndarray, short: float, longest: float) -> Tensor:
    """uint8 [H, W, 3] to uint8 [3, h, w] of the size `resized` gives.

    Resized as bytes, which is several times faster than as floats and rounds to 1/255.
    """
    size = resized(image.shape[0], image.shape[1], short, longest)
    x = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    if size != image.shape[:2]:
        x = F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)
    return x[0].contiguous()


def resized_pixels(image: np.ndarray, short: float, longest: float) -> Tensor:
    """`resized_bytes` as float32 in [0, 1]."""
    return resized_bytes(image, short, longest).float() / 255


def stack_bytes(
    images: Sequence[Tensor], divisor: int, device: torch.device
) -> tuple[Tensor, list[tuple[int, int]]]:
    """uint8 [3, h, w] padded into one batch on a device, float32 [B, 3, H, W] in [0, 1].

    Bytes travel, a quarter of what floats are, and a GPU takes them while the CPU goes on.

    Returns:
        The batch, and (height, width) of each without padding.
    """
    batch, sizes = pad_batch(images, divisor, pinned=device.type == "cuda")
    return batch.to(device, non_blocking=True).float() / 255, sizes


def stack_images(
    images: Sequence[np.ndarray],
    short: float,
    longest: float,
    divisor: int,
    device: torch.device | None = None,
) -> tuple[Tensor, list[tuple[int, int]], list[tuple[float, float]]]:
    """Resize and pad images into one batch, on the CPU by default.

    Returns:
        pixels float32 [B, 3, H, W] in [0, 1]; (height, width) of each without padding; scale
        factors (y, x) from the stored image to the batch.
    """
    tensors = [resized_bytes(image, short, longest) for image in images]
    batch, sizes = stack_bytes(tensors, divisor, device or torch.device("cpu"))
    return batch, sizes, scales_of(sizes, [image.shape[:2] for image in images])


def scales_of(
    sizes: Sequence[Sequence[int]], shapes: Sequence[Sequence[int]]
) -> list[tuple[float, float]]:
    """Factors (y, x) from images of (height, width) ``shapes`` to those of ``sizes``."""
    return [(h / height, w / width) for (h, w), (height, width) in zip(sizes, shapes, strict=True)]


def pad_batch(
    tensors: Sequence[Tensor],
    divisor: int,
    others: Sequence[tuple[int, int]] = (),
    *,
    pinned: bool = False,
) -> tuple[Tensor, list[tuple[int, int]]]:
    """[3, h, w] tensors to one [B, 3, H, W], zero-padded to multiples of ``divisor``.

    Args:
        others: (h, w) of images that are not in ``tensors`` and would fit as well.
        pinned: the batch is in memory that a GPU reads by itself.

    Returns:
        The batch, and (h, w) of each without padding.
    """
    sizes = [(int(t.shape[1]), int(t.shape[2])) for t in tensors]
    sides = zip(*sizes, *others, strict=True)
    height, width = (-(-max(side) // divisor) * divisor for side in sides)
    shape = len(tensors), 3, height, width
    batch = torch.zeros(shape, dtype=tensors[0].dtype, pin_memory=pinned)
    for row, t in zip(batch, tensors, strict=True):
        row[:, : t.shape[1], : t.shape[2]] = t
    return batch, sizes
