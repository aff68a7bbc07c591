"""The result folder: relabelled sources, the merged training file, the manifest and the report.

Everything in it depends on the datasets, the settings and the transferred boxes only: no times, no
paths of the workspace, so that an interrupted run ends with the same bytes as any other. The one
exception is what ``report.html`` says at its end of how it was made: by which command, when.

    result/
      {source}/annotations.json   COCO, file names as in the source; `info.relabel.root`
                                says from where, relative to the file
      {source}/removed.json       COCO, in the source's label space: its annotations that left no
                                label of their own, each with `relabel_removed`: why, its
                                probability, best class and score
      {source}/fiftyone/          a FiftyOneDataset folder
      images/{dataset}            the datasets' images, linked, or taken out of their records
      merged.json                 target and sources, file names relative to the file's own folder
      manifest.json, report.html
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from relabel import __version__
from relabel.align.job import AlignJob
from relabel.align.settings import stage_settings
from relabel.crosslabel.prompted import sam3_identity
from relabel.crosslabel.pseudo import PseudoLabels, pseudo_to_dataset
from relabel.datasets.agreement import disagreement
from relabel.datasets.alternatives import told_of_all
from relabel.datasets.changes import change_counts, changes
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.coco.write import encode
from relabel.datasets.formats.fiftyone.write import Attributes
from relabel.datasets.formats.registry import write_dataset
from relabel.datasets.pixels.placing import place_images, with_images_in
from relabel.datasets.removed import removed_annotations
from relabel.reports.made import PACKAGES
from relabel.review.apply import Reviewed, told
from relabel.review.decisions import REJECTED_FIELD
from relabel.workspace.atomic import atomic_path, atomic_write_bytes, atomic_write_json
from relabel.workspace.fingerprint import file_fingerprint

if TYPE_CHECKING:
    from relabel.reports.alignment import Known

MANIFEST_SCHEMA = 1


@dataclass(frozen=True, eq=False)
class SourceResult:
    """One source, before and after.

    Attributes:
        before: as annotated.
        reviewed: the same images with target-space boxes and provenance, its annotations without a
            label of their own, and what people decided about both.
        labels: pseudo-labels on its images by the dataset of the specialist.
    """

    before: DetectionDataset
    reviewed: Reviewed
    labels: Mapping[str, PseudoLabels]


def write_align_result(
    plan: AlignJob, results: Sequence[SourceResult], out: Path, *, quiet: bool = False
) -> dict[str, str | Path]:
    """Write all files of the result; returns the main ones by name, relative to ``out``.

    Raises:
        DataError: an image that has to be taken out of a record cannot be read.
        RelabelError: the disk is full.
    """
    from relabel.reports.alignment import SourceReport, write_align_report
    from relabel.reports.made import made_now

    settings = plan.settings.align
    outputs: dict[str, str | Path] = {}
    target = plan.datasets[plan.target]
    place_images(target, out / "images" / target.name, "hard", quiet=quiet)
    reports, parts, counts, changed = [], [target], {}, {}
    for result in results:
        name = result.before.name
        place_images(result.before, out / "images" / name, "hard", quiet=quiet)
        after = with_images_in(result.reviewed.after, out / "images" / name)
        before = replace(after, space=result.before.space, boxes=result.before.boxes)
        pseudo = {
            # Bad images that were skipped have no labels; here they show none.
            by: pseudo_to_dataset(replace(labels, covered=None), before, settings.pseudo_score)
            for by, labels in result.labels.items()
        }
        removed = result.reviewed.removed
        gone = removed_annotations(before, removed, after.space)
        counts[name] = dict(sorted(Counter(removed.reason).items()))
        labelled = replace(after, boxes=told_of_all(after.boxes))
        description = f"{name} in the label space of {plan.target}"
        file = out / name / "annotations.json"
        outputs[f"{name}/annotations.json"] = _write_coco(labelled, description, file)
        description = f"annotations of {name} without a label in the space of {plan.target}"
        file = out / name / "removed.json"
        outputs[f"{name}/removed.json"] = _write_coco(gone, description, file)
        change = changes(before, after, removed)
        of_classes = change_counts(before, change)
        changed[name] = {"classes": of_classes.to_dict(), "added": of_classes.added}
        for format in settings.formats:
            if format == "fiftyone":
                layers = {"source": before, "removed": gone}
                if len(result.reviewed.rejected.boxes):
                    layers[REJECTED_FIELD] = replace(result.reviewed.rejected, root=after.root)
                layers |= {f"pseudo_{by}": p for by, p in pseudo.items()}
                of_source, of_label = change.words()
                unlike = disagreement(after, pseudo, plan.target)
                told_of_boxes = {
                    "source": {"change": of_source},
                    "transferred": {"change": of_label, "disagreement": unlike},
                }
                _write_fiftyone(after, layers, told_of_boxes, out / name / "fiftyone", out)
                outputs[f"{name}/fiftyone"] = f"{name}/fiftyone"
            elif format != "coco":
                write_dataset(after, format, out / name / format, copy_images="link")
                outputs[f"{name}/{format}"] = f"{name}/{format}"
        reports.append(SourceReport(name, before, after, pseudo, removed, of_classes))
        parts.append(labelled)
    outputs["merged.json"] = _write_merged(plan, parts, out)
    write_align_report(
        out / "report.html",
        title=f"{', '.join(plan.sources)} in the label space of {plan.target}",
        target=target,
        sources=reports,
        settings=_settings(plan),
        known=_held_out(plan),
        made=made_now(plan.seconds()),
        pictures=settings.pictures,
        seed=plan.settings.lat.seed,
    )
    outputs["report.html"] = "report.html"
    told_of = {r.before.name: told(r.reviewed) for r in results} if plan.review else {}
    outputs["manifest.json"] = _write_manifest(plan, parts, counts, changed, told_of, outputs, out)
    return outputs


def _held_out(plan: AlignJob) -> Known | None:
    """How far confidences on the target can be trusted: of specialists without those images."""
    from relabel.evaluation.joined_labels import join_labels
    from relabel.evaluation.pseudo_labels import reliability_of
    from relabel.reports.alignment import Known
    from relabel.reports.pseudo_labels import Bars

    target = plan.datasets[plan.target]
    stage = plan.labels.get((plan.target, plan.target))
    if stage is None or stage.status() != "done" or not len(target.boxes):
        return None
    found = plan.read_labels(plan.target, plan.target)
    if not len(found):
        return None
    told = reliability_of(join_labels(target, found))
    bars = Bars("Specialist of the target", told.claimed, told.seen, told.count, told.error)
    return Known(
        [bars],
        f"What the specialist of {plan.target} finds on images of {plan.target} that were kept "
        "from its training: the share that is right at IoU 0.5, by confidence. Confidences that "
        "can be taken at their word have bars that end at the dashed line. Of the relabelled "
        "sources no truth is known to this run.",
    )


def _write_coco(dataset: DetectionDataset, description: str, file: Path) -> str:
    described = replace(dataset, info={"info": _info(description)})
    with atomic_path(file) as temp, temp.open("wb") as stream:
        for piece in encode(described, f"../images/{dataset.name}"):
            stream.write(piece)
    return file.relative_to(file.parent.parent).as_posix()


def _info(description: str) -> dict[str, Any]:
    return {"description": description, "relabel": {"version": __version__}}


def _write_fiftyone(
    dataset: DetectionDataset,
    layers: Mapping[str, DetectionDataset],
    attributes: Mapping[str, Attributes],
    folder: Path,
    out: Path,
) -> None:
    # Images taken out of records lie in the result and are linked from the folder, so that no
    # path of the workspace stands in its files.
    inside = dataset.root.is_relative_to(out)
    write_dataset(
        dataset,
        "fiftyone",
        folder,
        copy_images="link" if inside else "none",
        extra_fields=layers,
        attributes=attributes,
    )


def _write_merged(plan: AlignJob, parts: Sequence[DetectionDataset], out: Path) -> str:
    """Target and sources in one file, ids counted from 1 in order."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories: list[dict[str, Any]] = []
    for part in parts:
        data = orjson.loads(b"".join(encode(part, ".")))
        categories = categories or data["categories"]
        number = {}
        for image in data["images"]:
            number[image["id"]] = len(images) + 1
            image["id"] = len(images) + 1
            image["file_name"] = f"images/{part.name}/{image['file_name']}"
            image["dataset"] = part.name
            images.append(image)
        for annotation in data["annotations"]:
            annotation["id"] = len(annotations) + 1
            annotation["image_id"] = number[annotation["image_id"]]
            annotations.append(annotation)
    info = _info(f"{plan.target}, and {', '.join(plan.sources)} in its label space")
    info["relabel"]["root"] = "."
    merged = {
        "info": info,
        "categories": categories,
        "images": images,
        "annotations": annotations,
    }
    atomic_write_bytes(out / "merged.json", orjson.dumps(merged) + b"\n")
    return "merged.json"


