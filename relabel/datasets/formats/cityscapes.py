"""Cityscapes: ``leftImg8bit/{split}/{city}/`` images and ``gtFine/{split}/{city}/`` annotations.

The box of an object is its visible extent. It is read from ``instanceIds.png``, where every pixel
holds ``label id * 1000 + instance`` or, for a group of objects, the bare label id.
Where that file is absent the polygons are drawn in file order (nearer objects come later) into
the same kind of map. Each connected region of a group becomes one ignore box of its class: one
box around all groups of a class could cover half of the image. Caravans and trailers, which the
benchmark does not evaluate, are ignore boxes too.

Source: Cordts et al., The Cityscapes Dataset, CVPR 2016, and its published file layout.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.box_checks import checked_boxes, numbered_images
from relabel.datasets.formats.cityscapes_maps import (
    FIRST_BOXED,
    LABELS,
    LAST_LABEL,
    MapBoxes,
    png_boxes,
    polygon_boxes,
)
from relabel.datasets.formats.pairing import check_pairing
from relabel.datasets.formats.splits import find_split, split_kind, split_names
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.pixels.location import image_size
from relabel.errors import DataError, Problem, Problems
from relabel.files.opening import open_file
from relabel.files.walk import is_hidden, walk_files
from relabel.geometry import xyxy_to_xywh
from relabel.workspace.cores import reading_threads

_IMAGE_SUFFIX = "_leftImg8bit.png"
_PNG_END = b"IEND\xaeB`\x82"


@dataclass(frozen=True)
class _Frame:
    """The files of one image; ``image`` is None where only annotations were downloaded."""

    file_name: str
    image: Path | None
    annotation: Path  # path and name up to "instanceIds.png" or "polygons.json"


def read(
    path: Path,
    *,
    name: str,
    split: str | None,
    problems: Problems,
    space: LabelSpace | None = None,
    annotations: str | None = None,
    workers: int | None = None,
) -> DetectionDataset:
    """Read one split of Cityscapes, all cities.

    Args:
        path: the folder that holds ``leftImg8bit/`` and ``gtFine/``.
        split: ``train`` (default), ``val`` or ``test``, whose published labels are empty dummies.
        annotations: the annotation folder, default ``gtFine``; ``gtCoarse`` has the same form.
        workers: threads that decode annotation images; default one per core, at most 16.

    Raises:
        DataError: files are missing, damaged or contradict each other.
    """
    kind = annotations or "gtFine"
    space = space or LabelSpace.load("cityscapes")
    split = _split_folder(path, kind, split or "train")
    frames = _frames(path, kind, split, problems)
    if split_kind(split) == "test":
        problems.warning(
            "the published test labels are dummies: these images are not free of objects",
            file=path / kind / split,
        )
    workers = workers or reading_threads()
    pool = ThreadPoolExecutor(workers)
    kept: list[_Frame] = []
    contents: list[MapBoxes] = []
    try:
        results = pool.map(lambda frame: _read_frame(frame, problems.skip_bad), frames)
        for frame, (content, found) in zip(frames, results, strict=True):
            problems.found.extend(found)
            if content is not None:
                kept.append(frame)
                contents.append(content)
    finally:
        pool.shutdown(cancel_futures=True)
    return _assemble(path, name, space, kept, contents, problems)


def _assemble(
    path: Path,
    name: str,
    space: LabelSpace,
    frames: list[_Frame],
    contents: list[MapBoxes],
    problems: Problems,
) -> DetectionDataset:
    images = numbered_images([f.file_name for f in frames], [c.size for c in contents])
    image = np.repeat(np.arange(len(frames)), [len(c.label) for c in contents])
    xyxy = np.concatenate([np.zeros((0, 4)), *(c.xyxy for c in contents)])
    label = np.concatenate([np.zeros(0, np.int64), *(c.label for c in contents)])
    group = np.concatenate([np.zeros(0, bool), *(c.group for c in contents)])

    names = {i: name for name, i in LABELS.items()}
    position = np.full(LAST_LABEL + 1, -1)
    for i in range(FIRST_BOXED, LAST_LABEL + 1):
        found = space.get(names[i])
        position[i] = -1 if found is None else found
    category = position[label]
    known = category >= 0
    problems.count(f"of classes not in label space {space.name!r}: left out", int((~known).sum()))
    image, category, group = image[known], category[known], group[known]
    boxes = checked_boxes(
        image,
        xyxy_to_xywh(xyxy[known]),
        category,
        images,
        space,
        problems,
        path,
        lambda row: frames[image[row]].file_name,
        ignore=group,
    )
    return DetectionDataset(name, space, images, boxes, path)


def _split_folder(path: Path, kind: str, split: str) -> str:
    """The folder of the split, which may go by another of its names.

    Raises:
        DataError: there is none.
    """
    known = [p.name for p in (path / kind).glob("*") if p.is_dir() and not is_hidden(p.name)]
    try:
        return find_split(split, known, file=path)
    except DataError as error:
        raise DataError(
            f"no {kind}/{split} folder",
            file=path,
            remedy=f"Splits here: {', '.join(sorted(known))}."
            if known
            else "Point at the folder that holds leftImg8bit/ and gtFine/.",
        ) from error


def _frames(path: Path, kind: str, split: str, problems: Problems) -> list[_Frame]:
    truth_root = path / kind / split
    suffix = f"_{Path(kind).name}_"
    truth: dict[str, str] = {}
    for file in walk_files(truth_root, {".png", ".json"}):
        for ending in ("instanceIds.png", "polygons.json"):
            if file.endswith(suffix + ending):
                truth.setdefault(file[: -len(suffix + ending)], ending)

    def annotation(key: str) -> Path:
        return truth_root / (key + suffix)

    image_root = path / "leftImg8bit"
    if not image_root.is_dir():
        problems.warning("no leftImg8bit folder: annotations are read without images", file=path)
        names = {key: f"leftImg8bit/{split}/{key}{_IMAGE_SUFFIX}" for key in truth}
        frames = [_Frame(names[key], None, annotation(key)) for key in sorted(truth)]
    else:
        folder = next((s for s in split_names(split) if (image_root / s).is_dir()), split)
        image_root /= folder
        found = walk_files(image_root, {".png"}) if image_root.is_dir() else []
        images = [f.removesuffix(_IMAGE_SUFFIX) for f in found if f.endswith(_IMAGE_SUFFIX)]
        names = {key: f"leftImg8bit/{folder}/{key}{_IMAGE_SUFFIX}" for key in (*images, *truth)}
        orphans = sorted(truth.keys() - set(images))
        # Each is an error of its own below, unless those are skipped and nothing would be left.
        check_pairing(
            paired=len(truth) - len(orphans),
            bare_images=[names[key] for key in images if key not in truth],
            orphan_labels=[f"{key}{suffix}{truth[key]}" for key in orphans],
            file=path,
            problems=Problems(),
            remedy=f"{kind}/{split} and leftImg8bit/{folder} have the same folders and names.",
        )
        for key in orphans:
            problems.error(
                f"has no image {names[key]}",
                file=f"{annotation(key)}{truth[key]}",
                remedy="Download leftImg8bit again, or leave it out with --skip-bad.",
            )
        frames = [_Frame(names[key], path / names[key], annotation(key)) for key in images]
    if not frames:
        raise DataError(
            "holds no Cityscapes images",
            file=image_root,
            remedy=f"It needs {{city}}/*{_IMAGE_SUFFIX} files.",
        )
    return frames


def _read_frame(frame: _Frame, skip_bad: bool) -> tuple[MapBoxes | None, list[Problem]]:
    # Runs in a thread: findings go into a collector of its own, merged in order by the caller.
    problems = Problems(skip_bad=skip_bad)
    content = None
    with problems.catching(""):
        content = _content(frame, problems)
    return content, problems.found


def _content(frame: _Frame, problems: Problems) -> MapBoxes:
    prefix = frame.annotation
    for ending, boxes_of in (("instanceIds.png", png_boxes), ("polygons.json", polygon_boxes)):
        source = prefix.with_name(prefix.name + ending)
        if source.exists():
            return boxes_of(source, partial(_check_image, frame.image, source), problems)
    raise DataError(
        f"has neither {prefix.name}instanceIds.png nor {prefix.name}polygons.json",
        file=frame.image,
        remedy=f"Download the annotations to {prefix.parent}, or use --skip-bad.",
    )


def _check_image(image: Path | None, source: Path, size: tuple[int, int]) -> None:
    if image is None:
        return
    found = image_size(str(image))
    if found != size:
        raise DataError(
            f"is {found[0]}x{found[1]}, its annotation {source.name} is {size[0]}x{size[1]}",
            file=image,
            remedy="Use the images and annotations of the same release.",
        )
    with open_file(image) as stream:
        stream.seek(-min(64, image.stat().st_size), os.SEEK_END)
        if _PNG_END not in stream.read():
            raise DataError("image is cut off", file=image, remedy="Download the file again.")
