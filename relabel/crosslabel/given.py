"""The target specialist's second stage on a source's own boxes, for label-guided labels.

Liao et al., "Translating labels to solve annotation mismatches across object detection datasets"
(ICLR 2024), give the boxes of the source to the box head of a detector trained on the target, as
the proposals of their images: it classifies and refines them. No code of the paper is public. Our
reading: the head sees each annotated box once, as it was annotated, and each keeps the coordinates
that the head gives it as one of its best class. Where the target has specialists of several folds
they score together, as they label together: the mean of their score vectors and coordinates.

Regions to leave out are not given to the head. What is decided by the scores is in
`relabel.evaluation.baselines.label_guided`.

Shape legend: ``B`` images, ``n`` boxes of an image or a shard, ``C`` classes of the specialist.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from relabel.crosslabel.label import Labeller, label_shards, model_fingerprint
from relabel.crosslabel.pseudo import PseudoLabels
from relabel.crosslabel.settings import CrossLabelSettings
from relabel.crosslabel.shards import label_columns, labelling_run, read_shards, shard_images
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.fingerprint import dataset_fingerprint
from relabel.detectors.base import BoxHead, BoxScores, no_box_head
from relabel.detectors.load import load_detector
from relabel.errors import DataError, Problems
from relabel.settings import Runtime
from relabel.workspace.columns import Shard, column
from relabel.workspace.engine import driver_device
from relabel.workspace.fingerprint import fingerprint


@dataclass(frozen=True, eq=False)
class GivenLabels(PseudoLabels):
    """A source's annotations as the target's specialist sees them, in the source's order.

    Attributes:
        annotation: int64 [n], id of the annotation that each box was.
    """

    annotation: np.ndarray | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class GivenShard(Shard):
    """Boxes of consecutive images through a box head.

    Attributes:
        file_name: B names.
        readable: bool [B]; images that could not be read have no boxes.
        offsets: int64 [B + 1].
        annotation: int64 [n], ids.
        boxes: float32 [n, 4], xyxy pixels, refined as one of the best class.
        scores: float32 [n, C].
    """

    file_name: Sequence[str] = column("string")
    readable: np.ndarray = column("bool")
    offsets: np.ndarray
    annotation: np.ndarray = column("int64", "offsets")
    boxes: np.ndarray = column("float32", "offsets", wide=True)
    scores: np.ndarray = column("float32", "offsets", wide=True)

    KIND: ClassVar[str] = "given boxes"


def label_given_boxes(
    checkpoints: Sequence[Path],
    dataset: DetectionDataset,
    out: Path,
    settings: CrossLabelSettings,
    runtime: Runtime,
    *,
    problems: Problems | None = None,
) -> None:
    """Give a dataset's annotated boxes to the box heads of specialists; write shards to ``out``.

    Resumes as `relabel.crosslabel.label.cross_label` does. Nothing is filtered.

    Args:
        checkpoints: folders of specialists of one label space.
        settings: batches and shards.

    Raises:
        ConfigError: a specialist has no box head.
        DataError: see `cross_label`.
    """
    local = runtime.engine == "local"
    members = [_box_head(f, driver_device(runtime)) for f in checkpoints]
    here, space = (members if local else None), members[0].space
    run = labelling_run(
        space,
        by=space.name,
        on=dataset.name,
        images=len(dataset),
        settings={"data": dataset_fingerprint(dataset)},
        model=fingerprint([model_fingerprint(folder) for folder in checkpoints]),
    )
    boxes = dataset.boxes.xyxy.astype(np.float32)
    rows_of = [dataset.objects(row) for row in range(len(dataset))]

    def open(runtime: Runtime) -> Labeller[BoxScores]:
        heads = here or [_box_head(folder, runtime.device) for folder in checkpoints]

        def label(rows: Sequence[int], images: Sequence[np.ndarray]) -> list[BoxScores]:
            given = [boxes[rows_of[row]] for row in rows]
            parts = [head.score_boxes(images, given) for head in heads]
            return [
                BoxScores(
                    np.stack([p.scores for p in found]).mean(axis=0, dtype=np.float32),
                    np.stack([p.boxes for p in found]).mean(axis=0, dtype=np.float32),
                )
                for found in zip(*parts, strict=True)
            ]

        return Labeller(label)

    def shard(
        run: Mapping[str, Any],
        rows: Sequence[int],
        file_names: Sequence[str],
        found: Mapping[int, BoxScores],
    ) -> GivenShard:
        told = [row for row in rows if row in found]
        scores = np.concatenate(
            [np.zeros((0, space.num_classes), np.float32), *(found[row].scores for row in told)]
        )
        refined = np.concatenate(
            [np.zeros((0, space.num_classes, 4), np.float32), *(found[r].boxes for r in told)]
        )
        ids = [dataset.boxes.id[rows_of[row]] for row in told]
        return GivenShard(
            **shard_images(run, rows, file_names, found),
            annotation=np.concatenate([np.zeros(0, np.int64), *ids]),
            boxes=refined[np.arange(len(scores)), scores.argmax(1)],
            scores=scores,
        )

    label_shards(
        dataset,
        out,
        run,
        settings,
        runtime,
        kind=GivenShard,
        open=open,
        shard=shard,
        problems=problems,
    )


def read_given_labels(folder: Path) -> GivenLabels:
    """Read the shards of a folder that `label_given_boxes` wrote.

    Raises:
        DataError: the folder has no shards, or one is missing, damaged or of another run.
    """
    whole = read_shards(folder, GivenShard)
    return GivenLabels(
        **label_columns(whole), boxes=whole.boxes, scores=whole.scores, annotation=whole.annotation
    )


def rows_of_annotations(given: GivenLabels, dataset: DetectionDataset) -> np.ndarray:
    """int64 [n], the box row in ``dataset`` of each box of ``given``.

    Raises:
        DataError: an annotation is not there.
    """
    row_of = {annotation: row for row, annotation in enumerate(dataset.boxes.id.tolist())}
    wanted = [] if given.annotation is None else given.annotation.tolist()
    at = np.array([row_of.get(annotation, -1) for annotation in wanted], np.int64)
    if (at < 0).any():
        raise DataError(
            f"the given boxes of {given.on!r} are not the annotations of {dataset.name!r}",
            remedy="Give these to the box head: relabel cross-label --given-boxes.",
        )
    return at


def _box_head(folder: Path, device: str) -> BoxHead:
    detector = load_detector(folder, device)
    if not hasattr(detector, "score_boxes"):
        raise no_box_head()
    return cast(BoxHead, detector)
