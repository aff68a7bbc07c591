"""Parquet shards of pseudo-labels: one row per image, its boxes as lists.

Shape legend: ``B`` images of a shard, ``n`` boxes of all of them, ``C`` classes of the specialist.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from relabel.crosslabel.pseudo import PseudoLabels
from relabel.crosslabel.selection import Selection, select_class_wise
from relabel.datasets.labelspace import LabelSpace
from relabel.detectors.base import Detections
from relabel.workspace.columns import (
    Shard,
    column,
    image_column,
    iterate,
    join,
    read_shard,
    shard_paths,
)

S = TypeVar("S", bound=Shard)


@dataclass(frozen=True, eq=False, kw_only=True)
class PseudoShard(Shard):
    """Pseudo-labels of consecutive images; its ``run`` is a `labelling_run`.

    Attributes:
        file_name: B names.
        readable: bool [B]; images that could not be read have no boxes.
        offsets: int64 [B + 1].
        boxes: float32 [n, 4], xyxy pixels; best first within an image.
        category: int32 [n], the best class, a position in the label space.
        score: float32 [n], the best class's.
        scores: [n, C], float16 or float32 as the settings want.
        quality: float32 [n], where the detector has one.
    """

    file_name: Sequence[str] = column("string")
    readable: np.ndarray = column("bool")
    offsets: np.ndarray
    boxes: np.ndarray = column("float32", "offsets", wide=True)
    category: np.ndarray = column("int32", "offsets")
    score: np.ndarray = column("float32", "offsets")
    scores: np.ndarray = column("floating", "offsets", wide=True)
    quality: np.ndarray | None = column("float32", "offsets", optional=True)

    KIND: ClassVar[str] = "pseudo-labels"


def labelling_run(
    space: LabelSpace, *, by: str, on: str, images: int, settings: Mapping[str, Any], model: str
) -> dict[str, Any]:
    """What all shards of one labelling have in common; another run's shards are not reused.

    Args:
        space: label space of the specialist.
        by, on: names of the specialist's and of the labelled dataset.
        images: number of images of the labelled dataset.
        settings: those the result depends on.
        model: fingerprint of the specialist's checkpoint; "" for one that has no files.
    """
    return {
        "space": space.to_dict(),
        "by": by,
        "on": on,
        "images": images,
        "settings": dict(settings),
        "model": model,
    }


def pseudo_shard(
    run: Mapping[str, Any],
    rows: Sequence[int],
    file_names: Sequence[str],
    detections: Mapping[int, Detections],
) -> PseudoShard:
    """A shard of what was found.

    Args:
        run: see `labelling_run`.
        rows: dataset rows of its images, ascending.
        file_names: of the same images.
        detections: by row; rows without an entry could not be read.
    """
    found = [detections[row] for row in rows if row in detections]
    classes = LabelSpace.from_dict(run["space"]).num_classes
    scores = np.concatenate([np.zeros((0, classes), np.float32), *(f.scores for f in found)])
    quality = [f.quality for f in found if f.quality is not None]
    return PseudoShard(
        **shard_images(run, rows, file_names, detections),
        boxes=np.concatenate([np.zeros((0, 4), np.float32), *(f.boxes for f in found)]),
        category=scores.argmax(1).astype(np.int32),
        score=scores.max(1),
        scores=scores.astype(run["settings"]["score_storage"]),
        quality=np.concatenate(quality) if found and len(quality) == len(found) else None,
    )


def shard_images(
    run: Mapping[str, Any],
    rows: Sequence[int],
    file_names: Sequence[str],
    found: Mapping[int, Sized],
) -> dict[str, Any]:
    """What every shard of labelled images has: ``run`` and the columns of its images.

    Args:
        found: by row, with one item a box; rows without an entry could not be read.
    """
    counts = [len(found[row]) if row in found else 0 for row in rows]
    return {
        "run": run,
        "row": np.array(rows, np.int32),
        "file_name": list(file_names),
        "readable": np.array([row in found for row in rows], bool),
        "offsets": np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
    }


def read_shards(folder: Path, kind: type[S]) -> S:
    """All shards of a folder as one.

    Raises:
        DataError: the folder has no shards, or one is missing, damaged or of another run.
    """
    return join(list(iterate(shard_paths(Path(folder)), partial(read_shard, kind=kind))))


def label_columns(whole: Any) -> dict[str, Any]:
    """What `PseudoLabels` has beside its boxes, of a shard of all labelled images.

    Images that are in no shard, since a part of the dataset was labelled, have no name.
    """
    run = whole.run
    names, covered = [""] * run["images"], np.zeros(run["images"], bool)
    for row, name in zip(whole.row.tolist(), whole.file_name, strict=True):
        names[row] = name
    covered[whole.row] = whole.readable
    return {
        "space": LabelSpace.from_dict(run["space"]),
        "by": run["by"],
        "on": run["on"],
        "file_name": names,
        "image": image_column(whole),
        "covered": covered,
    }


def read_pseudo_labels(folder: Path) -> PseudoLabels:
    """Read the shards of a folder that `relabel.crosslabel.label.cross_label` wrote.

    Of labels that were made with thresholds per class, those above are read.

    Raises:
        DataError: the folder has no shards, or one is missing, damaged or of another run.
    """
    return read_selected(folder)[0]


def read_selected(folder: Path) -> tuple[PseudoLabels, Selection]:
    """The same, with what was kept of each class.

    Shards hold every candidate: a shard cannot know how many the others have. So the thresholds
    are found when all shards are there, which is whenever they are read: they depend on nothing
    else, and no file of them can be left behind by an earlier run.

    Raises:
        DataError: see `read_pseudo_labels`.
    """
    whole = read_shards(folder, PseudoShard)
    labels = PseudoLabels(
        **label_columns(whole),
        boxes=whole.boxes,
        scores=whole.scores.astype(np.float32),
        quality=whole.quality,
    )
    settings = whole.run["settings"]
    if settings.get("threshold") != "classwise":
        return labels, Selection.of_all(labels)
    return select_class_wise(labels, settings["tau"], settings.get("threshold_on", "score"))
