"""Training of any detector family on any source of batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from relabel.backbones.extractor import FeatureMaps
from relabel.datasets.labelspace import LabelSpace
from relabel.detectors.base import Detector
from relabel.detectors.family import Trainable
from relabel.detectors.load import build_trainable
from relabel.detectors.settings import SpecialistSettings
from relabel.settings import Runtime
from relabel.training.loop import FitResult, drop_checkpoint, fit, resolve_device, step_seed
from relabel.training.memory import keep_freed_memory
from relabel.workspace.ranks import rank

Batch = tuple[Tensor | FeatureMaps, list[tuple[int, int]], list[dict[str, Tensor]]]
Evaluate = Callable[[Detector, int], dict[str, float]]


def new_trainable(space: LabelSpace, settings: SpecialistSettings) -> Trainable:
    """A model to train whose random weights depend on the seed alone."""
    keep_freed_memory()
    torch.manual_seed(step_seed(settings.seed, 0))
    return build_trainable(space, settings)


def train_detector(
    trainable: Trainable,
    batches: Callable[[int], Batch],
    steps: int,
    out: Path,
    settings: SpecialistSettings,
    runtime: Runtime,
    *,
    description: str,
    evaluate: Evaluate | None = None,
) -> FitResult:
    """Train a detector, resuming from the checkpoint in ``out`` if it has one, and save it there.

    Args:
        trainable: from `new_trainable`.
        batches: step number to (pixels, sizes, targets), see `DetectionNetwork`.
        steps: number of optimiser steps.
        evaluate: detector and step to named results, at ``eval_every`` and at the end.

    Raises:
        RelabelError: the loss became NaN or infinite.
    """
    device = resolve_device(runtime.device)

    def measured(_model: Any, step: int) -> dict[str, float]:
        assert evaluate is not None
        return evaluate(trainable.detector(device), step)

    result = fit(
        trainable.model,
        batches,
        lambda net, batch: net(*on_device(batch, device)),
        steps=steps,
        out=out,
        settings=settings,
        runtime=runtime,
        description=description,
        backbone_parameters=trainable.backbone_parameters(),
        evaluate=measured if evaluate is not None else None,
    )
    if rank() == 0:
        trainable.save(out)
        drop_checkpoint(out)
    return result


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch where the model is, its pixels in the layout convolutions are fast in."""
    pixels, sizes, targets = batch
    moved = [{k: v.to(device) for k, v in t.items()} for t in targets]
    return pixels.to(device, memory_format=torch.channels_last), sizes, moved
