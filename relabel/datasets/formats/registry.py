"""The formats relabel reads and writes, and how to reach the module of each.

A format's modules are imported when they are first used:

- its reader has ``read(path, *, name, split, problems, space=None, annotations=None) ->
  DetectionDataset``;
- its writer has ``write(dataset, out, *, split="train", copy_images="none", **options) ->
  list[Path]``, which returns the files written, the main one first.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relabel.datasets.formats.output import check_finished
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.pixels.placing import CopyImages
from relabel.errors import ConfigError, DataError, Problems, did_you_mean

if TYPE_CHECKING:
    from relabel.datasets.dataset import DetectionDataset


@dataclass(frozen=True)
class FormatInfo:
    """One on-disk format.

    Attributes:
        name: as given to ``--format`` and in relabel.toml.
        title: the name people know it by.
        reader, writer: modules of `relabel.datasets.formats`, None where there is none.
        description: what PATH is.
        one_file: a dataset may be a single file of this format.
        file_splits: such a file names splits; what is read of another is the same for any split.
    """

    name: str
    title: str
    reader: str | None
    description: str
    writer: str | None = None
    one_file: bool = False
    file_splits: bool = False

    @property
    def has_reader(self) -> bool:
        return self.reader is not None

    @property
    def has_writer(self) -> bool:
        return self.writer is not None


def _load(module: str) -> Any:
    return importlib.import_module(f"relabel.datasets.formats.{module}")


_ROWS = (
    FormatInfo(
        "coco",
        "COCO",
        "coco.read",
        "an instances JSON file, or a folder with one per split; LVIS too",
        writer="coco.write",
        one_file=True,
    ),
    FormatInfo(
        "voc",
        "Pascal VOC",
        "voc.read",
        "a folder with Annotations/*.xml, JPEGImages/ and ImageSets/Main/{split}.txt",
        writer="voc.write",
    ),
    FormatInfo(
        "yolo",
        "YOLO",
        "yolo.read",
        "a data.yaml, or the folder that holds it beside images/ and labels/",
        writer="yolo.write",
        one_file=True,
        file_splits=True,
    ),
    FormatInfo("cityscapes", "Cityscapes", "cityscapes", "a folder with leftImg8bit/ and gtFine/"),
    FormatInfo(
        "nuimages", "nuImages", "nuimages", "a folder with v1.0-{split}/ tables and samples/"
    ),
    FormatInfo(
        "waymo_v1",
        "Waymo Open v1",
        "waymo.v1",
        "a segment-*.tfrecord file, or a folder of them",
        one_file=True,
    ),
    FormatInfo(
        "waymo_v2",
        "Waymo Open v2",
        "waymo.v2",
        "a folder with {split}/camera_box/ and {split}/camera_image/ Parquet files",
    ),
    FormatInfo(
        "bdd100k",
        "BDD100K",
        "scalabel.bdd100k",
        "a folder with images/100k/{split}/ and labels/det_20/det_{split}.json",
    ),
    FormatInfo(
        "shift",
        "SHIFT",
        "scalabel.shift",
        "a folder with discrete/images/{split}/{view}/det_2d.json and img.zip",
    ),
    FormatInfo("acdc", "ACDC", "acdc", "a folder with rgb_anon/ and gt_detection/"),
    FormatInfo(
        "fiftyone",
        "FiftyOne",
        "fiftyone.read",
        "a FiftyOneDataset folder with metadata.json and samples.json; no database is needed",
        writer="fiftyone.write",
    ),
)
FORMATS: dict[str, FormatInfo] = {row.name: row for row in _ROWS}

# Names that stand for whichever of several formats the content turns out to be.
FAMILIES: dict[str, tuple[str, ...]] = {"waymo": ("waymo_v1", "waymo_v2")}


def format_names(*, reader: bool = False, writer: bool = False) -> list[str]:
    """Names of the formats, restricted to those that can be read or written."""
    names = [
        f.name
        for f in FORMATS.values()
        if (not reader or f.has_reader) and (not writer or f.has_writer)
    ]
    return names + (list(FAMILIES) if reader else [])


def format_info(format: str, path: Path | None = None) -> FormatInfo:
    """The format called ``format``; a family such as ``waymo`` is resolved by content of ``path``.

    Raises:
        ConfigError: no such format.
        DataError: a family name, and ``path`` holds none of its formats.
    """
    key = format.strip().lower().replace("-", "_")
    if key in FAMILIES:
        return FORMATS[_detect_waymo(path)]
    if key not in FORMATS:
        raise ConfigError(
            f"unknown dataset format {format!r}", remedy=did_you_mean(key, [*FORMATS, *FAMILIES])
        )
    return FORMATS[key]


def is_one_split(path: Path, format: str | None) -> bool:
    """Whether a path is a file that knows no splits: whichever is asked for, the same is read.

    Args:
        format: None where the path's suffix says it.
    """
    if format is None:
        format = "coco" if path.name.lower().endswith((".json", ".json.gz")) else ""
    info = FORMATS.get(format.strip().lower().replace("-", "_"))
    return info is not None and info.one_file and not info.file_splits and path.is_file()


def _detect_waymo(path: Path | None) -> str:
    if path is None:
        raise ConfigError(
            "format 'waymo' needs a dataset to look at", remedy="Name waymo_v1 or waymo_v2."
        )
    if not path.exists():
        raise DataError("no such file or folder", file=path, remedy="Check the path.")
    if path.is_file():
        return "waymo_v2" if path.suffix == ".parquet" else "waymo_v1"
    if next(path.rglob("*.tfrecord*"), None) is not None:
        return "waymo_v1"
    if next(path.rglob("*.parquet"), None) is not None:
        return "waymo_v2"
    raise DataError(
        "holds neither Waymo TFRecord nor Parquet files",
        file=path,
        remedy="Point at the folder with segment-*.tfrecord files or with camera_box/.",
    )


def read_dataset(
    path: str | Path,
    format: str,
    *,
    name: str | None = None,
    split: str | None = None,
    annotations: str | None = None,
    problems: Problems | None = None,
    space: LabelSpace | None = None,
) -> DetectionDataset:
    """Read a dataset in its native format.

    Args:
        path: the dataset's root folder, or its file where the format is one file.
        format: a key of `FORMATS`, or ``waymo``.
        name: the dataset's name; default the last part of the path.
        split: such as ``train``; default the format's own choice.
        annotations: annotation file, relative to ``path``, where the layout leaves it open.
        problems: collects findings; default raises on the first error.
        space: label space to read into; default the format's own, or the names found.

    Raises:
        ConfigError: unknown format, or one that can only be written.
        DataError: the files are missing or damaged.
    """
    path = Path(path).expanduser()
    info = format_info(format, path)
    if info.reader is None:
        raise ConfigError(
            f"format {info.name!r} can be written but not read",
            remedy=f"Readable: {', '.join(format_names(reader=True))}.",
        )
    if not path.exists():
        raise DataError(
            "no such file or folder",
            file=path,
            remedy="Check the path or the root in relabel.toml.",
        )
    check_finished(path, split)
    dataset = _load(info.reader).read(
        path,
        name=name or (path.stem if path.is_file() else path.resolve().name),
        split=split,
        problems=Problems() if problems is None else problems,
        space=space,
        annotations=annotations,
    )
    return replace(dataset, source=path / annotations if annotations and path.is_dir() else path)


def write_dataset(
    dataset: DetectionDataset,
    format: str,
    out: str | Path,
    *,
    split: str = "train",
    copy_images: CopyImages = "none",
    **options: Any,
) -> list[Path]:
    """Write a dataset; returns the files written, the main one first.

    Args:
        format: a format with a writer.
        out: target folder, or file where the format is one file.
        copy_images: whether images are put beside the labels, linked or copied.
        options: passed on to the format's ``write``.

    Raises:
        ConfigError: unknown format, or one that can only be read.
        DataError: the output cannot be written, for example because the disk is full.
    """
    info = format_info(format) if format not in FAMILIES else None
    if info is None or info.writer is None:
        raise ConfigError(
            f"format {format!r} can be read but not written",
            remedy=f"Writable: {', '.join(format_names(writer=True))}.",
        )
    return _load(info.writer).write(
        dataset, Path(out).expanduser(), split=split, copy_images=copy_images, **options
    )
