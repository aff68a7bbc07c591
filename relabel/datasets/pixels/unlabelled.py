"""A folder of photos that nobody has labelled, as a dataset without boxes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from relabel.datasets.dataset import DetectionDataset, Images, make_boxes
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.pixels.image_folder import IMAGE_SUFFIXES
from relabel.datasets.pixels.location import image_location, image_size, images_at
from relabel.errors import DataError, Problems
from relabel.files.remote import is_url, list_remote
from relabel.files.walk import walk_files, wanted
from relabel.workspace.cores import reading_threads


def read_unlabelled(
    root: Path | str, name: str, problems: Problems, workers: int = -1
) -> DetectionDataset:
    """All images below a folder or a URL, in the order of their paths, with no class and no box.

    Sizes come from the images' headers.

    Args:
        problems: images whose header cannot be read are left out where bad records are skipped.
        workers: number of threads; -1: one per core.

    Raises:
        DataError: no image, or one that cannot be read and problems are not to be skipped.
    """
    distant = is_url(root)
    if distant:
        root = str(root).rstrip("/")
        names = sorted(name for name in list_remote(root) if wanted(name, IMAGE_SUFFIXES))
    else:
        names = sorted(walk_files(root, IMAGE_SUFFIXES))
    if not names:
        raise DataError(
            "holds no images",
            file=root,
            remedy=f"Known are {', '.join(sorted(IMAGE_SUFFIXES))} files, also in folders below.",
        )

    def size_of(name: str) -> tuple[int, int] | DataError:
        try:
            return image_size(f"{root}/{name}")
        except DataError as error:
            return error

    with ThreadPoolExecutor(max(1, reading_threads(workers, waiting=distant))) as pool:
        found = dict(zip(names, pool.map(size_of, names), strict=True))
    sizes = {}
    for name_of, size in found.items():
        if isinstance(size, DataError):
            problems.error(size.message, file=f"{root}/{name_of}", remedy=size.remedy)
        else:
            sizes[name_of] = size
    width, height = np.array(list(sizes.values()), np.int32).reshape(-1, 2).T
    folder = None if distant else Path(root)
    dataset = DetectionDataset(
        name=name,
        space=LabelSpace(name, ()),
        images=Images(np.arange(1, len(sizes) + 1, dtype=np.int64), list(sizes), width, height),
        boxes=make_boxes([], np.zeros((0, 4)), []),
        root=folder or Path(),
        source=folder,
    )
    return images_at(dataset, str(root)) if distant else dataset


def without_images_of(
    images: DetectionDataset, others: Iterable[DetectionDataset]
) -> DetectionDataset:
    """The images that no other dataset has, told by where their pixels are stored."""
    taken = {_place(d, row) for d in others for row in range(len(d))}
    left = [row for row in range(len(images)) if _place(images, row) not in taken]
    return images if len(left) == len(images) else images.subset(left)


def _place(dataset: DetectionDataset, row: int) -> str:
    # Links are not followed: a million images would be a million looks at the disk.
    return os.path.abspath(image_location(dataset, row))  # noqa: PTH100
