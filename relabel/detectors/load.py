"""Detectors by name: trained ones from their folder, new ones from their settings.

Shape legend: ``B`` images, ``n`` boxes of an image, ``C`` classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from relabel.datasets.labelspace import LabelSpace
from relabel.detectors.base import Detector
from relabel.detectors.settings import SpecialistSettings
from relabel.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import nn


def load_detector(checkpoint: Path, device: str = "auto") -> Detector:
    """Load a trained detector from its checkpoint folder.

    The folder's ``config.json`` names the detector type.

    Raises:
        DataError: not a checkpoint folder, or damaged.
    """
    config = Path(checkpoint) / "config.json"
    if not config.is_file():
        raise DataError(
            "no config.json: not a detector checkpoint",
            file=checkpoint,
            remedy="Train one with `relabel train-specialist`.",
        )
    try:
        kind: Any = json.loads(config.read_text(encoding="utf-8")).get("detector")
    except (ValueError, AttributeError) as error:
        raise DataError(f"config.json is not valid: {error}", file=config) from error
    if kind == "faster_rcnn":
        from relabel.detectors.faster_rcnn import FasterRCNNDetector

        return FasterRCNNDetector.load(Path(checkpoint), device=device)
    if kind == "rt_detr":
        from relabel.detectors.rt_detr.detector import RTDetrDetector

        return RTDetrDetector.load(Path(checkpoint), device=device)
    if kind == "sam3":
        from relabel.detectors.sam3.detector import Sam3Detector

        return Sam3Detector.from_folder(Path(checkpoint), device=device)
    raise DataError(
        f"unknown detector type {kind!r}", file=config, remedy="Known: faster_rcnn, rt_detr, sam3."
    )


class Trainable(Protocol):
    """A detector in training.

    In training mode ``model(pixels, sizes, targets)`` returns named losses. ``pixels`` are
    [B, 3, H, W] in [0, 1], padded at the bottom and right; ``sizes`` are the images' (height,
    width) without padding; a target has ``boxes`` [n, 4] xyxy in pixels of the batch, ``labels``
    [n] from 1, ``ignored`` [m, 4], and where a model serves several label spaces ``classes``
    bool [C + 1]: the background (0) and the classes that the image's dataset knows. The others
    get neither loss nor gradient. Where boxes may be of one of several classes, ``possible`` bool
    [n, C + 1] has them: the loss asks for any of them.

    In evaluation mode ``model(pixels, sizes)`` returns a dict per image with ``boxes`` [n, 4] xyxy
    in pixels of the batch and ``scores`` [n, C].

    Attributes:
        model: the network.
        divisor: batches are padded to multiples of it.
        space: the label space of the ``C`` classes.
    """

    @property
    def model(self) -> nn.Module: ...

    @property
    def divisor(self) -> int: ...

    @property
    def space(self) -> LabelSpace: ...

    def backbone_parameters(self) -> set[int]:
        """``id`` of the parameters that learn at ``backbone_lr_scale``."""
        ...

    def detector(self, device: torch.device) -> Detector:
        """A detector over the model's current weights; it shares them."""
        ...

    def save(self, out: Path) -> None:
        """Write a checkpoint that `load_detector` reads."""
        ...

    def restricted(self, space: LabelSpace, classes: Sequence[int]) -> Trainable:
        """A copy of the current model that knows some classes only.

        Args:
            space: the label space of the copy.
            classes: position in `space` of this model of each class of the copy.
        """
        ...


def build_trainable(space: LabelSpace, settings: SpecialistSettings) -> Trainable:
    """A new model of the family that ``settings.detector`` names, from pretrained weights.

    Raises:
        ConfigError, DataError: the backbone or the pretrained model cannot be loaded.
    """
    if settings.detector == "rt-detr":
        from relabel.detectors.rt_detr.detector import RTDetrTrainable

        return RTDetrTrainable.create(space, settings)
    from relabel.detectors.faster_rcnn import FasterRCNNTrainable

    return FasterRCNNTrainable.create(space, settings)
