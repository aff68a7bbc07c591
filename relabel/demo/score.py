"""Score the demo's relabelled sources against the known truth, and show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.removed import Removed, removed_from
from relabel.demo.build import SOURCES, TARGET, World
from relabel.workspace.atomic import atomic_path, atomic_write_json

if TYPE_CHECKING:
    from PIL.Image import Image

    from relabel.evaluation.tables import Rows
    from relabel.evaluation.transfer import TransferMetrics
    from relabel.reports.pseudo_labels import Bars

LAT = "LAT"
_SHEET_IMAGES = 6
_COLUMNS = (
    "labels",
    "AP",
    "AP50",
    "AP75",
    "F1@0.5",
    "F1@0.75",
    "class@0.5",
    "IoU",
    "lost",
    "boxes",
)


@dataclass(frozen=True, eq=False)
class SourceOutcome:
    """One source before, after, and as it should be.

    Attributes:
        before: as the source annotates it.
        after: relabelled by align, on the images of ``before`` in their order.
        truth: in the Cityscapes convention, on the same images.
        scores: of LAT and of the baselines.
        removed: annotations without a label of their own, with align's reasons.
    """

    name: str
    before: DetectionDataset
    after: DetectionDataset
    truth: DetectionDataset
    scores: list[TransferMetrics]
    removed: Removed | None = None

    @property
    def rows(self) -> Rows:
        """A table in percent, a row per annotation set."""
        return list(_COLUMNS), [_row(metrics) for metrics in self.scores]

    @property
    def class_rows(self) -> Rows:
        """A row per true class: its boxes, and AP of every annotation set in percent."""
        from relabel.evaluation.tables import percentage

        names = self.scores[0].per_class if self.scores else {}
        rows = [
            [
                name,
                f"{self.scores[0].per_class[name]['truth']:.0f}",
                *(percentage(metrics.per_class[name]["AP"]) for metrics in self.scores),
            ]
            for name in names
            if self.scores[0].per_class[name]["truth"]
        ]
        return ["class", "true boxes", *(f"AP, {m.name}" for m in self.scores)], rows


def score(world: World, config: Path, run: Path) -> list[SourceOutcome]:
    """Compare what align wrote with the truth, beside the baselines.

    Args:
        config: the demo's relabel.toml.
        run: the workspace of align.

    Raises:
        DataError: align's files are missing or damaged.
    """
    from relabel.align.plan import labels_folder
    from relabel.catalogue.catalogue import load_catalogue
    from relabel.crosslabel.shards import read_pseudo_labels
    from relabel.datasets.formats.coco.origins import with_provenance
    from relabel.datasets.formats.registry import read_dataset
    from relabel.evaluation.baselines import all_baselines
    from relabel.evaluation.transfer import compare_transfer

    catalogue = load_catalogue(config=config)
    outcomes = []
    for name in SOURCES:
        before = catalogue.get(name).read("train")
        pseudo = read_pseudo_labels(labels_folder(run, TARGET, name, TARGET))
        file = run / "result" / name / "annotations.json"
        after = with_provenance(read_dataset(file, "coco", name=name))
        truth = read_dataset(world.truth(name), "coco", name=f"{name} truth")
        results: dict[str, Any] = {LAT: after, **all_baselines(before, pseudo)}
        scores = compare_transfer(truth, before, results)
        removed, listed = None, file.with_name("removed.json")
        if listed.is_file():
            removed = removed_from(read_dataset(listed, "coco"), before, after.space)
        after, truth = _onto(after, before), _onto(truth, before)
        outcomes.append(SourceOutcome(name, before, after, truth, scores, removed))
    return outcomes


def write_outcome(world: World, config: Path, outcomes: Sequence[SourceOutcome]) -> list[Path]:
    """Write scores.json, report.html and a contact sheet per source; returns their paths."""
    from relabel.catalogue.catalogue import load_catalogue
    from relabel.reports.alignment import Known, SourceReport, write_align_report
    from relabel.reports.made import made_now

    catalogue = load_catalogue(config=config)
    scores = {o.name: {m.name: m.to_dict() for m in o.scores} for o in outcomes}
    atomic_write_json(world.root / "scores.json", scores, indent=1)
    report = write_align_report(
        world.root / "report.html",
        title="Demo: Waymo and nuImages in the label space of Cityscapes",
        target=catalogue.get(TARGET).read("train"),
        sources=[SourceReport(o.name, o.before, o.after, removed=o.removed) for o in outcomes],
        settings={name: dict(table) for name, table in catalogue.tables.items()},
        metrics={o.name: _numbers(o) for o in outcomes},
        known=Known(
            [bars for o in outcomes if (bars := _reliability(o)) is not None],
            "Labels by their score, and the share of them that is right at IoU 0.5 in truth. "
            "Scores that can be taken at their word have bars that end at the dashed line.",
            {o.name: o.class_rows for o in outcomes},
        ),
        made=made_now(),
        pictures=_SHEET_IMAGES,
        seed=world.seed,
    )
    files = [report, world.root / "scores.json"]
    for outcome in outcomes:
        path = world.root / f"{outcome.name}.png"
        with atomic_path(path) as temp:
            sheet(outcome).save(temp)
        files.append(path)
    return files


def sheet(outcome: SourceOutcome) -> Image:
    """A contact sheet: source boxes, transferred boxes and truth of some images, side by side."""
    from relabel.reports.pictures import side_by_side

    layers = {
        f"{outcome.name}, as annotated": outcome.before,
        "relabelled by LAT": outcome.after,
        "truth in the Cityscapes convention": outcome.truth,
    }
    return side_by_side(layers, _instructive(outcome.truth))


def _instructive(truth: DetectionDataset) -> list[int]:
    """Rows of the images whose truth holds the most classes, so that much is to be seen."""
    variety = [len(np.unique(truth.boxes.category[rows])) for _, rows in truth.iter_images()]
    best = np.argsort(-np.array(variety), kind="stable")[:_SHEET_IMAGES]
    return sorted(best.tolist())


def _onto(dataset: DetectionDataset, before: DetectionDataset) -> DetectionDataset:
    """The boxes on the source's own images, in the source's order."""
    row_of = {name: row for row, name in enumerate(dataset.images.file_name)}
    ordered = dataset.subset([row_of[name] for name in before.images.file_name])
    return replace(ordered, images=before.images, root=before.root)


def _reliability(outcome: SourceOutcome) -> Bars | None:
    """Of the labels of align that have a score."""
    from relabel.evaluation.joined_labels import JoinedLabels
    from relabel.evaluation.pseudo_labels import reliability_of
    from relabel.reports.pseudo_labels import Bars

    boxes, space = outcome.after.boxes, outcome.truth.space
    found = boxes.take(~boxes.ignore & ~np.isnan(boxes.score))
    if not len(found):
        return None
    place = {name: k for k, name in enumerate(space.names)}
    category = [place[outcome.after.space.names[c]] for c in found.category.tolist()]
    found = replace(found, category=np.array(category, np.int32))
    joined = JoinedLabels(outcome.truth, found, None, np.zeros(len(found), bool))
    told = reliability_of(joined)
    return Bars(f"Labels of {outcome.name}", told.claimed, told.seen, told.count, told.error)


def _numbers(outcome: SourceOutcome) -> Mapping[str, Mapping[str, object]]:
    header, rows = outcome.rows
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}


def _row(metrics: TransferMetrics) -> list[str]:
    values = (
        *(metrics.AP, metrics.AP50, metrics.AP75),
        *(metrics.at["0.5"].f1, metrics.at["0.75"].f1, metrics.at["0.5"].class_accuracy),
        metrics.mean_iou["after"],
    )
    kept = metrics.annotations
    values = (*values, None if kept is None else kept.lost_share)
    numbers = ["-" if v is None else f"{100 * v:.1f}" for v in values]
    return [metrics.name, *numbers, str(metrics.counts["predictions"])]
