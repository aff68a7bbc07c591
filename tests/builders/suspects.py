"""A dataset whose labels are right but for those that a test adds, and predictions on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from relabel.crosslabel.pseudo import PseudoLabels
from relabel.datasets.dataset import DetectionDataset, make_boxes
from tests.builders.datasets import dataset_of

SIZE = (200, 100)


@dataclass
class Street:
    """Images of 200 x 100 pixels: ``good`` of them with an annotation that is predicted, at a
    place and score of its own, and more that tests add.

    Attributes:
        annotations: (image, xyxy, category, ignore).
        predictions: (image, xyxy, scores of the classes).
    """

    classes: Sequence[str] = ("car", "truck", "person")
    good: int = 40
    annotations: list[Any] = field(default_factory=list)
    predictions: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(3)
        for image in range(self.good):
            category = image % len(self.classes)
            x, y, side = rng.uniform(5, 60), rng.uniform(5, 40), rng.uniform(20, 40)
            box = np.array([x, y, x + side, y + side])
            self.annotate(image, box.tolist(), category)
            near = box + rng.uniform(-1, 1, 4)
            self.predict(image, near.tolist(), category, rng.uniform(0.8, 0.98))
            # What a detector says of nothing, at low scores.
            far = [150, y, 150 + side, y + side]
            self.predict(image, far, (category + 1) % len(self.classes), rng.uniform(0.05, 0.2))

    @property
    def images(self) -> int:
        """One more than the good ones: the last is for what a test adds."""
        return self.good + 1

    @property
    def last(self) -> int:
        return self.good

    def annotate(
        self, image: int, xyxy: Sequence[float], category: int, ignore: bool = False
    ) -> int:
        """Add an annotation; returns its id."""
        self.annotations.append((image, list(xyxy), category, ignore))
        return len(self.annotations)

    def predict(
        self, image: int, xyxy: Sequence[float], category: int, score: float, **other: float
    ) -> None:
        """Add a prediction; ``other`` has scores of further classes by name."""
        scores = np.zeros(len(self.classes), np.float32)
        scores[category] = score
        for name, value in other.items():
            scores[self.classes.index(name)] = value
        self.predictions.append((image, list(xyxy), scores))

    def build(
        self, order: Sequence[int] | None = None, **more: Any
    ) -> tuple[DetectionDataset, PseudoLabels]:
        """The dataset, its images in an order of choice, and the predictions."""
        names = [f"{i:03d}.jpg" for i in range(self.images)]
        image, xyxy, category, ignore = zip(*self.annotations, strict=True)
        corners = np.array(xyxy, np.float64)
        boxes = make_boxes(
            image,
            np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
            category,
            ignore=np.array(ignore),
        )
        data = dataset_of("street", list(self.classes), names, boxes, size=SIZE, **more)
        rows = sorted(self.predictions, key=lambda p: (p[0], -p[2].max()))
        labels = PseudoLabels(
            data.space,
            "street",
            "street",
            names,
            np.array([p[0] for p in rows], np.int32),
            np.array([p[1] for p in rows], np.float32),
            np.stack([p[2] for p in rows]),
        )
        return (data if order is None else data.subset(order)), labels
