"""What tau does to MaskCut's masks: the table to choose it by, per backbone.

Shape legend: ``h, w`` patch grid, ``d`` channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from relabel.errors import ConfigError, DataError
from relabel.multilabel.regions.maskcut import discover


@dataclass(frozen=True)
class CalibrationRow:
    """MaskCut on some images at one tau.

    Attributes:
        tau: threshold on the cosine.
        images: number of images.
        masks_per_image: mean number of masks.
        coverage: mean share of an image's patches that are in a mask.
        without: share of the images without a mask.
        counts: number of images with 0, 1, ... ``max_masks`` masks.
    """

    tau: float
    images: int
    masks_per_image: float
    coverage: float
    without: float
    counts: tuple[int, ...]


def calibrate_tau(
    features_iter: Iterable[Tensor], taus: Sequence[float], max_masks: int
) -> list[CalibrationRow]:
    """Discover masks at every tau; one row per tau, in the order given.

    Each image is read once and let go, so that a generator over a folder stays flat in memory.

    Args:
        features_iter: feature maps [h, w, d], one per image; sizes may differ.
        taus: thresholds to try, in [-1, 1).
        max_masks: rounds per image.

    Raises:
        ConfigError: no tau is given, or one is out of range.
        DataError: there is no image, or its features are not finite.
    """
    if not taus:
        raise ConfigError("no tau to try", remedy="Give one or more, such as 0.1 0.3 0.5.")
    counts = [[0] * (max_masks + 1) for _ in taus]
    covered = [0.0] * len(taus)
    images = 0
    for features in features_iter:
        images += 1
        for at, tau in enumerate(taus):
            masks = discover(features, tau, max_masks)
            counts[at][len(masks)] += 1
            covered[at] += float(masks.any(0).double().mean())
    if not images:
        raise DataError("no images to calibrate on")
    return [
        CalibrationRow(
            tau=float(tau),
            images=images,
            masks_per_image=sum(n * times for n, times in enumerate(per_count)) / images,
            coverage=share / images,
            without=per_count[0] / images,
            counts=tuple(per_count),
        )
        for tau, per_count, share in zip(taus, counts, covered, strict=True)
    ]


def calibration_rows(rows: Sequence[CalibrationRow]) -> tuple[list[str], list[list[str]]]:
    """Header and one row per tau, as `relabel.evaluation.tables` prints them."""
    most = max((len(row.counts) for row in rows), default=0)
    header = ["tau", "images", "masks per image", "coverage %", "without %"]
    header += [f"{n} masks" if n != 1 else "1 mask" for n in range(most)]
    body = []
    for row in rows:
        cells = [f"{row.tau:g}", str(row.images), f"{row.masks_per_image:.2f}"]
        cells += [f"{100 * row.coverage:.1f}", f"{100 * row.without:.1f}"]
        cells += [str(n) for n in row.counts] + ["0"] * (most - len(row.counts))
        body.append(cells)
    return header, body
