"""ACDC: ``rgb_anon/{condition}/{split}/`` images with COCO JSON detection labels.

The labels are one file per condition, ``gt_detection/{condition}/``
``instancesonly_{condition}_{split}_gt_detection.json``, or one file for all conditions,
``gt_detection/instancesonly_{split}_gt_detection.json``: both are read, all conditions become one
dataset. Category ids are read from each file's ``categories`` and matched to the label space by
name. Image and annotation ids are those of the files where they are unique over all of them, and
are numbered anew otherwise.

Source: Sakaridis et al., ACDC, ICCV 2021, and its published file layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from relabel.datasets.dataset import Boxes, DetectionDataset, Images, make_boxes
from relabel.datasets.formats.checks import check_file_name, clean_boxes, clipped_area
from relabel.datasets.formats.records import collector_paused, convert_record, parse_json, read_file
from relabel.datasets.labelspace import LabelSpace, did_you_mean
from relabel.errors import DataError, Problems

CONDITIONS = ("fog", "night", "rain", "snow")
_TRUTH, _IMAGES = "gt_detection", "rgb_anon"
_SKIP = "Correct or remove the record, or leave it out with --skip-bad."
_REMEDY = "Point at the folder that holds rgb_anon/ and gt_detection/."

T = TypeVar("T")


class _Image(msgspec.Struct, gc=False):
    id: int
    file_name: str
    width: int
    height: int


class _Annotation(msgspec.Struct, gc=False):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0
    area: float | None = None


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str


class _File(msgspec.Struct, gc=False):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


@dataclass
class _Rows:
    """Images and boxes of all files, as columns."""

    file_name: list[str] = field(default_factory=list)
    image_id: list[int] = field(default_factory=list)
    size: list[tuple[int, int]] = field(default_factory=list)
    boxes: list[Boxes] = field(default_factory=list)


def read(
    path: Path,
    *,
    name: str,
    split: str | None,
    problems: Problems,
    space: LabelSpace | None = None,
    annotations: str | None = None,
) -> DetectionDataset:
    """Read one split of ACDC, all conditions that are there.

    Args:
        path: the folder that holds ``rgb_anon/`` and ``gt_detection/``.
        split: ``train`` (default), ``val`` or ``test``.
        annotations: one label file relative to ``path``, where it lies elsewhere.

    Raises:
        DataError: label files are missing or damaged, or contradict the images.
    """
    space = space or LabelSpace.load("acdc")
    split = split or "train"
    files = _label_files(path, split, problems) if annotations is None else [path / annotations]
    finder = _Finder(path, split)
    rows = _Rows()
    for file in files:
        with problems.catching(file):
            _read_one(file, finder, rows, space, problems)
    sizes = np.array(rows.size, dtype=np.int32).reshape(-1, 2)
    images = Images(
        id=_unique_ids(np.array(rows.image_id, dtype=np.int64)),
        file_name=rows.file_name,
        width=sizes[:, 0],
        height=sizes[:, 1],
    )
    return DetectionDataset(name, space, images, _joined(rows.boxes), path)


def _unique_ids(ids: np.ndarray) -> np.ndarray:
    if len(np.unique(ids)) == len(ids):
        return ids
    return np.arange(1, len(ids) + 1, dtype=np.int64)


def _joined(parts: list[Boxes]) -> Boxes:
    if not parts:
        return make_boxes([], [], [])
    return make_boxes(
        np.concatenate([b.image for b in parts]),
        np.concatenate([b.xywh for b in parts]),
        np.concatenate([b.category for b in parts]),
        ignore=np.concatenate([b.ignore for b in parts]),
        id=_unique_ids(np.concatenate([b.id for b in parts])),
        area=np.concatenate([b.area for b in parts]),
    )


def _label_files(path: Path, split: str, problems: Problems) -> list[Path]:
    truth = path / _TRUTH
    files: list[Path] = []
    missing: list[Path] = []
    for condition in CONDITIONS:
        file_name = f"instancesonly_{condition}_{split}_gt_detection.json"
        options = [truth / condition / file_name, truth / file_name]
        options += sorted((truth / condition).rglob(f"*{split}*gt_detection*.json"))
        found = next((p for p in options if p.exists()), None)
        if found is not None:
            files.append(found)
        elif (path / _IMAGES / condition / split).is_dir():
            missing.append(options[0])
    merged = truth / f"instancesonly_{split}_gt_detection.json"
    if not files and merged.exists():
        return [merged]
    for file in missing:
        problems.error("file does not exist", file=file, remedy="Download gt_detection again.")
    if not files and not missing:
        raise DataError(f"holds no labels of split {split!r}", file=truth, remedy=_REMEDY)
    return files


class _Finder:
    """File names under the root for the names in label files, which differ in their folders."""

    def __init__(self, root: Path, split: str) -> None:
        self.root, self.split = root, split
        self.have_images = (root / _IMAGES).is_dir()
        self.by_name = {
            p.name: p.relative_to(root).as_posix()
            for condition in CONDITIONS
            for p in sorted((root / _IMAGES / condition / split).rglob("*_rgb_anon.png"))
        }

    def find(self, file_name: str) -> str | None:
        """Path relative to the root, or None where images are there but not this one."""
        title = file_name.removeprefix("./")
        for option in (title, f"{_IMAGES}/{title}"):
            if self.have_images and (self.root / option).is_file():
                return option
        if self.have_images:
            return self.by_name.get(title.rsplit("/", 1)[-1])
        return title if title.startswith(f"{_IMAGES}/") else f"{_IMAGES}/{title}"


def _read_one(
    file: Path, finder: _Finder, rows: _Rows, space: LabelSpace, problems: Problems
) -> None:
    content = _read_file(file, problems)
    categories = _categories(content.categories, file, space, problems)
    row_of: dict[int, int] = {}
    seen = set(rows.file_name)
    bad: set[int] = set()
    for image in _unique(content.images, "image", file, problems):
        record = f"image {image.id}"
        if not check_file_name(image.file_name, problems=problems, file=file, record=record):
            bad.add(image.id)
            continue
        found = finder.find(image.file_name)
        fault = None
        if found is None:
            fault = f"image file {image.file_name!r} does not exist"
        elif found in seen:
            fault = f"file_name {image.file_name!r} appears twice"
        elif image.width <= 0 or image.height <= 0:
            fault = f"image size {image.width}x{image.height} is not possible"
        if fault is not None or found is None:
            problems.error(fault or "", file=file, record=record, remedy=_SKIP)
            bad.add(image.id)
            continue
        seen.add(found)
        row_of[image.id] = len(rows.file_name)
        rows.file_name.append(found)
        rows.image_id.append(image.id)
        rows.size.append((image.width, image.height))
    kept: list[_Annotation] = []
    positions: list[int] = []
    for ann in _unique(content.annotations, "annotation", file, problems):
        record = f"annotation {ann.id}"
        if ann.image_id in bad:
            continue
        position = categories.get(ann.category_id)
        if ann.image_id not in row_of:
            problems.error(
                f"image_id {ann.image_id} is not in images", file=file, record=record, remedy=_SKIP
            )
        elif position is None:
            problems.error(
                f"category_id {ann.category_id} is not in categories",
                file=file,
                record=record,
                remedy=_SKIP,
            )
        elif isinstance(position, str):
            problems.error(
                f"unknown category {position!r}",
                file=file,
                record=record,
                remedy=did_you_mean(position, space.names),
            )
        else:
            kept.append(ann)
            positions.append(position)
    rows.boxes.append(_boxes(kept, positions, row_of, rows, file, space, problems))


def _boxes(
    anns: list[_Annotation],
    positions: list[int],
    row_of: dict[int, int],
    rows: _Rows,
    file: Path,
    space: LabelSpace,
    problems: Problems,
) -> Boxes:
    image = np.array([row_of[a.image_id] for a in anns], dtype=np.int32)
    before = np.array([a.bbox for a in anns], dtype=np.float64).reshape(-1, 4)
    sizes = np.array(rows.size, dtype=np.int32).reshape(-1, 2)
    keep, xywh = clean_boxes(
        image,
        before,
        sizes[:, 0],
        sizes[:, 1],
        problems,
        file,
        lambda row: f"annotation {anns[row].id}",
    )
    area = np.array(
        [a.bbox[2] * a.bbox[3] if a.area is None else a.area for a in anns], dtype=np.float64
    )
    category = np.array(positions, dtype=np.int32)
    ignore = np.array([a.iscrowd != 0 for a in anns], dtype=bool) | space.ignore_mask[category]
    return make_boxes(
        image[keep],
        xywh[keep],
        category[keep],
        ignore=ignore[keep],
        id=np.array([a.id for a in anns], dtype=np.int64)[keep],
        area=clipped_area(area, before, xywh)[keep],
    )


def _read_file(file: Path, problems: Problems) -> _File:
    data = read_file(file, remedy=_REMEDY)
    try:
        with collector_paused():
            return msgspec.json.decode(data, type=_File)
    except msgspec.MsgspecError:
        content = parse_json(data, file)
    if not isinstance(content, dict):
        raise DataError("is not a COCO file", file=file, remedy=_REMEDY)

    def records(key: str, type: type[T]) -> list[T]:
        values: Any = content.get(key)
        if not isinstance(values, list):
            raise DataError(f"has no list `{key}`", file=file, remedy="Download it again.")
        found = (
            convert_record(v, type, path=file, record=f"{key}[{i}]", problems=problems)
            for i, v in enumerate(values)
        )
        return [v for v in found if v is not None]

    return _File(
        records("images", _Image),
        records("annotations", _Annotation),
        records("categories", _Category),
    )


def _unique(items: list[T], what: str, file: Path, problems: Problems) -> Iterator[T]:
    seen: set[int] = set()
    for item in items:
        number: int = item.id  # type: ignore[attr-defined]
        if number in seen:
            problems.error(
                f"{what} id {number} appears twice",
                file=file,
                record=f"{what} {number}",
                remedy=_SKIP,
            )
            continue
        seen.add(number)
        yield item


def _categories(
    items: list[_Category], file: Path, space: LabelSpace, problems: Problems
) -> dict[int, int | str]:
    """Category id of the file to position, or to its name where the label space lacks it."""
    table: dict[int, int | str] = {}
    for item in _unique(items, "category", file, problems):
        position = space.get(item.name)
        table[item.id] = item.name if position is None else position
    return table
