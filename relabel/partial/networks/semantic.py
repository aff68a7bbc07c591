"""Networks from feature maps to logits, with or without a feature per class.

Shape legend: ``B`` images, ``C`` classes, ``D`` channels of the backbone, ``H x W`` places,
``d`` channels of class features, ``e`` numbers of a class's embedding, ``m`` hidden channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from relabel.partial.networks.graph import STEPS, GatedGraph
from relabel.partial.networks.memory import pieces, recomputed


class Pooled(nn.Module):
    """The plain classifier: mean over all places, then a linear layer."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps [B, D, H, W], or features that are pooled already [B, D], to logits [B, C]."""
        return self.linear(maps.flatten(2).mean(dim=2) if maps.ndim > 2 else maps)


class ClassLinear(nn.Module):
    """A linear layer per class: [B, C, d] -> [B, C]."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        bound = channels**-0.5
        self.weight = nn.Parameter(torch.empty(classes, channels).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(classes).uniform_(-bound, bound))

    def forward(self, features: Tensor) -> Tensor:
        return torch.einsum("bcd,cd->bc", features, self.weight) + self.bias


class SemanticDecoupling(nn.Module):
    """A feature per class: the mean over all places, weighted by where the class's word looks.

    The weight of a place is the softmax over places of ``v . tanh(U x * V w_c)``. The public
    implementation has two linear layers in place of ``v`` with nothing between them, which is
    one; their bias cancels in the softmax.

    Args:
        channels: d.
        embeddings: of the classes [C, e].
        hidden: m.
        learned: the embeddings are trained, too.

    Source: SSGRL (Chen et al., ICCV 2019), the semantic decoupling that HST's SARL is built on.
    Memory: classes are worked on in pieces whose [B, HW, C, m] values are computed again for the
    gradient, so that it does not grow with C beyond the result.
    """

    def __init__(
        self, channels: int, embeddings: Tensor, hidden: int = 512, *, learned: bool = False
    ) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(embeddings.float().clone(), requires_grad=learned)
        self.image = nn.Linear(channels, hidden, bias=False)
        self.word = nn.Linear(embeddings.shape[1], hidden, bias=False)
        self.score = nn.Linear(hidden, 1, bias=False)

    def attention(self, maps: Tensor) -> Tensor:
        """The weight of each place for each class, [B, d, H, W] -> [B, C, H, W]; sums to 1."""
        b, _, h, w = maps.shape
        return self._weights(maps.flatten(2).transpose(1, 2)).view(b, -1, h, w)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps [B, d, H, W] to class features [B, C, d]."""
        places = maps.flatten(2).transpose(1, 2)
        return self._weights(places) @ places

    def _weights(self, places: Tensor) -> Tensor:
        image, words = self.image(places), self.word(self.embeddings)
        parts = pieces(len(words), image.numel())
        scores = [recomputed(self._score, image, words[p], of=len(parts)) for p in parts]
        return torch.cat(scores, dim=2).transpose(1, 2).softmax(dim=2)  # [B, C, HW]

    def _score(self, image: Tensor, words: Tensor) -> Tensor:
        return self.score(torch.tanh(image[:, :, None] * words)).squeeze(3)


class SemanticAware(nn.Module):
    """SARL: feature maps to a feature per class, a graph over classes, and a logit per class.

    Args:
        channels: D.
        embeddings: of the classes [C, e].
        cooccurrence: [C, C], see `relabel.partial.networks.graph.label_cooccurrence`.
        width: d.
        hidden: m of the attention.
        learned: the embeddings are trained, too.

    Source: HST (arXiv 2205.11131), its semantic-aware representation; 1024 and 512 are the sizes
    of its public implementation.
    """

    def __init__(
        self,
        channels: int,
        embeddings: Tensor,
        cooccurrence: Tensor,
        width: int = 1024,
        hidden: int = 512,
        *,
        learned: bool = False,
    ) -> None:
        super().__init__()
        self.reduce = nn.Sequential(
            nn.Conv2d(channels, width, kernel_size=1, bias=False), nn.BatchNorm2d(width)
        )
        self.decoupling = SemanticDecoupling(width, embeddings, hidden, learned=learned)
        self.graph = GatedGraph(width, cooccurrence)
        self.join = nn.Linear(2 * width, width)
        self.classifier = ClassLinear(len(embeddings), width)

    def features(self, maps: Tensor) -> Tensor:
        """Maps [B, D, H, W] to class features [B, C, d]."""
        return self.decoupling(self.reduce(maps))

    def classify(self, features: Tensor) -> Tensor:
        """Class features [B, C, d] to logits [B, C]; images in pieces, as they do not interact."""
        # Each step holds about ten values of the size of the features.
        each = features[0].numel() * 10 * STEPS
        parts = pieces(len(features), each)
        return torch.cat([recomputed(self._classify, features[p], of=len(parts)) for p in parts])

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Maps [B, D, H, W] to logits [B, C] and class features [B, C, d]."""
        features = self.features(maps)
        return self.classify(features), features

    def _classify(self, features: Tensor) -> Tensor:
        joined = self.join(torch.cat([self.graph(features), features], dim=2))
        return self.classifier(torch.tanh(joined))
