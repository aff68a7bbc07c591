"""Exponential moving average of a model's weights, on torch's `AveragedModel`."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


def moving_average(model: nn.Module, decay: float, *, use_buffers: bool = False) -> AveragedModel:
    """An average with a warm-up: its first update copies the model, later ones follow it.

    The decay at update ``t`` after the copy is ``min(decay, (1 + t) / (10 + t))``, as in
    TensorFlow's ExponentialMovingAverage with ``num_updates``: a short training averages over its
    last tenth and not mostly over the weights it began with.

    Args:
        model: copied, on its device.
        use_buffers: average the buffers of floats too, such as statistics of norms.
    """

    @torch.no_grad()
    def update(averaged: Any, current: Any, updates: Any) -> None:
        t = int(updates)
        weight = 1 - min(decay, (1 + t) / (10 + t))
        for mine, theirs in zip(averaged, current, strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs, weight)
            else:
                mine.copy_(theirs)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=use_buffers)


@contextmanager
def applied(average: AveragedModel, model: nn.Module) -> Iterator[None]:
    """The model with averaged weights for the length of the block."""
    kept = copy.deepcopy(model.state_dict())
    model.load_state_dict(average.module.state_dict())
    try:
        yield
    finally:
        model.load_state_dict(kept)
