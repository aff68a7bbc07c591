"""What a student sees: strong views of images, laid over each other and side by side.

Shape legend: ``h, w`` pixels of an image, ``n`` boxes of an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from torch import Tensor

# Strong view of Unbiased Teacher (Liu et al., ICLR 2021): (probability, share of the area, aspect
# ratio) of the boxes that Cutout erases.
ERASED = (
    (0.7, (0.05, 0.2), (0.3, 3.3)),
    (0.5, (0.02, 0.2), (0.1, 6.0)),
    (0.3, (0.02, 0.2), (0.05, 8.0)),
)
MOSAIC_IMAGES = 4
# Where the corner that the four images of a mosaic share may lie, as shares of its sides.
MOSAIC_CENTRE = (0.35, 0.65)


@dataclass(frozen=True)
class Placement:
    """Where an image lies in what the student sees: ``x' = scale * x + left``.

    Attributes:
        image: number of the image in its batch.
        scale: of the pixels.
        left, top: of its corner.
    """

    image: int
    scale: float = 1.0
    left: float = 0.0
    top: float = 0.0

    def boxes(self, boxes: Tensor) -> Tensor:
        """Boxes [n, 4] xyxy of the image, moved to where it lies."""
        return boxes * self.scale + boxes.new_tensor([self.left, self.top, self.left, self.top])


View = tuple[Tensor, list[Placement]]


def strong_view(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Colour jitter, greyscale, blur and erased rectangles; nothing moves, so boxes stay valid.

    Probabilities and ranges are those of Unbiased Teacher.

    Args:
        x: [3, h, w] in [0, 1]; not changed.
    """
    if rng.random() < 0.8:
        brightness, contrast, saturation = rng.uniform(0.6, 1.4, 3)
        x = TF.adjust_brightness(x, float(brightness))
        x = TF.adjust_contrast(x, float(contrast))
        x = TF.adjust_saturation(x, float(saturation))
        x = TF.adjust_hue(x, float(rng.uniform(-0.1, 0.1)))
    if rng.random() < 0.2:
        x = TF.rgb_to_grayscale(x, num_output_channels=3)
    if rng.random() < 0.5:
        sigma = float(rng.uniform(0.1, 2.0))
        # A kernel reaches less far than the image does, which may be a strip.
        kernel = [2 * min(math.ceil(2 * sigma), side - 1) + 1 for side in (x.shape[2], x.shape[1])]
        x = TF.gaussian_blur(x, kernel, [sigma] * 2)
    x = x.clone()
    height, width = x.shape[1:]
    for chance, area, aspect in ERASED:
        if rng.random() < chance:
            size = rng.uniform(*area) * height * width
            ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
            h = min(height, max(1, round(math.sqrt(size * ratio))))
            w = min(width, max(1, round(math.sqrt(size / ratio))))
            top = int(rng.integers(height - h + 1))
            left = int(rng.integers(width - w + 1))
            noise = rng.random((3, h, w), dtype=np.float32)
            x[:, top : top + h, left : left + w] = torch.from_numpy(noise)
    return x


def mixed_views(images: Sequence[Tensor], rng: np.random.Generator) -> list[View]:
    """Every image with another one on top, and every four of them in a mosaic.

    Pseudo Mixup and Pseudo Mosaic of "Mixed Pseudo Labels for Semi-Supervised Object Detection"
    (MixPL; Chen et al., arXiv 2312.07006): false and missed labels weigh less where images share
    a view, and objects get smaller in a mosaic. A single image stays as it is.

    Args:
        images: strong views, [3, h, w] each.

    Returns:
        Views [3, h, w] and what lies where in each.
    """
    count = len(images)
    if count < 2:
        return [(x, [Placement(i)]) for i, x in enumerate(images)]
    order = rng.permutation(count)
    views = [mixup(images, int(order[i]), int(order[(i + 1) % count])) for i in range(count)]
    for start in range(0, count - MOSAIC_IMAGES + 1, MOSAIC_IMAGES):
        four = [int(i) for i in order[start : start + MOSAIC_IMAGES]]
        centre = rng.uniform(*MOSAIC_CENTRE, 2)
        views.append(mosaic(images, four, (float(centre[0]), float(centre[1]))))
    return views


def mixup(images: Sequence[Tensor], first: int, second: int) -> View:
    """Two images, corner on corner, half of each where both are.

    Returns:
        [3, h, w] of the larger height and width; the boxes of both are its boxes.
    """
    a, b = images[first], images[second]
    height, width = (max(a.shape[i], b.shape[i]) for i in (1, 2))
    total, weight = a.new_zeros(3, height, width), a.new_zeros(1, height, width)
    for x in (a, b):
        total[:, : x.shape[1], : x.shape[2]] += x
        weight[:, : x.shape[1], : x.shape[2]] += 1
    return total / weight.clamp(min=1), [Placement(first), Placement(second)]


def mosaic(images: Sequence[Tensor], four: Sequence[int], centre: tuple[float, float]) -> View:
    """Four images in the quarters of the first one's frame, each whole and touching the centre.

    Args:
        four: numbers of the images: top left, top right, bottom left, bottom right.
        centre: (x, y) of the common corner, as shares of width and height.
    """
    # All four have room even in the frame of a strip.
    height, width = (max(side, 2) for side in images[four[0]].shape[1:])
    middle_x, middle_y = round(centre[0] * width), round(centre[1] * height)
    canvas = images[four[0]].new_zeros(3, height, width)
    placements = []
    for place, number in enumerate(four):
        x = images[number]
        right, below = place % 2 == 1, place >= 2
        room_x = width - middle_x if right else middle_x
        room_y = height - middle_y if below else middle_y
        scale = min(room_x / x.shape[2], room_y / x.shape[1])
        h, w = max(1, round(x.shape[1] * scale)), max(1, round(x.shape[2] * scale))
        h, w = min(h, room_y), min(w, room_x)
        left = middle_x if right else middle_x - w
        top = middle_y if below else middle_y - h
        small = F.interpolate(
            x[None], size=(h, w), mode="bilinear", antialias=True, align_corners=False
        )
        canvas[:, top : top + h, left : left + w] = small[0]
        placements.append(Placement(number, scale, left, top))
    return canvas, placements
