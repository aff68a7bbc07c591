"""From one format to another, under a map of names where one is given."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.box_checks import EMPTY, LEFT_OUT, OUTSIDE
from relabel.datasets.formats.registry import format_info, write_dataset
from relabel.datasets.namemap import NameMap
from relabel.datasets.pixels.location import containing_file, image_location, is_packed
from relabel.datasets.pixels.placing import CopyImages
from relabel.datasets.pixels.sizes import LOOK, check_sizes
from relabel.errors import DataError, Problems

Placement = Literal["auto", "none", "link", "copy"]
# Formats whose readers look for images at a fixed place beside the labels.
_NEEDS_IMAGES = ("voc", "yolo")


@dataclass
class Conversion:
    """What `convert` wrote.

    Attributes:
        files: the files written, the main one first.
        dataset: the dataset as it was to be written.
        boxes: how many of its boxes were written.
        notes: what the user should know about it.
    """

    files: list[Path]
    dataset: DetectionDataset
    boxes: int
    notes: list[str] = field(default_factory=list)


def convert(
    dataset: DetectionDataset,
    format: str,
    out: Path,
    *,
    split: str = "train",
    name_map: NameMap | None = None,
    images: Placement = "auto",
    extract_images: bool = False,
    problems: Problems | None = None,
) -> Conversion:
    """Write a dataset in another format.

    Args:
        name_map: category names to write instead; every category with boxes must be in it.
        images: whether images are put beside the labels. ``auto`` links those that exist for
            formats that need them there (VOC, YOLO) and leaves them where they are for others.
        extract_images: put images that lie inside records or archives beside the labels.
        problems: receives what cannot be expressed, and of images that are missing.

    Raises:
        ConfigError: unknown format, or categories that the map does not name.
        DataError: an image to place is missing, no image, of another size than stated (see
            `check_sizes`) or lies in a folder that only the file names, or the output cannot be
            written.
    """
    info = format_info(format)
    problems = Problems() if problems is None else problems
    notes: list[str] = []
    if name_map is not None:
        unused = name_map.unused(dataset.space)
        if unused:
            notes.append(f"the map names what the dataset does not have: {', '.join(unused)}")
        dataset = name_map.apply(dataset)

    packed = len(dataset) > 0 and is_packed(image_location(dataset, 0))
    mode: CopyImages = "none" if images == "auto" else images
    place_problems = problems
    if images == "auto" and info.name in _NEEDS_IMAGES:
        mode = "auto"
        place_problems = Problems(skip_bad=True, counts=problems.counts)
    elif extract_images and packed and mode == "none":
        mode = "copy"
    if dataset.outside and mode != "none" and not packed:
        folder = dataset.root.resolve()
        raise DataError(
            f"the images' folder {folder} leads out of its own; images are not placed from there "
            "on a file's word",
            file=dataset.name,
            remedy=f"If it is meant, give it: --root {folder}. Labels alone: --images none.",
        )
    if mode != "none" or (packed and info.name == "fiftyone"):
        # What is put there is what a reader of the new dataset takes sizes from.
        dataset = check_sizes(dataset, problems, most=LOOK, damaged=True, packed=True)
    if mode in ("link", "copy") and problems.skip_bad:
        dataset = _with_images(dataset, problems)
    if packed and mode == "none" and info.name != "fiftyone":
        notes.append(
            f"the images lie inside other files ({containing_file(image_location(dataset, 0))}); "
            "--extract-images puts them beside the labels"
        )
    dropped = _dropped(problems)
    files = write_dataset(
        dataset, info.name, out, split=split, copy_images=mode, problems=place_problems
    )
    missing = 0
    if place_problems is not problems:
        missing = len(place_problems.errors)
        problems.found += [p for p in place_problems.found if p.severity == "warning"]
    if missing:
        notes.append(f"{missing} of {len(dataset)} images were not found and not linked")
    boxes = len(dataset.boxes) - (_dropped(problems) - dropped)
    return Conversion(files, dataset, boxes, notes)


def _with_images(dataset: DetectionDataset, problems: Problems) -> DetectionDataset:
    """The images that are there: labels of others would be written, and no reader take them."""
    places = [image_location(dataset, row) for row in range(len(dataset))]
    there = np.array([is_packed(place) or os.path.isfile(place) for place in places], bool)  # noqa: PTH113
    for row in np.flatnonzero(~there).tolist():
        problems.error(
            "image file does not exist",
            file=places[row],
            record=f"image {dataset.images.id[row]}",
            remedy="Check the dataset's root, or convert with --images none.",
        )
    return dataset if there.all() else dataset.subset(np.flatnonzero(there))


def _dropped(problems: Problems) -> int:
    """How many boxes were told to be left out."""
    return sum(problems.counts.get(kind, 0) for kind in (EMPTY, OUTSIDE, LEFT_OUT))
