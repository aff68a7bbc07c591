"""Gaussian filtering in a few dimensions on a permutohedral lattice, in plain torch.

Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", 2010.

Shape legend: ``N`` points, ``f`` dimensions, ``V`` vertices of the lattice, ``n`` values of each
point.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

# Blurring by (1/2, 1, 1/2) along every axis, and splatting and slicing by barycentric weights, add
# up to a Gaussian of this standard deviation, in lattice units times (f + 1).
_DEVIATION = math.sqrt(1 / 2 + 1 / 6)


class PermutohedralLattice:
    """Approximates ``y_i = sum_j exp(-|p_i - p_j|^2 / 2) x_j`` in time linear in N.

    Positions are in standard deviations. Vertices next to two others are added to those around
    the points: where colours are sparse they carry what the plain lattice loses between them,
    a third of its error and more. Every sum has one order, so that results repeat bit by bit.
    """

    def __init__(self, positions: Tensor, group: Tensor | None = None) -> None:
        """Build the lattice.

        Args:
            positions: float32 [N, f].
            group: int64 [N], of 0 and up; points of different groups do not see each other, such
                as pixels of different images.

        Raises:
            ValueError: positions too far apart for the vertices to be numbered.
        """
        count, f = positions.shape
        device = positions.device
        corner, rank, weights = _simplices(positions)
        base = corner.long() * (f + 1)
        # Vertices are numbered by their first f coordinates; the last follows from them. Room at
        # both ends keeps the neighbours' neighbours from wrapping around.
        margin = 3 * (f + 1)
        low = base[:f].amin(1) - margin
        span = (base[:f].amax(1) + margin - low + 1).tolist()
        radix = [math.prod(span[:i]) for i in range(f + 1)]
        groups = 1 if group is None else int(group.max()) + 1
        if radix[f] * groups >= 2**62:
            raise ValueError("positions are too many standard deviations apart for the lattice")
        steps = torch.tensor([*radix[:f], 0], device=device)
        number = ((base[:f] - low[:, None]) * steps[:f, None]).sum(0)
        if group is not None:
            number = number + group * radix[f]
        # Vertex k + 1 of a simplex is vertex k plus one everywhere, less f + 1 in the coordinate
        # of rank f - k.
        ones = sum(radix[:f])
        by_rank = torch.empty_like(rank).scatter_(0, rank, steps[:, None].expand_as(rank)).flip(0)
        numbers = torch.cat([number[None], number + (ones - (f + 1) * by_rank[:f]).cumsum(0)])
        shifts = [ones - (f + 1) * step for step in (*radix[:f], 0)]

        corners, vertex = torch.unique(numbers.t().reshape(-1), return_inverse=True)
        around = [corners + s for step in shifts for s in (step, -step)]
        candidates, neighbours = torch.unique(
            torch.cat([corners, corners, *around]), return_counts=True
        )
        vertices = candidates[neighbours >= 2]
        vertex = torch.searchsorted(vertices, corners)[vertex]
        total = len(vertices)

        self._slice = (vertex.view(count, f + 1), weights.t().contiguous())
        order = torch.argsort(vertex, stable=True)
        sizes = torch.bincount(vertex, minlength=total)
        self._splat = (
            order // (f + 1),
            sizes.cumsum(0) - sizes,
            self._slice[1].view(-1)[order],
        )
        own = torch.arange(total, device=device)
        self._blur: list[Tensor] = []
        for shift in shifts:
            wanted = vertices + shift
            at = torch.searchsorted(vertices, wanted).clamp_(max=total - 1)
            there = vertices[at] == wanted
            after = torch.where(there, at, total)
            before = torch.full_like(own, total)
            before[at[there]] = own[there]
            self._blur.append(torch.stack([own, after, before], dim=1))
        kernel = torch.tensor([1.0, 0.5, 0.5], device=device)
        self._kernel = kernel.expand(total, 3).contiguous()

    @property
    def points(self) -> int:
        """N."""
        return len(self._slice[0])

    @property
    def vertices(self) -> int:
        """V."""
        return len(self._kernel)

    def filter(self, values: Tensor) -> Tensor:
        """The filtered values, up to one factor that is the same for all points.

        Args:
            values: float32 [N, n].

        Returns:
            float32 [N, n].
        """
        pixel, offsets, weights = self._splat
        x = embedding_bag(pixel, values, offsets, mode="sum", per_sample_weights=weights)
        nothing = x.new_zeros(1, x.shape[1])
        for neighbours in self._blur:
            x = embedding_bag(
                neighbours, torch.cat([x, nothing]), mode="sum", per_sample_weights=self._kernel
            )
        vertex, weights = self._slice
        return embedding_bag(vertex, x, mode="sum", per_sample_weights=weights)


def _simplices(positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The simplex around every point.

    Returns:
        Its vertex of remainder 0, divided by f + 1, [f + 1, N]; the rank of each coordinate in
        it, int64 [f + 1, N]; the point's barycentric weights, [f + 1, N].
    """
    count, f = positions.shape
    basis = torch.zeros(f + 1, f)
    for j in range(f):
        scale = _DEVIATION / math.sqrt((j + 1) * (j + 2))
        basis[: j + 1, j] = scale
        basis[j + 1, j] = -(j + 1) * scale
    # On the plane whose coordinates add up to 0, in units of f + 1.
    elevated = basis.to(positions) @ positions.t()
    corner = elevated.round()
    rest = elevated - corner
    rank = torch.zeros(f + 1, count, dtype=torch.int64, device=positions.device)
    for i in range(f):
        for j in range(i + 1, f + 1):
            behind = rest[i] < rest[j]
            rank[i] += behind
            rank[j] += ~behind
    # Rounding may leave the plane: go back over the coordinates that were rounded furthest.
    rank += corner.sum(0).long()
    turn = (rank < 0).long() - (rank > f).long()
    rank += turn * (f + 1)
    corner += turn
    rest -= turn
    ordered = torch.empty_like(rest).scatter_(0, rank, rest).flip(0)
    weights = torch.cat([1 + ordered[:1] - ordered[-1:], ordered[1:] - ordered[:-1]])
    return corner, rank, weights
