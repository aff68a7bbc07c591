"""Masks of patches to masks of pixels.

Shape legend: ``n`` masks of an image found, ``m`` kept, ``h, w`` the patch grid, ``H, W`` the
image's own pixels, ``H', W'`` its pixels at the working size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import binary_fill_holes
from torch import Tensor
from torch.nn import functional as F

from relabel.errors import ConfigError, did_you_mean
from relabel.multilabel.regions.crf import CrfSettings, mean_field
from relabel.multilabel.regions.guided import GuidedSettings, guided_filter

METHODS = ("none", "crf", "guided")
MIN_IOU = 0.5
_TOGETHER = 16  # images refined at once where there is a GPU


class Refined(NamedTuple):
    """The masks of one image at full resolution.

    Attributes:
        masks: bool [m, H, W], no pixel in two of them.
        kept: int64 [m], which of the masks found these are.
    """

    masks: np.ndarray
    kept: np.ndarray


def refine(
    image: np.ndarray,
    masks: Tensor | np.ndarray,
    method: str = "crf",
    longest: int = 320,
    device: torch.device | str = "cpu",
    *,
    crf: CrfSettings | None = None,
    guided: GuidedSettings | None = None,
) -> Refined:
    """Bring the masks of one image to its own resolution.

    Masks are upsampled bilinearly to the working size, from which the pixels of earlier masks are
    taken, refined there, their holes filled and the pixels of earlier results taken. A mask is
    dropped where less than half of it and its refinement is common to both (IoU below 0.5). The
    rest are upsampled bilinearly to the image's own size.

    The grid covers the whole image, whatever its aspect ratio (see `features.square`). Images
    whose longest side is below ``longest`` are refined at their own size.

    Args:
        image: uint8 [H, W, 3].
        masks: bool [n, h, w] in order of discovery.
        method: ``none``, ``crf`` (`crf.mean_field`) or ``guided`` (`guided.guided_filter`).
        longest: longest side in pixels of the working size; 0: the image's own.
        device: where the refinement is computed.
        crf, guided: settings of the methods.

    Raises:
        ConfigError: an unknown method.
    """
    return refine_batch([image], [masks], method, longest, device, crf=crf, guided=guided)[0]


def refine_batch(
    images: Sequence[np.ndarray],
    masks: Sequence[Tensor | np.ndarray],
    method: str = "crf",
    longest: int = 320,
    device: torch.device | str = "cpu",
    *,
    crf: CrfSettings | None = None,
    guided: GuidedSettings | None = None,
) -> list[Refined]:
    """`refine` of several images, of any sizes, together where there is a GPU.

    On a CPU images are refined one by one, which is faster there, and results do not depend on the
    batch at all; on a GPU padding may change probabilities in their last bits.
    """
    if method not in METHODS:
        raise ConfigError(f"no refinement called {method!r}", remedy=did_you_mean(method, METHODS))
    device = torch.device(device)
    size = 1 if device.type == "cpu" else _TOGETHER
    results: list[Refined] = []
    for at in range(0, len(images), size):
        found = [torch.as_tensor(one) for one in masks[at : at + size]]
        results += _refine_some(images[at : at + size], found, method, longest, device, crf, guided)
    return results


@torch.inference_mode()
def _refine_some(
    images: Sequence[np.ndarray],
    masks: Sequence[Tensor],
    method: str,
    longest: int,
    device: torch.device,
    crf: CrfSettings | None,
    guided: GuidedSettings | None,
) -> list[Refined]:
    sizes = [_working_size(image, longest) for image in images]
    soft, raw = [], []
    for one, size in zip(masks, sizes, strict=True):
        up = _upsample(one.to(device), size)
        now = up > 0.5
        # What an earlier mask holds is neither part of this one nor evidence for it.
        taken = (now.cumsum(0) - now.int()) > 0
        soft.append(up * ~taken)
        raw.append(now & ~taken)
    fine = raw
    if method != "none":
        fine = _filter(images, soft, sizes, method, device, crf, guided)
    return [
        _finish(image.shape[:2], before.cpu().numpy(), after.cpu().numpy(), device)
        for image, before, after in zip(images, raw, fine, strict=True)
    ]


def _filter(
    images: Sequence[np.ndarray],
    soft: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    method: str,
    device: torch.device,
    crf: CrfSettings | None,
    guided: GuidedSettings | None,
) -> list[Tensor]:
    """Refined masks, bool [n, H', W'] each, of soft ones; all images in one padded batch."""
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    pixels = torch.zeros(len(images), height, width, 3, dtype=torch.uint8)
    valid = torch.zeros(len(images), height, width, dtype=torch.bool)
    padded = torch.zeros(len(images), max(map(len, soft)), height, width, device=device)
    for i, (h, w) in enumerate(sizes):
        pixels[i, :h, :w] = torch.from_numpy(_resize(images[i], (h, w)))
        valid[i, :h, :w] = True
        padded[i, : len(soft[i]), :h, :w] = soft[i]
    marks = None if bool(valid.all()) else valid.to(device)
    pixels = pixels.to(device)
    if method == "crf":
        result = mean_field(pixels, padded, crf, valid=marks)
    else:
        result = guided_filter(pixels, padded, guided, valid=marks)
    return [result[i, : len(soft[i]), :h, :w] > 0.5 for i, (h, w) in enumerate(sizes)]


def _finish(
    size: tuple[int, int], raw: np.ndarray, fine: np.ndarray, device: torch.device
) -> Refined:
    """Fill, separate, judge and upsample the masks of one image, bool [n, H', W'] each."""
    taken = np.zeros(raw.shape[1:], dtype=bool)
    results, kept = [], []
    for i, (before, after) in enumerate(zip(raw, fine, strict=True)):
        mask = binary_fill_holes(after) & ~taken
        either = np.count_nonzero(before | mask)
        if not either or np.count_nonzero(before & mask) < MIN_IOU * either:
            continue
        taken |= mask
        results.append(mask)
        kept.append(i)
    chosen = np.array(kept, dtype=np.int64)
    if not results:
        return Refined(np.zeros((0, *size), dtype=bool), chosen)
    masks = np.stack(results)
    if size != masks.shape[1:]:
        # Disjoint masks stay so: no pixel can draw more than half of its weight from two.
        masks = (_upsample(torch.from_numpy(masks).to(device), size) > 0.5).cpu().numpy()
    some = masks.any((1, 2))  # a single pixel may not survive it
    return Refined(masks[some], chosen[some])


def _working_size(image: np.ndarray, longest: int) -> tuple[int, int]:
    """(H', W') of an image [H, W, 3]; never more than its own."""
    height, width = image.shape[:2]
    if not longest or max(height, width) <= longest:
        return height, width
    scale = longest / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if image.shape[:2] == size:
        return np.array(image)
    height, width = size
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def _upsample(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """bool [n, h, w] to float32 [n, *size] in [0, 1], bilinearly, patches covering the image."""
    if not len(masks):
        return torch.zeros(0, *size, device=masks.device)
    return F.interpolate(masks[None].float(), size=size, mode="bilinear", align_corners=False)[0]
