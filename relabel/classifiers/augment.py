"""Views of images for training and testing, and the blending of a batch's images.

Shape legend: ``B`` images, ``C`` classes, ``S`` side of the square, ``H, W`` an image's own size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor

from relabel.classifiers.settings import ClassifierSettings

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_ASPECT = (3 / 4, 4 / 3)
_CROP_TRIES = 10


def training_view(
    image: np.ndarray, side: int, settings: ClassifierSettings, rng: np.random.Generator
) -> np.ndarray:
    """uint8 [S, S, 3]: a random crop of an image [H, W, 3], flipped and altered as set.

    3-augment and the colour jitter after it follow DeiT-III (Touvron et al., 2022, section 3).
    """
    s = settings
    height, width = image.shape[:2]
    box = draw_crop(height, width, s.crop_scale, rng)
    view = Image.fromarray(image).resize((side, side), _RESAMPLING[s.interpolation], box=box)
    if rng.random() < s.flip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if s.augment == "3-augment":
        view = _three_augment(view, rng)
    if s.color_jitter > 0:
        factors = rng.uniform(1 - s.color_jitter, 1 + s.color_jitter, 3)
        enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        for enhancer, factor in zip(enhancers, factors, strict=True):
            view = enhancer(view).enhance(float(factor))
    return np.array(view)


def draw_crop(
    height: int, width: int, scale: tuple[float, ...], rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """The box (left, top, right, bottom) of a random resized crop (Szegedy et al., 2015).

    Area uniform in ``scale`` of the image's, aspect log-uniform in 3/4 to 4/3. Where ten draws do
    not fit into the image: the largest centred box whose aspect is in that range.
    """
    for _ in range(_CROP_TRIES):
        area = height * width * rng.uniform(min(scale), max(scale))
        aspect = math.exp(rng.uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1])))
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left, top, left + w, top + h
    w, h = min(width, height * _ASPECT[1]), min(height, width / _ASPECT[0])
    left, top = (width - w) / 2, (height - h) / 2
    return left, top, left + w, top + h


def _three_augment(view: Image.Image, rng: np.random.Generator) -> Image.Image:
    kind = int(rng.integers(3))
    if kind == 0:
        return ImageOps.grayscale(view).convert("RGB")
    if kind == 1:
        return ImageOps.solarize(view, threshold=128)
    return view.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.1, 2.0))))


def centre_view(image: np.ndarray, side: int, crop: float, interpolation: str) -> np.ndarray:
    """uint8 [S, S, 3]: the short side resized to S / crop, then the centre of S x S."""
    height, width = image.shape[:2]
    short = max(side, round(side / crop))
    factor = short / min(height, width)
    size = (max(side, round(width * factor)), max(side, round(height * factor)))
    view = Image.fromarray(image).resize(size, _RESAMPLING[interpolation])
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return np.array(view.crop((left, top, left + side, top + side)))


@dataclass(frozen=True)
class Mix:
    """How each image of a batch is blended with its counterpart, the batch in reverse order.

    Attributes:
        keep: share of an image's own target that stays.
        box: rows and columns (top, bottom, left, right) that CutMix takes from the counterpart;
            None for mixup, which blends all pixels.
    """

    keep: float
    box: tuple[int, int, int, int] | None = None


def draw_mix(settings: ClassifierSettings, side: int, rng: np.random.Generator) -> Mix | None:
    """Mixup (Zhang et al., 2018) or CutMix (Yun et al., 2019) of a batch; None for neither."""
    mixup, cutmix = settings.mixup, settings.cutmix
    if mixup <= 0 and cutmix <= 0:
        return None
    if cutmix <= 0 or (mixup > 0 and rng.random() < 0.5):
        return Mix(float(rng.beta(mixup, mixup)))
    cut = math.sqrt(1 - float(rng.beta(cutmix, cutmix))) * side / 2
    y, x = rng.uniform(0, side, 2)
    top, bottom = (int(np.clip(round(y + d), 0, side)) for d in (-cut, cut))
    left, right = (int(np.clip(round(x + d), 0, side)) for d in (-cut, cut))
    # The share that is really cut, since a box may reach beyond the border.
    return Mix(1 - (bottom - top) * (right - left) / side**2, (top, bottom, left, right))


def apply_mix(pixels: Tensor, targets: Tensor, mix: Mix | None) -> tuple[Tensor, Tensor]:
    """Blend float pixels [B, 3, S, S] and targets [B, C]; a target below 0 stays unknown."""
    if mix is None:
        return pixels, targets
    other = pixels.flip(0)
    if mix.box is None:
        pixels = mix.keep * pixels + (1 - mix.keep) * other
    else:
        top, bottom, left, right = mix.box
        pixels = pixels.clone()
        pixels[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
    partner = targets.flip(0)
    unknown = (targets < 0) | (partner < 0)
    blended = mix.keep * targets + (1 - mix.keep) * partner
    return pixels, torch.where(unknown, -torch.ones_like(blended), blended)
