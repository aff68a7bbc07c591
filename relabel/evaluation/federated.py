"""Federated truth, as LVIS has it: an image tells of some categories only.

Every LVIS image is searched for its own few categories: those of its boxes, and those known to be
absent, ``neg_category_ids``. Of the rest nothing is known, so that detections of them count neither
way. Where a category's objects were not all boxed, ``not_exhaustive_category_ids``, a detection
without a match is no error. Source: "LVIS: A Dataset for Large Vocabulary Instance Segmentation"
(arXiv 1908.03195), section 3, and lvis-api, whose numbers are given.

Shape legend: ``n`` boxes, ``I`` images, ``C`` classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from relabel.datasets.dataset import Boxes, DetectionDataset
from relabel.datasets.federated import NEGATIVE, NOT_EXHAUSTIVE
from relabel.datasets.formats.coco.federated import federated_cells
from relabel.datasets.formats.coco.read import CATEGORY_FIELDS

MAX_FEDERATED = 300
"""Maximum number of detections per image, of all classes together."""

GROUPS = ("r", "c", "f")
"""How frequent a category is in training: in fewer than 10 images, fewer than 100, more."""


@dataclass(frozen=True, eq=False)
class Federated:
    """Which classes each image tells of.

    Attributes:
        classes: C.
        negative, not_exhaustive: int64, ``image * C + class``, in no order.
        group: of each class one of `GROUPS`, or "" where the truth has none.
    """

    classes: int
    negative: np.ndarray
    not_exhaustive: np.ndarray
    group: tuple[str, ...]

    def best(self, found: Boxes) -> Boxes:
        """The best `MAX_FEDERATED` detections of each image, in their order."""
        order = np.lexsort((np.arange(len(found)), -found.score, found.image))
        image = found.image[order]
        place = np.arange(len(order)) - np.searchsorted(image, image)
        return found.take(np.sort(order[place < MAX_FEDERATED]))

    def counted(self, truth: Boxes, found: Boxes) -> tuple[Boxes, Boxes]:
        """The truth boxes and detections that count, as lvis-api chooses them.

        Without detections of classes that their image does not tell of, and boxes without area.
        """
        truth = truth.take(truth.area > 0)
        present = self._cells(truth.take(truth.category < self.classes))
        known = np.concatenate([self.negative, present])
        judged = np.isin(self._cells(found), known) & (found.area > 0)
        return truth, found.take(judged)

    def forgiven(self, found: Boxes) -> np.ndarray:
        """bool [n], detections that are no error without a match."""
        return np.isin(self._cells(found), self.not_exhaustive)

    def fields(self, images: int) -> list[dict[str, Any]]:
        """An image record each, ids from 1, with the federated fields in class positions from 1."""
        records: list[dict[str, Any]] = [
            {"id": i + 1, NEGATIVE: [], NOT_EXHAUSTIVE: []} for i in range(images)
        ]
        for name, cells in ((NEGATIVE, self.negative), (NOT_EXHAUSTIVE, self.not_exhaustive)):
            for image, place in zip(*divmod(cells, max(self.classes, 1)), strict=True):
                records[int(image)][name].append(int(place) + 1)
        return records

    def _cells(self, boxes: Boxes) -> np.ndarray:
        return boxes.image.astype(np.int64) * self.classes + boxes.category


def federated(truth: DetectionDataset) -> Federated | None:
    """What the images of a truth tell of; None where it is not federated.

    Raises:
        DataError: ``neg_category_ids`` or ``not_exhaustive_category_ids`` is no list of ids.
    """
    space = truth.space
    ids = space.ids[: space.num_classes]
    cells = federated_cells(truth.images.extra, truth.images.id, ids, truth.name)
    if cells is None:
        return None
    fields = truth.info.get(CATEGORY_FIELDS, {})
    group = [fields.get(name, {}).get("frequency") for name in space.class_names]
    groups = tuple(g if g in GROUPS else "" for g in group)
    return Federated(space.num_classes, *cells, groups)
