"""Every report, small, with names that would do something if they were markup."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np

from relabel.datasets.dataset import DetectionDataset, Provenance, make_boxes
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.removed import Removed
from relabel.reports.alignment import Known, SourceReport, write_align_report
from relabel.reports.completion import (
    CompletedPicture,
    CompletionCounts,
    Label,
    write_completion_report,
)
from relabel.reports.made import Made
from relabel.reports.multilabel import Counts, Picture, write_multilabel_report
from relabel.reports.pseudo_labels import (
    Bars,
    ImagePicture,
    LabelPicture,
    SeenBox,
    write_pseudo_label_report,
)
from relabel.reports.suspects import SplitRow, SuspectRow, write_suspect_report
from relabel.studies.downstream.page import write_downstream_report
from relabel.studies.downstream.results import ArmResult, Comparison, Metrics
from relabel.suspects.score import SUSPECT_KINDS
from tests.builders.datasets import dataset_of, images_of, write_image

HOSTILE = [
    "<script>window.hacked=1</script>",
    '<img src=x onerror="window.hacked=1">',
    '"><svg onload=window.hacked=1>',
    "' onmouseover='window.hacked=1",
    "</script></style></title><script>window.hacked=1</script>",
    "<!-- A & B &lt; ]]>",
    "two\nlines\r\x1b[31m",
    "שלום עולם",
    "مرحبا <b>(1)",
    "\u202egnp.exe",
    "😀 👨‍👩‍👧",
    "$\\frac{1}{2}$",
    "[red]x[/red] **y** `z`",
    "#2f74ad",
    ' id="x" style="',
    "{0} %s {row}",
    "W" * 120,
    "a long name of many words " * 8 + "ends",
]
MADE = Made(
    "relabel align --target '<script>window.hacked=1</script>'",
    "2026-01-02 03:04 UTC",
    "<b>machine</b>",
    {"relabel": "0.1.0", "<i>package</i>": "1"},
    {"specialist <u>fine</u>": 61.5},
)


def all_reports(folder: Path, names: list[str]) -> dict[str, Path]:
    """Write every report about these classes; returns the pages by command."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "align": align_report(folder, names),
        "imagenet-multilabel": multilabel_report(folder, names),
        "complete": completion_report(folder, names),
        "check": suspect_report(folder, names),
        "evaluate pseudo-labels": pseudo_label_report(folder, names),
        "evaluate downstream": downstream_report(folder, names),
    }


def relabelled(root: Path, names: list[str]) -> tuple[DetectionDataset, SourceReport]:
    """A target, and a source of which every third annotation is dropped, on two images."""
    for name in ("a.png", "b.png"):
        write_image(root / name, 320, 240, (100, 120, 140))
    images = images_of(["a.png", "b.png"], (320, 240))
    space = LabelSpace.from_names(names[0], names)
    source = [f"{name}!" for name in names]
    count = len(names)
    rows = [(k % 2, [5 + 11 * k, 20 + 9 * k, 60, 40], k) for k in range(count)]
    rows.sort(key=lambda row: row[0])
    before = dataset_of(names[1], source, images, rows, root=root)
    kept = [k for k in range(count) if k % 3]
    boxes = make_boxes(
        [*(before.boxes.image[kept]), 1],
        [*((before.boxes.xywh[kept] * 0.9).tolist()), [200, 100, 50, 90]],
        [*(before.boxes.category[kept]), 0],
        score=np.linspace(0.3, 1, len(kept) + 1),
        provenance=Provenance(
            names[1],
            [*["source"] * len(kept), f"pseudo:{names[2]}"],
            np.array([*before.boxes.id[kept], -1]),
            [*(source[c] for c in before.boxes.category[kept]), ""],
            np.array([*[0.8] * len(kept), np.nan], np.float32),
        ),
    )
    after = before.with_boxes(boxes, space)
    lost = [k for k in range(count) if not k % 3]
    gone = Removed(
        np.array(lost),
        [f"because of {names[k]}" for k in lost],
        np.full(len(lost), 0.25, np.float32),
        np.array(lost),
        np.full(len(lost), 0.125, np.float32),
    )
    target = dataset_of(
        names[0], space, images, [(0, [0, 0, 9 + k, 19], k) for k in range(count)], root=root
    )
    return target, SourceReport(names[1], before, after, {names[2]: after}, removed=gone)


