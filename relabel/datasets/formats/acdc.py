"""ACDC: ``rgb_anon/{condition}/{split}/`` images with COCO JSON detection labels.

The labels are one file per condition, ``gt_detection/{condition}/``
``instancesonly_{condition}_{split}_gt_detection.json``, or one file for all conditions,
``gt_detection/instancesonly_{split}_gt_detection.json``: both are read, all conditions become one
dataset. Category ids are read from each file's ``categories`` and matched to the label space by
name. Image and annotation ids are those of the files where they are unique over all of them, and
are renumbered otherwise.

Source: Sakaridis et al., ACDC, ICCV 2021, and its published file layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from relabel.datasets.dataset import Boxes, DetectionDataset, Images, make_boxes
from relabel.datasets.formats.checks import SKIP, ImageRows, check_file_name, checked_boxes
from relabel.datasets.formats.records import collector_paused, convert_record, parse_json, read_file
from relabel.datasets.labelspace import LabelSpace, did_you_mean
from relabel.errors import DataError, Problems

CONDITIONS = ("fog", "night", "rain", "snow")
_TRUTH, _IMAGES = "gt_detection", "rgb_anon"
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
    rows, image_id, parts = ImageRows(problems), [], []
    for file in files:
        with problems.catching(file):
            content = _read_file(file, problems)
            row_of = _images(content, file, finder, rows, image_id, problems)
            parts.append(_boxes(content, file, row_of, rows.images(), space, problems))
    images = replace(rows.images(), id=_unique_ids(image_id))
    boxes = Boxes.concatenate(parts) if parts else make_boxes([], [], [])
    boxes = replace(boxes, id=_unique_ids(boxes.id)).sorted_by_image()
    return DetectionDataset(name, space, images, boxes, path)


def _unique_ids(ids: Any) -> np.ndarray:
    ids = np.array(ids, dtype=np.int64)
    return ids if len(np.unique(ids)) == len(ids) else np.arange(1, len(ids) + 1)


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


def _images(
    content: _File,
    file: Path,
    finder: _Finder,
    rows: ImageRows,
    image_id: list[int],
    problems: Problems,
) -> dict[int, int | None]:
    """Add the images of one file; returns the row of each id, None where it is left out."""
    row_of: dict[int, int | None] = {}
    for image in _unique(content.images, "image", file, problems):
        row_of[image.id] = None
        record = f"image {image.id}"
        if not check_file_name(image.file_name, problems=problems, file=file, record=record):
            continue
        found = finder.find(image.file_name)
        if found is None:
            what = f"image file {image.file_name!r} does not exist"
            problems.error(what, file=file, record=record, remedy=SKIP)
            continue
        row_of[image.id] = rows.add(found, (image.width, image.height), file=file, record=record)
        if row_of[image.id] is not None:
            image_id.append(image.id)
    return row_of


def _boxes(
    content: _File,
    file: Path,
    row_of: dict[int, int | None],
    images: Images,
    space: LabelSpace,
    problems: Problems,
) -> Boxes:
    """The boxes of one file, whose images have the rows given."""
    names = {c.id: c.name for c in _unique(content.categories, "category", file, problems)}
    anns: list[_Annotation] = []
    image: list[int] = []
    category: list[int] = []
    for ann in _unique(content.annotations, "annotation", file, problems):
        row, name = row_of.get(ann.image_id), names.get(ann.category_id)
        position = None if name is None else space.get(name)
        fault, remedy = None, SKIP
        if ann.image_id not in row_of:
            fault = f"image_id {ann.image_id} is not in images"
        elif row is not None and name is None:
            fault = f"category_id {ann.category_id} is not in categories"
        elif row is not None and name is not None and position is None:
            fault, remedy = f"unknown category {name!r}", did_you_mean(name, space.names)
        if fault is not None:
            problems.error(fault, file=file, record=f"annotation {ann.id}", remedy=remedy)
        elif row is not None and position is not None:
            anns.append(ann)
            image.append(row)
            category.append(position)
    return checked_boxes(
        image,
        [a.bbox for a in anns],
        category,
        images,
        space,
        problems,
        file,
        lambda i: f"annotation {anns[i].id}",
        ignore=[a.iscrowd != 0 for a in anns],
        area=[a.bbox[2] * a.bbox[3] if a.area is None else a.area for a in anns],
        id=np.array([a.id for a in anns], dtype=np.int64),
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
            twice = f"{what} id {number} appears twice"
            problems.error(twice, file=file, record=f"{what} {number}", remedy=SKIP)
            continue
        seen.add(number)
        yield item
