"""A user's own detections in the place of specialists' predictions.

Shape legend: ``n`` detections, ``C`` classes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from relabel.crosslabel.pseudo import PseudoLabels
from relabel.crosslabel.settings import CrossLabelSettings
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.coco.as_written import Strict, read_results
from relabel.errors import DataError
from relabel.evaluation.joining import image_rows, join_by_id
from relabel.geometry import suppress


def read_own_detections(
    file: Path, dataset: DetectionDataset, settings: CrossLabelSettings
) -> PseudoLabels:
    """COCO results, or a COCO file with scores, as predictions on a dataset's images.

    A result has one class, and the other C - 1 a score of 0. Results are filtered as specialists'
    predictions are: by score, class-wise NMS and number per image. A results list tells of all
    images, a COCO file of those that it lists.

    Raises:
        DataError: a damaged file; a detection without a score in [0, 1], on an image or of a class
            that the dataset does not have; no detections.
    """
    made = read_results(file, dataset, Strict())
    boxes = join_by_id(made, dataset)
    classes = dataset.space.num_classes
    wrong = np.flatnonzero(~((boxes.score >= 0) & (boxes.score <= 1)))  # NaN is neither
    if len(wrong):
        raise DataError(
            f"a detection has the score {boxes.score[wrong[0]]:g}",
            file=file,
            remedy="Every detection needs a `score` from 0 to 1.",
        )
    boxes = boxes.take(np.flatnonzero(boxes.category < classes))
    if not len(boxes):
        raise DataError(
            "holds no detections",
            file=file,
            remedy="Give what a detector found on images that it was not trained on.",
        )
    boxes = boxes.take(np.flatnonzero(boxes.score >= settings.min_score))
    order = np.lexsort((np.arange(len(boxes)), -boxes.score, boxes.image))
    boxes = boxes.take(order)
    group = boxes.image.astype(np.int64) * classes + boxes.category
    boxes = boxes.take(suppress(boxes.xyxy, boxes.score, group, settings.nms_iou))
    offsets = boxes.offsets_of(len(dataset))
    place = np.arange(len(boxes)) - offsets[boxes.image]
    boxes = boxes.take(np.flatnonzero(place < settings.max_per_image))
    scores = np.zeros((len(boxes), classes), np.float32)
    scores[np.arange(len(boxes)), boxes.category] = boxes.score
    covered = None
    if made.images is not dataset.images:
        rows = image_rows(made, dataset)
        covered = np.zeros(len(dataset), bool)
        covered[rows[rows >= 0]] = True
    return PseudoLabels(
        dataset.space,
        file.name,
        dataset.name,
        dataset.images.file_name,
        boxes.image,
        boxes.xyxy.astype(np.float32),
        scores,
        covered,
    )
