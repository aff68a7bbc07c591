"""MaskCut: regions of an image by repeated normalised cuts of its patch features.

Wang et al., Cut and Learn for Unsupervised Object Detection and Instance Segmentation (CutLER),
2023. What differs from the published code: found and rejected patches leave the graph, where the
published code sets their features to zero; a rejected cut cannot come back; the answer does not
depend on the eigenvector's sign, which is arbitrary.

Shape legend: ``B`` images, ``h, w`` patch grid, ``P = h w`` patches, ``d`` channels, ``n`` masks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from relabel.errors import ConfigError, DataError
from relabel.multilabel.regions.eigen import second_vectors
from relabel.multilabel.regions.graph import Graph, patch_graph

Array = np.ndarray[Any, Any]

EPS = 1e-5
# A later mask is kept if it covers more than this share of the grid.
LEAST_AREA = 0.01
# Entries that are equal but for the solver's rounding: of the largest magnitude, and at the mean.
_SAME = 1e-6
_AT_MEAN = 1e-7
# Share of a GPU's free memory that the graphs of a batch may take; a few batches may be under way.
_GPU_SHARE = 0.2


def discover(features: Tensor, tau: float, max_masks: int) -> Tensor:
    """The masks of one image, bool [n, h, w], in order of discovery and before refinement.

    Each of ``max_masks`` rounds cuts the graph of the patches that are left:

    1. Foreground is v > mean(v), v the second eigenvector; the seed is argmax |v|. The sign makes
       v positive there, so that the seed is foreground.
    2. If three or more corners of the grid are foreground, the sides are swapped and the seed is
       argmax(-v).
    3. The mask is the 4-connected component of the foreground that holds the seed.
    4. The first mask stays; a later one is rejected if it covers 1 % of the grid or less. Found
       and rejected patches leave the graph, so that masks are disjoint (the published rule, IoU
       with an earlier mask of at most 0.5, holds with room to spare) and no cut comes back.

    It ends early when there is nothing to cut: fewer than two patches are left, or all of them
    are neighbours, or none are. A uniform image has no mask. Patches within 1e-7 of the largest
    magnitude of the mean count as below it, whatever the sign.

    Args:
        features: [h, w, d] of any floating dtype, on the CPU or a GPU; masks are on that device.
        tau: threshold on the cosine, in [-1, 1).
        max_masks: rounds, N of the paper.

    Raises:
        DataError: the features are not [h, w, d] or not finite.
        ConfigError: tau or max_masks is out of range.
    """
    if features.ndim != 3:
        raise DataError(f"features are {list(features.shape)}, not [h, w, d]")
    return discover_batch(features[None], tau, max_masks)[0]


def discover_batch(features: Tensor, tau: float, max_masks: int) -> list[Tensor]:
    """`discover` for B images [B, h, w, d]: the same masks, a tensor bool [n, h, w] per image.

    On a GPU the images are solved together, as many at a time as its memory takes; on the CPU,
    where that is faster, one by one.
    """
    if features.ndim != 4 or 0 in features.shape[1:]:
        raise DataError(f"features are {list(features.shape)}, not [B, h, w, d]")
    if max_masks < 1:
        raise ConfigError(f"max_masks is {max_masks}", remedy="Use 1 or more.")
    if not len(features):
        return []
    masks: list[Tensor] = []
    with torch.no_grad():
        for together in features.split(_images_at_once(features)):
            masks += _discover_together(together, tau, max_masks)
    return masks


def _images_at_once(features: Tensor) -> int:
    if features.device.type != "cuda":
        return 1
    patches = features.shape[1] * features.shape[2]
    # The graph in double precision, as much again while it is made, and 50 vectors.
    bytes_per_image = 8 * patches * (2 * patches + 50)
    free = torch.cuda.mem_get_info(features.device)[0]
    # What the allocator keeps from earlier batches is free for this one.
    free += torch.cuda.memory_reserved(features.device)
    free -= torch.cuda.memory_allocated(features.device)
    return max(1, int(_GPU_SHARE * free) // bytes_per_image)


def _discover_together(features: Tensor, tau: float, max_masks: int) -> list[Tensor]:
    """The masks of B images whose rounds run together."""
    images, h, w = features.shape[:3]
    graph = patch_graph(_usable(features).flatten(1, 2), tau)
    inside = np.ones((images, h * w), bool)
    found: list[list[Array]] = [[] for _ in range(images)]
    index = np.arange(images)  # of the images in the graph
    for number in range(max_masks):
        # Where nothing is left to cut, the image leaves the batch.
        left = np.flatnonzero(_has_structure(graph, inside[index]))
        if not len(left):
            break
        if len(left) < len(index):
            graph = graph.select(torch.from_numpy(left).to(graph.device))
            index = index[left]
        vectors = second_vectors(graph, torch.from_numpy(inside[index]).to(graph.device), EPS)
        for image, vector in zip(index.tolist(), vectors.cpu().numpy(), strict=True):
            mask = _cut(vector.reshape(h, w), inside[image].reshape(h, w))
            inside[image] &= ~mask.ravel()
            if number == 0 or mask.sum() > LEAST_AREA * mask.size:
                found[image].append(mask)
    empty = np.zeros((0, h, w), bool)
    return [
        torch.from_numpy(np.stack(masks) if masks else empty).to(features.device) for masks in found
    ]


def _has_structure(graph: Graph, inside: Array) -> Array:
    """Bool [B]: whether some pairs of different patches inside are neighbours, and some are not."""
    ones = torch.from_numpy(inside).to(graph.device).double()
    neighbours = graph.times(ones).cpu().numpy()  # a patch's own 1 included; whole numbers, exact
    count = inside.sum(1, keepdims=True)
    some = ((neighbours > 1.5) & inside).any(1)
    missing = ((neighbours < count - 0.5) & inside).any(1)
    return some & missing


def signed(vector: Array) -> tuple[Array, int]:
    """(v [P] with the sign that makes it positive at its seed, the seed).

    The seed is the first patch whose magnitude is within a millionth of the largest. This depends
    on v only up to its sign, and neither on a tie nor on rounding.
    """
    seed = _first_largest(np.abs(vector))
    return (vector if vector[seed] > 0 else -vector), seed


def _first_largest(values: Array) -> int:
    """The first entry that is the largest but for rounding: equal patches have equal entries.

    The largest is above 0, as v has entries of both signs.
    """
    return int(np.argmax(values >= (1 - _SAME) * values.max()))


def _cut(vector: Array, inside: Array) -> Array:
    """The mask, bool [h, w], of the cut by v [h, w] among the patches inside, bool [h, w]."""
    flat, seed = signed(vector.ravel())
    level = flat[inside.ravel()].mean() + _AT_MEAN * abs(flat[seed])
    foreground = inside & (flat.reshape(vector.shape) > level)
    if foreground[[0, 0, -1, -1], [0, -1, 0, -1]].sum() >= 3:
        foreground = inside & ~foreground
        seed = _first_largest(-flat)  # entries outside are 0
    parts = np.empty(foreground.shape, np.int32)
    ndimage.label(foreground, output=parts)  # 4-connected
    return parts == parts.ravel()[seed]


def _usable(features: Tensor) -> Tensor:
    """On the CPU if the device has no double precision, as Apple's GPUs."""
    return features if features.device.type in ("cpu", "cuda") else features.cpu()
