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

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from relabel.datasets.dataset import Boxes, DetectionDataset, Images, make_boxes
from relabel.datasets.formats.box_checks import SKIP, ImageRows, check_file_name, checked_boxes
from relabel.datasets.formats.coco.columns import CocoFile, ImageColumns
from relabel.datasets.formats.coco.decode import decode
from relabel.datasets.formats.coco.read import (
    first_of_each,
    label_space,
    located,
    names_from_url,
)
from relabel.datasets.formats.pairing import check_pairing
from relabel.datasets.formats.records import collector_paused
from relabel.datasets.formats.splits import find_split, split_names
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.namemap import into_space
from relabel.errors import DataError, Problems
from relabel.files.opening import read_bytes
from relabel.files.paths import posix
from relabel.files.walk import is_hidden, walk_files

CONDITIONS = ("fog", "night", "rain", "snow")
_TRUTH, _IMAGES = "gt_detection", "rgb_anon"
_REMEDY = "Point at the folder that holds rgb_anon/ and gt_detection/."


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
    split = _split_of(path, split or "train")
    files = _label_files(path, split, problems) if annotations is None else [path / annotations]
    finder = _Finder(path, split)
    rows, image_id, parts = ImageRows(problems), [], []
    lost: list[str] = []
    for file in files:
        with problems.catching(file), collector_paused():
            content = decode(file, problems, read_bytes(file, remedy=_REMEDY))
            ids, row_of = _images(content.images, file, finder, rows, lost, problems)
            image_id += ids[row_of >= 0].tolist()
            parts.append(_boxes(content, file, ids, row_of, rows.images(), space, problems))
    if finder.have_images and parts:
        check_pairing(
            paired=len(rows.name),
            bare_images=sorted(finder.names.difference(rows.name)),
            orphan_labels=lost,
            file=path / _IMAGES,
            problems=problems,
            remedy="file_name of the label files names the images below rgb_anon/.",
            background=False,
        )
    images = replace(rows.images(), id=_unique_ids(image_id))
    boxes = Boxes.concatenate(parts) if parts else make_boxes([], [], [])
    boxes = replace(boxes, id=_unique_ids(boxes.id)).sorted_by_image()
    return DetectionDataset(name, space, images, boxes, path)


def _unique_ids(ids: Any) -> np.ndarray:
    ids = np.array(ids, dtype=np.int64)
    return ids if len(np.unique(ids)) == len(ids) else np.arange(1, len(ids) + 1)


def _split_of(path: Path, split: str) -> str:
    """The split as folders and label files call it; as it was given where none does."""
    known = {p.name for p in (path / _IMAGES).glob("*/*") if p.is_dir()}
    for file in walk_files(path / _TRUTH, {".json"}) if (path / _TRUTH).is_dir() else ():
        known |= {name for name in split_names(split) if f"_{name}_" in file}
    try:
        return find_split(split, {name for name in known if not is_hidden(name)}, file=path)
    except DataError:
        return split


def _label_files(path: Path, split: str, problems: Problems) -> list[Path]:
    truth = path / _TRUTH
    files: list[Path] = []
    missing: list[Path] = []
    for condition in CONDITIONS:
        file_name = f"instancesonly_{condition}_{split}_gt_detection.json"
        options = [truth / condition / file_name, truth / file_name]
        inside = sorted((truth / condition).rglob(f"*{split}*gt_detection*.json"))
        options += [p for p in inside if not is_hidden(p.name)]
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
        known = {p.name for p in (path / _IMAGES).glob("*/*") if p.is_dir()}
        raise DataError(
            f"holds no labels of split {split!r}",
            file=truth,
            remedy=f"Splits of images: {', '.join(sorted(known))}." if known else _REMEDY,
        )
    return files


class _Finder:
    """File names under the root for the names in label files, which differ in their folders."""

    def __init__(self, root: Path, split: str) -> None:
        self.root = root
        self.have_images = (root / _IMAGES).is_dir()
        self.all: frozenset[str] = frozenset()
        self.names: set[str] = set()
        self.by_name: dict[str, list[str]] = defaultdict(list)
        if self.have_images:
            found = walk_files(root / _IMAGES, {".png", ".jpg", ".jpeg"})
            self.all = frozenset(f"{_IMAGES}/{name}" for name in found)
        for name in sorted(self.all):
            parts = name.split("/")
            if len(parts) > 3 and parts[2] == split and Path(name).stem.endswith("_rgb_anon"):
                self.names.add(name)
                self.by_name[parts[-1]].append(name)

    def find(self, file_name: str, file: Path) -> str | None:
        """Path relative to the root, or None where images are there but not this one.

        Raises:
            DataError: images of several conditions go by the name.
        """
        title = file_name.removeprefix("./")
        for option in (title, f"{_IMAGES}/{title}"):
            if option in self.all:
                return option
        if self.have_images and (self.root / title).is_file():
            return title
        if not self.have_images:
            return title if title.startswith(f"{_IMAGES}/") else f"{_IMAGES}/{title}"
        found = self.by_name.get(title.rsplit("/", 1)[-1], [])
        if len(found) > 1:
            # A label file is of one condition, as its name or folder tells.
            here = f"{file.parent.name}_{file.name}"
            found = [name for name in found if name.split("/")[1] in here] or found
        if len(found) > 1:
            raise DataError(
                f"image {file_name!r} may be {found[0]} or {found[1]}",
                remedy="Name it with its folders.",
            )
        return found[0] if found else None


def _images(
    columns: ImageColumns,
    file: Path,
    finder: _Finder,
    rows: ImageRows,
    lost: list[str],
    problems: Problems,
) -> tuple[np.ndarray, np.ndarray]:
    """Add the images of one file; returns their ids, and the row of each, -1 if it is left out."""
    names_from_url(columns, file, problems)
    first = np.flatnonzero(first_of_each(columns.id, "image", file, problems))
    row_of = np.full(len(columns.id), -1)
    for i in first.tolist():
        title, record = columns.file_name[i], f"image {columns.id[i]}"
        if title is None:
            continue
        title = posix(title)
        if not check_file_name(title, problems=problems, file=file, record=record):
            continue
        try:
            found = finder.find(title, file)
        except DataError as error:
            problems.report(error, file, record)
            continue
        if found is None:
            lost.append(title)
            what = f"image file {title!r} does not exist"
            problems.error(what, file=file, record=record, remedy=SKIP)
            continue
        size = int(columns.width[i]), int(columns.height[i])
        row = rows.add(found, size, file=file, record=record)
        row_of[i] = -1 if row is None else row
    return columns.id[first], row_of[first]


def _boxes(
    content: CocoFile,
    file: Path,
    image_ids: np.ndarray,
    row_of: np.ndarray,
    images: Images,
    space: LabelSpace,
    problems: Problems,
) -> Boxes:
    """The boxes of one file, whose images have the rows given."""
    columns = content.annotations
    own, _ = label_space(content.categories, file.stem, file, problems)
    ids, keep, image, category = located(columns, image_ids, own.ids, file, problems)
    if len(image_ids):
        image = row_of[image]
    keep &= image >= 0
    category = into_space(space, own, category, keep, file, problems)
    kept = np.flatnonzero(keep & (category >= 0))
    area = np.where(np.isnan(columns.area), columns.xywh[:, 2] * columns.xywh[:, 3], columns.area)
    return checked_boxes(
        image[kept],
        columns.xywh[kept],
        category[kept],
        images,
        space,
        problems,
        file,
        lambda i: f"annotation {ids[kept[i]]}",
        ignore=columns.crowd[kept],
        area=area[kept],
        id=ids[kept],
    )
