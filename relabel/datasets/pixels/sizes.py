"""Whether images have the sizes that their annotations state, before boxes are believed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.pixels.location import (
    SizeError,
    check_size,
    image_location,
    is_packed,
    stored_bytes,
)
from relabel.errors import DataError, Problems
from relabel.workspace.cores import reading_threads

# A header takes 0.1 ms from a local disk, some ms from a distant one.
GLANCE, LOOK = 400, 5000
_WORTH_THREADS = 64


def check_sizes(
    dataset: DetectionDataset,
    problems: Problems,
    *,
    most: int,
    damaged: bool = False,
    packed: bool = False,
) -> DetectionDataset:
    """Compare stated sizes with those in the images' headers.

    Up to ``most`` images are looked at: all, or that many spread evenly over the dataset. Once one
    of them is wrong and bad records are skipped, all images are looked at. Images that are not
    there are not, nor those inside archives and record files, unless they are taken out of them
    (``packed``): else their pixels are compared when they are decoded.

    Args:
        most: `GLANCE` where only labels are read, `LOOK` before images are used.
        damaged: report images whose header cannot be read too.

    Returns:
        The dataset without the images reported.

    Raises:
        DataError: an image has another size, and problems are not to be skipped; it counts those
            found.
    """
    rows = np.arange(len(dataset))
    if len(rows) > most:
        rows = np.linspace(0, len(dataset) - 1, most).astype(np.int64)
    found = _wrong(dataset, rows, damaged, packed)
    if not found:
        return dataset
    if not problems.skip_bad:
        first = next(iter(found.values()))
        more = f" (and {len(found) - 1} more of {len(rows)} images looked at)"
        raise DataError(
            first.message + (more if len(found) > 1 else ""),
            file=first.file,
            record=first.record,
            remedy=first.remedy,
        )
    if len(rows) < len(dataset):
        found = _wrong(dataset, np.arange(len(dataset)), damaged, packed)
    for row, error in found.items():
        problems.report(error, image_location(dataset, row))
    return dataset.subset([row for row in range(len(dataset)) if row not in found])


def _wrong(
    dataset: DetectionDataset, rows: np.ndarray, damaged: bool, packed: bool
) -> dict[int, DataError]:
    """What is wrong with images, by row."""

    def look(row: int) -> DataError | None:
        location = image_location(dataset, row)
        if not packed if is_packed(location) else stored_bytes(location) < 0:
            return None
        try:
            check_size(dataset, row)
        except DataError as error:
            return error if damaged or isinstance(error, SizeError) else None
        return None

    order = rows.tolist()
    if len(order) <= _WORTH_THREADS:
        faults = list(map(look, order))
    else:
        with ThreadPoolExecutor(reading_threads()) as pool:
            faults = list(pool.map(look, order, chunksize=16))
    return {row: error for row, error in zip(order, faults, strict=True) if error is not None}
