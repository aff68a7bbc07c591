"""The interface of all methods.

Shape legend: ``B`` images, ``C`` classes, ``D`` channels of the maps, ``H, W`` cells, ``h``
channels of what the last layer reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from relabel.partial.networks.semantic import Pooled
from relabel.partial.settings import CompletionSettings

Batches = Callable[[], Iterator[tuple[Tensor, Tensor]]]
"""A pass over the training images in order: maps [B, D, H, W] and known labels int8 [B, C]."""

START, REFRESH = 0.25, 0.25
"""Shares of the training: when pseudo-labels start, and how often what they rest on is renewed.

Published: from epoch 5 of 20, every 5 (the scripts of SST's, SARB's and HST's public code).
"""


@dataclass(frozen=True, eq=False)
class Setup:
    """What a method is built for.

    Attributes:
        classes: C names.
        channels: D.
        cooccurrence: float [C, C], how often classes are known present together.
        prior: float [C], share of the known labels that are present.
        embeddings: float [C, e], None where the method takes none.
        steps: of the training.
        text_width: channels of a CLIP checkpoint's text tower, where the method has one.
    """

    classes: tuple[str, ...]
    channels: int
    cooccurrence: Tensor
    prior: Tensor
    embeddings: Tensor | None
    settings: CompletionSettings
    steps: int
    text_width: int = 0


class Method(nn.Module):
    """A network, the losses of its training and its logits."""

    needs_maps: ClassVar[bool] = True
    """Whether places matter; False reads the maps' means alone."""
    needs_embeddings: ClassVar[bool] = False
    learns_from_unknown: ClassVar[bool] = True
    """Whether an image of which nothing is known changes the training."""
    standardised: ClassVar[bool] = True
    """Whether maps come with mean 0 and deviation 1 per channel."""

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self.steps = setup.steps

    def forward(self, maps: Tensor, known: Tensor, step: int) -> dict[str, Tensor]:
        """Losses by name, which are summed, of maps [B, D, H, W] and labels -1, 0, 1 [B, C]."""
        raise NotImplementedError

    def logits(self, maps: Tensor) -> Tensor:
        """Maps [B, D, H, W] to logits [B, C]."""
        raise NotImplementedError

    def hidden(self, maps: Tensor) -> Tensor:
        """What the last layer reads: [B, h], or [B, C, h] where each class has its own."""
        raise NotImplementedError

    def last_layer(self) -> tuple[Tensor, Tensor]:
        """Weights [C, h] and biases [C], of which class c's logit is ``w_c . hidden_c + b_c``."""
        raise NotImplementedError

    def set_last_layer(self, weights: Tensor, biases: Tensor) -> None:
        """Put others in their place."""
        for old, new in zip(self.last_layer(), (weights, biases), strict=True):
            old.data.copy_(new)

    def transfers(self, maps: Tensor, known: Tensor) -> dict[str, Tensor]:
        """What each transfer takes for present among the unknown labels, bool [B, C] by source."""
        return {}

    def refresh(self, step: int, batches: Batches) -> None:
        """Called after ``step`` steps, of all steps of `refresh_steps`, in eval mode."""

    def refresh_steps(self) -> set[int]:
        """The steps after which what pseudo-labels rest on is renewed."""
        start, every = (max(1, round(share * self.steps)) for share in (START, REFRESH))
        return set(range(start, self.steps, every))

    def own_rates(self) -> list[tuple[nn.Parameter, float]]:
        """Parameters that do not learn at the settings' rate, and their peak rates."""
        return []

    def finish(self) -> None:
        """Called once after the last step, in eval mode."""

    def started(self, step: int) -> bool:
        """Whether pseudo-labels take part in step ``step``, counted from 0."""
        return step >= max(1, round(START * self.steps))


class PooledMethod(Method):
    """A method on the plain classifier."""

    needs_maps = False

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.net = plain_classifier(setup)

    def logits(self, maps: Tensor) -> Tensor:
        return self.net(maps)

    def hidden(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))

    def last_layer(self) -> tuple[Tensor, Tensor]:
        return self.net.linear.weight, self.net.linear.bias


def plain_classifier(setup: Setup) -> Pooled:
    """The plain classifier, which begins by saying how often each class is present."""
    net = Pooled(setup.channels, len(setup.classes))
    with torch.no_grad():
        net.linear.weight.zero_()
        net.linear.bias.copy_(prior_logits(setup.prior))
    return net


def prior_logits(prior: Tensor) -> Tensor:
    """Biases [C] by which a last layer begins with how often each class is present."""
    return prior.clamp(0.01, 0.99).logit()
