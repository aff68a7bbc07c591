"""Fully connected CRFs with Gaussian edges, for masks of one object against the rest.

Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials", 2011.

Shape legend: ``B`` images, ``n`` masks of an image, ``H, W`` pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from relabel.multilabel.regions.lattice import PermutohedralLattice


@dataclass(frozen=True)
class CrfSettings:
    """A dense CRF; the defaults are MaskCut's.

    Attributes:
        iterations: of mean field.
        gaussian_sigma, gaussian_weight: the kernel on places, its deviation in pixels.
        bilateral_sigma, bilateral_rgb, bilateral_weight: the kernel on places and colours, its
            deviations in pixels and in grey levels of 255.
    """

    iterations: int = 10
    gaussian_sigma: float = 3.0
    gaussian_weight: float = 7.0
    bilateral_sigma: float = 50.0
    bilateral_rgb: float = 5.0
    bilateral_weight: float = 10.0


def mean_field(
    images: Tensor,
    masks: Tensor,
    settings: CrfSettings | None = None,
    *,
    valid: Tensor | None = None,
) -> Tensor:
    """Each mask's probabilities after mean field, every mask a CRF of two labels of its own.

    The unary energies are those of softmax over (1 - mask, mask); compatibilities are Potts'.
    Kernels are normalised symmetrically, ``D^-1/2 K D^-1/2`` with D the kernel's row sums, which
    is pydensecrf's default, and a pixel sends messages to itself, as there. The Gaussian kernel
    is exact; the bilateral one is approximated on a permutohedral lattice
    (`relabel.multilabel.regions.lattice`), on whichever device the tensors are.

    With two labels a message needs one filter: the labels' potentials differ by the filtered
    difference of their probabilities.

    Args:
        images: uint8 [B, H, W, 3].
        masks: float32 [B, n, H, W] in [0, 1].
        settings: MaskCut's if None.
        valid: bool [B, H, W], False for pixels that only pad an image.

    Returns:
        float32 [B, n, H, W], the probability of the object; 1/2 where not valid.
    """
    settings = settings or CrfSettings()
    count, n, height, width = masks.shape
    if not masks.numel():
        return masks.clone()
    inside = torch.ones(images.shape[:3], device=masks.device) if valid is None else valid.float()
    rows = _gaussian(inside.amax(2), settings.gaussian_sigma)
    columns = _gaussian(inside.amax(1), settings.gaussian_sigma)
    where = None if valid is None else valid.reshape(-1).nonzero()[:, 0]
    lattice = PermutohedralLattice(*_positions(images, settings, where))
    ones = torch.ones(lattice.points, 1, device=masks.device)
    scale = lattice.filter(ones).clamp_min(1e-20).rsqrt()

    def bilateral(x: Tensor) -> Tensor:
        flat = x.permute(0, 2, 3, 1).reshape(-1, n)
        values = flat if where is None else flat[where]
        values = scale * lattice.filter(scale * values)
        if where is not None:
            values = torch.zeros_like(flat).index_copy_(0, where, values)
        return values.view(count, height, width, n).permute(0, 3, 1, 2)

    inside = inside[:, None]
    unary = (2 * masks.float() - 1) * inside
    difference = torch.tanh(unary / 2)
    for _ in range(settings.iterations):
        places = rows[:, None] @ difference @ columns[:, None]
        energy = unary + settings.gaussian_weight * places
        energy += settings.bilateral_weight * bilateral(difference)
        difference = torch.tanh(energy / 2) * inside
    return (difference + 1) / 2


def _gaussian(inside: Tensor, sigma: float) -> Tensor:
    """[B, L] marks of an image's rows (or columns) to the normalised kernel [B, L, L] on them.

    A Gaussian of places is the product of one along rows and one along columns, and so is its
    normalised form: no truncation, and no approximation.
    """
    place = torch.arange(inside.shape[1], device=inside.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * ((place[:, None] - place) / sigma) ** 2)
    kernel = kernel * inside[:, :, None] * inside[:, None, :]
    scale = kernel.sum(2).clamp_min(1e-20).rsqrt()
    return scale[:, :, None] * kernel * scale[:, None, :]


def _positions(
    images: Tensor, settings: CrfSettings, where: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Place and colour of pixels in standard deviations [N, 5], and their images' numbers [N]."""
    count, height, width = images.shape[:3]
    device = images.device
    y = torch.arange(height, device=device, dtype=torch.float32) / settings.bilateral_sigma
    x = torch.arange(width, device=device, dtype=torch.float32) / settings.bilateral_sigma
    places = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    colours = images.float() / settings.bilateral_rgb
    both = torch.cat([places.expand(count, -1, -1, -1), colours], dim=-1).view(-1, 5)
    number = torch.arange(count, device=device).repeat_interleave(height * width)
    if where is not None:
        both, number = both[where], number[where]
    return both, number if count > 1 else None
