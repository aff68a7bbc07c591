"""What predictions say of each annotation: the evidence that all kinds of suspects are told by.

Shape legend: ``m`` annotations (regions to ignore are none), ``n`` predictions, ``C`` classes,
``p`` overlapping pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.geometry import IGNORE_OVERLAP, BoxPairs, greedy_match, overlapping

if TYPE_CHECKING:
    from relabel.crosslabel.given import GivenLabels
    from relabel.crosslabel.pseudo import PseudoLabels

ON_OBJECT = 0.5
"""IoU from which a prediction and an annotation are of one object."""
NEAR = 0.1
"""IoU under which they have nothing to do with each other."""


@dataclass(frozen=True, eq=False)
class GivenScores:
    """What box heads that have not seen an image say of its annotated boxes.

    Attributes:
        rows: int64 [k], rows of the dataset's boxes.
        scores: float32 [k, C].
    """

    rows: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, dataset: DetectionDataset, parts: Sequence[GivenLabels]) -> GivenScores:
        """Those of all folds.

        Raises:
            DataError: they are not of this dataset's annotations.
        """
        from relabel.crosslabel.given import rows_of_annotations

        return cls(
            np.concatenate([rows_of_annotations(part, dataset) for part in parts]),
            np.concatenate([part.scores for part in parts]),
        )


@dataclass(frozen=True, eq=False)
class Evidence:
    """Annotations, predictions and how they lie to each other.

    Attributes:
        rows: int64 [m], the annotations' rows among the dataset's boxes.
        image: int64 [m], their images.
        box: float64 [m, 4], xyxy.
        category: int64 [m].
        mirrored: float64 [m, 4], the boxes mirrored across their image's vertical axis.
        found_image: int64 [n], images of the predictions.
        found_box: float64 [n, 4], xyxy.
        found_scores: float64 [n, C].
        in_region: bool [n], predictions of which at least half lies in a region to ignore.
        head: float64 [m, C], box heads' scores of the annotated boxes; NaN where there are none.
    """

    rows: np.ndarray
    image: np.ndarray
    box: np.ndarray
    category: np.ndarray
    mirrored: np.ndarray
    found_image: np.ndarray
    found_box: np.ndarray
    found_scores: np.ndarray
    in_region: np.ndarray
    head: np.ndarray

    @cached_property
    def found_category(self) -> np.ndarray:
        """int64 [n], the best class of each prediction."""
        return self.found_scores.argmax(1) if len(self.found_scores) else np.zeros(0, np.int64)

    @cached_property
    def found_score(self) -> np.ndarray:
        """float64 [n], its score."""
        return self.found_scores.max(1, initial=0)

    @cached_property
    def size(self) -> np.ndarray:
        """float64 [m], roots of the annotations' areas."""
        return np.sqrt(np.prod(self.box[:, 2:] - self.box[:, :2], axis=1))

    @cached_property
    def pairs(self) -> BoxPairs:
        """Annotations (left) and predictions (right) of one image with IoU from `NEAR`."""
        return overlapping(self.box, self.image, self.found_box, self.found_image, NEAR)

    @cached_property
    def own(self) -> np.ndarray:
        """float64 [p], the score of each pair's prediction as the annotation's class."""
        return self.found_scores[self.pairs.right, self.category[self.pairs.left]]

    @cached_property
    def same_class(self) -> np.ndarray:
        """bool [p], whether prediction and annotation have one class."""
        return self.found_category[self.pairs.right] == self.category[self.pairs.left]

    @cached_property
    def class_support(self) -> np.ndarray:
        """float64 [m, C], how surely each annotation is an object of each class.

        The most that a prediction on the object, or the box head on the annotated box, gives.
        """
        on = self.pairs.take(self.pairs.iou >= ON_OBJECT)
        support = np.zeros(self.head.shape)
        np.maximum.at(support, on.left, self.found_scores[on.right])
        return np.fmax(support, self.head)

    @cached_property
    def own_support(self) -> np.ndarray:
        """float64 [m], the same of the annotation's own class."""
        return self.class_support[np.arange(len(self.rows)), self.category]

    @cached_property
    def hits(self) -> np.ndarray:
        """bool [n], predictions with an annotation of their class, each taken once."""
        on = self.pairs.take(self.same_class & (self.pairs.iou >= ON_OBJECT))
        turned = BoxPairs(on.right, on.left, on.iou)
        taken = greedy_match(turned, self.found_score, len(self.rows))
        found = np.zeros(len(self.found_image), bool)
        found[taken.left] = True
        return found


def gather_evidence(
    dataset: DetectionDataset, predictions: PseudoLabels, given: GivenScores | None = None
) -> Evidence:
    """Lay predictions beside a dataset's annotations.

    Annotations on images that were not predicted on are left out.

    Args:
        predictions: on the dataset's images, in its label space.
    """
    boxes, images = dataset.boxes, dataset.images
    classes = dataset.space.num_classes
    joined = predictions.for_images(images.file_name)
    seen = joined.coverage[boxes.image] if len(boxes) else np.zeros(0, bool)
    rows = np.flatnonzero(~boxes.ignore & (boxes.category < classes) & seen)
    image = boxes.image[rows].astype(np.int64)
    box = boxes.xyxy[rows]
    mirrored = box.copy()
    mirrored[:, 0], mirrored[:, 2] = (
        images.width[image] - box[:, 2],
        images.width[image] - box[:, 0],
    )
    regions = np.flatnonzero(boxes.ignore)
    inside = overlapping(
        joined.boxes,
        joined.image,
        boxes.xyxy[regions],
        boxes.image[regions],
        IGNORE_OVERLAP,
        over_left=True,
    )
    in_region = np.zeros(len(joined), bool)
    in_region[inside.left] = True
    head = np.full((len(boxes), classes), np.nan)
    if given is not None:
        head[given.rows] = given.scores
    return Evidence(
        rows,
        image,
        box,
        boxes.category[rows].astype(np.int64),
        mirrored,
        joined.image.astype(np.int64),
        joined.boxes.astype(np.float64),
        joined.scores.astype(np.float64).reshape(-1, classes),
        in_region,
        head[rows],
    )
