"""Views of images for training and testing, and the blending of a batch's images.

Views are made in threads beside the training. There torchvision's random transforms would draw from
the generator that the training's dropout draws from; NumPy's generators belong to one image each.

Shape legend: ``B`` images, ``C`` classes, ``S`` side of the square, ``H, W`` an image's own size.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor
from torchvision.transforms import v2

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


def blends(settings: ClassifierSettings) -> bool:
    """Whether images of a batch are blended with one another."""
    return settings.mixup > 0 or settings.cutmix > 0


def mixing(settings: ClassifierSettings) -> v2.Transform | None:
    """Mixup (Zhang et al., 2018), CutMix (Yun et al., 2019), or one of them for each batch."""
    kinds = ((v2.MixUp, settings.mixup), (v2.CutMix, settings.cutmix))
    chosen = [kind(alpha=alpha) for kind, alpha in kinds if alpha > 0]
    return v2.RandomChoice(chosen) if chosen else None


def mixed(
    pixels: Tensor, targets: Tensor, mix: v2.Transform | None, seed: int
) -> tuple[Tensor, Tensor]:
    """Blend float pixels [B, 3, S, S] and targets [B, C] of a batch.

    A target below 0 is unknown, and so is what it is blended into. What is drawn depends on the
    seed alone, and torch's generator is left as it was.
    """
    if mix is None:
        return pixels, targets
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs, too
        both = torch.cat([targets, (targets < 0).float()], dim=1)
        pixels, both = mix(pixels, both)
    blended, unknown = both.chunk(2, dim=1)
    return pixels, torch.where(unknown > 0, -torch.ones_like(blended), blended)
