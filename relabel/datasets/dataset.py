"""The in-memory detection dataset: columns of NumPy arrays, no Python object per box.

Shape legend: ``I`` images, ``n`` boxes. Boxes are absolute pixels with the origin at the top-left
corner of the top-left pixel, continuous (width = x2 - x1), stored as COCO's ``xywh`` in float64 so
that a COCO file read and written unchanged has the same numbers in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from relabel.datasets.federated import without_federated
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.table import ImageTable, Table
from relabel.geometry import xywh_to_xyxy

UNCERTAIN = "uncertain"


@dataclass(frozen=True, eq=False)
class Images(Table):
    """The images of a dataset.

    Attributes:
        id: int64 [I], unique.
        file_name: I strings, relative to the dataset's root with forward slashes; unique.
        width, height: int32 [I], pixels.
        location: where the pixels are, if not in the file ``root / file_name``: I strings in the
            notation of `relabel.datasets.pixels.location` (inside a zip, a TFRecord, a Parquet
            file).
        extra: format-specific fields per image that must survive a round trip (JSON-encoded
            objects), or None.
    """

    id: np.ndarray
    file_name: Sequence[str]
    width: np.ndarray
    height: np.ndarray
    location: Sequence[str] | None = None
    extra: Sequence[bytes | None] | None = None


@dataclass(frozen=True, eq=False)
class Provenance(Table):
    """Where each box of a relabelled dataset comes from; written as the ``relabel`` object.

    Attributes:
        dataset: name of the source dataset.
        origin: n strings: ``source``, ``pseudo:<dataset>``, ``sam3``, or `UNCERTAIN` for
            what only training sees: ignore regions that are neither surely objects nor surely
            background, and labels of doubtful class.
        source_id: int64 [n], annotation id in the source, -1 where there is none.
        source_category: n strings, the category there, or "" where there is none.
        source_iou: float32 [n], IoU with the source box, NaN where there is none.
    """

    dataset: str
    origin: Sequence[str]
    source_id: np.ndarray
    source_category: Sequence[str]
    source_iou: np.ndarray

    SHARED: ClassVar[frozenset[str]] = frozenset({"dataset"})

    @classmethod
    def made(cls, dataset: str, origin: str, count: int) -> Provenance:
        """Of boxes that no annotation of the dataset is behind."""
        return cls(
            dataset,
            [origin] * count,
            np.full(count, -1, np.int64),
            [""] * count,
            np.full(count, np.nan, np.float32),
        )

    @classmethod
    def annotated(cls, source: DetectionDataset, rows: np.ndarray, origin: str) -> Provenance:
        """Of boxes that are annotations of the source, of the given box rows."""
        names = source.space.names
        return cls(
            source.name,
            [origin] * len(rows),
            source.boxes.id[rows].astype(np.int64),
            [names[c] for c in source.boxes.category[rows].tolist()],
            np.ones(len(rows), np.float32),
        )


@dataclass(frozen=True, eq=False)
class Boxes(ImageTable):
    """The boxes of a dataset, grouped by image (``image`` never decreases).

    Attributes:
        image: int32 [n], row into `Images`.
        xywh: float64 [n, 4].
        category: int32 [n], position in the label space.
        score: float32 [n], float64 where a file is read as written to be measured; NaN for
            annotations made without a score.
        ignore: bool [n]: crowd, difficult, group or ignore-category regions.
        id: int64 [n], unique annotation ids.
        area: float64 [n], the file's own area where it gives one (COCO sizes use it), else w*h.
        extra: format-specific fields per box that must survive a round trip (JSON-encoded
            objects such as ``{"segmentation": ...}``), or None.
        provenance: of relabelled boxes.
    """

    image: np.ndarray
    xywh: np.ndarray
    category: np.ndarray
    score: np.ndarray
    ignore: np.ndarray
    id: np.ndarray
    area: np.ndarray
    extra: Sequence[bytes | None] | None = None
    provenance: Provenance | None = None

    @property
    def xyxy(self) -> np.ndarray:
        """float64 [n, 4] corners."""
        return xywh_to_xyxy(self.xywh)


@dataclass(frozen=True, eq=False)
class DetectionDataset:
    """Images, boxes and their label space.

    Attributes:
        name: the dataset's name, as in relabel.toml.
        space: its label space.
        root: the folder image file names are relative to.
        info: the COCO ``info`` object and other file-level fields worth keeping.
        outside: the root leads out of the dataset's folder on the word of a file, no user gave it.
            Pixels are read there, but no files are placed from there.
        source: the file or folder it was read from, which no writer writes over; None for one
            that was made otherwise.
    """

    name: str
    space: LabelSpace
    images: Images
    boxes: Boxes
    root: Path
    info: dict[str, Any] = field(default_factory=dict)
    outside: bool = False
    source: Path | None = None

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def offsets(self) -> np.ndarray:
        """int64 [I + 1]; the boxes of image ``i`` are rows ``offsets[i]:offsets[i + 1]``."""
        return self.boxes.offsets_of(len(self.images))

    def rows(self, image: int) -> slice:
        """The box rows of one image."""
        return slice(int(self.offsets[image]), int(self.offsets[image + 1]))

    def objects(self, image: int) -> np.ndarray:
        """The box rows of one image that are no regions to leave out, int64, ascending."""
        at = self.rows(image)
        return at.start + np.flatnonzero(~self.boxes.ignore[at])

    def image_path(self, image: int) -> Path:
        return self.root / self.images.file_name[image]

    def subset(self, images: np.ndarray | Sequence[int]) -> DetectionDataset:
        """The dataset restricted to some images (rows), in the order given."""
        keep = np.asarray(images, dtype=np.int64)
        return replace(
            self,
            images=self.images.take(keep),
            boxes=self.boxes.of_images(keep, self.offsets),
        )

    def with_boxes(self, boxes: Boxes, space: LabelSpace | None = None) -> DetectionDataset:
        """The same images with other boxes, in another label space where one is given."""
        if space is None or space == self.space:
            return replace(self, boxes=boxes)
        images = self.images
        if images.extra is not None:
            images = replace(images, extra=without_federated(images.extra))
        return replace(self, boxes=boxes, space=space, images=images)

    def iter_images(self) -> Iterator[tuple[int, slice]]:
        for i in range(len(self.images)):
            yield i, self.rows(i)


def make_boxes(
    image: Any,
    xywh: Any,
    category: Any,
    *,
    score: Any = None,
    ignore: Any = None,
    id: Any = None,
    area: Any = None,
    extra: Sequence[bytes | None] | None = None,
    provenance: Provenance | None = None,
) -> Boxes:
    """Build `Boxes` from columns in any image order, filling what is not given.

    Boxes are sorted by image, stably, so that file order survives within each image.
    """
    image = np.asarray(image, dtype=np.int32).reshape(-1)
    n = len(image)
    xywh = np.asarray(xywh, dtype=np.float64).reshape(n, 4)
    return Boxes(
        image=image,
        xywh=xywh,
        category=np.asarray(category, dtype=np.int32).reshape(n),
        score=_column(score, n, np.float32, np.nan),
        ignore=_column(ignore, n, bool, False),
        id=np.arange(1, n + 1, dtype=np.int64) if id is None else np.asarray(id, np.int64),
        area=xywh[:, 2] * xywh[:, 3] if area is None else np.asarray(area, np.float64),
        extra=extra,
        provenance=provenance,
    ).sorted_by_image()


def _column(values: Any, n: int, dtype: Any, fill: Any) -> np.ndarray:
    if values is None:
        return np.full(n, fill, dtype=dtype)
    return np.asarray(values, dtype=dtype).reshape(n)
