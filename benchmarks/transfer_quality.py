"""Quality of transferred labels against paired truth, beside the baselines and other arms' labels.

    python benchmarks/transfer_quality.py RUN --config benchmarks/protocols/tollroad.toml \\
        --target fine --truth coarse=truth_in_fine.json --out benchmarks/transfer_quality.md

A RUN is a finished workspace of `relabel align`; several are seeds of LAT, whose means are shown.
The first one's pseudo-labels (or those of ``--crosslabels``) serve the baselines, at several
thresholds, and its specialists of the target label-guided labels: their box heads see the source's
boxes once, and what they say is kept beside the pseudo-labels.
``--labels DIR`` adds the labels of a comparison's other arms (``DIR/ARM/SOURCE.json``,
as `relabel evaluate downstream` keeps them, or made otherwise). The truth is read for scoring
alone, so that the best threshold of a baseline, which is chosen on it, flatters the baseline.

Each source has a table, a line that says how far LAT is ahead of the best of all others, and
what became of its annotations. The same numbers go into a JSON file beside ``--out``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relabel.align.plan import ENSEMBLE, labels_folder
from relabel.catalogue.catalogue import load_catalogue
from relabel.crosslabel.given import GivenLabels, label_given_boxes, read_given_labels
from relabel.crosslabel.settings import CrossLabelSettings
from relabel.crosslabel.shards import read_pseudo_labels
from relabel.datasets.dataset import UNCERTAIN, DetectionDataset
from relabel.datasets.formats.coco.as_written import read_as_written
from relabel.evaluation.baselines import all_baselines, label_guided
from relabel.evaluation.tables import by_source_rows, kept_rows, markdown
from relabel.evaluation.transfer import TransferMetrics, evaluate_transfer
from relabel.settings import Runtime

LAT = "LAT"
THRESHOLDS = (0.5, 0.3, 0.05)
# Header and where the number is in `TransferMetrics.to_dict`.
COLUMNS: dict[str, tuple[str, ...]] = {
    **{
        f"{short}@{at}": ("at", at, name)
        for at in ("0.5", "0.75")
        for short, name in (("P", "precision"), ("R", "recall"), ("F1", "f1"))
    },
    "class acc.": ("at", "0.5", "class_accuracy"),
    "AP": ("AP",),
    "AP50": ("AP50",),
    "AP75": ("AP75",),
    "mean IoU": ("mean_iou", "after"),
    "LRP": ("lrp", "total"),
    "LRP loc": ("lrp", "localisation"),
    "lost": ("annotations", "lost_share"),
}
AHEAD = ("F1@0.5", "F1@0.75", "AP")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--config", type=Path, default=None, help="relabel.toml, or a protocol")
    parser.add_argument("--target", required=True)
    parser.add_argument("--truth", action="append", required=True, metavar="SOURCE=FILE")
    parser.add_argument("--crosslabels", type=Path, help="folder with 2_crosslabels; default RUN")
    parser.add_argument("--labels", type=Path, help="labels of other arms: ARM/SOURCE.json")
    parser.add_argument("--out", type=Path, default=None, help="Markdown file")
    options = parser.parse_args()
    catalogue = load_catalogue(config=options.config)
    sections, found = [], {}
    for text in options.truth:
        name, _, file = text.partition("=")
        source = catalogue.get(name).read("train")
        others = other_labels(options, source)
        metrics = scored(options.runs, source, Path(file), others)
        found[name] = {label: [m.to_dict() for m in ms] for label, ms in metrics.items()}
        sections.append(section(name, metrics))
        print(sections[-1], flush=True)
    if options.out:
        title = f"# Labels in the label space of `{options.target}`\n\nPercent."
        options.out.write_text("\n".join([title, "", *sections]), encoding="utf-8")
        text = json.dumps(found, indent=1, allow_nan=False)
        options.out.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


def other_labels(
    options: argparse.Namespace, source: DetectionDataset
) -> dict[str, DetectionDataset]:
    """Labels on the source's images by what they are called: baselines, then other arms."""
    found: dict[str, DetectionDataset] = {}
    work = options.crosslabels or options.runs[0]
    folder = labels_folder(work, options.target, source.name, options.target)
    pseudo, given = read_pseudo_labels(folder), given_labels(work, options.target, folder, source)
    for threshold in THRESHOLDS:
        for name, labels in all_baselines(source, pseudo, threshold=threshold).items():
            if not name.startswith("untouched"):
                found[f"{name} ≥ {threshold:g}"] = labels
            elif threshold == THRESHOLDS[0]:
                found[name] = labels
        found[f"label-guided pseudo-labels ≥ {threshold:g}"] = label_guided(
            source, given, threshold
        )
    files = sorted(options.labels.glob(f"*/{source.name}.json")) if options.labels else []
    for file in files:
        if file.parent.name != "lat":  # what it trains on; the result of the runs is LAT's
            found[f"arm {file.parent.name}"] = certain(read_as_written(file))
    return found


