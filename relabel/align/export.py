"""The result folder: relabelled sources, the merged training file, the manifest and the report.

Everything in it depends on the datasets, the settings and the transferred boxes only: no times, no
paths of the workspace, so that an interrupted run ends with the same bytes as any other.

    result/
      {source}/annotations.json   COCO, file names as in the source; `info.relabel.root`
                                says from where, relative to the file
      {source}/fiftyone/          a FiftyOneDataset folder
      images/{dataset}            the datasets' images, linked, or taken out of their records
      merged.json                 target and sources, file names relative to the file's own folder
      manifest.json, report.html
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from relabel import __version__
from relabel.align.job import AlignJob
from relabel.align.settings import stage_settings
from relabel.crosslabel.prompted import sam3_identity
from relabel.crosslabel.pseudo import PseudoLabels, pseudo_to_dataset
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.fingerprint import image_sizes
from relabel.datasets.formats.coco.write import encode
from relabel.datasets.formats.registry import write_dataset
from relabel.datasets.pixels.location import image_location, read_image_bytes
from relabel.errors import DataError
from relabel.workspace.atomic import atomic_path, atomic_write_bytes, atomic_write_json
from relabel.workspace.fingerprint import file_fingerprint
from relabel.workspace.progress import progress

MANIFEST_SCHEMA = 1
_COPIED_BYTES = 2 * 1024**3
_PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "numpy", "pillow", "pyarrow")


@dataclass(frozen=True, eq=False)
class SourceResult:
    """One source, before and after.

    Attributes:
        before: as annotated.
        after: the same images with target-space boxes and provenance.
        labels: pseudo-labels on its images by the dataset of the specialist.
    """

    before: DetectionDataset
    after: DetectionDataset
    labels: Mapping[str, PseudoLabels]


def write_result(
    plan: AlignJob, results: Sequence[SourceResult], out: Path, *, quiet: bool = False
) -> dict[str, str | Path]:
    """Write all files of the result; returns the main ones by name, relative to ``out``.

    Raises:
        DataError: an image that has to be taken out of a record cannot be read.
        RelabelError: the disk is full.
    """
    from relabel.reports.alignment import SourceReport, write_align_report

    settings = plan.settings.align
    outputs: dict[str, str | Path] = {}
    target = plan.datasets[plan.target]
    place_images(target, out / "images" / target.name, quiet=quiet)
    reports, parts = [], [target]
    for result in results:
        name = result.before.name
        place_images(result.before, out / "images" / name, quiet=quiet)
        after = with_images_in(result.after, out / "images" / name)
        before = replace(after, space=result.before.space, boxes=result.before.boxes)
        pseudo = {
            # Bad images that were skipped have no labels; here they show none.
            by: pseudo_to_dataset(replace(labels, covered=None), before, settings.pseudo_score)
            for by, labels in result.labels.items()
        }
        outputs[f"{name}/annotations.json"] = _write_coco(plan, after, out / name)
        for format in settings.formats:
            if format == "fiftyone":
                layers = {"source": before, **{f"pseudo_{by}": p for by, p in pseudo.items()}}
                _write_fiftyone(after, layers, out / name / "fiftyone", out)
                outputs[f"{name}/fiftyone"] = f"{name}/fiftyone"
            elif format != "coco":
                write_dataset(after, format, out / name / format, copy_images="link")
                outputs[f"{name}/{format}"] = f"{name}/{format}"
        reports.append(SourceReport(name, before, after, pseudo))
        parts.append(after)
    outputs["merged.json"] = _write_merged(plan, parts, out)
    write_align_report(
        out / "report.html",
        title=f"{', '.join(plan.sources)} in the label space of {plan.target}",
        target=target,
        sources=reports,
        settings=_settings(plan),
        pictures=settings.pictures,
        seed=plan.settings.lat.seed,
    )
    outputs["report.html"] = "report.html"
    outputs["manifest.json"] = _write_manifest(plan, parts, outputs, out)
    return outputs


def place_images(dataset: DetectionDataset, folder: Path, *, quiet: bool = False) -> None:
    """Make every image of the dataset available as ``folder / file_name``.

    Images stored in archives and records are written as files. Plain files become hard links:
    some loaders follow symbolic links and then refuse what lies outside their image folder.
    Where the file system allows no hard links, a dataset of up to 2 GB is copied and the files
    of a larger one become symbolic links.

    Raises:
        DataError: an image cannot be read, or its name leads out of the folder.
        RelabelError: the disk is full.
    """
    for row, name in enumerate(dataset.images.file_name):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DataError(
                f"image name {name!r} leads out of its folder",
                file=dataset.root,
                record=f"image {int(dataset.images.id[row])}",
                remedy="Correct the file name.",
            )
    link: Callable[[Path, Path], None] | None = None
    with progress(
        f"Placing images of {dataset.name}", len(dataset), unit="images", quiet=quiet
    ) as bar:
        for row, name in enumerate(dataset.images.file_name):
            path = folder / name
            if not path.exists():  # made in one go: one that exists is whole
                path.parent.mkdir(parents=True, exist_ok=True)
                location = image_location(dataset, row)
                if _is_packed(location):
                    atomic_write_bytes(path, read_image_bytes(location))
                else:
                    file = Path(location).resolve()
                    link = link or _way_to_link(dataset, file, path)
                    if not path.exists():
                        link(file, path)
            bar.update()


def _is_packed(location: str) -> bool:
    return location.partition(":")[0] in ("zip", "bytes", "parquet")


def _way_to_link(dataset: DetectionDataset, file: Path, path: Path) -> Callable[[Path, Path], None]:
    """Hard links, copies or symbolic links; found out by making the first."""
    try:
        path.hardlink_to(file)
    except OSError:  # another file system, or files of another user
        small = sum(image_sizes(dataset)) <= _COPIED_BYTES
        return _copy if small else lambda file, path: path.symlink_to(file)
    return lambda file, path: path.hardlink_to(file)


def _copy(file: Path, path: Path) -> None:
    with atomic_path(path) as temp:
        shutil.copyfile(file, temp)


def with_images_in(dataset: DetectionDataset, folder: Path) -> DetectionDataset:
    """A dataset with packed images, reading them from where `place_images` put them."""
    if not any(_is_packed(text) for text in dataset.images.location or () if text):
        return dataset
    return replace(dataset, root=folder, images=replace(dataset.images, location=None))


def _write_coco(plan: AlignJob, dataset: DetectionDataset, folder: Path) -> str:
    description = f"{dataset.name} in the label space of {plan.target}"
    path = folder / "annotations.json"
    described = replace(dataset, info={"info": _info(description)})
    with atomic_path(path) as temp, temp.open("wb") as stream:
        for piece in encode(described, f"../images/{dataset.name}"):
            stream.write(piece)
    return path.relative_to(folder.parent).as_posix()


def _info(description: str) -> dict[str, Any]:
    return {"description": description, "relabel": {"version": __version__}}


def _write_fiftyone(
    dataset: DetectionDataset, layers: Mapping[str, DetectionDataset], folder: Path, out: Path
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
    plan: AlignJob, parts: Sequence[DetectionDataset], outputs: Mapping[str, str | Path], out: Path
) -> str:
    files = {}
    for name in sorted(outputs):
        path = out / name
        if path.is_file():
            files[name] = {"bytes": path.stat().st_size, "sha256": file_fingerprint(path)}
    manifest = {
        "schema": MANIFEST_SCHEMA,
        "relabel": __version__,
        "versions": {package: _version(package) for package in _PACKAGES},
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
        "files": files,
    }
    atomic_write_json(out / "manifest.json", manifest, indent=1)
    return "manifest.json"


def _settings(plan: AlignJob) -> dict[str, Any]:
    settings = plan.settings
    sam3 = {"sam3": sam3_identity(settings.sam3)} if "sam3" in plan.labellers else {}
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
