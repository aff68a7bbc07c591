"""Which classes occur together, counted, and a gated graph network over them.

Shape legend: ``N`` images of a set, ``B`` of a batch, ``C`` classes, ``d`` channels.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

STEPS = 3
# Images that are counted at once.
ROWS = 4096


def label_cooccurrence(known: csr_array | np.ndarray, smoothing: float = 0.0) -> np.ndarray:
    """How often class ``j`` is present where class ``i`` is: float32 [C, C], row ``i``.

    Counted over the images where ``i`` is known present and ``j`` is known. The public
    implementation divides by all images with ``i``, which at a tenth known is a tenth of it;
    with everything known the two agree. It is what is done here for a class ``j`` that is
    nowhere known absent, as in labels that list only what is present. A pair that was never seen
    is 0, and so is the row of a class never seen, which is NaN in the public implementation.

    Args:
        known: int8 [N, C], 1 present, -1 absent, 0 or not stored unknown.
        smoothing: images added to each pair with the share of ``j`` over all images; a pair
            known from few images is then close to that share. Rows of classes never seen have
            it, too.

    Source: SSGRL's statistical co-occurrence (Chen et al., ICCV 2019), as HST uses it.
    """
    table = csr_array(known)
    n, c = table.shape  # type: ignore[misc]
    together, apart = np.zeros((c, c)), np.zeros((c, c))
    n_present, n_absent = np.zeros(c), np.zeros(c)
    for start in range(0, n, ROWS):
        labels = table[start : start + ROWS].toarray()
        present = csr_array((labels > 0).astype(np.float32))
        absent = (labels < 0).astype(np.float32)
        together += (present.T @ present).toarray()
        apart += present.T @ absent
        n_present += present.sum(axis=0)
        n_absent += absent.sum(axis=0)
    n_known = np.where(n_absent > 0, n_present + n_absent, n)
    seen = np.where(n_absent > 0, together + apart, n_present[:, None])
    share = n_present / np.maximum(n_known, 1)
    counted = (together + smoothing * share) / np.maximum(seen + smoothing, np.finfo(float).tiny)
    result = counted.astype(np.float32)
    np.fill_diagonal(result, n_present > 0)
    return result


class GatedGraph(nn.Module):
    """Classes exchange features along their co-occurrence: `STEPS` steps of a gated unit.

    Source: the gated graph network of SSGRL (Chen et al., ICCV 2019) as HST uses it: messages
    come along the rows and along the columns of the co-occurrence.

    Args:
        width: d.
        adjacency: [C, C], see `label_cooccurrence`.
    """

    adjacency: Tensor

    def __init__(self, width: int, adjacency: Tensor) -> None:
        super().__init__()
        self.register_buffer("adjacency", adjacency.float())
        self.message = nn.Linear(2 * width, 3 * width)
        self.state = nn.Linear(width, 2 * width)
        self.candidate = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, d] -> [B, C, d]."""
        h = features
        for _ in range(STEPS):
            along = torch.einsum("ij,bjd->bid", self.adjacency, h)
            back = torch.einsum("ji,bjd->bid", self.adjacency, h)
            message = self.message(torch.cat([along, back], dim=2))
            m_update, m_reset, m_new = message.chunk(3, dim=2)
            s_update, s_reset = self.state(h).chunk(2, dim=2)
            update = torch.sigmoid(m_update + s_update)
            reset = torch.sigmoid(m_reset + s_reset)
            new = torch.tanh(m_new + self.candidate(reset * h))
            h = (1 - update) * h + update * new
        return h
