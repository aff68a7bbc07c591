"""From known labels to unknown ones: within an image (IST), and the thresholds of scores (DTL).

Shape legend: ``B`` images, ``C`` classes, ``d`` channels of class features, ``m`` hidden channels,
``R`` rows: the known present classes of all images of a batch. ``known`` is 1 present, -1 absent,
0 unknown.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from relabel.partial.losses import asymmetric, partial_bce
from relabel.partial.networks.memory import pieces, recomputed

# Width of the soft step from "below the threshold" to "above it", in units of the score.
STEP = 0.05
# How sure a statistical co-occurrence can be of a pair.
_SURE = 0.99


@dataclass(frozen=True)
class LabelPairs:
    """How sure each known present class of an image makes each other class of it.

    Attributes:
        logits: [R, C], of ``P(column present | row's class present, image)``.
        image: [R], row of the batch.
        given: [R], the class that is present.
    """

    logits: Tensor
    image: Tensor
    given: Tensor

    def scores(self, images: int) -> Tensor:
        """``s_c``: the mean of ``P_ic`` over the known present ``i`` of an image, [B, C].

        ``P_ii`` is 1. An image with nothing known present has zeros. A gradient flows.
        """
        total, own, number = self._sums(images)
        return (total + own) / number.clamp(min=1)[:, None]

    def held_out(self, known: Tensor) -> tuple[Tensor, Tensor]:
        """Scores as an unknown label would have them, and the labels they can be compared with.

        ``P_ii`` is left out, which lifts every known present label over the unknown ones: a
        threshold learned with it is too high. Labels without another known present class in
        their image count as unknown.

        Returns:
            Scores [B, C], and ``known`` [B, C] with zeros for those labels.
        """
        total, own, number = self._sums(len(known))
        others = number[:, None] - own
        return total / others.clamp(min=1), torch.where(others > 0, known, 0)

    def _sums(self, images: int) -> tuple[Tensor, Tensor, Tensor]:
        """The sum of ``P_ic`` without ``P_ii``, and that, [B, C]; the number of rows, [B]."""
        own = self._own().to(self.logits.dtype)
        p = torch.sigmoid(self.logits) * (1 - own)
        zeros = p.new_zeros(images, p.shape[1])
        number = torch.bincount(self.image, minlength=images)
        return zeros.index_add(0, self.image, p), zeros.index_add(0, self.image, own), number

    def _own(self) -> Tensor:
        """Where a row's column is its given class, bool [R, C]."""
        columns = torch.arange(self.logits.shape[1], device=self.given.device)
        return columns == self.given[:, None]

    def loss(self, known: Tensor) -> Tensor:
        """Asymmetric loss of the pairs whose other class is known, the class itself left out.

        The public implementation counts a pair as absent wherever not both are known present,
        unknown ones included. At a tenth known that is what nine of ten present pairs are.
        """
        return asymmetric(self.logits, known[self.image].masked_fill(self._own(), 0))


class IntraImage(nn.Module):
    """IST: an image's own co-occurrence of classes, from the features of both.

    ``P_ij = sigmoid(w_ij . relu(G f_i + O f_j) + b_ij)``: the public implementation's two
    projections, concatenated, and its layers, with three differences. ``P_ij`` has a direction
    (``j`` given ``i``), as the score of ``j`` is taken over the present ``i``, so that the known
    labels alone train it. ``w_ij = w + g_i * o_j`` has C m numbers, where a weight per pair has
    C^2 m / 2: 1 GB at 1,000 classes. ``b_ij`` starts at the statistical co-occurrence.

    Args:
        channels: d.
        cooccurrence: [C, C], see
            `relabel.partial.networks.graph.label_cooccurrence`, smoothed best.
        hidden: m.

    Source: HST (arXiv 2205.11131), intra-image semantic transfer.
    Memory: only rows of known present classes are computed, in pieces whose [rows, C, m] values
    are computed again for the gradient.
    """

    def __init__(self, channels: int, cooccurrence: Tensor, hidden: int = 512) -> None:
        super().__init__()
        classes = len(cooccurrence)
        self.project = nn.Linear(channels, hidden)
        self.given = nn.Linear(hidden, hidden)
        self.other = nn.Linear(hidden, hidden, bias=False)
        std = hidden**-0.5
        self.weight = nn.Parameter(torch.randn(hidden) * std)
        self.given_weight = nn.Parameter(torch.randn(classes, hidden) * std)
        self.other_weight = nn.Parameter(torch.ones(classes, hidden))
        self.bias = nn.Parameter(cooccurrence.float().clamp(1 - _SURE, _SURE).logit())

    def forward(self, features: Tensor, known: Tensor) -> LabelPairs:
        """Rows of the known present classes of class features [B, C, d] and labels [B, C]."""
        image, given = (known > 0).nonzero(as_tuple=True)
        return LabelPairs(self._logits(features, image, given), image, given)

    @torch.no_grad()
    def matrix(self, features: Tensor) -> Tensor:
        """``P`` of each image whole, [B, C, d] -> [B, C, C], row the class that is given."""
        b, c, _ = features.shape
        image = torch.arange(b, device=features.device).repeat_interleave(c)
        given = torch.arange(c, device=features.device).repeat(b)
        matrix = torch.sigmoid(self._logits(features, image, given)).view(b, c, c)
        matrix.diagonal(dim1=1, dim2=2).fill_(1)
        return matrix

    def _logits(self, features: Tensor, image: Tensor, given: Tensor) -> Tensor:
        projected = self.project(features)
        u, v = self.given(projected), self.other(projected)  # [B, C, m]
        parts = pieces(len(image), v[0].numel())
        found = [recomputed(self._rows, u, v, image[p], given[p], of=len(parts)) for p in parts]
        return torch.cat(found) if found else features[:0, :, 0]

    def _rows(self, u: Tensor, v: Tensor, image: Tensor, given: Tensor) -> Tensor:
        hidden = torch.relu(u[image, given][:, None] + v[image])  # [rows, C, m]
        shared = hidden @ self.weight
        own = torch.einsum("rcm,rm,cm->rc", hidden, self.given_weight[given], self.other_weight)
        return shared + own + self.bias[given]


class Thresholds(nn.Module):
    """DTL: a threshold per class, in [0, 1], learned from the known labels.

    An unknown label is taken for present where its score is above its class's threshold. HST
    makes that differentiable as ``clamp(s - theta, 0, 1)``: with ``theta`` starting at 1 the clamp
    is flat, nothing is learned, and the learning rate of the network (1e-5) would not move it.
    Here ``sigmoid((s - theta) / STEP)`` enters the partial BCE, which moves ``theta`` until as many
    known labels score above it as are present; a class that is never known present has its
    threshold rise to 1, one of which nothing is known keeps its start. Give the parameters a
    learning rate of their own, around 0.01 with Adam, and no weight decay.

    Args:
        classes: C.
        start: threshold that all begin with; 1 takes nothing for present.

    Source: HST (arXiv 2205.11131), differential threshold learning.
    """

    def __init__(self, classes: int, start: float = 1.0) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.full((classes,), start))

    @property
    def values(self) -> Tensor:
        """The thresholds [C], in [0, 1]."""
        return self.raw.detach().clamp(0, 1)

    def forward(self, scores: Tensor) -> Tensor:
        """Scores [B, C] to logits of "above the threshold" [B, C]; a gradient flows to both."""
        with torch.no_grad():
            # A step may have led out of the range; the way back must not be longer than that.
            self.raw.clamp_(0, 1)
        return (scores - self.raw) / STEP

    def loss(self, scores: Tensor, known: Tensor) -> Tensor:
        """Partial BCE of the soft step over the known labels. Detach scores not to train them.

        Scores of known labels must be made as those of unknown ones are: see `LabelPairs.held_out`.
        """
        return partial_bce(self(scores), known)


def complement(known: Tensor, scores: Tensor, threshold: Tensor | float) -> Tensor:
    """The known labels, and present where an unknown one scores above its threshold.

    Args:
        known: [B, C], -1, 0 or 1.
        scores: [B, C].
        threshold: [C], or one for all: SST's, which starts at 0.95 after five epochs and falls by
            0.025 an epoch to 0.75.

    Returns:
        Labels [B, C] of the type of ``known``, without a gradient.
    """
    taken = (known == 0) & (scores.detach() > threshold)
    return torch.where(taken, torch.ones_like(known), known)
