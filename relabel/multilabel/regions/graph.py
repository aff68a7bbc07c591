"""MaskCut's graph of patches: which are neighbours, and products with that matrix.

The affinity of the graph is ``A = eps 11ᵀ + (1 - eps) N`` with ``N`` the 0/1 matrix of neighbours:
``N_ij = 1`` where the cosine of patches i and j exceeds tau. Only ``N`` is stored.

Shape legend: ``B`` images, ``P`` patches, ``d`` channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from relabel.errors import ConfigError, DataError

# A cosine this close to tau equals it: what is left is the rounding of a double precision product,
# which differs from one machine to the next.
TIE = 1e-12
# Rows of the affinity computed at a time, and sums looked up at a time.
_ROWS, _SUMS = 256, 1 << 18
# Column c holds the bits of c, lowest first: the sums of four entries, and of two fours the 256.
_BITS = (torch.arange(16) >> torch.arange(4)[:, None] & 1).double()


class DenseGraph:
    """Neighbours of B images as 0.0 and 1.0 in double precision [B, P, P], on any device."""

    def __init__(self, neighbours: Tensor) -> None:
        self.neighbours = neighbours
        self.images, self.patches = neighbours.shape[:2]
        self.device = neighbours.device

    def times(self, x: Tensor) -> Tensor:
        """``N x`` for x [B, P] in double precision."""
        if self.images == 1:
            return (self.neighbours[0] @ x[0])[None]
        return (self.neighbours @ x[..., None])[..., 0]

    def select(self, images: Tensor) -> DenseGraph:
        """The graphs of some of the images."""
        return DenseGraph(self.neighbours[images])

    def matrix(self, image: int) -> np.ndarray[Any, Any]:
        """``N`` of one image as bool [P, P]."""
        return self.neighbours[image].cpu().numpy() > 0


class PackedGraph:
    """Neighbours of one image, a bit each, on the CPU.

    A product looks up, for every eight columns, the sum of the entries of x that a row's byte
    selects, in a table of the 256 sums there are. It reads 4 P²/8 bytes in place of 8 P², and its
    sums are in double precision.
    """

    images = 1
    device = torch.device("cpu")

    def __init__(self, neighbours: np.ndarray[Any, Any]) -> None:
        """``neighbours``: bool [P, P], symmetric."""
        self.patches = len(neighbours)
        self._bits = np.packbits(neighbours, axis=1, bitorder="little")  # [P, bytes]
        self._bytes = self._bits.shape[1]
        # A byte's row of the table in front: the 2 KiB of one byte's sums stay in the cache
        # while all patches look up theirs.
        rows = 256 * np.arange(self._bytes, dtype=np.int32)
        look_up = torch.from_numpy((self._bits.T + rows[:, None]).ravel())
        # A part's sums stay in the cache until they are added up.
        self._parts = look_up.split(max(1, _SUMS // self.patches) * self.patches)
        self._table = torch.empty(self._bytes, 16, 16, dtype=torch.float64)
        self._padded = torch.zeros(self._bytes * 8, dtype=torch.float64)
        self._sums = torch.empty(len(self._parts[0]), dtype=torch.float64)
        self._ones = torch.ones(len(self._parts[0]) // self.patches, dtype=torch.float64)

    def times(self, x: Tensor) -> Tensor:
        """``N x`` for x [1, P] in double precision."""
        self._padded[: self.patches] = x[0]
        halves = (self._padded.view(-1, 4) @ _BITS).view(self._bytes, 2, 16)
        torch.add(halves[:, 1, :, None], halves[:, 0, None, :], out=self._table)
        out = torch.zeros(self.patches, dtype=torch.float64)
        for part in self._parts:
            sums = self._sums[: len(part)]
            torch.index_select(self._table.view(-1), 0, part, out=sums)
            sums = sums.view(-1, self.patches)
            out.addmv_(sums.T, self._ones[: len(sums)])
        return out[None]

    def select(self, images: Tensor) -> PackedGraph:
        """Itself: there is one image."""
        return self

    def matrix(self, image: int) -> np.ndarray[Any, Any]:
        """``N`` as bool [P, P]."""
        bits = np.unpackbits(self._bits, axis=1, count=self.patches, bitorder="little")
        return bits.view(bool)


Graph = DenseGraph | PackedGraph


def patch_graph(features: Tensor, tau: float) -> Graph:
    """The graphs of B images, on the features' device.

    Cosines are those of double precision: on the CPU products in single precision decide where
    they are further from tau than they can be wrong, and the few others are computed again. The
    rule is ``cosine > tau``; equality up to 1e-12 is no neighbourhood, on every machine. A zero
    row stays zero: its cosine with every patch, itself included, is 0.

    Args:
        features: [B, P, d], any floating dtype. One image on the CPU makes a packed graph.
        tau: threshold on the cosine, in [-1, 1).

    Raises:
        DataError: the features are not all finite.
        ConfigError: tau is out of range.
    """
    if not -1 <= tau < 1:
        raise ConfigError(f"tau is {tau}", remedy="It is a cosine: use -1 to below 1.")
    unit = _unit(features)
    images, patches = unit.shape[:2]
    if unit.device.type == "cpu":
        near = [_neighbours(one.numpy(), tau) for one in unit]
        if images == 1:
            return PackedGraph(near[0])
        return DenseGraph(torch.stack([torch.from_numpy(one).double() for one in near]))
    neighbours = torch.empty(images, patches, patches, dtype=torch.float64, device=unit.device)
    for one, out in zip(unit, neighbours, strict=True):
        # In double precision throughout: single precision may be TF32 on a GPU.
        out.copy_(_symmetric(one @ one.T > tau + TIE))
    return DenseGraph(neighbours)


def _unit(features: Tensor) -> Tensor:
    """Rows of unit length in double precision; zero rows stay zero."""
    rows = features.detach().double()
    largest = rows.abs().amax(-1, keepdim=True)  # scaling by it first: squares cannot overflow
    if not bool(torch.isfinite(largest).all()):
        image, patch, _ = (~torch.isfinite(largest)).nonzero()[0].tolist()
        raise DataError(
            "features are not finite",
            record=f"image {image} of the batch, patch {patch}",
            remedy="Check the image and the backbone's precision: fp16 overflows, bf16 does not.",
        )
    rows = rows / torch.where(largest > 0, largest, 1)
    length = rows.norm(dim=-1, keepdim=True)
    return rows / torch.where(length > 0, length, 1)


def _symmetric(above: Tensor) -> Tensor:
    """The upper triangle on both sides: rounding may differ between the two."""
    return above.triu() | above.triu().T


def _neighbours(unit: np.ndarray[Any, Any], tau: float) -> np.ndarray[Any, Any]:
    """Which cosines exceed tau, as bool [P, P], symmetric; ``unit`` [P, d] in double precision."""
    patches, channels = unit.shape
    single = unit.astype(np.float32)
    # An estimate with room to spare: rounding errors, here of 2^-24 relative, grow like the square
    # root of a sum's length, since their signs differ.
    margin = 8 * np.sqrt(channels + 8) * 2.0**-24
    above = np.empty((patches, patches), bool)
    for first in range(0, patches, _ROWS):
        rows = slice(first, min(first + _ROWS, patches))
        # Only columns from the block's own on: the rest is known by symmetry.
        cosine = single[rows] @ single[first:].T
        sure = cosine > tau + margin
        close = np.flatnonzero(sure != (cosine > tau - margin))
        if len(close) > cosine.size // 100:
            sure = unit[rows] @ unit[first:].T > tau + TIE
        elif len(close):
            i, j = np.divmod(close, cosine.shape[1])
            sure.reshape(-1)[close] = _products(unit[rows], unit[first:], i, j) > tau + TIE
        size = rows.stop - first
        own = np.triu(sure[:, :size])
        sure[:, :size] = own | own.T
        above[rows, first:] = sure
        above[rows.stop :, rows] = sure[:, size:].T
    return above


def _products(
    left: np.ndarray[Any, Any],
    right: np.ndarray[Any, Any],
    i: np.ndarray[Any, Any],
    j: np.ndarray[Any, Any],
) -> np.ndarray[Any, Any]:
    """Dot products of rows i of left with rows j of right, some at a time."""
    out = np.empty(len(i))
    for first in range(0, len(i), 4096):
        some = slice(first, first + 4096)
        out[some] = np.einsum("nd,nd->n", left[i[some]], right[j[some]])
    return out
