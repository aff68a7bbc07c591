"""Quality of transferred labels against paired truth, beside the three baselines.

    python benchmarks/transfer_quality.py RUN_DIR --target fine --source coarse \\
        --truth truth_in_fine.json --seeds 0,1,2 --out benchmarks/transfer_quality.md

RUN_DIR is a finished workspace of `relabel align`; its pseudo-labels serve the baselines and every
seed. Seed 0 of LAT is the workspace's own result; further seeds train LAT again on the same
specialists. The truth is read for scoring alone: thresholds of LAT come from the target's own
held-back images, those of the baselines are listed (0.05 keeps everything the specialist said).
"""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from relabel.align.plan import labels_folder
from relabel.catalogue.catalogue import load_catalogue
from relabel.crosslabel.pseudo import PseudoLabels, merge_pseudo_labels
from relabel.crosslabel.shards import read_pseudo_labels
from relabel.errors import Problems
from relabel.evaluation.baselines import all_baselines
from relabel.evaluation.tables import by_source_rows, kept_rows, markdown
from relabel.evaluation.transfer import evaluate_transfer
from relabel.lat.checkpoint import TrainedTransfer
from relabel.lat.settings import LatSettings
from relabel.lat.train import train_lat
from relabel.lat.transfer import SCORED, transfer
from relabel.settings import Runtime, settings_from

COLUMNS = ("precision", "recall", "f1")


def load_labels(run: Path, names: list[str], target: str) -> dict[tuple[str, str], PseudoLabels]:
    """All pseudo-labels of an align workspace by (specialist, dataset)."""
    labels = {}
    for by in names:
        for on in names:
            folder = labels_folder(run, by, on, target)
            if not folder.is_dir():
                continue
            parts = sorted(folder.glob("fold*"))
            labels[by, on] = merge_pseudo_labels(
                [read_pseudo_labels(p) for p in parts] if parts else [read_pseudo_labels(folder)]
            )
    return labels


def row(name: str, metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """One line of the table: means over seeds, with the spread of F1@0.75 and AP."""

    def values(*path: str) -> list[float]:
        found = []
        for m in metrics:
            value: Any = m
            for key in path:
                value = value[key]
            found.append(float("nan") if value is None else float(value))
        return found

    def shown(*path: str) -> str:
        v = np.array(values(*path)) * 100
        return f"{v.mean():.1f}" + (f" ± {v.std(ddof=1):.1f}" if len(v) > 1 else "")

    line = {"labels": name}
    for at in ("0.5", "0.75"):
        line |= {f"{c[0].upper() if c != 'f1' else 'F1'}@{at}": shown("at", at, c) for c in COLUMNS}
    line["class acc."] = shown("at", "0.5", "class_accuracy")
    line |= {"AP": shown("AP"), "AP50": shown("AP50"), "AP75": shown("AP75")}
    line["mean IoU"] = shown("mean_iou", "after")
    line |= {"LRP": shown("lrp", "total"), "LRP loc": shown("lrp", "localisation")}
    # Of the annotations whose object the truth has, the share that left no label.
    line["lost"] = shown("annotations", "lost_share")
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--config", type=Path, default=None)
    parser.add_argument("--target", required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--sources", default="legacy,coarse")
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--work", type=Path, default=Path("runs/transfer_quality"))
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    catalogue = load_catalogue(config=options.config)
    names = [options.target, *options.sources.split(",")]
    data = {n: catalogue.get(n).read("train", problems=Problems()) for n in names}
    labels = load_labels(options.run, names, options.target)
    source, pseudo = data[options.source], labels[options.target, options.source]
    rows = []
    for threshold in (0.5, 0.3, 0.05):
        for name, baseline in all_baselines(source, pseudo, threshold=threshold).items():
            if name.startswith("untouched") and threshold != 0.5:
                continue
            title = name if name.startswith("untouched") else f"{name} ≥ {threshold:g}"
            rows.append(row(title, [evaluate_transfer(options.truth, baseline, source).to_dict()]))
            print(rows[-1], flush=True)
    hard: list[dict[str, Any]] = []
    details: list[str] = []
    soft: list[dict[str, Any]] = []
    settings = _settings(options.run)
    for seed in map(int, options.seeds.split(",")):
        if seed == 0:
            folder = options.run / "3_lat"
        else:
            s = replace(settings, seed=seed)
            folder = train_lat(
                data, labels, options.target, options.work / f"lat-{seed}", s, Runtime()
            )
        others = {by: pl for (by, on), pl in labels.items() if on == source.name and by != on}
        out = options.work / f"moved-{seed}"
        moved = transfer(folder, source, others, out, settings, Runtime())
        scored = json.loads((out / SCORED).read_text())
        metrics = evaluate_transfer(options.truth, moved, source)
        if not hard and metrics.annotations is not None and metrics.by_source is not None:
            details = [
                markdown(kept_rows(metrics.annotations)),
                markdown(by_source_rows(metrics.by_source)),
            ]
        hard.append(metrics.to_dict())
        soft.append(evaluate_transfer(options.truth, moved, source, scored).to_dict())
    rows.append(row("LAT (annotations.json)", hard))
    rows.append(row("LAT, AP over all scored boxes", soft))
    print(rows[-2], rows[-1], sep="\n")
    print("mean IoU of the source's own boxes:", hard[0]["mean_iou"])
    print(*details, sep="\n\n")
    if options.out:
        _write(options, rows, hard[0]["mean_iou"], details)


def _settings(run: Path) -> LatSettings:
    config = json.loads((run / "3_lat" / "config.json").read_text())
    assert config["model"] == "label_aligned_transfer", TrainedTransfer
    return settings_from(LatSettings, config["settings"], where=str(run))


def _write(
    options: argparse.Namespace,
    rows: list[dict[str, Any]],
    iou: dict[str, Any],
    details: list[str],
) -> None:
    before = ", ".join(f"{k} {v * 100:.1f}" for k, v in iou.items() if v and v <= 1)
    lines = [
        f"# Labels of `{options.source}` transferred into `{options.target}`",
        "",
        f"Percent. LAT seeds {options.seeds} (mean ± standard deviation); "
        f"{platform.machine()}, two cores. Mean IoU of matches: {before}.",
        "",
        "```",
        f"python benchmarks/transfer_quality.py RUN_DIR --target {options.target} "
        f"--source {options.source} --sources {options.sources} --truth TRUTH "
        f"--seeds {options.seeds}",
        "```",
        "",
        "| " + " | ".join(rows[0]) + " |",
        "|---" * len(rows[0]) + "|",
        *("| " + " | ".join(r.values()) + " |" for r in rows),
        "",
        "LAT's annotations by source class, and the objects by the class they were given (seed "
        f"{options.seeds.split(',')[0]}):",
        "",
        "\n".join(details),
    ]
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
