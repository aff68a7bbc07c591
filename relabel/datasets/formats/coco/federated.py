"""LVIS's fields per image as (image, class) pairs; see `relabel.datasets.federated`.

Shape legend: ``I`` images, ``C`` classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from relabel.datasets.federated import FEDERATED_FIELDS, category_ids, federated_columns
from relabel.datasets.formats.coco.read import positions


def federated_cells(
    extra: Sequence[bytes | None] | None,
    image_ids: np.ndarray,
    class_ids: np.ndarray,
    file: str,
) -> tuple[np.ndarray, np.ndarray] | None:
    """The classes known to be absent, and those whose objects were not all boxed.

    Args:
        extra: further fields of I images.
        image_ids: int64 [I], for messages.
        class_ids: int64 [C], the category id of each class; other ids do not count.
        file: for messages.

    Returns:
        Two int64 arrays of ``image * C + class``, ascending; None where no image has either field.

    Raises:
        DataError: a field is no list of ids.
    """
    columns = federated_columns(extra)
    if columns is None:
        return None
    cells = []
    for name, values in zip(FEDERATED_FIELDS, columns, strict=True):
        image: list[int] = []
        ids: list[int] = []
        for row, value in enumerate(values):
            found = category_ids(value, name, file, f"image {image_ids[row]}")
            ids += found
            image += [row] * len(found)
        place, known = positions(np.array(ids, np.int64), class_ids)
        rows = np.array(image, np.int64)
        cells.append(np.unique(rows[known] * len(class_ids) + place[known]))
    return cells[0], cells[1]
