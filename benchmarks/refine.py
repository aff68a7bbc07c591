"""Refinement of masks: seconds per mask, and the CRF against the direct sum over all pairs.

Masks are ellipses in the boxes of a Pascal VOC folder, three per image, on a grid of 28 x 28
patches. Speed is taken at the working size of `relabel imagenet-multilabel`. The direct mean
field needs a number per pair of pixels and so a small size, to which the kernels are scaled.
Times are CPU seconds of one thread, which other work on the machine disturbs least; what an image
costs is shared among its masks.

    python benchmarks/refine.py VOC_FOLDER [--images 12] [--side 80] [--out benchmarks/refine.md]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from relabel.multilabel.regions.crf import CrfSettings, mean_field
from relabel.multilabel.regions.lattice import PermutohedralLattice
from relabel.multilabel.regions.refine import METHODS, refine

GRID = 28
FULL = 320


def read(folder: Path, count: int) -> list[tuple[np.ndarray, torch.Tensor]]:
    """(image uint8 [H, W, 3], masks bool [3, 28, 28]) of every few files of the folder."""
    files = sorted(folder.rglob("Annotations/*.xml"))
    chosen = []
    for file in files[:: max(1, len(files) // count)][:count]:
        root = ElementTree.parse(file).getroot()
        image = Image.open(file.parents[1] / "JPEGImages" / str(root.findtext("filename")))
        boxes = [
            [float(b.findtext(k) or 0) for k in ("xmin", "ymin", "xmax", "ymax")]
            for b in root.iter("bndbox")
        ]
        boxes.sort(key=lambda b: -(b[2] - b[0]) * (b[3] - b[1]))
        masks = [ellipse(box, image.width, image.height) for box in boxes[:3]]
        while len(masks) < 3:  # always three masks, so that images cost alike
            masks.append(np.roll(masks[-1], GRID // 3, axis=1))
        chosen.append((np.array(image.convert("RGB")), torch.from_numpy(np.stack(masks))))
    return chosen


def ellipse(box: list[float], width: int, height: int) -> np.ndarray:
    """bool [28, 28]: patches whose centre lies in the ellipse of an xyxy box."""
    y, x = (np.mgrid[:GRID, :GRID] + 0.5) / GRID
    x, y = x * width, y * height
    left, top, right, bottom = box
    across = (x - (left + right) / 2) / max(1.0, right - left)
    down = (y - (top + bottom) / 2) / max(1.0, bottom - top)
    return across**2 + down**2 <= 0.25


def shrink(image: np.ndarray, longest: int) -> np.ndarray:
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    size = (round(width * scale), round(height * scale))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def positions(image: np.ndarray, settings: CrfSettings) -> torch.Tensor:
    """float32 [N, 5]: place and colour in standard deviations."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    places = np.stack([x, y], -1) / settings.bilateral_sigma
    both = np.concatenate([places, image / settings.bilateral_rgb], -1)
    return torch.from_numpy(both).float().reshape(-1, 5)


def kernel_of(at: torch.Tensor) -> torch.Tensor:
    kernel = torch.exp(-0.5 * torch.cdist(at, at) ** 2)
    scale = kernel.sum(1).rsqrt()
    return scale[:, None] * kernel * scale


def direct(image: np.ndarray, masks: torch.Tensor, settings: CrfSettings) -> torch.Tensor:
    """Mean field with the two dense kernels, probabilities [n, H, W]."""
    at = positions(image, settings)
    bilateral = kernel_of(at)
    places = kernel_of(at[:, :2] * (settings.bilateral_sigma / settings.gaussian_sigma))
    unary = 2 * masks.flatten(1) - 1
    difference = torch.tanh(unary / 2)
    for _ in range(settings.iterations):
        energy = unary + settings.gaussian_weight * difference @ places
        energy += settings.bilateral_weight * difference @ bilateral
        difference = torch.tanh(energy / 2)
    return ((difference + 1) / 2).view(masks.shape)


def iou(a: torch.Tensor, b: torch.Tensor) -> float:
    either = int((a | b).sum())
    return int((a & b).sum()) / either if either else 1.0


