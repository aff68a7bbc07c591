"""RT-DETRv2 as a detector family: training, checkpoints, prediction.

The network is in `rt_detr_model`, made or loaded in `rt_detr_build`; its loss in `rt_detr_loss`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from relabel.datasets.labelspace import LabelSpace
from relabel.detectors.base import Detections
from relabel.detectors.checkpoint import DetectorCheckpoint
from relabel.detectors.rt_detr.build import build, of_classes, rebuild
from relabel.detectors.rt_detr.model import RTDetr
from relabel.detectors.settings import SpecialistSettings
from relabel.training.pixels import resized, stack_images

CHECKPOINT = DetectorCheckpoint(
    kind="rt_detr",
    part="model",
    title="an RT-DETR",
    retrain="Train it again (relabel train-specialist --detector rt-detr --overwrite).",
)


class RTDetrTrainable:
    """An RT-DETRv2 in training: a `Trainable`."""

    def __init__(self, model: RTDetr, space: LabelSpace, settings: SpecialistSettings) -> None:
        self.model = model
        self.space = space
        self.settings = settings
        self.divisor = model.divisor

    @classmethod
    def create(cls, space: LabelSpace, settings: SpecialistSettings) -> RTDetrTrainable:
        """From a backbone or a whole pretrained checkpoint.

        Raises:
            ConfigError: neither hub nor folder has what the settings name.
        """
        return cls(build(space.num_classes, settings), space, settings)

    def backbone_parameters(self) -> set[int]:
        return {id(p) for p in self.model.backbone.pretrained().parameters()}

    def detector(self, device: torch.device) -> RTDetrDetector:
        return RTDetrDetector(self.model, self.space, self.settings, device)

    def save(self, out: Path) -> None:
        self.detector(next(self.model.parameters()).device).save(out)

    def restricted(self, space: LabelSpace, classes: Sequence[int]) -> RTDetrTrainable:
        """A copy whose class heads have the rows of ``classes`` only."""
        weights = self.model.state_dict()
        rows = torch.tensor(list(classes))
        # The embedding of denoising labels ends with a row for "no label".
        of_denoising = torch.tensor([*classes, self.space.num_classes])
        for key, value in weights.items():
            if of_classes(key):
                kept = of_denoising if "denoising_class_embed" in key else rows
                weights[key] = value[kept.to(value.device)]
        model = rebuild(space.num_classes, self.model.parts)
        model.load_state_dict(weights)
        model.to(next(self.model.parameters()).device)
        return RTDetrTrainable(model, space, self.settings)


class RTDetrDetector:
    """A trained RT-DETRv2: a `Detector`.

    An image is batched only with others of its padded size, so that what is found in it does not
    depend on its neighbours: the network sees the padding, and boxes are fractions of it.
    """

    def __init__(
        self,
        model: RTDetr,
        space: LabelSpace,
        settings: SpecialistSettings,
        device: torch.device,
    ) -> None:
        self.model = model.to(device).eval()
        self.settings = settings
        self.device = device
        self._space = space

    @property
    def space(self) -> LabelSpace:
        return self._space

    def predict(self, images: Sequence[np.ndarray]) -> list[Detections]:
        groups: dict[tuple[int, int], list[int]] = {}
        for i, image in enumerate(images):
            groups.setdefault(self._padded(image), []).append(i)
        found: dict[int, Detections] = {}
        for rows in groups.values():
            batch = self._predict([images[i] for i in rows])
            found.update(zip(rows, batch, strict=True))
        return [found[i] for i in range(len(images))]

    def _padded(self, image: np.ndarray) -> tuple[int, int]:
        s, d = self.settings, self.model.divisor
        height, width = resized(image.shape[0], image.shape[1], s.image_size, s.max_image_size)
        return -(-height // d) * d, -(-width // d) * d

    def _predict(self, images: Sequence[np.ndarray]) -> list[Detections]:
        from relabel.training.loop import autocast

        s = self.settings
        batch, sizes, scales = stack_images(
            images, s.image_size, s.max_image_size, self.model.divisor
        )
        batch = batch.to(self.device, memory_format=torch.channels_last)
        # Not inference mode: transformers keeps anchors it made, and training goes on with them.
        with torch.no_grad(), autocast(s.precision, self.device):
            found = self.model(batch, sizes)
        results = []
        for row, image, (sy, sx) in zip(found, images, scales, strict=True):
            boxes = row["boxes"].cpu().numpy() / np.array([sx, sy, sx, sy], np.float32)
            height, width = image.shape[:2]
            boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
            results.append(Detections(boxes.astype(np.float32), row["scores"].cpu().numpy()))
        return results

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors`` and ``config.json`` (last, so that it marks completeness)."""
        CHECKPOINT.save(folder, self.model, self._space, self.model.parts, self.settings)

    @classmethod
    def load(cls, folder: Path, device: str = "auto") -> RTDetrDetector:
        """Load what `save` wrote; needs neither the hub nor the backbone's folder.

        Raises:
            DataError: a file is missing, damaged, or does not fit the configuration.
        """
        from relabel.training.loop import resolve_device

        model, space, settings = CHECKPOINT.load(
            folder, lambda space, _settings, parts: rebuild(space.num_classes, parts)
        )
        return cls(model, space, settings, resolve_device(device))