def given_labels(work: Path, target: str, folder: Path, source: DetectionDataset) -> GivenLabels:
    """The source's boxes through the box heads of the specialists whose labels are in a folder."""
    specialists = work / "1_specialists"
    members = [specialists / target]
    if ENSEMBLE in folder.name:
        members += sorted(specialists.glob(f"{target}_fold[0-9]*"))
    out = folder.with_name(f"{folder.name}_given")
    label_given_boxes(members, source, out, CrossLabelSettings(), Runtime(device="auto"))
    return read_given_labels(out)


def certain(labels: DetectionDataset) -> DetectionDataset:
    """Without what only training sees."""
    origin = labels.boxes.provenance
    if origin is None:
        return labels
    sure = np.array([name != UNCERTAIN for name in origin.origin], bool)
    return labels.with_boxes(labels.boxes.take(sure))


def scored(
    runs: Sequence[Path],
    source: DetectionDataset,
    truth: Path,
    others: Mapping[str, DetectionDataset],
) -> dict[str, list[TransferMetrics]]:
    """Metrics of the others, and of LAT by run."""
    reference = read_as_written(truth)
    metrics = {
        name: [evaluate_transfer(reference, labels, source, name=name)]
        for name, labels in others.items()
    }
    files = [run / "result" / source.name / "annotations.json" for run in runs]
    metrics[LAT] = [evaluate_transfer(reference, file, source, name=LAT) for file in files]
    return metrics


def section(name: str, metrics: Mapping[str, Sequence[TransferMetrics]]) -> str:
    """The part of one source, in Markdown."""
    values = {
        label: {column: of(ms, *path) for column, path in COLUMNS.items()}
        for label, ms in metrics.items()
    }
    rows = [[label, *map(shown, row.values())] for label, row in values.items()]
    lat = metrics[LAT][0]
    before = lat.mean_iou["before"]
    lines = [
        f"## {name}",
        "",
        f"{len(metrics[LAT])} seeds of LAT (mean ± standard deviation). Mean IoU of the "
        f"annotations before: {'-' if before is None else f'{100 * before:.1f}'}.",
        "",
        markdown((["labels", *COLUMNS], rows)),
        ahead(values),
        "",
    ]
    if lat.annotations is not None and lat.by_source is not None:
        lines += ["LAT, first seed:", "", markdown(kept_rows(lat.annotations))]
        lines.append(markdown(by_source_rows(lat.by_source)))
    return "\n".join(lines)


def ahead(values: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """How far LAT is ahead of the best of the others, by each measure."""
    parts = []
    for column in AHEAD:
        best, label = max((row[column].mean(), name) for name, row in values.items() if name != LAT)
        parts.append(f"{column} {100 * (values[LAT][column].mean() - best):+.1f} ({label})")
    return f"LAT minus the best other: {', '.join(parts)}."


def of(metrics: Sequence[TransferMetrics], *path: str) -> np.ndarray:
    """One number of each, float64; NaN where there is none."""
    found = []
    for one in metrics:
        value: Any = one.to_dict()
        for key in path:
            value = value[key]
        found.append(np.nan if value is None else float(value))
    return np.array(found)


def shown(values: np.ndarray) -> str:
    spread = f" ± {100 * values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return "-" if np.isnan(values).all() else f"{100 * values.mean():.1f}{spread}"


if __name__ == "__main__":
    main()
