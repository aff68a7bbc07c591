"""What every detector looks like to the rest: `Detections` out, images in.

Shape legend: ``B`` images, ``n`` boxes of one image, ``C`` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from relabel.datasets.labelspace import LabelSpace
from relabel.errors import ConfigError
from relabel.settings import Ranking

if TYPE_CHECKING:
    from torch import Tensor

    from relabel.backbones.stored import ImageMaps, MapStore


@dataclass(frozen=True, eq=False)
class Detections:
    """What a detector found in one image.

    Attributes:
        boxes: float32 [n, 4], xyxy absolute pixels of the image as it was given.
        scores: float32 [n, C], probability of every class of the detector's label space.
        quality: float32 [n], localisation quality in [0, 1], where the detector has one.
        ranking: what the detector wants its detections ranked by.
    """

    boxes: np.ndarray
    scores: np.ndarray
    quality: np.ndarray | None = None
    ranking: Ranking = "score"

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def confidences(self) -> np.ndarray:
        """[n, C], what detections of each class are ranked by."""
        quality = None if self.quality is None else self.quality[:, None]
        return ranked(self.scores, quality, self.ranking)

    def take(self, rows: np.ndarray) -> Detections:
        quality = None if self.quality is None else self.quality[rows]
        return Detections(self.boxes[rows], self.scores[rows], quality, self.ranking)


def ranked(scores: np.ndarray, quality: np.ndarray | None, ranking: Ranking) -> np.ndarray:
    """What boxes are ranked by: p, v, p * v or sqrt(p * v).

    Args:
        scores: p, of any shape, in [0, 1].
        quality: v in [0, 1], of a shape that goes with it; None leaves p alone.
    """
    if quality is None or ranking == "score":
        return scores
    if ranking == "quality":
        return np.broadcast_to(quality, scores.shape)
    product = scores * quality
    return product if ranking == "product" else np.sqrt(product)


@dataclass(frozen=True, eq=False)
class BoxScores:
    """What a detector's box head says of given boxes of one image.

    Attributes:
        scores: float32 [n, C], probability of every class; what is left to 1 is background.
        boxes: float32 [n, C, 4], each box refined as one of each class, xyxy pixels of the image.
    """

    scores: np.ndarray
    boxes: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)


def no_box_head() -> ConfigError:
    """The error of a detector that cannot classify boxes it is given."""
    return ConfigError(
        "an RT-DETR has no head that classifies and refines given boxes",
        remedy="Take specialists with one (--set specialist.detector=faster-rcnn or certainty), or "
        "leave out the arm lgpl.",
    )


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


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image as a detector wants it.

    Attributes:
        pixels: uint8 [3, h, w], resized.
        size: (height, width) of the image as it was given.
    """

    pixels: Tensor
    size: tuple[int, int]


@runtime_checkable
class Preparing(Detector, Protocol):
    """A detector whose images can be resized where they are read, in threads of their own."""

    @property
    def prepared_size(self) -> tuple[int, int] | None:
        """(short side, longest side) of prepared images; None where it can prepare none."""
        ...

    def prepare(self, image: np.ndarray) -> PreparedImage:
        """uint8 [H, W, 3] RGB, resized. Called in threads."""
        ...

    def predict_prepared(self, images: Sequence[PreparedImage]) -> list[Detections]:
        """What ``predict`` finds in the images."""
        ...


@runtime_checkable
class MapReader(Detector, Protocol):
    """A detector that takes the maps of its backbone, where that is frozen, in place of images."""

    def map_store(self, folder: Path) -> MapStore | None:
        """The frozen backbone's maps in a folder; None where a part of it has learned."""
        ...

    def predict_maps(
        self, maps: Sequence[ImageMaps], shapes: Sequence[Sequence[int]]
    ) -> list[Detections]:
        """Detect in B images by their maps and their (height, width)."""
        ...


class BoxHead(Detector, Protocol):
    """A detector whose second stage can be run on boxes from elsewhere, as a Faster R-CNN's."""

    def score_boxes(
        self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]
    ) -> list[BoxScores]:
        """Classify and refine the boxes [n, 4] (xyxy pixels) of each of B images, in their order.

        Raises:
            ConfigError: the detector has no such head.
        """
        ...
