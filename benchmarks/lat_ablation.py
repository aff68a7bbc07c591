"""Ablation of Label-Aligned Transfer on held-back training images of the target.

No target-space truth of source images is used. The last cross-fitting fold of the target's own
training images plays a source dataset: its annotations are rewritten into a *simulated* source
convention (one class, boxes looser by the factor that the real source's boxes are larger than the
target specialist's pseudo-labels on them, small objects left out), its target pseudo-labels come
from the specialist that never saw the fold, and the transfer model is trained without the fold.
Every arm has the same pseudo-labels, seeds and number of steps, one model, and the threshold 0.4.

    python benchmarks/lat_ablation.py RUN_DIR --target fine --as coarse --backbone FOLDER

RUN_DIR is the workspace of `relabel align`, of which the specialists' labels are used.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from relabel.crosslabel.pseudo import PseudoLabels, merge_pseudo_labels, read_pseudo_labels
from relabel.datasets.catalogue import load_catalogue
from relabel.datasets.dataset import DetectionDataset, iou_matrix, make_boxes, xyxy_to_xywh
from relabel.errors import Problems
from relabel.evaluation.floors import all_floors
from relabel.evaluation.transfer import evaluate_transfer
from relabel.lat.folds import folds
from relabel.lat.settings import LatSettings
from relabel.lat.train import train_lat
from relabel.lat.transfer import SCORED, transfer
from relabel.settings import Runtime

GT = {"own_rows": "gt", "crossfit": "none"}
ARMS: dict[str, dict[str, Any]] = {
    "default (a + e, SFF, geometry)": {},
    "paper preset (printed formula)": {"preset": "paper"},
    "frozen ImageNet backbone": {"backbone": "given"},
    "paper preset, box per class off": {"preset": "paper", "class_boxes": False},
    "leakage: annotations as proposals, no remedy": GT | {"stand_in": False, "drop_gt": 0.0},
    "leakage (b): 90 % of annotations dropped": GT | {"stand_in": False, "drop_gt": 0.9},
    "leakage (c): no attention to own scores": GT | {"stand_in": False, "mask_self": True},
    "leakage (d): half of the scores hidden": GT | {"stand_in": False, "score_dropout": 0.5},
    "leakage (e) alone: stand-in source": {"own_rows": "none"},
    "leakage (a) alone: cross-fitted rows": {"stand_in": False},
    "stand-in by confidence, not confirmed": {"stand_in_confirmed": False},
    "nothing hidden in training": {"hide_rows": 0.0, "hide_region": 0.0},
    "no attention": {"fusion": "none"},
    "plain attention": {"fusion": "plain", "geometry": False},
    "plain attention with geometry": {"fusion": "plain"},
    "class-aware without geometry": {"geometry": False},
    "class-aware without clamp": {"clamp": False},
    "class-aware, clamp renormalised": {"renormalize": True},
    "one class per proposal (softmax)": {"multi_label": False},
    "score target 1 instead of IoU": {"quality_target": False},
    "one box per proposal": {"class_boxes": False},
}


def simulate(
    target: DetectionDataset, source: DetectionDataset, pseudo: PseudoLabels, seed: int
) -> tuple[DetectionDataset, dict[str, float]]:
    """Target images under the source's convention, its looseness measured without any truth.

    Returns:
        ``target``'s images with simulated source annotations, and the measured numbers.
    """
    ratios = []
    for row in range(len(source)):
        real = source.boxes.xyxy[source.rows(row)]
        found = pseudo.boxes[pseudo.rows(row)][pseudo.score[pseudo.rows(row)] >= 0.5]
        iou = iou_matrix(real, found)
        if iou.size:
            best = iou.argmax(axis=1)
            rows = np.flatnonzero(iou.max(axis=1) >= 0.5)
            ratios.append(
                (real[rows, 2:] - real[rows, :2]) / (found[best[rows], 2:] - found[best[rows], :2])
            )
    loose = np.median(np.concatenate(ratios), axis=0)
    smallest = float(np.quantile(source.boxes.xywh[:, 3], 0.01)) / loose[1]
    boxes = target.boxes
    keep = np.flatnonzero((boxes.xywh[:, 3] >= smallest) & ~boxes.ignore)
    size, centre = boxes.xywh[keep, 2:], boxes.xywh[keep, :2] + boxes.xywh[keep, 2:] / 2
    rng = np.random.default_rng(seed)
    wanted = size * loose * rng.uniform(0.97, 1.03, size.shape)
    centre = centre + rng.uniform(-0.03, 0.03, size.shape) * size
    limit = np.stack([target.images.width, target.images.height], axis=1)[boxes.image[keep]]
    xyxy = np.concatenate([centre - wanted / 2, centre + wanted / 2], axis=1)
    xyxy = np.clip(xyxy, 0, np.tile(limit, 2))
    made = make_boxes(boxes.image[keep], xyxy_to_xywh(xyxy), np.zeros(len(keep)))
    numbers = {"wider": float(loose[0]), "higher": float(loose[1]), "smallest": smallest}
    return replace(target.with_boxes(made, source.space), name=source.name), numbers


def load_run(run: Path, names: list[str], target: str) -> dict[tuple[str, str], PseudoLabels]:
    """Pseudo-labels of an align workspace by (specialist, dataset)."""
    labels = {}
    for by in names:
        for on in names:
            folder = run / "2_crosslabels" / f"{by}_on_{on}"
            if by != on:
                labels[by, on] = read_pseudo_labels(folder)
    parts = sorted((run / "2_crosslabels" / f"{target}_on_{target}").glob("fold*"))
    labels[target, target] = merge_pseudo_labels([read_pseudo_labels(p) for p in parts])
    return labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--config", type=Path, default=None)
    parser.add_argument("--target", required=True)
    parser.add_argument("--sources", default="legacy,coarse")
    parser.add_argument("--as", dest="played", required=True, help="source that is simulated")
    parser.add_argument("--backbone", required=True, help="of arms that take no specialist's")
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--only", default="", help="arms whose name contains this")
    parser.add_argument("--set", default="{}", help="settings of every arm, as JSON")
    parser.add_argument("--work", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    catalogue = load_catalogue(options.config)
    names = [options.target, *options.sources.split(",")]
    data = {n: catalogue.get(n).read("train", problems=Problems()) for n in names}
    labels = load_run(options.run, names, options.target)
    whole = data[options.target]
    held = folds(whole, LatSettings().crossfit_folds)[-1]
    rest = np.setdiff1d(np.arange(len(whole)), held)
    truth, kept = whole.subset(held), whole.subset(rest)
    played, numbers = simulate(
        truth, data[options.played], labels[options.target, options.played], seed=0
    )
    print("simulated convention:", numbers, flush=True)
    hidden = {
        by: labels[by, options.target].for_images(truth.images.file_name)
        for by in names
        if by != options.played
    }
    training = dict(labels)
    for by in names:
        training[by, options.target] = labels[by, options.target].for_images(kept.images.file_name)
    data[options.target] = kept
    rows = []
    for name, floor in all_floors(played, hidden[options.target]).items():
        rows.append(_row(name, [evaluate_transfer(truth, floor, played).to_dict()], 0.0))
        print(rows[-1], flush=True)
    runtime = Runtime()
    # The specialist that never saw the held-back fold, as the target's never saw the sources.
    specialist = (
        options.run / "1_specialists" / f"{options.target}_fold{LatSettings().crossfit_folds - 1}"
    )
    for name, changes in ARMS.items():
        if options.only and not any(part in name for part in options.only.split("|")):
            continue
        metrics, started = [], time.monotonic()
        for seed in map(int, options.seeds.split(",")):
            if changes.get("preset") == "paper" or changes.get("backbone"):
                changes = changes | {"backbone": options.backbone}
            settings = LatSettings(
                **{"epochs": options.epochs, "seed": seed, "calibration_folds": 1}
                | {"score_threshold": 0.4, "match_coverage": False}
                | json.loads(options.set)
                | changes
            ).resolved()
            own = settings.backbone == "specialist"
            kind = f"{settings.own_rows == 'gt'}-{own}-{seed}"
            out = options.work / f"{name[:40].replace(' ', '_').replace('/', '_')}-{seed}"
            model = train_lat(
                data, training, options.target, out, settings, runtime,
                specialists={options.target: specialist},
                bank_folder=options.work / f"bank-{kind}",
            )  # fmt: skip
            moved = transfer(model, played, hidden, out / "moved", settings, runtime)
            scored = json.loads((out / "moved" / SCORED).read_text())
            metrics.append(evaluate_transfer(truth, moved, played, scored).to_dict())
        rows.append(_row(name, metrics, time.monotonic() - started))
        print(rows[-1], flush=True)
        if options.out:
            _write(options, rows, numbers)


def _row(name: str, metrics: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    def mean(*path: str) -> float:
        values = []
        for m in metrics:
            value: Any = m
            for key in path:
                value = value[key]
            values.append(float("nan") if value is None else value)
        return float(np.mean(values))

    return {
        "arm": name,
        "F1@0.5": mean("at", "0.5", "f1"),
        "F1@0.75": mean("at", "0.75", "f1"),
        "AP": mean("AP"),
        "AP75": mean("AP75"),
        "IoU": mean("mean_iou", "after"),
        "class acc.": mean("at", "0.5", "class_accuracy"),
        "s": seconds,
    }


def _write(options: argparse.Namespace, rows: list[dict[str, Any]], numbers: dict) -> None:
    lines = [
        "# Ablation of Label-Aligned Transfer",
        "",
        "Held-back training images of the target play the source; see the script's docstring. ",
        f"Seeds {options.seeds}, {options.epochs:g} epochs, {platform.machine()}, two cores. "
        f"Simulated convention: {numbers}.",
        "",
        "```",
        "python benchmarks/lat_ablation.py RUN_DIR "
        f"--target {options.target} --sources {options.sources} --as {options.played} "
        f"--epochs {options.epochs:g} --seeds {options.seeds} --backbone BACKBONE",
        "```",
        "",
        "| " + " | ".join(rows[0]) + " |",
        "|---" * len(rows[0]) + "|",
    ]
    for row in rows:
        cells = [f"{v:.3f}" if isinstance(v, float) and k != "s" else v for k, v in row.items()]
        cells[-1] = f"{row['s']:.0f}"
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
