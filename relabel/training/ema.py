"""Exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class EMA:
    """Averaged copy of the trainable parameters, with a warm-up so that early steps count less.

    The decay at update ``t`` is ``min(decay, (1 + t) / (10 + t))``, as in TensorFlow's
    ExponentialMovingAverage with ``num_updates``.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.average = {n: p.detach().clone() for n, p in _trained(model)}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, parameter in _trained(model):
            self.average[name].lerp_(parameter.detach(), 1 - decay)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        for name, parameter in _trained(model):
            parameter.copy_(self.average[name])

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model with averaged weights for the length of the block."""
        kept = {n: p.detach().clone() for n, p in _trained(model)}
        self.copy_to(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in _trained(model):
                    parameter.copy_(kept[name])

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = int(state["updates"])
        for name, value in state["average"].items():
            self.average[name].copy_(value)


def _trained(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((n, p) for n, p in model.named_parameters() if p.requires_grad)
