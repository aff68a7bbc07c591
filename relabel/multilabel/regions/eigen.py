"""The second-smallest eigenvector of a normalised cut, by Lanczos.

``(D - A) v = λ D v`` has the vectors ``v = D^-½ u`` with u an eigenvector of ``M = D^-½ A D^-½``
and ``λ = 1 - μ``. The first, ``u = D^½ 1`` with μ = 1, is known: it is the first basis vector, and
what Lanczos finds in the space orthogonal to it is the second (Shi and Malik, Normalized Cuts and
Image Segmentation, 2000).

Shape legend: ``B`` images, ``P`` patches, ``k`` steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from relabel.multilabel.regions.graph import Graph

Array = np.ndarray[Any, Any]

# Residual |M u - μ u| at which an image is done: this, or less where the next eigenvalue is near,
# so that the vector's error (residual over gap) is about a millionth. Next eigenvalues that have
# not shown up yet are to be feared where μ is near 1: parts that only eps connects have all their
# eigenvalues there. Never below rounding.
RESIDUAL, ERROR, ROUNDING = 1e-9, 1e-6, 1e-14
STEPS = 400
# A vector this short, after all before it are taken out, is rounding: the space is exhausted.
_EXHAUSTED = 1e-13
# What the residual may be in the end, computed anew, before LAPACK is asked.
_ACCEPTED = 1e-8


def second_vectors(graph: Graph, inside: Tensor, eps: float) -> Tensor:
    """Second-smallest generalised eigenvector of (D - A, D), for every image of a batch.

    Lanczos with full reorthogonalisation in double precision, from a fixed start vector, until
    the residual is at most 1e-9 and a millionth of the distances to the eigenvalues on both sides.
    An image that needs more than 400 steps is solved densely, by LAPACK. An image's answer does
    not depend on the batch. Where the eigenvalue is multiple, any vector of a whole space is
    right; the answer is then the start vector's projection on that space.

    Args:
        graph: the neighbours of B images.
        inside: bool [B, P], the patches that are part of the graph; at least two per image.
        eps: affinity of patches that are not neighbours, in (0, 1).

    Returns:
        float64 [B, P], of unit D-norm and of either sign; 0 at patches out of the graph.
    """
    matrix = _Matrix.create(graph, inside, eps)
    vectors, solved = _lanczos(matrix, int(inside.sum(1).max()) - 1)
    product = matrix.times(vectors)
    value = (vectors * product).sum(1, keepdim=True)
    residual = (product - value * vectors).norm(dim=1)
    good = solved & (residual <= _ACCEPTED).cpu().numpy()
    for image in np.flatnonzero(~good):
        vectors[image] = _dense(matrix, int(image))
    return matrix.scale * vectors


@dataclass(frozen=True)
class _Matrix:
    """``M`` of B images, known by its products.

    Attributes:
        scale: float64 [B, P], D^-½; 0 at patches out of the graph, which takes them out of M.
        first: float64 [B, P], the first eigenvector, of unit length.
    """

    graph: Graph
    eps: float
    scale: Tensor
    first: Tensor

    @classmethod
    def create(cls, graph: Graph, inside: Tensor, eps: float) -> _Matrix:
        ones = inside.double()
        degree = (1 - eps) * graph.times(ones) + eps * ones.sum(1, keepdim=True)
        root = degree.sqrt()
        first = root * ones
        return cls(graph, eps, ones / root, first / first.norm(dim=1, keepdim=True))

    def times(self, x: Tensor) -> Tensor:
        """``M x`` for x [B, P]."""
        scaled = self.scale * x
        far = scaled.sum(1, keepdim=True).mul_(self.eps)
        return torch.add(far, self.graph.times(scaled), alpha=1 - self.eps).mul_(self.scale)

    def select(self, images: Tensor) -> _Matrix:
        return _Matrix(self.graph.select(images), self.eps, self.scale[images], self.first[images])


def _lanczos(matrix: _Matrix, dimensions: int) -> tuple[Tensor, Array]:
    """(unit vectors u [B, P], whether each met its tolerance [B])."""
    images, patches = matrix.scale.shape
    device = matrix.scale.device
    out = torch.zeros_like(matrix.scale)
    solved = np.zeros(images, bool)
    index = np.arange(images)  # of the images still in the batch
    limit = min(STEPS, dimensions)
    basis = torch.zeros(images, min(limit, 48) + 2, patches, dtype=torch.float64, device=device)
    basis[:, 0] = matrix.first
    start = _unit(_start(patches).to(device) * (matrix.scale > 0))[0]
    basis[:, 1] = _unit(_orthogonal(start, basis[:, :1]))[0]
    diagonal = torch.zeros(images, limit, dtype=torch.float64, device=device)
    beside = torch.zeros_like(diagonal)
    check = 8
    for step in range(1, limit + 1):
        if step + 2 > basis.shape[1]:
            basis = torch.cat([basis, torch.zeros_like(basis)], 1)
        last = basis[:, step]
        grown = matrix.times(last)
        diagonal[:, step - 1] = along = (grown * last).sum(1)
        # In exact arithmetic only these two parts are there to be taken out. The parts along all
        # the others are rounding, which would grow from step to step.
        grown.addcmul_(last, along[:, None], value=-1)
        if step > 1:
            grown.addcmul_(basis[:, step - 1], beside[:, step - 2, None], value=-1)
        grown = _orthogonal(grown, basis[:, : step + 1])
        basis[:, step + 1], beside[:, step - 1] = _unit(grown)
        # Asking a GPU for it would wait for the GPU at every step.
        over = device.type == "cpu" and not beside.numpy()[:, step - 1].any()
        if step < check and step < limit and not over:
            continue
        check = step + max(4, step // 8)
        a, b = diagonal[:, :step].cpu().numpy(), beside[:, :step].cpu().numpy()
        for at in np.flatnonzero(~solved[index]):
            weights = _ritz(a[at], b[at])
            if weights is not None:
                weights = torch.from_numpy(weights).to(device)
                out[index[at]] = weights @ basis[at, 1 : len(weights) + 1]
                solved[index[at]] = True
        left = np.flatnonzero(~solved[index])
        if not len(left):
            break
        if 2 * len(left) <= len(index):
            keep = torch.from_numpy(left).to(device)
            index, matrix, basis = index[left], matrix.select(keep), basis[keep]
            diagonal, beside = diagonal[keep], beside[keep]
    return _unit(out)[0], solved


def _ritz(diagonal: Array, beside: Array) -> Array | None:
    """Weights [k] of the basis vectors in the second eigenvector, or None where not converged.

    Args:
        diagonal: [k] of the tridiagonal matrix.
        beside: [k], the entries next to the diagonal and, last, the length of the next vector.
    """
    exhausted = np.flatnonzero(beside == 0)
    steps = int(exhausted[0]) + 1 if len(exhausted) else len(diagonal)
    if steps == 1:
        return np.ones(1) if len(exhausted) else None
    values, vectors = scipy.linalg.eigh_tridiagonal(
        diagonal[:steps], beside[: steps - 1], select="i", select_range=(steps - 2, steps - 1)
    )
    residual = abs(beside[steps - 1] * vectors[-1, 1])
    apart = min(values[1] - values[0], 1 - values[1])
    tolerance = max(ROUNDING, min(RESIDUAL, ERROR * apart))
    return vectors[:, 1] if residual <= tolerance else None


def _orthogonal(x: Tensor, basis: Tensor) -> Tensor:
    """x [B, P] without its parts along basis [B, k, P]."""
    if len(x) == 1:
        return (x[0] - (basis[0] @ x[0]) @ basis[0])[None]
    along = basis @ x[..., None]
    return x - (along.mT @ basis)[:, 0]


def _unit(x: Tensor) -> tuple[Tensor, Tensor]:
    """(x [B, P] of unit length, the lengths [B]); what is only rounding becomes exactly 0."""
    length = x.norm(dim=1)
    rounding = length <= _EXHAUSTED
    return x / length.masked_fill(rounding, torch.inf)[:, None], length.masked_fill(rounding, 0)


@lru_cache(maxsize=8)
def _start(patches: int) -> Tensor:
    """The start vector [P]: random, so that no symmetry of a graph hides an eigenvector from it.

    NumPy keeps RandomState's numbers the same for all time.
    """
    return torch.from_numpy(np.random.RandomState(0).standard_normal(patches))


def _dense(matrix: _Matrix, image: int) -> Tensor:
    """u [P] of one image by LAPACK."""
    scale = matrix.scale[image].cpu().numpy()
    inside = np.flatnonzero(scale)
    neighbours = matrix.graph.matrix(image)[np.ix_(inside, inside)]
    full = np.where(neighbours, 1.0, matrix.eps) * scale[inside] * scale[inside, None]
    second = len(inside) - 2
    _, vectors = scipy.linalg.eigh(
        full, subset_by_index=[second, second], overwrite_a=True, check_finite=False
    )
    out = np.zeros(len(scale))
    out[inside] = vectors[:, 0]
    return torch.from_numpy(out).to(matrix.scale.device)
