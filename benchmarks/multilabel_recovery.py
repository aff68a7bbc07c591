"""Are labels that nobody gave recovered? One label per image in, all labels of VOC photos as truth.

    python benchmarks/multilabel_recovery.py VOC_FOLDER --backbone NAME --out DIR

Every image keeps one label, its largest object; everything is learned from those and from the
frozen backbone: the probe that makes the label maps, the regions' labels, the region classifier.
The truth is read for the first label and for scoring, never for a setting. All arms rank the 20
classes of every image; example-based mAP is the mean over images of the ranking's average
precision.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.registry import read_dataset
from relabel.datasets.multilabels import read_tsv
from relabel.datasets.pixels.image_folder import ImageSet
from relabel.doctor.hardware import describe_hardware
from relabel.errors import RelabelError
from relabel.evaluation.multilabel.metrics import MultiLabelMetrics, score_matrix
from relabel.multilabel.plan import MultilabelPlan, MultilabelSettings
from relabel.multilabel.run import run_plan
from relabel.multilabel.scores.probe import train_probe
from relabel.multilabel.settings import (
    FilterSettings,
    LabelMapSettings,
    MaskCutSettings,
    RegionClassifierSettings,
)
from relabel.multilabel.store import read_labels, read_regions
from relabel.settings import Runtime
from relabel.workspace.atomic import atomic_write_bytes
from relabel.workspace.columns import iterate

SINGLE, GLOBAL, HELD_OUT, BOTH, MULTI, REGIONS = (
    "single labels",
    "classifier's global softmax",
    "the same, of a classifier that has not seen the image",
    "global softmax, the single label first",
    "recovered multi-labels",
    "the same, without the image's own label",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("voc", type=Path, help="folder with JPEGImages and Annotations")
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--tau", type=float, default=MaskCutSettings.tau)
    parser.add_argument("--image-size", type=int, default=MaskCutSettings.image_size)
    parser.add_argument("--threshold", type=float, default=FilterSettings.threshold)
    parser.add_argument("--refine", default=MaskCutSettings.refine)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--report", type=Path, help="write the table as Markdown")
    args = parser.parse_args()
    try:
        seeds = [int(seed) for seed in args.seeds.split(",")]
        dataset = read_dataset(args.voc, "voc", name="voc")
        images, truth = one_label_each(args.voc / "JPEGImages", dataset)
        found = {seed: arms(args, images, seed, seeds[0]) for seed in seeds}
        scored = {
            seed: {name: score_matrix(truth, scores) for name, scores in one.items()}
            for seed, one in found.items()
        }
    except RelabelError as error:
        print(f"multilabel_recovery: error: {error}", file=sys.stderr)
        return 1
    text = report(args, truth, scored)
    print(text)
    if args.report:
        atomic_write_bytes(args.report, text.encode())
    return 0


def one_label_each(root: Path, dataset: DetectionDataset) -> tuple[ImageSet, list[list[int]]]:
    """The images with the class of their largest object, and all classes of each image.

    Objects marked difficult count for neither.
    """
    names, labels, truth = [], [], []
    boxes = dataset.boxes
    area = boxes.xywh[:, 2] * boxes.xywh[:, 3]
    for row in range(len(dataset)):
        rows = np.flatnonzero((boxes.image == row) & ~boxes.ignore)
        if not len(rows):
            continue
        names.append(Path(str(dataset.images.file_name[row])).name)
        labels.append(int(boxes.category[rows[np.argmax(area[rows])]]))
        truth.append(sorted(set(boxes.category[rows].tolist())))
    order = np.argsort(names)
    classes = dataset.space.class_names
    images = ImageSet(
        root,
        [names[i] for i in order],
        np.array(labels, np.int32)[order],
        list(classes),
        list(classes),
    )
    return images, [truth[i] for i in order]


def arms(
    args: argparse.Namespace, images: ImageSet, seed: int, first: int
) -> Mapping[str, np.ndarray]:
    """Scores [N, C] of every arm, for one seed."""
    plan = MultilabelPlan(images, args.out / f"seed{seed}", settings_of(args, seed))
    if seed != first:  # regions depend on no seed
        done = args.out / f"seed{first}" / "1_regions"
        shutil.copytree(done, plan.stages["regions"].folder, dirs_exist_ok=True)
    run_plan(plan, Runtime(device=args.device))
    count = images.num_classes
    single = np.eye(count, dtype=np.float32)[images.labels]
    whole, held_out = global_softmax(plan, seed)
    multi = read_tsv(plan.stages["result"].folder / "labels.tsv", count)
    assert multi.file_names == images.file_names
    return {
        SINGLE: single,
        GLOBAL: whole,
        HELD_OUT: held_out,
        BOTH: np.maximum(whole, single),
        MULTI: multi.labels.toarray(),
        REGIONS: regions_alone(plan),
    }


def settings_of(args: argparse.Namespace, seed: int) -> MultilabelSettings:
    maskcut = MaskCutSettings(
        backbone=args.backbone, tau=args.tau, refine=args.refine, image_size=args.image_size
    )
    return MultilabelSettings(
        maskcut=maskcut.resolved(),
        maps=LabelMapSettings(classifier="probe"),
        filter=FilterSettings(threshold=args.threshold),
        region_classifier=replace(RegionClassifierSettings(), seed=seed),
    )


def global_softmax(
    plan: MultilabelPlan, seed: int, folds: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """The probe's softmax over whole images: trained on all of them, and on other ones only."""
    parts = []
    for shard in iterate(plan.shards("regions").paths, read_regions):
        assert shard.whole is not None
        parts.append(shard.whole)
    features = np.concatenate(parts).astype(np.float32)
    labels, count = plan.images.labels, plan.images.num_classes

    def softmax(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        import torch

        probe = train_probe(features[train], labels[train], count, seed)
        return probe.logits(torch.from_numpy(features[test])).double().softmax(1).float().numpy()

    everything = np.arange(len(labels))
    held_out = np.zeros((len(labels), count), np.float32)
    for test in np.array_split(np.random.default_rng(seed).permutation(len(labels)), folds):
        held_out[test] = softmax(np.setdiff1d(everything, test), test)
    return softmax(everything, everything), held_out


def regions_alone(plan: MultilabelPlan) -> np.ndarray:
    """Per class the greatest probability over the regions, the image's own label left out."""
    rows = []
    for shard in iterate(plan.shards("labels").paths, read_labels):
        local = np.zeros((len(shard), plan.images.num_classes), np.float32)
        image = np.repeat(np.arange(len(shard)), np.diff(shard.offsets))
        np.maximum.at(local, (image[:, None], shard.ids), shard.probs)
        rows.append(local)
    return np.concatenate(rows)


def report(
    args: argparse.Namespace,
    truth: Sequence[Sequence[int]],
    scored: Mapping[int, Mapping[str, MultiLabelMetrics]],
) -> str:
    """The table: mean and sample standard deviation over seeds, percent."""
    names = list(next(iter(scored.values())))
    counts = np.array([len(t) for t in truth])
    lines = [
        "# Recovered labels of VOC photos",
        "",
        f"{len(truth)} images, {int((counts > 1).sum())} of them with more than one class; the "
        f"largest object's class is all that is given. Seeds {', '.join(map(str, scored))}; "
        f"{describe_hardware()}. Percent.",
        "",
        "```",
        f"python benchmarks/multilabel_recovery.py VOC_FOLDER --backbone NAME --out DIR "
        f"--seeds {args.seeds} --tau {args.tau:g} --image-size {args.image_size} "
        f"--threshold {args.threshold:g} --refine {args.refine}",
        "```",
        "",
        "| scores | example mAP | 1 class | 2 classes | 3 and more | class mAP | top-1 |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in names:
        each = [one[name] for one in scored.values()]
        cells = [
            spread([m.example_mAP for m in each]),
            *(spread([m.buckets[k] for m in each]) for k in ("1", "2", ">=3")),
            spread([m.class_mAP for m in each]),
            spread([m.top1 for m in each]),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float | None]) -> str:
    known = [100 * v for v in values if v is not None]
    if not known:
        return "-"
    deviation = np.std(known, ddof=1) if len(known) > 1 else 0.0
    return (
        f"{np.mean(known):.1f}" if deviation < 0.05 else f"{np.mean(known):.1f} ± {deviation:.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