def align_report(folder: Path, names: list[str]) -> Path:
    target, source = relabelled(folder, names)
    bins = np.linspace(0.05, 0.95, 10)
    bars = [Bars(name, bins, bins, np.full(10, 3), 0.0) for name in names[:2]]
    per_class = {name: (["class", name], [[name, "1.0"]]) for name in names}
    return write_align_report(
        folder / "align.html",
        title=" ".join(names),
        target=target,
        sources=[source, replace(source, name=names[3])],
        settings={names[0]: {names[1]: names[2]}, names[3]: names[4]},
        metrics={names[4]: {names[5]: 0.5}},
        known=Known(bars, names[0], per_class),
        made=MADE,
    )


def multilabel_report(folder: Path, names: list[str]) -> Path:
    mask = np.zeros((60, 80), bool)
    mask[10:50, 20:60] = True
    labels = [(name, 0.75) for name in names]
    pictures = [
        Picture(name, names[k % 2], np.full((60, 80, 3), 128, np.uint8), mask[None], [labels[k]],
                labels[k:], name)
        for k, name in enumerate(names)
    ]  # fmt: skip
    counts = Counts(
        numbers={name: name for name in names},
        labels=dict.fromkeys(names, 2),
        regions=dict.fromkeys(names, 3),
        probabilities={f"{k / 20:g}": k for k in range(20)},
        areas={f"{k / 20:g}": 1 for k in range(20)},
        added=[(name, name, 4, 0.5) for name in names],
        added_classes=[(name, 4) for name in names],
        confused=[(name, name, 0.4, 0.3) for name in names],
        skipped=[(name, name) for name in names],
        skipped_total=len(names),
    )
    return write_multilabel_report(
        folder / "multilabel.html",
        counts,
        pictures,
        title=" ".join(names),
        settings={names[0]: {names[1]: names[2]}},
        made=MADE,
    )


def completion_report(folder: Path, names: list[str]) -> Path:
    count = len(names)
    ones = np.ones(count, np.int64)
    square = np.linspace(0, 1, count * count).reshape(count, count)
    counts = CompletionCounts(
        numbers={name: name for name in names},
        classes=names,
        present=6 * ones,
        absent=ones,
        unknown=3 * ones,
        added={"ist": 2 * ones, "cst": ones},
        before={"0": 1, "1": 2},
        after={"0": 1, "1": 2},
        confidences={f"{k / 20:g}": k for k in range(20)},
        pairs=square,
        statistical=square,
        told=np.full((count, count), 9),
        learned=square.T.copy(),
        learned_is=names[0],
        bins=(np.full(10, 3), np.linspace(0.05, 0.95, 10), np.linspace(0.05, 0.95, 10)),
        error=0.0,
        metrics=[(name, "all", 0.5) for name in names],
        class_ap=dict.fromkeys(names, 0.5),
    )
    labels = [Label(name, 0.75, ("known", "ist")[k % 2], True) for k, name in enumerate(names)]
    pictures = [
        CompletedPicture(name, names[0], np.full((60, 80, 3), 128, np.uint8), labels[k:])
        for k, name in enumerate(names)
    ]
    return write_completion_report(
        folder / "completion.html",
        counts,
        pictures,
        title=" ".join(names),
        settings={names[0]: {names[1]: names[2]}},
        made=MADE,
    )


