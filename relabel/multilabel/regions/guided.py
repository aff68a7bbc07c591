"""The guided filter: masks that follow the edges of their image, at the price of a few means.

He, Sun and Tang, "Guided Image Filtering", 2013, with a colour image as the guide.

Shape legend: ``B`` images, ``n`` masks of an image, ``H, W`` pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GuidedSettings:
    """A guided filter.

    Attributes:
        radius: of the square windows, in pixels.
        eps: of the regularisation, in squares of colours in [0, 1]: windows of less variance are
            smoothed over.
    """

    radius: int = 16
    eps: float = 1e-3


def guided_filter(
    images: Tensor,
    masks: Tensor,
    settings: GuidedSettings | None = None,
    *,
    valid: Tensor | None = None,
) -> Tensor:
    """Filter masks, their image as the guide (equations 14 to 16).

    In every window a mask is fitted as a linear function of the three colours; a pixel takes the
    mean of the functions of all windows it lies in. Windows are cut off at the image's edges.

    Args:
        images: uint8 [B, H, W, 3].
        masks: float32 [B, n, H, W] in [0, 1].
        settings: the defaults if None.
        valid: bool [B, H, W], False for pixels that only pad an image.

    Returns:
        float32 [B, n, H, W], about in [0, 1]; 0 where not valid.
    """
    settings = settings or GuidedSettings()
    if not masks.numel():
        return masks.clone()
    inside = torch.ones(images.shape[:3], device=masks.device) if valid is None else valid.float()
    rows = _window(inside.amax(2), settings.radius)[:, None]
    columns = _window(inside.amax(1), settings.radius)[:, None].mT

    def mean(x: Tensor) -> Tensor:
        return rows @ x @ columns

    p = masks.float()
    # Centred, so that variances are no small differences of large numbers.
    guide = (images.float() / 255 - 0.5).permute(0, 3, 1, 2)
    mean_i, mean_p = mean(guide), mean(p)
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    first, second = ([pair[k] for pair in pairs] for k in (0, 1))
    moments = mean(guide[:, first] * guide[:, second]) - mean_i[:, first] * mean_i[:, second]
    rr, rg, rb, gg, gb, bb = moments.unsqueeze(2).unbind(1)  # each [B, 1, H, W]
    rr, gg, bb = rr + settings.eps, gg + settings.eps, bb + settings.eps
    covariances = [mean(guide[:, c : c + 1] * p) - mean_i[:, c : c + 1] * mean_p for c in range(3)]
    # The inverse of the symmetric 3 x 3 matrix, by its adjugate.
    inverse = [
        [gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg],
        [rb * gb - rg * bb, rr * bb - rb * rb, rg * rb - rr * gb],
        [rg * gb - rb * gg, rg * rb - rr * gb, rr * gg - rg * rg],
    ]
    determinant = rr * inverse[0][0] + rg * inverse[0][1] + rb * inverse[0][2]
    slopes = [sum(inverse[c][k] * covariances[k] for k in range(3)) / determinant for c in range(3)]
    intercept = mean_p - sum(slopes[c] * mean_i[:, c : c + 1] for c in range(3))
    result = mean(intercept)
    for c in range(3):
        result = result + mean(slopes[c]) * guide[:, c : c + 1]
    return result * inside[:, None]


def _window(inside: Tensor, radius: int) -> Tensor:
    """[B, L] marks of an image's rows (or columns) to the means over windows, [B, L, L]."""
    place = torch.arange(inside.shape[1], device=inside.device)
    near = ((place[:, None] - place).abs() <= radius).float()
    near = near * inside[:, :, None] * inside[:, None, :]
    return near / near.sum(2, keepdim=True).clamp_min(1)
