"""Does locating by classification give tighter boxes, and does its quality know which?

    python benchmarks/certainty.py --photos SHARED/data/roadside/target/train.json \\
        --backbone SHARED/weights/mobilenet_v2_imagenet --dir DIR --out benchmarks/certainty.md

Detectors learn 600 steps on 110 of the 150 training photos with the small size of
`benchmarks/protocols/roadside.toml`, and are measured on the other 40; twice, drawn by
seed. No test photo is read. rho is Spearman's correlation with the true IoU (with the best box of
the same class) of detections with p >= 0.05, in brackets of those with IoU >= 0.1 among them.
Trainings that are in DIR are not repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.coco import read as coco
from relabel.detectors.base import Detections
from relabel.detectors.family import NetworkDetector
from relabel.detectors.load import load_detector
from relabel.detectors.settings import Quality, SpecialistSettings
from relabel.detectors.specialist import MAPS, train_specialist
from relabel.errors import Problems
from relabel.evaluation.detections import evaluate_dataset
from relabel.evaluation.pseudo_labels import spearman
from relabel.geometry import iou_matrix
from relabel.settings import Ranking, Runtime
from relabel.workspace.atomic import atomic_write_bytes

HELD_BACK, SPLITS = 40, (0, 1)
RANKINGS: tuple[Ranking, ...] = ("score", "quality", "product")  # geometric: product's order
RUNTIME = Runtime(device="cpu", quiet=True)
SETUPS: dict[str, dict[str, Any]] = {
    "faster-rcnn": {"detector": "faster-rcnn"},
    "certainty": {"detector": "certainty"},
    "certainty, 15 intervals": {"detector": "certainty", "certainty_intervals": 15},
    "certainty, segments to 1.4": {"detector": "certainty", "certainty_segment": 1.4},
}
RECIPE: dict[str, Any] = {
    "frozen_stride": 32,
    "image_size": 320,
    "fpn_strides": (16, 32),
    "fpn_channels": 64,
    "head_channels": 256,
    "rpn_proposals": 100,
    "rois_per_image": 32,
    "batch_size": 8,
    "steps": 600,
    "ema": 0.998,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="COCO file")
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--dir", type=Path, required=True, help="receives the trained detectors")
    parser.add_argument("--setups", default=",".join(f"{k}" for k in range(len(SETUPS))))
    parser.add_argument("--splits", default=",".join(map(str, SPLITS)))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    photos = coco.read(
        args.photos.parent,
        name="photos",
        split="train",
        problems=Problems(),
        annotations=args.photos,
    )
    lines = ["| photos | detector | quality | ranked by | AP | AP50 | AP75 | rho p | v | p * v |"]
    lines += ["|---:|---|---|---|---:|---:|---:|---:|---:|---:|"]
    for split in map(int, args.splits.split(",")):
        order = np.random.default_rng([split, 77]).permutation(len(photos))
        held, train = (photos.subset(np.sort(r)) for r in np.split(order, [HELD_BACK]))
        for number in map(int, args.setups.split(",")):
            name = list(SETUPS)[number]
            settings = SpecialistSettings(
                **RECIPE, **SETUPS[name], backbone=args.backbone, seed=split
            )
            folder = args.dir / f"{number}_{split}"
            if not (folder / "config.json").exists():
                train_specialist(train, folder, settings, RUNTIME, maps=args.dir / MAPS)
            for row in measured(folder, held, args.dir / MAPS, every=name == "certainty"):
                lines.append(f"| {split} | {name} | {row}")
                print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    if args.out:
        head = f"# Locating by classification\n\n{(__doc__ or '').strip()}\n\n"
        atomic_write_bytes(args.out, (head + text).encode())


def measured(folder: Path, held: DetectionDataset, maps: Path, *, every: bool) -> list[str]:
    """A row for the default, or for every quality and ranking, of a trained detector."""
    detector: Any = load_detector(folder, device="cpu")
    s, heads = detector.settings, detector.model.roi_heads
    if s.detector == "faster-rcnn":
        return [row_of(held, predictions(detector, held, maps), "| score")]
    rows = []
    for how in get_args(Quality) if every else [s.certainty_quality]:
        for ranking in RANKINGS if every else [s.certainty_ranking]:
            heads.how, heads.ranking, detector.model.ranking = how, ranking, ranking
            rows.append(row_of(held, predictions(detector, held, maps), f"{how} | {ranking}"))
    return rows


def predictions(detector: NetworkDetector, held: DetectionDataset, maps: Path) -> list[Detections]:
    store = detector.map_store(maps)
    assert store is not None
    files = store.fill(held, mirrored=False, runtime=RUNTIME)
    return [detector.predict_kept(store, held, [row], files)[0] for row in range(len(held))]


def row_of(held: DetectionDataset, found: list[Detections], name: str) -> str:
    metrics = evaluate_dataset(held, found)
    numbers = [f"{100 * (value or 0):.1f}" for value in (metrics.AP, metrics.AP50, metrics.AP75)]
    p, v, iou = certainties(held, found)
    for value in (p, v, p * v) if found[0].quality is not None else (p,):
        near = iou >= 0.1
        both = [spearman(value, iou) or 0.0, spearman(value[near], iou[near]) or 0.0]
        numbers.append(f"{both[0]:.2f} ({both[1]:.2f})")
    numbers += [""] * (6 - len(numbers))
    return " | ".join([name, *numbers]) + " |"


def certainties(
    held: DetectionDataset, found: list[Detections]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """p, v and true IoU of all detections with p >= 0.05, each as of its most probable class."""
    columns: list[list[np.ndarray]] = [[], [], []]
    for image, all_of_them in enumerate(found):
        sure = all_of_them.take(np.flatnonzero(all_of_them.scores.max(axis=1, initial=0) >= 0.05))
        boxes = held.boxes.take(np.arange(len(held.boxes))[held.rows(image)])
        boxes = boxes.take(np.flatnonzero(~boxes.ignore))
        own = sure.scores.argmax(axis=1)[:, None] == boxes.category
        iou = (iou_matrix(sure.boxes.astype(float), boxes.xyxy) * own).max(axis=1, initial=0)
        p = sure.scores.max(axis=1, initial=0)
        v = np.ones(len(sure)) if sure.quality is None else sure.quality
        for column, values in zip(columns, (p, v, iou), strict=True):
            column.append(values)
    return tuple(np.concatenate(column) for column in columns)  # pyright: ignore


if __name__ == "__main__":
    main()
