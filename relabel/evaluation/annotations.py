"""The boxes of one annotation file as columns, the form in which evaluation compares them.

Shape legend: ``I`` images, ``K`` categories, ``n`` boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.geometry import xywh_to_xyxy

ANY_CLASS = -1


@dataclass(frozen=True, eq=False)
class Annotations:
    """The boxes of one COCO file or dataset.

    Attributes:
        name: the file, for messages.
        image_id: int64 [I], ascending; rows of ``image`` refer to it.
        file_name: I names, or None where the file gives none.
        category_id: int64 [K].
        category_name: K names.
        image: int64 [n], row into ``image_id``.
        category: int64 [n], position in ``category_id``; `ANY_CLASS` on regions to leave out
            whatever the class.
        xywh: float64 [n, 4], pixels.
        area: float64 [n], the file's ``area`` where it has one, else width times height.
        crowd: bool [n], regions to leave out (``iscrowd``, or ``ignore`` of a dataset).
        score: float64 [n], NaN where there is none.
        id: int64 [n].
        source_category: n names from the ``relabel`` objects, or None where the file has none.
    """

    name: str
    image_id: np.ndarray
    file_name: Sequence[str] | None
    category_id: np.ndarray
    category_name: Sequence[str]
    image: np.ndarray
    category: np.ndarray
    xywh: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    score: np.ndarray
    id: np.ndarray
    source_category: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.image)

    @property
    def xyxy(self) -> np.ndarray:
        """float64 [n, 4] corners."""
        return xywh_to_xyxy(self.xywh)

    def take(self, rows: np.ndarray) -> Annotations:
        """The boxes in ``rows`` (indices or a mask), images and categories unchanged."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        names = self.source_category
        return replace(
            self,
            image=self.image[rows],
            category=self.category[rows],
            xywh=self.xywh[rows],
            area=self.area[rows],
            crowd=self.crowd[rows],
            score=self.score[rows],
            id=self.id[rows],
            source_category=None if names is None else [names[i] for i in rows],
        )

    @classmethod
    def from_dataset(cls, dataset: DetectionDataset) -> Annotations:
        """The columns of a dataset; boxes of ``ignore`` categories become `ANY_CLASS` regions."""
        order = np.argsort(dataset.images.id, kind="stable")
        row_of = np.empty(len(order), np.int64)
        row_of[order] = np.arange(len(order))
        boxes, space = dataset.boxes, dataset.space
        category = boxes.category.astype(np.int64)
        ignored = space.ignore_mask[category] if len(space) else np.zeros(len(boxes), bool)
        names = None if boxes.provenance is None else list(boxes.provenance.source_category)
        return cls(
            name=dataset.name,
            image_id=dataset.images.id[order],
            file_name=[dataset.images.file_name[int(i)] for i in order],
            category_id=space.ids[: space.num_classes],
            category_name=space.class_names,
            image=row_of[boxes.image],
            category=np.where(ignored, ANY_CLASS, category),
            xywh=boxes.xywh,
            area=boxes.area,
            crowd=boxes.ignore | ignored,
            score=boxes.score.astype(np.float64),
            id=boxes.id,
            source_category=names,
        )
