"""Transferred boxes on disk, exactly as they were in memory, as one shard of all images.

Images and the label space come from the datasets, which are read again.

Shape legend: ``B`` images, ``n`` boxes, ``C`` classes of the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from relabel.datasets.alternatives import alternatives_field, possible_classes
from relabel.datasets.dataset import UNCERTAIN, Boxes, DetectionDataset, Provenance
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.removed import Removed
from relabel.workspace.columns import Shard, column, image_column, read_shard, write_shard

BOXES_FILE = "boxes.parquet"
REMOVED_FILE = "removed.parquet"
_OF_BOXES = ("xywh", "category", "score", "ignore", "id", "area")
_OF_PROVENANCE = ("origin", "source_id", "source_category", "source_iou")
_OF_REMOVED = ("reason", "probability", "category", "score")


@dataclass(frozen=True, eq=False, kw_only=True)
class TransferredShard(Shard):
    """The columns of `Boxes` and `Provenance`; ``run`` holds the source's name.

    Attributes:
        offsets: int64 [B + 1].
        others: bool [n, C], classes that a box may be of beside its own; None if no box has any.
    """

    offsets: np.ndarray
    xywh: np.ndarray = column("float64", "offsets", wide=True)
    category: np.ndarray = column("int32", "offsets")
    score: np.ndarray = column("float32", "offsets")
    ignore: np.ndarray = column("bool", "offsets")
    id: np.ndarray = column("int64", "offsets")
    area: np.ndarray = column("float64", "offsets")
    origin: Sequence[str] = column("string", "offsets")
    source_id: np.ndarray = column("int64", "offsets")
    source_category: Sequence[str] = column("string", "offsets")
    source_iou: np.ndarray = column("float32", "offsets")
    others: np.ndarray | None = column("bool", "offsets", wide=True, optional=True)

    KIND: ClassVar[str] = "transferred boxes"


@dataclass(frozen=True, eq=False, kw_only=True)
class RemovedShard(Shard):
    """The columns of `Removed`.

    Attributes:
        offsets: int64 [B + 1].
        box: int64 [n], `Removed.row`.
    """

    offsets: np.ndarray
    box: np.ndarray = column("int64", "offsets")
    reason: Sequence[str] = column("string", "offsets")
    probability: np.ndarray = column("float32", "offsets")
    category: np.ndarray = column("int64", "offsets")
    score: np.ndarray = column("float32", "offsets")

    KIND: ClassVar[str] = "removed annotations"


def write_removed(removed: Removed, source: DetectionDataset, folder: Path) -> dict[str, str]:
    """Write what a transfer left without a label; returns the files by name."""
    image = source.boxes.image[removed.row]
    shard = RemovedShard(
        run={"dataset": source.name},
        row=np.arange(len(source), dtype=np.int32),
        offsets=np.searchsorted(image, np.arange(len(source) + 1)),
        box=removed.row,
        **{name: getattr(removed, name) for name in _OF_REMOVED},
    )
    write_shard(folder / REMOVED_FILE, shard)
    return {"removed": REMOVED_FILE}


def read_removed(folder: Path) -> Removed:
    """What `write_removed` wrote.

    Raises:
        DataError: the file is missing or damaged.
    """
    shard = read_shard(folder / REMOVED_FILE, RemovedShard)
    return Removed(shard.box, **{name: getattr(shard, name) for name in _OF_REMOVED})


def write_transferred(dataset: DetectionDataset, folder: Path) -> dict[str, str]:
    """Write the boxes of a transferred dataset; returns the files by name.

    Raises:
        ValueError: the boxes carry no provenance.
    """
    boxes = dataset.boxes
    origin = boxes.provenance
    if origin is None:
        raise ValueError("transferred boxes need provenance")
    others = possible_classes(dataset, slice(0, len(boxes)))
    if others is not None:
        of_class = np.flatnonzero(boxes.category < others.shape[1])
        others[of_class, boxes.category[of_class]] = False
    shard = TransferredShard(
        run={"dataset": origin.dataset},
        row=np.arange(len(dataset), dtype=np.int32),
        offsets=dataset.offsets,
        **{name: getattr(boxes, name) for name in _OF_BOXES},
        **{name: getattr(origin, name) for name in _OF_PROVENANCE},
        others=others,
    )
    write_shard(folder / BOXES_FILE, shard)
    return {"boxes": BOXES_FILE}


def read_transferred(
    folder: Path, source: DetectionDataset, space: LabelSpace, *, ignore_band: bool = False
) -> DetectionDataset:
    """The transferred boxes on the images of ``source``, in the target's label space.

    Args:
        ignore_band: for training: with the regions that are neither surely objects nor surely
            background.

    Raises:
        DataError: the file is missing or damaged.
    """
    shard = read_shard(folder / BOXES_FILE, TransferredShard)
    origin = {name: getattr(shard, name) for name in _OF_PROVENANCE}
    boxes = Boxes(
        image=image_column(shard),
        **{name: getattr(shard, name) for name in _OF_BOXES},
        extra=None if shard.others is None else alternatives_field(shard.others, space),
        provenance=Provenance(dataset=shard.run["dataset"], **origin),
    )
    if not ignore_band:
        sure = np.array([name != UNCERTAIN for name in shard.origin], bool)
        if not sure.all():
            boxes = boxes.take(sure)
            boxes = replace(boxes, id=np.arange(1, len(boxes) + 1, dtype=np.int64))
    return source.with_boxes(boxes, space)
