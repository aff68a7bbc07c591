"""The second eigenvector by SciPy's dense solver, as the definition says it: the golden answer."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import torch

from relabel.multilabel.regions import maskcut
from relabel.multilabel.regions.graph import patch_graph


def affinity(features: torch.Tensor, tau: float, eps: float = 1e-5) -> np.ndarray:
    """A [P, P] in double precision."""
    rows = features.double().numpy()
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    return np.where(rows @ rows.T > tau, 1.0, eps)


def eigenpairs(
    features: torch.Tensor, tau: float, eps: float = 1e-5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(D [P, P], eigenvalues [P], eigenvectors [P, P]) of (D - A, D), smallest first."""
    a = affinity(features, tau, eps)
    d = np.diag(a.sum(1))
    values, vectors = scipy.linalg.eigh(d - a, d)
    return d, values, vectors


def second_eigenvector(features: torch.Tensor, tau: float, eps: float = 1e-5) -> torch.Tensor:
    """What MaskCut cuts all patches [P, d] by: float64 [P], positive at its seed."""
    graph = patch_graph(features[None], tau)
    inside = torch.ones(1, len(features), dtype=torch.bool, device=graph.device)
    vector = maskcut.second_vectors(graph, inside, eps)[0].cpu().numpy()
    return torch.from_numpy(maskcut.signed(vector)[0]).to(graph.device)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    either = np.logical_or(a, b).sum()
    return 1.0 if either == 0 else float(np.logical_and(a, b).sum() / either)


def clusters(patches: int, count: int, channels: int, noise: float, seed: int) -> torch.Tensor:
    """Features [P, d] of patches that belong to a few kinds, with noise."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randn(count, channels, generator=generator)
    # Kinds of unlike sizes, as things in a photo.
    which = (torch.rand(patches, generator=generator) ** 2 * count).long()
    return kinds[which] + noise * torch.randn(patches, channels, generator=generator)


def upsampled(side: int, coarse: int, channels: int, seed: int) -> torch.Tensor:
    """Smooth features [h, w, d], as a network's small map brought to a finer grid."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randn(1, channels, coarse, coarse, generator=generator)
    large = torch.nn.functional.interpolate(small, (side, side), mode="bilinear")
    return large[0].permute(1, 2, 0).contiguous()
