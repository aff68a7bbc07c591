"""Across images (CST): how like a class's known present examples a feature is.

Shape legend: ``B`` images, ``C`` classes, ``S`` stored examples of a class, ``K`` prototypes,
``d`` channels. ``known`` is 1 present, -1 absent, 0 unknown.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn
from torch.nn import functional as F

ITERATIONS = 20


class Examples(nn.Module):
    """The last ``S`` features of each class from images that show it, in a ring.

    Args:
        classes: C.
        channels: d.
        size: S; 100 as in SST's public implementation.

    Memory: C * S * d floats, whatever the number of images.
    """

    stored: Tensor
    added: Tensor

    def __init__(self, classes: int, channels: int, size: int = 100) -> None:
        super().__init__()
        self.register_buffer("stored", torch.zeros(classes, size, channels))
        self.register_buffer("added", torch.zeros(classes, dtype=torch.long))

    @property
    def number(self) -> Tensor:
        """How many of the ``S`` places of each class are filled, [C]."""
        return self.added.clamp(max=self.stored.shape[1])

    @torch.no_grad()
    def add(self, features: Tensor, known: Tensor) -> None:
        """Store class features [B, C, d] where ``known`` [B, C] is present, in order of images."""
        classes, image = (known > 0).t().nonzero(as_tuple=True)
        count = torch.bincount(classes, minlength=len(self.added))
        first = count.cumsum(0) - count
        rank = torch.arange(len(classes), device=classes.device) - first[classes]
        size = self.stored.shape[1]
        last = rank >= count[classes] - size  # of more than S in one batch the last S
        classes, image, rank = classes[last], image[last], rank[last]
        place = (self.added[classes] + rank) % size
        self.stored[classes, place] = features[image, classes].to(self.stored.dtype)
        self.added += count

    def scores(self, features: Tensor) -> Tensor:
        """Mean cosine similarity to a class's examples, [B, C, d] -> [B, C]; 0 without examples.

        Source: SST (arXiv 2112.10941), whose public implementation has zeros among the examples
        until there are ``S``, which lowers the mean; here the mean is over those there are.
        """
        return _mean_cosine(features, self.stored, self.number)


class Prototypes(nn.Module):
    """CST: up to ``K`` prototypes per class, and how like them a feature is.

    Args:
        classes: C.
        channels: d.
        size: K; 10 as in HST.

    Source: HST (arXiv 2205.11131), cross-image semantic transfer.
    """

    centres: Tensor
    number: Tensor

    def __init__(self, classes: int, channels: int, size: int = 10) -> None:
        super().__init__()
        self.register_buffer("centres", torch.zeros(classes, size, channels))
        self.register_buffer("number", torch.zeros(classes, dtype=torch.long))

    @property
    def seen(self) -> Tensor:
        """Whether a class has prototypes, bool [C]."""
        return self.number > 0

    @torch.no_grad()
    def fit(self, examples: Examples, seed: int) -> None:
        """k-means over each class's examples; a class with fewer different ones has fewer."""
        size = self.centres.shape[1]
        self.centres.zero_()
        for c, n in enumerate(examples.number.tolist()):
            points = examples.stored[c, :n].cpu().numpy()
            centres = _k_means(points, size, np.random.default_rng((seed, c)))
            self.centres[c, : len(centres)] = torch.from_numpy(centres)
            self.number[c] = len(centres)

    def scores(self, features: Tensor) -> Tensor:
        """``s_c``: mean cosine similarity to the class's prototypes, [B, C, d] -> [B, C].

        A class without prototypes scores 0, which is above no threshold. A gradient flows.
        """
        return _mean_cosine(features, self.centres, self.number)


def _mean_cosine(features: Tensor, examples: Tensor, number: Tensor) -> Tensor:
    """The mean of the cosines is one product with the mean of the unit vectors, [C, d]."""
    filled = torch.arange(examples.shape[1], device=number.device) < number[:, None]
    unit = F.normalize(examples, dim=2, eps=1e-9) * filled[:, :, None]
    mean = unit.sum(dim=1) / number.clamp(min=1)[:, None]
    return torch.einsum("bcd,cd->bc", F.normalize(features, dim=2, eps=1e-9), mean)


def _k_means(points: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """At most ``size`` centres of points [n, d], fewer if there are fewer different points."""
    different = np.unique(points.astype(float), axis=0)
    if len(different) <= size:
        return different
    # k-means++: each next centre is a point drawn by its squared distance from those there are.
    start = [different[generator.integers(len(different))]]
    distance = np.full(len(different), np.inf)
    while len(start) < size:
        distance = np.minimum(distance, np.square(different - start[-1]).sum(axis=1))
        start.append(different[generator.choice(len(different), p=distance / distance.sum())])
    with warnings.catch_warnings():
        # An empty cluster keeps its centre, which is a point or a mean of points.
        warnings.simplefilter("ignore", UserWarning)
        centres, _ = kmeans2(points.astype(float), np.stack(start), ITERATIONS, minit="matrix")
    return centres