def speed(data: list[tuple[np.ndarray, torch.Tensor]]) -> list[str]:
    lines = [
        "| method | median s per image | median s per mask | slowest image | masks kept |",
        "|---|---|---|---|---|",
    ]
    for method in METHODS:
        refine(*data[0], method, FULL)  # warm
        spent, kept = [], 0
        for image, masks in data:
            began = time.process_time()
            kept += len(refine(image, masks, method, FULL).kept)
            spent.append(time.process_time() - began)
        middle = statistics.median(spent)
        lines.append(
            f"| {method} | {middle:.3f} | {middle / 3:.3f} | {max(spent):.3f} "
            f"| {kept} of {3 * len(data)} |"
        )
    return lines


def quality(data: list[tuple[np.ndarray, torch.Tensor]], longest: int) -> list[str]:
    scale = longest / FULL
    settings = CrfSettings(gaussian_sigma=3 * scale, bilateral_sigma=50 * scale)
    ious, agree, changed, errors, spent, dense = [], [], [], [], [], []
    for full, grid in data:
        image = shrink(full, longest)
        masks = torch.nn.functional.interpolate(
            grid[None].float(), image.shape[:2], mode="bilinear"
        )[0]
        began = time.process_time()
        made = mean_field(torch.from_numpy(image)[None], masks[None], settings)[0] > 0.5
        middle = time.process_time()
        wanted = direct(image, masks, settings) > 0.5
        dense.append(time.process_time() - middle)
        spent.append(middle - began)
        for one, other, raw in zip(made, wanted, masks > 0.5, strict=True):
            if iou(other, raw) >= 0.5:  # the others are dropped, whatever their outline
                ious.append(iou(one, other))
                changed.append(1 - iou(other, raw))
            agree.append((iou(one, raw) >= 0.5) == (iou(other, raw) >= 0.5))
        at = positions(image, settings)
        values = 2 * (masks > 0.5).flatten(1).T.float() - 1
        lattice = PermutohedralLattice(at)
        norm = lattice.filter(torch.ones(len(at), 1)).rsqrt()
        errors.append((norm * lattice.filter(norm * values) - kernel_of(at) @ values).abs())
    error = torch.cat([e.flatten() for e in errors])
    low, tenth = min(ious), float(np.percentile(ious, 10))
    return [
        f"Longest side {longest} pixels, kernels scaled by {scale:g} (places {3 * scale:g}; "
        f"bilateral {50 * scale:g} pixels, 5 grey levels).",
        "",
        "| | |",
        "|---|---|",
        f"| IoU of CRF masks with the direct ones, median | {statistics.median(ious):.4f} |",
        f"| 10th percentile; minimum | {tenth:.4f}; {low:.4f} |",
        f"| 1 − IoU of direct and unrefined, median | {statistics.median(changed):.3f} |",
        f"| same decision to keep or drop | {sum(agree)} of {len(agree)} |",
        f"| one filtering of ±1 values, mean error; largest | {float(error.mean()):.3f}; "
        f"{float(error.max()):.3f} |",
        f"| s per image, lattice; direct (medians) | {statistics.median(spent):.3f}; "
        f"{statistics.median(dense):.3f} |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--side", type=int, default=80, help="longest side for the direct sum")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = read(options.folder, options.images)
    text = "\n".join(
        [
            "# Refinement of masks",
            "",
            "    python benchmarks/refine.py VOC_FOLDER",
            "",
            f"{len(data)} photographs of Pascal VOC, three masks each: ellipses in the boxes, on "
            f"28 x 28 patches. CPU seconds of one thread, torch {torch.__version__}, "
            f"Python {platform.python_version()}, {platform.machine()}.",
            "",
            "## Speed",
            "",
            f"Whole calls of `refine` at a longest side of {FULL} pixels, result at the image's "
            "own size.",
            "",
            *speed(data),
            "",
            "## The CRF against the direct sum over all pairs of pixels",
            "",
            *quality(data, options.side),
            "",
        ]
    )
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
