"""One training of the comparison: an arm and a seed, with test AP along the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from relabel.datasets.dataset import DetectionDataset
from relabel.detectors.base import Detector
from relabel.detectors.semi.settings import SemiSettings
from relabel.detectors.settings import SpecialistSettings
from relabel.detectors.specialist import MAPS
from relabel.detectors.training import new_trainable, train_detector
from relabel.evaluation.detector import evaluate_detector
from relabel.evaluation.resampling import match_detections
from relabel.settings import Runtime
from relabel.studies.downstream.arms import Method
from relabel.studies.downstream.mixture import MixedBatches, half_unlabelled
from relabel.studies.downstream.results import (
    CURVE,
    MATCHES,
    METRIC_NAMES,
    METRICS,
    SIZE_NAMES,
)
from relabel.studies.downstream.settings import DownstreamSettings
from relabel.training.loop import resolve_device
from relabel.workspace.atomic import atomic_write_json


def train_arm(
    method: Method,
    target: DetectionDataset,
    sources: Mapping[str, DetectionDataset],
    test: DetectionDataset,
    out: Path,
    detector: SpecialistSettings,
    settings: DownstreamSettings,
    runtime: Runtime,
    description: str,
    *,
    semi: SemiSettings | None = None,
    maps: Path | None = None,
) -> None:
    """Train the detector of one arm and seed, resuming what was cut off, and measure it.

    Writes the checkpoint, ``metrics.json`` (AP, AP50, AP75 and AP by size and class on the test
    images, fractions), ``curve.json`` (the first three along the way), and ``matches.npz``, what
    became of each detection, for bootstrap intervals.

    Args:
        method: ``labels`` trains on all boxes as they are, the others use the sources their own
            way.
        sources: relabelled (``labels``), or with their own labels.
        detector: its ``steps`` are the iterations of every arm.
        semi: of method ``semi``, how images are learned without their labels.
        maps: folder of a frozen backbone's maps, shared by all arms and seeds; by default one
            in ``out`` that goes with the end of the training.
    """
    maps = maps or out / MAPS
    every = max(1, -(-detector.steps // settings.curve_points))
    detector = replace(detector, eval_every=every)
    # Without a tail on the target alone there is nothing to anneal on.
    if settings.anneal_on_target and settings.target_only_last > 0:
        detector = replace(detector, decay=settings.target_only_last)
    out.mkdir(parents=True, exist_ok=True)

    told = (*METRIC_NAMES, *SIZE_NAMES, "per_class")

    def evaluate(found: Detector, step: int) -> dict[str, Any]:
        metrics = evaluate_detector(found, test, runtime, maps=maps)
        if step == detector.steps and metrics.found is not None:
            match_detections(test, metrics.found).save(out / MATCHES)
        numbers = metrics.to_dict()
        return {k: numbers[k] for k in told}

    if method == "semi":
        from relabel.detectors.semi.train import train_semi_supervised

        assert semi is not None
        used = {name: d for name, d in sources.items() if len(d)}
        sizes = [len(target), *(len(d) for d in used.values())]
        train_semi_supervised(
            target,
            used,
            out,
            detector,
            semi,
            runtime,
            schedule=half_unlabelled(sizes, detector, settings, semi).rows,
            evaluate=evaluate,
            maps=maps,
        )
    else:
        if method == "labels":
            trainable = new_trainable(target.space, detector)
            batches = MixedBatches(
                target,
                sources,
                detector,
                settings,
                trainable.model.divisor,
                store=trainable.map_store(maps, resolve_device(runtime.device)),
                runtime=runtime,
            )
        else:
            from relabel.studies.downstream.unified import unified_training

            trainable, batches = unified_training(
                target, sources, detector, settings, maps, runtime
            )
        train_detector(
            trainable,
            batches,
            detector.steps,
            out,
            detector,
            runtime,
            description=description,
            evaluate=evaluate,
        )
    history = json.loads((out / "training.json").read_text(encoding="utf-8"))["validation"]
    atomic_write_json(
        out / CURVE, [{k: row[k] for k in ("step", *METRIC_NAMES)} for row in history]
    )
    atomic_write_json(out / METRICS, {k: history[-1][k] for k in told if k in history[-1]})
    shutil.rmtree(out / MAPS, ignore_errors=True)