def _write_manifest(
    plan: AlignJob,
    parts: Sequence[DetectionDataset],
    removed: Mapping[str, Mapping[str, int]],
    changed: Mapping[str, Mapping[str, Any]],
    review: Mapping[str, Mapping[str, Any]],
    outputs: Mapping[str, str | Path],
    out: Path,
) -> str:
    files = {}
    for name in sorted(outputs):
        path = out / name
        # The report also says when it was written.
        if path.is_file() and name != "report.html":
            files[name] = {"bytes": path.stat().st_size, "sha256": file_fingerprint(path)}
    manifest = {
        "schema": MANIFEST_SCHEMA,
        "relabel": __version__,
        "versions": {package: _version(package) for package in PACKAGES},
        "target": plan.target,
        "sources": list(plan.sources),
        "seed": plan.settings.lat.seed,
        "settings": _settings(plan),
        "inputs": {
            name: {
                "fingerprint": plan.fingerprints[name],
                "images": len(dataset),
                "boxes": int((~dataset.boxes.ignore).sum()),
                "categories": dataset.space.names,
            }
            for name, dataset in plan.datasets.items()
        },
        "stages": {name: stage.fingerprint for name, stage in plan.stages.items()},
        "boxes": {part.name: int((~part.boxes.ignore).sum()) for part in parts},
        "removed": removed,
        "changes": changed,
        **({"review": review} if review else {}),
        "files": files,
    }
    atomic_write_json(out / "manifest.json", manifest, indent=1)
    return "manifest.json"


def _settings(plan: AlignJob) -> dict[str, Any]:
    settings = plan.settings
    sam3 = {"sam3": sam3_identity(settings.sam3)} if "sam3" in plan.prompted_detectors else {}
    return {
        "specialist": stage_settings(settings.specialist, plan.backbones),
        "crosslabel": stage_settings(settings.crosslabel),
        "lat": stage_settings(settings.lat, plan.backbones),
        "align": stage_settings(settings.align),
        **sam3,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
