"""From raw detections to pseudo-labels of one image: confidence filter and class-wise NMS.

Shape legend: ``n`` boxes of one image, ``C`` classes, ``k`` boxes kept.
"""

from __future__ import annotations

import numpy as np

from relabel.crosslabel.settings import CrossLabelSettings
from relabel.detectors.base import Detections, ranked
from relabel.errors import DataError


def class_wise_nms(
    boxes: np.ndarray, scores: np.ndarray, iou: float, *, rank: np.ndarray | None = None
) -> np.ndarray:
    """Greedy non-maximum suppression within each class.

    The class of a box is its best score (the first of equal ones). From the highest rank down, a
    box is kept unless a kept box of its class overlaps it with IoU > ``iou``. Boxes of equal rank
    go in the order given, so that the result never depends on a sort's whim.

    Args:
        boxes: [n, 4] xyxy, finite.
        scores: [n, C].
        iou: the threshold, in [0, 1].
        rank: [n], what to rank by; default the best score.

    Returns:
        int64 [k], rows kept, highest rank first.
    """
    import torch
    from torchvision.ops import batched_nms

    n = len(boxes)
    if n == 0:
        return np.zeros(0, np.int64)
    order = np.argsort(-(scores.max(1) if rank is None else rank), kind="stable")
    # torchvision separates the classes by shifting boxes by class * (largest coordinate + 1):
    # exact in float64 for pixel coordinates, and wrong for negative ones unless moved to 0.
    corners = boxes[order].astype(np.float64)
    corners -= corners.min()
    kept = batched_nms(
        torch.from_numpy(corners),
        torch.arange(n, 0, -1, dtype=torch.float64),
        torch.from_numpy(scores[order].argmax(1)),
        iou,
    )
    return order[kept.numpy()]


def select(
    detections: Detections,
    settings: CrossLabelSettings,
    *,
    num_classes: int,
    width: int,
    height: int,
    source: str,
) -> Detections:
    """The pseudo-labels among one image's detections, best first.

    Boxes are clipped to the image and dropped if nothing is left of them; scores are rounded to
    the storage precision before anything compares them, so that a filter gives the same answer
    now and after reading; then come the confidence filter, class-wise NMS and the cap, which rank
    as the settings or, with ``auto``, the detector says. Thresholds per class are no matter of one
    image, see `relabel.crosslabel.selection`.

    Args:
        detections: n raw detections.
        num_classes: C the detector should return.
        width, height: of the image, pixels.
        source: names the detector and the image in errors.

    Returns:
        k detections with float32 boxes and scores (and quality, where there is one).

    Raises:
        DataError: shapes do not fit, or a number is not finite.
    """
    boxes = _checked(detections.boxes, (None, 4), "boxes", source)
    scores = _checked(detections.scores, (len(boxes), num_classes), "scores", source)
    quality = detections.quality
    if quality is not None:
        quality = _checked(quality, (len(boxes),), "quality", source)
    limits = np.array([width, height, width, height], np.float32)
    boxes = np.clip(boxes, 0, limits)
    stored = scores.astype(settings.score_storage).astype(np.float32)
    sure = ranked(stored.max(1, initial=0), quality, settings.threshold_on)
    sides = boxes[:, 2:] - boxes[:, :2]
    rows = np.flatnonzero((sure >= np.float32(settings.min_score)) & (sides > 0).all(1))
    # Rounding makes ties; the rank is taken before it.
    ranking = detections.ranking if settings.ranking == "auto" else settings.ranking
    rank = ranked(scores.max(1, initial=0), quality, ranking)[rows]
    kept = rows[class_wise_nms(boxes[rows], stored[rows], settings.nms_iou, rank=rank)]
    kept = kept[: settings.max_per_image]
    return Detections(boxes, stored, quality, detections.ranking).take(kept)


def _checked(
    values: np.ndarray, shape: tuple[int | None, ...], what: str, source: str
) -> np.ndarray:
    array = np.asarray(values, dtype=np.float32)
    fits = array.ndim == len(shape) and all(
        want is None or got == want for got, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("n" if size is None else str(size) for size in shape)
        raise DataError(
            f"the detector returned {what} of shape {list(array.shape)}, expected [{wanted}]",
            file=source,
            remedy="Its label space and its outputs must have the same number of classes.",
        )
    if not np.isfinite(array).all():
        raise DataError(
            f"the detector returned {what} that are not finite",
            file=source,
            remedy="Its training has probably diverged: train it again with a lower learning rate.",
        )
    return array