def suspect_report(folder: Path, names: list[str]) -> Path:
    """A suspect of each kind and class, on images whose names are the classes'."""
    write_image(folder / "c.png", 320, 240, (100, 120, 140))
    count = len(names)
    images = replace(images_of(names, (320, 240)), location=[str(folder / "c.png")] * count)
    rows = [(k, [40 + k, 30, 90, 60 + k], k) for k in range(count)]
    rows += [(k, [150, 60, 60, 60], (k + 1) % count) for k in range(count)]
    rows.sort(key=lambda row: row[0])
    dataset = dataset_of(names[0], names, images, rows, root=folder)
    boxes, suspects = dataset.boxes, []
    for k, kind in enumerate(SUSPECT_KINDS * (count // len(SUSPECT_KINDS) + 1)):
        image = k % count
        row = dataset.rows(image).start
        own, other = names[boxes.category[row]], names[(image + 2) % count]
        missing = kind == "missing box"
        goes = kind in ("duplicate", "spurious box")
        moves = kind in ("missing box", "badly placed", "mirrored box")
        suspects.append(
            SuspectRow(
                kind=kind,
                score=1 - k / 100,
                image=image,
                annotation_id=None if missing else int(boxes.id[row]),
                category=None if missing else own,
                proposed_category=None if goes else other,
                box=None if missing else boxes.xyxy[row],
                proposed_box=boxes.xyxy[row] + 20.0 if moves else None,
                proposal="remove" if goes else f"rename to {other}",
                reason=f"because of {other}",
            )
        )
    splits = [
        SplitRow((names[k], names[k - 1]), (3, 4), (0.25, 0.5), names[k], {names[k]: (1, 2)})
        for k in range(count)
    ]
    return write_suspect_report(
        folder / "check.html",
        dataset,
        suspects,
        splits,
        annotations=len(boxes),
        predictions_by=names[0],
        pictures=12,
        settings={names[0]: {names[1]: names[2]}},
        made=MADE,
    )


def pseudo_label_report(folder: Path, names: list[str]) -> Path:
    bins = np.linspace(0.05, 0.95, 10)
    pictures = [
        LabelPicture(
            name,
            names[0],
            np.full((60, 80, 3), 128, np.uint8),
            np.array([[5, 5, 40, 40], [9, 9, 44, 44]], float),
            [name, names[1]],
            name,
            name,
        )
        for name in names
    ]
    seen = [
        SeenBox((4.0 + k, 9.0, 30.0 + k, 40.0), name, name, ("fits", "differs", "aside")[k % 3])
        for k, name in enumerate(names)
    ]
    images = [
        ImagePicture(name, name, np.full((60, 80, 3), 128, np.uint8), seen, seen[k:], k)
        for k, name in enumerate(names[:4])
    ]
    return write_pseudo_label_report(
        folder / "pseudo.html",
        title=" ".join(names),
        numbers={name: name for name in names},
        tables={name: (["class", name], [[name, name]]) for name in names},
        overall=[Bars(names[0], bins, bins, np.full(10, 3), 0.0)],
        classes=[Bars(name, bins, bins, np.full(10, 3), 0.0) for name in names],
        pictures=pictures,
        images=images,
        threshold=0.5,
        missing=names[0],
        about={names[0]: names[1]},
        made=MADE,
    )


def comparison_of(names: list[str]) -> Comparison:
    """Three arms and an extra one on three seeds, with one that was not run."""
    rng = random.Random(0)

    def metrics() -> Metrics:
        each: dict[str, float | None] = {name: rng.uniform(0.1, 0.4) for name in names}
        ap = rng.uniform(0.1, 0.4)
        return {"AP": ap, "AP50": ap, "AP75": ap, "per_class": each}

    arms = {
        name: ArmResult(
            {seed: metrics() for seed in range(3)},
            {
                seed: [
                    {"step": s, "AP": s / 2000, "AP50": None, "AP75": None} for s in (100, 200, 300)
                ]
                for seed in range(3)
            },
        )
        for name in ("target-only", "lat", "oracle", names[0][:40])
    }
    about = {"target": names[1], "detector": names[2], "settings": {names[3]: names[4]}}
    return Comparison(arms, {names[5]: names[6]}, (0, 1, 2), about, 200, names[0], "a machine")


def downstream_report(folder: Path, names: list[str]) -> Path:
    return write_downstream_report(folder / "downstream.html", comparison_of(names), MADE)
