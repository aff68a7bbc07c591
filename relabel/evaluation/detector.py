"""AP of a trained detector on a dataset of its label space."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.pixels.batches import ImageBatches
from relabel.detectors.base import Detections, Detector
from relabel.evaluation.detections import DetectionMetrics, evaluate_dataset
from relabel.settings import Runtime

IMAGES_PER_BATCH = 8


def validator(
    val: DetectionDataset | None, runtime: Runtime
) -> Callable[[Detector], dict[str, float]] | None:
    """What a training is handed to measure itself by; None without images to measure on."""
    if val is None or len(val) == 0:
        return None
    return lambda detector: validation_scores(detector, val, runtime)


def validation_scores(
    detector: Detector, val: DetectionDataset, runtime: Runtime
) -> dict[str, float]:
    """COCO metrics of a detector on a dataset of its label space (AP, AP50, AP75: fractions)."""
    metrics = evaluate_detector(detector, val, runtime).to_dict()
    return {k: float(metrics[k]) for k in ("AP", "AP50", "AP75") if metrics[k] is not None}


def evaluate_detector(
    detector: Detector, val: DetectionDataset, runtime: Runtime, *, maps: Path | None = None
) -> DetectionMetrics:
    """All COCO metrics of a detector on a dataset of its label space.

    Args:
        maps: folder of frozen backbones' maps; a detector that can reads those, not pixels.
    """
    from relabel.detectors.family import NetworkDetector

    found: list[Detections] = []
    if maps is not None and isinstance(detector, NetworkDetector):
        store = detector.map_store(maps)
        if store is not None:
            files = store.fill(val, mirrored=False, runtime=runtime)
            for start in range(0, len(val), IMAGES_PER_BATCH):
                rows = range(start, min(start + IMAGES_PER_BATCH, len(val)))
                found.extend(detector.predict_kept(store, val, rows, files))
            return evaluate_dataset(val, found)
    with ImageBatches(val, batch_size=IMAGES_PER_BATCH, workers=runtime.workers) as batches:
        for _rows, images in batches:
            found.extend(detector.predict(images))
    return evaluate_dataset(val, found)
