"""What every detector looks like to the rest: `Detections` out, images in.

Shape legend: ``B`` images, ``n`` boxes of one image, ``C`` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from relabel.datasets.labelspace import LabelSpace


@dataclass(frozen=True, eq=False)
class Detections:
    """What a detector found in one image.

    Attributes:
        boxes: float32 [n, 4], xyxy absolute pixels of the image as stored.
        scores: float32 [n, C], probability of every class of the detector's label space.
        quality: float32 [n], localisation quality in [0, 1], where the detector has one.
    """

    boxes: np.ndarray
    scores: np.ndarray
    quality: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, rows: np.ndarray) -> Detections:
        quality = None if self.quality is None else self.quality[rows]
        return Detections(self.boxes[rows], self.scores[rows], quality)


class Detector(Protocol):
    """The interface of a trained detector: a specialist, RT-DETR, SAM 3, a colleague's model.

    ``predict`` must not apply a confidence filter above 0.01 or a final class-wise NMS tighter
    than IoU 0.9: cross-labelling does both, with its own settings.
    """

    @property
    def space(self) -> LabelSpace: ...

    def predict(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """Detect in B images, each uint8 [H, W, 3] RGB; sizes may differ."""
        ...


def load_detector(checkpoint: Path, device: str = "auto") -> Detector:
    """Load a trained detector from its checkpoint folder.

    The folder's ``config.json`` names the detector type.

    Raises:
        DataError: not a checkpoint folder, or damaged.
    """
    import json

    from relabel.errors import DataError

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
        from relabel.detectors.rt_detr import RTDetrDetector

        return RTDetrDetector.load(Path(checkpoint), device=device)
    if kind == "sam3":
        from relabel.detectors.sam3 import Sam3Detector

        return Sam3Detector.from_folder(Path(checkpoint), device=device)
    raise DataError(
        f"unknown detector type {kind!r}", file=config, remedy="Known: faster_rcnn, rt_detr, sam3."
    )
